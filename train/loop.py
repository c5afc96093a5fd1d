"""A training run: plan, resume, steps, validation, summary.

RUN/config.json    what is trained, to read
RUN/order.json     which step reads what, for `corpus explain`
RUN/train.jsonl    one line per step; after a resume exactly the lines an undisturbed run would have (timings apart)
RUN/report.html    its plots, for `corpus report`
RUN/left_out.json  of each going back from a bad step: to which step, from which, to how many updates, why
RUN/checkpoints/   see checkpoint.py
RUN/summary.json   written last, when all steps are done
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from corpus.errors import ConfigError, CorruptFile, RootBusy, StorageError, TrainError, storage_error
from corpus.shards import write_json
from train import checkpoint, watch
from train.checkpoint import Checkpoints
from train.config import REVISION, TrainConfig, check_layout, fingerprint, init_seen, run_folder
from train.fsdp import share_parameters
from train.hf import check_tokenizer, import_model, positions_differ, read_config
from train.model import count_parameters, make_model
from train.optim import Optimizer
from train.parallel import ALONE, Ranks
from train.schedule import samples_before
from train.sources import Data, check_content, open_data, order_plan, streams, unigram_entropy
from train.step import Run, run_step, validate

__all__ = [
    "Run", "check_same", "hold", "open_run", "passed_over", "run_step", "sized", "train", "validate",
]  # fmt: skip

Say = Callable[[str], None]
_GO_BACKS = 3  # times to the same parameters


def open_run(config: TrainConfig, root: Path, ranks: Ranks = ALONE) -> Run:
    """Shards, model and optimizer, at the newest checkpoint where there is one."""
    shards = open_data(config, root)
    folder, mark = run_folder(config, root), fingerprint(config)
    config = sized(config, shards)
    torch.use_deterministic_algorithms(config.deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a guard that costs 6 % of a step here
    dtype = torch.float32 if config.layout.fsdp and config.dtype == "bfloat16" else getattr(torch, config.dtype)
    model = make_model(config.model, config.seed, dtype, ranks, config.recompute)
    if config.init is not None and checkpoint.newest(folder / "checkpoints") is None:
        check_tokenizer(Path(config.init), shards.tokenizer_path)
        import_model(Path(config.init), model)  # before the masters are taken from it
    if config.layout.fsdp:
        share_parameters(model, config, ranks)
    optimizer = Optimizer(model, config, ranks)
    checkpoints = Checkpoints(folder / "checkpoints", ranks, model, optimizer, config.checkpoints_kept)
    stream, validation = streams(config, shards)
    entropy = unigram_entropy(shards)
    run = Run(config, folder, ranks, shards, model, optimizer, checkpoints, stream, validation, entropy, mark)
    _resume(run)
    return run


def sized(config: TrainConfig, shards: Data) -> TrainConfig:
    """With the vocabulary of the shards, padded, where the recipe leaves it to them. ConfigError where it is too small."""
    size = config.model.vocab_size or -(-shards.vocab_size // 64) * 64
    if size < shards.vocab_size:
        raise ConfigError(f"model.vocab_size={size}: at least the {shards.vocab_size} ids of the shards' tokenizer expected")
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=size))


def _resume(run: Run) -> None:
    noted = run.folder / "left_out.json"
    entries = json.loads(noted.read_text("utf-8")) if noted.exists() else []
    run.left_out = [(*entry, "")[:4] for entry in entries]  # older files do not say why
    state = _restore(run)
    if state is None:
        run.note = "" if run.config.init is None else _begun_from(Path(run.config.init), run)
        return
    expected = _state(run)
    for key in ("threads", "layout"):
        if state[key] != expected[key]:
            run.note += f"; the steps before ran with {key} {state[key]}, so last bits may differ from an undisturbed run"
    before = state.get("bad_steps", expected["bad_steps"])  # older checkpoints do not say
    if before != expected["bad_steps"]:
        run.note += f"; the steps before ran with spike={before['spike']}, on_spike={before['on_spike']}"


def check_same(found: Path, mark: str, folder: Path, config: TrainConfig, shards: Data) -> None:
    """ConfigError for a checkpoint of another run than `mark`, the fingerprint of the one in `folder`."""
    state = checkpoint.read_state(found)
    for key, expected in (("fingerprint", mark), ("shards", _of_shards(shards))):
        if state.get(key) != expected:
            differ = _differing(folder, _fields(config, shards)) if key == "fingerprint" else ""
            raise ConfigError(
                f"checkpoint {found} was trained with {key} {state.get(key)}, this run has {expected}{differ}. Give another "
                f"`out`, or delete {folder} to start again."
            )


def _of_shards(shards: Data) -> dict[str, Any]:
    """What a checkpoint remembers of the shards it was trained on."""
    return {name: getattr(shards, name) for name in ("documents", "tokens", "vocab_size", "content")}


def _begun_from(folder: Path, run: Run) -> str:
    differ = positions_differ(read_config(folder), run.config.model)
    return f", parameters of {folder}" + (f"; {differ}" if differ else "")


def _differing(folder: Path, fields: dict[str, Any]) -> str:
    """What is in RUN/config.json and different now, named."""
    path = folder / "config.json"
    before = json.loads(path.read_text("utf-8")) if path.exists() else {}
    now = json.loads(json.dumps(fields))
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
        "updates": run.updates,
        "skipped": run.skipped,
        "recent": list(run.recent),
        "sample": samples_before(run.step, run.config),
        "fingerprint": run.fingerprint,
        "shards": _of_shards(run.shards),
        "threads": torch.get_num_threads(),
        "layout": dataclasses.asdict(run.config.layout),
        "bad_steps": {key: getattr(run.config, key) for key in ("spike", "on_spike")},
    }


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
        # Before the folder is made, so that a mistake leaves none behind.
        check_content(open_data(config, root), say, ranks.rank, ranks.layout.ranks)
        with hold(folder) if ranks.rank == 0 else contextlib.nullcontext():
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
    say(watch.sentence(summary))
    return summary


def _run_steps(run: Run, last: int, say: Say) -> None:
    path, first = run.folder / "train.jsonl", run.ranks.rank == 0
    if first:
        _truncate(path, run.step)
    board = run.folder / "tensorboard"
    writer = watch.tensorboard(board, run.step) if first and run.config.tensorboard else None
    while run.step < last:
        line = run_step(run)
        if "left_out" in line and line["loss"] is not None and run.config.on_spike == "roll_back":
            say(watch.short(line, run.config.steps))
            _roll_back(run, line["left_out"], say)
            if writer is not None:
                writer.close()
                writer = watch.tensorboard(board, run.step)
            continue
        due = run.step % run.config.checkpoint_every == 0 or run.step == run.config.steps
        if due:
            line["validation_loss"] = validate(run)
        if first:
            with path.open("a", encoding="utf-8") as log:
                log.write(watch.record(line) + "\n")
        if writer is not None:
            watch.add_scalars(writer, line)
        if due or run.step % 10 == 0 or run.step == 1 or "left_out" in line:
            say(watch.short(line, run.config.steps))
        if due or run.step == last:
            run.checkpoints.save(_state(run))
            if first:
                _draw(run)
    run.checkpoints.finish()
    if writer is not None:
        writer.close()


def _draw(run: Run) -> None:
    lines = watch.read_lines(run.folder / "train.jsonl")
    checkpoint.write_text(run.folder / "report.html", watch.draw(lines, run.folder.name))


def _roll_back(run: Run, reason: str, say: Say) -> None:
    """To the newest checkpoint; the steps from there to the bad one are left out when they come again.

    Noted in RUN/left_out.json before anything else on disk is touched, so a run killed in between goes back the same way.
    """
    bad = run.step
    run.checkpoints.finish()
    state = _restore(run)
    before, updates = run.step, run.updates
    if state is None or sum(entry[2] == updates for entry in run.left_out) >= _GO_BACKS:
        why = "none yet" if state is None else f"gone back {_GO_BACKS} times to {updates} updates"
        raise TrainError(
            f"step {bad} is bad and there is no checkpoint to go back to that would help ({why}): {reason}. Lower lr or raise "
            "warmup.",
            step=bad,
        )
    run.left_out.append((before, bad, updates, f"step {bad}: {reason}"))
    if run.ranks.rank == 0:
        checkpoint.write_text(run.folder / "left_out.json", json.dumps(run.left_out))
        _truncate(run.folder / "train.jsonl", before)
    run.ranks.barrier()
    say(f"gone back to step {before}; steps {before + 1} to {bad} are left out{run.passed_over}")


def _restore(run: Run) -> dict[str, Any] | None:
    """To the newest checkpoint that can be used: its state, None where there is none. What is newer is said in run.passed_over.

    CorruptFile where there are checkpoints and none can be used: to begin anew is for the user to decide.
    """

    def load(found: Path) -> dict[str, Any]:
        check_same(found, run.fingerprint, run.folder, run.config, run.shards)
        return run.checkpoints.load(found)

    state, damaged = checkpoint.first_sound(checkpoint.newest_first(run.folder / "checkpoints"), load)
    if state is not None:
        run.step, run.updates, run.skipped = state["step"], state["updates"], state.get("skipped", 0)
        run.recent.clear()
        run.recent.extend(state["recent"])
        run.passed_over = passed_over(damaged)
        return state
    if damaged:
        before = f", nor can the {len(damaged) - 1} before it" if len(damaged) > 1 else ", and there is none before it"
        what = f"{damaged[0]}{before}. Delete {run.folder / 'checkpoints'}: the run then starts again."
        raise CorruptFile(what, **damaged[0].details)
    return None


def passed_over(damaged: list[CorruptFile]) -> str:
    return "".join(f"; passed over, since damaged: {error}" for error in damaged)


def _truncate(path: Path, step: int) -> None:
    """Leave only the lines of finished steps: a killed run has logged steps that its checkpoint does not have."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    checkpoint.write_text(path, "".join(line + "\n" for line in lines[:step]))


def _fields(config: TrainConfig, shards: Data) -> dict[str, Any]:
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    fields["model"] = dataclasses.asdict(config.model)
    fields["layout"] = dataclasses.asdict(config.layout)
    if isinstance(config.data, tuple):
        fields["sources"] = [(source.name, source.weight) for source in config.data]
    return fields | {"data": shards.folder, "revision": REVISION, "init_seen": init_seen(config)}


def _write_config(run: Run) -> None:
    checkpoint.write_text(run.folder / "config.json", json.dumps(_fields(run.config, run.shards), indent=1, sort_keys=True))
    write_json(run.folder / "order.json", order_plan(run.config, run.shards))


def _silent(text: str) -> None:
    """What ranks other than the first say."""


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """One process per run folder; the lock goes with the process, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("w")
    except OSError as error:
        said = f"cannot make {folder}: {error.strerror or error}. Give another --root or `out`."
        raise storage_error(error, folder) or StorageError(said, path=str(folder)) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise RootBusy(f"another process is training in {folder}; wait for it, or give another `out`") from None
        except OSError as error:
            raise storage_error(error, folder) or error from error


def _summary(run: Run) -> dict[str, Any]:
    lines = watch.read_lines(run.folder / "train.jsonl")
    tail = [line["loss"] for line in lines[-20:] if "left_out" not in line]
    return {
        "fingerprint": run.fingerprint,
        "steps": run.step,
        "tokens": lines[-1]["tokens"],
        "final_loss": sum(tail) / len(tail) if tail else None,
        "validation_loss": lines[-1].get("validation_loss"),
        "unigram_entropy": run.entropy,
        "seconds": round(sum(line["seconds"] for line in lines), 1),
        "folder": str(run.folder),
    }


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
    say(f"start       step {run.step}, {torch.get_num_threads()} threads{run.note}{run.passed_over}")
