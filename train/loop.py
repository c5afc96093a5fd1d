"""A training run: plan, resume, steps, validation, summary.

RUN/config.json    what is trained, to read
RUN/order.json     which step reads what, for `corpus explain`
RUN/train.jsonl    one line per step; after a resume exactly the lines an undisturbed run would have (timings apart)
RUN/checkpoints/   see checkpoint.py
RUN/summary.json   written last, when all steps are done
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import io
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corpus.errors import ConfigError, InputError, RootBusy, TrainError, storage_error
from train import checkpoint
from train.checkpoint import Checkpoints
from train.config import Layout, TrainConfig, check_layout, fingerprint, run_folder
from train.data import Stream, exempt
from train.hf import export_model, import_model
from train.loss import IGNORED
from train.microbatches import Sums, run_microbatches
from train.model import Model, count_parameters, make_model
from train.optim import Optimizer
from train.parallel import ALONE, Ranks, total
from train.schedule import learning_rate, samples_before
from train.sources import Data, open_data, order_plan, streams, unigram_entropy

__all__ = ["Run", "export", "open_run", "run_step", "train", "validate"]

Say = Callable[[str], None]


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
    note: str = ""


def open_run(config: TrainConfig, root: Path, ranks: Ranks = ALONE) -> Run:
    """Shards, model and optimizer, at the newest checkpoint where there is one."""
    shards = open_data(config, root)
    size = config.model.vocab_size or -(-shards.vocab_size // 64) * 64
    if size < shards.vocab_size:
        raise ConfigError(f"model.vocab_size={size}: at least the {shards.vocab_size} ids of the shards' tokenizer expected")
    folder, mark = run_folder(config, root), fingerprint(config)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=size))
    torch.use_deterministic_algorithms(config.deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a guard that costs 6 % of a step here
    model = make_model(config.model, config.seed, getattr(torch, config.dtype), ranks, config.recompute)
    if config.init is not None and checkpoint.newest(folder / "checkpoints") is None:
        import_model(Path(config.init), model)  # before the masters are taken from it
    optimizer = Optimizer(model, config, ranks)
    checkpoints = Checkpoints(folder / "checkpoints", ranks, model, optimizer, config.checkpoints_kept)
    stream, validation = streams(config, shards)
    entropy = unigram_entropy(shards)
    run = Run(config, folder, ranks, shards, model, optimizer, checkpoints, stream, validation, entropy, mark)
    _resume(run)
    return run


def _resume(run: Run) -> None:
    found = checkpoint.newest(run.folder / "checkpoints")
    if found is None:
        run.note = "" if run.config.init is None else f", parameters of {run.config.init}"
        return
    state, expected = checkpoint.read_state(found), _state(run)
    for key in ("fingerprint", "shards"):
        if state[key] != expected[key]:
            raise ConfigError(
                f"checkpoint {found} was trained with {key} {state[key]}, this run has {expected[key]}"
                f"{_differing(run) if key == 'fingerprint' else ''}. Give another `out`, or delete {run.folder} to start again."
            )
    run.checkpoints.load(found)
    run.step = state["step"]
    for key in ("threads", "layout"):
        if state[key] != expected[key]:
            run.note += f"; the steps before ran with {key} {state[key]}, so last bits may differ from an undisturbed run"


def _differing(run: Run) -> str:
    """What is in RUN/config.json and different now, named."""
    path = run.folder / "config.json"
    before = json.loads(path.read_text("utf-8")) if path.exists() else {}
    now = json.loads(json.dumps(_fields(run)))
    flat = {"": (before, now), "model.": (before.get("model", {}), now["model"])}
    differ = [
        f"{prefix}{key} {old.get(key)!r} → {new.get(key)!r}"
        for prefix, (old, new) in flat.items()
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key not in ("model", "layout")
    ]
    return f" ({', '.join(differ)})" if differ else ""


def _state(run: Run) -> dict[str, Any]:
    """What a checkpoint remembers besides tensors; `sample` is the whole state of the data."""
    return {
        "step": run.step,
        "sample": samples_before(run.step, run.config),
        "fingerprint": run.fingerprint,
        "shards": {"documents": run.shards.documents, "tokens": run.shards.tokens, "vocab_size": run.shards.vocab_size},
        "threads": torch.get_num_threads(),
        "layout": dataclasses.asdict(run.config.layout),
    }


def _pass(run: Run, stream: Stream, first: int, count: int, real: int | None = None) -> tuple[Sums, float, int]:
    """Samples first … first + count - 1 of a stream through the model, this rank's share of them.

    real: of the samples so many count, the rest makes ranks even. Returns (this rank's sums, nats and labels of all ranks).
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
    labels = total(torch.tensor(int((labels_BL != IGNORED).sum()), device=ranks.device), ranks.data)
    sums = run_microbatches(
        run.model,
        torch.from_numpy(batch.tokens_BL1[:, :-1]).contiguous().to(ranks.device),
        torch.from_numpy(labels_BL).to(ranks.device),
        int(labels),
        c.layout.micro(count),
        torch.from_numpy(documents_BL1[:, :-1]).contiguous().to(ranks.device) if c.document_mask else None,
        None if c.model.capacity_factor is None else exempt(start, local).to(ranks.device),
    )
    nats = labels.new_zeros((), dtype=torch.float64) if sums.losses_BL is None else sums.losses_BL.sum(dtype=torch.float64)
    return sums, float(total(total(nats, ranks.data), ranks.pipeline)), int(labels)


def run_step(run: Run) -> dict[str, Any]:
    """One update; its line of the log. TrainError for a loss or gradient that is not finite, parameters then untouched."""
    config, ranks, started = run.config, run.ranks, time.perf_counter()
    lr = learning_rate(run.step, config)
    run.optimizer.zero_grad()
    sums, nats, labels = _pass(run, run.stream, samples_before(run.step, config), config.batch)
    run.optimizer.reduce()
    norm = run.optimizer.clip(config.clip)
    loss = nats / max(1, labels)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise TrainError(
            f"step {run.step + 1}: loss {loss}, gradient norm {norm}; finite numbers expected. The parameters are still "
            f"those of step {run.step}. Lower lr (now {lr:.3g}) or raise warmup ({config.warmup}).",
            step=run.step + 1,
        )
    run.optimizer.step(lr)
    load_LE = total(sums.load_LE, ranks.data)
    run.model.move_biases(load_LE)
    run.step += 1
    seconds = time.perf_counter() - started
    tokens = config.batch * config.seq_len
    line = {"step": run.step, "loss": loss, "lr": lr, "grad_norm": norm, "tokens": run.step * tokens}
    return (
        line
        | _routing(run, sums, load_LE)
        | {
            "seconds": round(seconds, 4),
            "tokens_per_second": round(tokens / seconds, 1),
        }
    )


def _routing(run: Run, sums: Sums, load_LE: Tensor) -> dict[str, float]:
    """What the routers of all layers did, the same on every rank."""
    c, ranks = run.config.model, run.ranks
    layers = max(1, c.num_hidden_layers - c.first_k_dense_replace)
    values = torch.cat((sums.losses_4.double(), sums.dropped.double()[None] * len(load_LE)))
    values = total(total(values, ranks.data), ranks.pipeline).tolist()
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
        _, more, counted = _pass(run, run.validation, first, run.config.batch, min(run.config.batch, samples - first))
        nats, labels = nats + more, labels + counted
    return nats / max(1, labels)


def train(
    config: TrainConfig, root: Path, stop: int | None = None, say: Say = print, ranks: Ranks = ALONE
) -> dict[str, Any] | None:
    """Train, or go on training, up to step `stop` (None: all). The summary when all steps are done, else None."""
    check_layout(config)
    folder = run_folder(config, root)
    if ranks.rank > 0:
        say = _silent
    finished = folder / "summary.json"
    summary: dict[str, Any] = json.loads(finished.read_text("utf-8")) if finished.exists() else {}
    if summary.get("fingerprint") != fingerprint(config):
        open_data(config, root)  # before the folder is made, so that a mistake leaves none behind
        with _lock(folder) if ranks.rank == 0 else contextlib.nullcontext():
            ranks.barrier()  # the folder is there, and this run's
            run = open_run(config, root, ranks)
            _say_plan(run, say)
            if ranks.rank == 0:
                _write_config(run)
            _run_steps(run, config.steps if stop is None else min(stop, config.steps), say)
            if run.step < config.steps:
                say(f"stopped after step {run.step} of {config.steps}; run again to go on")
                return None
            if ranks.rank == 0:
                summary = _summary(run)
                checkpoint.write_text(finished, json.dumps(summary, indent=1, sort_keys=True))
            ranks.barrier()
            summary = json.loads(finished.read_text("utf-8"))
    say(_sentence(summary))
    return summary


def export(config: TrainConfig, root: Path, folder: Path, dtype: torch.dtype, say: Say = print) -> None:
    """The newest checkpoint of a run as a Hugging Face checkpoint, with its tokenizer. InputError where there is none."""
    config = dataclasses.replace(config, layout=Layout())  # whatever the run's: one process holds the whole
    path = run_folder(config, root)
    if checkpoint.newest(path / "checkpoints") is None:
        raise InputError(f"{path} has no checkpoint; train first, with the same recipe, --root and --set")
    with _lock(path):
        run = open_run(config, root)
        special = run.shards.special
        ids = {f"{name}_token_id": special[name] for name in ("bos", "eos") if name in special}
        carry = tuple(file for file in (run.shards.tokenizer_path,) if file.exists())
        export_model(run.model, folder, dtype, carry=carry, **ids)
    say(f"step {run.step} of {path} is in {folder}, as {str(dtype).removeprefix('torch.')}")


def _run_steps(run: Run, last: int, say: Say) -> None:
    path = run.folder / "train.jsonl"
    if run.ranks.rank == 0:
        _truncate(path, run.step)
    with path.open("a", encoding="utf-8") if run.ranks.rank == 0 else io.StringIO() as log:
        while run.step < last:
            line = run_step(run)
            due = run.step % run.config.checkpoint_every == 0 or run.step == run.config.steps
            if due:
                line["validation_loss"] = validate(run)
            log.write(json.dumps(line) + "\n")
            log.flush()
            if due or run.step % 10 == 0 or run.step == 1:
                say(_short(line, run.config.steps))
            if due or run.step == last:
                run.checkpoints.save(_state(run))
        run.checkpoints.finish()


def _truncate(path: Path, step: int) -> None:
    """Leave only the lines of finished steps: a killed run has logged steps that its checkpoint does not have."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    checkpoint.write_text(path, "".join(line + "\n" for line in lines[:step]))


def _fields(run: Run) -> dict[str, Any]:
    fields = {f.name: getattr(run.config, f.name) for f in dataclasses.fields(run.config)}
    fields["model"] = dataclasses.asdict(run.config.model)
    fields["layout"] = dataclasses.asdict(run.config.layout)
    return fields | {"data": run.shards.folder}


def _write_config(run: Run) -> None:
    checkpoint.write_text(run.folder / "config.json", json.dumps(_fields(run), indent=1, sort_keys=True))
    checkpoint.write_text(run.folder / "order.json", json.dumps(order_plan(run.config, run.shards), indent=1))


def _silent(text: str) -> None:
    """What ranks other than the first say."""


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One process per run folder; the lock goes with the process, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RootBusy(f"another process is training in {folder}; wait for it, or give another `out`") from None
            yield
    except OSError as error:
        raise storage_error(error, folder) or error from error


def _summary(run: Run) -> dict[str, Any]:
    lines = [json.loads(line) for line in (run.folder / "train.jsonl").read_text("utf-8").splitlines()]
    tail = [line["loss"] for line in lines[-20:]]
    return {
        "fingerprint": run.fingerprint,
        "steps": run.step,
        "tokens": run.step * run.config.batch * run.config.seq_len,
        "final_loss": sum(tail) / len(tail),
        "validation_loss": lines[-1].get("validation_loss"),
        "unigram_entropy": run.entropy,
        "seconds": round(sum(line["seconds"] for line in lines), 1),
        "folder": str(run.folder),
    }


def _sentence(summary: dict[str, Any]) -> str:
    loss, entropy, held = summary["final_loss"], summary["unigram_entropy"], summary["validation_loss"]
    where = "below" if loss < entropy else "NOT below"
    outside = "no documents held out" if held is None else f"held-out documents {held:.3f}"
    return (
        f"{summary['steps']} steps, {summary['tokens']:,} tokens in {summary['seconds']:.0f} s. Loss {loss:.3f} nats (mean of "
        f"the last 20 steps), {abs(entropy - loss):.3f} {where} the unigram entropy of {entropy:.3f}; {outside}. "
        f"{summary['folder']}"
    )


def _short(line: dict[str, Any], steps: int) -> str:
    held = line.get("validation_loss")
    return (
        f"step {line['step']:>{len(str(steps))}}/{steps}  loss {line['loss']:.4f}  lr {line['lr']:.2e}  "
        f"norm {line['grad_norm']:.2f}  load {line['load_max_over_mean']:.2f}  {line['tokens_per_second']:,.0f} tokens/s"
        + ("" if held is None else f"  held out {held:.4f}")
    )


def _say_plan(run: Run, say: Say) -> None:
    c, shards = run.config, run.shards
    held_here, active = count_parameters(run.model)
    epochs = ", ".join(f"{n:.2f} epochs of {name}" for name, n in run.stream.epochs(samples_before(c.steps, c)).items())
    held = 0 if run.validation is None else run.validation.tokens
    say(f"run         {run.folder}")
    say(f"data        {shards.documents:,} documents, {shards.tokens:,} tokens, {held:,} of them held out; {shards.folder}")
    say(f"vocabulary  {shards.vocab_size:,} ids, padded to {c.model.vocab_size:,}; unigram entropy {run.entropy:.4f} nats")
    whole = "" if c.layout.ranks == 1 else f"; held by the first of {c.layout.ranks} ranks"
    say(f"model       {held_here:,} parameters, {active:,} active per token{whole}")
    say(f"steps       {c.steps} of {c.batch} × {c.seq_len} = {c.batch * c.seq_len:,} tokens, {epochs}")
    say(f"start       step {run.step}, {torch.get_num_threads()} threads{run.note}")
