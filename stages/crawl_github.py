"""Repositories → one document per file, with where it came from and what licence it is under.

A git repository is read at the newest commit of its default branch before the cut-off (DeepSeek-Coder-V2 §2: repositories
created before November 2023); a folder without history is read as it lies. Order of work: fetch (corpus/clone.py), list and
read (corpus/repository_files.py), decode (corpus/decode.py), identify the licence (corpus/licenses.py), flag what the project
did not write (corpus/vendored.py). Columns besides the document's own:

    stars       what the recipe or the list file said; null when unknown
    vendored    copied in from elsewhere, by path          generated   made by a program, by path or marker
    encoding    what the bytes were: utf-8, utf-8-sig (had a byte-order mark), utf-16-le, utf-16-be, latin-1
    license     the file's SPDX header, else the repository's; NOASSERTION: a licence file we do not know; null: none

Everything met is a document: what has no text to give is dropped with a reason, and so is a repository as a whole when it
could not be had, as one row without a path. A failed repository never stops the others.

The trade: files over `max_bytes` are not even downloaded where the server can leave them out. Source that people wrote is
never that large; 1 MiB is where The Stack drew the line, and mean lines of 100 bytes (filter_code) leave 10,000 lines.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import json
import shutil
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import xxhash

from corpus.clone import Fetch, Snapshot, cloned, local, sweep
from corpus.decode import decode
from corpus.document import SCHEMA, Verdict, document_id, verdict_of
from corpus.engine import Engine
from corpus.errors import ConfigError, InputError
from corpus.licenses import header_license, is_license_file, repository_license
from corpus.report import Report
from corpus.repository import Repository, file_url, is_git, public_url, read_listing, resolve_all
from corpus.repository_files import REASONS as FILE_REASONS
from corpus.repository_files import File, Limits, git_files, path_text, root_files, tree_files
from corpus.shards import BATCH_BYTES, Items, as_path, last_evidence
from corpus.vendored import is_generated, is_vendored

__all__ = ["REASONS", "REVISION", "Config", "check", "crawl", "documents", "run"]

REVISION = 2
REASONS = ("binary", *FILE_REASONS, "repository_empty", "repository_failed", "repository_too_new")

COLUMNS = pa.schema(
    [
        pa.field("stars", pa.int64()),
        pa.field("vendored", pa.bool_()),
        pa.field("generated", pa.bool_()),
        pa.field("encoding", pa.string()),
    ]
)
_SCHEMA = pa.schema([*SCHEMA, *COLUMNS])
_TEXT, _URL, _PATH = (_SCHEMA.get_field_index(name) for name in ("text", "url", "path"))

_ROWS = 1 << 16  # in a batch, when files are tiny
_MOST_PER_SHARD, _FEWEST_SHARDS = 32, 16
_YEAR_2200_S = 7_258_118_400


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What to crawl.

    repositories: "owner/name", URLs, paths or Repository; see corpus/repository.py. The order does not matter.
    listing: a file of more of them. Its content counts for the fingerprint, as `listing_hash`.
    before: ISO date or time (UTC); commits from then on are not seen. None: the newest.
    max_bytes: of one file. max_files: of one repository, against trees that contain themselves a million times.
    attempts, backoff_s, timeout_s: tries per repository, the first wait (it doubles), and the limit on one git command.
    repositories_per_shard: None: as many as leave 16 shards, at most 32. Decided by the list alone, never by workers.
    """

    repositories: tuple[str | Repository, ...] = ()
    listing: str | None = None
    before: str | None = "2023-11-01"  # DeepSeek-Coder-V2 §2
    max_bytes: int = 1 << 20
    max_files: int = 5_000_000
    attempts: int = 4
    backoff_s: float = 1.0
    timeout_s: float = 900.0
    repositories_per_shard: int | None = None
    listing_hash: str | None = dataclasses.field(init=False, default=None)

    def __post_init__(self) -> None:
        if not isinstance(self.repositories, tuple) or not all(isinstance(r, (str, Repository)) for r in self.repositories):
            raise ConfigError(f"crawl_github.repositories = {self.repositories!r:.100}: a tuple of text or Repository expected")
        if not self.repositories and self.listing is None:
            raise ConfigError("crawl_github has neither repositories nor a listing; at least one of the two expected")
        for field, low in (("max_bytes", 1), ("max_files", 1), ("attempts", 1), ("backoff_s", 0), ("timeout_s", 1)):
            value = getattr(self, field)
            if isinstance(value, bool) or not low <= value < 2**31:
                raise ConfigError(f"crawl_github.{field} = {value!r}: a number in [{low}, 2^31) expected")
        if self.repositories_per_shard is not None and self.repositories_per_shard < 1:
            raise ConfigError(
                f"crawl_github.repositories_per_shard = {self.repositories_per_shard}: 1 or more expected, or None"
            )
        _seconds(self.before)
        resolve_all(self.repositories)
        if self.listing is not None:
            object.__setattr__(self, "listing_hash", _content_hash(self.listing))


def _seconds(before: str | None) -> int | None:
    """The cut-off in seconds since 1970; a date is its first moment, and a time without a zone is UTC."""
    if before is None:
        return None
    try:
        moment = datetime.datetime.fromisoformat(before)
    except ValueError:
        raise ConfigError(f"crawl_github.before = {before!r}: a date such as 2023-11-01 expected, or None") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp())


def _content_hash(listing: str) -> str | None:
    """xxh3-128 of a list file; None when it cannot be read, which `check` then reports."""
    try:
        return xxhash.xxh3_128_hexdigest(as_path(listing).read_bytes())
    except OSError:
        return None


def check(config: Config) -> None:
    """ConfigError or InputError for what cannot work on this machine, before anything runs. Nothing is fetched.

    One folder that is missing is a row of the report, like any repository that cannot be had; all of them are a typo.
    """
    repositories = _repositories(config)
    if any(is_git(r) for r in repositories) and shutil.which("git") is None:
        raise ConfigError("crawl_github needs git, which is not on the PATH; on Debian and Ubuntu the package is `git`")
    if not any(r.path is None or Path(r.path).is_dir() for r in repositories):
        first = repositories[0]
        seen = "is not a folder" if Path(str(first.path)).exists() else "does not exist"
        others = f", nor is any of the {len(repositories) - 1} others" if len(repositories) > 1 else ""
        raise InputError(f"repository {first.name!r}: {first.path} {seen}{others}; a folder of source expected")


def _repositories(config: Config) -> list[Repository]:
    listed: tuple[Repository, ...] = ()
    if config.listing is not None:
        listed = read_listing(config.listing)
        if config.listing_hash != _content_hash(config.listing):
            raise InputError(f"the list of repositories {config.listing} changed since the recipe was read; run it again")
        if not listed:
            raise InputError(f"the list of repositories {config.listing} is empty")
    return resolve_all((*config.repositories, *listed))


# --- From a repository to rows -----------------------------------------------------------------------------------------------


class Origin(NamedTuple):
    """What all files of a repository share. commit: "" for a tree."""

    repository: Repository
    commit: str = ""
    created: int | None = None  # seconds since 1970
    license: str | None = None
    meta: str | None = None

    @property
    def source(self) -> str:
        return "github" if is_git(self.repository) else "tree"


def documents(origin: Origin, files: Iterable[File]) -> Iterator[tuple[Any, ...]]:
    """A row per file: the values of _SCHEMA in order (text as UTF-8 bytes), then reason and evidence. Pure."""
    repository, source = origin.repository, origin.source
    created = origin.created * 1000 if origin.created is not None and 0 <= origin.created < _YEAR_2200_S else None
    prefix = f"{source}\n{repository.name}\n{origin.commit}\n"
    for path_bytes, data, reason, evidence in files:
        path = path_text(path_bytes)
        text, encoding, generated, license = b"", None, False, origin.license
        if reason is None:
            text, encoding, binary = decode(data)
            if binary is None:
                generated = is_generated(path, text)
                license = header_license(text) or license
            else:
                reason, evidence = "binary", binary
        yield (
            document_id(prefix + path),
            text,
            source,
            file_url(repository, origin.commit, path_bytes) if path else _address(repository),
            repository.name,
            path or None,
            origin.commit or None,
            license,
            None,  # lang: detect_language's to say
            created,
            None,
            origin.meta,
            repository.stars,
            is_vendored(path),
            generated,
            encoding,
            reason,
            evidence,
        )


def _address(repository: Repository) -> str | None:
    return None if repository.url is None else public_url(repository.url)


def _read(repository: Repository, config: Config) -> Iterator[tuple[Any, ...]]:
    """The rows of one repository. What is wrong with it as a whole is a last row without a path."""
    origin = Origin(repository)
    rows = 0
    try:
        with contextlib.closing(_opened(repository, config)) as opened:
            for origin, files in opened:
                for row in documents(origin, files):
                    rows += 1
                    yield row
        if not rows:
            raise InputError("it holds no files", reason="repository_empty")
    except InputError as error:
        yield from documents(origin, [File(b"", b"", error.details.get("reason", "repository_failed"), str(error))])


def _opened(repository: Repository, config: Config) -> Generator[tuple[Origin, Iterator[File]]]:
    """(origin, files) of a repository, once; a generator so that a clone lives as long as its files are read."""
    limits = Limits(config.max_bytes, config.max_files)
    if not is_git(repository):
        assert repository.path is not None
        folder = Path(repository.path)
        known = repository.license or _tree_license(folder, config.max_bytes)
        meta = {"version": repository.version}
        yield Origin(repository, license=known, meta=_json(meta)), tree_files(folder, limits)
        return
    before = _seconds(config.before)
    if before is not None and repository.created is not None and (_seconds(repository.created) or 0) >= before:
        raise InputError(f"created {repository.created}", reason="repository_too_new")
    if repository.path is not None:
        snapshot = local(Path(repository.path), before, config.timeout_s)
        yield _origin(repository, snapshot, config), git_files(snapshot.git_dir, snapshot.commit, limits)
        return
    assert repository.url is not None
    fetch = Fetch(before, config.max_bytes, config.attempts, config.backoff_s, config.timeout_s)
    with cloned(repository.url, fetch) as snapshot:
        files = git_files(snapshot.git_dir, snapshot.commit, limits, partial=True)
        yield _origin(repository, snapshot, config), files


def _origin(repository: Repository, snapshot: Snapshot, config: Config) -> Origin:
    license = repository.license
    if license is None:
        found = root_files(snapshot.git_dir, snapshot.commit, is_license_file, config.max_bytes)
        license = repository_license({name: decode(data).text.decode("utf-8") for name, data in found.items()})
    meta = {"branch": snapshot.branch, "version": repository.version, "repository_created": repository.created}
    return Origin(repository, snapshot.commit, snapshot.committed, license, _json(meta))


def _tree_license(folder: Path, max_bytes: int) -> str | None:
    found = {}
    with contextlib.suppress(OSError):  # tree_files will say what is wrong with the folder
        for path in sorted(folder.iterdir()):
            if is_license_file(path.name) and path.is_file() and not path.is_symlink() and path.stat().st_size <= max_bytes:
                found[path.name] = decode(path.read_bytes()).text.decode("utf-8")
    return repository_license(found)


def _json(values: dict[str, str | None]) -> str | None:
    present = {key: value for key, value in values.items() if value is not None}
    return json.dumps(present, sort_keys=True, ensure_ascii=False) if present else None


# --- From rows to batches ----------------------------------------------------------------------------------------------------


def crawl(bundle: tuple[Repository, ...], config: Config) -> Iterator[Verdict]:
    """The documents of some repositories, in batches of about 16 MB that may span several small repositories.

    Paths and URLs count: trees that share their subtrees have paths of any length for nothing, and no column of them may pass
    2 GiB in a batch.
    """
    sweep()
    rows: list[tuple[Any, ...]] = []
    size = 0
    for repository in bundle:
        for row in _read(repository, config):
            more = len(row[_TEXT]) + len(row[_URL] or "") + len(row[_PATH] or "")
            if size + more > BATCH_BYTES or len(rows) == _ROWS:
                yield verdict_of(rows, _SCHEMA)
                rows, size = [], 0
            rows.append(row)
            size += more
    yield verdict_of(rows, _SCHEMA)


def run(config: Config, out: Path, engine: Engine) -> Report:
    """Bundles of repositories, in order of name, one task each; the engine cuts what they give into shards of 128 MB."""
    repositories = _repositories(config)
    spread = max(1, min(_MOST_PER_SHARD, -(-len(repositories) // _FEWEST_SHARDS)))
    step = config.repositories_per_shard or spread
    bundles = tuple(tuple(repositories[i : i + step]) for i in range(0, len(repositories), step))
    report = engine.map_shards(functools.partial(crawl, config=config), Items(bundles), out)
    report.notes["repositories"] = len(repositories)
    if lost := report.dropped.get("repository_failed", 0):
        last = last_evidence(out, "repository_failed")
        said = f"{lost:,} of {len(repositories):,} repositories could not be had, the last: {last:.300}"
        advice = f"correct what it says and delete {out} to ask for all of them again"
        if lost == len(repositories):
            raise InputError(f"{said}; {advice}")
        engine.progress.say(f"crawl_github: {said}; {advice}")
    return report
