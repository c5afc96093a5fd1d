"""Near-duplicates among units in survivor order: a unit is dropped for a kept one it resembles, verified, or it is kept.

    for unit in survivor order:
        its distinct shingles, signature and band keys
        candidates: kept units ("leaders") with an equal band key, those first whose signature agrees most
        the first with exact Jaccard similarity >= threshold is its survivor; with none, the unit becomes a leader

So a survivor is always kept, similarity never passes through a third unit (of A ~ B ~ C with A unlike C, A and C stay),
and the exact similarity of the two sets of 64-bit shingle hashes decides. The signature's estimate only orders candidates and
spares those five standard deviations under the threshold (a wrong refusal: 3e-7).

Bounded, whatever the input. Time, per unit: CHAIN leaders per band key, newest first, and VERIFIED exact comparisons; what that
costs are duplicates within families of more than CHAIN look-alikes that are no duplicates of each other. Memory: a
window of leaders, as LZ77 keeps one of bytes. Their shingles lie in a ring, their band keys in hash chains whose links are
absolute numbers, so what falls out of the window ends a chain and nothing is ever deleted. The window made for a group
holds all of it; only the stream of giant components (corpus/giants.py) has a smaller one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from corpus.document import text_buffers
from corpus.minhash import key_bands, sign
from corpus.shingles import ONE, ZERO, Scratch, scratch, shingle_block

__all__ = ["LEADERS", "WINDOW_BYTES", "WINDOW_LEADERS", "Window", "find_duplicates", "forgotten", "open_window"]

CHAIN = 64
VERIFIED = 32
WINDOW_LEADERS = 1 << 18  # 0.9 kB each: signature in bytes, band keys and links
WINDOW_BYTES = 128 << 20  # of text; 8 bytes per shingle, at most one per two bytes of text
DEVIATIONS = 5.0

TIP, SEEN, FLOOR, LEADERS = range(4)  # of counters


class Window(NamedTuple):
    """The leaders find_duplicates still compares with, changed by it. L leaders, V values, B bands."""

    ring: np.ndarray  # uint64: leaders' shingles, on an endless tape of which this is the newest part
    start_L: np.ndarray  # int64, absolute position on the tape
    count_L: np.ndarray  # int64, distinct shingles
    bytes_LV: np.ndarray  # uint8, the low byte of each signature value
    keys_LB: np.ndarray  # uint64
    links_LB: np.ndarray  # int64, the next older entry of the chain + 1; an entry is leader * B + band
    heads: np.ndarray  # int64, the newest entry of a chain + 1, by low bits of the key
    seen_L: np.ndarray  # int64, the last unit that met this leader
    counters: np.ndarray  # int64: end of the tape, units seen, oldest position still whole, leaders so far


def open_window(units: int, text_bytes: int, values: int, bands: int) -> Window:
    """A window that holds all of so many units with so many bytes of text. Memory is taken as it fills."""
    leaders = max(1, units)
    return Window(
        ring=np.empty(text_bytes // 2 + leaders + 1, np.uint64),
        start_L=np.empty(leaders, np.int64),
        count_L=np.empty(leaders, np.int64),
        bytes_LV=np.empty((leaders, values), np.uint8),
        keys_LB=np.empty((leaders, bands), np.uint64),
        links_LB=np.empty((leaders, bands), np.int64),
        heads=np.zeros(1 << (leaders * bands).bit_length(), np.int64),
        seen_L=np.full(leaders, -1, np.int64),
        counters=np.zeros(4, np.int64),
    )


def forgotten(window: Window) -> int:
    """How many leaders have fallen out of the window."""
    leaders, slots = int(window.counters[LEADERS]), len(window.start_L)
    inside = window.start_L[: min(leaders, slots)]
    return max(0, leaders - slots) + int(np.sum(inside < window.counters[FLOOR]))


@njit(cache=True, nogil=True)
def _gather(data, offsets, documents, work, ring, at):  # type: ignore[no-untyped-def]
    """Shingles of a unit's documents, none across the border of two, to ring[at:]; how many."""
    total = 0
    for d in documents:
        work[4][:] = ZERO
        start, stop = offsets[d], offsets[d + 1]
        while start < stop:
            start, n = shingle_block(data, start, stop, work)
            ring[at + total : at + total + n] = work[5][:n]
            total += n
    return total


@njit(cache=True, nogil=True)
def _distinct(ring, at, n, table):  # type: ignore[no-untyped-def]
    """Move the different ones of ring[at : at + n] to its front and into `table`, open addressing; how many."""
    table[:] = ZERO
    mask = np.uint64(len(table) - 1)
    kept = 0
    for e in range(at, at + n):
        x = ring[e] | np.uint64(ring[e] == ZERO)  # zero marks a free slot
        slot = x & mask
        while table[slot] != ZERO and table[slot] != x:
            slot = (slot + ONE) & mask
        if table[slot] == ZERO:
            table[slot] = x
            ring[at + kept] = x
            kept += 1
    return kept


@njit(cache=True, nogil=True)
def _meet(window, keys, bytes_V, least, shortlist):  # type: ignore[no-untyped-def]
    """Leaders in the window that share a band key and agree in at least `least` values: (agreeing, leader) pairs; how many."""
    slots, bands = window.keys_LB.shape
    floor, leaders, now = window.counters[FLOOR], window.counters[LEADERS], window.counters[SEEN]
    found = 0
    for band in range(bands):
        entry = window.heads[keys[band] & np.uint64(len(window.heads) - 1)] - 1
        walked = 0
        while entry >= 0 and walked < CHAIN:
            leader = entry // bands
            slot = leader % slots
            if leader < leaders - slots or window.start_L[slot] < floor:
                break  # fallen out of the window, and so has all that is older
            link = entry % bands
            if window.keys_LB[slot, link] == keys[band]:
                walked += 1
                if window.seen_L[slot] != now:
                    window.seen_L[slot] = now
                    agree = np.int64(0)
                    for v in range(len(bytes_V)):
                        agree += bytes_V[v] == window.bytes_LV[slot, v]
                    if agree >= least:
                        shortlist[found, 0], shortlist[found, 1] = agree, leader
                        found += 1
            entry = window.links_LB[slot, link] - 1
    return found


@njit(cache=True, nogil=True)
def _common(ring, at, n, table, needed):  # type: ignore[no-untyped-def]
    """How many of ring[at : at + n] are in `table`; -1 as soon as `needed` is out of reach."""
    mask = np.uint64(len(table) - 1)
    missing = n - needed
    for e in range(at, at + n):
        x = ring[e]
        slot = x & mask
        while table[slot] != ZERO and table[slot] != x:
            slot = (slot + ONE) & mask
        if table[slot] == ZERO:
            missing -= 1
            if missing < 0:
                return -1
    return missing + needed


@njit(cache=True, nogil=True)
def _verify(window, shortlist, found, table, distinct, threshold):  # type: ignore[no-untyped-def]
    """(leader, exact similarity) of the likeliest leader that reaches the threshold; (-1, -1.0) with none."""
    slots = len(window.start_L)
    for _ in range(min(found, VERIFIED)):
        best = 0
        for c in range(1, found):  # most agreeing values, then first in survivor order
            if shortlist[c, 0] > shortlist[best, 0] or (
                shortlist[c, 0] == shortlist[best, 0] and shortlist[c, 1] < shortlist[best, 1]
            ):
                best = c
        leader = shortlist[best, 1]
        shortlist[best, 0] = -1
        if leader < 0:
            break
        size = window.count_L[leader % slots]
        needed = np.int64(np.ceil(threshold * (size + distinct) / (1.0 + threshold) - 1e-6))  # rounding is settled below
        if needed > min(size, distinct):
            continue
        common = _common(window.ring, window.start_L[leader % slots] % len(window.ring), size, table, needed)
        if common >= 0:
            similarity = common / (size + distinct - common)
            if similarity >= threshold:
                return leader, similarity
    return -1, -1.0


@njit(cache=True, nogil=True)
def _enter(window, tip, distinct, bytes_V, keys):  # type: ignore[no-untyped-def]
    """Make the unit whose shingles lie at `tip` a leader; its number."""
    slots, bands = window.keys_LB.shape
    leader = window.counters[LEADERS]
    slot = leader % slots
    window.start_L[slot], window.count_L[slot] = tip, distinct
    window.bytes_LV[slot, :] = bytes_V
    window.keys_LB[slot, :] = keys
    for band in range(bands):
        head = keys[band] & np.uint64(len(window.heads) - 1)
        window.links_LB[slot, band] = window.heads[head]
        window.heads[head] = leader * bands + band + 1
    window.counters[TIP] = tip + distinct
    window.counters[LEADERS] = leader + 1
    return leader


@njit(cache=True, nogil=True)
def _cluster(data, offsets, documents, bounds, rows, threshold, least, window, work, leaders, scores):  # type: ignore[no-untyped-def]
    values, bands = window.bytes_LV.shape[1], window.keys_LB.shape[1]
    signature, keys = np.empty(values, np.uint64), np.empty(bands, np.uint64)
    bytes_V = np.empty(values, np.uint8)
    shortlist = np.empty((bands * CHAIN, 2), np.int64)
    store = np.empty(1 << 12, np.uint64)
    ring, counters = window.ring, window.counters
    for u in range(len(bounds) - 1):
        mine = documents[bounds[u] : bounds[u + 1]]
        room = 0
        for d in mine:
            room += (offsets[d + 1] - offsets[d]) // 2 + 1
        if room > len(ring):
            continue  # only where a window is smaller than one unit: not compared, so kept
        tip = counters[TIP]
        if tip % len(ring) + room > len(ring):
            tip += len(ring) - tip % len(ring)  # a unit's shingles lie in one piece
        at = tip % len(ring)
        total = _gather(data, offsets, mine, work, ring, at)
        counters[FLOOR] = max(counters[FLOOR], tip + total - len(ring))
        counters[SEEN] += 1
        if total == 0:
            continue
        size = 16
        while size < 2 * total:
            size *= 2
        if size > len(store):
            store = np.empty(size, np.uint64)
        table = store[:size]
        distinct = _distinct(ring, at, total, table)
        sign(ring[at : at + distinct], distinct, signature)
        key_bands(signature, bands, rows, keys)
        for v in range(values):
            bytes_V[v] = signature[v] & np.uint64(255)
        found = _meet(window, keys, bytes_V, least, shortlist)
        leaders[u], scores[u] = _verify(window, shortlist, found, table, distinct, threshold)
        if leaders[u] < 0:
            leaders[u] = _enter(window, tip, distinct, bytes_V, keys)


def find_duplicates(
    text: Any, documents: np.ndarray, bounds_U1: np.ndarray, threshold: float, rows: int, window: Window
) -> tuple[np.ndarray, np.ndarray]:
    """(leader_U int64, score_U float64) of U units in survivor order.

    text: a string array. Unit u is the texts documents[bounds[u] : bounds[u + 1]]; its shingles are theirs together.
    score >= threshold: the unit is dropped, its similarity to leader number leader_U[u] being the score. Score -1: it is
    kept, and is that leader, or has no shingles (leader -1). Leaders are numbered in order of entry into the window.
    """
    values = window.bytes_LV.shape[1]
    deviation = np.sqrt(threshold * (1.0 - threshold) / values)
    least = int(np.ceil(values * (threshold - DEVIATIONS * deviation)))
    offsets_N1, data_B = text_buffers(text)
    units = len(bounds_U1) - 1
    leader_U, score_U = np.full(units, -1, np.int64), np.full(units, -1.0)
    work: Scratch = scratch()
    _cluster(data_B, offsets_N1, documents, bounds_U1, rows, threshold, least, window, work, leader_U, score_U)
    return leader_U, score_U
