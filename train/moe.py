"""The feed-forward layers: a dense SwiGLU, and the mixture of routed and shared experts.

    out = shared(x) + Σ over the token's K experts of weight · expert(x)

In memory all experts are two tensors, so that one grouped product serves them; on disk each expert has its own, under
Hugging Face's names. `disk_views` is the whole mapping:

    mlp.experts.gate_up_proj [E, 2I, H]   rows 0…I-1 of expert e = mlp.experts.e.gate_proj.weight, rows I…2I-1 = …up_proj.weight
    mlp.experts.down_proj    [E, H, I]    expert e               = mlp.experts.e.down_proj.weight
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels import ops
from kernels.fuse import fused_on_cuda
from train.config import ModelConfig
from train.parallel import ALONE, Ranks, copied, exchanged

__all__ = ["MLP", "MoE", "Segments", "disk_views"]


@fused_on_cuda
def _swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(gate) * up


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) · up(x)); each tensor rank computes a share of the inner dimension."""

    def __init__(self, hidden: int, intermediate: int, ranks: Ranks = ALONE) -> None:
        super().__init__()
        self.ranks = ranks
        inner = intermediate // ranks.layout.tp
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.ranks.leave(self.part(self.ranks.enter(x)))

    def part(self, x: Tensor) -> Tensor:
        """This rank's share of the sum."""
        return self.down_proj(_swiglu(self.gate_proj(x), self.up_proj(x)))


class Gate(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        if config.bias_update_speed is not None:
            self.register_buffer("e_score_correction_bias", torch.zeros(config.n_routed_experts))

    def forward(self, x_TH: Tensor) -> Tensor:
        """Logits in fp32: a rounded logit changes which expert wins.

        bf16 times bf16 is exact in fp32: on CUDA the product takes bf16 operands and adds up in fp32, in a fifth of the time.
        """
        if x_TH.is_cuda and x_TH.dtype == torch.bfloat16:
            return _WideProduct.apply(x_TH, self.weight)
        wide = torch.promote_types(x_TH.dtype, torch.float32)
        return F.linear(x_TH.to(wide), self.weight.to(wide))


class _WideProduct(torch.autograd.Function):
    """x · wᵀ, bf16 in and fp32 out; gradients from the fp32 gradient rounded to bf16, as the operands are."""

    @staticmethod
    def forward(ctx: Any, x_TH: Tensor, w_EH: Tensor) -> Tensor:
        ctx.save_for_backward(x_TH, w_EH)
        return torch.mm(x_TH, w_EH.t(), out_dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, dy_TE: Tensor) -> tuple[Tensor, Tensor]:
        x_TH, w_EH = ctx.saved_tensors
        dy_TE = dy_TE.to(x_TH.dtype)
        return dy_TE @ w_EH, dy_TE.t() @ x_TH


class Experts(nn.Module):
    """This rank's experts (a share of ep), of each this rank's inner dimensions (a slice of tp)."""

    def __init__(self, config: ModelConfig, ranks: Ranks = ALONE) -> None:
        super().__init__()
        count, hidden = config.n_routed_experts // ranks.layout.ep, config.hidden_size
        inner = config.moe_intermediate_size // ranks.layout.tp
        self.gate_up_proj = nn.Parameter(torch.empty(count, 2 * inner, hidden))
        self.down_proj = nn.Parameter(torch.empty(count, hidden, inner))

    def forward(self, x_NH: Tensor, offs_E1: Tensor, weights_TK: Tensor, src_N: Tensor, live_E1: Tensor | None) -> Tensor:
        """Each row's expert's answer, times the weight of the row's slot."""
        gate_up_N2I = ops.experts(x_NH, self.gate_up_proj, offs_E1)
        return ops.experts(ops.swiglu_weighted(gate_up_N2I, weights_TK, src_N, live_E1), self.down_proj, offs_E1)


@dataclasses.dataclass(frozen=True)
class Segments:
    """What balances are computed over, and which sequences lose no token."""

    of_T: Tensor | None  # int32: number of each token's segment, rising; None: `count` of equal length
    count: int
    exempt_B: Tensor | None

    @staticmethod
    def of(config: ModelConfig, sequences: int, documents_BS: Tensor | None, exempt_B: Tensor | None) -> Segments:
        if config.balance_over == "sequence" or documents_BS is None:
            return Segments(None, sequences, exempt_B)
        begins_BS = torch.ones_like(documents_BS, dtype=torch.int32)
        begins_BS[:, 1:] = documents_BS[:, 1:] != documents_BS[:, :-1]
        of_T = begins_BS.flatten().cumsum(0, dtype=torch.int32) - 1
        return Segments(of_T, int(of_T[-1]) + 1, exempt_B)


class MoE(nn.Module):
    def __init__(self, config: ModelConfig, ranks: Ranks = ALONE) -> None:
        super().__init__()
        self.config, self.ranks = config, ranks
        self.gate = Gate(config)
        self.experts = Experts(config, ranks)
        if config.n_shared_experts:
            self.shared_experts = MLP(config.hidden_size, config.n_shared_experts * config.moe_intermediate_size, ranks)

    def forward(self, x_BSH: Tensor, segments: Segments) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(output, losses_4, tokens per expert, share of slots dropped): losses_4 as in ops.gate, with gradients."""
        c, ranks = self.config, self.ranks
        x_TH = ranks.enter(x_BSH).flatten(0, 1)
        experts_TK, weights_TK, losses_4 = ops.gate(
            self.gate(ranks.alike(x_BSH).flatten(0, 1)),
            getattr(self.gate, "e_score_correction_bias", None),
            segments.of_T,
            segments=segments.count,
            k=c.num_experts_per_tok,
            groups=c.n_group,
            top_groups=c.topk_group,
            score=c.scoring_func,
            group_score=c.group_score,
            renormalize=c.norm_topk_prob,
            scale=c.routed_scaling_factor,
            devices=c.n_group,
            top_devices=c.topk_group,
        )
        load_E = None
        if c.capacity_factor is not None:
            load_E = ops.route(experts_TK, c.n_routed_experts)[0].diff()
            experts_TK, weights_TK = ops.drop(
                experts_TK,
                weights_TK,
                experts=c.n_routed_experts,
                devices=c.n_group,
                capacity_factor=c.capacity_factor,
                sequences=len(x_BSH),
                exempt_S=segments.exempt_B,
            )
        offs_E1, pos_TK, src_N = ops.route(experts_TK, c.n_routed_experts)
        live_E1 = None if c.capacity_factor is None else offs_E1  # without a capacity every row is an expert's
        weights_TK = copied(weights_TK, ranks.tensor)
        rows_NH = ops.permute(x_TH, pos_TK, src_N, live_E1)
        if self.ranks.experts is None:
            rows_NH = self.experts(rows_NH, offs_E1, weights_TK, src_N, live_E1)
        else:
            rows_NH = self._elsewhere(rows_NH, offs_E1, weights_TK.flatten()[src_N])
        shared_TH = self.shared_experts.part(x_TH) if c.n_shared_experts else None
        out_TH = ops.combine(rows_NH, None, pos_TK, src_N, live_E1, shared_TH)
        dropped = 1 - offs_E1[-1].double() / max(1, experts_TK.numel())
        load_E = offs_E1.diff() if load_E is None else load_E
        out_BSH = ranks.leave(out_TH.unflatten(0, (len(x_BSH), -1)))
        return out_BSH, losses_4, load_E, dropped

    def _elsewhere(self, rows_NH: Tensor, offs_E1: Tensor, weights_N: Tensor) -> Tensor:
        """Rows grouped by expert, sent with their weights to the ranks that hold the experts, computed there and sent back.

        From each rank come rows in order of expert, so what arrives is grouped by (rank, expert) and is put in order of
        expert, those of a lower rank first: the same rows in the same order whatever the number of ranks.
        """
        group, ep = self.ranks.experts, self.ranks.layout.ep
        counts_RE = offs_E1.diff().view(ep, -1)  # R: rank it goes to, E: expert there
        arriving_RE = exchanged(counts_RE, [1] * ep, [1] * ep, group)
        both = torch.stack((counts_RE.sum(1), arriving_RE.sum(1))).tolist()  # the one wait for the device
        send, receive = both
        sent_NH = rows_NH[: sum(send)]  # rows after that belong to no expert
        got_MH = exchanged(sent_NH, send, receive, group)
        weights_M1 = exchanged(weights_N[: sum(send), None], send, receive, group)
        local = arriving_RE.shape[1]
        of_M = torch.arange(local, device=rows_NH.device, dtype=torch.int32).repeat(ep).repeat_interleave(arriving_RE.flatten())
        offs_L1, pos_M1, src_M = ops.route(of_M[:, None], local)
        out_MH = self.experts(ops.permute(got_MH, pos_M1, src_M), offs_L1, weights_M1, src_M, None)
        back_MH = ops.permute(out_MH, src_M[:, None], pos_M1[:, 0])  # the inverse: row m goes where slot src[m] was
        back_NH = exchanged(back_MH, receive, send, group)
        return F.pad(back_NH, (0, 0, 0, len(rows_NH) - len(back_NH)))


def disk_views(tensors: dict[str, Tensor], ranks: Ranks = ALONE) -> Iterator[tuple[str, Tensor]]:
    """(name on disk, view of the tensor in memory) for tensors by their name in memory: parameters, or their moments.

    Of this rank's experts, under their numbers in the whole model; of each tensor this rank's slice.
    """
    for name, tensor in tensors.items():
        stem, _, leaf = name.rpartition(".")
        if not stem.endswith("mlp.experts"):
            yield name, tensor
            continue
        for e, expert in enumerate(tensor.unbind(), start=ranks.share * len(tensor)):
            if leaf == "gate_up_proj":
                gate, up = expert.chunk(2)
                yield f"{stem}.{e}.gate_proj.weight", gate
                yield f"{stem}.{e}.up_proj.weight", up
            else:
                yield f"{stem}.{e}.down_proj.weight", expert
