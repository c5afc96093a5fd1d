"""AdamW over fp32 masters, ZeRO-1, and the clipping of the global gradient norm.

    gradients   one flat buffer per kind of parameter, in fp32 whatever the parameters are; micro-batches add up there, and one
                sum over ranks per buffer makes them whole: over all data ranks outside the experts, over replicas for experts
    masters     fp32; with bf16 parameters a copy, with fp32 parameters the parameters themselves
    ZeRO-1      with `layout.zero1` each of the ranks that hold the same parameter keeps masters and moments of its rows only
                (dimension 0 in equal runs, the last ones shorter or empty), updates those, and gathers the others' rows
                (Rajbhandari et al., arXiv 1910.02054)
    FSDP        with `layout.fsdp` parameters and gradients are rows already, summed when the backward pass ends (fsdp.py)

Decay (decoupled, Loshchilov & Hutter) applies to matrices, fused experts included, and not to norm weights: those are 1-D.
The update is element by element, so it does not depend on who does it.
"""

from __future__ import annotations

import dataclasses
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from train.config import TrainConfig
from train.parallel import Group, Ranks, split_dim, total

__all__ = ["Optimizer", "Owned", "owned_rows"]


@dataclasses.dataclass
class Owned:
    """A parameter, and the rows of it that this rank updates."""

    name: str
    parameter: nn.Parameter
    gradient: Tensor  # of the whole parameter, fp32 (fp64 for fp64 parameters), a view of its buffer; with FSDP of the rows
    first: int  # the rows: first … first + len(master) - 1
    master: Tensor
    expert: bool

    @property
    def rows(self) -> slice:
        return slice(self.first, self.first + len(self.master))


class Optimizer:
    """The optimizer of this rank's part of a model. It changes parameters, and their `grad`, in place."""

    def __init__(self, model: nn.Module, config: TrainConfig, ranks: Ranks) -> None:
        self.config, self.ranks = config, ranks
        wide = torch.promote_types(next(model.parameters()).dtype, torch.float32)
        self.buffers: dict[bool, Tensor] = {}  # by whether it is the experts'
        self.owned: list[Owned] = []
        if config.layout.fsdp:
            for name, p in model.named_parameters():
                assert isinstance(p, DTensor)
                rows = cast(DTensor, p.detach()).to_local()
                self.owned.append(Owned(name, p, torch.zeros(0), 0, rows, ".experts." in name))
        for expert in () if config.layout.fsdp else (False, True):
            named = [(n, p) for n, p in model.named_parameters() if (".experts." in n) == expert]
            buffer = torch.zeros(sum(p.numel() for _, p in named), dtype=wide, device=ranks.device)
            self.buffers[expert] = buffer
            for (name, p), gradient in zip(named, buffer.split([p.numel() for _, p in named]), strict=True):
                self._own(name, p, gradient.view_as(p), expert)
        groups = [
            {"params": [o.master for o in self.owned if o.parameter.dim() >= 2], "weight_decay": config.weight_decay},
            {"params": [o.master for o in self.owned if o.parameter.dim() < 2], "weight_decay": 0.0},
        ]
        self.adamw = torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)
        # The state exists from the start, so that a checkpoint of step 0 and of step n have the same contents.
        for owned in self.owned:
            zeros = {key: torch.zeros_like(owned.master) for key in ("exp_avg", "exp_avg_sq")}
            self.adamw.state[owned.master] = {"step": torch.zeros((), device=ranks.device), **zeros}

    def _own(self, name: str, p: nn.Parameter, gradient: Tensor, expert: bool) -> None:
        group = self._group(expert)
        share = 1 if group is None or not self.config.layout.zero1 else dist.get_world_size(group)
        rows = owned_rows(len(p), share)
        first = min(len(p), rows * (dist.get_rank(group) if share > 1 else 0))
        master = p.detach()[first : first + rows]
        if p.dtype != gradient.dtype:
            master = master.to(gradient.dtype)
            p.register_post_accumulate_grad_hook(lambda p: _accumulate(p, gradient))
        else:
            p.grad = gradient
        self.owned.append(Owned(name, p, gradient, first, master, expert))

    def _group(self, expert: bool) -> Group:
        return self.ranks.replicas if expert else self.ranks.data

    def zero_grad(self) -> None:
        for buffer in self.buffers.values():
            buffer.zero_()
        if self.config.layout.fsdp:
            for o in self.owned:
                o.parameter.grad = None

    def reduce(self) -> None:
        """Make the gradients whole: each rank has added up those of its own sequences."""
        for expert, buffer in self.buffers.items():
            total(buffer, self._group(expert))
        if self.config.layout.fsdp:
            for o in self.owned:
                shared = o.parameter.grad
                o.gradient = torch.zeros_like(o.master) if shared is None else cast(DTensor, shared).to_local()
        if self.ranks.layout.sequence:
            for o in self.owned:
                if not _shared(o.name) and not o.name.endswith("mlp.gate.weight"):  # the gate has seen all positions
                    total(o.gradient, self.ranks.tensor)

    @torch.no_grad()
    def clip(self, limit: float) -> float:
        """Scale all gradients so that their joint L2 norm is at most `limit`; the norm before that.

        Every parameter of the model counts once: what ranks hold in shares is summed over them, what they hold alike is not.
        """
        wide = torch.float64 if self.ranks.device.type == "cpu" else torch.float32
        squares = torch.zeros(2, 2, dtype=wide, device=self.ranks.device)  # [an expert's, shared by tensor ranks]
        for o in self.owned:
            norm = torch.linalg.vector_norm(o.gradient, dtype=wide) if o.gradient.numel() else squares.new_zeros(())
            squares[int(o.expert), int(_shared(o.name))] += norm * norm
        if self.config.layout.fsdp:  # these are of rows
            for expert in (False, True):
                total(squares[int(expert)], self._group(expert))
        total(squares[1], self.ranks.experts)
        shared = squares[:, 1].contiguous()
        joint = total(squares[:, 0].sum() + total(shared, self.ranks.tensor).sum(), self.ranks.pipeline)
        norm = float(joint.sqrt())
        if norm > limit:
            for gradient in self.buffers.values() or [o.gradient for o in self.owned]:
                gradient.mul_(limit / norm)
        return norm

    @torch.no_grad()
    def step(self, lr: float) -> None:
        for group in self.adamw.param_groups:
            group["lr"] = lr
        for o in self.owned:
            o.master.grad = o.gradient[o.rows]
        self.adamw.step()
        for o in self.owned:
            o.master.grad = None
        self.publish()

    @torch.no_grad()
    def publish(self) -> None:
        """Parameters from their masters, everywhere."""
        if self.config.layout.fsdp:
            return  # the masters are the parameters' rows
        for o in self.owned:
            if o.master.dtype != o.parameter.dtype:
                o.parameter[o.rows] = o.master.to(o.parameter.dtype)
        for expert in self.buffers:
            group = self._group(expert)
            if group is not None and self.config.layout.zero1:
                _gather_rows([o for o in self.owned if o.expert == expert], group)

    def moments(self, which: str) -> dict[str, Tensor]:
        """ "exp_avg" or "exp_avg_sq" of this rank's rows, by parameter name; the tensors themselves, to save or to fill."""
        return {o.name: self.adamw.state[o.master][which] for o in self.owned}

    def set_step(self, step: int) -> None:
        """How many updates the moments have seen, for AdamW's bias correction."""
        for state in self.adamw.state.values():
            state["step"].fill_(step)


def owned_rows(rows: int, share: int) -> int:
    """Of a parameter's rows, how many the first of `share` ranks updates: no other has more."""
    return -(-rows // share)


def _accumulate(p: nn.Parameter, gradient: Tensor) -> None:
    assert p.grad is not None
    gradient += p.grad
    p.grad = None


def _shared(name: str) -> bool:
    return ".experts." in name or split_dim(name) is not None


def _gather_rows(owned: list[Owned], group: dist.ProcessGroup) -> None:
    """Every rank's rows to every rank, in one exchange of one flat piece per rank, padded to the longest (the first)."""
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    if not owned:
        return
    pieces = [
        o.parameter.split(max(1, owned_rows(len(o.parameter), ranks))) for o in owned
    ]  # fewer than `ranks` where rows are few
    longest = sum(piece[0].numel() for piece in pieces)
    sample = owned[0].parameter
    flat = torch.zeros(ranks, longest, dtype=sample.dtype, device=sample.device)
    own = [piece[rank].flatten() for piece in pieces if rank < len(piece)]
    if own:
        mine = torch.cat(own)
        flat[rank, : len(mine)] = mine
    dist.all_gather_single(flat.view(-1), flat[rank].clone(), group)
    for other in range(ranks):
        if other == rank:
            continue
        at = 0
        for piece in pieces:
            if other < len(piece):
                count = piece[other].numel()
                piece[other].copy_(flat[other, at : at + count].view_as(piece[other]))
                at += count
