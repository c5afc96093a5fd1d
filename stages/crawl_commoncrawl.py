"""Web archives → one document per page, whose text is the page's HTML, decoded to UTF-8.

Three ways in, which may be combined:

    warcs            whole WARC, ARC or WET files: paths, globs, folders, http(s):// or s3:// URLs, or a Step that wrote some
    paths            a listing of a crawl (warc.paths.gz), of which `count` files from `first` on, or a random `sample` of them
    index or cdx     with `urls`: single records of the pages under some URLs, found in Common Crawl's columnar index (Parquet
                     files) or by asking a CDX server, and fetched by byte range

Order of work: reach the file (corpus/remote.py), decompress it (corpus/gzip_members.py), find the records (corpus/warc.py),
undo HTTP (corpus/http_body.py), tell what it is (corpus/media_type.py), decode it (corpus/charset.py). Columns besides the
document's own:

    mime                   the media type; text/plain is text already, and needs no extraction
    charset, charset_by    what the bytes were in, and what said so: bom, header, meta, bytes or default
    warc, offset, length   where the record lies: these bytes of the file, by its name, path in the listing, or URL

Rules, first match wins:

    fetch_failed   a file, or a record of one, could not be had; the rest of the crawl goes on
    broken         the gzip member is damaged or cut off, or there is no record or no HTTP where one should be
    revisit        the crawler met a page unchanged, and stored no more than that
    too_large      over `max_bytes`, packed or unpacked, in the file or by the index's word
    status         not among `statuses`: redirects and errors
    mime           not among `mime_types`, or something else by its first bytes (a PDF served as HTML)
    empty          white space
    encoding       in no character set we know

Requests, metadata (WAT) and warcinfo records are no documents; the report counts them. Plain text is left out by default: it is
one capture in a hundred, mostly logs and tables. WET files are the exception, being nothing else.

The trade: a page that its crawler cut short is kept (`meta` says so), since half a page of mathematics is mathematics. A file
fails as a whole from the byte where the budget of retries ends: a server that is down for an hour costs the files met then.
That is said at the end, and running again does not fetch them unless the step is deleted.

Reference: DeepSeekMath (arXiv 2402.03300) 2.1 and DeepSeek-Coder-V2 (arXiv 2406.11931) 2, whose web pages are Common Crawl's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from corpus.archives import SUFFIXES, Archive, archives_at, chosen, find_files, read_listing, seen_at
from corpus.cdx import CAPTURES, Capture, Pattern, from_api, from_parquet, listed
from corpus.document import Verdict, verdict_of
from corpus.engine import Engine
from corpus.errors import ConfigError, CorruptFile, InputError
from corpus.page import PAGE, Rules, failed, page
from corpus.page import REASONS as PAGE_REASONS
from corpus.remote import Access, Remote, is_remote
from corpus.report import Report
from corpus.shards import BATCH_BYTES, FileRecord, Items, atomic, check_file, last_evidence, read_json, record_file, write_json
from corpus.step import Step
from corpus.warc import KINDS, Record, records

__all__ = ["REASONS", "REVISION", "Config", "check", "crawl", "run"]

REVISION = 1
REASONS = ("fetch_failed", *PAGE_REASONS)

_ROWS = 1 << 16  # in a batch, when pages are tiny or dropped
_PER_TASK = 512  # single records: a minute, at ten requests a second
_CAPTURES, _SEAL = "captures.parquet", ".captures.json"
_LOOKED_UP = CAPTURES.append(pa.field("against", pa.string()))
_TEXT = PAGE.get_field_index("text")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What to crawl, what to keep of it, and how to ask for it.

    prefix: what comes before the paths of a listing or an index. index: a path, glob or URL of Parquet files, or of a listing
    of them (*.paths.gz). urls: patterns, see corpus/cdx.py.
    max_bytes: of a page. statuses, mime_types: of the pages kept.
    budget_s: of waiting for a server, per file; first_wait_s, stall_s, cache: see corpus/remote.py.
    seen: of the local files, what the fingerprint sees (corpus/archives.py).
    """

    warcs: tuple[str | Step, ...] = ()
    paths: str | None = None
    first: int = 0
    count: int | None = None
    sample: int | None = None
    seed: int = 0
    prefix: str = "https://data.commoncrawl.org/"
    index: str | None = None
    cdx: str | None = None
    urls: tuple[str, ...] = ()
    source: str = "commoncrawl"
    statuses: tuple[int, ...] = (200,)
    mime_types: tuple[str, ...] = ("text/html", "application/xhtml+xml")
    max_bytes: int = 8 << 20  # Common Crawl itself cuts pages at 1 MiB, since 2025 at 5
    user_agent: str = "crawl-to-tokens/0.1"
    budget_s: float = 600.0
    first_wait_s: float = 1.0
    stall_s: float = 60.0
    cache: str | None = None
    seen: tuple[str, ...] = dataclasses.field(init=False, default=())

    def __post_init__(self) -> None:
        indexes = [name for name in ("index", "cdx") if getattr(self, name) is not None]
        if not self.warcs and self.paths is None and not indexes:
            raise ConfigError("crawl_commoncrawl has no warcs, no paths, no index and no cdx; at least one of them expected")
        if len(indexes) == 2 or bool(indexes) != bool(self.urls):
            raise ConfigError(
                f"crawl_commoncrawl.urls = {self.urls!r:.200}: with urls one of index and cdx is expected, and only then"
            )
        if self.paths is None and (self.first, self.count, self.sample) != (0, None, None):
            raise ConfigError("crawl_commoncrawl: first, count and sample choose from a listing; paths expected with them")
        for field, low in (("first", 0), ("count", 1), ("sample", 1), ("max_bytes", 1), ("budget_s", 0), ("stall_s", 0.01)):
            value = getattr(self, field)
            if value is not None and (isinstance(value, bool) or not low <= value < 2**31):
                raise ConfigError(f"crawl_commoncrawl.{field} = {value!r}: a number in [{low}, 2^31) expected")
        if not 0 < self.first_wait_s <= 3600:
            raise ConfigError(f"crawl_commoncrawl.first_wait_s = {self.first_wait_s!r}: seconds in (0, 3600] expected")
        if not self.statuses or not all(100 <= status <= 599 for status in self.statuses):
            raise ConfigError(f"crawl_commoncrawl.statuses = {self.statuses!r}: HTTP statuses expected, at least one")
        if not self.mime_types or not all(mime == mime.lower() and mime.count("/") == 1 for mime in self.mime_types):
            raise ConfigError(f"crawl_commoncrawl.mime_types = {self.mime_types!r}: media types like text/html, in lower case")
        for text in self.urls:
            Pattern.of(text)
        local = [w for w in self.warcs if isinstance(w, str)]
        seen = [name for w in local for name in seen_at(w)]
        seen += [name for w in (self.paths, self.index) if w is not None for name in seen_at(w, (".parquet",))]
        object.__setattr__(self, "seen", tuple(seen))

    @property
    def rules(self) -> Rules:
        return Rules(self.source, frozenset(self.statuses), frozenset(self.mime_types), self.max_bytes)

    @property
    def access(self) -> Access:
        return Access(self.user_agent, self.budget_s, self.first_wait_s, self.stall_s, self.cache)


def check(config: Config) -> None:
    """InputError for what lies on this machine and is not there, before anything runs. Nothing is fetched."""
    for name, given in (("warcs", config.warcs), ("paths", (config.paths,)), ("index", (config.index,))):
        suffixes = SUFFIXES if name == "warcs" else (".parquet",)
        for where in given:
            if isinstance(where, str) and not is_remote(where) and not find_files(where, suffixes):
                expected = "a file, a glob that matches one, or a folder with " + ", ".join(suffixes)
                raise InputError(f"crawl_commoncrawl.{name}: nothing is at {where}; {expected} expected")
    if dataclasses.replace(config).seen != config.seen:
        raise InputError("a file that crawl_commoncrawl reads changed since the recipe was read; run it again")


# --- A task: a file, or some records ------------------------------------------------------------------------------------------


def crawl(task: Archive | tuple[Capture, ...], config: Config) -> Iterator[Verdict]:
    """The pages of a file, or of single records, in batches of about 16 MB of text."""
    notes: dict[str, int] = {}
    rows: list[tuple[Any, ...]] = []
    size = 0
    remote = Remote(config.access)
    for row in _file(task, config, remote, notes) if isinstance(task, Archive) else _captured(task, config, remote):
        if size + len(row[_TEXT]) > BATCH_BYTES or len(rows) == _ROWS:
            yield verdict_of(rows, PAGE)
            rows, size = [], 0
        rows.append(row)
        size += len(row[_TEXT])
    if remote.pace.tries:
        notes |= {"requests": remote.pace.tries, "waited_s": round(remote.pace.waited)}
    yield dataclasses.replace(verdict_of(rows, PAGE), notes=notes)


def _file(archive: Archive, config: Config, remote: Remote, notes: dict[str, int]) -> Iterator[tuple[Any, ...]]:
    """The rows of a file. What cannot be had of it is a last row without a URL."""
    rules = config.rules
    notes["files"] = 1
    try:
        with contextlib.closing(remote.open(archive.path)) as file:
            for record in records(file.read, rules.limit):
                name = f"records_{record.kind or 'damaged'}"
                notes[name] = notes.get(name, 0) + 1
                if record.kind in KINDS or not record.kind:
                    yield page(record, archive.name, rules)
    except (InputError, OSError) as error:
        notes["files_failed"] = 1
        yield failed(config.source, None, archive.name, None, None, str(error))


def _captured(captures: tuple[Capture, ...], config: Config, remote: Remote) -> Iterator[tuple[Any, ...]]:
    """A row per capture; they are in order of file and offset."""
    rules = config.rules
    start = 0
    while start < len(captures):
        name = captures[start].filename
        stop = next((i for i in range(start, len(captures)) if captures[i].filename != name), len(captures))
        some = []
        for capture in captures[start:stop]:
            if (against := _never_a_page(capture, rules)) is None:
                some.append(capture)
            else:
                reason, why = against
                yield failed(config.source, capture.url, name, capture.offset, capture.length, why, reason)
        spans = [(capture.offset, capture.offset + capture.length) for capture in some]
        for capture, data in zip(some, remote.ranges(_located(config, name), spans), strict=True):
            if isinstance(data, InputError):
                yield failed(config.source, capture.url, name, capture.offset, capture.length, str(data))
            else:
                yield page(_record_in(data, capture, rules), name, rules)
        start = stop


def _never_a_page(capture: Capture, rules: Rules) -> tuple[str, str] | None:
    """(reason, evidence) against fetching what an index says: a wrong length must not bring a whole file into memory."""
    if capture.offset < 0 or capture.length < 1:
        return "broken", f"the index says {capture.length} bytes at byte {capture.offset}"
    if capture.length > rules.limit:
        return "too_large", f"the index says a record of {capture.length} bytes, {rules.max_bytes} allowed"
    return None


def _record_in(data: bytes, capture: Capture, rules: Rules) -> Record:
    """The page's record in a range; where the index was wrong, a record whose fault says how."""
    seen = []
    for record in records(io.BytesIO(data).read, rules.limit):
        if record.kind in KINDS or not record.kind:
            return record._replace(offset=capture.offset + record.offset)
        seen.append(record.kind)
    headers = {"warc-target-uri": capture.url}
    fault = f"the index says {capture.length} bytes here are a page; found: {', '.join(seen) or 'nothing'}"
    return Record("", capture.offset, capture.length, 0, headers, memoryview(b""), 0, fault=fault)


def _located(config: Config, name: str) -> str:
    return name if is_remote(name) else config.prefix + name


# --- What there is to do -----------------------------------------------------------------------------------------------------


def run(config: Config, out: Path, engine: Engine) -> Report:
    """Each file is a task, in the order given; then bundles of single records."""
    files = _archives(config, engine)
    notes: dict[str, Any] = {}
    captures: list[Capture] = []
    if config.urls:
        if not _listed(out, engine):  # a resumed run keeps to what the first was told
            work = functools.partial(look_up, config=config)
            told = engine.exchange(work, Items(_indexes(config)), out, name="index", partitions=1)
            _write_captures(out / _CAPTURES, told.table(0))
            write_json(out / _SEAL, dataclasses.asdict(record_file(out, out / _CAPTURES, rows=0)))
        captures, notes = _read_captures(out / _CAPTURES)
    bundles = [tuple(captures[i : i + _PER_TASK]) for i in range(0, len(captures), _PER_TASK)]
    report = engine.map_shards(functools.partial(crawl, config=config), Items((*files, *bundles)), out)
    report.notes |= notes
    if lost := report.dropped.get("fetch_failed", 0):
        advice = f"correct what it says and delete {out} to ask again: with a `cache`, only for what did not come"
        said = f"{lost:,} files or records could not be had, the last: {last_evidence(out, 'fetch_failed'):.300}"
        engine.progress.say(f"crawl_commoncrawl: {said}; {advice}")
    return report


def _listed(out: Path, engine: Engine) -> bool:
    """Whether an earlier run asked the index, and what it was told is still as it was written."""
    try:
        record = read_json(out / _SEAL)
        if record is not None:
            check_file(out, FileRecord(**record))
    except CorruptFile as error:
        engine.progress.say(f"damaged: {error}")
        return False
    return record is not None


def _archives(config: Config, engine: Engine) -> list[Archive]:
    found: list[str] = []
    ours: list[str] = []  # of steps, under whatever root
    for where in config.warcs:
        if isinstance(where, Step):
            folder = engine.folder(where)
            written = sorted(str(path) for path in folder.rglob("*") if path.name.endswith(SUFFIXES))
            if not written:
                raise InputError(f"step {where.name} wrote no web archives ({', '.join(SUFFIXES)}) to {folder}")
            found += written
            ours += written
        else:
            found += find_files(where)
    archives = archives_at(found, ours)
    if config.paths is not None:
        lines = read_listing(config.paths, Remote(config.access))
        for line in chosen(lines, config.first, config.count, config.sample, config.seed):
            archives.append(Archive(line, _located(config, line)))
    return archives


def _indexes(config: Config) -> tuple[str, ...]:
    """Each is a task: the files of a columnar index, or the one server."""
    if config.cdx is not None:
        return (config.cdx,)
    assert config.index is not None
    if config.index.endswith((".paths.gz", ".paths")):
        found = [_located(config, path) for path in read_listing(config.index, Remote(config.access))]
    else:
        found = find_files(config.index, (".parquet",))
    if not found:
        raise InputError(f"crawl_commoncrawl.index: {config.index} names no files; the Parquet files of an index expected")
    return tuple(found)


def look_up(where: str, origin: int, config: Config) -> pa.Table:
    """What an index says of the pages under the URLs, and what there is against each."""
    patterns = [Pattern.of(text) for text in config.urls]

    def wanted(status: int | None, mime: str | None) -> str | None:
        if status is not None and status not in config.statuses:
            return "index_other_status"
        return "index_other_mime" if mime is not None and mime not in config.mime_types else None

    ask = from_parquet if config.cdx is None else from_api
    rows = ask(where, patterns, wanted, Remote(config.access))
    table = pa.Table.from_pylist([{**capture._asdict(), "against": why} for capture, why in rows], schema=_LOOKED_UP)
    return table.append_column("partition", pa.nulls(table.num_rows, pa.int8()).fill_null(0))


def _write_captures(path: Path, told: pa.Table) -> None:
    rows = ((Capture(**row), against) for row in told.to_pylist() for against in [row.pop("against")])
    captures, others = listed(rows)
    notes = {"captures": len(captures), **others}
    table = pa.Table.from_pylist([capture._asdict() for capture in captures], schema=CAPTURES)
    with atomic(path) as temporary:
        pq.write_table(table.replace_schema_metadata({"notes": json.dumps(notes)}), temporary, compression="zstd")


def _read_captures(path: Path) -> tuple[list[Capture], dict[str, Any]]:
    """The captures, and what the report says of them, in a run that was resumed too."""
    with path.open("rb") as file:
        table = pq.read_table(file)
    return [Capture(**row) for row in table.to_pylist()], json.loads(table.schema.metadata[b"notes"])
