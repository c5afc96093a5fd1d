"""The HTTP response inside a web archive's record: status, headers, and the body as its sender meant it.

    response = parse(record.block)             status and headers; the body still as it travelled
    body = unpack(response, limit)             chunks joined, gzip, deflate, br and zstd undone

Crawlers differ in what they keep. Some store the body as it travelled; Common Crawl stores it unpacked and renames the header
(X-Crawler-Content-Encoding), so that nothing is left to do; some unpack and keep the header. So a header is taken as a claim:
a body without chunk sizes, or without the compression's own marks, is taken as it is. What breaks off, or goes wrong midway,
gives what came before it, and `fault` says so: a browser shows that much, too.

Reference: RFC 9112 (HTTP/1.1), 7.1 chunked; RFC 9110, 8.4 content codings.
"""

from __future__ import annotations

import re
import zlib
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import zstandard

from corpus.http_kernels import NAMES, scan_head

__all__ = ["Body", "Response", "parse", "unpack"]

_HEAD = 256 << 10  # the longest head; servers send up to 100 kB of cookies and policies
_FOLD = re.compile(rb"\r?\n[ \t]+")
_CHUNK = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n")
_STEP = 64 << 10  # of what comes out
_BITE = 256  # bytes of zstd at a time: each three may become 128 kB


class Response(NamedTuple):
    """status: None where there is no HTTP head, and `body` is all.

    headers: by lower-case name, the first of several: content-type, content-encoding, transfer-encoding, location.
    """

    status: int | None
    headers: dict[bytes, bytes]
    body: memoryview


class Body(NamedTuple):
    """data: at most limit + 1 bytes. large: there are more than `limit`. fault: why it is not whole, or not as announced."""

    data: bytes | memoryview
    large: bool = False
    fault: str | None = None


def parse(block: memoryview | bytes) -> Response:
    """Never fails. Interim responses (1xx) are passed over. A head that never ends is one without a body."""
    view = memoryview(block)
    while True:
        found = scan_head(np.frombuffer(view.toreadonly(), np.uint8), _HEAD)  # numba would compile it for both kinds
        status, start = found[:2]
        if status < 0:
            return Response(None, {}, view)
        if status >= 200 or status < 100:
            return Response(status, _headers(view, found[2:]), view[start:])
        view = view[start:]


def _headers(head: memoryview, spans: tuple[int, ...]) -> dict[bytes, bytes]:
    """spans: where each of NAMES begins and ends."""
    headers: dict[bytes, bytes] = {}
    for i, name in enumerate(NAMES):
        if stop := spans[2 * i + 1]:
            value = bytes(head[spans[2 * i] : stop])
            headers[name] = (_FOLD.sub(b" ", value) if b"\n" in value else value).strip()
    return headers


def unpack(response: Response, limit: int) -> Body:
    """The body without its transfer and content codings, the outermost first."""
    coded = b"content-encoding" in response.headers or b"transfer-encoding" in response.headers
    body = _decoded(response, limit) if coded else Body(response.body)
    if len(body.data) > limit:
        return body._replace(data=body.data[: limit + 1], large=True)
    return body


def _decoded(response: Response, limit: int) -> Body:
    body = Body(response.body)
    transfer = response.headers.get(b"transfer-encoding", b"").lower()
    if b"chunked" in transfer:
        body = _dechunked(response.body, limit)
    codings = response.headers.get(b"content-encoding", b"").lower() + b"," + transfer
    for coding in reversed(codings.replace(b"chunked", b"").split(b",")):
        coding = coding.strip().removeprefix(b"x-")
        if coding in _MAGIC:
            unpacked = _inflated(coding, body.data, limit)
            if unpacked is not None:
                body = unpacked._replace(fault=unpacked.fault or body.fault)
    return body


def _dechunked(body: memoryview, limit: int) -> Body:
    """Chunks joined. What follows a size that is none, or that does not lead to a line end, is taken as it is."""
    parts: list[memoryview] = []
    at = total = 0
    while total <= limit:
        found = _CHUNK.match(body, at)
        if found is None:
            if not parts:
                return Body(body)  # unpacked by the crawler, which kept the header
            fault = "the last chunk is missing" if at == len(body) else f"no chunk size at byte {at} of the body"
            return Body(b"".join([*parts, body[at:]]), fault=fault)
        size, start = int(found.group(1), 16), found.end()
        if size == 0:
            return Body(b"".join(parts))
        stop = start + size
        if stop > len(body):
            if not parts and not found.group().endswith(b"\r\n"):
                return Body(body)  # a first line that only happens to be hexadecimal
            parts.append(body[start:])
            return Body(b"".join(parts), fault=f"a chunk of {size} bytes ends after {len(body) - start}")
        line_end = bytes(body[stop : stop + 2])
        if not line_end.startswith((b"\r\n", b"\n")) and stop < len(body):
            if not parts:
                return Body(body)
            return Body(
                b"".join([*parts, body[start:]]), fault=f"a chunk of {size} bytes does not end at byte {stop} of the body"
            )
        parts.append(body[start:stop])
        total += size
        at = stop + (2 if line_end == b"\r\n" else 1)
    return Body(b"".join(parts), large=True)


# Marks a compressed body begins with; deflate and br have none worth the name.
_MAGIC = {b"gzip": b"\x1f\x8b", b"zstd": b"\x28\xb5\x2f\xfd", b"deflate": b"", b"br": b""}
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\f\r\x1b"))


def _inflated(coding: bytes, data: bytes | memoryview, limit: int) -> Body | None:
    """The body without a coding; None where it does not have it."""
    head = bytes(data[:256])
    if not head.startswith(_MAGIC[coding]):
        return None
    if coding == b"gzip":
        return _zlib(data, 31, limit)
    if coding == b"zstd":
        return _zstd(data, limit)
    body = _brotli(data, limit) if coding == b"br" else _zlib(data, 15, limit)
    if not body.data and body.fault is not None and coding == b"deflate":
        body = _zlib(data, -15, limit)  # without zlib's head and sum, which the standard asks for and many leave out
    if not body.data and body.fault is not None and head.translate(None, _CONTROLS) == head:
        return None  # text, as compressed bytes never are for long
    return body


def _zlib(data: bytes | memoryview, form: int, limit: int) -> Body:
    """form: zlib's wbits. Several gzip members are read one after another."""
    parts: list[bytes] = []
    total = 0
    rest: bytes | memoryview = data
    while len(rest) and total <= limit:
        member = zlib.decompressobj(form)
        try:
            while not member.eof and len(rest) and total <= limit:
                parts.append(member.decompress(rest, _STEP))
                rest = member.unconsumed_tail
                total += len(parts[-1])
        except zlib.error as error:
            return Body(b"".join(parts), fault=str(error))
        if not member.eof and total <= limit:
            return Body(b"".join(parts), fault="the compressed body breaks off")
        rest = member.unused_data if form == 31 and member.unused_data.startswith(_MAGIC[b"gzip"]) else b""
    return Body(b"".join(parts), large=total > limit)


def _zstd(data: bytes | memoryview, limit: int) -> Body:
    parts: list[bytes] = []
    total = 0
    frame = zstandard.ZstdDecompressor().decompressobj()
    try:
        for at in range(0, len(data), _BITE):
            parts.append(frame.decompress(data[at : at + _BITE]))
            total += len(parts[-1])
            if frame.eof or total > limit:
                return Body(b"".join(parts), large=total > limit)
    except zstandard.ZstdError as error:
        return Body(b"".join(parts), fault=str(error))
    return Body(b"".join(parts), fault="the compressed body breaks off")


def _brotli(data: bytes | memoryview, limit: int) -> Body:
    parts: list[bytes] = []
    total = 0
    stream = pa.CompressedInputStream(pa.BufferReader(data), "brotli")
    try:
        while total <= limit and (part := stream.read(_STEP)):
            parts.append(part)
            total += len(part)
    except (OSError, pa.ArrowException) as error:
        return Body(b"".join(parts), fault=str(error))
    return Body(b"".join(parts), large=total > limit)
