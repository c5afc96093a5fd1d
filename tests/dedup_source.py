"""A source stage for the tests of deduplication: documents given in the Config, and what became of them.

`shards` is how many shards they are dealt to, `order` seeds the order they come in.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from corpus.document import Verdict, batch_of, keep_all
from corpus.engine import Engine, LocalEngine
from corpus.report import Report
from corpus.runner import run as run_recipe
from corpus.shards import Items
from corpus.step import Step

REVISION = 1
REASONS: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Config:
    documents: tuple[str, ...]  # JSON objects: columns of a document, and `stars`
    shards: int = 3
    order: int = 0


def make(item: tuple[str, ...]) -> Iterator[Verdict]:
    yield keep_all(batch_of([json.loads(text) for text in item], pa.schema([("stars", pa.int64())])))


def run(config: Config, out: Path, engine: Engine) -> Report:
    documents = list(config.documents)
    random.Random(config.order).shuffle(documents)
    items = tuple(tuple(documents[i :: config.shards]) for i in range(config.shards))
    return engine.map_shards(make, Items(items), out)


def documents(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """Rows as the Config takes them; a row without `id` gets its number."""
    return tuple(json.dumps({"id": f"{i:032x}", **row}) for i, row in enumerate(rows))


def source(rows: list[dict[str, Any]], shards: int = 3, order: int = 0) -> Step:
    return Step("source", Config(documents=documents(rows), shards=shards, order=order))


def rows_of(root: Path, step: Step, kind: str) -> list[dict[str, Any]]:
    """Rows of a finished step's shards or dropped files, in order of file."""
    files = sorted((root / step.folder / kind).glob("*.parquet"))
    return [row for path in files for row in pq.read_table(path).to_pylist()]


def fates(root: Path, step: Step) -> tuple[set[str], dict[str, str]]:
    """Run `step`: (ids kept, dropped id -> evidence)."""
    run_recipe(step, LocalEngine(root))
    dropped = {row["id"]: row["evidence"] for row in rows_of(root, step, "dropped")}
    return {row["id"] for row in rows_of(root, step, "shards")}, dropped
