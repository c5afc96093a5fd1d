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
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

__all__ = ["decimal_hashes", "logits", "word_hash", "write_lines"]

_FNV_START, _FNV_PRIME = np.uint32(2166136261), np.uint32(16777619)
_RUN = np.uint64(116049371)
_MOST = np.uint64(2**64 - 1)
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

    Runs of one length are taken _WORDS at a time, and their rows found before any is read. The table is 8 MB at random
    places: with nothing but reads in a row, a processor has some twenty under way at once, with arithmetic between them a few.
    """
    out_N = np.empty(len(ends_N1) - 1, np.float32)
    buckets = np.uint64(max(1, len(bucket_B)))
    inverse = _MOST // buckets
    hash_W, run_W, row_W = np.empty(_WORDS + runs, np.uint64), np.empty(_WORDS, np.uint64), np.empty(_WORDS, np.uint64)
    for i in range(len(out_N)):
        stop = min(ends_N1[i + 1], ends_N1[i] + limit)
        total, features = 0.0, 0
        for first in range(ends_N1[i], stop, _WORDS):
            here = min(stop - first, _WORDS)
            for j in range(here):
                word = ids_T[first + j]
                total += word_V[word]  # 0 where it is not in the vocabulary
                features += known_V[word]
                run_W[j] = hash_W[j] = np.uint64(np.int64(hash_V[word]))
            known = min(stop - first, here + runs - 1)  # words that runs from here reach
            for j in range(here, known):
                hash_W[j] = np.uint64(np.int64(hash_V[ids_T[first + j]]))
            hash_W[known] = np.uint64(np.int64(end[0]))
            if known == stop - first:
                known += 1
            for length in range(1, runs):
                found = max(0, min(here, known - length))
                for j in range(found):
                    run_W[j] = run_W[j] * _RUN + hash_W[j + length]
                    row_W[j] = _modulo(run_W[j], buckets, inverse)
                for j in range(found):
                    total += bucket_B[row_W[j]]
                features += found
        total += end[1]
        features += end[2]
        out_N[i] = total / features if features else 0.0
    return out_N


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _modulo(n, divisor, inverse):  # type: ignore[no-untyped-def]
    """n % divisor, uint64. inverse: ⌊(2^64 - 1) / divisor⌋, at least 2^64 / divisor - 1: the quotient is right or one less.

    A processor's own division would make `logits` take 1.6 times as long.
    """
    rest = n - _upper_half(n, inverse) * divisor
    return min(rest, rest - divisor)  # below 0 is above all


@intrinsic  # type: ignore[untyped-decorator]
def _upper_half(context, a, b):  # type: ignore[no-untyped-def]
    """The upper 64 bits of a product of uint64, which numba has no name for."""

    def code(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        wide = ir.IntType(128)
        product = builder.mul(*(builder.zext(argument, wide) for argument in arguments))
        return builder.trunc(builder.lshr(product, wide(64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), code
