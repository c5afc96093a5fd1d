"""Turns every text into capitals: a stage whose texts are not those it read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from corpus.document import Verdict, keep_all
from corpus.engine import Engine
from corpus.report import Report
from corpus.step import Step

REVISION = 1
REASONS: tuple[str, ...] = ()
REWRITES = True


@dataclass(frozen=True, kw_only=True)
class Config:
    files: Step


def judge(batch: pa.RecordBatch) -> Verdict:
    text = batch.schema.get_field_index("text")
    return keep_all(batch.set_column(text, batch.schema.field(text), pc.utf8_upper(batch.column(text))))


def run(config: Config, out: Path, engine: Engine) -> Report:
    return engine.map_shards(judge, config.files, out)
