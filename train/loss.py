"""Cross-entropy in chunks: logits of a hundred thousand words are never held for more than a few thousand tokens.

For 32,768 tokens and 102,400 words the logits are 13 GB in fp32, twice that with their gradient. Here each chunk's logits
become its losses and at once its part of the two gradients, so 2 GB are enough; the gradients wait for `backward`, which
only scales them. With tensor ranks each has a slice of the vocabulary, and three numbers a token are exchanged.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kernels.fuse import fused_on_cuda
from train.parallel import Group, total

__all__ = ["CHUNK", "IGNORED", "cross_entropy"]

IGNORED = -100  # label of a position that is not to be predicted
CHUNK = 1 << 31  # bytes of fp32 logits at a time; smaller ones make slow products, and a sum of the weight's size each


def cross_entropy(x_TH: Tensor, w_VH: Tensor, labels_T: Tensor, group: Group = None, first: int = 0) -> tuple[Tensor, Tensor]:
    """(sum over labels in nats, with gradient; losses_T in fp32 or fp64 without, 0 where the label is IGNORED).

    group, first: the tensor ranks, and the number of the first word in this rank's slice w_VH.
    """
    return _CrossEntropy.apply(x_TH, w_VH, labels_T, group, first, torch.is_grad_enabled())


@fused_on_cuda
def _sums(logits_RV: Tensor, best_R1: Tensor) -> Tensor:
    wide = torch.promote_types(logits_RV.dtype, torch.float32)
    return (logits_RV.to(wide) - best_R1).exp().sum(1, keepdim=True)


@fused_on_cuda
def _probabilities(logits_RV: Tensor, lse_R1: Tensor, counted_R1: Tensor) -> Tensor:
    return ((logits_RV.to(lse_R1.dtype) - lse_R1).exp() * counted_R1).to(logits_RV.dtype)


@fused_on_cuda
def _scaled(gradient: Tensor, by: Tensor) -> Tensor:
    """By a factor in fp32. In bf16 it would be wrong by up to 0.4 %, for all of the gradient alike."""
    return (gradient.to(torch.promote_types(gradient.dtype, by.dtype)) * by).to(gradient.dtype)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TH: Tensor, w_VH: Tensor, labels_T: Tensor, group: Group, first: int, needed: bool
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(x_TH.dtype, torch.float32)
        losses_T = torch.empty(len(x_TH), dtype=wide, device=x_TH.device)
        dx_TH = torch.empty_like(x_TH) if needed else None
        dw_VH = torch.zeros_like(w_VH, dtype=wide) if needed else None
        rows = max(1, CHUNK // (4 * len(w_VH)))
        for start in range(0, len(x_TH), rows):
            part = slice(start, start + rows)
            x_RH, labels_R = x_TH[part], labels_T[part]
            counted_R = labels_R != IGNORED
            inside_R = counted_R & (labels_R >= first) & (labels_R < first + len(w_VH))
            at_R1 = (labels_R - first).where(inside_R, 0)[:, None]
            logits_RV = x_RH @ w_VH.t()
            own_R1 = logits_RV.gather(1, at_R1).to(wide)
            best_R1 = total(logits_RV.amax(1, keepdim=True), group, dist.ReduceOp.MAX)
            sums_R2 = total(torch.cat((_sums(logits_RV, best_R1), own_R1 * inside_R[:, None]), 1), group)
            lse_R1 = sums_R2[:, :1].log() + best_R1
            losses_T[part] = (lse_R1[:, 0] - sums_R2[:, 1]).where(counted_R, 0)
            if dx_TH is None or dw_VH is None:
                continue
            d_RV = _probabilities(logits_RV, lse_R1, counted_R[:, None])
            at_own_R1 = ((own_R1 - lse_R1).exp() - inside_R[:, None].to(wide)) * counted_R[:, None]
            d_RV.scatter_(1, at_R1, at_own_R1.to(d_RV.dtype))
            dx_TH[part] = d_RV @ w_VH
            if d_RV.is_cuda and d_RV.dtype == torch.bfloat16:
                dw_VH = torch.addmm(dw_VH, d_RV.t(), x_RH, out_dtype=torch.float32)
            else:
                dw_VH += d_RV.t() @ x_RH
        if dx_TH is not None and dw_VH is not None:
            total(dx_TH, group)
            ctx.save_for_backward(dx_TH, dw_VH.to(w_VH.dtype))
        ctx.mark_non_differentiable(losses_T)
        return losses_T.sum(), losses_T

    @staticmethod
    def backward(ctx: Any, d: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        dx_TH, dw_VH = ctx.saved_tensors
        return _scaled(dx_TH, d), _scaled(dw_VH, d), None, None, None, None
