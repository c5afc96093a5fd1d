"""The routing ops the trainer calls. Checks what callers can get wrong, then hands over to an implementation:

    compiled    kernels/built: CUDA kernels for CUDA tensors, their twin for CPU tensors; `make kernels`
    reference   kernels/reference.py, plain torch, where nothing was compiled for the device, or CORPUS_KERNELS=reference

Shapes, dtypes, tie rule and summation order are fixed in reference.py and the same everywhere.
"""

from __future__ import annotations

import functools
import math
import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from corpus.errors import say_line
from kernels import reference, registered

__all__ = ["combine", "drop", "experts", "gate", "permute", "route", "swiglu_weighted"]

MAX_EXPERTS, MAX_K, MAX_SLOTS = 512, 16, 2**31 - 1  # as in csrc/semantics.h
ROWS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@torch.compiler.assume_constant_result  # or Dynamo looks through a cache, and traces how files are found and hashed
def _compiled(device: str) -> bool:
    return _decided(device)


@functools.cache
def _decided(device: str) -> bool:
    choice = os.environ.get("CORPUS_KERNELS", "compiled")
    if choice not in ("compiled", "reference"):
        raise ValueError(f"CORPUS_KERNELS={choice!r}; compiled or reference expected")
    if choice == "reference" and device in ("cpu", "cuda"):
        say_line(f"kernels: CORPUS_KERNELS=reference: plain torch computes on {device}")
    return choice == "compiled" and device in ("cpu", "cuda") and registered.library(device) is not None


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
    """(experts_TK int32, weights_TK fp32, losses_4); see reference.gate. Logits of 16 bits are widened first.

    The values of of_T, rising from 0 to segments - 1 at most, are looked at where that waits for nothing: on a CPU they are a
    ValueError, on CUDA a kernel stops the stream, as with an expert's number that is out of range.
    """
    _check(logits_TE.dim() == 2 and logits_TE.dtype in ROWS, "gate: logits", logits_TE, "floats [tokens, experts]")
    tokens, count = logits_TE.shape
    if not 1 <= count <= MAX_EXPERTS or not 1 <= k <= MAX_K:
        raise ValueError(f"gate: {count} experts, k={k}; up to {MAX_EXPERTS} experts and {MAX_K} a token expected")
    _check_size("gate", tokens, k)
    if groups < 1 or count % groups or not 1 <= top_groups <= groups or k > count // groups * top_groups:
        raise ValueError(f"gate: k={k}, groups={groups}, top_groups={top_groups} cannot be chosen from {count} experts")
    if devices < 1 or count % devices or not 1 <= top_devices <= devices:
        raise ValueError(f"gate: devices={devices}, top_devices={top_devices}; {count} experts have to divide over devices")
    if bias_E is not None:
        _check(bias_E.shape == (count,), "gate: bias", bias_E, f"[{count}]")
        _check(bias_E.device == logits_TE.device, "gate: bias", bias_E, f"device {logits_TE.device}")
    if of_T is not None:
        _check(of_T.shape == (tokens,) and of_T.dtype == torch.int32, "gate: of", of_T, f"int32 [{tokens}]")
        _check(of_T.device == logits_TE.device, "gate: of", of_T, f"device {logits_TE.device}")
        if not 1 <= segments <= MAX_SLOTS:
            raise ValueError(f"gate: segments={segments}; how many segments `of` numbers expected, 1 or more")
    elif segments < 1 or tokens % segments:
        raise ValueError(f"gate: {tokens} tokens are not {segments} segments of equal length")
    for name, value, known in (("score", score, ("softmax", "sigmoid")), ("group_score", group_score, ("max", "top2"))):
        if value not in known:
            raise ValueError(f"gate: {name}={value!r}; {' or '.join(known)} expected")
    options: dict[str, Any] = {  # in the order of native.Router
        "k": k, "segments": segments, "groups": groups, "top_groups": top_groups, "score": score, "group_score": group_score,
        "renormalize": renormalize, "scale": float(scale), "devices": devices, "top_devices": top_devices,
    }  # fmt: skip
    if _compiled(logits_TE.device.type):
        wide_TE = logits_TE.to(torch.promote_types(logits_TE.dtype, torch.float32)).contiguous()
        bias_E = None if bias_E is None else bias_E.detach().to(wide_TE.dtype).contiguous()
        of_T = None if of_T is None else of_T.contiguous()
        return registered.Gate.apply(wide_TE, bias_E, of_T, tuple(options.values()))  # type: ignore[no-any-return]
    # As in route: the twin looks itself, and on CUDA looking would wait for the device.
    looked_at = of_T is not None and of_T.device.type == "cpu" and tokens > 0
    if looked_at and (int(of_T[0]) < 0 or int(of_T[-1]) >= segments or bool((of_T.diff() < 0).any())):  # type: ignore[index, union-attr]
        seen = f"numbers {int(of_T.min())} to {int(of_T.max())}"  # type: ignore[union-attr]
        raise ValueError(f"gate: of has {seen}; the segment of each token expected, rising, from 0 to {segments - 1}")
    return reference.gate(logits_TE, bias_E, of_T, **options)


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
    _check_slots(experts_TK, "drop: experts")
    device = experts_TK.device
    fits = weights_TK.shape == experts_TK.shape and weights_TK.dtype in (torch.float32, torch.float64)
    expected = f"fp32 or fp64 {list(experts_TK.shape)} on {device}"
    _check(fits and weights_TK.device == device, "drop: weights", weights_TK, expected)
    if not 1 <= experts <= MAX_EXPERTS or sequences < 1 or devices < 1 or len(experts_TK) % sequences or experts % devices:
        raise ValueError(
            f"drop: {len(experts_TK)} tokens in {sequences} sequences, {experts} experts on {devices} devices; whole numbers, "
            f"and at most {MAX_EXPERTS} experts expected"
        )
    if sequences * devices > MAX_SLOTS:
        raise ValueError(f"drop: {sequences} sequences times {devices} devices; fewer than 2**31 places expected")
    if not (math.isfinite(capacity_factor) and capacity_factor > 0):
        raise ValueError(f"drop: capacity_factor={capacity_factor}; a finite number above 0 expected")
    if exempt_S is not None:
        fits = exempt_S.shape == (sequences,) and exempt_S.dtype == torch.bool and exempt_S.device == device
        _check(fits, "drop: exempt", exempt_S, f"bool [{sequences}] on {device}")
    if _compiled(device.type):
        room = reference.room(experts_TK.numel() // sequences, devices, capacity_factor)
        exempt_S = None if exempt_S is None else exempt_S.contiguous()
        numbers = (experts, devices, sequences, room)
        return registered.Drop.apply(experts_TK.contiguous(), weights_TK.contiguous(), exempt_S, numbers)  # type: ignore[no-any-return]
    return reference.drop(
        experts_TK,
        weights_TK,
        experts=experts,
        devices=devices,
        capacity_factor=capacity_factor,
        sequences=sequences,
        exempt_S=exempt_S,
    )


def route(experts_TK: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """(offs_E1, pos_TK, src_N) int32; see reference.route."""
    _check_slots(experts_TK, "route: experts")
    if not 1 <= count <= MAX_EXPERTS:
        raise ValueError(f"route: {count} experts; 1 to {MAX_EXPERTS} expected")
    if _compiled(experts_TK.device.type):
        return registered.route(experts_TK.contiguous(), count)
    # The twin looks itself. On CUDA looking would wait for the device; a kernel there stops the stream, as indexing in torch.
    looked_at = experts_TK.device.type == "cpu" and experts_TK.numel() > 0
    if looked_at and not 0 <= int(experts_TK.min()) <= int(experts_TK.max()) <= count:
        raise ValueError(
            f"route: experts has numbers {int(experts_TK.min())} to {int(experts_TK.max())}; 0 to {count} expected"
        )
    return reference.route(experts_TK, count)


def permute(x_TH: Tensor, pos_TK: Tensor, src_N: Tensor, offs_E1: Tensor | None = None) -> Tensor:
    """y_NH, rows grouped by expert; see reference.permute."""
    _check_slots(pos_TK, "permute: pos")
    _check_rows(x_TH, len(pos_TK), "permute: x")
    _check_places(x_TH, "permute", pos=(pos_TK, pos_TK.shape), src=(src_N, (pos_TK.numel(),)), offs=(offs_E1, None))
    if _compiled(x_TH.device.type):
        return registered.Permute.apply(x_TH.contiguous(), pos_TK, offs_E1)  # type: ignore[no-any-return]
    return reference.permute(x_TH, pos_TK, src_N, offs_E1)


def experts(x_NH: Tensor, w_EOH: Tensor, offs_E1: Tensor) -> Tensor:
    """y_NO, each group of rows times its expert's matrix; see reference.experts."""
    _check_size("experts", len(x_NH), 1)
    fits = w_EOH.dim() == 3 and x_NH.shape[-1] == w_EOH.shape[-1] and len(offs_E1) == len(w_EOH) + 1
    _check(fits, "experts: w", w_EOH, f"[{len(offs_E1) - 1}, outputs, {x_NH.shape[-1]}]")
    if x_NH.is_cuda and x_NH.dtype == torch.bfloat16:  # no count comes to the host; rows of nobody are left undefined
        return F.grouped_mm(x_NH, w_EOH.transpose(1, 2), offs=offs_E1[1:])
    return reference.experts(x_NH, w_EOH, offs_E1)


def swiglu_weighted(gate_up_N2I: Tensor, weights_TK: Tensor, src_N: Tensor, offs_E1: Tensor | None = None) -> Tensor:
    """out_NI = silu(gate) · up · weight; see reference.swiglu_weighted."""
    _check_size("swiglu_weighted", weights_TK.numel(), 1)
    _check_rows(gate_up_N2I, weights_TK.numel(), "swiglu_weighted: gate_up")
    if gate_up_N2I.shape[1] % 2:
        raise ValueError(f"swiglu_weighted: gate_up has {gate_up_N2I.shape[1]} columns; gate and up are as wide as each other")
    _check_weights(weights_TK, gate_up_N2I, "swiglu_weighted: weights")
    _check_places(gate_up_N2I, "swiglu_weighted", src=(src_N, (weights_TK.numel(),)), offs=(offs_E1, None))
    if _compiled(gate_up_N2I.device.type):
        return registered.SwigluWeighted.apply(gate_up_N2I.contiguous(), weights_TK.contiguous(), src_N, offs_E1)  # type: ignore[no-any-return]
    return reference.swiglu_weighted(gate_up_N2I, weights_TK, src_N, offs_E1)


def combine(
    y_NH: Tensor,
    weights_TK: Tensor | None,
    pos_TK: Tensor,
    src_N: Tensor,
    offs_E1: Tensor | None = None,
    shared_TH: Tensor | None = None,
) -> Tensor:
    """z_TH, the weighted sum of each token's rows and what all tokens share; see reference.combine."""
    _check_slots(pos_TK, "combine: pos")
    _check_rows(y_NH, pos_TK.numel(), "combine: y")
    if weights_TK is not None:
        _check(weights_TK.shape == pos_TK.shape, "combine: weights", weights_TK, str(list(pos_TK.shape)))
        _check_weights(weights_TK, y_NH, "combine: weights")
        weights_TK = weights_TK.contiguous()
    _check_places(y_NH, "combine", pos=(pos_TK, pos_TK.shape), src=(src_N, (pos_TK.numel(),)), offs=(offs_E1, None))
    if shared_TH is not None:
        fits = shared_TH.shape == (len(pos_TK), y_NH.shape[1]) and shared_TH.dtype == y_NH.dtype
        expected = f"{y_NH.dtype} {[len(pos_TK), y_NH.shape[1]]} on {y_NH.device}"
        _check(fits and shared_TH.device == y_NH.device, "combine: shared", shared_TH, expected)
        shared_TH = shared_TH.contiguous()
    if _compiled(y_NH.device.type):
        return registered.Combine.apply(y_NH.contiguous(), weights_TK, shared_TH, pos_TK, offs_E1)  # type: ignore[no-any-return]
    return reference.combine(y_NH, weights_TK, pos_TK, src_N, offs_E1, shared_TH)


def _check(ok: bool, what: str, seen: Tensor, expected: str) -> None:
    if not ok:
        raise ValueError(f"{what} is {seen.dtype} {list(seen.shape)} on {seen.device}; {expected} expected")


def _check_slots(slots_TK: Tensor, what: str) -> None:
    _check(slots_TK.dim() == 2 and slots_TK.dtype == torch.int32, what, slots_TK, "int32 [tokens, k]")
    if not 1 <= slots_TK.shape[1] <= MAX_K or slots_TK.numel() > MAX_SLOTS:
        raise ValueError(f"{what} is {list(slots_TK.shape)}; 1 to {MAX_K} a token and fewer than 2**31 in all expected")


def _check_size(op: str, tokens: int, k: int) -> None:
    if tokens * k > MAX_SLOTS:
        raise ValueError(f"{op}: {tokens} times {k} slots; fewer than 2**31 expected, so parts of the batch one after another")


def _check_rows(rows: Tensor, count: int, what: str) -> None:
    _check(rows.dim() == 2 and len(rows) == count and rows.dtype in ROWS, what, rows, f"floats [{count}, width]")
    if rows.is_cuda and rows.shape[1] % 8 and _compiled("cuda"):
        raise ValueError(f"{what} is {rows.shape[1]} wide; a multiple of 8 expected on CUDA")


def _check_weights(weights_TK: Tensor, rows: Tensor, what: str) -> None:
    wide = torch.promote_types(rows.dtype, torch.float32)
    _check(weights_TK.dtype == wide and weights_TK.device == rows.device, what, weights_TK, f"{wide} on {rows.device}")


def _check_places(rows: Tensor, op: str, **places: tuple[Tensor | None, tuple[int, ...] | None]) -> None:
    """pos, src and offs as route made them. Their values are not looked at."""
    for name, (seen, shape) in places.items():
        if seen is not None:
            fits = seen.dtype == torch.int32 and seen.is_contiguous() and seen.device == rows.device
            expected = f"contiguous int32 {list(shape) if shape else '[experts + 1]'} on {rows.device}"
            _check(fits and (seen.shape == shape if shape else seen.dim() == 1), f"{op}: {name}", seen, expected)
