"""stages/crawl_commoncrawl.py against the real things: a CDX server (pywb), an object store (moto), a server that fails."""

from __future__ import annotations

import io
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from moto.server import ThreadedMotoServer
from warcio.archiveiterator import ArchiveIterator
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from tests.archive_servers import cdx_server, every_third, install_pywb, serving
from tests.test_cdx import index_file
from tests.test_crawl_commoncrawl import QUICK, Result, crawl, snapshot

__all__ = ["snapshot"]  # a fixture

# --- A real CDX server -------------------------------------------------------------------------------------------------------

INDEXED = ("cc_16pages.warc.gz", "cc_whirlwind.warc.gz", "dolma_sample-0000.warc.gz", "dupes.warc.gz", "iana.warc.gz")


@pytest.fixture(scope="module")
def pywb() -> Path:
    return install_pywb()


@pytest.fixture
def written(tmp_path: Path) -> list[Path]:
    """Archives as crawlers write them, for machines without real ones: eight hosts, two character sets, chunked or not, and
    what is no page."""
    paths = []
    for name in ("one.warc.gz", "two.warc.gz"):
        paths.append(tmp_path / name)
        with paths[-1].open("wb") as file:
            writer = WARCWriter(file, gzip=True)
            for i in range(40):
                url = f"http://{'abcdefgh'[i % 8]}.iana.org/{name[:3]}/{i}"
                status, mime = (
                    ("301 Moved", "text/html") if i % 9 == 5 else ("200 OK", "image/png" if i % 9 == 7 else "text/html")
                )
                charset = ("utf-8", "iso-8859-1")[i % 2]
                headers = [("Content-Type", f"{mime}; charset={charset}")]
                body = f"<p>Größe {i}: {name}</p>".encode(charset) * (200 + i)
                if i % 4 == 3:
                    headers.append(("Transfer-Encoding", "chunked"))
                    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
                head = StatusAndHeaders(status, headers, protocol="HTTP/1.1")
                record = writer.create_warc_record(url, "response", payload=io.BytesIO(body), http_headers=head)
                writer.write_record(record)
    return paths


def lines_of(address: str, query: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{address}?{query}&output=json") as answer:
        return [json.loads(line) for line in answer.read().splitlines()]


def expected_pages(paths: list[Path]) -> dict[tuple[str, int], tuple[str, bytes]]:
    """(file, offset) -> (URL, body) of the pages, by warcio from the files themselves."""
    found = {}
    for path in paths:
        with path.open("rb") as file:
            reader = ArchiveIterator(file)
            for r in reader:
                url = (r.rec_headers.get_header("WARC-Target-URI") or "").strip("<>")
                http = r.http_headers
                if r.rec_type != "response" or http.get_statuscode() != "200":
                    continue
                if "text/html" in http.get_header("Content-Type", ""):
                    body = r.content_stream().read()
                    found[path.name, reader.get_record_offset()] = (url, body)
    return found


def test_pages_by_url_pattern_from_a_real_cdx_server_and_a_columnar_index(
    corpus_data: Path, tmp_path: Path, pywb: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real archives of five crawlers; the server's index has pages, as Common Crawl's has."""
    paths = [corpus_data / "warc" / name for name in INDEXED]
    hosts = {urlsplit(url).netloc for url, _ in expected_pages(paths).values()}
    assert len(hosts) > 30
    result = pages_arrive(paths, tmp_path, pywb, monkeypatch, paged=True)
    assert len(result.kept) > 50
    assert result.report.notes["index_other_mime"] > 100  # pictures, scripts and revisits


def test_pages_from_a_real_cdx_server_that_knows_no_pages(
    written: list[Path], tmp_path: Path, pywb: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs wherever there is a package index: its archives are written here."""
    result = pages_arrive(written, tmp_path, pywb, monkeypatch, paged=False)
    assert len(result.kept) == 64 and result.report.notes["index_other_status"] == 8
    assert {row["charset"] for row in result.kept} == {"utf-8", "cp1252"}


def pages_arrive(paths: list[Path], tmp_path: Path, pywb: Path, monkeypatch: pytest.MonkeyPatch, paged: bool) -> Result:
    """All pages, whole, through a server that fails every third request: 503, a stall, the end of the connection amid the body,
    in turn. Then the same again by a columnar index of the same captures."""
    expected = expected_pages(paths)
    hosts = sorted({urlsplit(url).netloc for url, _ in expected.values()})
    patterns = ("*.iana.org", "www.iana.org/domains/*", *(f"{host}/*" for host in hosts if "iana" not in host))
    monkeypatch.setattr("corpus.remote._GAP", -1)  # every page a request of its own
    with cdx_server(pywb, tmp_path / "pywb", paths, paged) as address:
        (said,) = lines_of(address, "url=*.iana.org&showNumPages=true") if paged else ({"pages": 1},)
        assert said["pages"] > 1 or not paged
        with serving(paths[0].parent, every_third) as server:
            asked = {"urls": patterns, "prefix": server.url, **QUICK}
            result = crawl(tmp_path / "api", cdx=address, **asked)
            failed = [what for _, _, what in server.requests if what]
        pages = [f"&page={i}" for i in range(said["pages"])] if paged else [""]
        everything = [row for page in pages for row in lines_of(address, f"url=*.iana.org{page}")]
        everything += [row for host in hosts if "iana" not in host for row in lines_of(address, f"url={host}/*")]
    assert len(failed) > len(expected) / 3 and set(failed) == {"503", "stall", "close"}
    assert not result.dropped
    check_pages(result, expected)
    monkeypatch.undo()
    columns = columnar(everything, tmp_path / "index.parquet")
    with serving(paths[0].parent, every_third) as server:
        again = crawl(tmp_path / "columns", index=str(columns), **{**asked, "prefix": server.url})
    assert [row["id"] for row in again.kept] == [row["id"] for row in result.kept] and not again.dropped
    assert [row["text"] for row in again.kept] == [row["text"] for row in result.kept]
    assert again.report.notes["captures"] == result.report.notes["captures"] == len(expected)
    return result


def check_pages(result: Result, expected: dict[tuple[str, int], tuple[str, bytes]]) -> None:
    assert {(row["warc"], row["offset"]) for row in result.kept} == set(expected)
    for row in result.kept:
        url, body = expected[row["warc"], row["offset"]]
        assert (row["url"], row["text"]) == (url, body.decode(row["charset"], "replace").removeprefix("\ufeff"))


def columnar(lines: list[dict[str, Any]], path: Path) -> Path:
    rows = sorted(lines, key=lambda line: line["urlkey"])
    table = pa.table(
        {
            "url_surtkey": [row["urlkey"] for row in rows],
            "url": [row["url"] for row in rows],
            "fetch_status": pa.array(
                [int(row["status"]) if row.get("status", "-").isdigit() else None for row in rows], pa.int16()
            ),
            "content_mime_type": [row["mime"] for row in rows],
            "content_mime_detected": [row["mime"] for row in rows],
            "warc_filename": [row["filename"] for row in rows],
            "warc_record_offset": pa.array([int(row["offset"]) for row in rows], pa.int32()),
            "warc_record_length": pa.array([int(row["length"]) for row in rows], pa.int32()),
        }
    )
    pq.write_table(table, path, row_group_size=20)
    return path


# --- Object stores -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty bucket of a real S3 server (moto) on loopback, which s3:// URLs lead to."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"client_kwargs": {"endpoint_url": f"http://{host}:{port}"}})
    s3fs.S3FileSystem.clear_instance_cache()
    fs = fsspec.filesystem("s3")
    fs.mkdir("crawl")
    yield fs
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_object_stores(bucket: Any, snapshot: Path, tmp_path: Path) -> None:
    bucket.put(str(snapshot), "s3://crawl/", recursive=True)
    found = bucket.find("s3://crawl")
    prefix = "s3://" + next(path for path in found if path.endswith("warc.paths.gz")).removesuffix("warc.paths.gz")
    listed = crawl(tmp_path, paths=prefix + "warc.paths.gz", prefix=prefix, **QUICK)
    globbed = crawl(tmp_path, warcs=(prefix + "crawl/*.warc.gz",), **QUICK)
    assert (
        [row["url"] for row in listed.kept]
        == [row["url"] for row in globbed.kept]
        == [f"http://{i}.example/" for i in range(10)]
    )
    index = index_file(
        tmp_path / "index.parquet", ["http://example.com/"], warc_filename=["crawl/7.warc.gz"], warc_record_offset=[0],
        warc_record_length=[(snapshot / "crawl" / "7.warc.gz").stat().st_size],
    )  # fmt: skip
    bucket.put(str(index), prefix + "index/part-0.parquet")
    single = crawl(tmp_path, index=prefix + "index/*.parquet", urls=("*.example.com",), prefix=prefix, **QUICK)
    assert [row["url"] for row in single.kept] == ["http://7.example/"] and not single.dropped
    lost = crawl(tmp_path, warcs=(prefix + "crawl/none.warc.gz",), **QUICK)
    assert [row["reason"] for row in lost.dropped] == ["fetch_failed"]
