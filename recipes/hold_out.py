"""Part documents into those held out and the rest, before any ablation: every arm is judged on texts that none has seen.

Texts come in families: a document and its near-duplicates, as a dedup_near step over the same documents found them. A family is
held out whole or not at all, by a hash of its survivor's id. Of a family held out

    keep="held"   the survivor is kept; `relative`: the others, `rest`: families not held out
    keep="rest"   nothing is; `held_out`

The trade: the families are in memory, a hundred bytes for every near-duplicate. A document that resembles two survivors is in
the family of the first, so a text held out may have a cousin in training, below the threshold of most of its kin.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from corpus.document import Verdict
from corpus.draw import draw_keys
from corpus.engine import Engine
from corpus.errors import ConfigError
from corpus.report import Report
from corpus.shards import StepShards
from corpus.step import Step

__all__ = ["REASONS", "REVISION", "Config", "judge", "run"]

REVISION = 1
REASONS = ("held_out", "relative", "rest")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    files: Step
    families: Step  # dedup_near over the same documents, by file
    keep: Literal["held", "rest"]
    share: float = 0.01  # of the families
    seed: int = 0

    def __post_init__(self) -> None:
        if self.keep not in ("held", "rest"):
            raise ConfigError(f"hold_out.keep = {self.keep!r}: 'held' or 'rest' expected")
        if not 0 < self.share < 1:
            raise ConfigError(f"hold_out.share = {self.share}: between 0 and 1 expected")
        if self.families.config.files.fingerprint != self.files.fingerprint:
            raise ConfigError(
                f"hold_out.families is step {self.families.name}; a dedup_near step over {self.files.name} expected"
            )
        if self.families.config.level != "file":
            raise ConfigError(f"hold_out.families: dedup_near by file expected, {self.families.name} is by repository")


def judge(batch: pa.RecordBatch, config: Config, state: tuple[pa.Array, pa.Array]) -> Verdict:
    """state: ids that have a survivor, and these; both arrays of text."""
    relatives, survivors = state
    ids = batch.column("id").cast(pa.string())
    at = pc.index_in(ids, value_set=relatives)
    head = pc.coalesce(survivors.take(at), ids)
    held = pa.array(draw_keys(head, config.seed, "hold out") < np.uint64(int(config.share * 2.0**64)))
    if config.keep == "rest":
        reason = pc.if_else(held, "held_out", pa.scalar(None, pa.string()))
    else:
        reason = pc.if_else(held, pc.if_else(pc.is_valid(at), "relative", pa.scalar(None, pa.string())), "rest")
    evidence = pc.if_else(
        pc.is_valid(reason), pc.binary_join_element_wise("family of ", head, ""), pa.scalar(None, pa.string())
    )
    return Verdict(batch, reason, evidence)


def load(folder: Path) -> tuple[pa.Array, pa.Array]:
    """What dedup_near dropped, and for whom: its evidence begins "survivor ID "."""
    parts = [pa.table({"id": pa.array([], pa.string()), "evidence": pa.array([], pa.string())})]
    for path in sorted((folder / "dropped").glob("*.parquet")):
        with path.open("rb") as file:
            table = pq.read_table(file, columns=["id", "evidence"])
        parts.append(table.cast(parts[0].schema))
    table = pa.concat_tables(parts).combine_chunks()
    words = pc.split_pattern(table.column("evidence"), " ", max_splits=2)
    survivors = pc.list_element(words, 1) if table.num_rows else table.column("evidence")
    return _whole(table.column("id")), _whole(survivors)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], pa.string())


def run(config: Config, out: Path, engine: Engine) -> Report:
    setup = partial(load, engine.folder(config.families))
    report = engine.map_shards(partial(judge, config=config), config.files, out, setup=setup)
    kept = engine.shards(config.families)
    assert isinstance(kept, StepShards)
    report.read += kept.rows  # they are the same documents; who is not among them is what is used
    report.used += kept.rows
    return report
