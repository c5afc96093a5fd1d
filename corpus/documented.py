"""How much of a source file explains it: the share of comments and docstrings, and whether any is documentation.

One walk over the bytes, by the comment marks of the file's language (corpus/comments.py). Strings are skipped, so that a mark
inside one opens nothing; that is all that is parsed. Comments ahead of the first line of code are licences and banners as
often as not, and count for nothing; a docstring there counts.

Documentation is a docstring (a string of three quotes that begins its line), a comment that begins with /** or /// or //!,
or three lines of comment in a row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numba import njit

from corpus.comments import comment_marks
from corpus.document import text_buffers

__all__ = ["Documented", "documented"]

# Of each language: the line mark, what opens a block and what closes it, and whether ' opens a string.
_BLOCKS = {"// ": (b"//", b"/*", b"*/"), "-- ": (b"--", b"{-", b"-}"), "/* ": (b"", b"/*", b"*/"), "(* ": (b"", b"(*", b"*)")}
_BLOCKS |= {"<!-- ": (b"", b"<!--", b"-->"), "{# ": (b"", b"{#", b"#}"), "<%-- ": (b"", b"<%--", b"--%>")}
_QUOTED = ("# ", "// ", "/* ")
_MARKS = 5  # bytes of the longest mark, and one


class Documented(NamedTuple):
    """Of N files: bytes of code and comments without white space, bytes of comments in them, whether there is documentation."""

    visible_N: np.ndarray
    comment_N: np.ndarray
    doc_N: np.ndarray


def documented(text: pa.Array, lang: pa.Array) -> Documented:
    """Measure each file; a null language has `#` comments."""
    offsets_N1, data_B = text_buffers(text)
    coded = lang.dictionary_encode()
    names = [*coded.dictionary.to_pylist(), None]
    code_N = coded.indices.fill_null(len(names) - 1).to_numpy(zero_copy_only=False).astype(np.int64)
    marks_LM = np.zeros((len(names), 3, _MARKS), np.uint8)
    quotes_L = np.zeros(len(names), np.bool_)
    for i, name in enumerate(names):
        opens, _ = comment_marks(name)
        for k, mark in enumerate(_BLOCKS.get(opens, (opens.strip().encode(), b"", b""))):
            marks_LM[i, k, : len(mark)] = np.frombuffer(mark, np.uint8)
        quotes_L[i] = opens in _QUOTED
    return Documented(*_measure(offsets_N1, data_B, code_N, marks_LM, quotes_L))


@njit(cache=True, nogil=True)
def _measure(
    offsets_N1: np.ndarray, data_B: np.ndarray, code_N: np.ndarray, marks_LM: np.ndarray, quotes_L: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = len(code_N)
    visible_N, comment_N, doc_N = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.bool_)
    for i in range(n):
        text = data_B[offsets_N1[i] : offsets_N1[i + 1]]
        visible_N[i], comment_N[i], doc_N[i] = _file(text, marks_LM[code_N[i]], quotes_L[code_N[i]])
    return visible_N, comment_N, doc_N


@njit(cache=True, nogil=True)
def _file(text: np.ndarray, marks: np.ndarray, quotes: bool) -> tuple[int, int, bool]:
    visible, comments, doc, code_seen, run = 0, 0, False, False, 0
    at, fresh, last = 0, True, -2  # fresh: only white space on this line so far; last: line of the last comment that began one
    line = 0
    while at < len(text):
        byte = text[at]
        if byte <= 32:
            if byte == 10:
                fresh, line = True, line + 1
            at += 1
            continue
        length, block = _opens(text, at, marks)
        triple = (byte == 34 or byte == 39) and _triple(text, at)
        if length or (triple and fresh):
            stop = _closes(text, at, length, block, triple, marks)
            size, lines = _seen(text, at, stop)
            visible += size
            run = run + 1 if fresh and last == line - 1 else 1
            doc |= triple or (code_seen and (_doc_mark(text, at) or lines >= 2 or run >= 3))
            comments += size if code_seen or triple else 0
            last = line + lines if fresh else -2
            run += lines if block else 0
            line += lines
            code_seen |= triple
            at, fresh = stop, False
            continue
        code_seen = True
        fresh = False
        stop = at + 1
        if byte == 34 or (byte == 39 and quotes):
            stop = _closes(text, at, 0, False, True, marks) if triple else _string(text, at)
        size, lines = _seen(text, at, stop)
        visible += size
        line += lines
        at = stop
    return visible, comments, doc


@njit(cache=True, nogil=True)
def _is(text: np.ndarray, at: int, mark: np.ndarray) -> int:
    """The length of the mark (0 bytes end it) where the text has it, else 0."""
    k = 0
    while mark[k] != 0:
        if at + k >= len(text) or text[at + k] != mark[k]:
            return 0
        k += 1
    return k


@njit(cache=True, nogil=True)
def _opens(text: np.ndarray, at: int, marks: np.ndarray) -> tuple[int, bool]:
    """(length, whether it is a block's) of the comment mark here; length 0: none."""
    block = _is(text, at, marks[1])
    if block:
        return block, True
    return _is(text, at, marks[0]), False


@njit(cache=True, nogil=True)
def _triple(text: np.ndarray, at: int) -> bool:
    return at + 2 < len(text) and text[at] == text[at + 1] == text[at + 2]


@njit(cache=True, nogil=True)
def _closes(text: np.ndarray, at: int, length: int, block: bool, triple: bool, marks: np.ndarray) -> int:
    """Where the comment or docstring that opens here ends: behind its closing mark, or at the end of its line."""
    if block:
        k = at + length
        while k < len(text):
            closed = _is(text, k, marks[2])
            if closed:
                return int(k + closed)
            k += 1
        return k
    if triple and not length:
        k = at + 3
        while k < len(text):
            if text[k] == 92:
                k += 1
            elif text[k] == text[at] and _triple(text, k):
                return k + 3
            k += 1
        return len(text)
    k = at + length
    while k < len(text) and text[k] != 10:
        k += 1
    return k


@njit(cache=True, nogil=True)
def _string(text: np.ndarray, at: int) -> int:
    """Behind the string that opens here; one that does not close on its line is an apostrophe, or broken."""
    k = at + 1
    while k < len(text) and text[k] != 10:
        if text[k] == 92:
            k += 1
        elif text[k] == text[at]:
            return k + 1
        k += 1
    return at + 1


@njit(cache=True, nogil=True)
def _seen(text: np.ndarray, start: int, stop: int) -> tuple[int, int]:
    """(bytes that are not white space, line ends) between two places."""
    size, lines = 0, 0
    for k in range(start, stop):
        size += text[k] > 32
        lines += text[k] == 10
    return size, lines


@njit(cache=True, nogil=True)
def _doc_mark(text: np.ndarray, at: int) -> bool:
    """/** (but not /**/) or /// or //!"""
    if at + 3 >= len(text) or text[at] != 47:
        return False
    second, third = text[at + 1], text[at + 2]
    return bool((second == 42 and third == 42 and text[at + 3] != 47) or (second == 47 and (third == 47 or third == 33)))
