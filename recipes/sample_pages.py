"""The offline web sample: documentation found on this machine, rendered as the pages of made-up sites and wrapped as WARC.

Every source (a package, the installed distributions, …) becomes one file, warc/NUMBER-NAME.warc.gz, one gzip member a record.
Pages are real text in made-up mark-up: navigation, sidebars and footers around it, seven ways of writing formulae, several
charsets. So that every rule of the web track has work, some pages, drawn by the hash of their URL, also come

    a second time, under an equal address (http, www., upper case, utm_source, #part), some months later
    on a mirror, in another site's dress: a near-duplicate
    as a redirect, a 404, a revisit record, PDF bytes called HTML
    with bytes that are not in the charset declared, gzipped, or in chunks

and the richest page of the first source of the topic `math` ends in the exercises of `planted`, so that decontamination finds
a web page.

The same sources give the same bytes: dates and record ids come from hashes of URLs, never from a clock.
"""

from __future__ import annotations

import dataclasses
import datetime
import gzip
import html
import io
import json
import sysconfig
import uuid
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import xxhash
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from corpus.engine import Engine
from corpus.errors import ConfigError, InputError
from corpus.report import Report
from corpus.repository import Repository
from corpus.shards import Items, atomic
from recipes.page_markup import formulas_in
from recipes.page_material import order
from recipes.page_sites import PACKAGES, SITES, Page, html_of, pages_of
from recipes.sources import installed_package, standard_library
from stages.index_benchmarks import Benchmark

__all__ = ["REASONS", "REVISION", "Config", "convert", "run", "sources"]

REVISION = 1
REASONS: tuple[str, ...] = ()  # it reads no documents

_FIRST_DAY = datetime.datetime(2024, 1, 1)
_CHARSETS = {"de": "iso-8859-1", "es": "iso-8859-15", "fr": "windows-1252", "ja": "shift_jis", "ko": "euc-kr",
             "pl": "iso-8859-2", "ru": "windows-1251", "tr": "windows-1254", "uk": "koi8-u", "zh": "gb18030"}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """sources: folders with names that recipes/page_sites.py knows; planted: its items stand in one page."""

    sources: tuple[Repository, ...]
    planted: Benchmark | None = None

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        if not names or len(set(names)) < len(names) or not all(source.name and source.path for source in self.sources):
            raise ConfigError(f"sample_pages.sources = {names}: at least one folder expected, each with a name of its own")


def sources() -> tuple[Repository, ...]:
    """What this machine has of what the sample can show."""
    site_packages = Path(sysconfig.get_paths()["purelib"])
    found = [package for name in PACKAGES if (package := installed_package(name)) is not None]
    installed = "\n".join(sorted(folder.name for folder in site_packages.glob("*.dist-info")))
    found.append(standard_library())
    found.append(_folder(site_packages, "site-packages", installed))
    copyrights = Path("/usr/share/doc")
    if listing := sorted(
        f"{path.parent.name} {path.stat().st_size}" for path in copyrights.glob("*/copyright") if path.is_file()
    ):
        found.append(_folder(copyrights, "copyrights", "\n".join(listing)))
    return tuple(found)


def _folder(path: Path, name: str, version: str) -> Repository:
    return Repository(path=str(path), name=name, kind="tree", version=xxhash.xxh3_64_hexdigest(version.encode()))


# --- Records -----------------------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """What a server said when asked for a URL, `day` days into the crawl."""

    url: str
    body: bytes
    status: str = "200 OK"
    mime: str = "text/html; charset=utf-8"
    day: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    kind: str = "response"


def answers(pages: list[Page]) -> Iterator[Answer]:
    """Every page, and what befalls some of them."""
    menus: dict[str, list[str]] = defaultdict(list)
    for page in pages:
        if len(menus[page.domain]) < 12:
            menus[page.domain].append(page.title[:60])
    for page in pages:
        h = order(page.url)
        nav = menus[page.domain]
        body, charset = _encoded(page, nav)
        day = h // 7 % 200
        declared = "text/html" if h % 3 == 0 else f"text/html; charset={charset}"
        plain = Answer(page.url, body, mime=declared, day=day)
        yield _transferred(plain, h)
        if h % 40 == 0:
            yield plain._replace(url=_variant(page, h // 40), day=day + 100)
        if h % 60 == 1:
            mirror = page._replace(domain="mirror.example", at=f"{page.domain}/{page.at}", look="blog")
            yield Answer(mirror.url, html_of(mirror, nav, "utf-8").encode("utf-8", "replace"), day=day)
        yield from _failures(page, body, day, h // 64)


def _encoded(page: Page, nav: list[str]) -> tuple[bytes, str]:
    charset = _CHARSETS.get(page.lang, "utf-8")
    if order(page.at) % 250 == 5:  # says one thing and sends another
        return html_of(page, nav, "utf-8").encode("utf-16-le", "replace"), "utf-8"
    try:
        return html_of(page, nav, charset).encode(charset), charset
    except UnicodeEncodeError:
        return html_of(page, nav, "utf-8").encode("utf-8", "replace"), "utf-8"


def _variant(page: Page, h: int) -> str:
    """Another spelling of the page's address."""
    return (
        f"http://{page.domain}/{page.at}",
        f"https://{page.domain.upper()}:443/{page.at}#top",
        f"https://{page.domain}/{page.at}?utm_source=newsletter&utm_medium=mail",
        f"https://{page.domain}/./{page.at}?",
    )[h % 4]


def _transferred(answer: Answer, h: int) -> Answer:
    if h % 50 == 6:
        packed = gzip.compress(answer.body, 6, mtime=0)
        return answer._replace(body=packed, headers=(("Content-Encoding", "gzip"),))
    if h % 50 == 7:
        pieces = [answer.body[i : i + 4096] for i in range(0, len(answer.body), 4096)]
        chunked = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        return answer._replace(body=chunked, headers=(("Transfer-Encoding", "chunked"),))
    return answer


def _failures(page: Page, body: bytes, day: int, h: int) -> Iterator[Answer]:
    old = f"https://{page.domain}/old/{page.at}"
    if h % 150 == 0:
        yield Answer(old, b"", "301 Moved Permanently", day=day, headers=(("Location", page.url),))
    if h % 150 == 1:
        lost = (
            f"<html><head><title>Not found</title></head><body><h1>404</h1><p>No page {html.escape(page.at)}.</p></body></html>"
        )
        yield Answer(old, lost.encode(), "404 Not Found", day=day)
    if h % 150 == 2:
        pdf = b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\n" + bytes(range(256)) * 8 + b"\n%%EOF\n"
        yield Answer(f"https://{page.domain}/{page.at}.pdf", pdf, day=day)
    if h % 150 == 3:
        yield Answer(page.url, body, day=day + 30, kind="revisit")
    if h % 150 == 4:
        yield Answer(f"https://{page.domain}/logo.png?{page.at}", b"\x89PNG\r\n\x1a\n" + bytes(64), mime="image/png", day=day)
    if h % 20 == 5:
        yield Answer(page.url, b"", day=day, kind="request")


def _write(writer: WARCWriter, answer: Answer) -> None:
    h = order(f"{answer.url}\n{answer.kind}\n{answer.day}")
    date = _FIRST_DAY + datetime.timedelta(days=answer.day, seconds=h % 86_400)
    named = {
        "WARC-Date": date.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "WARC-Record-ID": f"<urn:uuid:{uuid.UUID(int=h << 64 | order(answer.url))}>",
    }
    if answer.kind == "request":
        http = StatusAndHeaders(f"GET {answer.url} HTTP/1.1", [("User-Agent", "sample")], is_http_request=True)
        writer.write_record(writer.create_warc_record(answer.url, "request", http_headers=http, warc_headers_dict=named))
        return
    length = [("Content-Length", str(len(answer.body)))]
    http = StatusAndHeaders(answer.status, [("Content-Type", answer.mime), *answer.headers, *length], protocol="HTTP/1.1")
    if answer.kind == "revisit":
        digest = f"sha1:{answer.day:032X}"
        record = writer.create_revisit_record(answer.url, digest, answer.url, named["WARC-Date"], http, named)
    else:
        body = io.BytesIO(answer.body)
        record = writer.create_warc_record(
            answer.url, "response", body, len(answer.body), warc_headers_dict=named, http_headers=http
        )
    writer.write_record(record)


# --- The stage ---------------------------------------------------------------------------------------------------------------


def convert(
    batches: Iterator[pa.RecordBatch], name: str, out: Path, config: Config
) -> tuple[list[tuple[Path, int]], dict[str, Any]]:
    """The WARC file of one source. A batch is one row: its position in `config.sources`."""
    (position,) = (row for batch in batches for row in batch.column("position").to_pylist())
    source = config.sources[position]
    pages = list({page.url: page for page in pages_of(source)}.values())
    if config.planted is not None and source.name == _first_of_math(config):
        pages = _with_exercises(pages, config.planted)
    path = out / "warc" / f"{name}-{source.name}.warc.gz"
    notes: dict[str, Any] = {"pages": len(pages), "records": 0, "bytes": 0}
    with atomic(path) as temporary, temporary.open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        for answer in answers(pages):
            _write(writer, answer)
            notes["records"] += 1
            notes["bytes"] += len(answer.body)
    for topic in ("math", "code", "prose"):
        notes[f"pages_{topic}"] = sum(page.topic == topic for page in pages)
    return [(path, notes["records"])], notes


def _first_of_math(config: Config) -> str | None:
    math = {site.prefix for site in SITES if site.topic == "math"}
    return min((source.name for source in config.sources if source.name in math), default=None)


def _with_exercises(pages: list[Page], planted: Benchmark) -> list[Page]:
    """The planted items after the text of the page with the most formulae."""
    rich = max(range(len(pages)), key=lambda i: (pages[i].topic == "math", formulas_in(pages[i].body), i), default=None)
    if rich is None:
        return pages
    try:
        items = [json.loads(line) for line in Path(planted.path).read_text("utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(f"benchmark {planted.name}: {planted.path} cannot be read ({error})") from error
    told = "".join(f"<p>{html.escape(str(item.get(field, '')))}</p>" for item in items for field in planted.fields)
    pages[rich] = pages[rich]._replace(body=f"{pages[rich].body}\n<h2>Exercises</h2>\n{told}")
    return pages


def run(config: Config, out: Path, engine: Engine) -> Report:
    items = tuple(pa.record_batch({"position": pa.array([i], pa.int64())}) for i in range(len(config.sources)))
    return engine.map_files(partial(convert, config=config), Items(items), out)
