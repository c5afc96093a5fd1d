"""corpus/http_body.py and corpus/media_type.py: responses as warcio unpacks them, and those it does not."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from pathlib import Path

import brotli
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from warcio.archiveiterator import ArchiveIterator

from corpus.http_body import Body, parse, unpack
from corpus.media_type import binary_type, media_type
from corpus.warc import records

PAGE = b"<html><p>" + b"All work and no play makes Jack a dull boy. \xe4\xb8\xad" * 300 + b"</html>"
PACKED = {
    "gzip": gzip.compress(PAGE),
    "x-gzip": gzip.compress(PAGE[:5000]) + gzip.compress(PAGE[5000:]),
    "deflate": zlib.compress(PAGE),
    "Deflate": zlib.compress(PAGE)[2:-4],  # without zlib's own head and sum, as many servers send it
    "br": brotli.compress(PAGE),
    "zstd": zstandard.compress(PAGE),
}


def body(data: bytes, *headers: str, limit: int = 1 << 24) -> Body:
    found = unpack(parse("\r\n".join(["HTTP/1.1 200 OK", *headers, "", ""]).encode() + data), limit)
    return found._replace(data=bytes(found.data))


def chunked(data: bytes, size: int) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(data[i : i + size]), data[i : i + size]) for i in range(0, len(data), size))


NAMES = [
    "cc_16pages.warc.gz",
    "cc_whirlwind.warc.gz",
    "iana.warc.gz",
    "dupes.warc.gz",
    "example-wget-1-14.warc.gz",
    "example.warc.gz",
    "example.arc.gz",
    "iana-chunked.warc",
    "example-trunc.warc",
    "IAH-urls-wget.warc.gz",
    "dolma_sample-0000.warc.gz",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_bodies_of_real_archives_are_warcios(corpus_data: Path, name: str) -> None:
    path = corpus_data / "warc" / name
    ours = []
    for record in records(io.BytesIO(path.read_bytes()).read, 1 << 30):
        if record.kind == "response":
            response = parse(record.block)
            ours.append((response.status, bytes(unpack(response, 1 << 30).data)))
    theirs = []
    with path.open("rb") as file:
        for found in ArchiveIterator(file, arc2warc=True):
            if found.rec_type == "response":
                theirs.append((int(found.http_headers.get_statuscode()), found.content_stream().read()))
    assert ours == theirs and ours


def test_wrong_chunk_sizes_of_a_real_archive(corpus_data: Path) -> None:
    """The header says chunked and the body is not; warcio cannot read this file to its end (see test_warc.py)."""
    data = (corpus_data / "warc" / "example-wrong-chunks.warc.gz").read_bytes()
    record = next(r for r in records(io.BytesIO(data).read, 1 << 30))
    response = parse(record.block)
    found = unpack(response, 1 << 30)
    assert len(found.data) == 1270 and bytes(found.data).startswith(b"<!doctype html>") and found.fault is None


@pytest.mark.parametrize("coding", PACKED)
@pytest.mark.parametrize("transfer", [None, 1000, 10**6])
def test_codings_are_undone_and_combined(coding: str, transfer: int | None) -> None:
    data = PACKED[coding]
    headers = [f"Content-Encoding: {coding}"]
    if transfer is not None:
        data = chunked(data, transfer) + b"0\r\n\r\n"
        headers.append("Transfer-Encoding: Chunked")
    assert body(data, *headers) == Body(PAGE)


@pytest.mark.parametrize("coding", PACKED)
def test_a_body_unpacked_by_its_crawler_is_taken_as_it_is(coding: str) -> None:
    assert body(PAGE, f"Content-Encoding: {coding}", "Transfer-Encoding: chunked") == Body(PAGE)
    assert body(b"", f"Content-Encoding: {coding}") == Body(b"")


@pytest.mark.parametrize("coding", PACKED)
def test_what_breaks_off_gives_what_came_before(coding: str) -> None:
    found = body(PACKED[coding][:-12], f"Content-Encoding: {coding}")
    assert found.fault is not None and not found.large
    assert PAGE.startswith(found.data)
    if coding not in ("br", "zstd"):  # they keep these 13 kB as one block
        assert len(found.data) > 1000


def test_a_bomb_stops_at_the_limit() -> None:
    bomb = gzip.compress(gzip.compress(b"\0" * (64 << 20), 1), 1)
    found = body(bomb, "Content-Encoding: gzip, gzip", limit=1000)
    assert found.large and len(found.data) == 1001
    assert body(chunked(PAGE, 100), "Transfer-Encoding: chunked", limit=1000).large


@pytest.mark.parametrize(
    ("data", "expected", "fault"),
    [
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello", None),
        (b"5 ; name=value\r\nhello\r\n0\r\n\r\nignored", b"hello", None),
        (b"5\nhello\n0\n\n", b"hello", None),
        (b"5\r\nhello\r\n", b"hello", "the last chunk is missing"),
        (b"5\r\nhello\r\nff\r\nwor", b"hellowor", "a chunk of 255 bytes ends after 3"),
        (b"5\r\nhello\r\n<p>world", b"hello<p>world", "no chunk size at byte 10 of the body"),
        (
            b"5\r\nhello\r\n2\r\nworld\r\n0\r\n\r\n",
            b"helloworld\r\n0\r\n\r\n",
            "a chunk of 2 bytes does not end at byte 15 of the body",
        ),
        (b"<html>", b"<html>", None),
        (b"add\nfeed\n", b"add\nfeed\n", None),  # hexadecimal, and no chunk size
        (b"", b"", None),
    ],
)
def test_chunks(data: bytes, expected: bytes, fault: str | None) -> None:
    assert body(data, "Transfer-Encoding: chunked") == Body(expected, fault=fault)


@pytest.mark.parametrize(
    ("block", "status", "headers", "rest"),
    [
        (b"HTTP/1.1 200 OK\r\nLocation: b\r\n\r\nbody", 200, {b"location": b"b"}, b"body"),
        (b"HTTP/1.0 404 Not Found\nlocation:b\n\nbody", 404, {b"location": b"b"}, b"body"),
        (
            b"HTTP/2 200\r\nLOCATION : b\r\n\tc\r\nLocation: d\r\nX-Location: e\r\n\r\nLocation: f",
            200,
            {b"location": b"b c"},
            b"Location: f",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\nbody", 200, {}, b"body"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 301 Moved\r\nLocation: /x\r\n\r\n", 301, {b"location": b"/x"}, b""),
        (b"HTTP/1.1 200 OK\r\nLocation: " + b"x" * 100_000 + b"\r\n\r\nbody", 200, {b"location": b"x" * 100_000}, b"body"),
        (b"HTTP/1.1 200 OK\r\nLocation: b", 200, {b"location": b"b"}, b""),
        (b"HTTP/1.1 2000 OK\r\n\r\n", None, {}, b"HTTP/1.1 2000 OK\r\n\r\n"),
        (b"<html>", None, {}, b"<html>"),
        (b"", None, {}, b""),
    ],
)
def test_heads(block: bytes, status: int | None, headers: dict[bytes, bytes], rest: bytes) -> None:
    found = parse(block)
    assert (found.status, found.headers, bytes(found.body)) == (status, headers, rest)


PARTS = st.sampled_from(
    [
        b"HTTP/1.1 200 OK", b"HTTP/1.1 100 Continue", b"HTTP/2 404", b"HTTP/1.1 2000", b"HTTP/1.1\t 301 x", b"HTTP/1. 200",
        b"\r\n", b"\n", b"\r", b"Content-Type: text/html", b"content-TYPE : a", b"Content-Type", b"Location:/x",
        b"Transfer-Encoding: chunked", b"X-Content-Encoding: gzip", b"Content-Encoding:", b" ", b"\t", b"body",
    ]
)  # fmt: skip
STATUS = re.compile(rb"HTTP/\d(?:\.\d)?[ \t]+(\d{3})(?!\d)")
HEADER = re.compile(rb"\n(content-type|content-encoding|transfer-encoding|location)[ \t]*:([^\r\n]*)", re.IGNORECASE)


@settings(max_examples=500, deadline=None)
@given(st.lists(PARTS | st.binary(max_size=3), max_size=20).map(b"".join))
def test_the_kernel_reads_heads_as_expressions_do(block: bytes) -> None:
    rest, status = block, STATUS.match(block)
    headers: dict[bytes, bytes] = {}
    while status is not None:
        blank = re.search(rb"\n\r?\n", rest)
        head, rest = (rest[: blank.start()], rest[blank.end() :]) if blank is not None else (rest, b"")
        if not status.group(1).startswith(b"1"):
            for name, value in HEADER.findall(re.sub(rb"\r?\n[ \t]+", b" ", head)):
                headers.setdefault(name.lower(), value.strip())
            break
        status = STATUS.match(rest)
    found = parse(block)
    expected = (None if status is None else int(status.group(1)), headers, rest)
    assert (found.status, found.headers, bytes(found.body)) == expected


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(sorted(PACKED)), st.booleans(), st.integers(0, 400))
@example(b"\x1f\x8b", "gzip", False, 0)
def test_any_bytes_are_some_body(data: bytes, coding: str, chunks: bool, limit: int) -> None:
    for head in (b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Encoding: " + coding.encode() + b"\r\n"):
        response = parse(
            head + (b"Transfer-Encoding: chunked\r\n" if chunks and head else b"") + (b"\r\n" if head else b"") + data
        )
        found = unpack(response, limit)
        assert len(found.data) <= limit + 1 and found.large == (len(found.data) > limit)


@pytest.mark.parametrize(
    ("declared", "found", "data", "expected"),
    [
        (b"Text/HTML; charset=utf-8", "", b"", "text/html"),
        (b"text/html", "application/pdf", b"", "text/html"),
        (b"", "", b"\n <!DOCTYPE html><p>", "text/html"),
        (b"", "", b'<?xml version="1.0"?><!-- x --><html>', "text/html"),
        (b"", "", b"hello", ""),
        (b"", "", b"<!---->" * 250 + b"<!-- > -- --> \n<HTML>", "text/html"),
        (b"", "", b"<!---->" * 290 + b"x", ""),  # with backtracking, longer than the universe has existed
        (b"nonsense", "", b"<html>", "text/html"),
        (b"application/octet-stream", "application/xhtml+xml", b"", "application/xhtml+xml"),
        (b"application/xml", "", b"<rss>", "application/xml"),
        (b"image/png", "text/html", b"<html>", "image/png"),
    ],
)
def test_media_types(declared: bytes, found: str, data: bytes, expected: str) -> None:
    assert media_type(declared, found, data) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"%PDF-1.4 hello", "application/pdf"),
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"BMX is a sport", None),
        (b"BM\x36\0\0\0", "image/bmp"),
        (b"RIFF\x24\0\0\0WAVE", "audio/riff"),
        (b"<html>\0</html>" * 40, "binary"),
        (b"<p>" + b"x" * 500 + b"\0</p>", None),
        ("<p>hello</p>".encode("utf-16-le") * 5, None),
        ("<p>hello</p>".encode("utf-16") * 5, None),
        ('<p>\x1b$B$"\x1b(B</p>'.encode("ascii"), None),
        (b"", None),
    ],
)
def test_what_cannot_be_text(data: bytes, expected: str | None) -> None:
    assert binary_type(data) == expected
