"""The documents a recall classifier is trained on: drawn, capped by group, split by group, written out for fastText.

Candidates travel through exchanges as ids, ordered by a hash of their own (corpus/draw.py); which of them are taken is decided
from key, group and label alone, so memory holds those and one partition. Everything here is a function of ids, never of
workers.

    cap        a group (domain, repository) gives so many pages at most: one site must not be the topic, or its opposite
    balance    where one label has fewer pages, they are repeated until both weigh the same
    folds      groups, never single pages, are held back: a site's pages share menus and footers that would give it away
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from corpus.classifier import Scorer, Setting, collapse, train, write_training
from corpus.exchange import Exchanged

__all__ = [
    "Chosen",
    "Samples",
    "average_precision",
    "cap_groups",
    "curve",
    "fit",
    "held_logits",
    "logits_of",
    "platt",
    "split_groups",
]


@dataclasses.dataclass(frozen=True)
class Samples:
    """Candidates of both labels: exchanges of (key, group, ids) with the same partitions, in order of key."""

    topic: tuple[Exchanged, ...]
    other: Exchanged

    @property
    def partitions(self) -> int:
        return self.other.partitions

    def facts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(key uint64, group uint64, label int64) of all candidates, each key once, in order of key."""
        tables = [(e.table(p, ["key", "group"]), n) for p in range(self.partitions) for e, n in self._labelled()]
        key = np.concatenate([t.column("key").to_numpy() for t, _ in tables])
        group = np.concatenate([t.column("group").to_numpy() for t, _ in tables])
        label = np.concatenate([np.full(t.num_rows, n, np.int64) for t, n in tables])
        order = np.lexsort((1 - label, key))  # a page in two seeds counts once
        first = np.diff(key[order], prepend=np.uint64(0)) != 0
        first[:1] = True
        order = order[first]
        return key[order], group[order], label[order]

    def parts(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Per partition, (key, ids, ends from 0), as sent; a page in two seeds is in it twice."""
        for p in range(self.partitions):
            table = pa.concat_tables([e.table(p, ["key", "ids"]) for e, _ in self._labelled()]).combine_chunks()
            rows = [chunk for chunk in table.column("ids").chunks if len(chunk)]
            ids = np.concatenate([np.zeros(0, np.uint32), *(row.flatten().to_numpy() for row in rows)])
            lengths = [np.diff(row.offsets.to_numpy()) for row in rows]
            yield table.column("key").to_numpy(), ids, np.concatenate([np.zeros(1, np.int64), *lengths]).cumsum()

    @contextlib.contextmanager
    def nearby(self) -> Iterator[Samples]:
        """The same, which every fold and every setting reads."""
        with contextlib.ExitStack() as stack:
            topic = tuple(stack.enter_context(e.nearby()) for e in self.topic)
            yield Samples(topic, stack.enter_context(self.other.nearby()))

    def _labelled(self) -> list[tuple[Exchanged, int]]:
        return [*((e, 1) for e in self.topic), (self.other, 0)]


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What is trained on, in order of key. fold_N: -1 is in no fold and always trained on; doubt_N: True never is."""

    key_N: np.ndarray
    group_N: np.ndarray
    label_N: np.ndarray
    fold_N: np.ndarray
    doubt_N: np.ndarray

    @property
    def topic(self) -> int:
        return int(self.label_N.sum())

    @property
    def other(self) -> int:
        return len(self.label_N) - self.topic


def cap_groups(group_N: np.ndarray, cap: int, want: int, least: int = 0) -> np.ndarray:
    """Rows to take, ascending, of candidates in order of key: the first `cap` of each group, the first `want` of those.

    Where that makes fewer than `least`, groups give more, all equally many, until it is so many or there are no more.
    """
    order = np.argsort(group_N, kind="stable")
    starts = np.flatnonzero(np.diff(group_N[order], prepend=group_N[order[:1]] + np.uint64(1)) != 0) if len(order) else order
    place = np.empty(len(group_N), np.int64)  # of each row within its group
    place[order] = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    by_place = np.argsort(place, kind="stable")
    taken = by_place[: max(int((place < cap).sum()), min(least, want))]
    return np.sort(np.sort(taken)[:want] if len(taken) > want else taken)


def split_groups(group_N: np.ndarray, folds: int) -> np.ndarray:
    """int64 [N]: a fold per row, the same for a group; groups go, the largest first, where there is least."""
    names, of, sizes = np.unique(group_N, return_inverse=True, return_counts=True)
    load = np.zeros(folds, np.int64)
    fold_G = np.zeros(len(names), np.int64)
    for g in np.lexsort((names, -sizes)).tolist():
        fold_G[g] = int(np.argmin(load))
        load[fold_G[g]] += sizes[g]
    return np.asarray(fold_G[of], np.int64)


def fit(samples: Samples, chosen: Chosen, without: int | None, setting: Setting, words: int, limit: int, model: Path) -> Scorer:
    """Train on `chosen` but the fold `without`, and fold the model; writes `model`. words: ids of the tokenizer."""
    with tempfile.NamedTemporaryFile(dir=model.parent, prefix=".tmp-", suffix="-lines") as file:
        for ids, ends, label in _lines(samples, chosen, without):
            write_training(file, ids, ends, label, limit)
        file.flush()
        train(Path(file.name), setting, model)
    return collapse(model, words, limit)


def _lines(samples: Samples, chosen: Chosen, without: int | None) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(ids, ends, labels) per partition, the scarcer label repeated, in an order drawn by key and repetition."""
    used = ~chosen.doubt_N if without is None else ~chosen.doubt_N & (chosen.fold_N != without)
    counts = np.bincount(chosen.label_N[used], minlength=2)
    for row_R, ids, ends in _rows(samples, chosen, used):
        key, label = chosen.key_N[row_R[:, 0]], chosen.label_N[row_R[:, 0]]
        copies = _copies(key, label, counts)
        at = np.repeat(np.arange(len(key)), copies)
        nth = np.arange(len(at)) - np.repeat(np.cumsum(copies) - copies, copies)
        mixed = (key[at] + nth.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xD6E8FEB86659FD93)
        at = at[np.argsort(mixed ^ (mixed >> np.uint64(32)), kind="stable")]
        yield *_take(ids, ends, row_R[at, 1]), label[at]


def _copies(key: np.ndarray, label: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """How often each row is written: what its label lacks beside the other, the fraction drawn by key."""
    more = counts.max() / np.maximum(counts, 1)
    whole = more.astype(np.int64)
    part = (key >> np.uint64(11)) * (1.0 / (1 << 53)) < (more - whole)[label]
    return np.asarray(whole[label] + part, np.int64)


def _rows(samples: Samples, chosen: Chosen, used: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Per partition, (int64 [R, 2]: row of `chosen`, row of the partition), ids, ends, for the rows that are `used`."""
    for key, ids, ends in samples.parts():
        if not len(chosen.key_N):
            continue
        at = np.minimum(np.searchsorted(chosen.key_N, key), len(chosen.key_N) - 1)
        here = np.flatnonzero((chosen.key_N[at] == key) & used[at])
        _, once = np.unique(key[here], return_index=True)
        here = here[once]
        yield np.stack([at[here], here], axis=1), ids, ends


def _take(ids: np.ndarray, ends: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lengths = (ends[1:] - ends[:-1])[rows]
    out = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return ids[np.arange(out[-1]) + np.repeat(ends[rows] - out[:-1], lengths)], out


def logits_of(samples: Samples, chosen: Chosen, wanted_N: np.ndarray, scorer: Scorer) -> np.ndarray:
    """float32 [N]: the logits of the rows of `chosen` that are wanted, NaN elsewhere."""
    logit_N = np.full(len(chosen.key_N), np.nan, np.float32)
    for row_R, ids, ends in _rows(samples, chosen, wanted_N):
        logit_N[row_R[:, 0]] = scorer.logits(*_take(ids, ends, row_R[:, 1]))
    return logit_N


def held_logits(chosen: Chosen, folds: list[np.ndarray], own_N: np.ndarray | None) -> np.ndarray:
    """float32 [N]: what the model that was trained without a row's fold says of it, NaN where no fold was held back.

    folds: logits_of each such model. own_N: those of the model trained on all, whose scale they get (None: they stay as they
    are), which is the mean and spread that it gives to the rows that both were trained on.
    """
    logit_N = np.full(len(chosen.key_N), np.nan, np.float32)
    for fold, said_N in enumerate(folds):
        mine = chosen.fold_N == fold
        logit_N[mine] = said_N[mine]
        both = ~mine & ~chosen.doubt_N
        if own_N is not None and both.any() and (spread := said_N[both].std()) > 0:
            logit_N[mine] = (said_N[mine] - said_N[both].mean()) * (own_N[both].std() / spread) + own_N[both].mean()
    return logit_N


def average_precision(logit_N: np.ndarray, label_N: np.ndarray) -> float:
    """Mean precision at the rank of each page on topic; 0 where there is none."""
    ranked = label_N[np.argsort(-logit_N, kind="stable")]
    hits = np.cumsum(ranked)
    return float((hits / np.arange(1, len(ranked) + 1))[ranked == 1].mean()) if hits[-1:].sum() else 0.0


def curve(logit_N: np.ndarray, label_N: np.ndarray, recalls: tuple[float, ...]) -> list[dict[str, float]]:
    """Precision, if both labels were equally many, and the logit to cut at, for each recall."""
    if not 0 < label_N.sum() < len(label_N):
        return []
    topic, other = np.sort(logit_N[label_N == 1])[::-1], np.sort(logit_N[label_N == 0])
    rows = []
    for recall in recalls:
        cut = float(topic[max(0, int(np.ceil(recall * len(topic))) - 1)])
        reached = float((topic >= cut).mean())
        wrong = float((other >= cut).mean())
        rows.append({"recall": reached, "precision": reached / (reached + wrong), "logit": cut})
    return rows


def platt(logit_N: np.ndarray, label_N: np.ndarray) -> tuple[float, float]:
    """(a, b), a > 0, so that 1 / (1 + exp(-(a · logit + b))) fits the labels, both weighing the same: the ranks stay.

    Platt (1999) with his targets, which keep it finite where the labels part cleanly. Newton's method.
    """
    counts = np.bincount(label_N, minlength=2).astype(np.float64)
    if not counts.all():
        return 1.0, 0.0
    target = np.where(label_N == 1, (counts[1] + 1) / (counts[1] + 2), 1 / (counts[0] + 2))
    weight = (0.5 / counts)[label_N]
    x = np.stack([logit_N.astype(np.float64), np.ones(len(logit_N))])
    spread = max(1e-9, float(np.abs(x[0] - x[0].mean()).mean()))
    ab = np.array([1 / spread, -x[0].mean() / spread])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(ab @ x, -30, 30)))
        slope = x @ (weight * (p - target))
        bend = (x * (weight * np.maximum(p * (1 - p), 1e-9))) @ x.T + 1e-9 * np.eye(2)
        step = np.linalg.solve(bend, slope)
        ab = ab - step * min(1.0, 2 * abs(ab[0]) / max(1e-12, abs(float(step[0]))))
        if np.abs(step).max() < 1e-10 * (1 + np.abs(ab).max()):
            break
    return (float(ab[0]), float(ab[1])) if ab[0] > 1e-9 else (1 / spread, -float(x[0].mean()) / spread)


def describe(setting: Setting) -> dict[str, Any]:
    """A setting by fastText's names, for records."""
    names = {"rate": "lr", "epochs": "epoch", "runs": "wordNgrams", "min_count": "minCount", "buckets": "bucket"}
    return {names.get(k, k): v for k, v in dataclasses.asdict(setting).items()}
