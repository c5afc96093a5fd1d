"""Tokens of any program text, by signs alone, as hashes: what corpus/language_content.py looks features up by.

A token is a word (inner `-` allowed), one of ( ) [ ] { } , ; " ' `, a number, or a run of other signs (`->`, `::`, `<%=`). A
run that touches the word after it makes one token with it (`@interface`, `.globl`). A token has a class: any word (W), any
number (0), any word behind the same run (`$W`), or itself. A line that opens with a comment sign is one token, that sign, and
a block comment is skipped to its end: prose does not vote. Strings are not known; their words count as words.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["ANY_NUMBER", "ANY_WORD", "KIND", "NEW_LINE", "fnv", "tokenize"]

_OFFSET, _PRIME = 0xCBF29CE484222325, 0x100000001B3  # FNV-1a, 64 bits


def fnv(text: str) -> int:
    """The kernel's hash of a token, for the tables made in Python."""
    h = _OFFSET
    for byte in text.encode("utf-8"):
        h = (h ^ byte) * _PRIME & 0xFFFFFFFFFFFFFFFF
    return h


ANY_WORD, ANY_NUMBER, NEW_LINE = np.uint64(fnv("W")), np.uint64(fnv("0")), np.uint64(fnv("\n"))

# Character classes of the tokenizer.
_SPACE, _WORD, _DIGIT, _SINGLE, _RUN, _NEWLINE = 0, 1, 2, 3, 4, 5


def _classes() -> np.ndarray:
    kind = np.zeros(256, np.uint8)
    kind[128:] = _WORD
    singles, runs = "()[]{},;\"'`", "!#$%&*+-./:<=>?@\\^|~"
    for chars, k in (("_", _WORD), ("0123456789", _DIGIT), (singles, _SINGLE), (runs, _RUN), ("\n\r", _NEWLINE)):
        kind[[ord(c) for c in chars]] = k
    for c in range(26):
        kind[ord("a") + c] = kind[ord("A") + c] = _WORD
    return kind


KIND = _classes()


@njit(cache=True, nogil=True)
def _fnv(data, start, stop):  # type: ignore[no-untyped-def]
    h = np.uint64(_OFFSET)
    for i in range(start, stop):
        h = (h ^ np.uint64(data[i])) * np.uint64(_PRIME)
    return h


@njit(cache=True, nogil=True)
def _is_comment(data, start, stop, end):  # type: ignore[no-untyped-def]
    """Whether the run (or quote) data[start:stop], first on its line, opens a comment: then the rest of it is prose."""
    c = data[start]
    if c == 47:  # // /* /**
        return stop - start >= 2 and (data[start + 1] == 47 or data[start + 1] == 42)
    if c == 59 and start + 1 < end and data[start + 1] == 59:  # ;;
        return True
    if stop < end and data[stop] != 32 and data[stop] != 9 and data[stop] != 10 and data[stop] != 13:
        return False
    if c == 45:  # --
        return stop - start == 2 and data[start + 1] == 45
    same = c == 42 or c == 35 or c == 37 or c == 59  # * # % ; alone or repeated
    for i in range(start, stop):
        same = same and data[i] == c
    return same


@njit(cache=True, nogil=True)
def _comment_end(data, start, stop, end):  # type: ignore[no-untyped-def]
    """Where a comment that data[start:stop] opens ends: its line, or */ for a block."""
    if data[start] == 47 and data[start + 1] == 42:
        i = start + 2
        while i + 1 < end and not (data[i] == 42 and data[i + 1] == 47):
            i += 1
        return min(i + 2, end)
    i = stop
    while i < end and data[i] != 10 and data[i] != 13:
        i += 1
    return i


@njit(cache=True, nogil=True)
def _word_end(data, i, end, kind):  # type: ignore[no-untyped-def]
    while i < end:
        k = kind[data[i]]
        if k != _WORD and k != _DIGIT:
            inner_dash = data[i] == 45 and i + 1 < end and kind[data[i + 1]] == _WORD and data[i + 1] < 128
            if not inner_dash:
                return i
        i += 1
    return end


@njit(cache=True, nogil=True)
def _token(data, start, end, kind):  # type: ignore[no-untyped-def]
    """(stop, token, its class, run, word) at data[start]; run and word are the parts of a token made of both, else 0."""
    none = np.uint64(0)
    k = kind[data[start]]
    if k == _WORD:
        stop = _word_end(data, start, end, kind)
        return stop, _fnv(data, start, stop), ANY_WORD, none, none
    if k == _DIGIT:
        stop = start
        while stop < end and (kind[data[stop]] == _WORD or kind[data[stop]] == _DIGIT or data[stop] == 46):
            stop += 1
        return stop, ANY_NUMBER, ANY_NUMBER, none, none
    stop = start + 1
    while k == _RUN and stop < end and kind[data[stop]] == _RUN:
        stop += 1
    run = _fnv(data, start, min(stop, start + 8))
    if k != _RUN or stop - start > 8 or stop == end or kind[data[stop]] != _WORD or (data[start] == 43 and stop == start + 1):
        return stop, run, run, none, none
    last = _word_end(data, stop, end, kind)
    c = data[start]
    sigil = stop == start + 1 and (c == 35 or c == 36 or c == 37 or c == 46 or c == 64 or c == 92)  # # $ % . @ backslash
    # `std::string` holds the word `string`; `obj.end` does not hold the keyword `end`.
    word = none if sigil else _fnv(data, stop, last)
    return last, _fnv(data, start, last), (run ^ np.uint64(87)) * np.uint64(_PRIME), run, word


@njit(cache=True, nogil=True)
def tokenize(data, begin, end, kind, tokens_T4, place_T, closed_T):  # type: ignore[no-untyped-def]
    """Tokens of data[begin:end]: (token, class, run, word), place on the line, last byte of the line (at its first token)."""
    n = 0
    place = 0
    i = begin + 3 if end - begin >= 3 and data[begin] == 0xEF and data[begin + 1] == 0xBB else begin  # past a BOM
    while i < end:
        k = kind[data[i]]
        if k in (_SPACE, _NEWLINE):
            if k == _NEWLINE and place > 0:
                j = i - 1
                while data[j] == 32 or data[j] == 9:
                    j -= 1
                closed_T[n - place] = data[j]
                place = 0
            i += 1
            continue
        stop, token, group, run, word = _token(data, i, end, kind)
        if place == 0 and k in (_RUN, _SINGLE):
            bare = i + 1
            while bare < end and kind[data[bare]] == _RUN and k == _RUN:
                bare += 1
            if _is_comment(data, i, bare, end):
                token = group = _fnv(data, i, min(bare, i + 8))
                run = word = np.uint64(0)
                stop = _comment_end(data, i, bare, end)
        tokens_T4[n, 0], tokens_T4[n, 1], tokens_T4[n, 2], tokens_T4[n, 3] = token, group, run, word
        place_T[n] = place
        closed_T[n] = 0
        place += 1
        n += 1
        i = stop
    return n
