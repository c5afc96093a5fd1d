"""Where the captures of some URLs lie: (file, offset, length), from an index of a crawl.

    example.com/docs/*    every URL that begins so        example.com/page    one URL
    *.example.com         a domain and its subdomains     example.com/*       a host

The two indexes of Common Crawl, and of everybody who uses its tools:

    columnar    Parquet files sorted by SURT key ("com,example)/docs/a"): of row groups whose statistics could hold a pattern's
                keys the columns needed are read, of the others nothing
    CDX API     a server (index.commoncrawl.org, pywb, …): asked for its number of pages, then for each of them; one that knows
                no pages gives all at once

A capture is listed once, in order of file and offset, whatever the patterns and pages. An index holds redirects, errors and
pictures, too; which are wanted is said beforehand (`wanted`), by the index's own word, and the others are counted.

Reference: pywb's CDX server API; Common Crawl's columnar index (cc-index-table).
"""

from __future__ import annotations

import collections
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from corpus.errors import ConfigError, InputError
from corpus.remote import Remote

__all__ = ["CAPTURES", "Capture", "Pattern", "from_api", "from_parquet", "listed", "surt"]

CAPTURES = pa.schema(
    [
        pa.field("filename", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("length", pa.int64()),
        pa.field("url", pa.string()),
    ]
)
_NEEDED = ("url", "warc_filename", "warc_record_offset", "warc_record_length")
_TOLD = ("fetch_status", "content_mime_detected", "content_mime_type")  # where the index has them
_HOST = re.compile(r"(?:[a-z][a-z0-9+.-]*://)?(?:[^/?#@]*@)?([^/?#:]*)(?::(\d+))?([^#]*)", re.IGNORECASE)
_WWW = re.compile(r"www\d*\.")


class Capture(NamedTuple):
    """A record of an archive. length: of its compressed bytes."""

    filename: str
    offset: int
    length: int
    url: str


def surt(url: str) -> str:
    """The sort key of a URL: "com,example)/path?query". Lower case, query in order; no scheme, www, fragment, last slash."""
    key, question, query = _key(url).partition("?")
    return f"{key if key.endswith(')/') else key.rstrip('/')}{question}{query}"


def _key(url: str) -> str:
    found = _HOST.match(url.strip())
    assert found is not None  # every part may be empty
    host, port, rest = found.group(1).lower().rstrip("."), found.group(2), found.group(3)
    host = _WWW.sub("", host, count=1) if _WWW.match(host) and host.count(".") > 1 else host
    labels = host if re.fullmatch(r"[\d.]+", host) else ",".join(reversed(host.split(".")))
    path, question, query = rest.partition("?")
    query = "&".join(sorted(query.split("&")))
    at = f":{port}" if port and port not in ("80", "443") else ""
    return f"{labels}{at}){path or '/'}{question if query else ''}{query}".lower()


class Pattern(NamedTuple):
    """A URL pattern. keys: the prefixes its SURT keys begin with. exact: they are the whole key."""

    text: str
    keys: tuple[str, ...]
    exact: bool = False

    @classmethod
    def of(cls, text: str) -> Pattern:
        """ConfigError for a pattern that means nothing, or the whole web."""
        bare = re.sub(r"^[a-z]+://", "", text.strip(), flags=re.IGNORECASE)
        inside = bare.removeprefix("*.").removesuffix("*")
        if not inside.strip("/.") or "*" in inside or re.search(r"\s", inside):
            raise ConfigError(
                f"URL pattern {text!r}: example.com/path, example.com/path/*, example.com/* or *.example.com expected"
            )
        if bare.startswith("*."):
            if inside.rstrip("/").count("/"):
                raise ConfigError(f"URL pattern {text!r}: a domain without a path expected after '*.'")
            domain = surt(inside).partition(")")[0]
            return cls(text, (f"{domain})", f"{domain},"))
        if bare.endswith("*"):
            host, slash, _ = inside.partition("/")
            return cls(text, (_key(inside) if slash else _key(host),))
        return cls(text, tuple(dict.fromkeys((surt(inside), _key(inside)))), exact=True)  # some indexes keep a last slash


# What an index says of a capture, and what there is against it.
Row = tuple[Capture, str | None]
Wanted = Callable[[int | None, str | None], str | None]  # of a status and a media type: what is against them


def from_parquet(where: str, patterns: Iterable[Pattern], wanted: Wanted, remote: Remote) -> Iterator[Row]:
    """The rows of one file of a columnar index."""
    spans = [(key, key + "\0" if p.exact else _after(key), key, p.exact) for p in patterns for key in p.keys]
    for capture, status, mime in _parquet_rows(where, spans, remote):
        yield capture, wanted(status, mime)


def from_api(endpoint: str, patterns: Iterable[Pattern], wanted: Wanted, remote: Remote) -> Iterator[Row]:
    """The same from a CDX server. InputError when it cannot be asked, or answers something else."""
    for pattern in patterns:
        for capture, status, mime in _api_rows(endpoint, pattern, remote):
            yield capture, wanted(status, mime)


def listed(rows: Iterable[Row]) -> tuple[list[Capture], dict[str, int]]:
    """Each wanted capture once, in order, and how many others there are: counts by what is against them."""
    found: dict[tuple[str, int], Capture] = {}
    against: dict[tuple[str, int], str] = {}
    for capture, why in rows:
        where = (capture.filename, capture.offset)
        if why is None:
            found[where] = capture
        else:
            against[where] = why
    return [found[where] for where in sorted(found)], dict(collections.Counter(against.values()))


_Told = tuple[Capture, int | None, str | None]  # with status and media type


def _after(prefix: str) -> str:
    """The first text that is greater than all that begin with `prefix`."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


# --- Columnar ----------------------------------------------------------------------------------------------------------------


class _RemoteFile(io.RawIOBase):
    """A file one can seek in, every read a range that the Remote sees through."""

    def __init__(self, remote: Remote, where: str) -> None:
        self.remote, self.where = remote, where
        self.size = remote.size(where)
        self.at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at

    def read(self, n: int = -1) -> bytes:
        stop = self.size if n < 0 else min(self.size, self.at + n)
        data = self.remote.read(self.where, self.at, stop) if stop > self.at else b""
        self.at += len(data)
        return data


def _parquet_rows(where: str, spans: list[tuple[str, str, str, bool]], remote: Remote) -> Iterator[_Told]:
    try:
        with pa.PythonFile(_RemoteFile(remote, where), mode="r") as source:
            file = pq.ParquetFile(source, pre_buffer=True)
            names = set(file.schema_arrow.names)
            if missing := [name for name in (*_NEEDED, "url_surtkey") if name not in names]:
                raise InputError(
                    f"the index {where} has no column {', '.join(missing)}; Common Crawl's columnar index expected"
                )
            told = [name for name in _TOLD if name in names]
            for i in _groups(file, spans):
                yield from _matches(file.read_row_group(i, columns=["url_surtkey", *_NEEDED, *told]), spans)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"the index {where} cannot be read: {error}") from error


def _groups(file: pq.ParquetFile, spans: list[tuple[str, str, str, bool]]) -> list[int]:
    """Row groups in which, by their statistics, a wanted key may be."""
    column = file.metadata.schema.names.index("url_surtkey")
    groups = []
    for i in range(file.metadata.num_row_groups):
        known = file.metadata.row_group(i).column(column).statistics
        if known is None or not known.has_min_max or any(known.max >= low and known.min < high for low, high, _, _ in spans):
            groups.append(i)
    return groups


def _matches(table: pa.Table, spans: list[tuple[str, str, str, bool]]) -> Iterator[_Told]:
    keys = table.column("url_surtkey")
    matched = pa.array([False] * 0, pa.bool_())
    for _, _, key, exact in spans:
        hit = pc.equal(keys, key) if exact else pc.starts_with(keys, key)
        matched = hit if not len(matched) else pc.or_kleene(matched, hit)
    for row in table.filter(pc.fill_null(matched, False)).to_pylist():
        if None not in [row[name] for name in _NEEDED]:
            yield _row(row["warc_filename"], row["warc_record_offset"], row["warc_record_length"], row["url"], row)


def _row(filename: Any, offset: Any, length: Any, url: Any, told: dict[str, Any]) -> _Told:
    status = told.get("fetch_status") or told.get("status")
    mime = told.get("content_mime_detected") or told.get("mime-detected") or told.get("content_mime_type") or told.get("mime")
    known = int(status) if status is not None and re.fullmatch(r"[1-9]\d\d", str(status), re.ASCII) else None
    if not (isinstance(filename, str) and isinstance(url, str)):
        raise TypeError(f"{filename!r}, {url!r}: texts expected")
    return Capture(sys.intern(filename), _in_file(offset), _in_file(length), url), known, mime  # few files, many captures


def _in_file(number: Any) -> int:
    """ValueError for what no file of this world has."""
    if abs(value := int(number)) >= 1 << 62:
        raise ValueError(f"{value} bytes")
    return value


# --- CDX API -----------------------------------------------------------------------------------------------------------------


def _api_rows(endpoint: str, pattern: Pattern, remote: Remote) -> Iterator[_Told]:
    query = {"url": pattern.text, "output": "json"}
    pages = _json_lines(endpoint, query | {"showNumPages": "true"}, remote)
    if len(pages) == 1 and (isinstance(pages[0], int) or (isinstance(pages[0], dict) and "pages" in pages[0])):
        count = pages[0] if isinstance(pages[0], int) else int(pages[0]["pages"])
        answers: Iterator[list[Any]] = (_json_lines(endpoint, query | {"page": str(i)}, remote) for i in range(count))
    else:
        answers = iter([pages])  # it does not know pages, and gave everything
    for line in (line for answer in answers for line in answer):
        try:
            yield _row(line["filename"], line["offset"], line["length"], line["url"], line)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"the CDX server {endpoint} says {json.dumps(line)[:200]}; a capture expected") from error


def _json_lines(endpoint: str, query: dict[str, str], remote: Remote) -> list[Any]:
    url = f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}"
    try:
        data = remote.read(url)
    except InputError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return []  # Common Crawl's server has 404 for a URL it has not seen
        raise
    try:
        return [json.loads(line) for line in data.splitlines() if line.strip()]
    except ValueError as error:
        raise InputError(f"the CDX server {endpoint} does not answer in JSON: {data[:200]!r}") from error
