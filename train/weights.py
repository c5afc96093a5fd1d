"""The weights of a run's checkpoint, and nothing else of it: for evaluation and export.

A checkpoint holds masters and two moments in fp32, 12 bytes a parameter, and open_run builds all of that anew. Here a model of
the wanted type is filled group of tensors by group of tensors, whatever layout wrote them: 2 bytes a parameter in bf16, and a
gigabyte beside it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from corpus.errors import InputError
from train import checkpoint
from train.config import Layout, TrainConfig, fingerprint, run_folder
from train.hf import export_model
from train.loop import check_same, hold, passed_over, sized
from train.model import Model, empty_model
from train.sources import Data, open_data

__all__ = ["Weights", "export", "open_weights"]


class Weights(NamedTuple):
    """passed_over: what is newer and damaged, as a sentence to append."""

    model: Model
    step: int
    folder: Path
    shards: Data
    passed_over: str


def open_weights(config: TrainConfig, root: Path, dtype: torch.dtype, step: int | None = None) -> Weights:
    """The model as it was at `step` (None: at the newest checkpoint that can be read), whole, on the CPU.

    InputError where there is no such checkpoint, ConfigError where it is of another run, CorruptFile where none can be read.
    """
    shards, folder = open_data(config, root), run_folder(config, root)
    mark, config = fingerprint(config), dataclasses.replace(sized(config, shards), layout=Layout())
    there = _checkpoints(folder)
    wanted = [path for path in there if step is None or path.name == f"step-{step:08d}"]
    if not wanted:
        kept = ", ".join(str(int(path.name.removeprefix("step-"))) for path in reversed(there))
        raise InputError(
            f"{folder} has no checkpoint of step {step}; one of {kept} expected. checkpoint_every says at which steps they are "
            f"written, checkpoints_kept={config.checkpoints_kept} how many stay"
        )
    model = empty_model(config.model, dtype)

    def load(path: Path) -> dict[str, Any]:
        check_same(path, mark, folder, config, shards)
        return checkpoint.load_weights(path, model)

    state, damaged = checkpoint.first_sound(wanted, load)
    if state is None:
        raise damaged[0]
    return Weights(model, state["step"], folder, shards, passed_over(damaged))


def _checkpoints(folder: Path) -> list[Path]:
    """Those of a run, newest first. InputError where there is none."""
    there = checkpoint.newest_first(folder / "checkpoints")
    if not there:
        raise InputError(f"{folder} has no checkpoint; train first, with the same recipe, --root and --set")
    return there


def export(
    config: TrainConfig,
    root: Path,
    folder: Path,
    dtype: torch.dtype,
    say: Callable[[str], None] = print,
    step: int | None = None,
) -> None:
    """A checkpoint of a run as a Hugging Face checkpoint, with its tokenizer; errors are open_weights'."""
    path = run_folder(config, root)
    _checkpoints(path)  # before a folder is made to be held
    with hold(path):
        found = open_weights(config, root, dtype, step)
        special = found.shards.special
        ids = {f"{name}_token_id": special[name] for name in ("bos", "eos") if name in special}
        ids["max_position_embeddings"] = _context(config)
        tokenizer = found.shards.tokenizer_path
        carry = (tokenizer,) if tokenizer.exists() else ()
        export_model(found.model, folder, dtype, carry=carry, eos=_special_token(tokenizer, special.get("eos")), **ids)
    say(f"step {found.step} of {path} is in {folder}, as {str(dtype).removeprefix('torch.')}{found.passed_over}")


def _context(config: TrainConfig) -> int:
    """Tokens that the model was made for: those of a sample, more where YaRN stretches what an earlier training knew."""
    m = config.model
    stretched = min(m.max_position_embeddings, round(m.rope_factor * m.rope_original_length)) if m.rope_factor > 1 else 0
    return max(config.seq_len, stretched)


def _special_token(tokenizer: Path, number: int | None) -> str | None:
    """How a tokenizer.json writes one of its added tokens."""
    if number is None or not tokenizer.exists():
        return None
    added = json.loads(tokenizer.read_text("utf-8"))["added_tokens"]
    return next((token["content"] for token in added if token["id"] == number), None)
