"""The feed-forward layers: a dense SwiGLU, and the mixture of routed and shared experts.

    out = shared(x) + Σ over the token's K experts of weight · expert(x)

In memory all experts are two tensors, so that one grouped product serves them; on disk each expert has its own, under
Hugging Face's names. `disk_views` is the whole mapping:

    mlp.experts.gate_up_proj [E, 2I, H]   rows 0…I-1 of expert e = mlp.experts.e.gate_proj.weight, rows I…2I-1 = …up_proj.weight
    mlp.experts.down_proj    [E, H, I]    expert e               = mlp.experts.e.down_proj.weight
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels import ops
from train.config import ModelConfig

__all__ = ["MLP", "MoE", "disk_views"]


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) · up(x))."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, intermediate, bias=False)
        self.up_proj = nn.Linear(hidden, intermediate, bias=False)
        self.down_proj = nn.Linear(intermediate, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Gate(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))

    def forward(self, x_TH: Tensor) -> Tensor:
        """Logits, from operands widened to fp32: a rounded logit changes which expert wins."""
        wide = torch.promote_types(x_TH.dtype, torch.float32)
        return F.linear(x_TH.to(wide), self.weight.to(wide))


class Experts(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        count, hidden, inner = config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(count, 2 * inner, hidden))
        self.down_proj = nn.Parameter(torch.empty(count, hidden, inner))

    def forward(self, x_NH: Tensor, offs_E1: Tensor) -> Tensor:
        gate_NI, up_NI = ops.experts(x_NH, self.gate_up_proj, offs_E1).chunk(2, dim=-1)
        return ops.experts(F.silu(gate_NI) * up_NI, self.down_proj, offs_E1)


class MoE(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.gate = Gate(config)
        self.experts = Experts(config)
        if config.n_shared_experts:
            self.shared_experts = MLP(config.hidden_size, config.n_shared_experts * config.moe_intermediate_size)

    def forward(self, x_BSH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(output, balance, tokens per expert): the balance is 1 when even and carries its gradient, see ops.gate."""
        c = self.config
        x_TH = x_BSH.flatten(0, 1)
        experts_TK, weights_TK, balance = ops.gate(
            self.gate(x_TH),
            k=c.num_experts_per_tok,
            groups=c.n_group,
            top_groups=c.topk_group,
            scale=c.routed_scaling_factor,
            sequences=len(x_BSH),
        )
        offs_E1, pos_TK, src_N = ops.index(experts_TK, c.n_routed_experts)
        rows_NH = self.experts(ops.permute(x_TH, pos_TK, src_N), offs_E1)
        out_BSH = ops.unpermute(rows_NH, weights_TK, pos_TK, src_N).view_as(x_BSH)
        if c.n_shared_experts:
            out_BSH = out_BSH + self.shared_experts(x_BSH)
        return out_BSH, balance, offs_E1.diff()


def disk_views(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """(name on disk, view of the tensor in memory) for tensors by their name in memory: parameters, or their moments."""
    for name, tensor in tensors.items():
        stem, _, leaf = name.rpartition(".")
        if not stem.endswith("mlp.experts"):
            yield name, tensor
            continue
        for e, expert in enumerate(tensor.unbind()):
            if leaf == "gate_up_proj":
                gate, up = expert.chunk(2)
                yield f"{stem}.{e}.gate_proj.weight", gate
                yield f"{stem}.{e}.up_proj.weight", up
            else:
                yield f"{stem}.{e}.down_proj.weight", expert
