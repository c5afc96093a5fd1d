"""Drawing documents to a budget: a key per document from its id, and the key at which the budget is spent.

    key = hash(seed, salt, id), uniform over 64 bits, so the documents below a key are a random sample of them all, the same
    for any worker count and any order of shards; a larger budget draws a superset.

To find the key: every document's (key, weight) is sent to the partition of its key's range (12 to 24 bytes a document), the
partitions' sums say in which of them the budget ends, and that one is sorted. Exact to one document, one pass over the
text, memory bounded by a partition.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numba import njit

from corpus.document import text_buffers
from corpus.engine import Engine
from corpus.errors import InputError
from corpus.exchange import Exchanged
from corpus.shards import StepShards
from corpus.step import Step

__all__ = ["Weighed", "draw_keys", "spread", "weigh"]

_ROWS = 4 << 20  # documents a partition of keys holds: 64 MB


def draw_keys(ids: pa.Array, seed: int, salt: str) -> np.ndarray:
    """uint64 [N], uniform, from seed, salt and id alone. Different salts give independent keys."""
    offsets_N1, data_B = text_buffers(ids)
    state = xxhash.xxh3_64_intdigest(f"{seed}\n{salt}".encode())
    return np.asarray(_keys(offsets_N1, data_B, np.uint64(state)))


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _keys(offsets_N1, data_B, state):  # type: ignore[no-untyped-def]
    out = np.empty(len(offsets_N1) - 1, np.uint64)
    for i in range(len(out)):
        key = state
        for j in range(offsets_N1[i], offsets_N1[i + 1]):
            key = (key ^ np.uint64(data_B[j])) * np.uint64(0x9E3779B97F4A7C15)
            key ^= key >> np.uint64(29)
        out[i] = spread(key)
    return out


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def spread(key):  # type: ignore[no-untyped-def]
    """The next of a sequence of keys: SplitMix64's step and finaliser (Steele, Lea, Flood, 2014). uint64 -> uint64."""
    key = key + np.uint64(0x9E3779B97F4A7C15)
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return key ^ (key >> np.uint64(31))


@dataclasses.dataclass(frozen=True)
class Weighed:
    """All documents of a step by key. weights: per partition of the keys' range; the totals are over all of them."""

    exchanged: Exchanged
    weights: tuple[int, ...]
    weight: int
    documents: int
    bytes: int

    def cut(self, budget: int) -> tuple[int | None, int]:
        """(the largest key drawn, the weight drawn): the shortest run of documents in order of key that holds `budget`.

        (None, 0) for a budget of 0; all documents when they weigh less.
        """
        drawn = 0
        for p, weight in enumerate(self.weights if budget > 0 else ()):
            if drawn + weight >= budget:
                table = self.exchanged.table(p)
                key, weights = table.column("key").to_numpy(), table.column("weight").to_numpy()
                order = np.argsort(key, kind="stable")
                ends = np.cumsum(weights[order])
                last = key[order[int(ends.searchsorted(budget - drawn))]]
                return int(last), drawn + int(weights[key <= last].sum())
            drawn += weight
        return (None, 0) if budget <= 0 else ((1 << 64) - 1, drawn)


def weigh(
    measure: Callable[..., np.ndarray],
    files: Step,
    out: Path,
    engine: Engine,
    *,
    name: str,
    seed: int,
    salt: str,
    setup: Callable[[], Any] | None = None,
) -> Weighed:
    """Weigh every document: measure(batch of id and text, [state=]) -> int64 [N]. Keys are draw_keys(id, seed, salt)."""
    shards = engine.shards(files)
    if not shards.names:
        raise InputError(f"step {files.name} wrote no shards; {out.name} needs documents to draw from")
    rows = shards.rows if isinstance(shards, StepShards) else 0
    partitions = max(1, -(-rows // _ROWS))
    route = partial(_route, measure=measure, seed=seed, salt=salt, partitions=partitions)
    weighed = engine.exchange(route, files, out, name=name, partitions=partitions, setup=setup, columns=["id", "text"])
    notes = engine.reduce(partial(_sums, partitions=partitions), weighed, out, name=f"{name}_sums").notes
    return Weighed(weighed, tuple(notes["weights"]), sum(notes["weights"]), notes["documents"], notes["bytes"])


def _route(
    batch: pa.RecordBatch, origin: int, measure: Callable[..., np.ndarray], seed: int, salt: str, partitions: int, **state: Any
) -> pa.Table:
    key = draw_keys(batch.column("id"), seed, salt)
    ends, _ = text_buffers(batch.column("text"))
    target = ((key >> np.uint64(32)) * np.uint64(partitions)) >> np.uint64(32)  # partitions in order of key
    weight = measure(batch, **state).astype(np.int64)
    return pa.table({"key": key, "weight": weight, "bytes": np.diff(ends), "partition": target.astype(np.int64)})


def _sums(batches: Iterator[pa.RecordBatch], out: Path, partitions: int) -> dict[str, Any]:
    """One batch per partition, in order."""
    weights, documents, size = [], 0, 0
    for batch in batches:
        weights.append(int(batch.column("weight").to_numpy().sum()))
        documents += batch.num_rows
        size += int(batch.column("bytes").to_numpy().sum())
    assert len(weights) == partitions
    return {"weights": weights, "documents": documents, "bytes": size}
