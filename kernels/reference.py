"""What every routing op means, in plain torch. A CUDA kernel or CPU twin is right when it agrees with this file.

    gate       logits -> which k experts each token goes to, with what weight, and how uneven that is
    index      experts -> where each (token, slot) sits when rows are grouped by expert
    permute    token rows -> rows grouped by expert
    experts    x · wᵀ per group of rows
    unpermute  rows grouped by expert -> weighted sum per token

Letters in names are shapes: T tokens, E experts, K experts per token, N = T·K rows (static, so nothing waits on a count),
H hidden, O outputs, S sequences; E1 is E+1. A slot is a pair (token t, choice j) with number t·K + j.

Rules, the same in every implementation:
  - scores are a softmax over all experts in fp32 (fp64 stays fp64); weights are scores, never renormalised, times `scale`;
  - experts are chosen by logit, which orders like the score but does not depend on how an exponential rounds;
  - a tie goes to the lower expert; slots are in order of falling logit;
  - sums over slots run in slot order j = 0…K-1 with an fp32 accumulator, so results do not depend on the launch;
  - rows of one expert are in slot order (stable);
  - a NaN logit counts as the largest, so indices stay in range and the NaN reaches the loss, where the trainer stops.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["balance", "experts", "gate", "index", "permute", "unpermute"]


def gate(
    logits_TE: Tensor, *, k: int, groups: int = 1, top_groups: int = 1, scale: float = 1.0, sequences: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """(experts_TK int32, weights_TK, balance scalar) of DeepSeek-V2's router.

    groups, top_groups: with groups > 1 only the experts of the `top_groups` groups whose best expert is best are eligible
        (V2 section 2.1.2, "device-limited"; the group's score is its maximum, which Megatron and torchtitan get wrong).
    sequences: the T tokens are this many sequences of equal length, one after another; the balance is per sequence.
    """
    logits_TE = logits_TE.to(_accumulator(logits_TE.dtype))
    scores_TE = logits_TE.softmax(-1)
    eligible_TE = logits_TE.detach()
    if groups > 1:
        best_TG = eligible_TE.unflatten(1, (groups, -1)).amax(-1)
        kept_TM = best_TG.sort(dim=1, descending=True, stable=True).indices[:, :top_groups]
        open_TG = torch.zeros_like(best_TG, dtype=torch.bool).scatter_(1, kept_TM, True)
        open_TE = open_TG.repeat_interleave(logits_TE.shape[1] // groups, dim=1)
        eligible_TE = eligible_TE.masked_fill(~open_TE, -torch.inf)
    # Not topk: it leaves open which of two equal values wins. A stable sort does not.
    experts_TK = eligible_TE.sort(dim=1, descending=True, stable=True).indices[:, :k]
    weights_TK = scores_TE.gather(1, experts_TK) * scale
    return experts_TK.to(torch.int32), weights_TK, balance(scores_TE, experts_TK, sequences)


def balance(scores_TE: Tensor, experts_TK: Tensor, sequences: int) -> Tensor:
    """Mean over sequences of Σ_e f_e·P_e: 1 when the load is even, E/K at worst (V2 equations 23-25 without alpha).

    f_e = E/(K·L) · (tokens of the sequence sent to e), a constant for autograd; P_e = mean score of e over its L tokens.
    The gradient to scores[t, e] is therefore f_e of t's sequence / (L · sequences), one vector per sequence.
    """
    tokens, experts_count = scores_TE.shape
    if tokens == 0:
        return scores_TE.sum()
    length, k = tokens // sequences, experts_TK.shape[1]
    of_T1 = torch.arange(sequences, device=scores_TE.device).repeat_interleave(length)[:, None]
    counts_SE = torch.bincount((of_T1 * experts_count + experts_TK).flatten(), minlength=sequences * experts_count)
    f_SE = counts_SE.view(sequences, experts_count).to(scores_TE.dtype) * (experts_count / (k * length))
    p_SE = scores_TE.view(sequences, length, experts_count).mean(1)
    return (f_SE * p_SE).sum() / sequences


def index(experts_TK: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """(offs_E1, pos_TK, src_N), int32: a stable counting sort of the slots by expert, for `count` experts.

    Rows offs[e]…offs[e+1] belong to expert e. pos: the row of a slot. src: the slot of a row, so src // K is its token.
    """
    flat_N = experts_TK.flatten()
    src_N = flat_N.sort(stable=True).indices
    pos_N = torch.empty_like(src_N)
    pos_N[src_N] = torch.arange(len(src_N), device=src_N.device)
    offs_E1 = torch.zeros(count + 1, dtype=torch.int32, device=flat_N.device)
    offs_E1[1:] = torch.bincount(flat_N, minlength=count).cumsum(0)
    return offs_E1, pos_N.view(experts_TK.shape).to(torch.int32), src_N.to(torch.int32)


def permute(x_TH: Tensor, pos_TK: Tensor, src_N: Tensor) -> Tensor:
    """y_NH with y[n] = x[src[n] // K]. Its gradient sums a token's rows in slot order."""
    return _Permute.apply(x_TH, pos_TK, src_N)


def unpermute(y_NH: Tensor, weights_TK: Tensor, pos_TK: Tensor, src_N: Tensor) -> Tensor:
    """z_TH with z[t] = Σ_j weights[t, j] · y[pos[t, j]], accumulated in fp32, rounded once to y's dtype."""
    return _Unpermute.apply(y_NH, weights_TK, pos_TK, src_N)


def experts(x_NH: Tensor, w_EOH: Tensor, offs_E1: Tensor) -> Tensor:
    """y_NO with y[n] = w[e]·x[n] for the expert e whose rows hold n: a grouped matrix product.

    split and unbind rather than slices: their backward is one concatenation, where a slice's fills the whole array with
    zeros once per expert.
    """
    counts = offs_E1.diff().tolist()
    parts = [F.linear(x, w) for x, w in zip(x_NH.split(counts), w_EOH.unbind(), strict=True)]
    return torch.cat(parts)


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _sum_slots(y_NH: Tensor, pos_TK: Tensor, weights_TK: Tensor | None) -> Tensor:
    total_TH = torch.zeros(len(pos_TK), y_NH.shape[1], dtype=_accumulator(y_NH.dtype), device=y_NH.device)
    for j in range(pos_TK.shape[1]):
        rows_TH = y_NH.index_select(0, pos_TK[:, j]).to(total_TH.dtype)
        total_TH += rows_TH if weights_TK is None else rows_TH * weights_TK[:, j, None]
    return total_TH.to(y_NH.dtype)


class _Permute(torch.autograd.Function):
    """Autograd's own backward would scatter-add rows in expert order and in the rows' dtype; here the owner sums."""

    @staticmethod
    def forward(ctx: Any, x_TH: Tensor, pos_TK: Tensor, src_N: Tensor) -> Tensor:
        ctx.save_for_backward(pos_TK)
        return x_TH.index_select(0, src_N // pos_TK.shape[1])

    @staticmethod
    def backward(ctx: Any, dy_NH: Tensor) -> tuple[Tensor, None, None]:
        (pos_TK,) = ctx.saved_tensors
        return _sum_slots(dy_NH, pos_TK, None), None, None


class _Unpermute(torch.autograd.Function):
    """dy[n] = weight of n's slot · dz[n's token];  dweights[t, j] = ⟨dz[t], y[pos[t, j]]⟩, both in fp32."""

    @staticmethod
    def forward(ctx: Any, y_NH: Tensor, weights_TK: Tensor, pos_TK: Tensor, src_N: Tensor) -> Tensor:
        ctx.save_for_backward(y_NH, weights_TK, pos_TK, src_N)
        return _sum_slots(y_NH, pos_TK, weights_TK)

    @staticmethod
    def backward(ctx: Any, dz_TH: Tensor) -> tuple[Tensor, Tensor, None, None]:
        y_NH, weights_TK, pos_TK, src_N = ctx.saved_tensors
        k = pos_TK.shape[1]
        wide = _accumulator(y_NH.dtype)
        dz_NH = dz_TH.index_select(0, src_N // k).to(wide)
        dy_NH = (dz_NH * weights_TK.flatten().index_select(0, src_N)[:, None]).to(y_NH.dtype)
        dots_N = (dz_NH * y_NH.to(wide)).sum(1)
        dweights_TK = dots_N.index_select(0, pos_TK.flatten()).view_as(weights_TK).to(weights_TK.dtype)
        return dy_NH, dweights_TK, None, None
