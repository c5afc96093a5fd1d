"""Grow the seed of the next recall round: pages of topic sites that join it.

1. Topic groups are those of which the round collected more than its `topic_share` (a tenth). They are counted again by URL:
   whole domain, first folder, first two folders. Repositories are counted whole.
2. domains.yaml lists them, with counts, shares and pages not collected: all of which something is accepted, and of the rest
   the 2,000 domains with most collected, each with its 20 largest folders; the notes and the table say how many were left
   out. A person edits a copy: with `annotations`, exactly what that accepts is accepted. Without, a domain is accepted, or else
   a folder of it, where the lower end of the confidence interval (Wilson) of its share of sure pages, times the precision
   held at the cut (0 where nothing could be held back), is at least `bound`: four pages, all sure, may be enough, and a site
   of which a smaller share is sure never joins, however large. A page is sure that was collected and whose calibrated
   probability is a half or more: a budget larger than the topic collects others too.
3. Pages under what was accepted are this step's documents, unless the seed has them. Everything else is dropped:

    in_seed       the seed has it
    collected     under what was accepted and collected, where `add_collected` is off
    unlikely      under what was accepted automatically, but its calibrated probability is less than `unlikely`
    outside       under nothing that was accepted

The trade: DeepSeekMath adds pages that were not collected only, judged by hand. The bound rests on probabilities calibrated on
pages held back, half of them on topic, so it orders sites better than it counts their pages; and `add_collected` also adds
the collected pages of accepted sites: those are the surest of the topic that the seed has not, and without them a small seed
learns the sites' fringes. Sites on two topics would carry the seed from one to the other, so pages the model is sure about
stay out; that also keeps out what it is wrong to be sure about.

Reference: DeepSeekMath (arXiv 2402.03300), section 2.1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from corpus.annotations import Accepted, read_annotations, write_annotations
from corpus.document import Verdict
from corpus.draw import draw_keys
from corpus.engine import Engine
from corpus.errors import ConfigError
from corpus.exchange import partitions_for
from corpus.groups import group_keys, places, prefixes, under
from corpus.recall import TOPIC_GROUPS, check_scores, collected, id_keys, read_record, scored
from corpus.report import Report
from corpus.shards import as_path, atomic, read_array, read_json, write_json
from corpus.step import Step

REVISION = 3
REASONS = ("in_seed", "collected", "unlikely", "outside")

_LISTED = 20  # folders listed of a domain beside those accepted
_TABLE = 2_000  # domains listed beside those of which something is accepted: a person reads them
_ACCEPTED = "accepted.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    files: Step
    scores: Step  # score_recall of the round
    selected: Step  # select_recall of the round
    annotations: str | None = None  # path of an edited domains.yaml
    bound: float = 0.65
    confidence: float = 1.0  # standard deviations: a one-sided interval of 84 %
    least_pages: int = 3  # of a domain or folder that may be accepted automatically
    unlikely: float = 0.1  # a page of an accepted site that is less probable than this does not join; 0: all join
    add_collected: bool = True  # ours; DeepSeekMath adds what was not collected
    samples: int = 5  # pages listed of each
    annotations_xxh3: str = dataclasses.field(default="", init=False)  # the table's content, so that it is in the fingerprint

    def __post_init__(self) -> None:
        check_scores("grow_seed", self.files, self.scores)
        if getattr(self.selected.config, "scores", None) != self.scores:
            raise ConfigError(f"grow_seed.selected is step {self.selected.name}; select_recall by the same scores expected")
        if not 0 <= self.bound <= 1 or not self.confidence >= 0:
            raise ConfigError(f"grow_seed.bound = {self.bound}: 0 to 1 expected, and confidence 0 or more")
        if not 0 <= self.unlikely < 1:
            raise ConfigError(f"grow_seed.unlikely = {self.unlikely}: a probability, 0 or more and under 1, expected")
        if self.least_pages < 1 or self.samples < 0:
            raise ConfigError(f"grow_seed.least_pages = {self.least_pages}: 1 or more expected, and samples 0 or more")
        if self.annotations is not None:
            path = as_path(self.annotations)
            read_annotations(path)
            object.__setattr__(self, "annotations_xxh3", xxhash.xxh3_64_hexdigest(path.read_bytes()))


def wilson(hits: np.ndarray, of: np.ndarray, z: float) -> np.ndarray:
    """The lower end of Wilson's interval of a share, `z` standard deviations down."""
    n = np.maximum(of, 1).astype(np.float64)
    p = hits / n
    middle = p + z * z / (2 * n)
    return np.asarray((middle - z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))) / (1 + z * z / n))


def route(
    batch: pa.RecordBatch, origin: int, topic: Path, cut: int | None, line: tuple[float, float], partitions: int
) -> pa.Table:
    """A row per page of a topic group (a batch of corpus.recall.Scored), to the group's partition."""
    group = group_keys(batch.column("recall_group"), batch.column("id"))
    rows = np.flatnonzero(np.isin(group, read_array(topic)))
    few = batch.take(pa.array(rows))
    place = places(few)
    one, two = prefixes(place)
    hit = collected(few, cut)
    sure = hit & (line[0] * few.column("recall_logit").to_numpy() + line[1] >= 0)
    columns = {"group": few.column("recall_group"), "one": one, "two": two, "collected": hit, "sure": sure}
    columns |= {"place": place, "key": draw_keys(few.column("id"), 0, "grow_seed")}
    columns["partition"] = (group[rows] % np.uint64(partitions)).astype(np.int64)
    return pa.table(columns)


def survey(batches: Iterator[pa.RecordBatch], out: Path, config: Config, precision: float, whole: bool) -> dict[str, Any]:
    """domains.yaml and what is accepted. whole: groups are repositories, which have no folders here."""
    table: list[dict[str, Any]] = []
    groups: list[str] = []
    parts: list[str] = []
    topic_groups = left_out = 0
    asked = read_annotations(as_path(config.annotations)) if config.annotations is not None else None
    unseen = dict.fromkeys(asked.groups) if asked is not None else {}
    for batch in batches:
        batch = batch.take(pc.sort_indices(batch, sort_keys=[("group", "ascending"), ("key", "ascending")]))
        listed = {row["name"]: _entry("domain", row) for row in _counts(batch, "group", config, precision)}
        for level in () if whole else ("one", "two"):
            for row in _counts(batch, level, config, precision):
                listed[row["group"]].setdefault("prefixes", []).append(_entry("prefix", row))
        for name, entry in listed.items():
            unseen.pop(name, None)
            if entry["accept"]:
                groups.append(name)
            _shorten(entry)
            parts += [part["prefix"] for part in entry.get("prefixes", []) if part["accept"]]
        topic_groups += len(listed)
        table, left = _shortest([*table, *listed.values()])
        left_out += left
    with atomic(out / "domains.yaml") as temporary:
        write_annotations(temporary, table)
    accepted = asked if asked is not None else Accepted(tuple(sorted(groups)), tuple(sorted(parts)))
    write_json(out / _ACCEPTED, dataclasses.asdict(accepted))
    return {
        "topic_groups": topic_groups,
        "topic_groups_not_listed": left_out,
        "accepted_groups": len(accepted.groups),
        "accepted_prefixes": len(accepted.prefixes),
        "accepted": [*accepted.groups, *accepted.prefixes][:50],
        "annotated_but_not_on_topic": [*unseen][:50],
    }


def _shorten(entry: dict[str, Any]) -> None:
    """The folders of a domain that are listed: none accepted where the whole is, else those accepted, then the largest."""
    parts = entry.get("prefixes", [])
    if entry["accept"]:  # the whole has its parts
        for part in parts:
            part["accept"] = False
    parts.sort(key=lambda part: (not part["accept"], -part["pages"], part["prefix"]))
    few = parts[: _LISTED + sum(part["accept"] for part in parts)]
    if few:
        entry["prefixes"] = few
    if len(parts) > len(few):
        entry["prefixes_not_listed"] = len(parts) - len(few)


def _shortest(entries: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """The table, most collected first, and how many entries it leaves out."""
    entries.sort(key=lambda entry: (-entry["collected"], entry["domain"]))
    chosen = [entry["accept"] or any(part["accept"] for part in entry.get("prefixes", [])) for entry in entries]
    open_ones = np.cumsum([not mine for mine in chosen])
    table = [entry for entry, mine, nth in zip(entries, chosen, open_ones, strict=True) if mine or nth <= _TABLE]
    return table, len(entries) - len(table)


def _counts(batch: pa.RecordBatch, level: str, config: Config, precision: float) -> list[dict[str, Any]]:
    """A row per value of the column `level`, "" left out: group, name, pages, collected, share, bound, accept, samples."""
    batch = batch.filter(pc.not_equal(batch.column(level), ""))
    if not batch.num_rows:
        return []
    coded = batch.column(level).dictionary_encode()
    names, code = coded.dictionary.to_pylist(), coded.indices.to_numpy()
    hit = batch.column("collected").to_numpy(zero_copy_only=False)
    pages, hits = np.bincount(code), np.bincount(code, hit)
    sure = np.bincount(code, batch.column("sure").to_numpy(zero_copy_only=False))
    bound = wilson(sure, pages, config.confidence) * precision
    accept = (bound >= config.bound) & (pages >= config.least_pages)
    samples: dict[int, list[str]] = {}
    place = batch.column("place")
    missed = np.flatnonzero(~hit)
    order = missed[np.argsort(code[missed], kind="stable")]
    starts = np.flatnonzero(np.diff(code[order], prepend=-1))
    nth = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    for row in order[nth < config.samples].tolist():
        samples.setdefault(int(code[row]), []).append(place[row].as_py())
    _, first = np.unique(code, return_index=True)
    groups = batch.column("group").take(pa.array(first)).to_pylist()
    return [
        {
            "group": groups[i],
            "name": names[i],
            "pages": int(pages[i]),
            "collected": int(hits[i]),
            "share": round(float(hits[i] / pages[i]), 4),
            "bound": round(float(bound[i]), 4),
            "accept": bool(accept[i]),
            "not_collected": samples.get(i, []),
        }
        for i in range(len(names))
    ]


def _entry(kind: str, row: dict[str, Any]) -> dict[str, Any]:
    names = ("pages", "collected", "share", "bound", "accept", "not_collected")
    return {kind: row["name"], **{name: row[name] for name in names}}


@dataclasses.dataclass(frozen=True)
class Known:
    """seed: sorted hashes of ids; accepted: what joins."""

    seed: np.ndarray
    accepted: Accepted


def load(seed: Path, accepted: Path) -> Known:
    record = read_json(accepted)
    assert record is not None
    return Known(read_array(seed), Accepted(tuple(record["groups"]), tuple(record["prefixes"])))


def judge(batch: pa.RecordBatch, state: Known, cut: int | None, floor: float, add_collected: bool) -> Verdict:
    """A batch of corpus.recall.Scored. floor: the logit below which a page is unlikely to be on topic."""
    group = batch.column("recall_group")
    seeded = np.isin(id_keys(batch.column("id")), state.seed)
    hit = collected(batch, cut)
    inside = _inside(batch, group, state.accepted)
    names = [name for name in batch.schema.names if not name.startswith("recall_")]
    reason = np.full(batch.num_rows, None, object)
    reason[~inside] = "outside"
    reason[inside & (batch.column("recall_logit").to_numpy() < floor)] = "unlikely"
    if not add_collected:
        reason[inside & hit] = "collected"
    reason[seeded] = "in_seed"
    why = pa.array(reason, pa.string())
    where = pc.if_else(pc.equal(group, ""), "in no group", group)
    said = pc.if_else(pc.is_valid(why), pc.if_else(pc.equal(why, "in_seed"), "the seed has it", where), why)
    return Verdict(batch.select(names), why, said)


def floor_of(line: tuple[float, float], probability: float) -> float:
    """The logit whose calibrated probability (a · logit + b, of train_recall) is `probability`."""
    return (math.log(probability / (1 - probability)) - line[1]) / line[0] if probability else -math.inf


def _inside(batch: pa.RecordBatch, group: Any, accepted: Accepted) -> np.ndarray:
    found = np.asarray(pc.is_in(group, pa.array(accepted.groups, pa.string())).to_numpy(zero_copy_only=False))
    if not accepted.prefixes:
        return found
    place = places(batch)
    shallow = tuple(p for p in accepted.prefixes if p.endswith("/") and p.count("/") in (2, 3))
    for column in prefixes(place):  # a look-up, however many there are
        found = found | pc.is_in(column, pa.array(shallow, pa.string())).to_numpy(zero_copy_only=False)
    deep = tuple(p for p in accepted.prefixes if p not in set(shallow))
    return found | under(place, deep) if deep else found


def run(config: Config, out: Path, engine: Engine) -> Report:
    record = read_record(engine, config.selected)
    model = config.scores.config.model
    pool = scored(engine, config.files, config.scores)
    at = record["held_back_at_cut"] or next(iter(record["curve"]), None)  # a cut above the curve is surer than its first row
    precision = at["precision"] if at is not None else 0.0
    partitions = partitions_for(record["pages"] * 2000)
    line = tuple(read_record(engine, model)["calibration"])
    topic = engine.folder(config.selected) / TOPIC_GROUPS
    send = partial(route, topic=topic, cut=record["cut"], line=line, partitions=partitions)
    met = engine.exchange(send, pool, out, name="topic", partitions=partitions, columns=["id", "url"])
    whole = model.config.group_by == "repository"
    count = partial(survey, config=config, precision=precision, whole=whole)
    notes = engine.reduce(count, met, out, name="survey").notes
    setup = partial(load, engine.folder(model) / "seed.npy", out / _ACCEPTED)
    floor = floor_of(line, config.unlikely) if config.annotations is None else -math.inf
    work = partial(judge, cut=record["cut"], floor=floor, add_collected=config.add_collected)
    report = engine.map_shards(work, pool, out, setup=setup)
    report.notes.update(notes)
    rows = engine.rows(config.selected)
    report.read, report.used = report.read + rows, rows
    return report
