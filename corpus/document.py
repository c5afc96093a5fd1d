"""Document and Verdict: the two values that travel between stages.

A Document is a row of SCHEMA. It is never mutated: a stage appends columns or drops rows. Its `id` is given at birth from
where it came from and never changes, so a decision made anywhere can be traced back; what it says is named apart, by
`content_id`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from corpus.errors import ConservationError

__all__ = [
    "DROPPED",
    "LINEAGE",
    "SCHEMA",
    "Verdict",
    "batch_of",
    "content_ids",
    "document_id",
    "keep_all",
    "text_buffers",
    "text_bytes",
    "verdict_of",
]

# `text` has 64-bit offsets: a batch may pass 2 GiB. Everything else is short.
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("source", pa.string()),
        pa.field("url", pa.string()),
        pa.field("repo", pa.string()),
        pa.field("path", pa.string()),
        pa.field("commit", pa.string()),
        pa.field("license", pa.string()),
        pa.field("lang", pa.string()),
        pa.field("created", pa.timestamp("ms", tz="UTC")),
        pa.field("parent", pa.string()),
        pa.field("meta", pa.string()),  # one JSON object, for what no stage reads
    ]
)

# A dropped row keeps enough to find it again. Its text is still in the upstream shard of the same name.
DROPPED = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("repo", pa.string()),
        pa.field("path", pa.string()),
        pa.field("url", pa.string()),
        pa.field("bytes", pa.int64()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("evidence", pa.string()),
    ]
)

# Document `id` became bytes [start, stop) of the UTF-8 text of the new document `into`.
LINEAGE = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("into", pa.string(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("stop", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Verdict:
    """What a stage decided about a batch.

    batch: the rows read, in order, perhaps with more columns; dropped rows are still in it.
    reason: string per row, null = keep. One of the stage's REASONS.
    evidence: string per row: the measured value, the survivor and score, the matched n-gram.
    made, lineage: for a stage that merges or splits. The rows kept are then replaced by the new documents of `made`, and
        every kept row has at least one row in `lineage` (see LINEAGE).
    notes: counts for the report, summed over batches.
    """

    batch: pa.RecordBatch
    reason: pa.Array
    evidence: pa.Array
    made: pa.RecordBatch | None = None
    lineage: pa.Table | None = None
    notes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = self.batch.num_rows
        if len(self.reason) != rows or len(self.evidence) != rows:
            raise ConservationError(
                f"a Verdict over {rows} rows has {len(self.reason)} reasons and {len(self.evidence)} pieces of evidence; "
                "one of each per row is expected, null where there is none"
            )
        if (self.made is None) != (self.lineage is None):
            raise ConservationError("a Verdict has `made` without `lineage`, or the other way round; they come together")


def keep_all(batch: pa.RecordBatch) -> Verdict:
    """The Verdict that keeps every row."""
    none = pa.nulls(batch.num_rows, pa.string())
    return Verdict(batch, none, none)


def document_id(origin: str) -> str:
    """The 32 hexadecimal digits of xxh3-128 of `origin`, e.g. "github/owner/name/path@commit"."""
    return xxhash.xxh3_128_hexdigest(origin.encode("utf-8", "surrogatepass"))


def content_ids(text: pa.Array) -> pa.Array:
    """xxh3-128 of each text as fixed_size_binary(16).

    A loop per document, on purpose: the call is 0.3 µs and the hash runs at 10 GB/s and more, so on documents of 5 kB it
    costs a tenth of reading them.
    """
    offsets, data = text_buffers(text)
    view = data.data
    digest = xxhash.xxh3_128_digest
    out = b"".join(digest(view[a:b]) for a, b in _spans(offsets))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(text), [None, pa.py_buffer(out)])


def _spans(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    ends: list[int] = offsets.tolist()
    return itertools.pairwise(ends)


def text_buffers(text: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(offsets_N1 int64, data uint8) of a string or large_string array, without a copy of the data.

    Offsets are absolute in `data` (a slice of a larger array does not start at 0). A null reads as an empty text.
    """
    if isinstance(text, pa.ChunkedArray):
        text = text.combine_chunks()
    if not pa.types.is_large_string(text.type):
        text = text.cast(pa.large_string())
    if text.null_count:
        text = text.fill_null("")  # there may be bytes under a null
    _, offsets, data = text.buffers()
    offsets_N1 = np.frombuffer(offsets, np.int64)[text.offset : text.offset + len(text) + 1]
    if len(text) == 0:
        offsets_N1 = np.zeros(1, np.int64)
    data_B = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    # Whether a buffer is writable is an accident of who made it; numba would compile every kernel for both.
    offsets_N1.setflags(write=False)
    data_B.setflags(write=False)
    return offsets_N1, data_B


def text_bytes(batch: pa.RecordBatch) -> int:
    """UTF-8 bytes of text in the batch; 0 for a batch without a text column."""
    if "text" not in batch.schema.names:
        return 0
    return int(pc.sum(pc.binary_length(batch.column("text"))).as_py() or 0)


def batch_of(rows: list[dict[str, object]], extra: pa.Schema | None = None) -> pa.RecordBatch:
    """A batch of SCHEMA (plus the fields of `extra`) from dictionaries; what a row leaves out is null."""
    schema = SCHEMA if extra is None else pa.schema([*SCHEMA, *extra])
    return pa.RecordBatch.from_pylist(rows, schema=schema)


def verdict_of(rows: list[tuple[Any, ...]], schema: pa.Schema) -> Verdict:
    """Rows of values in the order of `schema`, then reason and evidence, as a Verdict. `text` is bytes of valid UTF-8."""
    columns: list[Any] = list(zip(*rows, strict=True)) or [()] * (len(schema) + 2)
    arrays = []
    for column, values in zip(schema, columns[:-2], strict=True):
        if column.name == "text":  # already valid UTF-8: taken as it is, neither decoded nor checked again
            binary = pa.array(values, pa.large_binary())
            arrays.append(pa.Array.from_buffers(pa.large_string(), len(values), binary.buffers()))
        else:
            arrays.append(pa.array(values, column.type))
    reason, evidence = (pa.array(values, pa.string()) for values in columns[-2:])
    return Verdict(pa.RecordBatch.from_arrays(arrays, schema=schema), reason, evidence)
