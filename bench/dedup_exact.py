"""Exact deduplication, text to verdict in memory, beside a plain Python set of SHA-256 digests."""

from __future__ import annotations

import hashlib
from typing import Any

import pyarrow as pa

from bench.measure import Row, Sample, rate
from stages import dedup_exact


def verdicts(sample: Sample) -> int:
    """What the stage does between reading and writing: how many are dropped."""
    files: Any = None
    config = dedup_exact.Config(files=files)
    rows = [dedup_exact.route_contents(b, origin=i << 32, config=config, partitions=1) for i, b in enumerate(sample.batches)]
    met = pa.Table.from_batches(rows).drop_columns(["partition"]).combine_chunks().to_batches()[0]
    return dedup_exact.route_drops(met, origin=0, config=config).num_rows


def plain(sample: Sample) -> int:
    """A set of digests and a loop."""
    seen: set[bytes] = set()
    for batch in sample.batches:
        seen.update(hashlib.sha256(text.encode()).digest() for text in batch.column("text").to_pylist())
    return sample.documents - len(seen)


def bench(sample: Sample) -> list[Row]:
    assert verdicts(sample) == plain(sample)
    ours, theirs = rate(lambda: verdicts(sample), sample.bytes), rate(lambda: plain(sample), sample.bytes)
    note = f"{verdicts(sample)} dropped, as many as the peer"
    return [Row("dedup_exact", "text to verdict", ours, {"plain Python": theirs}, note)]
