"""Drops documents whose text begins with one of `letters`; can be told to misbehave."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from corpus.document import Verdict, keep_all
from corpus.engine import Engine
from corpus.report import Report
from corpus.step import Step

REVISION = 1
REASONS = ("letter",)


@dataclass(frozen=True, kw_only=True)
class Config:
    files: Step
    letters: str = "0123"
    limit: int | None = None
    lose: bool = False  # a stage with the bug the runner is there to catch
    fail: bool = False
    pause_s: float = 0.0


def judge(batch: pa.RecordBatch, config: Config) -> Verdict:
    time.sleep(config.pause_s)
    if config.fail:
        raise ValueError("a bug in the stage")
    if config.lose:
        return keep_all(batch.slice(1))
    first = pc.utf8_slice_codeunits(batch.column("text"), 0, 1)
    hit = pc.is_in(first, pa.array(list(config.letters), pa.large_string()))
    none = pa.nulls(batch.num_rows, pa.string())
    reason = pc.if_else(hit, pa.scalar("letter"), none)
    evidence: Any = pc.if_else(hit, first.cast(pa.string()), none)
    return Verdict(batch, reason, evidence)


def run(config: Config, out: Path, engine: Engine) -> Report:
    return engine.map_shards(partial(judge, config=config), config.files, out)
