"""The kernel of corpus/warc.py: which gzip members hold one WARC record, as it should be, and nothing else."""

from __future__ import annotations

import numpy as np
from numba import njit, types

from corpus.http_kernels import is_named

__all__ = ["CODES", "HEAD", "heads_of"]

CODES = ("", "warcinfo", "request", "response", "metadata", "revisit", "resource", "conversion")
HEAD = 64 << 10  # the longest head
_VERSION = np.frombuffer(b"WARC/1.", np.uint8)
_TYPE = np.frombuffer(b"warc-type", np.uint8)
_LENGTH = np.frombuffer(b"content-length", np.uint8)
_NAMES = np.frombuffer("".join(CODES).encode(), np.uint8)
_NAMES_END = np.cumsum([len(name) for name in CODES])
_DIGITS = 18  # of a length: 63 bits
_memchr = types.ExternalFunction("memchr", types.uintp(types.uintp, types.int32, types.uintp))


def heads_of(content_B: np.ndarray, ends_S: np.ndarray) -> np.ndarray:
    """int64 [M, 4]: of each member's record its kind, an index of CODES; where the head ends and the block begins; its size.

    Kind 0 is whatever takes a closer look: anything but a head with lines that end in CR LF, one WARC-Type of those known, one
    Content-Length, as many bytes of block, and CR LF twice.
    """
    out_M4 = np.zeros((len(ends_S) - 1, 4), np.int64)
    _heads(content_B, ends_S, out_M4)
    return out_M4


@njit(cache=True, nogil=True)
def _heads(content_B, ends_S, out_M4):  # type: ignore[no-untyped-def]
    for m in range(len(ends_S) - 1):
        start, stop = ends_S[m], ends_S[m + 1]
        head_end, kind, size = _head(content_B, start, min(stop, start + HEAD))
        block = head_end + 4
        if head_end and block + size + 4 == stop and _is_blank(content_B, stop - 4):
            out_M4[m, 0], out_M4[m, 1], out_M4[m, 2], out_M4[m, 3] = kind, head_end, block, size


@njit(cache=True, nogil=True)
def _is_blank(b, at):  # type: ignore[no-untyped-def]
    return b[at] == 13 and b[at + 1] == 10 and b[at + 2] == 13 and b[at + 3] == 10


@njit(cache=True, nogil=True)
def _head(b, start, stop):  # type: ignore[no-untyped-def]
    """(its end before CR LF CR LF, its WARC-Type's code, its Content-Length); all 0 if it is not plain."""
    nothing = (np.int64(0), np.int64(0), np.int64(0))
    if stop - start < len(_VERSION) + 4:
        return nothing
    for i in range(len(_VERSION)):
        if b[start + i] != _VERSION[i]:
            return nothing
    at = start + len(_VERSION)
    if not 48 <= b[at] <= 57:
        return nothing
    while at < stop - 4 and 48 <= b[at] <= 57:
        at += 1
    kind, size = np.int64(0), np.int64(-1)
    while at < stop - 3:  # at the end of a line
        if b[at] != 13 or b[at + 1] != 10:
            return nothing
        if b[at + 2] == 13 and b[at + 3] == 10:
            return (at, kind, size) if kind and size >= 0 else nothing
        line = at + 2
        at = line
        while at < stop and b[at] != 58 and 32 < b[at] < 127:  # a name; anything else in it takes Python's eye
            at += 1
        if at == stop or b[at] != 58:
            return nothing
        name_stop = at
        at += 1
        while at < stop and (b[at] == 32 or b[at] == 9):
            at += 1
        if is_named(b, line, name_stop, _TYPE):
            value = at
            while at < stop and b[at] != 13 and b[at] != 10:
                at += 1
            if kind:
                return nothing
            kind = _code(b, value, at)
            if not kind:
                return nothing
        elif is_named(b, line, name_stop, _LENGTH):
            if size >= 0:
                return nothing
            digits = at
            size = np.int64(0)
            while at < stop and 48 <= b[at] <= 57 and at - digits < _DIGITS:
                size = size * 10 + (np.int64(b[at]) - 48)
                at += 1
            if at == digits:
                return nothing
        else:
            at = _line_end(b, at, stop) - 1
    return nothing


@njit(cache=True, nogil=True)
def _line_end(b, at, stop):  # type: ignore[no-untyped-def]
    """Where the next line feed of b[at:stop] stands, `stop` where none does: half of what heads cost, byte by byte."""
    if at >= stop:
        return stop
    found = _memchr(b.ctypes.data + np.uintp(at), 10, np.uintp(stop - at))
    return np.int64(found - b.ctypes.data) if found else stop


@njit(cache=True, nogil=True)
def _code(b, start, stop):  # type: ignore[no-untyped-def]
    """The index in CODES of a WARC-Type; 0 for none of them."""
    for k in range(1, len(_NAMES_END)):
        if is_named(b, start, stop, _NAMES[_NAMES_END[k - 1] : _NAMES_END[k]]):
            return k
    return 0
