"""Loops of the classifier: ids to fastText's input lines, and ids to a logit by look-ups in the collapsed table.

fastText's own rules, by its source (dictionary.cc), which the tests hold against the library:

    hash of a word      FNV-1a, 32 bits, each byte first widened as a *signed* 8-bit number (digits are below 128)
    features of a line  the row of every word in the vocabulary, and of every run of 2 to n words, in it or not
    row of a run        h = h × 116049371 + hash(next word) in 64 bits, hashes taken as signed 32-bit numbers; h mod buckets
    end of a line       is a word too: </s>
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["decimal_hashes", "logits", "word_hash", "write_lines"]

_FNV_START, _FNV_PRIME = np.uint32(2166136261), np.uint32(16777619)
_RUN = np.uint64(116049371)
_WORDS = 1024  # whose runs are looked up together


def word_hash(word: bytes) -> int:
    """fastText's hash of a word, as the signed 32-bit number that runs are made of."""
    h = 2166136261
    for byte in word:
        h = ((h ^ (byte if byte < 128 else byte | 0xFFFFFF00)) * 16777619) & 0xFFFFFFFF
    return h - (1 << 32) if h >= 1 << 31 else h


@njit(cache=True, nogil=True)
def decimal_hashes(size: int) -> np.ndarray:
    """int32 [size]: word_hash of "0", "1", … written as decimal numbers."""
    out = np.empty(size, np.int32)
    digits = np.empty(20, np.uint8)
    for i in range(size):
        n = _digits(i, digits)
        h = _FNV_START
        for k in range(n - 1, -1, -1):
            h = np.uint32(np.uint32(h ^ np.uint32(digits[k])) * _FNV_PRIME)
        out[i] = np.int32(h)
    return out


@njit(cache=True, nogil=True)
def _digits(value: int, digits: np.ndarray) -> int:
    """The decimal digits of `value`, last first, as ASCII; how many."""
    n = 0
    while True:
        digits[n] = 48 + value % 10
        value //= 10
        n += 1
        if value == 0:
            return n


@njit(cache=True, nogil=True)
def write_lines(ids_T: np.ndarray, ends_N1: np.ndarray, label_N: np.ndarray, heads: np.ndarray, out_B: np.ndarray) -> int:
    """One line per document: its label's head, its ids as decimal words, a line feed. Bytes written to out_B.

    heads: uint8 [labels, width], e.g. "__label__0 "; out_B needs width + 11 × ids + 1 bytes per document.
    """
    digits = np.empty(20, np.uint8)
    at = 0
    for i in range(len(label_N)):
        for byte in heads[label_N[i]]:
            out_B[at] = byte
            at += 1
        for j in range(ends_N1[i], ends_N1[i + 1]):
            for k in range(_digits(np.int64(ids_T[j]), digits) - 1, -1, -1):
                out_B[at] = digits[k]
                at += 1
            out_B[at] = 32
            at += 1
        out_B[at] = 10
        at += 1
    return at


@njit(cache=True, nogil=True)
def logits(
    ids_T: np.ndarray,
    ends_N1: np.ndarray,
    limit: int,
    hash_V: np.ndarray,
    word_V: np.ndarray,
    known_V: np.ndarray,
    bucket_B: np.ndarray,
    runs: int,
    end: Any,
) -> np.ndarray:
    """The mean of the features' values, float32 [N]: the first `limit` ids of each document and the end of its line.

    hash_V, word_V, known_V: of each id, its hash, its value and whether it is in the vocabulary. end: the same of </s>.
    runs: the longest run of words that is a feature. No features at all: 0.

    The rows of many runs are found before any is read. The table is 8 MB at random places: with nothing but reads in a row, a
    processor has some twenty under way at once; with the arithmetic of a run between them, a few. 2.5 times as fast.
    """
    out_N = np.empty(len(ends_N1) - 1, np.float32)
    buckets = np.uint64(len(bucket_B))
    end_hash = np.uint64(np.int64(end[0]))
    row_R = np.empty(_WORDS * max(1, runs - 1), np.uint64)
    for i in range(len(out_N)):
        start = ends_N1[i]
        stop = min(ends_N1[i + 1], start + limit)
        total, features = 0.0, 0
        for first in range(start, stop, _WORDS):
            found = 0
            for j in range(first, min(stop, first + _WORDS)):
                word = ids_T[j]
                total += word_V[word]  # 0 where it is not in the vocabulary
                features += known_V[word]
                h = np.uint64(np.int64(hash_V[word]))
                for k in range(j + 1, min(stop + 1, j + runs)):
                    following = np.uint64(np.int64(hash_V[ids_T[k]])) if k < stop else end_hash
                    h = h * _RUN + following
                    row_R[found] = h % buckets
                    found += 1
            for r in range(found):
                total += bucket_B[row_R[r]]
            features += found
        total += end[1]
        features += end[2]
        out_N[i] = total / features if features else 0.0
    return out_N
