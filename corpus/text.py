"""Line and letter statistics of documents, walked as UTF-8 bytes.

A character is a Unicode code point; in UTF-8, a byte that is not 10xxxxxx begins one. A line is what split("\\n") gives,
except that a newline at the very end closes the last line and opens none: "a\\nb\\n" and "a\\nb" both have two lines, "" has
none, "\\n" has one (empty). "\\r" is an ordinary character of its line, so a file with Windows line ends measures one more per
line, and a file with only "\\r" is one line. Alphabetic is exactly str.isalpha of the running Python (3.11: Unicode 14.0;
3.12: 15.0; 3.13: 15.1; `unicodedata.unidata_version` says which): letters of later versions count as not alphabetic.

Two things make it fast. Counting looks at each byte without a branch, so LLVM turns it into vector instructions. The
longest line is found by jumping: a line longer than the longest so far cannot end within the next `longest` bytes, so look
at byte begin + longest and walk back to a newline; most bytes are never looked at. Both are linear: the walk back sees no
byte more than twice (what lies right of the newline found is, in the next step, left of where the walk starts).

Bytes that are not UTF-8 never lead outside the buffer: a broken sequence is a character that is not alphabetic.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numba import njit

from corpus.document import text_buffers

__all__ = ["TextStats", "head_contains", "text_stats"]

_NEWLINE = 10
_BLOCK = 224  # bytes counted at once; a multiple of a vector, under 256


class TextStats(NamedTuple):
    """One int64 per document."""

    bytes_N: np.ndarray
    characters_N: np.ndarray
    lines_N: np.ndarray
    longest_N: np.ndarray  # characters of the longest line, its newline apart
    newlines_N: np.ndarray  # characters - newlines = characters inside lines
    alphabetic_N: np.ndarray  # characters for which str.isalpha is true
    digits_N: np.ndarray  # 0-9 only
    nul_N: np.ndarray


def text_stats(text: pa.Array) -> TextStats:
    """The statistics of each text (string or large_string, may be a slice; null = empty)."""
    offsets_N1, data_B = text_buffers(text)
    out_KN = np.zeros((len(TextStats._fields), len(offsets_N1) - 1), np.int64)
    _stats(offsets_N1, data_B, _alphabetic(), out_KN)
    return TextStats(*out_KN)


def head_contains(text: pa.Array, needle: str, characters: int) -> np.ndarray:
    """For each text, `needle in text[:characters]`, as bool [N]. An empty needle is in every text."""
    offsets_N1, data_B = text_buffers(text)
    out_N = np.zeros(len(offsets_N1) - 1, np.bool_)
    _head_contains(offsets_N1, data_B, np.frombuffer(needle.encode(), np.uint8), characters, out_N)
    return out_N


@functools.cache
def _alphabetic() -> np.ndarray:
    """bool [0x110000]: is this code point alphabetic? Made on first use: 10 ms through numpy, which asks Python's tables."""
    table = np.char.isalpha(np.arange(0x110000, dtype=np.uint32).view("U1"))
    table.setflags(write=False)
    return table


@njit(cache=True, nogil=True)
def _stats(offsets_N1: np.ndarray, data_B: np.ndarray, alphabetic_U: np.ndarray, out_KN: np.ndarray) -> None:
    for n in range(len(offsets_N1) - 1):
        start, stop = offsets_N1[n], offsets_N1[n + 1]
        text_b = data_B[start:stop]
        characters, newlines, alphabetic, digits, nul = _count(text_b)
        if characters != stop - start:
            alphabetic += _letters_beyond_ascii(text_b, alphabetic_U)
        open_line = 1 if stop > start and data_B[stop - 1] != _NEWLINE else 0
        out_KN[0, n] = stop - start
        out_KN[1, n] = characters
        out_KN[2, n] = newlines + open_line
        out_KN[3, n] = _longest_line(text_b)
        out_KN[4, n] = newlines
        out_KN[5, n] = alphabetic
        out_KN[6, n] = digits
        out_KN[7, n] = nul


@njit(cache=True, nogil=True)
def _count(text_b: np.ndarray) -> tuple[int, int, int, int, int]:
    """(characters, newlines, ASCII letters, digits, NULs)."""
    characters = newlines = letters = digits = nul = 0
    for start in range(0, len(text_b), _BLOCK):
        c, n, a, d, z = _count_block(text_b[start : start + _BLOCK])
        characters, newlines, letters, digits, nul = characters + c, newlines + n, letters + a, digits + d, nul + z
    return characters, newlines, letters, digits, nul


@njit(cache=True, nogil=True)
def _count_block(block_b: np.ndarray) -> tuple[np.uint8, np.uint8, np.uint8, np.uint8, np.uint8]:
    """As _count, for fewer than 256 bytes: sums in uint8 put 32 to 64 bytes in a vector, in int64 4 to 8 (5.2 : 1.8 GB/s)."""
    u8 = np.uint8
    c = n = a = d = z = u8(0)
    for byte in block_b:
        c = u8(c + u8((byte & u8(0xC0)) != u8(0x80)))
        n = u8(n + u8(byte == u8(10)))
        a = u8(a + u8(u8((byte | u8(0x20)) - u8(97)) < u8(26)))
        d = u8(d + u8(u8(byte - u8(48)) < u8(10)))
        z = u8(z + u8(byte == u8(0)))
    return c, n, a, d, z


@njit(cache=True, nogil=True)
def _letters_beyond_ascii(text_b: np.ndarray, alphabetic_U: np.ndarray) -> int:
    count = 0
    size = len(text_b)
    i = 0
    while i < size:
        lead = np.uint32(text_b[i])
        if lead < 0xC0:
            i += 1
            continue
        length = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
        if i + length > size:
            break
        point = lead & (0x7F >> length)
        for k in range(1, length):
            point = (point << 6) | (text_b[i + k] & 0x3F)
        if point < 0x110000 and alphabetic_U[point]:
            count += 1
        i += length
    return count


@njit(cache=True, nogil=True)
def _longest_line(text_b: np.ndarray) -> np.int64:
    # Unsigned throughout: a signed index costs a test per byte, as numba lets it count from the end.
    one = np.uint64(1)
    size = np.uint64(len(text_b))
    longest = begin = np.uint64(0)
    while begin < size and size - begin > longest:  # enough bytes left for a longer line
        at = begin + longest + one  # one past the byte looked at
        while at > begin and text_b[at - one] != _NEWLINE:
            at -= one
        if at > begin:
            begin = at
            continue
        end = begin + longest + one
        while end < size and text_b[end] != _NEWLINE:
            end += one
        longest = max(longest, _characters(text_b[begin:end]))
        begin = end + one
    return np.int64(longest)


@njit(cache=True, nogil=True)
def _characters(text_b: np.ndarray) -> np.uint64:
    count = np.uint64(0)
    for byte in text_b:
        count += np.uint64((byte & np.uint8(0xC0)) != np.uint8(0x80))
    return count


@njit(cache=True, nogil=True)
def _head_contains(
    offsets_N1: np.ndarray, data_B: np.ndarray, needle_b: np.ndarray, characters: int, out_N: np.ndarray
) -> None:
    for n in range(len(offsets_N1) - 1):
        end = start = offsets_N1[n]
        seen = 0
        while end < offsets_N1[n + 1]:
            seen += (data_B[end] & 0xC0) != 0x80
            if seen > characters:
                break
            end += 1
        for at in range(start, end - len(needle_b) + 1):
            same = 0
            while same < len(needle_b) and data_B[at + same] == needle_b[same]:
                same += 1
            if same == len(needle_b):
                out_N[n] = True
                break
