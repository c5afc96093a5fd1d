"""MinHash signatures, the band keys made of them, and the curve that says which pairs meet.

A signature has `values` numbers per set of shingles; two sets agree in a value with a probability that is their Jaccard
similarity. Values are grouped into bands of `rows`; two documents meet where a whole band is equal, which happens with
probability 1 - (1 - s^rows)^bands at similarity s. Meeting proves nothing: corpus/components.py verifies.

Not 256 hash functions per shingle but "Fast Similarity Sketching" (Dahlgaard, Knudsen, Thorup, FOCS 2017): a shingle is hashed
once, to one of `values` bins, which keeps the minimum; while bins are empty, the next round hashes all again. A round's minima
never replace an earlier round's, so a bin holds min over (round, hash): one hash per shingle for a large document, about
values x ln(values) in all for a small one. Measured against 256 independent functions, on sets of 8 to 5000 shingles:
unbiased alike, standard deviation 0.70 (small) to 0.97 (large) of theirs, bands collide as the curve says. And as a bin is a
minimum over the set's elements, the signature of a union (a repository) is the element-wise minimum of signatures (its files').
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from corpus.document import text_buffers
from corpus.shingles import ONE, S32, ZERO, P, Q, mix, scratch, shingle_block

__all__ = [
    "EMPTY",
    "MAX_VALUES",
    "band_keys",
    "choose_bands",
    "collision_curve",
    "document_keys",
    "estimate",
    "sign",
    "signatures",
]

MAX_VALUES = 1000  # a round's number has ten bits
EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)  # a bin nothing fell into: only in the signature of a set without shingles
MISSED = 50  # weight of a duplicate that never meets its survivor, against a pair that meets in vain

SAVED = 1 << 16  # shingles kept for the rounds after the first. With a quarter as many different ones every bin is full:
SEEN = 1 << 15  # 256 bins stay empty with probability 256 * exp(-16384 / 256) = 4e-26
S10, S54 = np.uint64(10), np.uint64(54)


def collision_curve(similarity: Any, bands: int, rows: int) -> Any:
    """Probability that two sets of Jaccard `similarity` (a number or an array) share at least one band."""
    return 1.0 - (1.0 - np.asarray(similarity, np.float64) ** rows) ** bands


def choose_bands(threshold: float, values: int) -> tuple[int, int]:
    """(bands, rows), bands * rows <= values, with the least weighted area on the wrong side of the collision curve.

    Area below the threshold is work in vain (counted once), area missing above it is lost recall (MISSED times), since what
    meets is verified anyway. For 256 values and 0.7: 36 bands of 7; pairs meet with 0.955 at 0.7, 0.994 at 0.75, 0.9998 at 0.8.
    """
    at = (np.arange(1000) + 0.5) / 1000
    below = at < threshold
    best, chosen = np.inf, (1, values)
    for rows in range(1, values + 1):
        curve = collision_curve(at, values // rows, rows)
        cost = curve[below].sum() + MISSED * (1.0 - curve[~below]).sum()
        if cost <= best:  # at threshold 1 all cost nothing above it: the most rows
            best, chosen = cost, (values // rows, rows)
    return chosen


def estimate(a_V: np.ndarray, b_V: np.ndarray) -> float:
    """Estimated Jaccard similarity of two sets by their signatures; standard deviation at most sqrt(s (1 - s) / values)."""
    return float(np.mean(a_V == b_V))


@njit(cache=True, nogil=True)
def _round(shingles, n, number, signature):  # type: ignore[no-untyped-def]
    """One round over n shingles; how many empty bins it filled."""
    bins = np.uint64(len(signature))
    high, seed = np.uint64(number) << S54, mix(np.uint64(number))
    filled = 0
    for e in range(n):
        y = shingles[e]
        if number > 0:
            y = (y ^ seed) * Q
            y ^= y >> S32
            y *= P
        at = ((y >> S32) * bins) >> S32
        value = high | ((y * P) >> S10)
        old = signature[at]
        if value < old:
            filled += old == EMPTY
            signature[at] = value
    return filled


@njit(cache=True, nogil=True)
def _later_rounds(shingles, n, empty, signature):  # type: ignore[no-untyped-def]
    """Rounds 1, 2, … until no bin is empty. After `values` rounds each bin still empty takes the minimum over all shingles."""
    values = len(signature)
    number = 1
    while empty > 0 and number < values:
        empty -= _round(shingles, n, number, signature)
        number += 1
    if empty > 0:
        high = np.uint64(values) << S54
        for at in range(values):
            if signature[at] == EMPTY:
                seed = mix(np.uint64(values + at))
                for e in range(n):
                    signature[at] = min(signature[at], high | (mix(shingles[e] ^ seed) >> S10))


@njit(cache=True, nogil=True)
def sign(shingles, n, signature):  # type: ignore[no-untyped-def]
    """The signature of the set of the first n shingles (repetition changes nothing), into `signature`, uint64 [values]."""
    signature[:] = EMPTY
    if n > 0:
        empty = len(signature) - _round(shingles, n, 0, signature)
        _later_rounds(shingles, n, empty, signature)


@njit(cache=True, nogil=True)
def _distinct(saved, n, seen):  # type: ignore[no-untyped-def]
    """The different ones of n shingles, moved to the front of `saved`; how many, or SAVED when more than half of `seen`."""
    seen[:] = ZERO
    mask = np.uint64(len(seen) - 1)
    kept = 0
    for e in range(n):
        x = saved[e]
        at = x & mask
        while seen[at] != ZERO and seen[at] != x:
            at = (at + ONE) & mask
        if seen[at] == ZERO:
            seen[at] = x
            saved[kept] = x
            kept += 1
            if kept > len(seen) // 2:
                return len(saved)
    return kept


@njit(cache=True, nogil=True)
def sign_text(data, start, stop, work, saved, seen, signature):  # type: ignore[no-untyped-def]
    """Signature of the text data[start:stop], of any length, in bounded memory; how many shingles it has."""
    signature[:] = EMPTY
    work[4][:] = ZERO
    total = held = 0
    empty = len(signature)
    while start < stop:
        start, n = shingle_block(data, start, stop, work)
        empty -= _round(work[5], n, 0, signature)
        total += n
        if empty > 0 and held + n > len(saved):  # so many, and so few different ones: a text that repeats itself
            held = _distinct(saved, held, seen)
        if held + n <= len(saved):
            saved[held : held + n] = work[5][:n]
            held += n
    if total > 0 and empty > 0:
        _later_rounds(saved, held, empty, signature)
    return total


@njit(cache=True, nogil=True)
def key_bands(signature, bands, rows, keys):  # type: ignore[no-untyped-def]
    """The key of each band, uint64 [bands]; equal bands have equal keys, and a key tells which band it is of."""
    for j in range(bands):
        h = mix(np.uint64(j + 1))
        for v in range(j * rows, j * rows + rows):
            h = (h ^ signature[v]) * P
            h ^= h >> S32
        keys[j] = mix(h)


@njit(cache=True, nogil=True)
def _signatures(offsets, data, work, saved, seen, out, counts):  # type: ignore[no-untyped-def]
    for d in range(len(offsets) - 1):
        counts[d] = sign_text(data, offsets[d], offsets[d + 1], work, saved, seen, out[d])


def signatures(text: Any, values: int) -> tuple[np.ndarray, np.ndarray]:
    """(signatures_NV uint64, shingles_N int64) of a string array. Without shingles (under five words) all values are EMPTY."""
    offsets_N1, data_B = text_buffers(text)
    rows = len(offsets_N1) - 1
    signatures_NV, shingles_N = np.empty((rows, values), np.uint64), np.empty(rows, np.int64)
    saved, seen = np.empty(SAVED, np.uint64), np.empty(SEEN, np.uint64)
    _signatures(offsets_N1, data_B, scratch(), saved, seen, signatures_NV, shingles_N)
    return signatures_NV, shingles_N


@njit(cache=True, nogil=True)
def _document_keys(offsets, data, documents, rows, work, saved, seen, signature, keys):  # type: ignore[no-untyped-def]
    found = 0
    for d in documents:
        if sign_text(data, offsets[d], offsets[d + 1], work, saved, seen, signature) > 0:
            key_bands(signature, keys.shape[1], rows, keys[found])
            documents[found] = d
            found += 1
    return found


def document_keys(text: Any, values: int, bands: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """(documents_M int64, keys_MB uint64): the texts that have shingles, and their band keys. Signatures are not kept."""
    offsets_N1, data_B = text_buffers(text)
    documents_M = np.flatnonzero(np.diff(offsets_N1) >= 9)  # five words take nine bytes: a million tiny files cost nothing
    keys_MB = np.empty((len(documents_M), bands), np.uint64)
    saved, seen = np.empty(SAVED, np.uint64), np.empty(SEEN, np.uint64)
    signature_V = np.empty(values, np.uint64)
    found = _document_keys(offsets_N1, data_B, documents_M, rows, scratch(), saved, seen, signature_V, keys_MB)
    return documents_M[:found], keys_MB[:found]


@njit(cache=True, nogil=True)
def _band_keys(signatures, rows, keys):  # type: ignore[no-untyped-def]
    for d in range(len(signatures)):
        key_bands(signatures[d], keys.shape[1], rows, keys[d])


def band_keys(signatures_NV: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """keys_NB uint64 of ready signatures, as document_keys makes them."""
    keys_NB = np.empty((len(signatures_NV), bands), np.uint64)
    _band_keys(signatures_NV, rows, keys_NB)
    return keys_NB
