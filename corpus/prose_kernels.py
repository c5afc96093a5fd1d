"""The kernels of corpus/prose.py: one document at a time, from its UTF-8 bytes to a row of counts."""

from __future__ import annotations

import numpy as np
from numba import njit

from corpus.word_kernels import ALONE, GOLDEN, HALF, MOST, SPACE, code_point, count_tokens, hash_of, point_before

__all__ = ["count_all"]

# --- A hash table of n-grams and lines: open addressing over the first mask + 1 keys, 0 for none -----------------------------


@njit(cache=True, nogil=True)
def _cleared(keys, n):  # type: ignore[no-untyped-def]
    """Room for n keys, at most half full; the mask of positions in it."""
    size = 16
    while size < 2 * n:
        size *= 2
    keys[:size] = 0
    return np.uint64(size - 1)


@njit(cache=True, nogil=True)
def _slot(keys, key, mask):  # type: ignore[no-untyped-def]
    """The position of a key: its own, or the free one to put it in."""
    at = key & mask
    while keys[at] != key and keys[at] != 0:
        at = (at + np.uint64(1)) & mask
    return at


@njit(cache=True, nogil=True)
def _gram(hash_T, t, n):  # type: ignore[no-untyped-def]
    h = np.uint64(n)
    for k in range(n):
        h = (h ^ hash_T[t + k]) * GOLDEN
        h ^= h >> HALF
    return h | np.uint64(1 << 63)  # not 0


@njit(cache=True, nogil=True)
def _repeated(hash_T, size_T, n, keys):  # type: ignore[no-untyped-def]
    """(how many of the first n texts were there before, their characters)."""
    mask = _cleared(keys, n)
    count = characters = 0
    for t in range(n):
        key = _gram(hash_T, t, 1)
        at = _slot(keys, key, mask)
        if keys[at] == key:
            count += 1
            characters += size_T[t]
        keys[at] = key
    return count, characters


@njit(cache=True, nogil=True)
def _top_gram(hash_T, size_T, tokens, n, keys, met):  # type: ignore[no-untyped-def]
    """(characters of the most frequent n-gram with spaces between its tokens, times its count; that count). Of several as
    frequent, the one that is met first."""
    if tokens < n:
        return 0, 0
    mask = _cleared(keys, tokens)
    most, first = np.int64(1), np.int64(0)
    for t in range(tokens - n + 1):
        key = _gram(hash_T, t, n)
        at = _slot(keys, key, mask)
        if keys[at] != key:
            keys[at] = key
            met[at] = (np.int64(1) << 32) | t  # how often and where first
            continue
        seen = met[at] + (np.int64(1) << 32)
        met[at] = seen
        times, begin = seen >> 32, seen & 0xFFFFFFFF
        if times > most or (times == most and begin < first):
            most, first = times, begin
    size = n - 1
    for k in range(n):
        size += size_T[first + k]
    return most * size, most


@njit(cache=True, nogil=True)
def _duplicate_grams(hash_T, size_T, tokens, n, keys):  # type: ignore[no-untyped-def]
    """Characters in n-grams that were there before, no character counted twice: past a repeated n-gram the next begins."""
    mask = _cleared(keys, tokens)
    characters = 0
    t = 0
    while t + n <= tokens:
        key = _gram(hash_T, t, n)
        at = _slot(keys, key, mask)
        if keys[at] == key:
            for k in range(n):
                characters += size_T[t + k]
            t += n
        else:
            keys[at] = key
            t += 1
    return characters


@njit(cache=True, nogil=True)
def _covered(hash_T, size_T, tokens, n, keys):  # type: ignore[no-untyped-def]
    """Characters of the tokens that lie in any n-gram that was there before: no longer n-grams can hold more of them."""
    mask = _cleared(keys, tokens)
    characters, done = 0, np.int64(0)
    for t in range(tokens - n + 1):
        key = _gram(hash_T, t, n)
        at = _slot(keys, key, mask)
        if keys[at] == key:
            for k in range(t if t > done else done, t + n):
                characters += size_T[k]
            done = np.int64(t + n)
        keys[at] = key
    return characters


# --- Lines and paragraphs ----------------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _lines(data, tables, work, row):  # type: ignore[no-untyped-def]
    """Into row[8:16]: newlines, lines, lines of bullets, lines ending in an ellipsis, lines that are not blank, of these ended
    by a terminal mark, of at most 30 characters, sentences in ended lines of 3 words and more. Hashes of the lines that are
    not blank into `work`; returns how many of those there are."""
    stop = len(data)
    start = kept = 0
    newlines = lines = bullets = ellipses = filled = ended = short = sentences = 0
    while start < stop:
        end = start
        while end < stop and data[end] != 10:
            end += 1
        newlines += end < stop
        lines += 1
        size, first, last, marks, tokens, closing = _line(data[start:end], tables.class_U, tables.ends_U, tables.closes_U)
        if first >= 0:
            filled += 1
            short += size <= 30
            bullets += first == 0x2022 or first == 45  # •, -
            dots = last == 46 and _ends_in_dots(data, start, end)
            ellipses += dots or last == 0x2026
            if closing:
                ended += 1
                sentences += marks if tokens >= 3 and not dots else 0
            if kept < MOST:
                work.hash_T[kept], work.size_T[kept] = hash_of(data, start, end), size
                kept += 1
        start = end + 1
    row[8], row[9], row[10], row[11], row[12], row[13], row[14], row[15] = (
        newlines, lines, bullets, ellipses, filled, ended, short, sentences,
    )  # fmt: skip
    return kept


@njit(cache=True, nogil=True)
def _ends_in_dots(data, start, end):  # type: ignore[no-untyped-def]
    while end > start and data[end - 1] <= 32:
        end -= 1
    return end - start >= 3 and data[end - 1] == 46 and data[end - 2] == 46 and data[end - 3] == 46


@njit(cache=True, nogil=True)
def _line(data, class_U, ends_U, closes_U):  # type: ignore[no-untyped-def]
    """Of one line: (characters, first and last code point that is no space or -1, sentences, words by spaces or of one
    character, whether it ends in a terminal mark with perhaps a closing quote or bracket after it)."""
    i = size = sentences = words = 0
    first = last = -1
    closing, wide, space = False, False, True
    while i < len(data):
        point, step = int(data[i]), 1
        if point >= 128:
            point, step = code_point(data, i, len(data))
        i += step
        size += 1
        if class_U[point] == SPACE:
            sentences += closing and not space
            space = True
            continue
        words += space or class_U[point] == ALONE
        first = point if first < 0 else first
        last = point
        closed = ends_U[point] or (closing and not space and closes_U[point])
        space = False
        sentences += closing and wide and not closed  # no space follows a full-width mark
        wide = closed and (wide if closing else point >= 0x3000)
        closing = closed
    sentences += closing and not space
    return size, first, last, sentences, words, closing


@njit(cache=True, nogil=True)
def _pieces(data, least, work):  # type: ignore[no-untyped-def]
    """Hash and characters of what stands between runs of `least` newlines and more; how many pieces."""
    stop = len(data)
    start = i = count = 0
    while True:
        run = i
        while run < stop and data[run] == 10:
            run += 1
        if run - i >= least or i >= stop:
            if count < MOST:
                size = 0
                for k in range(start, i):
                    size += (data[k] & 0xC0) != 0x80
                work.hash_T[count], work.size_T[count] = hash_of(data, start, i), size
                count += 1
            if i >= stop:
                return count
            start = i = run
            if start >= stop:
                i = stop
        else:
            i = max(run, i + 1)


@njit(cache=True, nogil=True)
def _stripped(data, class_U):  # type: ignore[no-untyped-def]
    """[start, stop) without the white space around."""
    start, stop = 0, len(data)
    while start < stop:
        point, step = code_point(data, start, stop)
        if class_U[point] != SPACE:
            break
        start += step
    while stop > start:
        point, begin = point_before(data, stop, start)
        if class_U[point] != SPACE:
            break
        stop = begin
    return start, stop


@njit(cache=True, nogil=True)
def _marks(data):  # type: ignore[no-untyped-def]
    """(#, ... and …, whether `lorem ipsum` stands in it)."""
    hashes = ellipses = 0
    lorem = False
    i = 0
    while i < len(data):
        c = data[i]
        if c == 35:
            hashes += 1
        elif c == 46 and i + 2 < len(data) and data[i + 1] == 46 and data[i + 2] == 46:
            ellipses += 1
            i += 2
        elif c == 0xE2 and i + 2 < len(data) and data[i + 1] == 0x80 and data[i + 2] == 0xA6:
            ellipses += 1
        elif c | 32 == 108 and not lorem and i + 11 <= len(data):
            lorem = True
            for k in range(11):
                if data[i + k] | 32 != (108, 111, 114, 101, 109, 32, 105, 112, 115, 117, 109)[k]:
                    lorem = False
                    break
        i += 1
    return hashes, ellipses, lorem


@njit(cache=True, nogil=True)
def count_all(offsets_N1, data_B, tables, work, limit_6, out_NK):  # type: ignore[no-untyped-def]
    """A row of counts for every document: the fields of corpus.prose.ProseStats in order. limit_6: see prose_stats; no
    comparison with NaN holds, so a limit of NaN neither spares nor ends the counting."""
    hash_T, size_T, keys, met, _ = work
    for d in range(len(offsets_N1) - 1):
        data = data_B[offsets_N1[d] : offsets_N1[d + 1]]
        row = out_NK[d]
        tokens = count_tokens(data, tables, work, row)
        most = np.int64(2)
        for n in range(2, 5):
            if most > 1:
                row[21 + n], most = _top_gram(hash_T, size_T, tokens, n, keys, met)
            elif tokens >= n:  # every n-gram stands once if every shorter one does
                row[21 + n] = n - 1 + size_T[:n].sum()
        most = _covered(hash_T, size_T, tokens, 5, keys)
        for n in range(5, 11):
            if not most <= limit_6[n - 5] * row[0]:
                row[21 + n] = _duplicate_grams(hash_T, size_T, tokens, n, keys)
                if row[21 + n] > limit_6[n - 5] * row[0]:
                    break
        filled = _lines(data, tables, work, row)
        _, row[16] = _repeated(hash_T, size_T, filled, keys)
        row[17] = _pieces(data, 1, work)
        row[18], row[19] = _repeated(hash_T, size_T, min(row[17], MOST), keys)
        start, stop = _stripped(data, tables.class_U)
        row[20] = _pieces(data[start:stop], 2, work)
        row[21], row[22] = _repeated(hash_T, size_T, min(row[20], MOST), keys)
        row[7], row[32], row[33] = _marks(data)
