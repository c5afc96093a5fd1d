"""Checkpoints: everything a run needs to go on as if it had never stopped.

    RUN/checkpoints/step-00000100/model.safetensors      parameters, under Hugging Face's names, experts one by one
                                  optimizer.safetensors  exp_avg.NAME, exp_avg_sq.NAME
                                  state.json             step, sample, what the shards were, checksums of the two files
    RUN/checkpoints/latest                               the name of the newest folder

A folder is written under a temporary name and renamed when it is whole; `latest` is replaced after that. The two newest are
kept. As elsewhere no fsync: what a power cut leaves short fails its checksum, and the checkpoint before it serves. There is
no random state to save: data, initial parameters and schedule are functions of seed and step.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from corpus.errors import CorruptFile, storage_error
from corpus.shards import atomic, read_json, write_json
from train.model import Model
from train.moe import disk_views
from train.optim import moments

__all__ = ["load", "newest", "save", "write_text"]

_FILES = ("model.safetensors", "optimizer.safetensors")
_KEPT = 2


def write_text(path: Path, text: str) -> None:
    """Replace a file as a whole."""
    with atomic(path) as temporary:
        temporary.write_text(text, "utf-8")


def save(folder: Path, model: Model, optimizer: torch.optim.AdamW, state: dict[str, Any]) -> Path:
    """A new checkpoint for state["step"] under `folder`; older ones beyond two go. StorageError when it cannot be written."""
    name = f"step-{state['step']:08d}"
    temporary = folder / f".tmp-{name}"
    for left in folder.glob(".tmp-*"):  # by a killed process; this one holds the run's lock
        shutil.rmtree(left, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        for file, tensors in zip(_FILES, _tensors(model, optimizer), strict=True):
            save_file({key: value.contiguous() for key, value in tensors.items()}, temporary / file)
        write_json(temporary / "state.json", {**state, "checksums": {file: _checksum(temporary / file) for file in _FILES}})
        shutil.rmtree(folder / name, ignore_errors=True)
        os.replace(temporary, folder / name)
        write_text(folder / "latest", name + "\n")
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise storage_error(_os_error(error), folder) or error from error
    for old in _finished(folder)[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return folder / name


def _os_error(error: Exception) -> OSError:
    """safetensors reports a full disk as its own kind of error, with the number in the text."""
    if isinstance(error, OSError):
        return error
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))


def newest(folder: Path) -> Path | None:
    """The checkpoint `latest` names; where that one is gone, the newest there is."""
    try:
        named = folder / (folder / "latest").read_text("utf-8").strip()
        if (named / "state.json").exists():
            return named
    except FileNotFoundError:
        pass  # killed before the pointer was first written
    return next(iter(reversed(_finished(folder))), None)


def load(checkpoint: Path, model: Model, optimizer: torch.optim.AdamW) -> dict[str, Any]:
    """Fill parameters and optimizer state in place; the state saved with them. CorruptFile when a byte has changed."""
    try:
        state = read_json(checkpoint / "state.json") or {}
        for file, tensors in zip(_FILES, _tensors(model, optimizer), strict=True):
            if _checksum(checkpoint / file) != state["checksums"][file]:
                raise ValueError(f"the bytes of {file} are not the ones saved")
            saved = load_file(checkpoint / file)
            if saved.keys() != tensors.keys():
                raise ValueError(f"{file} is of another model: {sorted(saved.keys() ^ tensors.keys())[:3]} differ")
            with torch.no_grad():
                for key, tensor in tensors.items():
                    tensor.copy_(saved[key])
    except (OSError, ValueError, KeyError, CorruptFile, SafetensorError) as error:
        raise CorruptFile(
            f"checkpoint {checkpoint} cannot be used: {error}. Delete that folder: the run then goes on from the checkpoint "
            "before it, or starts again.",
            path=str(checkpoint),
        ) from error
    for parameter_state in optimizer.state.values():
        parameter_state["step"].fill_(state["step"])
    return dict(state)


def _tensors(model: Model, optimizer: torch.optim.AdamW) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors in memory, by the name each has on disk, for the two files."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    state = {
        f"{which}.{name}": view
        for which in ("exp_avg", "exp_avg_sq")
        for name, view in disk_views(moments(model, optimizer, which))
    }
    return dict(disk_views(parameters)), state


def _finished(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("step-*/state.json"))


def _checksum(path: Path) -> str:
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()
