"""Which of several equal or similar documents is kept, what a drop says about it, and how drops reach their rows.

The survivor order is a setting: any of

    stars     more stars of the repository first          column `stars`, integer
    license   permissive licences first                   column `license`, an SPDX expression (corpus/licenses.py)
    created   older first                                 column `created`
    newest    newer first                                 column `created` too, so it stands instead of `created`

and always the id after them, so it never depends on where a document lies. What is missing or null is unknown and comes last.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corpus.document import Verdict
from corpus.errors import ConfigError
from corpus.licenses import is_permissive

__all__ = [
    "COLUMNS",
    "DROPS",
    "ORDERS",
    "check_order",
    "describe",
    "drop_rows",
    "key_columns",
    "labels",
    "order_keys",
    "route_rows",
    "sort_units",
]

ORDERS = ("stars", "license", "created", "newest")
COLUMNS = ["id", "repo", "path", "url", "stars", "license", "created"]  # what survivors are chosen and described by

DROPS = pa.schema([("row", pa.uint32()), ("evidence", pa.string())])  # of one input shard

_UNKNOWN = np.uint64(0xFFFFFFFFFFFFFFFF)
_SIGN = np.uint64(1 << 63)


def check_order(where: str, order: tuple[str, ...]) -> None:
    """ConfigError unless `order` names each of ORDERS at most once, and one of created and newest."""
    if len(set(order)) != len(order) or not set(order) <= set(ORDERS):
        raise ConfigError(f"{where} = {order!r}: some of {', '.join(ORDERS)} expected, each at most once; the id follows")
    if {"created", "newest"} <= set(order):
        raise ConfigError(f"{where} = {order!r}: either created or newest expected, they contradict each other")


def order_keys(batch: Any, order: tuple[str, ...]) -> np.ndarray:
    """keys_NF uint64, one column per name in `order`; the smaller comes first."""
    keys_NF = np.full((batch.num_rows, len(order)), _UNKNOWN, np.uint64)
    for f, name in enumerate(order):
        source = "created" if name == "newest" else name
        if source in batch.schema.names and batch.num_rows:
            column = batch.column(source)
            descending = name in ("stars", "newest")
            keys_NF[:, f] = _license_keys(column) if name == "license" else _number_keys(column, descending)
    return keys_NF


def _number_keys(column: Any, descending: bool) -> np.ndarray:
    known = pc.is_valid(column).to_numpy(zero_copy_only=False)
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    numbers = pc.fill_null(pc.cast(column, pa.int64(), safe=False), 0).to_numpy(zero_copy_only=False)
    keys = (~numbers if descending else numbers).view(np.uint64) ^ _SIGN  # ~x = -x - 1 turns the order without overflow
    chosen: np.ndarray = np.where(known, keys, _UNKNOWN)
    return chosen


def _license_keys(column: Any) -> np.ndarray:
    """0 for permissive, 1 for any other or none. One look at each different expression."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    coded = column.dictionary_encode()
    values = np.array([0 if is_permissive(text) else 1 for text in coded.dictionary.to_pylist()] + [1], np.uint64)
    codes = pc.fill_null(coded.indices, len(values) - 1).to_numpy(zero_copy_only=False)
    return np.asarray(values[codes], np.uint64)


def key_columns(batch: Any) -> np.ndarray:
    """order_keys again, from the columns key_0, key_1, … they travelled in."""
    names = [name for name in batch.schema.names if name.startswith("key_")]
    keys_NF = np.empty((batch.num_rows, len(names)), np.uint64)
    for f in range(len(names)):
        keys_NF[:, f] = batch.column(f"key_{f}").to_numpy()
    return keys_NF


def sort_units(keys_NF: np.ndarray, names: Any, *ties: np.ndarray) -> np.ndarray:
    """Indices into survivor order: by keys, then name, then `ties`."""
    columns = [pa.array(keys_NF[:, f]) for f in range(keys_NF.shape[1])] + [names] + [pa.array(tie) for tie in ties]
    table = pa.table(columns, [str(i) for i in range(len(columns))])
    order = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in table.schema.names])
    return np.asarray(order.to_numpy(), np.int64)


def labels(batch: Any) -> Any:
    """Where a person finds each document: repo/path, else path, else url, else nothing."""
    nothing = pa.nulls(batch.num_rows, pa.string())
    repo, path, url = (batch.column(n) if n in batch.schema.names else nothing for n in ("repo", "path", "url"))
    return pc.coalesce(pc.binary_join_element_wise(repo, path, "/"), path, url, "")


def describe(names: Any, where: Any, scores: np.ndarray | None = None) -> Any:
    """Evidence of a drop: "survivor NAME score S at WHERE" per row; no score where the contents are equal."""
    parts: list[Any] = ["survivor ", names]
    if scores is not None:
        parts += [" score ", pc.cast(pa.array(np.round(scores, 4)), pa.string())]
    said = pc.binary_join_element_wise(*parts, "")
    return pc.if_else(pc.equal(where, ""), said, pc.binary_join_element_wise(said, where, " at "))


def route_rows(ordinals: np.ndarray, evidence: Any) -> pa.RecordBatch:
    """DROPS of documents named by ordinal (shard << 32 | row), with the column `partition`: each to the shard it is in."""
    row, shard = ordinals & np.uint64(0xFFFFFFFF), ordinals >> np.uint64(32)
    if isinstance(evidence, pa.ChunkedArray):
        evidence = evidence.combine_chunks()
    columns = [pa.array(row.astype(np.uint32)), evidence, pa.array(shard.astype(np.int64))]
    return pa.RecordBatch.from_arrays(columns, schema=DROPS.append(pa.field("partition", pa.int64())))


def drop_rows(batch: pa.RecordBatch, drops: Any, first: int, reason: str) -> Verdict:
    """The Verdict that drops the rows named in `drops` (DROPS). first: row in the shard of the batch's first row.

    Rows, not ids: should two documents have the same id, one of them may be the survivor of the other.
    """
    rows = np.arange(first, first + batch.num_rows)
    named = drops.column("row").to_numpy()
    order = np.argsort(named, kind="stable")
    found = np.minimum(np.searchsorted(named, rows, sorter=order), max(0, len(named) - 1))
    gone = named[order[found]] == rows if len(named) else np.zeros(len(rows), bool)
    index = pa.array(order[found] if len(named) else np.zeros(len(rows), np.int64), mask=~gone)
    evidence = drops.column("evidence")
    if isinstance(evidence, pa.ChunkedArray):
        evidence = evidence.combine_chunks()
    said = evidence.take(index) if len(named) else pa.nulls(len(rows), pa.string())
    why = pc.if_else(pa.array(gone), pa.scalar(reason), pa.scalar(None, pa.string()))
    return Verdict(batch, why, said)
