"""Units of near-deduplication: single documents, or repositories taken whole.

A repository is one sample, the set of its files' shingles; shingles across the border of two files are left out, so the order
of files does not matter and its signature is the element-wise minimum of theirs. It is never put together: signatures are
merged where its rows meet, and only repositories that share a band with another are read again.

A document without `repo` is a unit by itself. Names start with "r" (a repository's) or "d" (a document's id).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

from corpus.components import weigh
from corpus.document import text_buffers
from corpus.minhash import EMPTY, SAVED, SEEN, sign_text
from corpus.shingles import scratch
from corpus.survivors import key_columns, order_keys

__all__ = ["Merged", "encode", "least", "merge_repositories", "repository_rows", "unit_names"]


def unit_names(batch: Any) -> Any:
    """What unit each document belongs to, at repository level."""
    single = pc.binary_join_element_wise("d", batch.column("id"), "")
    if "repo" not in batch.schema.names:
        return single
    return pc.coalesce(pc.binary_join_element_wise("r", batch.column("repo"), ""), single)


@njit(cache=True, nogil=True)
def _sign_units(data, offsets, documents, units, work, saved, seen, signatures):  # type: ignore[no-untyped-def]
    signature = np.empty(signatures.shape[1], np.uint64)
    for d in documents:
        if sign_text(data, offsets[d], offsets[d + 1], work, saved, seen, signature) > 0:
            for v in range(len(signature)):
                signatures[units[d], v] = min(signatures[units[d], v], signature[v])


def encode(names: Any) -> tuple[np.ndarray, Any]:
    """(code of each row, the different names in order of first appearance)."""
    if isinstance(names, pa.ChunkedArray):
        names = names.combine_chunks()
    coded = names.dictionary_encode()
    return coded.indices.to_numpy(zero_copy_only=False).astype(np.int64), coded.dictionary


def least(codes: np.ndarray, values: np.ndarray, groups: int) -> np.ndarray:
    """Element-wise minimum of the rows of `values` per code; every code occurs."""
    if groups == 0 or values.shape[1] == 0:
        return np.empty((groups, values.shape[1]), values.dtype)
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(groups))
    found: np.ndarray = np.minimum.reduceat(values[order], starts, axis=0)
    return found


def repository_rows(batch: pa.RecordBatch, values: int, order: tuple[str, ...]) -> pa.RecordBatch:
    """One row per unit in this batch: name, weight, key_0 … (the best of its documents), signature.

    signature: null where the unit has no shingles here. It still has to be told when the rest of it is dropped.
    """
    codes, names = encode(unit_names(batch))
    offsets_N1, data_B = text_buffers(batch.column("text"))
    length = np.diff(offsets_N1)
    documents = np.flatnonzero(length >= 9)  # five words take nine bytes
    used = np.unique(codes[documents])
    place = np.full(len(names), -1, np.int64)
    place[used] = np.arange(len(used))
    signatures = np.full((len(used), values), EMPTY, np.uint64)
    saved, seen = np.empty(SAVED, np.uint64), np.empty(SEEN, np.uint64)
    _sign_units(data_B, offsets_N1, documents, place[codes], scratch(), saved, seen, signatures)
    full = np.flatnonzero(signatures[:, 0] != EMPTY)
    place = np.full(len(names), -1, np.int64)
    place[used[full]] = np.arange(len(full))
    columns = {"name": names, "weight": pa.array(np.bincount(codes, weigh(length), minlength=len(names)).astype(np.int64))}
    columns |= {f"key_{f}": pa.array(key) for f, key in enumerate(least(codes, order_keys(batch, order), len(names)).T)}
    columns["signature"] = _binary(signatures[full]).take(pa.array(place, mask=place < 0))
    rows = pa.record_batch(columns)
    alone = pc.and_(pc.starts_with(names, "d"), pc.is_null(rows.column("signature")))
    return rows.filter(pc.invert(alone))  # a single document without shingles meets nothing


def _binary(signatures: np.ndarray) -> Any:
    """A large_binary per row: unlike one of fixed size, null takes no room."""
    rows, values = signatures.shape
    offsets = pa.py_buffer(np.arange(rows + 1, dtype=np.int64) * 8 * values)
    return pa.Array.from_buffers(pa.large_binary(), rows, [None, offsets, pa.py_buffer(signatures.tobytes())])


class Merged(NamedTuple):
    """All rows about some units, put together. A unit's number is its place by first appearance: the same for the same rows."""

    unit_N: np.ndarray  # of each row
    names: Any
    weight_U: np.ndarray
    keys_UF: np.ndarray
    signed_S: np.ndarray  # the units that have shingles
    signatures_SV: np.ndarray


def merge_repositories(batch: Any) -> Merged:
    """batch: rows of repository_rows, every one there is about its units."""
    codes, names = encode(batch.column("name"))
    weight = np.bincount(codes, batch.column("weight").to_numpy(), minlength=len(names)).astype(np.int64)
    column = batch.column("signature")
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    valid = np.flatnonzero(pc.is_valid(column).to_numpy(zero_copy_only=False))
    signed, unit = np.unique(codes[valid], return_inverse=True)
    column = column.drop_null()
    offsets = np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column) + 1]
    width = int(offsets[1] - offsets[0]) // 8 if len(column) else 1
    stored = np.frombuffer(column.buffers()[2] or b"", np.uint64)[offsets[0] // 8 : offsets[-1] // 8].reshape(-1, width)
    return Merged(codes, names, weight, least(codes, key_columns(batch), len(names)), signed, least(unit, stored, len(signed)))
