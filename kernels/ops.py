"""The routing ops the trainer calls. Checks what callers can get wrong, then hands over to an implementation.

There is one implementation today, `kernels.reference`. A faster one replaces a function here, one at a time, and nothing
in train/ changes: shapes, dtypes, tie rule and summation order are fixed in reference.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import reference

__all__ = ["drop", "experts", "gate", "index", "permute", "unpermute"]


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
    """(experts_TK int32, weights_TK fp32, losses_4); see reference.gate."""
    _check(logits_TE.dim() == 2, "gate: logits", logits_TE, "[tokens, experts]")
    tokens, count = logits_TE.shape
    if count % groups or not 1 <= top_groups <= groups or not 1 <= k <= count // groups * top_groups:
        raise ValueError(f"gate: k={k}, groups={groups}, top_groups={top_groups} cannot be chosen from {count} experts")
    if devices < 1 or count % devices or not 1 <= top_devices <= devices:
        raise ValueError(f"gate: devices={devices}, top_devices={top_devices}; {count} experts have to divide over devices")
    if bias_E is not None:
        _check(bias_E.shape == (count,), "gate: bias", bias_E, f"[{count}]")
    if of_T is not None:
        _check(of_T.shape == (tokens,), "gate: of", of_T, f"[{tokens}]")
    elif segments < 1 or tokens % segments:
        raise ValueError(f"gate: {tokens} tokens are not {segments} segments of equal length")
    for name, value, known in (("score", score, ("softmax", "sigmoid")), ("group_score", group_score, ("max", "top2"))):
        if value not in known:
            raise ValueError(f"gate: {name}={value!r}; {' or '.join(known)} expected")
    return reference.gate(
        logits_TE,
        bias_E,
        of_T,
        k=k,
        segments=segments,
        groups=groups,
        top_groups=top_groups,
        score=score,
        group_score=group_score,
        renormalize=renormalize,
        scale=scale,
        devices=devices,
        top_devices=top_devices,
    )


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
    """(experts_TK, weights_TK) without the slots there is no room for; see reference.drop."""
    _check(weights_TK.shape == experts_TK.shape, "drop: weights", weights_TK, str(list(experts_TK.shape)))
    if sequences < 1 or len(experts_TK) % sequences or devices < 1 or experts % devices or capacity_factor <= 0:
        raise ValueError(
            f"drop: {len(experts_TK)} tokens in {sequences} sequences, {experts} experts on {devices} devices, "
            f"capacity_factor={capacity_factor}; whole numbers and more than 0 expected"
        )
    return reference.drop(
        experts_TK,
        weights_TK,
        experts=experts,
        devices=devices,
        capacity_factor=capacity_factor,
        sequences=sequences,
        exempt_S=exempt_S,
    )


def index(experts_TK: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """(offs_E1, pos_TK, src_N) int32; see reference.index."""
    _check(experts_TK.dim() == 2 and experts_TK.dtype == torch.int32, "index: experts", experts_TK, "int32 [tokens, k]")
    return reference.index(experts_TK, count)


def permute(x_TH: Tensor, pos_TK: Tensor, src_N: Tensor) -> Tensor:
    """y_NH, rows grouped by expert; see reference.permute."""
    _check(x_TH.dim() == 2 and len(x_TH) == len(pos_TK), "permute: x", x_TH, f"[{len(pos_TK)}, hidden]")
    return reference.permute(x_TH, pos_TK, src_N)


def experts(x_NH: Tensor, w_EOH: Tensor, offs_E1: Tensor) -> Tensor:
    """y_NO, each group of rows times its expert's matrix; see reference.experts."""
    fits = w_EOH.dim() == 3 and x_NH.shape[-1] == w_EOH.shape[-1] and len(offs_E1) == len(w_EOH) + 1
    _check(fits, "experts: w", w_EOH, f"[{len(offs_E1) - 1}, outputs, {x_NH.shape[-1]}]")
    if x_NH.is_cuda and x_NH.dtype == torch.bfloat16:  # no count comes to the host; rows of nobody are left undefined
        return F.grouped_mm(x_NH, w_EOH.transpose(1, 2), offs=offs_E1[1:])
    return reference.experts(x_NH, w_EOH, offs_E1)


def unpermute(y_NH: Tensor, weights_TK: Tensor, pos_TK: Tensor, src_N: Tensor) -> Tensor:
    """z_TH, the weighted sum of each token's rows; see reference.unpermute."""
    _check(y_NH.dim() == 2 and len(y_NH) == pos_TK.numel(), "unpermute: y", y_NH, f"[{pos_TK.numel()}, hidden]")
    _check(weights_TK.shape == pos_TK.shape, "unpermute: weights", weights_TK, str(list(pos_TK.shape)))
    return reference.unpermute(y_NH, weights_TK, pos_TK, src_N)


def _check(ok: bool, what: str, seen: Tensor, expected: str) -> None:
    if not ok:
        raise ValueError(f"{what} is {seen.dtype} {list(seen.shape)}; {expected} expected")
