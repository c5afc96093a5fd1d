"""Drop documents that another step has already: a page recalled as mathematics is not to be prose as well.

    taken   a step of `taken` holds a document of this id; the first of them is the evidence

Ids meet in an exchange, 40 bytes a document; texts stay where they are. The steps need not share shards.

The trade: the order of `taken` decides nothing but the evidence, and which track a page on both code and mathematics goes to
is decided by the recipe: whoever excludes the other gives way.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corpus.document import Verdict
from corpus.draw import draw_keys
from corpus.engine import Engine
from corpus.errors import ConfigError
from corpus.exchange import Exchanged, Together, partitions_for
from corpus.report import Report
from corpus.shards import StepShards
from corpus.step import Step
from corpus.survivors import drop_rows, route_rows

REVISION = 1

REASONS = ("taken",)

_BYTES = 40  # of a row of the exchange
_HERE = 0  # `holder` of a document of `files`; those of taken[i] have i + 1


@dataclass(frozen=True, kw_only=True)
class Config:
    files: Step
    taken: tuple[Step, ...]

    def __post_init__(self) -> None:
        if not self.taken:
            raise ConfigError("exclude.taken is empty; at least one Step expected")
        if self.files in self.taken:
            raise ConfigError(f"exclude.taken holds {self.files.name}, which is exclude.files: nothing would be left")


def judge(batch: pa.RecordBatch, beside: pa.Table, first: int) -> Verdict:
    """beside: corpus.survivors.DROPS of this shard; first: the row in it that the batch begins with."""
    return drop_rows(batch, beside, first, REASONS[0])


def route_ids(batch: pa.RecordBatch, origin: int, *, holder: int, partitions: int) -> pa.RecordBatch:
    """Every id with who holds it, to where the same id meets."""
    key_N = draw_keys(batch.column("id"), 0, "exclude")
    columns = {
        "id": batch.column("id"),
        "ordinal": pa.array(np.arange(origin, origin + batch.num_rows, dtype=np.uint64)),
        "holder": pa.array(np.full(batch.num_rows, holder, np.uint16)),
        "partition": pa.array((key_N % np.uint64(partitions)).astype(np.int64)),
    }
    return pa.record_batch(columns)


def route_drops(batch: pa.RecordBatch, origin: int, *, names: tuple[str, ...]) -> pa.RecordBatch:
    """Documents of `files` that others hold, as DROPS, to the shards they are in."""
    mine = pc.equal(batch.column("holder"), _HERE)
    here, others = batch.filter(mine), batch.filter(pc.invert(mine))
    first = (
        pa.table({"id": others.column("id"), "holder": others.column("holder")}).group_by("id").aggregate([("holder", "min")])
    )
    at = pc.index_in(here.column("id"), value_set=first.column("id"))
    gone = pc.is_valid(at)
    holder = first.column("holder_min").take(at.filter(gone))
    evidence = pa.array(names, pa.string()).take(pc.subtract(pc.cast(holder, pa.int64()), 1))
    return route_rows(here.column("ordinal").filter(gone).to_numpy(), evidence)


def run(config: Config, out: Path, engine: Engine) -> Report:
    files = engine.shards(config.files)
    assert isinstance(files, StepShards)
    drops = _drops(config, files, out, engine) if files.names else None
    report = engine.map_shards(judge, files, out, beside=drops)
    others = sum(shards.rows for shards in map(engine.shards, config.taken) if isinstance(shards, StepShards))
    report.read += others
    report.used += others
    return report


def _drops(config: Config, files: StepShards, out: Path, engine: Engine) -> Exchanged:
    """DROPS of every shard of `files`."""
    taken = enumerate(map(engine.shards, config.taken), 1)
    held = [(_HERE, files), *((i, shards) for i, shards in taken if shards.names)]
    partitions = partitions_for(sum(shards.rows for _, shards in held if isinstance(shards, StepShards)) * _BYTES)
    met = Together(
        tuple(
            engine.exchange(
                partial(route_ids, holder=i, partitions=partitions),
                shards,
                out,
                name=f"ids_{i}",
                partitions=partitions,
                columns=["id"],
            )
            for i, shards in held
        )
    )
    names = tuple(step.name for step in config.taken)
    send = partial(route_drops, names=names)
    return engine.exchange(send, met, out, name="drops", partitions=len(files.names))
