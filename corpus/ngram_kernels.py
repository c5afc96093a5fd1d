"""The kernels of corpus/ngrams.py: words from bytes, entries from texts, the scan.

Suffixes: N documents, T texts, E entries of the index, W words of a block.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from corpus.folding import HAN, MARK, MORE, SKIP, WORD

__all__ = ["Grams", "bloom", "canon_all", "entries", "fill", "power_of_two", "scan_words"]

_SEED = np.uint64(0x2545F4914F6CDD1D)
_LETTER = np.uint64(0x9E3779B97F4A7C15)  # odd, so multiplication loses nothing
_MIX = np.uint64(0xD6E8FEB86659FD93)
_ROLL = np.uint64(0xA0761D6478BD642F)
_LENGTH = np.uint64(0xE7037ED1A0B428DB)
_WHOLE = 64  # words of a text that is looked for whole; of a longer one, its first
_BLOCK = 2048  # words hashed before they are looked up: 48 kB, beside the filter in the cache
_U0, _U1, _U6, _U32, _U63 = (np.uint64(v) for v in (0, 1, 6, 32, 63))


class Grams(NamedTuple):
    """The index as the kernel reads it. E entries. canon: folded texts as code points, tokens separated by 32."""

    ngram: int
    min_ngram: int
    longest: int  # words of the longest entry
    filter: np.ndarray  # uint64 blocks of a Bloom filter over the keys of `ngram` words, power of two
    trigger: np.ndarray  # the same over the keys of `min_ngram` words
    keys: np.ndarray  # uint64, open addressing, 0 = empty, power of two
    slots: np.ndarray  # int64 entry of each key
    start_E: np.ndarray  # int64 in canon
    stop_E: np.ndarray
    words_E: np.ndarray  # int64
    marks_E: np.ndarray  # bool: a whole text, compared with its punctuation
    canon: np.ndarray  # uint32


@njit(cache=True, nogil=True, inline="always")
def _decode(data, i, stop):  # type: ignore[no-untyped-def]
    """(code point, bytes) at a byte >= 0x80; what is not UTF-8 reads as one byte of 0xFFFD."""
    b = data[i]
    if 0xC2 <= b < 0xE0 and i + 1 < stop and data[i + 1] & 0xC0 == 0x80:
        return (np.int64(b & 0x1F) << 6) | np.int64(data[i + 1] & 0x3F), 2
    if 0xE0 <= b < 0xF0 and i + 2 < stop and data[i + 1] & 0xC0 == 0x80 and data[i + 2] & 0xC0 == 0x80:
        code = (np.int64(b & 0x0F) << 12) | (np.int64(data[i + 1] & 0x3F) << 6) | np.int64(data[i + 2] & 0x3F)
        if code >= 0x800:
            return code, 3
    if 0xF0 <= b < 0xF5 and i + 3 < stop and data[i + 1] & 0xC0 == 0x80 and data[i + 2] & 0xC0 == 0x80:
        code = (np.int64(b & 0x07) << 18) | (np.int64(data[i + 1] & 0x3F) << 12) | (np.int64(data[i + 2] & 0x3F) << 6)
        if data[i + 3] & 0xC0 == 0x80 and 0x10000 <= code < 0x110000:
            return code | np.int64(data[i + 3] & 0x3F), 4
    return np.int64(0xFFFD), 1


@njit(cache=True, nogil=True)
def _folded(code, wide):  # type: ignore[no-untyped-def]
    """class << 24 | folded, for any code point."""
    if code < 0x20000:
        return np.int64(wide[code])
    if code < 0x40000:
        return np.int64(HAN << 24) | code
    if 0xE0000 <= code < 0xE1000:
        return np.int64(SKIP << 24)
    return np.int64(MARK << 24) | code


@njit(cache=True, nogil=True, inline="always")
def _finish(h):  # type: ignore[no-untyped-def]
    h = (h ^ (h >> _U32)) * _MIX
    return h ^ (h >> _U32)


@njit(cache=True, nogil=True)
def _tokens(data, i, stop, fold, marks, hash_W, start_W, stop_W):  # type: ignore[no-untyped-def]
    """Hash, first byte and end of the tokens of bytes [i, stop), from element 0 on: (how many, where it stopped because the
    arrays were full). marks: punctuation marks are tokens too.

    One flat loop over bytes with a counter for the word's length: nested loops for words and gaps mispredict at every
    exit and run at half the speed.
    """
    n, size, h, upto = 0, 0, _SEED, i
    for j in range(i, stop):
        c = fold.ascii_256[data[j]]
        if c > 2:
            h = (h ^ np.uint64(c)) * _LETTER
            size += 1
            continue
        kind, low, end = np.int64(c), np.int64(data[j]), j + 1
        if c == 2:
            if j < upto:  # inside a character that was read at its first byte
                size += size > 0
                continue
            code, length = _decode(data, j, stop)
            value = _folded(code, fold.wide)
            kind, low, end = value >> 24, value & 0xFFFFFF, j + length
            upto = end
            if kind == SKIP:
                size += size > 0
                continue
            if kind == WORD:
                h = (h ^ np.uint64(low)) * _LETTER
                size += 1
                continue
            if kind == MORE:
                while fold.more[low] != 0:
                    h = (h ^ np.uint64(fold.more[low])) * _LETTER
                    low += 1
                size += 1
                continue
        if size > 0:
            hash_W[n], start_W[n], stop_W[n] = _finish(h), j - size, j
            n, size, h = n + 1, 0, _SEED
        if kind == HAN or (marks and kind == MARK):
            hash_W[n], start_W[n], stop_W[n] = _finish((h ^ np.uint64(low)) * _LETTER), j, end
            n += 1
        if n >= len(hash_W) - 1:
            return n, end
    if size > 0:
        hash_W[n], start_W[n], stop_W[n] = _finish(h), stop - size, stop
        n += 1
    return n, stop


@njit(cache=True, nogil=True)
def _canon(data, i, stop, fold, marks, out, hash_W, start_W, stop_W):  # type: ignore[no-untyped-def]
    """Folded tokens of bytes [i, stop) as code points with 32 between; their number, -1 where `out` is too small. The last
    three are room for _tokens, given because allocating it for every n-gram of a copied text would cost most of the time."""
    k = 0
    while i < stop:
        n, i = _tokens(data, i, stop, fold, marks, hash_W, start_W, stop_W)
        for w in range(n):
            if k > 0:
                if k >= len(out):
                    return -1
                out[k] = 32
                k += 1
            k = _canon_token(data, start_W[w], stop_W[w], fold, k, out)
            if k < 0:
                return -1
    return k


@njit(cache=True, nogil=True)
def _canon_token(data, i, stop, fold, k, out):  # type: ignore[no-untyped-def]
    while i < stop:
        code, size = np.int64(data[i]), 1
        if code >= 0x80:
            code, size = _decode(data, i, stop)
        i += size
        value = _folded(code, fold.wide)
        kind, low = value >> 24, value & 0xFFFFFF
        while kind != SKIP:
            if k >= len(out):
                return -1
            out[k] = fold.more[low] if kind == MORE else low
            k += 1
            low += 1
            if kind != MORE or fold.more[low] == 0:
                break
    return k


@njit(cache=True, nogil=True)
def canon_all(offsets, data, fold, marks, out, ends):  # type: ignore[no-untyped-def]
    """_canon of every row, one after another in `out`; ends_N1. -1 where `out` is too small."""
    hash_W, start_W, stop_W = np.empty(64, np.uint64), np.empty(64, np.int64), np.empty(64, np.int64)
    k = 0
    for row in range(len(offsets) - 1):
        made = _canon(data, offsets[row], offsets[row + 1], fold, marks, out[k:], hash_W, start_W, stop_W)
        if made < 0:
            return -1
        k += made
        ends[row + 1] = k
    return k


@njit(cache=True, nogil=True, inline="always")
def _key(h, words):  # type: ignore[no-untyped-def]
    key = _finish(h + np.uint64(words) * _LENGTH)
    return key if key != _U0 else _U1  # 0 marks an empty slot


@njit(cache=True, nogil=True, inline="always")
def _passes(blocks, key):  # type: ignore[no-untyped-def]
    bits = (_U1 << (key & _U63)) | (_U1 << ((key >> _U6) & _U63))
    return blocks[(key >> _U32) & np.uint64(len(blocks) - 1)] & bits == bits


@njit(cache=True, nogil=True)
def _key_of(hashes, first, words):  # type: ignore[no-untyped-def]
    h = _U0
    for j in range(first, first + words):
        h = h * _ROLL + hashes[j]
    return _key(h, words)


@njit(cache=True, nogil=True)
def _read_words(canon, i, stop, wide, plain, p, word_hash, marked, bare, telling):  # type: ignore[no-untyped-def]
    """The words of canon[i:stop], and a copy of them without marks in `plain` from p on. (words, p). marked, bare: start and
    end of word w in canon and in plain."""
    w = 0
    while i < stop:
        start, h, digits = i, _SEED, 0
        while i < stop and canon[i] != 32:
            h = (h ^ np.uint64(canon[i])) * _LETTER
            digits += 48 <= canon[i] <= 57
            i += 1
        kind = _folded(np.int64(canon[start]), wide) >> 24
        if i - start > 1 or kind != MARK:
            word_hash[w] = _finish(h)
            marked[w, 0], marked[w, 1], bare[w, 0], bare[w, 1] = start, i, p, p + i - start
            telling[w] = kind == HAN or (i - start > 1 and digits < i - start)
            plain[p : p + i - start] = canon[start:i]
            p += i - start
            plain[p] = 32
            p += 1
            w += 1
        i += 1
    return w, p


@njit(cache=True, nogil=True)
def _telling(word_hash, telling, first, words):  # type: ignore[no-untyped-def]
    """How many different telling words."""
    n = 0
    for j in range(first, first + words):
        new = telling[j]
        for k in range(first, j):
            new = new and word_hash[k] != word_hash[j]
        n += new
    return n


@njit(cache=True, nogil=True)
def entries(canon, bounds, wide, ngram, min_ngram, distinct, plain, key_E, span_E, words_E, marks_E, text_E, kind_T):  # type: ignore[no-untyped-def]
    """Every entry of every text, in order; how many. kind_T as in KINDS."""
    e = p = 0
    room = int((bounds[1:] - bounds[:-1]).max()) + 1 if len(bounds) > 1 else 1
    word_hash, telling = np.empty(room, np.uint64), np.empty(room, np.bool_)
    marked, bare = np.empty((room, 2), np.int64), np.empty((room, 2), np.int64)
    for text in range(len(bounds) - 1):
        w, p = _read_words(canon, bounds[text], bounds[text + 1], wide, plain, p, word_hash, marked, bare, telling)
        kind_T[text] = 0
        if w < min_ngram:
            continue
        for first in range(w - ngram + 1):
            if _telling(word_hash, telling, first, ngram) >= distinct:
                key_E[e] = _key_of(word_hash, first, ngram)
                span_E[e, 0], span_E[e, 1] = bare[first, 0], bare[first + ngram - 1, 1]
                words_E[e], marks_E[e], text_E[e] = ngram, False, text
                e += 1
                kind_T[text] = 3
        if kind_T[text] == 3:
            continue
        words = min(w, _WHOLE)
        start, stop = marked[0, 0], marked[words - 1, 1]
        tells = _telling(word_hash, telling, 0, words)
        tokens = 1 + np.sum(canon[start:stop] == 32)
        kind_T[text] = 1
        if distinct == 0 or tells >= 2 or (tells == 1 and tokens >= 5):
            tail = ngram if words >= ngram else min_ngram
            key_E[e] = _key_of(word_hash, words - tail, tail)
            span_E[e, 0], span_E[e, 1] = start + len(plain), stop + len(plain)
            words_E[e], marks_E[e], text_E[e] = words, True, text
            e += 1
            kind_T[text] = 2
    return e


@njit(cache=True, nogil=True)
def fill(key_E, span_E, canon, keys, slots):  # type: ignore[no-untyped-def]
    """Put entries into the table. Of entries with one text the first stays."""
    mask = np.uint64(len(keys) - 1)
    for e in range(len(key_E)):
        s = key_E[e] & mask
        same = False
        while keys[s] != _U0 and not same:
            f = slots[s]
            if keys[s] == key_E[e]:
                same = np.array_equal(canon[span_E[e, 0] : span_E[e, 1]], canon[span_E[f, 0] : span_E[f, 1]])
            s = (s + _U1) & mask
        if not same:
            keys[s], slots[s] = key_E[e], e


@njit(cache=True, nogil=True)
def _find(key, seen, start_W, w, data, stop, fold, grams, scratch, room):  # type: ignore[no-untyped-def]
    """The first entry that is, folded, the text up to byte `stop`, where element w, the document's word number `seen`,
    ends; -1 where there is none."""
    mask = np.uint64(len(grams.keys) - 1)
    s = key & mask
    while grams.keys[s] != _U0:
        e = grams.slots[s]
        words = grams.words_E[e]
        if grams.keys[s] == key and words <= seen:
            made = _canon(data, start_W[w + 1 - words], stop, fold, grams.marks_E[e], scratch, *room)
            first = grams.start_E[e]
            same = made == grams.stop_E[e] - first
            j = 0
            while same and j < made:
                same = scratch[j] == grams.canon[first + j]
                j += 1
            if same:
                return e
        s = (s + _U1) & mask
    return np.int64(-1)


@njit(cache=True, nogil=True)
def scan_words(offsets, data, fold, grams, scratch, entry_N, word_N, run_N):  # type: ignore[no-untyped-def]
    """Words in blocks of _BLOCK, hashed first, then looked up. The last `past` words stay before the block."""
    n, m = grams.ngram, grams.min_ngram
    past = max(n, grams.longest)
    hash_W, start_W = np.zeros(past + _BLOCK, np.uint64), np.zeros(past + _BLOCK, np.int64)
    stop_W = np.zeros(_BLOCK, np.int64)
    room = (np.empty(64, np.uint64), np.empty(64, np.int64), np.empty(64, np.int64))
    leave_n, leave_m = _U1, _U1  # _ROLL ** n, _ROLL ** m: the weight with which a word leaves the window
    for j in range(n):
        leave_n *= _ROLL
        leave_m *= _ROLL if j < m else _U1
    for row in range(len(offsets) - 1):
        i, stop = offsets[row], offsets[row + 1]
        h, tail, seen, run_from, run_to = _U0, _U0, 0, 0, -1
        hash_W[:past] = _U0  # words before the first weigh nothing
        while i < stop:
            made, i = _tokens(data, i, stop, fold, False, hash_W[past:], start_W[past:], stop_W)
            for w in range(past, past + made):
                h = h * _ROLL + hash_W[w] - leave_n * hash_W[w - n]
                tail = tail * _ROLL + hash_W[w] - leave_m * hash_W[w - m]
                seen += 1
                e = np.int64(-1)
                key = _key(h, n)
                if _passes(grams.filter, key):
                    e = _find(key, seen, start_W, w, data, stop_W[w - past], fold, grams, scratch, room)
                key = _key(tail, m)
                if e < 0 and _passes(grams.trigger, key):
                    e = _find(key, seen, start_W, w, data, stop_W[w - past], fold, grams, scratch, room)
                if e >= 0:
                    first = seen - grams.words_E[e]
                    if entry_N[row] < 0:
                        entry_N[row], word_N[row] = e, first
                    if first > run_to:
                        run_from = first
                    run_to = seen
                    run_N[row] = max(run_N[row], run_to - run_from)
            hash_W[:past] = hash_W[made : made + past]
            start_W[:past] = start_W[made : made + past]


def power_of_two(least: int) -> int:
    return 1 << max(0, least - 1).bit_length()


def bloom(keys: np.ndarray) -> np.ndarray:
    """Two bits a key in one 64-bit block, about 16 bits a key, at most 1 MB: it must stay in a core's second-level cache."""
    blocks = np.zeros(min(1 << 17, power_of_two(len(keys) // 4 + 1)), np.uint64)
    at = (keys >> _U32) & np.uint64(len(blocks) - 1)
    np.bitwise_or.at(blocks, at, (_U1 << (keys & _U63)) | (_U1 << ((keys >> _U6) & _U63)))
    return blocks
