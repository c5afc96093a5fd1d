"""One training step, and one validation, over all ranks."""

from __future__ import annotations

import collections
import dataclasses
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corpus.errors import TrainError
from train import watch
from train.checkpoint import Checkpoints
from train.config import TrainConfig
from train.data import Stream, exempt
from train.loss import IGNORED
from train.microbatches import Sums, run_microbatches
from train.model import Model
from train.optim import Optimizer
from train.parallel import Ranks, total
from train.schedule import batch_of, learning_rate, samples_before
from train.sources import Data

__all__ = ["MOST_SKIPPED", "Run", "run_step", "validate"]

# Steps, one after another: the losses of skipped ones raise no mean, so what is above it may stay there for ever.
MOST_SKIPPED = 16


@dataclasses.dataclass
class Run:
    """A run in memory, after `step` finished steps; on each rank its part."""

    config: TrainConfig  # vocab_size filled in
    folder: Path
    ranks: Ranks
    shards: Data
    model: Model
    optimizer: Optimizer
    checkpoints: Checkpoints
    stream: Stream
    validation: Stream | None
    entropy: float
    fingerprint: str
    step: int = 0
    updates: int = 0  # steps that were not left out
    skipped: int = 0  # steps left out by on_spike=skip, one after another
    recent: collections.deque[float] = dataclasses.field(default_factory=lambda: collections.deque(maxlen=64))  # their losses
    left_out: list[tuple[int, int, int, str]] = dataclasses.field(default_factory=list)  # as in RUN/left_out.json, see loop.py
    note: str = ""  # of where it begins, for the plan
    passed_over: str = ""  # of checkpoints that could not be used


@dataclasses.dataclass
class _Passed:
    """Of one pass: this rank's sums, and over all ranks nats and labels by source, by their index."""

    sums: Sums
    nats: list[float]
    labels: list[int]

    @property
    def loss(self) -> float:
        return sum(self.nats) / max(1, sum(self.labels))


def _pass(run: Run, stream: Stream, first: int, count: int, real: int | None = None) -> _Passed:
    """Samples first … first + count - 1 of a stream through the model, this rank's share of them.

    real: for an evaluation. Of the samples so many count, the rest makes ranks even; and none loses a token to a capacity,
    which is a device of training (see train/subject.py).
    """
    c, ranks = run.config, run.ranks
    local = count // ranks.layout.data_ranks
    start = first + ranks.data_rank * local
    batch = stream.batch(start, local)
    documents_BL1 = batch.documents_BL1
    labels_BL = batch.tokens_BL1[:, 1:].copy()
    if c.document_mask:
        labels_BL[documents_BL1[:, 1:] != documents_BL1[:, :-1]] = IGNORED
    if real is not None:
        labels_BL[max(0, first + real - start) :] = IGNORED
    source_B = torch.from_numpy(batch.sources_B).to(ranks.device)
    labels_S = torch.zeros(1 + max(reader.index for reader in stream.readers), dtype=torch.int64, device=ranks.device)
    labels_S.index_add_(0, source_B, torch.from_numpy((labels_BL != IGNORED).sum(1)).to(ranks.device))
    labels = total(labels_S, ranks.data).tolist()
    exempt_B = None
    if c.model.capacity_factor is not None:
        exempt_B = exempt(start, local) if real is None else torch.ones(local, dtype=torch.bool)
    sums = run_microbatches(
        run.model,
        torch.from_numpy(batch.tokens_BL1[:, :-1]).contiguous().to(ranks.device),
        torch.from_numpy(labels_BL).to(ranks.device),
        sum(labels),
        c.layout.micro(count),
        torch.from_numpy(documents_BL1[:, :-1]).contiguous().to(ranks.device) if c.document_mask else None,
        None if exempt_B is None else exempt_B.to(ranks.device),
    )
    nats_S = torch.zeros_like(labels_S, dtype=torch.float64)
    if sums.losses_BL is not None:
        nats_S.index_add_(0, source_B, sums.losses_BL.sum(1, dtype=torch.float64))
    return _Passed(sums, total(total(nats_S, ranks.data), ranks.pipeline).tolist(), labels)


def run_step(run: Run) -> dict[str, Any]:
    """One step; its line of the log. A step whose loss or gradient is bad (see watch.judge) changes no parameter.

    TrainError for such a step, unless `on_spike` says what else to do: then the line has "left_out" and why.
    """
    config, ranks, started = run.config, run.ranks, time.perf_counter()
    step, lr = run.step + 1, learning_rate(run.step, config)
    batch = batch_of(run.step, config)
    tokens = batch * config.seq_len
    line: dict[str, Any] = {"step": step, "lr": lr, "tokens": samples_before(step, config) * config.seq_len}
    if gone := [why for before, bad, _, why in run.left_out if before < step <= bad]:
        run.step = step
        return line | {"loss": None, "left_out": f"gone back over{gone[0] and ': '}{gone[0]}", "seconds": 0.0}
    run.optimizer.zero_grad()
    passed = _pass(run, run.stream, samples_before(run.step, config), batch)
    run.optimizer.reduce()
    norm = run.optimizer.clip(config.clip)
    loss = passed.loss
    bad = watch.judge(loss, norm, run.recent, config.spike)
    run.skipped = 0 if bad is None else run.skipped + 1
    if bad is not None and (config.on_spike == "stop" or run.skipped > MOST_SKIPPED):
        run.checkpoints.finish()  # what is just being written is where the run will go on; ending now would lose it
        before = "" if config.on_spike == "stop" else f", as were the {MOST_SKIPPED} steps before"
        raise TrainError(
            f"step {step}: {bad}{before}. The parameters are still those of step {run.step}. Lower lr (now {lr:.3g}), raise "
            f"warmup ({config.warmup}), or set on_spike to {'skip or ' if config.on_spike == 'stop' else ''}roll_back.",
            step=step,
        )
    if bad is None:
        run.optimizer.step(lr)
        run.updates += 1
        run.recent.append(loss)
    load_LE = total(passed.sums.load_LE, ranks.data)
    if bad is None:
        run.model.move_biases(load_LE)
    run.step = step
    seconds = time.perf_counter() - started
    line |= {"loss": loss, "grad_norm": norm}
    if len(passed.nats) > 1:
        named = ((reader.name, reader.index) for reader in run.stream.readers)
        line["loss_by_source"] = {name: passed.nats[i] / passed.labels[i] for name, i in named if passed.labels[i]}
    line |= _routing(run, passed.sums, load_LE)
    if bad is not None:
        line["left_out"] = bad
    return line | watch.speed(run.model.config, config.seq_len, tokens, seconds, ranks)


def _routing(run: Run, sums: Sums, load_LE: Tensor) -> dict[str, float]:
    """What the routers of all layers did, the same on every rank."""
    c, ranks = run.config.model, run.ranks
    layers = max(1, c.num_hidden_layers - c.first_k_dense_replace)
    sums_5 = torch.cat((sums.losses_4.double(), sums.dropped.double()[None] * len(load_LE)))
    values = total(total(sums_5, ranks.data), ranks.pipeline).tolist()
    uneven = load_LE.amax(1) / load_LE.double().mean(1) if len(load_LE) else torch.ones(1, device=ranks.device)
    worst = total(uneven.double().max(), ranks.pipeline, torch.distributed.ReduceOp.MAX)
    line = {"load_max_over_mean": float(worst)}
    for name, alpha, value in zip(("balance", "device", "comm", "z"), c.alphas, values, strict=False):
        if alpha or name == "balance":
            line |= {name: value / layers, f"{name}_loss": alpha * value}
    return line | ({} if c.capacity_factor is None else {"dropped": values[4] / layers})


@torch.no_grad()
def validate(run: Run) -> float | None:
    """Mean loss in nats over the same few sequences of held-out documents each time; None where none are held out."""
    if run.validation is None or run.config.validation_sequences == 0:
        return None
    samples = min(run.config.validation_sequences, run.validation.samples)
    nats, labels = 0.0, 0
    for first in range(0, samples, run.config.batch):
        passed = _pass(run, run.validation, first, run.config.batch, min(run.config.batch, samples - first))
        nats, labels = nats + sum(passed.nats), labels + sum(passed.labels)
    return nats / max(1, labels)
