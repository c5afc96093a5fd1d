"""Checkpoints: everything a run needs to go on as if it had never stopped, under this layout of ranks or another.

    RUN/checkpoints/step-00000100/.metadata       of torch.distributed.checkpoint: which file holds which part of which tensor
                                  __0_0.distcp …  what rank 0 wrote, and so on
                                  state.json      step, what the shards were, the layout, checksums of the files
    RUN/checkpoints/latest                        the name of the newest folder

Tensors are the masters and the two moments, each under its name in the whole model (experts of a layer stacked: gate_proj,
up_proj, down_proj), so a run goes on under any layout: each rank reads the rows it now owns. A save copies this rank's rows to
memory and goes on training; a thread writes them. A folder is written under a temporary name and renamed when every rank
is done; `latest` is replaced after that. As elsewhere no fsync: what a power cut leaves short fails its checksum, and the
checkpoint before it serves (train/loop.py): steps done again are the same to the bit. There is no random state to save: data,
initial parameters and schedule are functions of seed and step.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import xxhash
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from corpus.errors import CorruptFile, storage_error
from corpus.shards import atomic, read_json, write_json
from train.optim import Optimizer, Owned
from train.parallel import Ranks, split_dim

__all__ = ["Checkpoints", "load_weights", "newest", "newest_first", "read_state", "write_text"]


def write_text(path: Path, text: str) -> None:
    """Replace a file as a whole."""
    with atomic(path) as temporary:
        temporary.write_text(text, "utf-8")


class Checkpoints:
    """The checkpoints of a run. Made by every rank at the same time; save, finish and load are called by all."""

    def __init__(self, folder: Path, ranks: Ranks, model: nn.Module, optimizer: Optimizer, keep: int = 2) -> None:
        self.folder, self.ranks, self.optimizer, self.keep = folder, ranks, optimizer, keep
        self.buffers = dict(model.named_buffers())
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._group = self._dense = self._experts = None
        if ranks.groups:
            layout = ranks.layout
            numbers = torch.arange(layout.ranks).view(layout.pp, layout.dp, layout.ep, layout.tp)
            # Of dimensions split twice, the one that comes first here is split first: experts over ep, then rows over dp.
            dense = DeviceMesh("cpu", numbers.flatten(1, 2).transpose(1, 2), mesh_dim_names=("pp", "tp", "data"))
            experts = DeviceMesh("cpu", numbers.permute(0, 2, 3, 1), mesh_dim_names=("pp", "ep", "tp", "dp"))
            self._dense, self._experts = dense["tp", "data"], experts["ep", "tp", "dp"]
            self._group = dist.new_group(backend="gloo")  # the writing thread's own, beside the training's

    def save(self, state: dict[str, Any]) -> None:
        """Begin a checkpoint for state["step"]. StorageError for the one before, where that could not be written."""
        self.finish()
        staged = {key: self._whole(key, o, local.to("cpu", copy=True)) for key, o, local in self._tensors()}
        self._thread = threading.Thread(target=self._write, args=(staged, state), name="checkpoint", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait until the last checkpoint is on disk. StorageError when it is not."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def load(self, path: Path) -> dict[str, Any]:
        """Fill masters, moments and parameters in place; the state saved with them.

        CorruptFile when a byte has changed: on every rank, whichever sees it, and nothing has been filled then.
        """
        state = self._check(path)
        try:
            targets = [(key, o, local, torch.empty(local.shape, dtype=local.dtype)) for key, o, local in self._tensors()]
            reader = dcp.FileSystemReader(path)
            saved = set(reader.read_metadata().state_dict_metadata)
            ours = {key for keys in self._everyone([key for key, *_ in targets]) for key in keys}
            if saved != ours:
                raise ValueError(f"it is of another model: {sorted(saved ^ ours)[:3]} differ")
            _quiet(dcp.load, {key: self._whole(key, o, new) for key, o, _, new in targets}, reader, self._group)
            with torch.no_grad():
                for _, _, local, new in targets:
                    local.copy_(new)
        except (OSError, ValueError, KeyError, CheckpointException) as error:
            raise _unusable(path, error) from error
        self.optimizer.publish()
        self.optimizer.set_step(state["updates"])
        return state

    def _check(self, path: Path) -> dict[str, Any]:
        """state.json of a checkpoint whose files are all there, as they were saved. Each rank reads its share of them."""
        state: dict[str, Any] = {}
        seen: str | None = None
        try:
            state = read_state(path)
            _verify(path, state, _share(state["checksums"], self.ranks.rank, self.ranks.layout.ranks))
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, CorruptFile) as error:
            seen = error.details["why"] if isinstance(error, CorruptFile) else str(error)
        said = [text for text in self._everyone(seen) if text is not None]
        if said:
            raise _unusable(path, said[0])
        return state

    def _write(self, staged: dict[str, Tensor], state: dict[str, Any]) -> None:
        name = f"step-{state['step']:08d}"
        temporary = self.folder / f".tmp-{name}"
        try:
            if self.ranks.rank == 0:
                for left in self.folder.glob(".tmp-*"):  # by a killed process; this one holds the run's lock
                    shutil.rmtree(left, ignore_errors=True)
                temporary.mkdir(parents=True)
            self._meet()
            _quiet(dcp.save, staged, dcp.FileSystemWriter(temporary, sync_files=False), self._group)
            written = [".metadata", *(path.name for path in temporary.glob("*.distcp"))]
            own = {file: _checksum(temporary / file) for file in _share(written, self.ranks.rank, self.ranks.layout.ranks)}
            checksums = {file: digest for part in self._everyone(own) for file, digest in part.items()}
            if self.ranks.rank == 0:
                write_json(temporary / "state.json", {**state, "checksums": checksums})
                _remove(self.folder / name)
                os.replace(temporary, self.folder / name)
                write_text(self.folder / "latest", name + "\n")
                # One after this step was damaged and is gone back over; it is replaced when the run comes there again.
                for old in [path for path in _finished(self.folder) if path.name <= name][: -self.keep]:
                    _remove(old)
            self._meet()
        except (Exception, CheckpointException) as error:  # noqa: BLE001 - handed to the training thread, which raises it
            shutil.rmtree(temporary, ignore_errors=True)
            cause = _os_error(error)
            self._error = error if cause is None else storage_error(cause, self.folder) or cause

    def _tensors(self) -> Iterator[tuple[str, Owned | None, Tensor]]:
        """(key, parameter, this rank's part): masters and moments, then the routers' biases, which all data ranks hold."""
        for kind in ("model", "exp_avg", "exp_avg_sq"):
            moments = {} if kind == "model" else self.optimizer.moments(kind)
            for o in self.optimizer.owned:
                local = o.master if kind == "model" else moments[o.name]
                yield from ((f"{kind}.{name}", o, part) for name, part in _parts(o.name, local))
        for name, buffer in self.buffers.items():
            yield f"model.{name}", None, buffer

    def _whole(self, key: str, o: Owned | None, local: Tensor) -> Tensor:
        """`local` as what it is: a part of the whole model's tensor."""
        if self._dense is None or self._experts is None:
            return local
        if o is None:
            return DTensor.from_local(local, self._dense, [Replicate(), Replicate()], run_check=False)
        layout, rows = self.ranks.layout, Shard(0) if self.ranks.layout.zero1 or self.ranks.layout.fsdp else Replicate()
        shape = [len(o.parameter), *local.shape[1:]]
        split: int | None
        if o.expert:
            split = 2 if key.endswith("down_proj") else 1
            shape[0] *= layout.ep
            mesh, placements = self._experts, [Shard(0), Shard(split), rows]
        else:
            split = split_dim(o.name)
            mesh, placements = self._dense, [Replicate() if split is None else Shard(split), rows]
        if split is not None:
            shape[split] *= layout.tp
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(local, mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride)

    def _everyone(self, own: Any) -> list[Any]:
        """What each rank has to say, in order of rank."""
        gathered: list[Any] = [own]
        if self._group is not None:
            gathered = [None] * self.ranks.layout.ranks
            dist.all_gather_object(gathered, own, self._group)
        return gathered

    def _meet(self) -> None:
        if self._group is not None:
            dist.barrier(self._group)


def load_weights(path: Path, model: nn.Module) -> dict[str, Any]:
    """Fill the parameters of a whole model, of any type, from the masters of a checkpoint; the state saved with them.

    A gigabyte at a time; the moments are checked and not read. CorruptFile when a byte has changed.
    """
    try:
        state = read_state(path)
        _verify(path, state, state["checksums"])
        reader = dcp.FileSystemReader(path)
        found = reader.read_metadata().state_dict_metadata.items()
        saved = {key: said for key, said in found if key.startswith("model.") and isinstance(said, TensorStorageMetadata)}
        ours = [*model.named_parameters(), *model.named_buffers()]
        targets = {f"model.{part}": view for name, tensor in ours for part, view in _parts(name, tensor.detach())}
        differ = sorted(targets.keys() ^ saved.keys())
        if differ:
            raise ValueError(f"it is of another model: {differ[:3]} differ")
        group: dict[str, Tensor] = {}
        for number, (key, target) in enumerate(targets.items(), 1):
            if saved[key].size != target.shape:
                raise ValueError(f"it is of another model: {key} is {list(saved[key].size)} there, {list(target.shape)} here")
            group[key] = torch.empty(target.shape, dtype=saved[key].properties.dtype)
            if number == len(targets) or sum(tensor.nbytes for tensor in group.values()) > 1 << 30:
                _quiet(dcp.load, group, reader, None)
                with torch.no_grad():
                    for name, tensor in group.items():
                        targets[name].copy_(tensor)
                group = {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, CheckpointException) as error:
        raise _unusable(path, error) from error
    return state


def newest(folder: Path) -> Path | None:
    """The checkpoint `latest` names; where that one is gone, the newest there is."""
    try:
        named = folder / (folder / "latest").read_text("utf-8").strip()
        if (named / "state.json").exists():
            return named
    except FileNotFoundError:
        pass  # killed before the pointer was first written
    return next(iter(reversed(_finished(folder))), None)


def newest_first(folder: Path) -> list[Path]:
    """`newest`, then those before it, in the order in which they are to be tried."""
    first = newest(folder)
    if first is None:
        return []
    return [first, *(path for path in reversed(_finished(folder)) if path.name < first.name)]


def first_sound(
    paths: Iterable[Path], load: Callable[[Path], dict[str, Any]]
) -> tuple[dict[str, Any] | None, list[CorruptFile]]:
    """(the state that `load` gives of the first checkpoint that can be read, None where none can; why those before cannot)."""
    damaged: list[CorruptFile] = []
    for path in paths:
        try:
            return load(path), damaged
        except CorruptFile as error:
            damaged.append(error)
    return None, damaged


def read_state(path: Path) -> dict[str, Any]:
    """state.json of a checkpoint. CorruptFile where it is not one."""
    try:
        state = read_json(path / "state.json")
    except CorruptFile as error:
        raise _unusable(path, "state.json does not match its own checksum") from error
    if not isinstance(state, dict) or "step" not in state:
        raise _unusable(path, "it has no state.json of ours")
    return state


def _parts(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(name in a checkpoint, view) of a tensor by its name in memory, where gate and up are one."""
    stem, _, leaf = name.rpartition(".")
    if leaf == "gate_up_proj":
        yield from ((f"{stem}.{part}", half) for part, half in zip(("gate_proj", "up_proj"), tensor.chunk(2, 1), strict=True))
    else:
        yield name, tensor


def _verify(path: Path, state: dict[str, Any], files: Iterable[str]) -> None:
    for file in files:
        if _checksum(path / file) != state["checksums"][file]:
            raise ValueError(f"the bytes of {file} are not the ones saved")


def _finished(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("step-*/state.json"))


def _remove(path: Path) -> None:
    """A checkpoint, under the name of an unfinished one first: half of one, left by a kill, is then known for what it is."""
    if path.exists():
        gone = path.with_name(f".tmp-{path.name}-gone")
        os.replace(path, gone)
        shutil.rmtree(gone, ignore_errors=True)


def _share(names: Iterable[str], rank: int, ranks: int) -> list[str]:
    """Of a checkpoint's files those this rank answers for: saved by it, or, after a change of layout, every so-manyth."""
    return [name for name in sorted(names) if (0 if name == ".metadata" else int(name.split("_")[2]) % ranks) == rank]


def _unusable(path: Path, why: object) -> CorruptFile:
    return CorruptFile(f"checkpoint {path} cannot be used: {why}", path=str(path), why=str(why))


def _quiet(call: Any, state: dict[str, Tensor], storage: Any, group: Any) -> None:
    alone = {} if group is not None else {"no_dist": True}
    kind = "storage_writer" if isinstance(storage, dcp.FileSystemWriter) else "storage_reader"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it runs alone, which is meant
        call(state, **{kind: storage}, process_group=group, **alone)


def _os_error(error: BaseException | None) -> OSError | None:
    """The OSError behind what torch made of it; torch's file writer names only the number."""
    if isinstance(error, CheckpointException):
        return next((found for e, _ in error.failures.values() if (found := _os_error(e)) is not None), None)
    while error is not None:
        if isinstance(error, OSError):
            return error
        number = re.search(r"os error (\d+)|errno[: ]+(\d+)", str(error), re.IGNORECASE)
        if number:
            code = int(number[1] or number[2])
            return OSError(code, os.strerror(code))
        error = error.__cause__ or error.__context__
    return None


def _checksum(path: Path) -> str:
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()
