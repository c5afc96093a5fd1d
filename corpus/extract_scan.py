"""Bytes of markup, as the HTML tokenizer reads them: names, attributes, character references, ends of what is skipped.

Every function takes the page and where it stands, and returns where it got to: never back, never past the end. Output goes to
a buffer of fixed size through `put`; where it does not fit, S_OVER is set and the caller runs the page again in a larger one.
"""

# ruff: noqa: SIM109 - a chain of comparisons is what numba compiles fast
from __future__ import annotations

import numpy as np
from numba import njit

from corpus.extract_tables import A_SLOTS, N_ATTRIBUTE, N_REFERENCE, PRIME, SALT, START, Tables, hash_name

__all__ = [
    "NO", "S_O", "S_OVER", "S_SLOTS", "YES",
    "attributes", "comment_end", "end_tag", "find", "hash_span", "is_letter", "is_space", "past", "put", "put_bytes",
    "put_code", "put_text", "reference", "rotate", "tag_name",
]  # fmt: skip

# The state of a page: positions, counters and flags, one int64 each. The first of them; the others are in extract_kernels.
S_O, S_OVER = range(2)
S_SLOTS = 64
NO, YES = np.bool_(False), np.bool_(True)

_START, _PRIME, _SALT = np.uint64(START), np.uint64(PRIME), np.uint64(SALT)
_LT, _GT, _SLASH, _EQUALS, _QUOTE, _APOSTROPHE, _HASH, _SEMICOLON, _COLON = (np.uint8(byte) for byte in b"<>/=\"'#;:")
_MML, _M = np.uint64(hash_name("mml:")), np.uint64(hash_name("m:"))  # a prefix of MathML
_LONGEST_REFERENCE = 33
# What &#128; to &#159; mean: the characters of Windows-1252 (HTML standard, numeric character reference end state).
_WINDOWS_32 = np.array(
    [ord(bytes([b]).decode("cp1252", "replace")) if b not in (0x81, 0x8D, 0x8F, 0x90, 0x9D) else b for b in range(128, 160)],
    np.int64,
)


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def is_space(byte: int) -> bool:
    return byte == 32 or byte == 10 or byte == 9 or byte == 13 or byte == 12


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def is_letter(byte: int) -> bool:
    return 97 <= (byte | 0x20) <= 122


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def past(page_b: np.ndarray, start: int, byte: int) -> int:
    """Past the next `byte`, or the end of the page."""
    for i in range(start, len(page_b)):
        if page_b[i] == byte:
            return i + 1
    return len(page_b)


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def find(T: Tables, kind: np.uint64, key: np.uint64) -> np.int64:
    """The value of a hashed name of a kind, 0 when unknown."""
    key ^= kind * _SALT
    mask = np.uint64(len(T.names_H2) - 1)
    at = (key >> np.uint64(32)) & mask
    while True:
        seen = T.names_H2[at, 0]
        if seen == key:
            return np.int64(T.names_H2[at, 1])
        if seen == np.uint64(0):
            return np.int64(0)
        at = (at + np.uint64(1)) & mask


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def hash_span(page_b: np.ndarray, start: int, stop: int) -> np.uint64:
    """The hash of a name in lower case."""
    key = _START
    for i in range(start, stop):
        byte = page_b[i]
        if 65 <= byte <= 90:
            byte |= 0x20
        key = (key ^ np.uint64(byte)) * _PRIME
    return key


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def put(out_b: np.ndarray, S: np.ndarray, byte: np.uint8) -> None:
    o = S[S_O]
    if o >= len(out_b):
        S[S_OVER] = 1
        return
    out_b[o] = byte
    S[S_O] = o + 1


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def put_bytes(out_b: np.ndarray, S: np.ndarray, page_b: np.ndarray, start: int, stop: int) -> None:
    o = S[S_O]
    if o + stop - start > len(out_b):
        S[S_OVER] = 1
        return
    for i in range(start, stop):
        out_b[o] = page_b[i]
        o += 1
    S[S_O] = o


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def put_text(out_b: np.ndarray, S: np.ndarray, T: Tables, text: int) -> None:
    """A text of the pool."""
    put_bytes(out_b, S, T.pool_b, text >> 8, (text >> 8) + (text & 255))


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def put_code(out_b: np.ndarray, S: np.ndarray, code: int) -> None:
    """A code point as UTF-8; what is none becomes U+FFFD."""
    if code <= 0 or code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        code = 0xFFFD
    if code < 0x80:
        put(out_b, S, np.uint8(code))
        return
    tails = 1 if code < 0x800 else 2 if code < 0x10000 else 3
    put(out_b, S, np.uint8(0xFF00 >> tails + 1 & 0xFF | code >> 6 * tails))
    for k in range(tails - 1, -1, -1):
        put(out_b, S, np.uint8(0x80 | code >> 6 * k & 0x3F))


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def rotate(out_b: np.ndarray, start: int, middle: int, stop: int) -> None:
    """[start, middle) and [middle, stop) change places."""
    for a, b in ((start, middle), (middle, stop), (start, stop)):
        b -= 1
        while a < b:
            out_b[a], out_b[b] = out_b[b], out_b[a]
            a += 1
            b -= 1


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def reference(page_b: np.ndarray, i: int, stop: int, attribute: bool, T: Tables) -> tuple[int, int, int]:
    """The character reference whose & is at `i`: (past it, code point, text of the pool).

    A numeric one has text 0; a plain & gives (i + 1, 38, 0). Names that exist without a semicolon are read so (the longest
    that fits), in an attribute only when no letter, digit or = follows.
    """
    k = i + 1
    if k < stop and page_b[k] == _HASH:
        k, code = _number(page_b, i, stop)
        return k, code, 0
    key = _START
    last = min(stop, i + _LONGEST_REFERENCE)
    found, end = np.int64(0), i + 1
    while k < last:
        byte = page_b[k]
        if not (is_letter(byte) or 48 <= byte <= 57 or byte == _SEMICOLON):
            break
        key = (key ^ np.uint64(byte)) * _PRIME
        k += 1
        if byte == _SEMICOLON or k - i > 2:  # no name without semicolon is shorter than two letters
            text = find(T, N_REFERENCE, key)
            if text:
                found, end = text, k
            if byte == _SEMICOLON:
                break
    if found and attribute and page_b[end - 1] != _SEMICOLON and end < stop:
        byte = page_b[end]
        if is_letter(byte) or 48 <= byte <= 57 or byte == _EQUALS:
            found = np.int64(0)
    if found == 0:
        return i + 1, 38, 0
    return end, 0, int(found)


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _number(page_b: np.ndarray, i: int, stop: int) -> tuple[int, int]:
    k = i + 2
    base = 10
    if k < stop and (page_b[k] | 0x20) == 120:
        base = 16
        k += 1
    digits, code = 0, 0
    while k < stop:
        byte = page_b[k]
        if 48 <= byte <= 57:
            digit = byte - 48
        elif base == 16 and 97 <= (byte | 0x20) <= 102:
            digit = (byte | 0x20) - 87
        else:
            break
        code = min(code * base + digit, 0x110000)
        digits += 1
        k += 1
    if digits == 0:
        return i + 1, 38
    if k < stop and page_b[k] == _SEMICOLON:
        k += 1
    if 128 <= code < 160:
        code = _WINDOWS_32[code - 128]
    if code == 0 or code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        code = 0xFFFD
    return k, code


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def tag_name(page_b: np.ndarray, start: int) -> tuple[int, np.uint64]:
    """(past the name that begins at `start`, its hash)."""
    size = len(page_b)
    key = _START
    i = start
    while i < size:
        byte = page_b[i]
        if byte <= 32 or byte == _GT or byte == _SLASH:
            break
        if 65 <= byte <= 90:
            byte |= 0x20
        key = (key ^ np.uint64(byte)) * _PRIME
        i += 1
        if byte == _COLON and (key == _MML or key == _M):
            key = _START
    return i, key


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def attributes(page_b: np.ndarray, start: int, A: np.ndarray, T: Tables) -> int:
    """Past the > of the tag; A [2 * A_SLOTS + 1] gets (start, stop) of the values wanted, (-1, -1) where there is none.

    A name without a value has start == stop. The first of two equal names counts. A[-1] is 1 for a tag that closes itself.
    """
    size = len(page_b)
    for k in range(2 * A_SLOTS):
        A[k] = -1
    A[2 * A_SLOTS] = 0
    i = start
    while i < size:
        byte = page_b[i]
        if byte == _GT:
            A[2 * A_SLOTS] = page_b[i - 1] == _SLASH
            return i + 1
        if byte <= 32 or byte == _SLASH:
            i += 1
            continue
        key = _START
        while i < size:  # the name
            byte = page_b[i]
            if byte <= 32 or byte == _GT or byte == _EQUALS or byte == _SLASH:
                break
            if 65 <= byte <= 90:
                byte |= 0x20
            key = (key ^ np.uint64(byte)) * _PRIME
            i += 1
        while i < size and page_b[i] <= 32:
            i += 1
        a = b = i
        if i < size and page_b[i] == _EQUALS:
            a, b, i = _value(page_b, i + 1)
        slot = find(T, N_ATTRIBUTE, key)
        if slot and A[2 * slot] < 0:
            A[2 * slot], A[2 * slot + 1] = a, b
    return i


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _value(page_b: np.ndarray, start: int) -> tuple[int, int, int]:
    """(start and stop of the value after an =, past it)."""
    size = len(page_b)
    i = start
    while i < size and page_b[i] <= 32:
        i += 1
    if i == size:
        return i, i, i
    quote = page_b[i]
    if quote == _QUOTE or quote == _APOSTROPHE:
        stop = i + 1
        while stop < size and page_b[stop] != quote:
            stop += 1
        return i + 1, stop, min(stop + 1, size)
    stop = i
    while stop < size and page_b[stop] > 32 and page_b[stop] != _GT:
        stop += 1
    return i, stop, max(stop, start)


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def end_tag(page_b: np.ndarray, start: int) -> int:
    """Past the > of an end tag, whose attributes nobody reads."""
    size = len(page_b)
    i = start
    while i < size:
        byte = page_b[i]
        if byte == _GT:
            return i + 1
        if byte == _EQUALS:
            _, _, i = _value(page_b, i + 1)
            continue
        i += 1
    return i


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def comment_end(page_b: np.ndarray, start: int) -> int:
    """Past the --> or --!> of the comment whose text begins at `start`; <!--> and <!---> are whole comments."""
    for i in range(start, len(page_b)):
        if page_b[i] != _GT:
            continue
        if page_b[i - 1] == 45 and page_b[i - 2] == 45:
            return i + 1
        if i >= start + 3 and page_b[i - 1] == 33 and page_b[i - 2] == 45 and page_b[i - 3] == 45:
            return i + 1
    return len(page_b)
