"""Repository: where a repository is and what is known about it, before anything of it is read.

    Repository(url="owner/name")                        on GitHub
    Repository(url="https://host/path.git")             any address git fetches from: http(s), ssh, git; also user@host:path
    Repository(path="/src/thing")                       on this machine: a work tree, a bare repository, or a plain folder

A recipe may write just the text, as may a list file: "owner/name"; anything with "://"; "user@host:path"; and a path, which
starts with "/", "./", "../" or "~". file:// is the path it names: git reads a local repository in place, so nothing is cloned.
Every other transport git knows (ext::, helpers) can run commands and is refused.

A list file is text (one repository a line, # comments), CSV with a header, or Parquet; the columns are the fields of
Repository, plus `repository` for the text forms above.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime
import io
import itertools
import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from corpus.errors import ConfigError, InputError
from corpus.shards import as_path

__all__ = ["Repository", "credentials", "file_url", "is_git", "public_url", "read_listing", "resolve", "resolve_all"]

SCHEMES = ("https", "http", "ssh", "git")
GITHUB = "https://github.com/"

_OWNER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+")
_SCP = re.compile(r"(?:[\w.-]+@)[A-Za-z0-9][\w.-]*:(?!/?/)[^\s]+")  # user@host:path, ssh's short form
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Repository:
    """One repository. Exactly one of url and path is set.

    name: "owner/name" on GitHub, "host/path" elsewhere, the folder's name for a path, unless given. Unique in a crawl.
    stars: None when unknown. created: ISO date the repository was made, where known; one made after a cut-off is left out.
    license: SPDX expression, where known better than its files say.
    kind: "git" or "tree"; None looks: a path is "git" if it is a work tree's root or a bare repository.
    version: anything that changes when what lies at `path` does, e.g. a package's version. A step's fingerprint sees this
        text, never the folder's content.
    """

    url: str | None = None
    path: str | None = None
    name: str | None = None
    stars: int | None = None
    created: str | None = None
    license: str | None = None
    kind: Literal["git", "tree"] | None = None
    version: str | None = None

    def __post_init__(self) -> None:
        if (self.url is None) == (self.path is None):
            raise ConfigError(f"Repository(url={self.url!r}, path={self.path!r}): exactly one of url and path expected")
        for field in ("url", "path", "name", "created", "license", "version"):
            value = getattr(self, field)
            if value is not None and (not isinstance(value, str) or not value or _UNPRINTABLE.search(value)):
                raise ConfigError(f"Repository.{field} = {value!r}: text without control characters expected, or None")
        if self.stars is not None and (not isinstance(self.stars, int) or not 0 <= self.stars < 1 << 63):
            raise ConfigError(f"Repository.stars = {self.stars!r}: a whole number from 0 expected, or None")
        if self.kind not in (None, "git", "tree") or (self.kind == "tree" and self.path is None):
            raise ConfigError(f"Repository.kind = {self.kind!r}: 'git', 'tree' (of a path) or None expected")
        if self.created is not None:
            try:
                datetime.datetime.fromisoformat(self.created)
            except ValueError:
                raise ConfigError(f"Repository.created = {self.created!r}: a date such as 2023-11-01 expected") from None


def resolve(given: str | Repository) -> Repository:
    """`given` with its name filled in and "owner/name" spelled out as a URL. ConfigError for an address we do not fetch."""
    if isinstance(given, Repository):
        repository = given
    elif given.startswith(("/", "./", "../", "~")) or given in (".", ".."):
        repository = Repository(path=given)
    else:
        repository = Repository(url=given)
    if repository.url is not None and repository.url.startswith("file://"):
        repository = dataclasses.replace(repository, url=None, path=unquote(urlsplit(repository.url).path) or "/")
    if repository.path is not None:
        try:
            folder = Path(repository.path).expanduser()
        except RuntimeError:
            raise ConfigError(f"repository {repository.path!r}: there is no such user to whose home ~ could lead") from None
        return dataclasses.replace(repository, path=str(folder), name=repository.name or folder.resolve().name or "root")
    assert repository.url is not None
    url, name = _fetchable(repository.url)
    return dataclasses.replace(repository, url=url, name=repository.name or name)


def _fetchable(url: str) -> tuple[str, str]:
    """(an address git fetches from, the repository's name)."""
    if _OWNER_NAME.fullmatch(url):
        return GITHUB + url.removesuffix(".git"), url.removesuffix(".git")
    if _SCP.fullmatch(url):
        user_host, _, path = url.partition(":")
        return _fetchable(f"ssh://{user_host}/{path}")
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port  # raises for one that is not a number
    except ValueError:
        host = None
    if host is None or host.startswith("-") or parts.scheme not in SCHEMES or "::" in url.split("://")[0]:
        raise ConfigError(
            f"repository {_redacted(url)!r}: 'owner/name', a URL (https, http, ssh, git, file), user@host:path, "
            "or a path that starts with /, ./, ../ or ~ expected"
        )
    path = parts.path.strip("/").removesuffix(".git")
    if not path:
        raise ConfigError(f"repository {_redacted(url)!r} names a host but no repository on it")
    return url, path if host in ("github.com", "www.github.com") else f"{host}/{path}"


def _redacted(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//***@", url)


def resolve_all(given: tuple[str | Repository, ...]) -> list[Repository]:
    """All of them resolved, in order of name, so that the order in which they were listed does not matter."""
    repositories = sorted((resolve(item) for item in given), key=lambda repository: repository.name or "")
    for one, other in itertools.pairwise(repositories):
        if one.name == other.name:
            places = " and ".join(_redacted(str(r.url or r.path)) for r in (one, other))
            raise ConfigError(
                f"two repositories are named {one.name!r}: {places}. Names must differ, since documents carry them; "
                "leave one out, or give it another: Repository(…, name='…')"
            )
    return repositories


def is_git(repository: Repository) -> bool:
    """Whether its files come from a commit (True) or from a folder as it lies there (False)."""
    if repository.kind is not None or repository.path is None:
        return repository.kind != "tree"
    folder = Path(repository.path)
    return (folder / ".git").exists() or all((folder / part).exists() for part in ("HEAD", "objects", "refs"))


# --- Addresses ---------------------------------------------------------------------------------------------------------------


def credentials(url: str) -> str | None:
    """The "user:password" a URL carries, decoded; None where there is no password. ssh's user alone is an address."""
    parts = urlsplit(url)
    if parts.scheme in ("http", "https") and parts.username is not None:
        return f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return None


def public_url(url: str) -> str:
    """The URL without credentials, fit for documents, messages and a command line."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    keep = user.partition(":")[0] if parts.scheme == "ssh" else ""
    return parts._replace(netloc=f"{keep}@{host}" if keep else host).geturl()


def file_url(repository: Repository, commit: str, path: bytes) -> str | None:
    """Where a reader can look at a file; other hosts have no common form for it, so it is the repository's own address."""
    if repository.url is None:
        return None
    url = public_url(repository.url)
    if url.startswith(GITHUB):
        return f"{url.rstrip('/').removesuffix('.git')}/blob/{commit}/{quote(path, safe='/')}"
    return url


# --- List files --------------------------------------------------------------------------------------------------------------


def read_listing(where: str) -> tuple[Repository, ...]:
    """The repositories of a list file, local or fsspec URL; its format is told by its name (.csv, .parquet, else text)."""
    path = as_path(where)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the list of repositories {where}: {error.strerror or error}") from error
    try:
        if path.name.lower().endswith(".parquet"):
            rows = list(enumerate(pq.read_table(pa.BufferReader(data)).to_pylist(), 1))
        else:
            text = data.decode("utf-8-sig")
            rows = _csv_rows(text) if path.name.lower().endswith(".csv") else _text_rows(text)
    except (ValueError, pa.ArrowException, csv.Error) as error:
        raise InputError(f"cannot read the list of repositories {where}: {error}") from error
    return tuple(_from_row(row, f"{where}, row {number}") for number, row in rows)


def _text_rows(text: str) -> list[tuple[int, dict[str, Any]]]:
    lines = enumerate((line.strip() for line in text.splitlines()), 1)
    return [(number, {"repository": line}) for number, line in lines if line and not line.startswith("#")]


def _csv_rows(text: str) -> list[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    return [(reader.line_num, dict(row)) for row in reader]


def _from_row(row: dict[str, Any], where: str) -> Repository:
    fields = {f.name for f in dataclasses.fields(Repository)}
    unknown = sorted(str(key) for key in row if key not in fields | {"repository"})
    if unknown:
        raise InputError(f"{where}: unknown columns {', '.join(unknown)}; known: repository, {', '.join(sorted(fields))}")
    values = {key: value for key, value in row.items() if value not in (None, "")}
    try:
        if isinstance(values.get("created"), (datetime.datetime, datetime.date)):
            values["created"] = values["created"].isoformat()
        if "stars" in values:
            values["stars"] = int(values["stars"])
        given = values.pop("repository", None)
        if given is None:
            return resolve(Repository(**values))
        return resolve(dataclasses.replace(resolve(given), **values))
    except (ConfigError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{where}: {error}") from error
