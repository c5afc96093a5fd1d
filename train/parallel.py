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
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from corpus.errors import ConfigError
from train.config import Layout
from train.dead_ranks import dead_before, name_the_dead, place_of

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
    store.set(f"at {rank}", place_of(os.getpid()))
    try:
        try:
            yield _place(layout, rank, device)
        except Exception as error:
            raise name_the_dead(store, rank, world, error) from error
    except KeyboardInterrupt:  # Ctrl-C; or torchrun, on seeing that a rank ended; maybe before its end was seen here
        dead = dead_before(store, rank, world)
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
