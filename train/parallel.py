"""Ranks: which process holds which part of the model, and the few collectives that put the parts together.

    rank = ((stage · dp + replica) · ep + share) · tp + slice

    data       the dp · ep ranks that compute different sequences; parameters outside the experts are the same on all of them
    experts    the ep ranks that share one layer's experts: share i holds experts i·E/ep … (i+1)·E/ep - 1
    replicas   the dp ranks that hold the same experts
    tensor     the tp ranks that share every head, MLP, expert and the vocabulary, and compute the same sequences
    pipeline   the pp ranks that hold consecutive layers

With tensor ranks, what lies between `enter` and `leave` is computed in parts; everything else is computed alike on all of
them, so its gradients are equal and need no sum (Shoeybi et al., arXiv 1909.08053). With `layout.sequence` everything else is
computed for a share of the positions on each (Korthikanti et al., arXiv 2205.05198): then `enter` gathers positions, `leave`
sums and shares them out, and the gradients of what was computed on shares are summed (optim.py). One process without
torch.distributed is the layout of ones: every collective below is then the identity.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import itertools
import os
import socket
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from corpus.errors import ConfigError, TrainError
from train.config import Layout

__all__ = ["ALONE", "Ranks", "copied", "exchanged", "join", "split_dim", "total"]

Group = dist.ProcessGroup | None  # None: one rank, nothing to do
ONE, CPU = Layout(), torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class Ranks:
    """This process's place in the layout."""

    layout: Layout = ONE
    rank: int = 0
    device: torch.device = CPU
    groups: dict[str, dist.ProcessGroup] = dataclasses.field(default_factory=dict)  # pp, dp, ep, tp, data; empty: alone

    @property
    def slice(self) -> int:
        return self.rank % self.layout.tp

    @property
    def data_rank(self) -> int:
        return self.rank // self.layout.tp % self.layout.data_ranks

    @property
    def share(self) -> int:
        return self.data_rank % self.layout.ep

    @property
    def replica(self) -> int:
        return self.data_rank // self.layout.ep

    @property
    def stage(self) -> int:
        return self.rank // (self.layout.tp * self.layout.data_ranks)

    @property
    def first_stage(self) -> bool:
        return self.stage == 0

    @property
    def last_stage(self) -> bool:
        return self.stage == self.layout.pp - 1

    def group(self, name: str) -> Group:
        """The process group of dp, ep, tp or pp, or of "data" (dp and ep), that this rank is in; None for a group of one."""
        size = self.layout.data_ranks if name == "data" else getattr(self.layout, name)
        return None if size == 1 else self.groups[name]

    @property
    def data(self) -> Group:
        return self.group("data")

    @property
    def replicas(self) -> Group:
        return self.group("dp")

    @property
    def experts(self) -> Group:
        return self.group("ep")

    @property
    def tensor(self) -> Group:
        return self.group("tp")

    @property
    def pipeline(self) -> Group:
        return self.group("pp")

    def enter(self, x_BSX: Tensor) -> Tensor:
        """Into a part that each tensor rank computes a share of: all positions of x; gradients of the shares are summed."""
        if self.tensor is None:
            return x_BSX
        return _Gathered.apply(x_BSX, self.tensor) if self.layout.sequence else _Copied.apply(x_BSX, self.tensor)

    def leave(self, x_BSX: Tensor) -> Tensor:
        """Out of it: the sum of the shares; with `layout.sequence` this rank's positions of it."""
        if self.tensor is None:
            return x_BSX
        return _Scattered.apply(x_BSX, self.tensor) if self.layout.sequence else _Summed.apply(x_BSX, self.tensor)

    def alike(self, x_BSX: Tensor) -> Tensor:
        """All positions of x, for what every tensor rank computes whole: the gradients are equal then, and are not summed."""
        return _Alike.apply(x_BSX, self.tensor) if self.tensor is not None and self.layout.sequence else x_BSX

    def layers(self, count: int) -> range:
        """Numbers of this stage's layers: as even as can be, the later stages with one more, since the first also embeds."""
        pp = self.layout.pp
        return range(count * self.stage // pp, count * (self.stage + 1) // pp)

    def barrier(self) -> None:
        if self.groups:
            dist.barrier()


ALONE = Ranks()


@contextlib.contextmanager
def join(layout: Layout, minutes: float = 10) -> Iterator[Ranks]:
    """Take part in a run of `layout.ranks` processes, as torchrun's environment says. ConfigError where the numbers differ.

    A collective that no answer comes to ends after `minutes`. When one rank ends with an error, the others end with a
    TrainError that names it, also where torchrun has stopped them because of it.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if world != layout.ranks:
        raise ConfigError(
            f"the layout has {layout.ranks} ranks (pp={layout.pp} · dp={layout.dp} · ep={layout.ep} · tp={layout.tp}) and "
            f"{world} processes were started; start it as `torchrun --nproc-per-node {layout.ranks} -m train …`, or on several "
            "machines with --nnodes as well"
        )
    if world == 1:
        yield Ranks(layout, device=device)
        return
    ours = not dist.is_initialized()  # Ray Train has done it
    if ours:
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=datetime.timedelta(minutes=minutes))
    store = dist.distributed_c10d._get_default_store()
    rank = dist.get_rank()
    store.set(f"at {rank}", _where(os.getpid()))
    try:
        try:
            yield _place(layout, rank, device)
        except Exception as error:
            raise _name_the_dead(store, rank, world, error) from error
    except KeyboardInterrupt:  # Ctrl-C; or torchrun, on seeing that a rank ended; maybe before its end was seen here
        dead = _dead_before(store, rank, world)
        if dead is None:
            raise
        raise dead from None
    finally:
        if ours:
            dist.destroy_process_group()


def _place(layout: Layout, rank: int, device: torch.device) -> Ranks:
    names = ("pp", "dp", "ep", "tp")
    shape = tuple(getattr(layout, name) for name in names)
    mesh = DeviceMesh(device.type, torch.arange(layout.ranks).view(shape), mesh_dim_names=names)
    groups = {name: mesh.get_group(name) for name in names} | {"data": mesh["dp", "ep"]._flatten("data").get_group()}
    return Ranks(layout, rank, device, groups)


def _name_the_dead(store: dist.Store, rank: int, world: int, error: Exception) -> Exception:
    """This rank's own error, or, where another rank ended first, one that says which and why.

    Every rank that fails says so in the store. Where a collective broke, most likely because a peer is gone, whoever has not
    said anything after a few seconds is dead without a word: killed, or out of memory.
    """
    broken = _broke(error)
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


def _dead_before(store: dist.Store, rank: int, world: int) -> TrainError | None:
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
        if place == _where(pid) and not _alive(pid) and not store.check([f"failed {peer}"]):
            killed.append(str(peer))
    return (
        TrainError(f"rank {', '.join(killed)} ended without a word (killed?); rank {rank} was then stopped") if killed else None
    )


def _where(pid: int) -> str:
    """A process by its machine, the namespace of its number (containers may share a name), and the number."""
    return f"{socket.gethostname()} {os.stat('/proc/self/ns/pid').st_ino} {pid}"


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"  # has ended, and nobody has asked how


def _broke(error: BaseException) -> bool:
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


def split_dim(name: str) -> int | None:
    """The dimension along which tensor ranks share a tensor, by its name on disk; None: each holds all of it.

    Rows of projections up (heads, inner dimensions, vocabulary) and columns of projections down.
    """
    leaf = name.removesuffix(".weight").rpartition(".")[2]
    if leaf in ("q_proj", "q_b_proj", "kv_b_proj", "gate_proj", "up_proj", "embed_tokens", "lm_head"):
        return 0
    return 1 if leaf in ("o_proj", "down_proj") else None


def total(tensor: Tensor, group: Group, op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> Tensor:
    """`tensor` summed over a group, in place; outside of autograd."""
    if group is not None:
        dist.all_reduce(tensor, op, group)
    return tensor


def copied(x: Tensor, group: Group) -> Tensor:
    """x, entering a part that each tensor rank computes a share of: gradients of the shares are summed."""
    return x if group is None else _Copied.apply(x, group)


def gathered(x_BSX: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The positions of all ranks of a group, in order of rank; outside of autograd."""
    parts = [torch.empty_like(x_BSX) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, x_BSX.contiguous(), group)
    return torch.cat(parts, 1)


def scattered(x_BSX: Tensor, group: dist.ProcessGroup) -> Tensor:
    """This rank's positions of the sum over a group; outside of autograd."""
    parts = [part.contiguous() for part in x_BSX.chunk(dist.get_world_size(group), 1)]
    out = torch.empty_like(parts[0])
    dist.reduce_scatter(out, parts, group=group)
    return out


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return gathered(x, group)

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> tuple[Tensor, None]:
        return scattered(dx, ctx.group), None


class _Scattered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return scattered(x, group)

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> tuple[Tensor, None]:
        return gathered(dx, ctx.group), None


class _Alike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return gathered(x, group)

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> tuple[Tensor, None]:
        return dx.chunk(dist.get_world_size(ctx.group), 1)[dist.get_rank(ctx.group)], None


def exchanged(x_NH: Tensor, send: list[int], receive: list[int], group: Group) -> Tensor:
    """Rows sent to and received from every rank of a group, in order of rank; the gradient goes the way back."""
    return x_NH if group is None else _Exchanged.apply(x_NH, send, receive, group)


class _Copied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> tuple[Tensor, None]:
        return total(dx.contiguous().clone(), ctx.group), None


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        return total(x.contiguous().clone(), group)

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> tuple[Tensor, None]:
        return dx, None


class _Exchanged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NH: Tensor, send: list[int], receive: list[int], group: Group) -> Tensor:
        ctx.send, ctx.receive, ctx.group = send, receive, group
        out_MH = x_NH.new_empty(sum(receive), *x_NH.shape[1:])
        dist.all_to_all_single(out_MH, x_NH.contiguous(), receive, send, group=group)
        return out_MH

    @staticmethod
    def backward(ctx: Any, dx_MH: Tensor) -> tuple[Tensor, None, None, None]:
        return exchanged(dx_MH, ctx.receive, ctx.send, ctx.group), None, None, None
