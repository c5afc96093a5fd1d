"""The kernel of corpus/http_body.py: an HTTP response's head, in one pass over its bytes."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["NAMES", "is_named", "scan_head"]

NAMES = (b"content-type", b"content-encoding", b"transfer-encoding", b"location")
_TYPE, _ENCODING, _TRANSFER, _LOCATION = (np.frombuffer(name, np.uint8) for name in NAMES)
_HTTP = np.frombuffer(b"HTTP/", np.uint8)


@njit(cache=True, nogil=True)
def scan_head(b, most):  # type: ignore[no-untyped-def]
    """(status, where the body begins, begin and end of the value of each of NAMES) of the bytes `b`.

    status: -1 where no HTTP status stands. The body begins behind an empty line, or after `most` bytes. Of several headers of
    a name the first; its end is 0 where there is none. A value may go on over folded lines.
    """
    n = min(len(b), most)
    status = _status(b, n)
    body = n
    t0 = t1 = e0 = e1 = x0 = x1 = l0 = l1 = 0
    at = 0
    while status >= 0 and at < n:
        if b[at] != 10:
            at += 1
            continue
        at += 1
        if at < n and b[at] == 10:
            body = at + 1
            break
        if at + 1 < n and b[at] == 13 and b[at + 1] == 10:
            body = at + 2
            break
        first = b[at] | 32 if at < n else 0
        if first == 99:  # c
            if t1 == 0:
                t0, t1 = _value(b, at, n, _TYPE)
            if e1 == 0:
                e0, e1 = _value(b, at, n, _ENCODING)
        elif first == 116 and x1 == 0:  # t
            x0, x1 = _value(b, at, n, _TRANSFER)
        elif first == 108 and l1 == 0:  # l
            l0, l1 = _value(b, at, n, _LOCATION)
    return status, body, t0, t1, e0, e1, x0, x1, l0, l1


@njit(cache=True, nogil=True)
def _status(b, n):  # type: ignore[no-untyped-def]
    """HTTP/ digit, perhaps . digit, blanks, three digits and no fourth."""
    if n < 10:
        return -1
    for i in range(5):
        if b[i] != _HTTP[i]:
            return -1
    if not _is_digit(b[5]):
        return -1
    at = 8 if b[6] == 46 and _is_digit(b[7]) else 6
    blank = at
    while at < n and (b[at] == 32 or b[at] == 9):
        at += 1
    if at == blank or at + 3 > n or (at + 3 < n and _is_digit(b[at + 3])):
        return -1
    status = np.int64(0)
    for i in range(at, at + 3):
        if not _is_digit(b[i]):
            return -1
        status = 10 * status + (np.int64(b[i]) - 48)
    return status


@njit(cache=True, nogil=True)
def _is_digit(c):  # type: ignore[no-untyped-def]
    return 48 <= c <= 57


@njit(cache=True, nogil=True)
def is_named(b, start, stop, name):  # type: ignore[no-untyped-def]
    """Whether these bytes are `name`, which is in lower case, in any case."""
    if stop - start != len(name):
        return False
    for i in range(len(name)):
        c = b[start + i]
        if c != name[i] and (c | 32 != name[i] or not 65 <= c <= 90):
            return False
    return True


@njit(cache=True, nogil=True)
def _value(b, at, n, name):  # type: ignore[no-untyped-def]
    """(begin, end) of the value if the line at `at` is a header of this name; (0, 0) otherwise."""
    if at + len(name) >= n or not is_named(b, at, at + len(name), name):
        return 0, 0
    at += len(name)
    while at < n and (b[at] == 32 or b[at] == 9):
        at += 1
    if at == n or b[at] != 58:
        return 0, 0
    begin = at + 1
    at = begin
    while at < n:
        if b[at] == 13 or b[at] == 10:
            line = at + 1 if b[at] == 10 else at + 2 if at + 1 < n and b[at + 1] == 10 else n
            if line >= n or (b[line] != 32 and b[line] != 9):
                break
            at = line
        at += 1
    return begin, at
