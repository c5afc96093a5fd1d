"""Keep what a recall round collects: the pages that rank at or before a cut.

Pages are ranked by the round's scores, equal ones by a hash of their id. The cut is one of

    tokens        the fewest pages from the top that hold so many tokens      (DeepSeekMath: the top 40 B of a round)
    share         the same, as a share of the pool's tokens
    probability   pages of at least this calibrated probability
    precision     as deep as this precision was held on the pages held back in training, as if both labels were equally many;
                  nothing where it never was

and exact to one page. Pages kept get the column `recall_score`; the others are dropped:

    below_cut     score and cut are in the evidence

Writes recall.json (the round in numbers: pages, tokens, groups, new ones, overlap with the round before, scores, sampled
pages), groups.parquet (pages and pages collected of each group with any), topic_groups.npy (hashes of those with more than
`topic_share` collected, the paper's topic domains), report.html and report.txt. `converged` is noted where at least `enough` of
the pages were collected in the round before: rounds after that copy, and train nothing.

The trade: 98 % of a round known already is the paper's reason to stop; a round is cheap beside what it reads, and saying that
it brought nothing is worth as much as the pages.

Reference: DeepSeekMath (arXiv 2402.03300), section 2.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corpus.document import Verdict
from corpus.engine import Engine
from corpus.errors import ConfigError
from corpus.exchange import partitions_for
from corpus.groups import group_keys
from corpus.recall import RECORD, SCORES, TOPIC_GROUPS, check_scores, collected, logit_of, ranks, read_record, scored, scores_of
from corpus.recall_report import draw_round, sample_pages, tell_round
from corpus.report import Report
from corpus.shards import Items, StepShards, atomic, write_array, write_json, write_table
from corpus.step import Step

REVISION = 2
REASONS = ("below_cut",)

_BINS = 1 << 20  # of the rank's upper bits, in the first pass
_CUTS = ("tokens", "share", "probability", "precision")
GROUPS = pa.schema(
    [("group", pa.string()), ("pages", pa.int64()), ("collected", pa.int64()), ("before", pa.int64()), ("tokens", pa.int64())]
)


@dataclass(frozen=True, kw_only=True)
class Config:
    files: Step
    scores: Step  # a score_recall step over the same files
    previous: Step | None = None  # select_recall of the round before
    tokens: int | None = None
    share: float | None = None
    probability: float | None = None
    precision: float | None = None
    topic_share: float = 0.1  # DeepSeekMath 2.1: a domain with more than a tenth collected is on topic
    enough: float = 0.98  # of a round collected before: DeepSeekMath stopped there

    def __post_init__(self) -> None:
        check_scores("select_recall", self.files, self.scores)
        given = [name for name in _CUTS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ConfigError(
                f"select_recall: one of {', '.join(_CUTS)} expected as the cut, {', '.join(given) or 'none'} given"
            )
        if self.tokens is not None and self.tokens < 1:
            raise ConfigError(f"select_recall.tokens = {self.tokens}: 1 or more expected")
        for name in ("share", "probability", "precision", "topic_share", "enough"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ConfigError(f"select_recall.{name} = {value}: over 0 and up to 1 expected")


def judge(batch: pa.RecordBatch, cut: int | None) -> Verdict:
    """A batch of corpus.recall.Scored."""
    gone = ~collected(batch, cut)
    score = batch.column("recall_score")
    names = [name for name in batch.schema.names if not name.startswith("recall_")]
    kept = batch.select(names).append_column("recall_score", score)
    limit = "no page collected" if cut is None else f"cut at {_sigmoid(logit_of(cut)):.6g}"
    why = pc.if_else(pa.array(gone), pa.scalar("below_cut"), pa.scalar(None, pa.string()))
    said = np.full(len(gone), None, object)
    said[gone] = [f"score {value:.6g}, {limit}" for value in score.to_numpy()[gone].tolist()]
    return Verdict(kept, why, pa.array(said, pa.string()))


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-max(-700.0, min(700.0, logit))))


def find_cut(batches: Iterator[Any], out: Path, scores: StepShards, config: Config, model: dict[str, Any]) -> dict[str, Any]:
    """The last rank collected (None: no page is), the pages more likely on topic than not, and the histogram of scores."""
    tokens_B, pages_B = np.zeros(_BINS, np.int64), np.zeros(_BINS, np.int64)
    shift = np.uint64(64 - 20)
    for rank, tokens in _ranked(scores):
        bins = (rank >> shift).astype(np.int64)
        tokens_B += np.bincount(bins, tokens, _BINS).astype(np.int64)
        pages_B += np.bincount(bins, minlength=_BINS)
    total = int(tokens_B.sum())
    budget = config.tokens if config.tokens is not None else math.ceil((config.share or 0) * total)
    if config.tokens is None and config.share is None:
        cut = _rank_at(_threshold(config, model))
    else:
        cut = _spend(scores, tokens_B, budget, shift)
    a, b = model["calibration"]
    even = _rank_at(-b / a)  # to a bin, which is a thousandth of the logit's size
    likely = int(pages_B[: (even >> int(shift)) + 1].sum()) if even is not None else 0
    sizes = {"pool_pages": int(pages_B.sum()), "pool_tokens": total, "likely_pages": likely}
    return {"cut": cut, "budget": budget or None, **sizes, **_histogram(pages_B)}


def _ranked(scores: StepShards) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for name in scores.names:
        for batch in scores.read(name, ["id", "tokens", "logit"]):
            yield ranks(batch.column("id"), batch.column("logit").to_numpy()), batch.column("tokens").to_numpy()


def _spend(scores: StepShards, tokens_B: np.ndarray, budget: int, shift: np.uint64) -> int | None:
    """The rank at which `budget` tokens are reached: the bin from the sums, the page by sorting that bin."""
    ends = np.cumsum(tokens_B)
    if budget <= 0 or not ends[-1]:
        return None
    if budget >= ends[-1]:
        return (1 << 64) - 1
    at = int(np.searchsorted(ends, budget))
    parts = [(r[here], t[here]) for r, t in _ranked(scores) if (here := (r >> shift).astype(np.int64) == at).any()]
    rank, tokens = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.argsort(rank)
    left = budget - int(ends[at] - tokens_B[at])
    return int(rank[order[int(np.searchsorted(np.cumsum(tokens[order]), left))]])


def _threshold(config: Config, model: dict[str, Any]) -> float | None:
    """The logit to cut at; None: nothing reaches what was asked."""
    if config.probability is not None:
        a, b = model["calibration"]
        odds = math.inf if config.probability == 1 else math.log(config.probability / (1 - config.probability))
        return float((odds - b) / a)
    fine = [row["logit"] for row in model["curve"] if row["precision"] >= (config.precision or 0)]
    return min(fine) if fine else None


def _rank_at(logit: float | None) -> int | None:
    """The last rank of pages with at least this logit."""
    if logit is None or logit == math.inf:
        return None
    least = np.array([logit], np.float32)
    if float(least[0]) < logit:  # rounding to 32 bits must not let a page in
        least = np.nextafter(least, np.float32(np.inf))
    return int(ranks(pa.array([""]), least)[0] | np.uint64(0xFFFFFFFF))


def _histogram(pages_B: np.ndarray) -> dict[str, Any]:
    """Pages of the pool by score, in 20 steps of logit from -10 to 10; the last ones take what is beyond."""
    upper = (np.arange(_BINS, dtype=np.uint64) << np.uint64(12)).astype(np.uint32)
    bits = np.where(upper >> np.uint32(31) == 1, upper, upper ^ np.uint32(0x7FFFFFFF))
    logit = np.nan_to_num(bits.view(np.float32), nan=0.0, posinf=10, neginf=-10)
    edges = np.linspace(-10, 10, 21)
    pages, _ = np.histogram(np.clip(logit, -9.999, 9.999), edges, weights=pages_B)
    return {"histogram": {"logits": edges.tolist(), "pages": pages.astype(int).tolist()}}


def route_groups(batch: pa.RecordBatch, origin: int, cut: int | None, cut_before: int | None, partitions: int) -> pa.Table:
    """Pages, pages collected now and before, and tokens collected of each group, to the group's partition."""
    mine = collected(batch, cut, "")
    before = collected(batch.drop_columns(["logit"]).append_column("logit", batch.column("logit_before")), cut_before, "")
    columns = {
        "group": batch.column("group"),
        "pages": np.ones(batch.num_rows, np.int64),
        "collected": mine.astype(np.int64),
        "before": before.astype(np.int64),
        "both": (mine & before).astype(np.int64),
        "tokens": np.where(mine, batch.column("tokens").to_numpy(), 0).astype(np.int64),
    }
    sums = ["pages", "collected", "before", "both", "tokens"]
    table = pa.table(columns).group_by("group", use_threads=False).aggregate([(name, "sum") for name in sums])
    table = table.select(["group", *(f"{name}_sum" for name in sums)]).rename_columns(["group", *sums])
    names = table.column("group").combine_chunks()
    key = group_keys(names, names)
    return table.append_column("partition", pa.array((key % np.uint64(partitions)).astype(np.int64)))


def count_groups(batches: Iterator[pa.RecordBatch], out: Path, topic_share: float) -> dict[str, Any]:
    """groups.parquet and topic_groups.npy; the sums."""
    kept: list[pa.Table] = []
    notes = dict.fromkeys(("pages", "before", "both", "tokens", "groups", "groups_before", "new_groups"), 0)
    for batch in batches:
        names = ["pages", "collected", "before", "both", "tokens"]
        table = pa.Table.from_batches([batch]).group_by("group", use_threads=False).aggregate([(n, "sum") for n in names])
        table = table.select(["group", *(f"{n}_sum" for n in names)]).rename_columns(["group", *names])
        now, before = (table.column(n).to_numpy() for n in ("collected", "before"))
        sums = {n: int(pc.sum(table.column(n)).as_py() or 0) for n in ("both", "tokens")}
        notes["pages"] += int(now.sum())
        notes["before"] += int(before.sum())
        for n, value in sums.items():
            notes[n] += value
        named = pc.not_equal(table.column("group"), "").to_numpy()
        for n, value in (("groups", now > 0), ("groups_before", before > 0), ("new_groups", (now > 0) & (before == 0))):
            notes[n] += int((value & named).sum())
        kept.append(table.filter(pa.array((now > 0) & named)).select(GROUPS.names))
    groups = pa.concat_tables([GROUPS.empty_table(), *(table.cast(GROUPS) for table in kept)]).combine_chunks()
    order = [("collected", "descending"), ("group", "ascending")]
    groups = groups.take(pc.sort_indices(groups, sort_keys=order))
    write_table(out, out / "groups.parquet", groups)
    share = groups.column("collected").to_numpy() / np.maximum(groups.column("pages").to_numpy(), 1)
    names = groups.column("group").combine_chunks().filter(pa.array(share > topic_share))
    write_array(out / TOPIC_GROUPS, np.sort(group_keys(names, names)))
    notes["topic_groups"] = len(names)
    return {**notes, "top_groups": groups.slice(0, 20).to_pylist()}


@dataclass(frozen=True)
class Beside(StepShards):
    """Side files of this round with `logit_before`, the logit of an earlier round; without one, NaN."""

    earlier: StepShards | None = None

    def read(self, name: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        table = pa.Table.from_batches(list(super().read(name, columns)), SCORES)
        if self.earlier is None:
            before: Any = pa.array(np.full(table.num_rows, np.nan, np.float32))
        else:
            before = pa.Table.from_batches(list(self.earlier.read(name, ["logit"]))).column("logit")
        yield from table.append_column("logit_before", before).combine_chunks().to_batches()

    def only(self, name: str) -> Beside:
        earlier = None if self.earlier is None else self.earlier.only(name)
        return Beside(self.folder, (self._file(name),), self.step, earlier)


def run(config: Config, out: Path, engine: Engine) -> Report:
    model = read_record(engine, config.scores.config.model)
    scores = scores_of(engine, config.scores)
    found = engine.reduce(partial(find_cut, scores=scores, config=config, model=model), Items(()), out, name="cut").notes
    cut = found["cut"]
    before = None if config.previous is None else read_record(engine, config.previous)
    earlier = None if config.previous is None else scores_of(engine, config.previous.config.scores)
    partitions = partitions_for(scores.rows * 40)
    send = partial(route_groups, cut=cut, cut_before=before["cut"] if before else None, partitions=partitions)
    beside = Beside(scores.folder, scores.files, scores.step, earlier)
    met = engine.exchange(send, beside, out, name="groups", partitions=partitions)
    count = partial(count_groups, topic_share=config.topic_share)
    counts = engine.reduce(count, met, out, name="count").notes
    pool = scored(engine, config.files, config.scores)
    pages = engine.reduce(partial(sample_pages, pool=pool, cut=cut), Items(()), out, name="sample").notes
    report = engine.map_shards(partial(judge, cut=cut), pool, out)
    record = _record(config, model, {**found, **counts, **pages}, before)
    write_json(out / RECORD, record)
    with atomic(out / "report.html") as temporary:
        temporary.write_text(draw_round(record), "utf-8")
    with atomic(out / "report.txt") as temporary:
        temporary.write_text(tell_round(record), "utf-8")
    names = ("round", "tokens", "groups", "new_groups", "topic_groups", "overlap", "converged", "held_back_at_cut", "remarks")
    report.notes.update({name: record[name] for name in names})
    report.notes["cut"] = None if cut is None else round(_sigmoid(logit_of(cut)), 6)
    if config.previous is not None:  # its documents were read too: as scores and a cut
        rows = engine.rows(config.previous)
        report.read, report.used = report.read + rows, rows
    return report


def _record(config: Config, model: dict[str, Any], found: dict[str, Any], before: dict[str, Any] | None) -> dict[str, Any]:
    overlap = found["both"] / found["pages"] if before is not None and found["pages"] else None
    converged = before is not None and (before["converged"] or (overlap is not None and overlap >= config.enough))
    number = 1 if before is None else before["round"] + (0 if before["converged"] else 1)
    logit = None if found["cut"] is None else logit_of(found["cut"])
    at = [row for row in model["curve"] if logit is not None and row["logit"] >= logit]
    remarks = []
    if not found["pages"]:
        remarks.append("no page was collected: nothing in the pool reaches the cut, or the pool has no page of the topic")
    if found["topic_groups"] == 0 and found["pages"]:
        remarks.append("no group has enough pages collected to be on topic")
    if 2 * found["likely_pages"] < found["pages"]:
        remarks.append(
            f"only {found['likely_pages']:,} pages of the pool are more likely on topic than not, {found['pages']:,} were "
            "collected: cut by probability or precision, or ask for less"
        )
    top = found["top_groups"]
    if top and top[0]["collected"] * 2 > found["pages"]:
        remarks.append(f"{top[0]['group']} alone has {top[0]['collected']:,} of the {found['pages']:,} pages collected")
    if converged and overlap is not None:
        remarks.append(f"converged in round {number}: {overlap:.1%} of the pages were collected in the round before")
    return {
        **found,
        "round": number,
        "overlap": None if overlap is None else round(overlap, 6),
        "converged": converged,
        "held_back_at_cut": at[-1] if at else None,
        "rounds": [*(before["rounds"] if before else []), _line(number, found, model, overlap, at)],
        "curve": model["curve"],
        "remarks": remarks,
    }


def _line(number: int, found: dict[str, Any], model: dict[str, Any], overlap: float | None, at: list[Any]) -> dict[str, Any]:
    """A row of the report's table of rounds."""
    return {
        "round": number,
        "positives": model["positives"],
        "negatives": model["negatives"],
        "pages": found["pages"],
        "tokens": found["tokens"],
        "groups": found["groups"],
        "new groups": found["new_groups"],
        "overlap": overlap,
        "average precision held back": model["average_precision"],
        "precision at the cut, of equal counts": at[-1]["precision"] if at else None,
        "recall at the cut": at[-1]["recall"] if at else None,
    }
