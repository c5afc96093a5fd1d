"""Getting a repository's files at a commit: one snapshot, and never a history with content.

    ls-remote  which commit the default branch is at
    fetch      that commit, --depth 1, without blobs over the size limit where the server can leave them out
    too new?   the history alone (no trees, no blobs) in windows that reach 1 month, 1 year, for ever before the cut-off
               → the newest commit before it → fetch of that commit; what it shares with the first is not sent again
    else       a server that gives out no commit by name is asked for the whole history since that commit

"The default branch at the cut-off" follows first parents: a side branch merged later was not on it. Naming commits instead of
branches keeps every command at two requests, so that each has a fair chance on a bad line, and each is tried again by itself.

Clones live in the system's temporary folder (TMPDIR moves it), are locked while in use, and are removed at the end; what a
killed run left behind is removed by the next.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import xxhash

from corpus.errors import InputError, storage_error
from corpus.git_process import run_git
from corpus.repository import public_url

__all__ = ["Fetch", "Snapshot", "cloned", "local", "newest_commit", "sweep"]

_PREFIX = "corpus-clone-"
_MONTH = 31 * 86400
_FOREVER = 2**31 - 1  # git's own "infinite depth"
_LAST_S = 60.0  # longest wait between attempts
_FETCH = ("--quiet", "--no-tags", "--no-write-fetch-head")


@dataclasses.dataclass(frozen=True)
class Fetch:
    """How to fetch. before: seconds since 1970; commits from then on do not count. max_bytes: blobs over it are not needed."""

    before: int | None = None
    max_bytes: int = 1 << 20
    attempts: int = 4
    backoff_s: float = 1.0
    timeout_s: float = 900.0


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A commit in a git folder. committed: seconds since 1970. branch: None for a detached HEAD."""

    git_dir: Path
    commit: str
    committed: int
    branch: str | None


# --- Commits -----------------------------------------------------------------------------------------------------------------


def newest_commit(git_dir: Path, start: str, before: int | None, timeout_s: float) -> tuple[str, int] | None:
    """(commit, its time) of `start`, or of the newest before `before` on its first-parent line; None without one."""
    # --before includes its own second.
    limit = [] if before is None else [f"--before=@{before - 1} +0000"]
    search = ["rev-list", "-1", "--first-parent", "--format=%ct", *limit, "--end-of-options", start, "--"]
    found = run_git(search, git_dir=git_dir, timeout_s=timeout_s).decode("ascii").split()
    return (found[1], int(found[2])) if found else None  # "commit <hash>\n<time>"


def _branch(git_dir: Path) -> str | None:
    """The branch HEAD names."""
    try:
        name = run_git(["symbolic-ref", "--quiet", "--short", "HEAD"], git_dir=git_dir)
    except InputError:
        return None
    return name.decode("utf-8", "replace").strip()


def local(folder: Path, before: int | None, timeout_s: float = 900.0) -> Snapshot:
    """The snapshot of a repository on this machine, work tree or bare; it is read where it is. Errors as of `cloned`."""
    git_dir = folder / ".git" if (folder / ".git").exists() else folder
    try:
        run_git(["rev-parse", "--quiet", "--verify", "HEAD^{commit}"], git_dir=git_dir, timeout_s=timeout_s)
    except InputError as error:
        if error.details.get("status") != 1:  # 1: a good repository without one
            raise
        raise InputError("HEAD names no commit", reason="repository_empty") from error
    if (found := newest_commit(git_dir, "HEAD", before, timeout_s)) is None:
        raise _too_new(before)
    return Snapshot(git_dir, *found, _branch(git_dir))


def _too_new(before: int | None) -> InputError:
    day = datetime.datetime.fromtimestamp(before or 0, datetime.UTC).isoformat()
    return InputError(f"no commit of the default branch is before {day}", reason="repository_too_new")


@contextlib.contextmanager
def cloned(url: str, fetch: Fetch) -> Iterator[Snapshot]:
    """The snapshot of a remote repository, on disk while the block runs.

    InputError with details.reason: repository_failed, repository_empty (no commit at all) or repository_too_new (none before
    the cut-off).
    """
    with _scratch() as folder:
        head, branch = _default_branch(url, folder, fetch)
        content = _bare(folder / "content", head)
        big = f"--filter=blob:limit={fetch.max_bytes + 1}"  # keeps blobs below it
        _remote(["fetch", *_FETCH, "--depth=1", big, "origin", head], url, folder, fetch, content)
        commit = newest_commit(content, head, None, fetch.timeout_s)
        assert commit is not None
        if fetch.before is not None and commit[1] >= fetch.before:
            commit = _before(url, folder, head, fetch)
            _fetch_older(commit, head, url, folder, content, big, fetch)
        # From here on a blob that was left out is missing, and is not fetched by git behind our back.
        for setting in (["--remove-section", "remote.origin"], ["--unset-all", "extensions.partialclone"]):
            with contextlib.suppress(InputError):  # which of the two is set depends on git's version
                run_git(["config", *setting], git_dir=content)
        yield Snapshot(content, *commit, branch)


def _default_branch(url: str, folder: Path, fetch: Fetch) -> tuple[str, str | None]:
    """(commit, name) of the branch the server's HEAD names."""
    branch = commit = None
    listed = _remote(["ls-remote", "--quiet", "--symref", "--", public_url(url), "HEAD"], url, folder, fetch)
    for line in listed.decode("utf-8", "replace").splitlines():
        value, _, name = line.partition("\t")
        if name == "HEAD" and value.startswith("ref: "):
            branch = value.removeprefix("ref: ").removeprefix("refs/heads/")
        elif name == "HEAD":
            commit = value
    if commit is None:
        raise InputError("the default branch has no commit", reason="repository_empty")
    return commit, branch


def _bare(git_dir: Path, head: str) -> Path:
    """An empty repository for hashes of the kind `head` is."""
    kind = "sha256" if len(head) == 64 else "sha1"
    run_git(["init", "--bare", "--quiet", "--template=", f"--object-format={kind}", str(git_dir)])
    return git_dir


def _before(url: str, folder: Path, head: str, fetch: Fetch) -> tuple[str, int]:
    """The newest commit before the cut-off, from a history without content: a few hundred bytes a commit."""
    assert fetch.before is not None
    history = _bare(folder / "history", head)
    windows = [f"--shallow-since=@{fetch.before - months * _MONTH} +0000" for months in (1, 12)]
    for reach in (*windows, f"--depth={_FOREVER}"):
        _remote(["fetch", *_FETCH, "--filter=tree:0", reach, "origin", head], url, folder, fetch, history)
        if (found := newest_commit(history, head, fetch.before, fetch.timeout_s)) is not None:
            shutil.rmtree(history, ignore_errors=True)
            return found
    raise _too_new(fetch.before)


def _fetch_older(commit: tuple[str, int], head: str, url: str, folder: Path, content: Path, big: str, fetch: Fetch) -> None:
    """The files of an earlier commit than `head` into `content`."""
    try:
        _remote(["fetch", *_FETCH, "--depth=1", big, "origin", commit[0]], url, folder, fetch, content)
    except InputError as error:
        if "not our ref" not in str(error) and "unadvertised object" not in str(error):
            raise
        since = f"--shallow-since=@{commit[1]} +0000"
        _remote(["fetch", *_FETCH, since, big, "origin", head], url, folder, fetch, content)


def _remote(arguments: list[str], url: str, folder: Path, fetch: Fetch, git_dir: Path | None = None) -> bytes:
    """A git command that talks to a server, tried again while that may help."""
    for attempt in range(1, fetch.attempts + 1):
        try:
            return run_git(arguments, git_dir=git_dir, url=url, folder=folder, timeout_s=fetch.timeout_s)
        except InputError as error:
            if error.details["permanent"]:
                raise
            if attempt == fetch.attempts:
                raise InputError(f"{error} (attempt {attempt} of {attempt})", **error.details) from error
        for lock in folder.glob("*/*.lock"):  # of a git that was killed
            lock.unlink()
        time.sleep(_wait(url, attempt, fetch.backoff_s))
    raise AssertionError("attempts is at least 1")


def _wait(url: str, attempt: int, backoff_s: float) -> float:
    """Seconds before the next attempt: doubling, spread over ±50 % by a hash, so that workers do not come back together."""
    spread = 0.5 + xxhash.xxh3_64_intdigest(f"{public_url(url)}\n{attempt}") / 2**64
    return min(_LAST_S, float(backoff_s * 2 ** (attempt - 1) * spread))


# --- Temporary folders -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder that is gone afterwards. Its lock file tells `sweep` that someone is using it, and dies with the process."""
    root = Path(tempfile.gettempdir())
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
        lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise storage_error(error, root) or error from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep(younger_s: float = 60.0) -> int:
    """Remove clones whose process is gone; how many. One without a lock yet counts as in use for its first minute."""
    removed = 0
    for folder in Path(tempfile.gettempdir()).glob(_PREFIX + "*"):
        try:
            if time.time() - folder.stat().st_mtime < younger_s:
                continue
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:  # another user's, or just removed
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
        except BlockingIOError:
            pass
        finally:
            os.close(lock)
    return removed
