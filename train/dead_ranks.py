"""Which rank ended a run, and why: what every rank says when it fails, and what is to be made of a rank that said nothing."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
import socket
import traceback
from pathlib import Path

import torch
import torch.distributed as dist

from corpus.errors import TrainError

__all__ = ["dead_before", "is_broken_collective", "name_the_dead", "place_of"]


def name_the_dead(store: dist.Store, rank: int, world: int, error: Exception) -> Exception:
    """This rank's own error, or, where another rank ended first, one that says which and why.

    Every rank that fails says so in the store. Where a collective broke, most likely because a peer is gone, whoever has not
    said anything after a few seconds is dead without a word: killed, or out of memory.
    """
    broken = is_broken_collective(error)
    try:
        store.set(f"failed {rank}", f"{'broken' if broken else 'own'} {type(error).__name__}: {error}")
        if not broken:
            return error
        keys = {peer: f"failed {peer}" for peer in range(world)}
        with contextlib.suppress(dist.DistStoreError):  # not all of them in time
            store.wait(list(keys.values()), datetime.timedelta(seconds=5))
        said = {peer: store.get(key).decode() for peer, key in keys.items() if store.check([key])}
    except (RuntimeError, ConnectionError):  # the store lived in the rank that died
        return TrainError(f"rank {rank}: another rank ended, probably rank 0, which keeps the store ({error})")
    silent = [peer for peer in range(world) if peer not in said]
    if (guilty := _guilty(said)) is not None:
        return guilty
    if silent:
        return TrainError(f"rank {', '.join(map(str, silent))} ended without a word (killed?); seen by rank {rank}: {error}")
    return error


def _guilty(said: dict[int, str]) -> TrainError | None:
    """Who ended with an error of its own, by what ranks said."""
    own = [f"rank {peer} ended with {text.removeprefix('own ')}" for peer, text in said.items() if text.startswith("own ")]
    return TrainError("; ".join(own)) if own else None


def dead_before(store: dist.Store, rank: int, world: int) -> TrainError | None:
    """For a rank that is told to stop: who had ended already, and why. None where nobody had: then it is the user's wish.

    A rank that was killed could say nothing. It is known by its process, which is gone, on the machine that this rank is on.
    """
    try:
        said = {peer: store.get(key).decode() for peer in range(world) if store.check([key := f"failed {peer}"])}
        if rank not in said:
            store.set(f"failed {rank}", "told to stop")  # so that nobody takes this rank for one that was killed
        if (guilty := _guilty({peer: text for peer, text in said.items() if peer != rank})) is not None:
            return guilty
        places = {peer: store.get(f"at {peer}").decode() for peer in range(world) if peer not in (rank, *said)}
    except (RuntimeError, ConnectionError):  # the store is gone as well: nothing more is to be learnt
        return None
    killed = []
    for peer, place in places.items():
        pid = int(place.rpartition(" ")[2])
        if place == place_of(pid) and not _alive(pid) and not store.check([f"failed {peer}"]):
            killed.append(str(peer))
    return (
        TrainError(f"rank {', '.join(killed)} ended without a word (killed?); rank {rank} was then stopped") if killed else None
    )


def place_of(pid: int) -> str:
    """A process by its machine, the namespace of its number (containers may share a name), and the number."""
    return f"{socket.gethostname()} {os.stat('/proc/self/ns/pid').st_ino} {pid}"


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"  # has ended, and nobody has asked how


def is_broken_collective(error: BaseException) -> bool:
    """Whether a collective failed, and not something of this rank's own: torch raises RuntimeErrors for wrong shapes as well.

    NCCL's are DistErrors, gloo's name a file of gloo's. Others are told by where they were raised: the way out of torch's code
    leads through torch.distributed, other than its pipeline stages, which call the model.
    """
    while error.__cause__ is not None and error.__cause__ is not error:
        error = error.__cause__
    if isinstance(error, dist.DistError) or not isinstance(error, RuntimeError) or isinstance(error, torch.OutOfMemoryError):
        return isinstance(error, dist.DistError)
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    inside = itertools.takewhile(lambda name: "/torch/" in name, reversed(frames))
    return "/gloo/" in str(error) or any("/torch/distributed/" in name and "/pipelining/" not in name for name in inside)
