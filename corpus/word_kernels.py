"""The tokens of a text as corpus/prose.py defines them, from its UTF-8 bytes. Linear in the text, whatever it holds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

__all__ = ["ALONE", "CHUNK", "LETTER", "MARK", "MOST", "NUMBER", "SPACE", "Tables", "Work"]
__all__ += ["GOLDEN", "HALF", "code_point", "count_tokens", "hash_of", "point_before", "token_ends"]

MARK, SPACE, LETTER, NUMBER, ALONE = 0, 1, 2, 3, 4  # classes of characters; NUMBER: digits and combining marks
MOST = 1 << 20  # tokens, and lines, of a document that are compared with each other
CHUNK = 1 << 10  # bytes without white space that are cut into tokens together

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_Q = np.uint64(0xD6E8FEB86659FD93)
HALF = np.uint64(32)


class Tables(NamedTuple):
    """class_U: class of every code point; strip_U: whether it is a token by itself at either end of a chunk, front_U: in front
    alone; ends_U: whether it ends a sentence; closes_U: whether it may follow such an end.
    stop: hashes of the stop words; filter: bit h & 63 of each of them is set."""

    class_U: np.ndarray
    strip_U: np.ndarray
    front_U: np.ndarray
    ends_U: np.ndarray
    closes_U: np.ndarray
    stop: np.ndarray
    filter: np.uint64


class Work(NamedTuple):
    """Room for one document: hash and characters of its tokens, then of its lines; keys of a hash table and what they
    met; ends of the tokens of a chunk."""

    hash_T: np.ndarray
    size_T: np.ndarray
    keys: np.ndarray
    met: np.ndarray
    ends: np.ndarray


@njit(cache=True, nogil=True)
def code_point(data, i, stop):  # type: ignore[no-untyped-def]
    """(code point at i, bytes it takes); a byte that begins none is U+FFFD and takes one."""
    lead = np.int64(data[i])
    if lead < 128:
        return lead, 1
    length = 2 if 0xC2 <= lead < 0xE0 else 3 if 0xE0 <= lead < 0xF0 else 4 if 0xF0 <= lead < 0xF5 else 0
    if length == 0 or i + length > stop:
        return 0xFFFD, 1
    point = lead & (0x7F >> length)
    for k in range(1, length):
        c = np.int64(data[i + k])
        if c & 0xC0 != 0x80:
            return 0xFFFD, 1
        point = (point << 6) | (c & 0x3F)
    return (point if point < 0x110000 else 0xFFFD), length


@njit(cache=True, nogil=True)
def point_before(data, i, start):  # type: ignore[no-untyped-def]
    """(code point that ends before i, where it begins)."""
    at = i - 1
    while at > start and i - at < 4 and data[at] & 0xC0 == 0x80:
        at -= 1
    point, step = code_point(data, at, i)
    return (point, at) if at + step == i else (0xFFFD, i - 1)


@njit(cache=True, nogil=True)
def _chunk_end(data, i, class_U):  # type: ignore[no-untyped-def]
    """Where the run of characters at i ends: at white space, at a character that is a word by itself, after CHUNK bytes."""
    start, stop = i, len(data)
    while i < stop and i - start < CHUNK:
        point, step = int(data[i]), 1
        if point >= 128:
            point, step = code_point(data, i, stop)
        kind = class_U[point]
        if kind == SPACE or (kind == ALONE and i > start):
            break
        i += step
        if kind == ALONE:
            break
    return i


@njit(cache=True, nogil=True)
def _chunk(data, i, stop, tables, ends):  # type: ignore[no-untyped-def]
    """Where the tokens of the chunk data[i:stop] end, into `ends`; how many there are."""
    count = 0
    while i < stop:  # marks in front
        point, step = code_point(data, i, stop)
        if data[i] == 46 and i + 1 < stop and data[i + 1] == 46:
            while i < stop and data[i] == 46:
                i += 1
        elif tables.strip_U[point] or (tables.front_U[point] and not (point == 43 and _digit_at(data, i + 1, stop))):
            i += step
        else:
            break
        ends[count] = i
        count += 1
    core = stop
    while core > i:  # marks behind
        point, at = point_before(data, core, i)
        if at <= i or not (tables.strip_U[point] or (point == 46 and _full_stop(data, i, at))):
            break
        core = at
    count = _core(data, i, core, tables.class_U, ends, count)
    i = core
    while i < stop:
        dots = data[i] == 46
        i += code_point(data, i, stop)[1]
        while dots and i < stop and data[i] == 46:
            i += 1
        ends[count] = i
        count += 1
    return count


@njit(cache=True, nogil=True)
def _digit_at(data, i, stop):  # type: ignore[no-untyped-def]
    return i < stop and 48 <= data[i] <= 57


@njit(cache=True, nogil=True)
def _full_stop(data, start, at):  # type: ignore[no-untyped-def]
    """Whether the dot at `at` ends a sentence and not an abbreviation of one capital: after anything but a lone capital."""
    c = data[at - 1]
    if 65 <= c <= 90:
        return at - 2 >= start and 65 <= data[at - 2] <= 90
    return c != 47 and c != 92 and c != 64  # / \ @


@njit(cache=True, nogil=True)
def _core(data, i, stop, class_U, ends, count):  # type: ignore[no-untyped-def]
    """Cut what remains of a chunk between marks at hyphens, slashes and the like between letters, and before 's, n't, 'll."""
    if i >= stop:
        return count
    start = i
    whole = stop - i > 8 and data[i + 4 + (data[i + 4] == 115)] == 58 and data[i] == 104 and data[i + 1] == 116  # http:
    before = class_U[code_point(data, i, stop)[0]]
    i += code_point(data, i, stop)[1]
    while i < stop and not whole:
        point, step = int(data[i]), 1
        if point >= 128:
            point, step = code_point(data, i, stop)
        kind = class_U[point]
        if kind == MARK:
            cut, width = _cut(data, i, stop, step, point, before, class_U)
            if cut:
                begin = i
                if width == 0 and data[i - 1] | 32 == 110 and data[i + step] | 32 == 116 and i - 1 > start:
                    begin -= 1  # do | n't
                if begin > start:
                    ends[count] = begin
                    count += 1
                if width:
                    ends[count] = i + width
                    count += 1
                start = i + width if width else begin
                step = max(step, width)
        before = kind
        i += step
    if stop > start:
        ends[count] = stop
        count += 1
    return count


@njit(cache=True, nogil=True)
def _cut(data, i, stop, step, point, before, class_U):  # type: ignore[no-untyped-def]
    """(whether a core is cut at the mark at i, bytes of the token the mark makes: 0, it goes with what follows)."""
    after_at = i + step
    if point == 45 or point == 46:  # runs of hyphens and dots
        while after_at < stop and data[after_at] == data[i]:
            after_at += 1
        if point == 46 and after_at - i > 1:
            return True, after_at - i
    if after_at >= stop:
        return False, 0
    after = class_U[code_point(data, after_at, stop)[0]]
    if point == 39 or point == 0x2019:  # apostrophes
        left = stop - after_at
        c = data[after_at] | 32
        one = left == 1 and (c == 115 or c == 116 or c == 100 or c == 109)  # s t d m
        two = False
        if left == 2:  # ll re ve
            d = data[after_at + 1] | 32
            two = (c == 108 and d == 108) or ((c == 114 or c == 118) and d == 101)
        return before == LETTER and (one or two), 0
    if point == 46:  # end.Next
        return 97 <= data[i - 1] <= 122 and 65 <= data[after_at] <= 90, step
    if point == 44 or point == 45 or point == 126 or point == 0x2013 or point == 0x2014:  # , - ~ – —
        return before == LETTER and after == LETTER, after_at - i
    if point == 58 or point == 60 or point == 62 or point == 61 or point == 47:  # : < > = /
        return before in (LETTER, NUMBER) and after == LETTER, step
    if (point == 43 or point == 42 or point == 94) and before == NUMBER:  # + * ^
        return after == NUMBER, step
    return point == 0x2026, step


@njit(cache=True, nogil=True)
def _measure(data, i, stop, class_U):  # type: ignore[no-untyped-def]
    """(characters, whether one is no mark, whether one is a letter, whether it is a character alone) of a token."""
    size = 0
    word = letter = alone = False
    while i < stop:
        point, step = int(data[i]), 1
        if point >= 128:
            point, step = code_point(data, i, stop)
        kind = class_U[point]
        word |= kind != MARK
        letter |= kind in (LETTER, ALONE)
        alone |= kind == ALONE
        size += 1
        i += step
    return size, word, letter, alone


@njit(cache=True, nogil=True)
def hash_of(data, start, stop):  # type: ignore[no-untyped-def]
    """64 bits of data[start:stop], eight bytes at a time; different for different texts of up to seven bytes."""
    h = np.uint64(stop - start) * GOLDEN
    i = start
    while i < stop:
        x = np.uint64(0)
        for k in range(min(8, int(stop - i))):
            x = (x << np.uint64(8)) | np.uint64(data[i + k])
        h = (h ^ x) * GOLDEN
        h ^= h >> HALF
        i += 8
    h *= _Q
    return h ^ (h >> HALF)


@njit(cache=True, nogil=True)
def token_ends(data, tables, spans_T2):  # type: ignore[no-untyped-def]
    """[start, stop) of every token of a text; how many. For tests and for looking."""
    ends = np.empty(CHUNK + 4, np.int64)
    i, count = 0, 0
    while i < len(data):
        point, step = code_point(data, i, len(data))
        if tables.class_U[point] == SPACE:
            i += step
            continue
        for t in range(_chunk(data, i, _chunk_end(data, i, tables.class_U), tables, ends)):
            spans_T2[count, 0], spans_T2[count, 1] = i, ends[t]
            i = ends[t]
            count += 1
    return count


@njit(cache=True, nogil=True)
def count_tokens(data, tables, work, row):  # type: ignore[no-untyped-def]
    """Hash and size of every token (of MOST) into `work`, counts into row[0:7]: characters, tokens, words, their characters,
    tokens with a letter, words that are a character alone, different stop words. Returns how many tokens are in `work`."""
    class_U, stop = tables.class_U, len(data)
    ends = work.ends
    i = characters = tokens = words = word_characters = lettered = alone = kept = 0
    seen = np.uint64(0)  # one bit a stop word
    while i < stop:
        point, step = int(data[i]), 1
        if point >= 128:
            point, step = code_point(data, i, stop)
        if class_U[point] == SPACE:
            i += step
            characters += 1
            continue
        made = _chunk(data, i, _chunk_end(data, i, class_U), tables, ends)
        for t in range(made):
            end = ends[t]
            size, word, letter, single = _measure(data, i, end, class_U)
            h = hash_of(data, i, end)
            i = end
            characters += size
            lettered += letter
            if word:
                words += 1
                word_characters += size
                alone += single
                if (tables.filter >> (h & np.uint64(63))) & np.uint64(1):
                    for at in range(len(tables.stop)):
                        if tables.stop[at] == h:
                            seen |= np.uint64(1) << np.uint64(at)
            if kept < MOST:
                work.hash_T[kept], work.size_T[kept] = h, size
                kept += 1
        tokens += made
    different = 0
    while seen:
        seen &= seen - np.uint64(1)
        different += 1
    row[0], row[1], row[2], row[3], row[4], row[5], row[6] = (
        characters, tokens, words, word_characters, lettered, alone, different,
    )  # fmt: skip
    return kept
