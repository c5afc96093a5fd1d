"""Which units (documents, or whole repositories) have to be compared at all: components of those that share a band key.

    join      the rows of one partition of keys -> edges: a spanning forest of the units that meet there
    group     all edges -> connected components (union-find over arrays) -> groups of whole components, each about
              GROUP_BYTES of work, so that one task can verify a group knowing nothing of the rest

A component says only that nothing outside it can matter. It removes nothing: chained resemblance made a component of 825
million documents in one public corpus. One larger than GIANT_BYTES is marked for being streamed (corpus/leaders.py).

Memory of `group`, one task: a bit per unit and 9 bytes (parent, load, size) per unit that met another: 0.2 GB + 9 GB for a
billion units that all met. Edges are read twice, one partition at a time. A partition's forest has fewer edges than units,
whatever the size of its buckets. Time is near-linear, and the components do not depend on the order of edges.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numba import njit

from corpus.errors import ConfigError
from corpus.exchange import exchange_file

__all__ = ["EDGES", "GIANTS", "GIANT_BYTES", "GROUP_BYTES", "components", "group", "join", "weigh"]

GROUP_BYTES = 256 << 20  # of weight, which is about what verifying takes in memory
GIANT_BYTES = 2 * GROUP_BYTES
GIANTS = 1 << 31  # from here on a group is one giant component

EDGES = pa.schema([("a", pa.uint64()), ("b", pa.uint64()), ("size_a", pa.uint8()), ("size_b", pa.uint8())])
_MOST = 0xFFFFFFFE  # units that met another; more would need wider parents, and more than one machine's memory

ONE, S1, S2, S4, S6, S56 = (np.uint64(n) for n in (1, 1, 2, 4, 6, 56))
M1, M2, M4 = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333), np.uint64(0x0F0F0F0F0F0F0F0F)
BYTES = np.uint64(0x0101010101010101)


def weigh(text_bytes: Any, documents: Any = 1) -> np.ndarray:
    """Bytes verifying takes for units of so many bytes of text: the text twice, its shingles, and 1.5 kB per document."""
    weight: np.ndarray = 4 * np.asarray(text_bytes, np.int64) + 1500 * np.asarray(documents, np.int64)
    return weight


def size_class(weight: np.ndarray) -> np.ndarray:
    """A weight in one byte, a quarter of an octave apart: within 9 %, and a ninth of what travels per key."""
    return np.asarray(np.maximum(1, np.round(4 * np.log2(np.maximum(weight, 2)))), np.uint8)


@njit(cache=True, nogil=True)
def find(parents, x):  # type: ignore[no-untyped-def]
    """The root of x, halving the path to it."""
    while parents[x] != x:
        parents[x] = parents[parents[x]]
        x = parents[x]
    return x


@njit(cache=True, nogil=True)
def unite(parents, a, b):  # type: ignore[no-untyped-def]
    """Join the sets of a and b; the smaller root stays."""
    a, b = find(parents, a), find(parents, b)
    if a < b:
        parents[b] = a
    else:
        parents[a] = b


@njit(cache=True, nogil=True)
def _forest(keys, order, units, parents):  # type: ignore[no-untyped-def]
    """Unite the units whose keys are equal. order: by key; units: dense."""
    for i in range(1, len(order)):
        if keys[order[i]] == keys[order[i - 1]]:
            unite(parents, np.int64(units[order[i]]), np.int64(units[order[i - 1]]))
    for i in range(len(parents)):
        parents[i] = find(parents, i)


def join(keys: np.ndarray, units: np.ndarray, sizes: np.ndarray) -> pa.RecordBatch:
    """EDGES that connect the units sharing a key, at most one per unit. Units that share none are in no edge."""
    order = np.argsort(keys)
    ordered = keys[order]
    same = ordered[1:] == ordered[:-1]
    meets = np.zeros(len(keys), bool)
    meets[1:] |= same
    meets[:-1] |= same
    rows = order[meets]
    names, first, dense = np.unique(units[rows], return_index=True, return_inverse=True)
    parents = np.arange(len(names), dtype=np.int64)
    _forest(keys[rows], np.arange(len(rows)), dense, parents)
    members = np.flatnonzero(parents != np.arange(len(names)))
    roots = parents[members]
    size = sizes[rows][first]
    columns = [names[roots].astype(np.uint64), names[members].astype(np.uint64), size[roots], size[members]]
    return pa.RecordBatch.from_arrays([pa.array(c) for c in columns], schema=EDGES)


@njit(cache=True, nogil=True)
def _mark(bits, units):  # type: ignore[no-untyped-def]
    for u in units:
        bits[u >> S6] |= ONE << (u & np.uint64(63))


@njit(cache=True, nogil=True)
def _ones(x):  # type: ignore[no-untyped-def]
    x = x - ((x >> S1) & M1)
    x = (x & M2) + ((x >> S2) & M2)
    x = (x + (x >> S4)) & M4
    return (x * BYTES) >> S56


@njit(cache=True, nogil=True)
def _count(bits, before):  # type: ignore[no-untyped-def]
    """before[w]: marked units below word w."""
    total = np.int64(0)
    for w in range(len(bits)):
        before[w] = total
        total += np.int64(_ones(bits[w]))
    return total


@njit(cache=True, nogil=True)
def _rank(bits, before, unit):  # type: ignore[no-untyped-def]
    """The number of marked units below this one: its index among them."""
    w = unit >> S6
    return np.int64(before[w]) + np.int64(_ones(bits[w] & ((ONE << (unit & np.uint64(63))) - ONE)))


@njit(cache=True, nogil=True)
def _unite_all(bits, before, parents, sizes, a, b, size_a, size_b):  # type: ignore[no-untyped-def]
    for e in range(len(a)):
        i, j = _rank(bits, before, a[e]), _rank(bits, before, b[e])
        sizes[i], sizes[j] = size_a[e], size_b[e]
        unite(parents, i, j)


@njit(cache=True, nogil=True)
def _measure(parents, sizes, loads, totals):  # type: ignore[no-untyped-def]
    """Compress every path, count the largest component into totals[2], then leave each root's load in kilobytes."""
    for i in range(len(parents)):
        parents[i] = find(parents, i)
        loads[parents[i]] += 1
        totals[2] = max(totals[2], loads[parents[i]])
    loads[:] = 0
    for i in range(len(parents)):
        more = np.int64(loads[parents[i]]) + np.int64(2.0 ** (sizes[i] / 4.0) / 1024.0) + 1
        loads[parents[i]] = min(more, np.int64(GIANTS - 1))


@njit(cache=True, nogil=True)
def _pack(parents, loads, group_load, giant_load, totals):  # type: ignore[no-untyped-def]
    """loads[root] becomes the root's group: whole components, in order of root, into a group until it is full.

    totals: groups, components, members of the largest, giants, members of giants, load of giants.
    """
    current, used = np.int64(0), np.int64(0)
    for i in range(len(parents)):
        if parents[i] != i:
            totals[4] += loads[parents[i]] >= GIANTS  # its root, being smaller, has its group already
            continue
        totals[1] += 1
        load = np.int64(loads[i])
        if load > giant_load:
            loads[i] = GIANTS + totals[3]
            totals[3] += 1
            totals[4] += 1
            totals[5] += load
            continue
        if used > 0 and used + load > group_load:
            current += 1
            used = np.int64(0)
        used += load
        loads[i] = current
    totals[0] = current + (used > 0)


@njit(cache=True, nogil=True)
def _assign(bits, parents, loads, first, stop, rank, rows, groups):  # type: ignore[no-untyped-def]
    """Row and group of the marked units in [first, stop); (how many, the next rank)."""
    found = 0
    for u in range(first, stop):
        if (bits[u >> 6] >> np.uint64(u & 63)) & ONE:
            rows[found] = u - first
            groups[found] = loads[parents[rank]]
            found += 1
            rank += 1
    return found, rank


def components(edges: Iterator[pa.RecordBatch], partitions: int, units: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(bits, parents_M, sizes_M) of the M units that are in an edge: which they are, and their forest.

    edges: every partition's batch, then every partition's batch once more.
    """
    bits = np.zeros(units // 64 + 1, np.uint64)
    for _ in range(partitions):
        batch = next(edges)
        _mark(bits, batch.column("a").to_numpy())
        _mark(bits, batch.column("b").to_numpy())
    before = np.zeros(len(bits), np.uint32 if units <= _MOST else np.uint64)
    members = _count(bits, before)
    if members > _MOST:
        raise ConfigError(f"{members} units share band keys, at most {_MOST} can be grouped; deduplicate the corpus in parts")
    parents, sizes = np.arange(members, dtype=np.uint32), np.zeros(members, np.uint8)
    for _ in range(partitions):
        a, b, size_a, size_b = (column.to_numpy() for column in next(edges).columns)
        _unite_all(bits, before, parents, sizes, a, b, size_a, size_b)
    return bits, parents, sizes


GROUPS = pa.schema([("row", pa.uint32()), ("group", pa.uint32())])


def group(edges: Iterator[pa.RecordBatch], out: Path, *, partitions: int, homes: tuple[int, ...]) -> dict[str, Any]:
    """A fold for Engine.reduce over (edges, edges): writes exchange/groups/groups.arrow, to be read as an Exchanged.

    homes: units in each home (an input shard; a partition of repositories). Unit u is row u - sum(homes[:h]) of home h.
    Partition h of what is written holds (row, group) of the home's units that met another, in order of row.
    Notes: groups, components, largest, giants, giant_units, giant_load (kB).
    """
    bits, parents, sizes = components(edges, partitions, sum(homes))
    loads, totals = np.zeros(len(parents), np.uint32), np.zeros(6, np.int64)
    _measure(parents, sizes, loads, totals)
    _pack(parents, loads, GROUP_BYTES >> 10, GIANT_BYTES >> 10, totals)
    with exchange_file(out / "exchange" / "groups" / "groups.arrow", GROUPS) as add:
        first = rank = 0
        for home in homes:
            rows, groups = np.empty(home, np.uint32), np.empty(home, np.uint32)
            found, rank = _assign(bits, parents, loads, first, first + home, rank, rows, groups)
            add(pa.record_batch([pa.array(rows[:found]), pa.array(groups[:found])], schema=GROUPS))
            first += home
    names = ("groups", "components", "largest", "giants", "giant_units", "giant_load")
    return dict(zip(names, totals.tolist(), strict=True))
