"""Reading web archives beside warcio and FastWARC, and their floor: decompressing the members and doing nothing else.

Two archives. One is laid out as Common Crawl's: request, response and metadata for each page, a gzip member per record; the
pages are those of $CORPUS_DATA/html, 75 kB each on average (without it, the sample's files). The other is a real slice of
Common Crawl, with pages of half that size and more records per byte. Rates are over the responses' bodies.

The floor is libdeflate, which nothing we found decompresses faster than, called for each member by itself.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import deflate
import fastwarc.warc
import zstandard
from warcio.archiveiterator import ArchiveIterator
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from bench.measure import Row, Sample, rate, rates
from corpus.archives import Archive
from corpus.engine import LocalEngine
from corpus.gzip_members import Members, pieces
from corpus.http_body import parse, unpack
from corpus.warc import records
from stages import crawl_commoncrawl
from stages.crawl_commoncrawl import Config, crawl

_LIMIT = 8 << 20
_LARGE = 1_500_000_000  # bytes of pages in the archive whose memory is measured


def pages(sample: Sample) -> Iterator[tuple[str, bytes, str]]:
    """(URL, body, charset)."""
    if where := os.environ.get("CORPUS_DATA"):
        with (Path(where) / "html" / "pages.jsonl.zst").open("rb") as file:
            for line in zstandard.ZstdDecompressor().stream_reader(file).read().splitlines():
                row = json.loads(line)
                charset = row["charset"] or "utf-8"
                yield row["url"].replace(" ", "%20"), row["html"].encode(charset, "xmlcharrefreplace"), charset
        return
    for batch in sample.batches:
        for name, text in zip(batch.column("id").to_pylist(), batch.column("text").to_pylist(), strict=True):
            yield f"http://{name}.example/", text.encode("utf-8"), "utf-8"


def write(path: Path, sample: Sample) -> tuple[int, int]:
    """The archive; bytes and number of the bodies in it."""
    size = count = 0
    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        for url, body, charset in pages(sample):
            head = StatusAndHeaders("200 OK", [("Content-Type", f"text/html; charset={charset}")], protocol="HTTP/1.1")
            asked = StatusAndHeaders("GET / HTTP/1.1", [("Host", "example.com")], is_http_request=True)
            told = io.BytesIO(b"fetchTimeMs: 327\r\ncharset-detected: UTF-8\r\n" * 3)
            writer.write_record(writer.create_warc_record(url, "request", payload=io.BytesIO(b""), http_headers=asked))
            writer.write_record(writer.create_warc_record(url, "response", payload=io.BytesIO(body), http_headers=head))
            writer.write_record(writer.create_warc_record(url, "metadata", payload=told))
            size += len(body)
            count += 1
    return size, count


def ours(path: Path) -> int:
    with path.open("rb") as file:
        found = (unpack(parse(r.block), _LIMIT) for r in records(file.read, _LIMIT) if r.kind == "response")
        return sum(len(body.data) for body in found)


def by_warcio(path: Path) -> int:
    with path.open("rb") as file:
        return sum(len(r.content_stream().read()) for r in ArchiveIterator(file) if r.rec_type == "response")


def by_fastwarc(path: Path) -> int:
    kinds = fastwarc.warc.WarcRecordType.response
    with path.open("rb") as file:
        return sum(len(r.reader.read()) for r in fastwarc.warc.ArchiveIterator(file, record_types=kinds, parse_http=True))


READERS: dict[str, Callable[[Path], int]] = {"warcio": by_warcio, "FastWARC": by_fastwarc}


def reading(path: Path, what: str, note: str) -> Row:
    """A row of the readers; ValueError unless all find the same bodies."""
    size = ours(path)
    if any(reader(path) != size for reader in READERS.values()):
        raise ValueError(f"the readers find other bodies in {path.name} than we do")
    data = path.read_bytes()
    bounds = [found.starts_S for found in pieces(io.BytesIO(data).read) if isinstance(found, Members)]
    members = [data[a:b] for starts_S in bounds for a, b in itertools.pairwise(starts_S.tolist())]
    readers = {"ours": ours, **READERS}
    floor = {"floor: gunzip alone": partial(gunzip, members)}
    found = rates({name: partial(reader, path) for name, reader in readers.items()} | floor, size, repeats=7)
    return Row("crawl_commoncrawl", what, found.pop("ours"), found, note)


def gunzip(members: list[bytes]) -> None:
    for member in members:
        deflate.gzip_decompress(member)


def documents(path: Path, config: Config) -> int:
    """As the stage makes them, up to the Arrow batches."""
    return sum(verdict.batch.num_rows for verdict in crawl(Archive(path.name, str(path)), config))


def stage(config: Config, folder: Path, size: int) -> float:
    """The whole stage over LocalEngine, Parquet written."""
    outs = iter(range(100))  # a finished folder would be resumed

    def once() -> None:
        crawl_commoncrawl.run(config, folder / f"out{next(outs)}", LocalEngine(folder))

    return rate(once, size)


def peak_memory(path: Path) -> int:
    """Bytes, of a process that makes the archive's documents and does nothing else."""
    code = (
        "import resource, sys; from pathlib import Path; from bench.crawl_commoncrawl import Config, documents; "
        "documents(Path(sys.argv[1]), Config(warcs=(sys.argv[1],))); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True)
    return int(done.stdout)


def bench(sample: Sample) -> list[Row]:
    logging.getLogger("warcio").setLevel(logging.ERROR)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pages.warc.gz"
        size, count = write(path, sample)
        note = f"{size / 1e6:.0f} MB in {count:,} pages, 3 records each; bodies equal"
        rows.append(reading(path, "records and HTTP bodies of a WARC", note))
        if where := os.environ.get("CORPUS_DATA"):
            real = (Path(where) / "warc" / "cc_16pages.warc.gz").read_bytes()
            slice_of = Path(folder) / "slice.warc.gz"
            slice_of.write_bytes(real * 50)
            rows.append(reading(slice_of, "the same of a slice of Common Crawl", "50 times 16 pages; bodies equal"))
        config = Config(warcs=(str(path),))
        rows.append(Row("crawl_commoncrawl", "WARC to decoded documents", rate(partial(documents, path, config), size)))
        rows.append(Row("crawl_commoncrawl", "whole stage, WARC to Parquet", stage(config, Path(folder), size)))
        large, times = Path(folder) / "large.warc.gz", max(2, round(_LARGE / size))
        with large.open("wb") as file, contextlib.closing(path.open("rb")) as one:
            for data in [one.read()] * times:
                file.write(data)
        peaks = peak_memory(path) / 1e6, peak_memory(large) / 1e6
        speed = rate(partial(documents, large, config), size * times, repeats=1)
        said = f"peak memory {peaks[1]:.0f} MB; of the archive of {size / 1e6:.0f} MB {peaks[0]:.0f} MB"
        rows.append(Row("crawl_commoncrawl", f"the same pages in a WARC of {size * times / 1e9:.1f} GB", speed, {}, said))
    return rows
