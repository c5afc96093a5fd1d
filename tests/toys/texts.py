"""A source of given documents: a tuple of (id, text) per shard; `column` adds a column that other sources lack.

langs: of the documents of a shard, in turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from corpus.document import Verdict, batch_of, keep_all
from corpus.engine import Engine
from corpus.report import Report
from corpus.shards import Items

REVISION = 1
REASONS: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Config:
    shards: tuple[tuple[tuple[str, str], ...], ...]
    column: str = ""
    langs: tuple[str, ...] = ()


def make(item: tuple[tuple[str, str], ...], config: Config) -> Iterator[Verdict]:
    rows: list[dict[str, object]] = [{"id": name, "text": text} for name, text in item]
    for i, row in enumerate(rows if config.langs else ()):
        row |= {"lang": config.langs[i % len(config.langs)], "source": "toy"}
    batch = batch_of(rows)
    if config.column:
        batch = batch.append_column(config.column, pa.array([len(text) / 2 for _, text in item]))
    yield keep_all(batch)


def run(config: Config, out: Path, engine: Engine) -> Report:
    return engine.map_shards(partial(make, config=config), Items(config.shards), out)
