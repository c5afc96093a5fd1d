"""Running git so that nothing but its arguments decides what it does, and its errors come back as ours.

It sees nothing of the machine's or the user's configuration, asks nobody for a password, runs no hook, and fetches over
http(s), ssh, git and file only. Credentials reach it through its environment, never through its arguments, which every
process on the machine can read.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import re
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from corpus.errors import InputError, storage_error
from corpus.repository import GITHUB, credentials, public_url

__all__ = ["git_environment", "run_git"]

# What no further attempt changes. Everything else git says may be the network's fault and is tried again.
_PERMANENT = re.compile(
    r"not found|does not exist|could not read Username|could not read Password|Authentication failed|Permission denied"
    r"|access denied or repository not exported|not appear to be a git repository|transport '.*' not allowed"
    r"|dumb http transport|unadvertised object|not our ref|returned error: (?:401|403|404|410|451)",
    re.IGNORECASE,
)
_DISK = {"No space left on device": errno.ENOSPC, "Disk quota exceeded": errno.EDQUOT, "Read-only file system": errno.EROFS}


def git_environment(url: str | None = None, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment git runs in: nothing of the user's git, no prompts, `url` as origin, and the credentials for it.

    GITHUB_TOKEN goes to https://github.com/ and nowhere else; a password in the URL goes to that URL's host.
    """
    keep = {"GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH"}
    clean = {k: v for k, v in environ.items() if (not k.startswith("GIT_") or k in keep) and k != "GITHUB_TOKEN"}
    settings = {
        "safe.directory": "*",
        "core.hooksPath": "/dev/null",
        "core.quotePath": "false",
        "protocol.version": "2",
        "gc.auto": "0",
        "maintenance.auto": "false",
        "credential.helper": "",
        "http.lowSpeedLimit": "1000",
        "http.lowSpeedTime": "300",
    }
    clean |= {
        "LC_ALL": "C",  # messages are matched and recorded
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_SYSTEM": "/dev/null",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",
        "SSH_ASKPASS": "",
        "GIT_ALLOW_PROTOCOL": "http:https:ssh:git:file",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_OPTIONAL_LOCKS": "0",
    }
    clean.setdefault("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ConnectTimeout=30")
    secret = _secret(url, environ)
    if url is not None:
        settings["remote.origin.url"] = public_url(url)
    if url is not None and secret is not None:
        parts = urlsplit(public_url(url))
        settings[f"http.{parts.scheme}://{parts.netloc}/.extraHeader"] = "Authorization: Basic " + _basic(secret)
    clean["GIT_CONFIG_COUNT"] = str(len(settings))
    for i, (key, value) in enumerate(settings.items()):
        clean |= {f"GIT_CONFIG_KEY_{i}": key, f"GIT_CONFIG_VALUE_{i}": value}
    return clean


def _secret(url: str | None, environ: Mapping[str, str]) -> str | None:
    """The user:password for `url`."""
    if url is None:
        return None
    token = environ.get("GITHUB_TOKEN")
    return credentials(url) or (f"x-access-token:{token}" if token and url.startswith(GITHUB) else None)


def _basic(secret: str) -> str:
    return base64.b64encode(secret.encode("utf-8")).decode("ascii")


def run_git(
    arguments: list[str],
    *,
    git_dir: Path | None = None,
    url: str | None = None,
    folder: Path | None = None,
    timeout_s: float = 900.0,
) -> bytes:
    """stdout of a git command that ends well; InputError with the last lines of its stderr for one that does not.

    url: what it talks to, for the credentials. folder: the temporary one it writes in, left out of messages.
    InputError.details: reason; permanent, whether another attempt is pointless; status, git's own, unless time ran out.
    StorageError when the disk is full.
    On a time limit or an interrupt the whole process group goes: git's transports are children that outlive it.
    """
    where = [] if git_dir is None else ["--git-dir", str(git_dir.absolute())]
    process = subprocess.Popen(
        ["git", *where, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/" if folder is None else folder,
        env=git_environment(url),
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        late = f"git {arguments[0]} took more than {timeout_s:g} s (timeout_s)"
        raise InputError(late, reason="repository_failed", permanent=False) from None
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode == 0:
        return out
    said = _said(err, url, folder) or f"git {arguments[0]} ended with status {process.returncode} and said nothing"
    if folder is not None:
        for phrase, number in _DISK.items():
            if phrase in said and (full := storage_error(OSError(number, phrase), folder)) is not None:
                raise full  # every repository after this one would fail too
    final = _PERMANENT.search(said) is not None
    raise InputError(said, reason="repository_failed", permanent=final, status=process.returncode)


def _said(err: bytes, url: str | None, folder: Path | None) -> str:
    """The last lines of git's stderr, without secrets and without the name of a temporary folder."""
    text = "\n".join([line for line in err.decode("utf-8", "replace").splitlines() if line.strip()][-4:])[-600:]
    if (secret := _secret(url, os.environ)) is not None:
        for part in (secret, secret.partition(":")[2], _basic(secret)):
            text = text.replace(part, "***") if part else text
    return text.replace(str(folder), "<clone>") if folder is not None else text
