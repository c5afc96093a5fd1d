"""Writes web archives and no documents, as a stage that renders pages does."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from corpus.engine import Engine
from corpus.report import Report
from corpus.shards import Items, atomic

REVISION = 1
REASONS: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Config:
    pages: int


def write(batches: Iterator[int], out: Path, config: Config) -> dict[str, Any]:
    """One page to a file, 00.warc.gz and so on."""
    for i in range(config.pages):
        block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>page %d</p>" % i
        head = b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://%d.example/\r\nContent-Length: %d\r\n\r\n"
        with atomic(out / f"{i:02d}.warc.gz") as temporary:
            temporary.write_bytes(gzip.compress(head % (i, len(block)) + block + b"\r\n\r\n", mtime=0))
    return {"pages": config.pages}


def run(config: Config, out: Path, engine: Engine) -> Report:
    return engine.reduce(partial(write, config=config), Items((0,)), out)
