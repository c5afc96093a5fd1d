"""A source of made-up documents: `count` of them over `shards` items, text from a hash of (seed, number)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import xxhash

from corpus.document import Verdict, batch_of, document_id, keep_all
from corpus.engine import Engine
from corpus.errors import InputError
from corpus.report import Report
from corpus.shards import Items

REVISION = 1
REASONS: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Config:
    count: int = 60
    shards: int = 6
    seed: int = 0
    pause_s: float = 0.0  # per shard, for tests that kill
    broken: bool = False


def check(config: Config) -> None:
    if config.broken:
        raise InputError("toy source: broken is set")


def make(item: tuple[int, int], config: Config) -> Iterator[Verdict]:
    time.sleep(config.pause_s)
    rows = []
    for i in range(*item):
        digits = xxhash.xxh3_128_hexdigest(f"{config.seed}/{i}".encode())
        path = f"file{i}.txt"
        rows.append({"id": document_id(f"toy/{i}"), "text": f"{digits} " * (1 + i % 7), "repo": f"r{i % 5}", "path": path})
    yield keep_all(batch_of(rows))


def run(config: Config, out: Path, engine: Engine) -> Report:
    size = -(-config.count // config.shards)
    items = tuple((a, min(config.count, a + size)) for a in range(0, config.count, size))
    return engine.map_shards(partial(make, config=config), Items(items), out)
