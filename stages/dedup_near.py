"""Drop documents (or whole repositories) nearly equal to one that is kept, with their survivor and verified similarity.

    near_duplicate   exact Jaccard similarity of the 5-word shingles, to a kept document named in the evidence, >= threshold

    bands     text -> signature of 256 values -> keys of its bands, sent to where equal keys meet
    edges     a spanning forest of the units that share a key                                            corpus/components.py
    groups    connected components, packed into groups of whole components
    texts     the texts of units in a component, sent to their group (units alone are not read again)
    drops     per group, in survivor order: dropped if similar enough to one kept before, verified       corpus/leaders.py
    judge     drops joined back to their rows

The trade: nothing is dropped by resemblance of a resemblance, or by an estimate: of a chain A ~ B ~ C with A unlike C, A and
C stay. What may be missed is a duplicate whose bands never meet its survivor's: 4.5 % of pairs exactly at the threshold 0.7,
0.6 % at 0.75, 0.02 % at 0.8 (corpus.minhash.collision_curve). Documents under five words have no shingles and are kept.

Level "repository" compares repositories, the union of their files' shingles, and keeps or drops each whole (corpus/units.py):
file-level removal leaves repositories incomplete, which v1's authors avoided for the languages they concatenate.

A component too large for a task's memory is streamed through one in survivor order instead, against the newest survivors
(corpus/leaders.py). Nothing here depends on the number of workers, nor a decision on where a document lies.

Reference: DeepSeek-Coder section 2.3; the parameters, which it does not give, are StarCoder's: bigcode-dataset,
near_deduplication/minhash_deduplication_spark.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corpus import giants
from corpus.components import group, join, size_class, weigh
from corpus.document import Verdict
from corpus.draw import draw_keys
from corpus.engine import Engine
from corpus.errors import ConfigError
from corpus.exchange import Exchanged, partitions_for
from corpus.leaders import LEADERS, Window, find_duplicates, open_window
from corpus.minhash import MAX_VALUES, band_keys, choose_bands, document_keys
from corpus.report import Report
from corpus.shards import StepShards
from corpus.step import Step
from corpus.survivors import (
    COLUMNS,
    check_order,
    describe,
    drop_rows,
    key_columns,
    labels,
    order_keys,
    route_rows,
    sort_units,
)
from corpus.units import merge_repositories, repository_rows, unit_names

REVISION = 1

REASONS = ("near_duplicate",)

EDGES_OF = 16  # partitions of band keys make one of edges
_ROW = 0xFFFFFFFF  # of an ordinal


@dataclass(frozen=True, kw_only=True)
class Config:
    """Defaults: those of StarCoder's near-deduplication."""

    files: Step
    level: Literal["file", "repository"] = "file"
    threshold: float = 0.7  # of the exact Jaccard similarity
    values: int = 256  # of a signature; bands and rows follow from the threshold
    survivors: tuple[str, ...] = ("stars", "license", "created")  # who survives, then by id; see corpus/survivors.py

    def __post_init__(self) -> None:
        if self.level not in ("file", "repository"):
            raise ConfigError(f"dedup_near.level = {self.level!r}: 'file' or 'repository' expected")
        if not 0 < self.threshold <= 1:
            raise ConfigError(f"dedup_near.threshold = {self.threshold}: more than 0, at most 1 expected")
        if not 16 <= self.values <= MAX_VALUES:
            raise ConfigError(f"dedup_near.values = {self.values}: 16 to {MAX_VALUES} expected")
        check_order("dedup_near.survivors", self.survivors)


def judge(batch: pa.RecordBatch, config: Config, beside: pa.Table, first: int) -> Verdict:
    """beside: corpus.survivors.DROPS of this shard; first: the row in it that the batch begins with."""
    return drop_rows(batch, beside, first, REASONS[0])


def run(config: Config, out: Path, engine: Engine) -> Report:
    files = engine.shards(config.files)
    assert isinstance(files, StepShards)
    drops, notes = _drops(_Plan.of(config, files), files, out, engine)
    report = engine.map_shards(partial(judge, config=config), files, out, beside=drops)
    report.notes.update(notes)
    return report


# --- How it is done: exchanges, in the order of the docstring. Rows are named by ordinals: shard << 32 | row ----------------


@dataclass(frozen=True)
class _Plan:
    """What every task is told. homes: units at home in each input shard (or each partition of repositories)."""

    level: str
    threshold: float
    values: int
    bands: int
    rows: int
    order: tuple[str, ...]
    shards: int
    homes: tuple[int, ...]
    partitions: int  # of band keys: 17 bytes for each band of each unit

    @classmethod
    def of(cls, config: Config, files: StepShards) -> _Plan:
        bands, rows = choose_bands(config.threshold, config.values)
        homes = tuple(file.rows for file in files.files)
        partitions = partitions_for(files.rows * bands * 17, 64 << 20)
        order = tuple(config.survivors)
        return cls(config.level, config.threshold, config.values, bands, rows, order, len(homes), homes, partitions)

    def first(self, home: int) -> int:
        """The number of a home's first unit."""
        return sum(self.homes[:home])


def _drops(plan: _Plan, files: StepShards, out: Path, engine: Engine) -> tuple[Exchanged | None, dict[str, Any]]:
    """DROPS of every input shard (None without shards), and what a reader of the report may want to know."""
    if not files.names:
        return None, {}
    columns = ["text", *COLUMNS]
    repositories: Exchanged | None = None
    if plan.level == "repository":
        meet = partitions_for(files.rows * 256)  # 2 kB per repository and batch
        send = partial(route_repositories, plan=plan, partitions=meet)
        repositories = engine.exchange(send, files, out, name="repositories", partitions=meet, columns=columns)
        plan = replace(plan, homes=tuple(engine.reduce(count_units, repositories, out, name="units").notes["units"]))
        keys = engine.exchange(
            partial(route_repository_keys, plan=plan), repositories, out, name="bands", partitions=plan.partitions
        )
    else:
        send = partial(route_keys, plan=plan)
        keys = engine.exchange(send, files, out, name="bands", partitions=plan.partitions, columns=["text"])
    few = -(-plan.partitions // EDGES_OF)
    edges = engine.exchange(route_edges, keys, out, name="edges", partitions=few)
    notes = engine.reduce(partial(group, partitions=few, homes=plan.homes), (edges, edges), out, name="groups").notes
    members = Exchanged(out / "exchange" / "groups", ("groups",), len(plan.homes))
    if repositories is not None:
        send = partial(route_members, plan=plan)
        members = engine.exchange(send, repositories, out, name="members", partitions=plan.shards, beside=members)
    chunks, splitters = giants.split(partial(members_of, plan=plan), files, members, notes, out, engine)
    groups = max(1, notes["groups"])
    send = partial(route_texts, plan=plan, groups=groups, splitters=splitters)
    texts = engine.exchange(send, files, out, name="texts", partitions=groups + chunks, columns=columns, beside=members)
    check = partial(route_drops, plan=plan)
    drops = engine.exchange(check, giants.Part(texts, 0, groups), out, name="drops", partitions=plan.shards)
    if chunks:
        fold = partial(giants.stream, find=partial(duplicates, plan=plan), plan=plan)
        notes |= engine.reduce(fold, giants.Part(texts, groups, groups + chunks), out, name="giants").notes
        drops = Exchanged(drops.folder, (*drops.senders, *giants.senders(chunks)), plan.shards)
    return drops, {**notes, "bands": plan.bands, "rows": plan.rows}


def route_keys(batch: pa.RecordBatch, *, origin: int, plan: _Plan) -> pa.RecordBatch:
    """Documents to their band keys."""
    documents, keys_MB = document_keys(batch.column("text"), plan.values, plan.bands, plan.rows)
    length = pc.binary_length(batch.column("text")).to_numpy().astype(np.int64)[documents]
    units = plan.first(origin >> 32) + (origin & _ROW) + documents
    return _keyed(keys_MB, units, weigh(length), plan)


def route_repository_keys(batch: pa.RecordBatch, *, origin: int, plan: _Plan) -> pa.RecordBatch:
    """All rows about some repositories to those repositories' band keys."""
    all = merge_repositories(batch)
    keys_SB = band_keys(all.signatures_SV, plan.bands, plan.rows)
    return _keyed(keys_SB, plan.first(origin >> 32) + all.signed_S, all.weight_U[all.signed_S], plan)


def _keyed(keys_MB: np.ndarray, units: np.ndarray, weight: np.ndarray, plan: _Plan) -> pa.RecordBatch:
    kind = np.uint32 if sum(plan.homes) <= 1 << 32 else np.uint64
    keys = keys_MB.ravel()
    columns = {
        "partition": ((keys >> np.uint64(32)) * np.uint64(plan.partitions) >> np.uint64(32)).astype(np.uint16),
        "key": keys,
        "unit": np.repeat(units.astype(kind), plan.bands),
        "size": np.repeat(size_class(weight), plan.bands),
    }
    return pa.record_batch({name: pa.array(column) for name, column in columns.items()})


def route_repositories(batch: pa.RecordBatch, *, origin: int, plan: _Plan, partitions: int) -> pa.RecordBatch:
    """Documents to one row per repository in the batch, sent to where its other rows are."""
    rows = repository_rows(batch, plan.values, plan.order)
    meet = draw_keys(rows.column("name"), 0, "repositories") % np.uint64(partitions)
    rows = rows.append_column("shard", pa.array(np.full(rows.num_rows, origin >> 32, np.uint32)))
    return rows.append_column("partition", pa.array(meet.astype(np.uint16)))


def count_units(batches: Iterator[pa.RecordBatch], out: Path) -> dict[str, Any]:
    """A fold: how many repositories each partition has."""
    return {"units": [len(batch.column("name").unique()) for batch in batches]}


def route_edges(batch: pa.RecordBatch, *, origin: int) -> pa.RecordBatch:
    edges = join(*(batch.column(name).to_numpy() for name in ("key", "unit", "size")))
    return edges.append_column("partition", pa.array(np.full(edges.num_rows, (origin >> 32) // EDGES_OF, np.uint16)))


def route_members(batch: pa.RecordBatch, *, origin: int, beside: pa.Table, plan: _Plan) -> pa.RecordBatch:
    """Repositories in a component to each shard that has files of theirs."""
    all = merge_repositories(batch)
    group_U = np.full(len(all.names), -1, np.int64)
    group_U[beside.column("row").to_numpy()] = beside.column("group").to_numpy()
    shards = batch.column("shard").to_numpy().astype(np.int64)
    pairs = np.unique(np.stack([all.unit_N, shards], axis=1)[group_U[all.unit_N] >= 0], axis=0)
    units, shards = pairs[:, 0], pairs[:, 1]
    columns = {"name": all.names.take(pa.array(units)), "unit": pa.array((plan.first(origin >> 32) + units).astype(np.uint64))}
    columns |= {"group": pa.array(group_U[units].astype(np.uint32)), "partition": pa.array(shards)}
    columns |= {f"key_{f}": pa.array(key) for f, key in enumerate(all.keys_UF[units].T)}
    return pa.record_batch(columns)


def members_of(batch: pa.RecordBatch, *, origin: int, beside: pa.Table, plan: _Plan) -> pa.RecordBatch:
    """The documents of the batch that are in a component: group, unit, ordinal, key_0 …, name, label, text (if it was read)."""
    first = origin & _ROW
    keys: list[Any]
    if plan.level == "file":
        rows = beside.column("row").to_numpy().astype(np.int64)
        low, high = np.searchsorted(rows, [first, first + batch.num_rows])
        picked, group_M = rows[low:high] - first, beside.column("group").to_numpy()[low:high]
        units = (plan.first(origin >> 32) + rows[low:high]).astype(np.uint64)
        batch = batch.take(pa.array(picked))
        keys = [pa.array(column) for column in order_keys(batch, plan.order).T]
        names, where = batch.column("id"), labels(batch)
    else:
        found = pc.index_in(unit_names(batch), value_set=beside.column("name"))
        picked = np.flatnonzero(pc.is_valid(found).to_numpy(zero_copy_only=False))
        theirs = beside.take(found.drop_null()).combine_chunks()
        group_M, units = theirs.column("group").to_numpy(), theirs.column("unit").to_numpy()
        batch = batch.take(pa.array(picked))
        keys = [theirs.column(f"key_{f}").combine_chunks() for f in range(len(plan.order))]
        names = pc.utf8_slice_codeunits(theirs.column("name").combine_chunks(), 1)
        where = pa.array([""] * len(picked), pa.string())
    columns = {"group": pa.array(group_M), "unit": pa.array(units), "ordinal": pa.array((origin + picked).astype(np.uint64))}
    columns |= {f"key_{f}": key for f, key in enumerate(keys)} | {"name": names, "label": where}
    if "text" in batch.schema.names:
        columns["text"] = batch.column("text")
    return pa.record_batch(columns)


def route_texts(
    batch: pa.RecordBatch, *, origin: int, beside: pa.Table, plan: _Plan, groups: int, splitters: tuple[str, ...]
) -> pa.RecordBatch:
    """Documents in a component to where it is verified."""
    rows = members_of(batch, origin=origin, beside=beside, plan=plan)
    target = giants.place(rows, groups, splitters)
    return rows.append_column("partition", pa.array(target))


def route_drops(batch: pa.RecordBatch, *, origin: int, plan: _Plan) -> pa.RecordBatch:
    """A group, verified: DROPS to the shards they are in."""
    units = batch.num_rows
    window = open_window(units, batch.column("text").nbytes, plan.values, plan.bands)
    return duplicates(batch, window, giants.no_leaders(), plan=plan)[0]


def duplicates(batch: pa.RecordBatch, window: Window, leaders: pa.Table, *, plan: _Plan) -> tuple[pa.RecordBatch, pa.Table]:
    """Verify units in survivor order: (DROPS with their partition, `leaders` with the new ones added)."""
    unit, ordinal = batch.column("unit").to_numpy(), batch.column("ordinal").to_numpy()
    order = sort_units(key_columns(batch), batch.column("name"), unit, ordinal)
    starts = np.flatnonzero(np.diff(unit[order], prepend=unit[order][:1] + np.uint64(1)))
    bounds_U1 = np.append(starts, len(order))
    leader_U, score_U = find_duplicates(batch.column("text"), order, bounds_U1, plan.threshold, plan.rows, window)
    entered = order[starts[(score_U < 0) & (leader_U >= 0)]]
    told = pa.Table.from_batches([batch.select(["name", "label"])]).take(pa.array(entered))
    leaders = pa.concat_tables([leaders, told]).combine_chunks()
    gone = np.flatnonzero(score_U >= 0)
    documents = order[np.repeat(score_U >= 0, np.diff(bounds_U1))]
    again = np.repeat(gone, np.diff(bounds_U1)[gone])
    oldest = int(window.counters[LEADERS]) - leaders.num_rows
    survivors = leaders.take(pa.array(leader_U[again] - oldest)).combine_chunks()
    evidence = describe(survivors.column("name"), survivors.column("label"), score_U[again])
    return route_rows(ordinal[documents], evidence), leaders
