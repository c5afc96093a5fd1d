"""What every routing op means, in plain torch. A CUDA kernel or CPU twin is right when it agrees with this file.

    gate       logits -> which k experts each token goes to, with what weight, and how uneven that is
    drop       slots beyond what a device has room for -> nobody's
    route      experts -> where each (token, slot) sits when rows are grouped by expert
    permute    token rows -> rows grouped by expert
    experts    x · wᵀ per group of rows
    swiglu_weighted  silu(gate) · up · the slot's weight, per row
    combine    rows grouped by expert -> weighted sum per token

Letters in names are shapes: T tokens, E experts, K experts per token, N = T·K rows (static, so nothing waits on a count),
H hidden, O outputs, S sequences; E1 is E+1. A slot is a pair (token t, choice j) with number t·K + j.

Rules, the same in every implementation:
  - scores are a softmax over all experts, or sigmoids, in fp32 (fp64 stays fp64); weights are scores times `scale`;
  - softmax without a bias chooses by logit, which orders like the score but does not depend on how an exponential rounds;
  - a tie goes to the lower expert; slots are in order of falling logit;
  - sums over slots run in slot order j = 0…K-1 with an fp32 accumulator, so results do not depend on the launch;
  - rows of one expert are in slot order (stable);
  - a NaN logit counts as the largest, so indices stay in range and the NaN reaches the loss, where the trainer stops; with an
    infinite one z and the token's gradient are NaN, and all its scores of a softmax by inf - inf, while a sigmoid of it is 1;
    a -inf one is an expert of score 0, and where all are -inf shares, z and gradient are NaN;
  - `offs`, where an op takes it, says which rows are an expert's; those after the last are nobody's: written as 0, never read.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.fuse import fused_on_cuda

__all__ = ["combine", "drop", "experts", "gate", "losses", "permute", "room", "route", "swiglu_weighted"]


def gate(
    logits_TE: Tensor,
    bias_E: Tensor | None = None,
    of_T: Tensor | None = None,
    *,
    k: int,
    segments: int = 1,
    groups: int = 1,
    top_groups: int = 1,
    score: str = "softmax",
    group_score: str = "max",
    renormalize: bool = False,
    scale: float = 1.0,
    devices: int = 1,
    top_devices: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """(experts_TK int32, weights_TK, losses_4): the router of DeepSeek-V2 (section 2.1.2), or of V3 (equations 12-16).

    bias_E: added to a score for the choice, not for the weight. groups, top_groups: with groups > 1 only experts of the
        `top_groups` best groups are eligible; a group's score is its best expert's ("max", V2; Megatron and torchtitan get
        this wrong) or the sum of its two best ("top2", V3).
    renormalize: weights of a token are divided by their sum. scale: multiplies weights.
    of_T, segments: number of the segment each token is in, int32, rising; None: `segments` of equal length. See `losses`.
    devices, top_devices: D and M of the device and communication balance.
    """
    logits_TE = logits_TE.to(_accumulator(logits_TE.dtype))
    scores_TE = logits_TE.softmax(-1) if score == "softmax" else logits_TE.sigmoid()
    eligible_TE = logits_TE.detach() if score == "softmax" and bias_E is None else scores_TE.detach()
    if bias_E is not None:
        eligible_TE = eligible_TE + bias_E
    if groups > 1:
        grouped_TGE = eligible_TE.unflatten(1, (groups, -1))
        best_TG = grouped_TGE.amax(-1) if group_score == "max" else grouped_TGE.topk(min(2, grouped_TGE.shape[2]))[0].sum(-1)
        kept_TM = best_TG.sort(dim=1, descending=True, stable=True).indices[:, :top_groups]
        open_TG = torch.zeros_like(best_TG, dtype=torch.bool).scatter_(1, kept_TM, True)
        open_TE = open_TG.repeat_interleave(logits_TE.shape[1] // groups, dim=1)
    # Not topk: it leaves open which of two equal values wins. A stable sort does not.
    order_TE = eligible_TE.sort(dim=1, descending=True, stable=True).indices
    if groups > 1:  # then those of open groups first: -inf for the others would tie with a logit of -inf
        order_TE = order_TE.gather(1, (~open_TE).gather(1, order_TE).sort(dim=1, stable=True).indices)
    experts_TK = order_TE[:, :k]
    weights_TK = scores_TE.gather(1, experts_TK)
    if renormalize:
        weights_TK = weights_TK / (weights_TK.sum(1, keepdim=True) + 1e-20)
    shares_TE = scores_TE if score == "softmax" else scores_TE / scores_TE.sum(1, keepdim=True)
    values_4 = losses(logits_TE, shares_TE, experts_TK, of_T, segments, devices, top_devices)
    return experts_TK.to(torch.int32), weights_TK * scale, values_4


def losses(
    logits_TE: Tensor, shares_TE: Tensor, experts_TK: Tensor, of_T: Tensor | None, segments: int, devices: int, top_devices: int
) -> Tensor:
    """[balance over experts, over devices, of what devices receive, z], without their weights, each for one average token.

    The first three are V2's equations 23-31, per segment of L tokens: Σ_e f_e·P_e with f_e = E/(K·L) · (tokens sent to e) and
    P_e the mean share of e; Σ_d f'_d·P'_d with f' the mean of f over the device's experts and P' the sum of P; Σ_d f''_d·P'_d
    with f''_d = D/(M·L) · (tokens with an expert on d). Each is 1 when the load is even. f, f', f'' count the routes taken, as
    constants for autograd. Segments count by their length, so values of parts of a batch add up by their share of its
    tokens. z is the mean of logsumexp² (ST-MoE, arXiv 2202.08906).
    """
    tokens, count = shares_TE.shape
    if tokens == 0:
        return torch.zeros(4, dtype=shares_TE.dtype, device=shares_TE.device) + shares_TE.sum()
    k = experts_TK.shape[1]
    equal = of_T is None
    of_T = torch.arange(tokens, device=shares_TE.device) // (tokens // segments) if of_T is None else of_T.long()

    def per_segment(x_TX: Tensor) -> Tensor:
        if equal:
            return x_TX.unflatten(0, (segments, -1)).sum(1)
        return x_TX.new_zeros(segments, x_TX.shape[1]).index_add(0, of_T, x_TX)

    length_S1 = torch.bincount(of_T, minlength=segments).clamp(min=1)[:, None]
    sent_SE = torch.bincount((of_T[:, None] * count + experts_TK).flatten(), minlength=segments * count)
    f_SE = sent_SE.view(segments, count).to(shares_TE.dtype) * (count / k) / length_S1
    p_SE = per_segment(shares_TE) / tokens
    p_SD = p_SE.unflatten(1, (devices, -1)).sum(-1)
    f_SD = f_SE.unflatten(1, (devices, -1)).mean(-1)
    reached_TD = torch.zeros(tokens, devices, dtype=shares_TE.dtype, device=shares_TE.device)
    reached_TD.scatter_(1, experts_TK.long() // (count // devices), 1.0)
    received_SD = per_segment(reached_TD) * (devices / top_devices) / length_S1
    # Not torch's logsumexp, which makes inf of an infinite logit: here that is NaN, in z and in its gradient.
    top_T1 = logits_TE.detach().amax(1, keepdim=True)
    z = (top_T1[:, 0] + (logits_TE - top_T1).exp().sum(1).log()).square().mean()
    return torch.stack(((f_SE * p_SE).sum(), (f_SD * p_SD).sum(), (received_SD * p_SD).sum(), z))


def drop(
    experts_TK: Tensor,
    weights_TK: Tensor,
    *,
    experts: int,
    devices: int,
    capacity_factor: float,
    sequences: int,
    exempt_S: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(experts_TK, weights_TK) with slots dropped: their expert is the number `experts`, one past the last, their weight 0.

    V2 section 2.2.4: a device has room for capacity_factor times its even share of a sequence's slots (rounded up); those of
    least weight go first, of equal ones the later. The paper counts over the tokens a device receives at a time, which
    depends on how many ranks there are; here each sequence counts by itself. exempt: sequences that lose nothing.
    """
    if experts_TK.numel() == 0:
        return experts_TK, weights_TK
    slots = experts_TK.numel() // sequences
    most = room(slots, devices, capacity_factor)
    sequence_N = torch.arange(experts_TK.numel(), device=experts_TK.device) // slots
    place_N = sequence_N * devices + experts_TK.flatten() // (experts // devices)
    by_weight_N = weights_TK.detach().flatten().sort(descending=True, stable=True).indices
    order_N = by_weight_N[place_N[by_weight_N].sort(stable=True).indices]
    starts_P = torch.bincount(place_N, minlength=sequences * devices).cumsum(0).roll(1)
    starts_P[0] = 0
    rank_N = torch.empty_like(order_N)
    rank_N[order_N] = torch.arange(len(order_N), device=order_N.device) - starts_P[place_N[order_N]]
    over_TK = (rank_N >= most).view_as(experts_TK)
    if exempt_S is not None:
        over_TK = over_TK & ~exempt_S[sequence_N].view_as(experts_TK)
    return experts_TK.masked_fill(over_TK, experts), weights_TK.masked_fill(over_TK, 0.0)


def room(slots: int, devices: int, capacity_factor: float) -> int:
    """How many of a sequence's slots a device takes: no more than there are, for the kernels hold it in 32 bits."""
    return math.ceil(min(capacity_factor * slots / devices, slots))


def route(experts_TK: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """(offs_E1, pos_TK, src_N), int32: a stable counting sort of the slots by expert, for `count` experts.

    Rows offs[e]…offs[e+1] belong to expert e. pos: the row of a slot. src: the slot of a row, so src // K is its token.
    Slots that were dropped have the number `count`; their rows come last and belong to nobody.
    """
    flat_N = experts_TK.flatten()
    src_N = flat_N.sort(stable=True).indices
    pos_N = src_N.argsort()  # the inverse; on CUDA a sort is a tenth of an indexed store that has to be deterministic
    offs_E1 = torch.zeros(count + 1, dtype=torch.int32, device=flat_N.device)
    offs_E1[1:] = torch.bincount(flat_N, minlength=count)[:count].cumsum(0)
    return offs_E1, pos_N.view(experts_TK.shape).to(torch.int32), src_N.to(torch.int32)


def permute(x_TH: Tensor, pos_TK: Tensor, src_N: Tensor, offs_E1: Tensor | None = None) -> Tensor:
    """y_NH with y[n] = x[src[n] // K]. Its gradient sums a token's rows in slot order."""
    return _Permute.apply(x_TH, pos_TK, src_N, offs_E1)


def swiglu_weighted(gate_up_N2I: Tensor, weights_TK: Tensor, src_N: Tensor, offs_E1: Tensor | None = None) -> Tensor:
    """out_NI = silu(gate) · up · weight of the row's slot, in fp32, rounded once.

    By linearity the second product of an expert may carry the weight as well before as after it. Before, combine needs no
    weights, and its backward none of the rows, which then are not kept (Megatron-Core, SonicMoE: arXiv 2512.14080).
    """
    wide_N2I = gate_up_N2I.to(_accumulator(gate_up_N2I.dtype))
    gate_NI, up_NI = wide_N2I.chunk(2, dim=1)
    out_NI = F.silu(gate_NI) * up_NI * weights_TK.flatten().index_select(0, src_N)[:, None]
    return _of_experts(out_NI, offs_E1).to(gate_up_N2I.dtype)


def combine(
    y_NH: Tensor,
    weights_TK: Tensor | None,
    pos_TK: Tensor,
    src_N: Tensor,
    offs_E1: Tensor | None = None,
    shared_TH: Tensor | None = None,
) -> Tensor:
    """z_TH with z[t] = shared[t] + Σ_j weights[t, j] · y[pos[t, j]], accumulated in fp32, rounded once to y's dtype."""
    return _Combine.apply(y_NH, weights_TK, pos_TK, src_N, offs_E1, shared_TH)


def experts(x_NH: Tensor, w_EOH: Tensor, offs_E1: Tensor) -> Tensor:
    """y_NO with y[n] = w[e]·x[n] for the expert e whose rows hold n: a grouped matrix product. Rows of nobody are 0.

    split and unbind rather than slices: their backward is one concatenation, where a slice's fills the whole array with
    zeros once per expert.
    """
    counts = offs_E1.diff().tolist()
    counts.append(len(x_NH) - sum(counts))
    *parts, nobodys = x_NH.split(counts)
    done = [F.linear(x, w) for x, w in zip(parts, w_EOH.unbind(), strict=True)]
    return torch.cat([*done, nobodys.new_zeros(len(nobodys), w_EOH.shape[1])])


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _of_experts(rows_NH: Tensor, offs_E1: Tensor | None) -> Tensor:
    if offs_E1 is None:
        return rows_NH
    return rows_NH.where((torch.arange(len(rows_NH), device=rows_NH.device) < offs_E1[-1])[:, None], 0)


@fused_on_cuda
def _sum_slots(
    y_NH: Tensor, pos_TK: Tensor, weights_TK: Tensor | None, offs_E1: Tensor | None, shared_TH: Tensor | None
) -> Tensor:
    total_TH = torch.zeros(len(pos_TK), y_NH.shape[1], dtype=_accumulator(y_NH.dtype), device=y_NH.device)
    for j in range(pos_TK.shape[1]):
        rows_TH = y_NH.index_select(0, pos_TK[:, j]).to(total_TH.dtype)
        if offs_E1 is not None:
            rows_TH = rows_TH.where((pos_TK[:, j] < offs_E1[-1])[:, None], 0)
        total_TH += rows_TH if weights_TK is None else rows_TH * weights_TK[:, j, None]
    if shared_TH is not None:
        total_TH += shared_TH
    return total_TH.to(y_NH.dtype)


class _Permute(torch.autograd.Function):
    """Autograd's own backward would scatter-add rows in expert order and in the rows' dtype; here the owner sums."""

    @staticmethod
    def forward(ctx: Any, x_TH: Tensor, pos_TK: Tensor, src_N: Tensor, offs_E1: Tensor | None) -> Tensor:
        ctx.save_for_backward(pos_TK, offs_E1)
        return _of_experts(x_TH.index_select(0, src_N // pos_TK.shape[1]), offs_E1)

    @staticmethod
    def backward(ctx: Any, dy_NH: Tensor) -> tuple[Tensor, None, None, None]:
        pos_TK, offs_E1 = ctx.saved_tensors
        return _sum_slots(dy_NH, pos_TK, None, offs_E1, None), None, None, None


class _Combine(torch.autograd.Function):
    """dy[n] = weight of n's slot · dz[n's token];  dweights[t, j] = ⟨dz[t], y[pos[t, j]]⟩, both in fp32."""

    @staticmethod
    def forward(
        ctx: Any,
        y_NH: Tensor,
        weights_TK: Tensor | None,
        pos_TK: Tensor,
        src_N: Tensor,
        offs_E1: Tensor | None,
        shared_TH: Tensor | None,
    ) -> Tensor:
        ctx.weighted, ctx.shared = weights_TK is not None, shared_TH is not None
        ctx.save_for_backward(*((y_NH, weights_TK) if ctx.weighted else ()), pos_TK, src_N, offs_E1)
        return _sum_slots(y_NH, pos_TK, weights_TK, offs_E1, shared_TH)

    @staticmethod
    def backward(ctx: Any, dz_TH: Tensor) -> tuple[Tensor, Tensor | None, None, None, None, Tensor | None]:
        dweights_TK = None
        if ctx.weighted:
            dy_NH, dweights_TK = _weigh_slots(dz_TH, *ctx.saved_tensors)
        else:
            pos_TK, src_N, offs_E1 = ctx.saved_tensors
            dy_NH = _of_experts(dz_TH.index_select(0, src_N // pos_TK.shape[1]), offs_E1)
        return dy_NH, dweights_TK, None, None, None, dz_TH if ctx.shared else None


@fused_on_cuda
def _weigh_slots(
    dz_TH: Tensor, y_NH: Tensor, weights_TK: Tensor, pos_TK: Tensor, src_N: Tensor, offs_E1: Tensor | None
) -> tuple[Tensor, Tensor]:
    wide = _accumulator(y_NH.dtype)
    dz_NH = dz_TH.index_select(0, src_N // pos_TK.shape[1]).to(wide)
    dy_NH = _of_experts(dz_NH * weights_TK.flatten().index_select(0, src_N)[:, None], offs_E1).to(y_NH.dtype)
    dots_N = _of_experts(dz_NH * y_NH.to(wide), offs_E1).sum(1)
    dweights_TK = dots_N.index_select(0, pos_TK.flatten()).view_as(weights_TK).to(weights_TK.dtype)
    return dy_NH, dweights_TK
