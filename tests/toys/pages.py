"""A source of given pages: a tuple of (url, text) per shard; for repositories, of (repo/path, text).

With `signals`, pages have extract_text's counts, too: twelve formulae where the URL has /tex/, else none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from corpus.document import Verdict, batch_of, document_id, keep_all
from corpus.engine import Engine
from corpus.report import Report
from corpus.shards import Items

REVISION = 1
REASONS: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Config:
    shards: tuple[tuple[tuple[str, str], ...], ...]
    web: bool = True
    signals: bool = False


def make(item: tuple[tuple[str, str], ...], config: Config) -> Iterator[Verdict]:
    rows: list[dict[str, object]] = []
    for where, text in item:
        repo, _, path = where.partition("/")
        place: dict[str, object] = {"url": where} if config.web else {"repo": repo, "path": path, "lang": "Python"}
        rows.append({"id": document_id(f"toy\n{where}"), "text": text, "source": "toy", **place})
    batch = batch_of(rows)
    if config.signals:
        formulas = pa.array([12 * ("/tex/" in where) for where, _ in item], pa.int32())
        none = pa.array([0] * len(item), pa.int32())
        for name, column in (("formulas", formulas), ("code_blocks", none), ("code_share", none.cast(pa.float32()))):
            batch = batch.append_column(name, column)
    yield keep_all(batch)


def run(config: Config, out: Path, engine: Engine) -> Report:
    return engine.map_shards(partial(make, config=config), Items(config.shards), out)
