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
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corpus.errors import ConfigError, InputError, RootBusy, TrainError, storage_error
from corpus.shards import write_json
from train import checkpoint
from train.config import TrainConfig, fingerprint, run_folder
from train.data import Batch, Stream
from train.hf import export_model, import_model
from train.model import Model, count_parameters, make_model, next_token_loss
from train.optim import clip_gradients, make_optimizer
from train.schedule import learning_rate, samples_before
from train.sources import Data, open_data, order_plan, streams, unigram_entropy

__all__ = ["Run", "export", "open_run", "run_step", "train", "validate"]

Say = Callable[[str], None]


@dataclasses.dataclass
class Run:
    """A run in memory, after `step` finished steps."""

    config: TrainConfig  # vocab_size filled in
    folder: Path
    shards: Data
    model: Model
    optimizer: torch.optim.AdamW
    stream: Stream
    validation: Stream | None
    entropy: float
    fingerprint: str
    step: int = 0
    note: str = ""


def open_run(config: TrainConfig, root: Path) -> Run:
    """Shards, model and optimizer, at the newest checkpoint where there is one."""
    shards = open_data(config, root)
    size = config.model.vocab_size or -(-shards.vocab_size // 64) * 64
    if size < shards.vocab_size:
        raise ConfigError(f"model.vocab_size={size}: at least the {shards.vocab_size} ids of the shards' tokenizer expected")
    folder, mark = run_folder(config, root), fingerprint(config)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=size))
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a guard that costs 6 % of a step here
    model = make_model(config.model, config.seed)
    optimizer = make_optimizer(model, config)
    stream, validation = streams(config, shards)
    run = Run(config, folder, shards, model, optimizer, stream, validation, unigram_entropy(shards), mark)
    _resume(run)
    return run


def _resume(run: Run) -> None:
    found = checkpoint.newest(run.folder / "checkpoints")
    if found is None:
        if run.config.init is not None:
            import_model(Path(run.config.init), run.model)
            run.note = f", parameters of {run.config.init}"
        return
    state = checkpoint.load(found, run.model, run.optimizer)
    expected = _state(run)
    for key in ("fingerprint", "shards"):
        if state[key] != expected[key]:
            raise ConfigError(
                f"checkpoint {found} was trained with {key} {state[key]}, this run has {expected[key]}. Give another `out`, or "
                f"delete {run.folder} to start again."
            )
    run.step = state["step"]
    if state["threads"] != expected["threads"]:
        run.note = f"; the steps before ran with {state['threads']}, so last bits may differ from an undisturbed run"


def _state(run: Run) -> dict[str, Any]:
    """What a checkpoint remembers besides tensors; `sample` is the whole state of the data."""
    return {
        "step": run.step,
        "sample": samples_before(run.step, run.config),
        "fingerprint": run.fingerprint,
        "shards": {"documents": run.shards.documents, "tokens": run.shards.tokens, "vocab_size": run.shards.vocab_size},
        "threads": torch.get_num_threads(),
    }


def _loss(run: Run, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    documents = torch.from_numpy(batch.documents_BL1) if run.config.document_mask else None
    return next_token_loss(run.model, torch.from_numpy(batch.tokens_BL1), documents)


def run_step(run: Run) -> dict[str, Any]:
    """One update; its line of the log. TrainError for a loss or gradient that is not finite, parameters then untouched."""
    config, started = run.config, time.perf_counter()
    batch = run.stream.batch(samples_before(run.step, config), config.batch)
    lr = learning_rate(run.step, config)
    loss, balance, load_LE = _loss(run, batch)
    run.optimizer.zero_grad(set_to_none=True)
    (loss + config.model.aux_loss_alpha * balance).backward()
    norm = clip_gradients(run.model, config.clip)
    if not (math.isfinite(loss.item()) and math.isfinite(norm)):
        raise TrainError(
            f"step {run.step + 1}: loss {loss.item()}, gradient norm {norm}; finite numbers expected. The parameters are still "
            f"those of step {run.step}. Lower lr (now {lr:.3g}) or raise warmup ({config.warmup}).",
            step=run.step + 1,
        )
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    run.optimizer.step()
    run.step += 1
    seconds = time.perf_counter() - started
    tokens = config.batch * config.seq_len
    uneven = load_LE.amax(1) / load_LE.double().mean(1) if len(load_LE) else torch.ones(1)
    return {
        "step": run.step,
        "loss": loss.item(),
        "balance_loss": balance.item() * config.model.aux_loss_alpha,
        "balance": balance.item() / max(1, len(load_LE)),
        "lr": lr,
        "grad_norm": norm,
        "tokens": run.step * tokens,
        "load_max_over_mean": uneven.max().item(),
        "seconds": round(seconds, 4),
        "tokens_per_second": round(tokens / seconds, 1),
    }


@torch.no_grad()
def validate(run: Run) -> float | None:
    """Mean loss in nats over the same few sequences of held-out documents each time; None where none are held out."""
    if run.validation is None or run.config.validation_sequences == 0:
        return None
    samples = min(run.config.validation_sequences, run.validation.samples)
    total = 0.0
    for first in range(0, samples, run.config.batch):
        batch = run.validation.batch(first, min(run.config.batch, samples - first))
        total += _loss(run, batch)[0].item() * len(batch.tokens_BL1)
    return total / samples


def train(config: TrainConfig, root: Path, stop: int | None = None, say: Say = print) -> dict[str, Any] | None:
    """Train, or go on training, up to step `stop` (None: all). The summary when all steps are done, else None."""
    folder = run_folder(config, root)
    finished = folder / "summary.json"
    summary: dict[str, Any] = json.loads(finished.read_text("utf-8")) if finished.exists() else {}
    if summary.get("fingerprint") != fingerprint(config):
        open_data(config, root)  # before the folder is made, so that a mistake leaves none behind
        with _lock(folder):
            run = open_run(config, root)
            _say_plan(run, say)
            _write_config(run)
            _run_steps(run, config.steps if stop is None else min(stop, config.steps), say)
            if run.step < config.steps:
                say(f"stopped after step {run.step} of {config.steps}; run again to go on")
                return None
            summary = _summary(run)
            checkpoint.write_text(finished, json.dumps(summary, indent=1, sort_keys=True))
    say(_sentence(summary))
    return summary


def export(config: TrainConfig, root: Path, folder: Path, dtype: torch.dtype, say: Say = print) -> None:
    """The newest checkpoint of a run as a Hugging Face checkpoint, with its tokenizer. InputError where there is none."""
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
    _truncate(path, run.step)
    with path.open("a", encoding="utf-8") as log:
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
                checkpoint.save(run.folder / "checkpoints", run.model, run.optimizer, _state(run))


def _truncate(path: Path, step: int) -> None:
    """Leave only the lines of finished steps: a killed run has logged steps that its checkpoint does not have."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    checkpoint.write_text(path, "".join(line + "\n" for line in lines[:step]))


def _write_config(run: Run) -> None:
    fields = {f.name: getattr(run.config, f.name) for f in dataclasses.fields(run.config)}
    fields["model"] = dataclasses.asdict(run.config.model)
    fields["layout"] = dataclasses.asdict(run.config.layout)
    fields["data"] = run.shards.folder
    checkpoint.write_text(run.folder / "config.json", json.dumps(fields, indent=1, sort_keys=True))
    write_json(run.folder / "order.json", order_plan(run.config, run.shards))


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
    total, active = count_parameters(run.model)
    epochs = ", ".join(f"{n:.2f} epochs of {name}" for name, n in run.stream.epochs(samples_before(c.steps, c)).items())
    held = 0 if run.validation is None else run.validation.tokens
    say(f"run         {run.folder}")
    say(f"data        {shards.documents:,} documents, {shards.tokens:,} tokens, {held:,} of them held out; {shards.folder}")
    say(f"vocabulary  {shards.vocab_size:,} ids, padded to {c.model.vocab_size:,}; unigram entropy {run.entropy:.4f} nats")
    say(f"model       {total:,} parameters, {active:,} active per token")
    say(f"steps       {c.steps} of {c.batch} × {c.seq_len} = {c.batch * c.seq_len:,} tokens, {epochs}")
    say(f"start       step {run.step}, {torch.get_num_threads()} threads{run.note}")
