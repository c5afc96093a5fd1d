"""stages/crawl_commoncrawl.py: real archives beside warcio, every kind of failure, and pages through a real CDX server."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from warcio.archiveiterator import ArchiveIterator
from warcio.exceptions import ArchiveLoadFailed

from corpus.archives import Archive, read_listing
from corpus.document import document_id, verdict_of
from corpus.engine import LocalEngine, Silent
from corpus.errors import ConfigError, InputError, StorageError
from corpus.page import PAGE as SCHEMA
from corpus.page import page
from corpus.remote import Access, Remote
from corpus.report import Report
from corpus.runner import run
from corpus.step import Step, override
from corpus.warc import records
from stages.crawl_commoncrawl import REASONS, Config, check
from stages.crawl_commoncrawl import crawl as stage_crawl
from tests.archive_servers import every_third, serving
from tests.test_warc import record
from tests.toys import write_archives

QUICK = {"first_wait_s": 0.01, "stall_s": 0.1, "budget_s": 30.0}


@dataclass(frozen=True)
class Result:
    report: Report
    kept: list[dict[str, Any]]
    dropped: list[dict[str, Any]]

    def reasons(self) -> dict[str, str]:
        return {row["url"]: row["reason"] for row in self.dropped}


class Heard(Silent):
    """What a run says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def crawl(tmp_path: Path, progress: Heard | None = None, **fields: Any) -> Result:
    engine = LocalEngine(tmp_path / "root", progress)
    step = Step("crawl", Config(**fields))
    report = run(step, engine)["crawl"]
    folder = engine.folder(step)

    def rows(kind: str) -> list[dict[str, Any]]:
        return [row for path in sorted((folder / kind).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]

    return Result(report, rows("shards"), rows("dropped"))


def response(body: bytes, *headers: str, status: str = "200 OK", url: str = "http://a.example/", **more: Any) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(headers or ("Content-Type: text/html",)), "", ""]
    return record("\r\n".join(lines).encode() + body, url, **more)


def archive(path: Path, *records: bytes) -> str:
    path.write_bytes(b"".join(map(gzip.compress, records)))
    return str(path)


# --- Real archives -----------------------------------------------------------------------------------------------------------


def theirs(path: Path) -> list[tuple[str, bytes]]:
    """(URL, body) of the responses that are pages, by warcio; of WET files, of the conversions."""
    found = []
    with path.open("rb") as file:
        try:
            for r in ArchiveIterator(file, arc2warc=True):
                url = r.rec_headers.get_header("WARC-Target-URI")
                if r.rec_type == "conversion":
                    found.append((url, r.content_stream().read()))
                elif r.rec_type == "response" and r.http_headers.get_statuscode() == "200":
                    mime = r.http_headers.get_header("Content-Type", "").partition(";")[0].strip().lower()
                    if mime in ("text/html", "application/xhtml+xml"):
                        found.append((url, r.content_stream().read()))
        except ArchiveLoadFailed:
            pass
    return [(url, body) for url, body in found if body.strip()]


def test_the_documents_of_real_archives_are_warcios(corpus_data: Path, tmp_path: Path) -> None:
    """All of them at once: the same pages of the same URLs, decoded. Where there are more, warcio gave up on the file."""
    more = {
        "cc_4pages_onemember.warc.gz": 4,  # one gzip member for all: warcio stops after the first record
        "example-bad-non-chunked.warc.gz": 1,  # the same
        "example-wrong-chunks.warc.gz": 1,  # its block begins with line ends, after which warcio finds no head
    }
    result = crawl(tmp_path, warcs=(str(corpus_data / "warc"),))
    files = sorted(p for p in (corpus_data / "warc").iterdir() if p.name.endswith((".warc.gz", ".warc", ".arc.gz", ".wet.gz")))
    assert result.report.notes["files"] == len(files) == 15
    assert not {"broken", "encoding", "fetch_failed"} & set(result.report.dropped)
    for path in files:
        ours = [row for row in result.kept if row["warc"] == path.name]
        if path.name in more:
            assert len(ours) == more[path.name]
            continue
        expected = theirs(path)
        assert [row["url"] for row in ours] == [url for url, _ in expected]
        for row, (url, body) in zip(ours, expected, strict=True):
            codec = row["charset"] if row["charset_by"] != "bom" else "utf-8-sig"
            assert row["text"] == body.decode(codec, "replace"), url
            assert path.read_bytes()[row["offset"] :][:2] in (b"\x1f\x8b", b"WA")
    by_id = {row["id"]: row for row in result.kept}
    assert all((row["url"], row["created"]) == (by_id[row["id"]]["url"], by_id[row["id"]]["created"]) for row in result.kept)
    assert len(by_id) == len(result.kept) - 2  # two captures lie in two files each


def test_a_document_says_where_it_is_from(corpus_data: Path, tmp_path: Path) -> None:
    result = crawl(tmp_path, warcs=(str(corpus_data / "warc" / "cc_whirlwind.warc.gz"),), source="CC-MAIN-2024-22")
    (row,) = result.kept
    url, digest = "https://an.wikipedia.org/wiki/Escopete", "sha1:RY7PLBUFQNI2FFV5FTUQK72W6SNPXLQU"
    assert (row["url"], row["source"], row["mime"], row["charset"], row["charset_by"]) == (
        url, "CC-MAIN-2024-22", "text/html", "utf-8", "header",
    )  # fmt: skip
    assert row["created"].isoformat() == "2024-05-18T01:58:10+00:00"
    assert (row["warc"], row["meta"], row["lang"]) == ("cc_whirlwind.warc.gz", None, None)
    assert row["id"] == document_id(f"warc\n{url}\n2024-05-18T01:58:10Z\n{digest}")
    assert result.report.notes["records_request"] == 1


def test_extracted_text_comes_as_text(corpus_data: Path, tmp_path: Path) -> None:
    (row,) = crawl(tmp_path, warcs=(str(corpus_data / "warc" / "cc_whirlwind.warc.wet.gz"),)).kept
    assert row["mime"] == "text/plain" and json.loads(row["meta"]) == {"record": "conversion"}
    assert row["text"].startswith("Escopete - Biquipedia, a enciclopedia libre") and "\n" in row["text"]


# --- Every reason ------------------------------------------------------------------------------------------------------------

PAGE = b"<html><p>hello</p></html>"
HTML = "Content-Type: text/html"
ENTITIES = b'<!DOCTYPE html [<!ENTITY a "%s">%s]><html>&t;</html>' % (
    b"ha" * 50, b"".join(b'<!ENTITY %c "%s">' % (c, b"&%c;" % (c - 1) * 9) for c in range(98, 117))
)  # fmt: skip
CASES: dict[str, tuple[bytes, str | None, str]] = {
    "page": (response(PAGE), None, ""),
    "redirect": (response(b"", "Location: /x", status="301 Moved"), "status", "301 /x"),
    "missing": (response(PAGE, status="404 Not Found"), "status", "404"),
    "pdf": (response(b"%PDF-1.4 \xff"), "mime", "application/pdf served as text/html"),
    "noise": (response(bytes(range(256)) * 4), "mime", "binary served as text/html"),
    "text": (response(b"hello", "Content-Type: text/plain"), "mime", "text/plain"),
    "untyped": (response(PAGE, "X: y"), None, ""),
    "unknown": (response(b"hello", "X: y"), "mime", "no type"),
    "empty": (response(b" \n"), "empty", "2 bytes"),
    "large": (response(b"x" * 2001), "too_large", "more than 2000 bytes"),
    "huge": (response(b"x" * (1 << 20)), "too_large", "a record of 1048620 bytes, 2000 allowed"),
    "bomb": (response(gzip.compress(b"x" * 10**7), HTML, "Content-Encoding: gzip"), "too_large", "more than 2000"),
    "encoding": (response(b"\xff" * 500, "Content-Type: text/html; charset=iso-2022-jp"), None, ""),
    "revisit": (record(b"HTTP/1.1 200 OK\r\n\r\n", "x", kind="revisit"), "revisit", "unchanged since not said where"),
    "headless": (record(PAGE), "broken", "the block begins with no HTTP status, at byte "),
    "typeless": (record(PAGE).replace(b"WARC-Type: response\r\n", b""), "broken", "a record without a WARC-Type, at byte "),
    "resource": (record(PAGE, kind="resource").replace(b"WARC-Date", b"Content-Type: text/html\r\nWARC-Date"), None, ""),
    "chunked": (response(b"19\r\n" + PAGE + b"\r\n0\r\n\r\n", HTML, "Transfer-Encoding: chunked"), None, ""),
    "nul": (response(b"<p>" + b"x" * 200 + b"\0" + b"</p>"), None, ""),
    "short": (response(PAGE, length=500), None, ""),
    "entities": (response(ENTITIES, "Content-Type: application/xhtml+xml"), None, ""),
    "deep": (response(b"<b>" * 600), None, ""),
}  # fmt: skip


def named(name: str, data: bytes) -> bytes:
    """The record under a URL of its own."""
    return re.sub(rb"(?<=WARC-Target-URI: )[^\r]*", b"http://%s/" % name.encode(), data, count=1)


def test_every_reason_and_its_evidence(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.warc.gz", *(named(name, data) for name, (data, _, _) in CASES.items()))
    result = crawl(tmp_path, warcs=(path,), max_bytes=2000)
    kept = {row["url"]: row for row in result.kept}
    dropped = {row["url"]: row for row in result.dropped}
    assert len(kept) + len(dropped) == len(CASES) == result.report.read
    for name, (_, reason, evidence) in CASES.items():
        url = f"http://{name}/"
        if reason is None:
            assert url in kept, dropped.get(url)
        else:
            assert dropped[url]["reason"] == reason and dropped[url]["evidence"].startswith(evidence), dropped[url]
    assert kept["http://page/"]["text"] == kept["http://untyped/"]["text"] == kept["http://chunked/"]["text"] == PAGE.decode()
    assert json.loads(kept["http://short/"]["meta"])["truncated"].endswith("bytes missing in the archive")
    assert "\0" in kept["http://nul/"]["text"]
    assert kept["http://entities/"]["text"] == ENTITIES.decode()  # nothing is expanded
    assert set(result.report.dropped) <= set(REASONS)


def test_damage_costs_a_page_and_says_where(tmp_path: Path) -> None:
    members = [gzip.compress(response(PAGE, url=f"http://{i}.example/")) for i in range(3)]
    broken = bytearray(members[1])
    broken[len(broken) // 2] ^= 0xFF
    (tmp_path / "x.warc.gz").write_bytes(members[0] + bytes(broken) + members[2])
    result = crawl(tmp_path, warcs=(str(tmp_path / "x.warc.gz"),))
    assert [row["url"] for row in result.kept] == ["http://0.example/", "http://2.example/"]
    (row,) = result.dropped
    assert (
        row["reason"] == "broken" and f"at byte {len(members[0])} of x.warc.gz" in row["evidence"] and "gzip" in row["evidence"]
    )


def test_memory_does_not_grow_with_the_archive(tmp_path: Path) -> None:
    """Pages of 16 kB to 4.6 MB; what is held is a batch of 16 MB and a page or two, whatever the archive's size."""
    import tracemalloc

    pages = [b"<p>%d</p>" % i * (2000 << (i % 9)) for i in range(18)]
    once = b"".join(gzip.compress(response(body, url=f"http://{i}.example/"), 1) for i, body in enumerate(pages))
    config = Config(warcs=("x.warc.gz",), max_bytes=4 << 20)
    peaks, counts = [], []
    for times in (4, 16):
        (tmp_path / "x.warc.gz").write_bytes(once * times)
        arrow, rows = 0, 0
        tracemalloc.start()
        for verdict in stage_crawl(Archive("x.warc.gz", str(tmp_path / "x.warc.gz")), config):
            arrow, rows = max(arrow, pa.total_allocated_bytes()), rows + verdict.batch.num_rows
        peaks.append(tracemalloc.get_traced_memory()[1] + arrow)
        tracemalloc.stop()
        counts.append(rows)
    assert counts == [4 * 18, 16 * 18] and 4 * sum(map(len, pages)) > 64 << 20
    assert peaks[1] < 1.1 * peaks[0] and peaks[1] < 100 << 20


def test_what_is_wanted_is_a_setting(tmp_path: Path) -> None:
    path = archive(
        tmp_path / "x.warc.gz",
        response(b"hello", "Content-Type: text/plain", url="http://1/"),
        response(PAGE, status="404 No", url="http://2/"),
    )
    result = crawl(tmp_path, warcs=(path,), mime_types=("text/plain", "text/html"), statuses=(200, 404))
    assert [(row["url"], row["mime"]) for row in result.kept] == [("http://1/", "text/plain"), ("http://2/", "text/html")]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(CASES)), st.binary(max_size=6), st.integers(0, 10**6)), min_size=1, max_size=4)
)
def test_any_mutated_archive_is_accounted_for(changes: list[tuple[str, bytes, int]]) -> None:
    """Records with bytes put into them somewhere, inside and outside of the compression."""
    packed, count = b"", 0
    for name, new, at in changes:
        data = named(name, CASES[name][0])
        at %= len(data) + 1
        data = data[:at] + new + data[at:]
        packed += gzip.compress(data, 1)
        count += data.startswith(b"WARC/1.0\r\n")  # one without it may be taken for the rest of a record that is too short
    at = changes[0][2] % (len(packed) + 1)
    for whole in (packed, packed[:at] + changes[0][1] + packed[at:]):
        source, rules = io.BytesIO(whole), Config(warcs=("x",)).rules
        rows = [page(r, "x", rules) for r in records(source.read, rules.limit)]
        verdict = verdict_of(rows, SCHEMA)
        verdict.batch.validate(full=True)
        assert set(verdict.reason.to_pylist()) <= {None, *REASONS}
        if whole is packed:
            assert len(rows) >= count


# --- Three ways in -----------------------------------------------------------------------------------------------------------


def test_files_folders_globs_and_steps(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for i in (1, 2):
            archive(tmp_path / folder / f"{i}.warc.gz", response(PAGE, url=f"http://{folder}{i}/"))
    result = crawl(tmp_path, warcs=(f"{tmp_path}/b/*.warc.gz", f"{tmp_path}/a", f"{tmp_path}/a/1.warc.gz"))
    assert [row["url"] for row in result.kept] == ["http://b1/", "http://b2/", "http://a1/", "http://a2/"]
    assert result.kept[0]["warc"] == f"{tmp_path}/b/1.warc.gz"  # the name alone would be two files


def test_the_archives_of_a_step(tmp_path: Path) -> None:
    step = Step("crawl", Config(warcs=(Step("render", write_archives.Config(pages=3)),)))
    engine = LocalEngine(tmp_path)
    run(step, engine)
    tables = [pq.read_table(path) for path in sorted((engine.folder(step) / "shards").glob("*.parquet"))]
    assert pa.concat_tables(tables).column("url").to_pylist() == [f"http://{i}.example/" for i in range(3)]
    other = override(step, {"render.pages": "4"})
    assert other.fingerprint != step.fingerprint
    replaced = override(step, {"crawl.warcs": "x.warc.gz,y.warc.gz"})
    assert replaced.config.warcs == ("x.warc.gz", "y.warc.gz")
    with pytest.raises(InputError, match="step render wrote no web archives"):
        run(override(step, {"render.pages": "0"}), engine)


def test_the_fingerprint_sees_what_lies_at_a_path(tmp_path: Path) -> None:
    path = tmp_path / "x.warc.gz"
    archive(path, response(PAGE))
    first = Config(warcs=(str(path),))
    os.utime(path, (1, 1))
    assert Config(warcs=(str(path),)) == first
    archive(path, response(PAGE + b" "))
    assert Config(warcs=(str(path),)) != first
    with pytest.raises(InputError, match="changed since the recipe was read"):
        check(first)
    for missing in (str(tmp_path / "none"), f"{tmp_path}/*.arc"):
        with pytest.raises(InputError, match="nothing is at"):
            check(Config(warcs=(missing,)))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({}, "at least one"),
        ({"index": "x"}, "with urls"),
        ({"urls": ("a.example",), "warcs": ("x",)}, "with urls"),
        ({"index": "x", "cdx": "y", "urls": ("a.example",)}, "one of index and cdx"),
        ({"cdx": "y", "urls": ("*",)}, "URL pattern"),
        ({"warcs": ("x",), "count": 3}, "choose from a listing"),
        ({"paths": "x", "count": 0}, "count = 0"),
        ({"warcs": ("x",), "max_bytes": 0}, "max_bytes = 0"),
        ({"warcs": ("x",), "statuses": ()}, "statuses"),
        ({"warcs": ("x",), "mime_types": ("Text/HTML",)}, "mime_types"),
        ({"warcs": ("x",), "first_wait_s": 0}, "first_wait_s"),
        ({"warcs": ("x",), "budget_s": float("nan")}, "budget_s"),
    ],
)
def test_settings_that_cannot_be_meant(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Config(**fields)


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """A crawl of ten files, listed as Common Crawl lists its own."""
    root = tmp_path / "snapshot"
    (root / "crawl").mkdir(parents=True)
    for i in range(10):
        archive(root / "crawl" / f"{i}.warc.gz", response(PAGE, url=f"http://{i}.example/"))
    (root / "warc.paths.gz").write_bytes(gzip.compress("".join(f"crawl/{i}.warc.gz\n" for i in range(10)).encode()))
    return root


def test_a_listing_its_ranges_and_samples(snapshot: Path, tmp_path: Path) -> None:
    local = {"paths": str(snapshot / "warc.paths.gz"), "prefix": f"{snapshot}/"}

    def numbers(**fields: Any) -> list[int]:
        return [int(row["url"][7]) for row in crawl(tmp_path, **local, **fields).kept]

    assert numbers() == list(range(10)) and numbers(first=3, count=2) == [3, 4] and numbers(first=8) == [8, 9]
    some, more = numbers(sample=3, seed=5), numbers(sample=6, seed=5)
    assert some == sorted(some) and len(some) == 3 and set(some) < set(more) and len(more) == 6
    assert some == numbers(sample=3, seed=5) and len({tuple(numbers(sample=3, seed=s)) for s in range(5)}) > 1
    result = crawl(tmp_path, **local, count=1)
    assert result.kept[0]["warc"] == "crawl/0.warc.gz"
    with pytest.raises(InputError, match="has 10 lines"):
        numbers(first=10)


def test_listings_of_several_gzip_members_and_damaged_ones(tmp_path: Path) -> None:
    path, whole = tmp_path / "warc.paths.gz", gzip.compress(b"a\r\n# b\n\n") + gzip.compress(b"c\nd")
    for data in (whole, gzip.decompress(whole), b"\xef\xbb\xbf" + gzip.decompress(whole)):
        path.write_bytes(data)
        assert read_listing(str(path), Remote(Access())) == ["a", "c", "d"]
    for data, said in ((whole[:-3], "damaged"), (whole[:-8] + b"x" * 8, "damaged"), (b"", "empty"), (b"# a", "empty")):
        path.write_bytes(data)
        with pytest.raises(InputError, match=said):
            read_listing(str(path), Remote(Access()))


def test_whole_files_through_a_server_that_fails_every_third_request(snapshot: Path, tmp_path: Path) -> None:
    with serving(snapshot, every_third) as server:
        paths = server.url + "warc.paths.gz"
        result = crawl(tmp_path, paths=paths, prefix=server.url, user_agent="ours/1", **QUICK)
        assert server.agents == {"ours/1"}
    assert [row["url"] for row in result.kept] == [f"http://{i}.example/" for i in range(10)] and not result.dropped
    assert result.report.notes["requests"] >= 14 and result.report.notes["waited_s"] >= 0


def test_a_file_that_cannot_be_had_is_a_row_and_stops_nobody(snapshot: Path, tmp_path: Path) -> None:
    (snapshot / "crawl" / "4.warc.gz").unlink()
    heard = Heard()
    with serving(snapshot) as server:
        urls = tuple(f"{server.url}crawl/{i}.warc.gz" for i in range(10))
        result = crawl(tmp_path, heard, warcs=(*urls, "nonsense://x/y.warc.gz"), **QUICK)
    assert len(result.kept) == 9 and [row["reason"] for row in result.dropped] == ["fetch_failed"] * 2
    assert "FileNotFoundError" in result.dropped[0]["evidence"] and urls[4] in result.dropped[0]["evidence"]
    assert result.report.notes["files_failed"] == 2
    assert any("2 files or records could not be had, the last: nonsense://x/y.warc.gz" in line for line in heard.lines)


def test_what_came_before_the_server_went_away_is_kept(snapshot: Path, tmp_path: Path) -> None:
    path = snapshot / "crawl" / "0.warc.gz"
    archive(path, *(response(os.urandom(30_000).hex().encode(), url=f"http://{i}/") for i in range(40)))
    with serving(snapshot, lambda n: "stall" if n == 1 else "503") as server:
        result = crawl(tmp_path, warcs=(f"{server.url}crawl/0.warc.gz",), **{**QUICK, "budget_s": 0.05})
    assert len(result.kept) >= 5
    assert [row["reason"] for row in result.dropped] == ["fetch_failed"]


def test_a_cache_that_cannot_be_written_stops_the_run_instead_of_dropping_everything(snapshot: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with serving(snapshot) as server, pytest.raises(StorageError, match="cannot write to the cache"):
        crawl(tmp_path, warcs=(server.url + "crawl/0.warc.gz",), cache=str(tmp_path / "file"), **QUICK)


def test_with_a_cache_a_second_crawl_asks_nobody(snapshot: Path, tmp_path: Path) -> None:
    with serving(snapshot, every_third) as server:
        asked = {"paths": server.url + "warc.paths.gz", "prefix": server.url, "cache": str(tmp_path / "cache"), **QUICK}
        first = crawl(tmp_path / "a", **asked)
        count = len(server.requests)
        second = crawl(tmp_path / "b", **asked)
        assert len(server.requests) == count
    assert first.kept == second.kept and len(first.kept) == 10 and "requests" not in second.report.notes
