"""Keyed permutations of range(count), forwards and backwards, at any place at once: no table, whatever the count."""

from __future__ import annotations

import numpy as np

__all__ = ["mix64", "permuted", "unpermuted"]

_ROUNDS = 6  # of the Feistel network: 4 suffice against an adversary (Luby & Rackoff 1988), halves of a few bits want more
_BLOCK = 1 << 18  # positions permuted at once: twice as fast as all at once, for what stays in the cache


def mix64(values: np.ndarray, key: int) -> np.ndarray:
    """A keyed 64-bit hash of integers: splitmix64's finaliser (Steele, Lea & Flood 2014) around the key, twice."""
    x = values.astype(np.uint64)
    for constant in (key & 0xFFFFFFFFFFFFFFFF, 0x9E3779B97F4A7C15):
        x += np.uint64(constant)
        x ^= x >> np.uint64(30)
        x *= np.uint64(0xBF58476D1CE4E5B9)
        x ^= x >> np.uint64(27)
        x *= np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return x


def permuted(positions: np.ndarray, count: int, key: int) -> np.ndarray:
    """Where a keyed permutation of range(count) sends each position, int64.

    A Feistel network permutes the 2^2b numbers that cover count; a result outside the range is sent through again until it
    is inside (cycle walking; under 4 times on average, since 2^2b < 4·count).
    """
    return _walk(positions, count, key, backwards=False)


def unpermuted(positions: np.ndarray, count: int, key: int) -> np.ndarray:
    """The inverse: unpermuted(permuted(x)) = x."""
    return _walk(positions, count, key, backwards=True)


def _walk(positions: np.ndarray, count: int, key: int, backwards: bool) -> np.ndarray:
    half = np.uint64(max(1, (max(count - 1, 1).bit_length() + 1) // 2))
    result = np.empty(positions.shape, np.int64)
    for first in range(0, len(positions), _BLOCK):
        x = positions[first : first + _BLOCK].astype(np.uint64)
        outside = np.ones(x.shape, bool)
        while outside.any():
            x[outside] = _feistel(x[outside], half, key, backwards)
            outside = x >= np.uint64(count)
        result[first : first + _BLOCK] = x
    return result


def _feistel(x: np.ndarray, half: np.uint64, key: int, backwards: bool) -> np.ndarray:
    """A permutation of the numbers of 2·half bits, or its inverse."""
    low = np.uint64((1 << int(half)) - 1)
    left, right = x >> half, x & low
    for number in reversed(range(_ROUNDS)) if backwards else range(_ROUNDS):
        if backwards:
            left, right = right ^ (mix64(left, key + number) & low), left
        else:
            left, right = right, left ^ (mix64(right, key + number) & low)
    joined: np.ndarray = (left << half) | right
    return joined
