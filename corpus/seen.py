"""When a training run reads a document: the way back from its token positions to the steps of every run under the root.

A run leaves RUN/order.json, all that decides its order, and RUN/train.jsonl, a line per finished step. Both permutations of
corpus/order.py and the rule of corpus/blend.py run backwards, so nothing else is kept, and a run need not have come that far:
what it will read is as certain as what it has read. A step that the trainer left out read its documents and learnt nothing
from them: the log says so of each, and RUN/left_out.json of those that are still to come again after going back. Runs are
looked for in ROOT/train; one kept elsewhere (`out`) is not found.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from corpus.blend import Blend
from corpus.order import MegatronOrder, Order, order_of, parts, places
from corpus.shards import is_local, read_json
from corpus.tokens import TokenShards

__all__ = ["seen"]

_LISTED = 5  # steps that are told one by one


def seen(folder: Path, shard: str, ranges: Sequence[tuple[int, int]]) -> Iterator[str]:
    """A line for each run that reads the shards in `folder`, about the ids at `ranges` of (first in the shard, count)."""
    root = folder.parent
    ranges = [(first, count) for first, count in ranges if count]
    runs = sorted((root / "train").glob("*/order.json")) if ranges and is_local(root) else []  # training wants a local root
    for path in runs:
        plan = read_json(path) or {}
        for index, source in enumerate(plan["sources"]):
            if (root / source["folder"]).resolve() == folder.resolve():
                yield f"trained  {path.parent.name}: {_told(path.parent, plan, index, TokenShards(folder), shard, ranges)}"


def _told(
    run: Path, plan: dict[str, Any], index: int, shards: TokenShards, shard: str, ranges: Sequence[tuple[int, int]]
) -> str:
    source = plan["sources"][index]
    if (source["documents"], source["tokens"]) != (shards.documents, shards.tokens):
        return f"its order is of other shards, of {source['documents']} documents and {source['tokens']} tokens"
    number = shards.number(shard, ranges[0][0])
    order, out = order_of(plan, source, shards.lengths)
    if number in out:
        return "held out for validation"
    begin = shards.place(number)[1]
    document = shards.document(number)
    content = len(document) - int(document[-1] == shards.special.get("eos"))
    inside = [(first - begin, first - begin + count) for first, count in ranges]
    blend = Blend([other["weight"] for other in plan["sources"]])
    last = blend.counts(plan["samples"])[index]  # of this source's samples in the run
    own = _own(order, number, content, inside, last)
    steps = _steps(blend.numbers(index, own), plan["batches"])
    done, total = _done(run), plan["steps"]
    if not len(steps):
        return f"not read in its {total} steps"
    gone = np.isin(steps, _left_out(run))
    missed = sorted(set(steps[gone].tolist()))
    own, steps = own[~gone], steps[~gone]
    if not len(steps):
        return f"not trained on: only what was left out of its {total} steps reads it,{_listed(' step', missed)}"
    first = int(steps[0])
    where = _where(order, own[steps == first], number)
    later = sorted(set(steps[steps > first].tolist()))
    past, ahead = [step for step in later if step <= done], [step for step in later if step > done]
    but = _listed("; left out: step", missed)
    if first > done:
        return f"not seen yet: step {first} of {total} reads {where}; the run is at step {done}{but}"
    said = f"first seen at step {first}, {where}{_listed(', again at', past)}"
    return f"{said}{but}" if not ahead else f"{said}; after step {done}, where the run is,{_listed(' at', ahead)}{but}"


def _own(order: Order | MegatronOrder, number: int, content: int, ranges: Sequence[tuple[int, int]], last: int) -> np.ndarray:
    """The first `last` samples of a source, those that hold the ranges of a document, in order."""
    epochs = itertools.takewhile(lambda epoch: epoch * order.samples < last, itertools.count())
    found = np.concatenate([np.zeros(0, np.int64), *(places(order, e, number, content, ranges) for e in epochs)])
    return found[found < last]


def _steps(samples: np.ndarray, batches: list[list[int]]) -> np.ndarray:
    """The step, 1 for the first, that reads each sample; batches: [first step from 0, samples a step] of each stretch."""
    begins, sizes = np.array(batches, np.int64).T
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.diff(begins) * sizes[:-1])])
    stretch = before.searchsorted(samples, side="right") - 1
    steps: np.ndarray = begins[stretch] + (samples - before[stretch]) // sizes[stretch] + 1
    return steps


def _where(order: Order | MegatronOrder, samples: np.ndarray, number: int) -> str:
    """The document's ids in some samples, as in `its tokens 0-255`."""
    spans, fim = set(), False
    for epoch, start in zip(*(x.tolist() for x in order.starts(samples))):
        for part in parts(order, epoch, start):
            if part.document == number:
                spans.add((part.first, part.stop))
                fim |= part.fim
    said = ", ".join(f"{a}-{b}" for a, b in sorted(spans))
    return f"its tokens {said}" + (" after FIM" if fim else "")


def _listed(words: str, steps: list[int]) -> str:
    if not steps:
        return ""
    more = f" and {len(steps) - _LISTED} more" if len(steps) > _LISTED else ""
    return f"{words} {', '.join(map(str, steps[:_LISTED]))}{more}"


def _log(run: Path) -> list[str]:
    """Lines of a run's log; the last one may just be being written."""
    path = run / "train.jsonl"
    return path.read_text("utf-8").rpartition("\n")[0].splitlines() if path.exists() else []


def _done(run: Path) -> int:
    """Finished steps, by the run's log."""
    lines = _log(run)
    return int(json.loads(lines[-1])["step"]) if lines else 0


def _left_out(run: Path) -> list[int]:
    """The steps that changed no parameter: bad ones, and those gone back over, past or still to come."""
    logged = [int(json.loads(line)["step"]) for line in _log(run) if '"left_out"' in line]
    path = run / "left_out.json"  # [to step, from step, …] of each going back
    spans = json.loads(path.read_text("utf-8")) if path.exists() else []
    return sorted({*logged, *(step for before, bad, *_ in spans for step in range(before + 1, bad + 1))})
