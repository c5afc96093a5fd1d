"""Merges the documents of a repository into one, by exchange."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from corpus.document import LINEAGE, Verdict, batch_of, document_id, keep_all
from corpus.engine import Engine
from corpus.report import Report
from corpus.step import Step

REVISION = 1
REASONS: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Config:
    files: Step
    partitions: int = 3


def route(batch: pa.RecordBatch, origin: int, config: Config) -> pa.Table:
    keys = [xxhash.xxh3_64_intdigest(repo.encode()) % config.partitions for repo in batch.column("repo").to_pylist()]
    return pa.Table.from_batches([batch]).append_column("partition", pa.array(np.array(keys, np.int64)))


def merge(batch: pa.RecordBatch, config: Config) -> Iterator[Verdict]:
    rows = sorted(batch.to_pylist(), key=lambda row: (row["repo"], row["id"]))
    made, lineage = {}, []
    for row in rows:
        new = made.setdefault(row["repo"], {"id": document_id("merged/" + row["repo"]), "text": "", "repo": row["repo"]})
        start = len(new["text"].encode())
        new["text"] += row["text"] + "\n"
        lineage.append({"id": row["id"], "into": new["id"], "start": start, "stop": start + len(row["text"].encode())})
    verdict = keep_all(batch)
    yield Verdict(
        batch, verdict.reason, verdict.evidence, batch_of(list(made.values())), pa.Table.from_pylist(lineage, LINEAGE)
    )


def run(config: Config, out: Path, engine: Engine) -> Report:
    met = engine.exchange(partial(route, config=config), config.files, out, name="repos", partitions=config.partitions)
    return engine.map_shards(partial(merge, config=config), met, out)
