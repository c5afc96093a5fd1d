"""Keep documents at random, as many bytes of them as asked: what select_recall is compared with, the same amount unchosen.

not_drawn   the document's key, a hash of (seed, salt, id), is beyond the one at which the share is reached
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corpus.document import Verdict, text_buffers
from corpus.draw import draw_keys, weigh
from corpus.engine import Engine
from corpus.errors import ConfigError
from corpus.report import Report
from corpus.step import Step

__all__ = ["REASONS", "REVISION", "Config", "judge", "run"]

REVISION = 1
REASONS = ("not_drawn",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    files: Step
    share: float | None = None  # of the bytes of their texts
    like: Step | None = None  # or as many bytes as this step's documents have
    salt: str  # draws of different salts are independent
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.share is None) == (self.like is None):
            raise ConfigError(f"draw_random: one of share and like expected, {'none' if self.like is None else 'both'} given")
        if self.share is not None and not 0 < self.share <= 1:
            raise ConfigError(f"draw_random.share = {self.share}: over 0 and up to 1 expected")


def size(batch: pa.RecordBatch) -> np.ndarray:
    return np.diff(text_buffers(batch.column("text"))[0])


def judge(batch: pa.RecordBatch, config: Config, last: int | None) -> Verdict:
    """last: the largest key drawn; None: no document is."""
    key_N = draw_keys(batch.column("id"), config.seed, config.salt)
    gone_N = np.ones(len(key_N), bool) if last is None else key_N > np.uint64(last)
    none = pa.scalar(None, pa.string())
    reason = pc.if_else(pa.array(gone_N), "not_drawn", none)
    at = pc.cast(pc.round(pa.array(key_N / 2.0**64), 6), pa.string())
    return Verdict(batch, reason, pc.if_else(pa.array(gone_N), at, none))


def run(config: Config, out: Path, engine: Engine) -> Report:
    weighed = weigh(size, config.files, out, engine, name="keys", seed=config.seed, salt=config.salt)
    if config.like is None:
        budget = math.ceil((config.share or 0) * weighed.weight)
    else:
        budget = weigh(size, config.like, out, engine, name="like", seed=config.seed, salt=config.salt).weight
    last, drawn = weighed.cut(budget)
    report = engine.map_shards(partial(judge, config=config, last=last), config.files, out)
    report.notes.update({"bytes": weighed.weight, "drawn": drawn})
    if config.like is not None:  # its documents were read too: as a number of bytes
        rows = engine.rows(config.like)
        report.read, report.used = report.read + rows, rows
    return report
