"""What the kernels are timed beside: each op as one would write it in torch, compiled by torch.compile, and in plain Triton."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.native import Router

__all__ = ["of"]

try:
    import triton
    import triton.language as tl
except ImportError:  # torch for CPUs comes without
    triton = None


def of(op: str, experts: int, router: Router) -> dict[str, Callable[[dict[str, Tensor]], object]]:
    """Contenders by name; each takes the buffers of kernels.bench."""
    k = router.k

    def gate(b: dict[str, Tensor]) -> tuple[Tensor, ...]:
        return _gate(b["logits"], router)

    def gate_backward(b: dict[str, Tensor]) -> Tensor:
        """Of weights and expert-level balance only, by the formula; autograd cannot be captured apart from its forward."""
        scores = b["logits"].softmax(-1)
        d = torch.zeros_like(scores).scatter_(1, b["experts"].long(), b["dweights"])
        f = b["balance"][:, 0].repeat_interleave(len(scores) // len(b["balance"]), 0)
        d = d * router.scale + f * b["dlosses"][0] / len(scores)
        return scores * (d - (scores * d).sum(1, keepdim=True))

    def route(b: dict[str, Tensor]) -> tuple[Tensor, ...]:
        src = b["experts"].flatten().sort(stable=True).indices
        counts = torch.zeros(experts, dtype=torch.int32, device=src.device)
        counts = counts.scatter_add_(0, b["experts"].flatten().long(), torch.ones_like(b["experts"].flatten()))
        return src, src.argsort(), counts.cumsum(0)

    def permute(b: dict[str, Tensor]) -> Tensor:
        return b["x"][b["src"] // k]

    def permute_backward(b: dict[str, Tensor]) -> Tensor:
        return b["y"][b["pos"]].sum(1)

    def combine(b: dict[str, Tensor]) -> Tensor:
        return (b["y"][b["pos"]].float() * b["weights"][..., None]).sum(1).to(b["y"].dtype)

    def combine_backward(b: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        dz = b["x"][:, None].float()
        dy = torch.empty_like(b["y"])
        dy[b["pos"].flatten()] = (dz * b["weights"][..., None]).to(dy.dtype).flatten(0, 1)
        return dy, (dz * b["y"][b["pos"]].float()).sum(-1)

    def swiglu_weighted(b: dict[str, Tensor]) -> Tensor:
        gate, up = b["gate_up"].chunk(2, -1)
        return (F.silu(gate.float()) * up.float() * b["weights"].flatten()[b["src"]][:, None]).to(gate.dtype)

    def swiglu_weighted_backward(b: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        gate, up = (half.float() for half in b["gate_up"].chunk(2, -1))
        d, weight = b["dout"].float(), b["weights"].flatten()[b["src"]][:, None]
        s = gate.sigmoid()
        dgate = d * weight * up * s * (1 + gate * (1 - s))
        dw = torch.zeros_like(b["weights"]).flatten()
        dw[b["src"].long()] = (d * gate * s * up).sum(1)
        return torch.cat((dgate, d * weight * gate * s), -1).to(b["gate_up"].dtype), dw

    plain = {
        "gate": gate, "gate backward": gate_backward, "route": route, "permute": permute, "permute backward": permute_backward,
        "combine": combine, "combine backward": combine_backward, "swiglu_weighted": swiglu_weighted,
        "swiglu_weighted backward": swiglu_weighted_backward,
    }[op]  # fmt: skip
    found: dict[str, Callable[[dict[str, Tensor]], object]] = {"torch eager": plain, "torch.compile": torch.compile(plain)}
    if triton is not None and op in _TRITON:
        found["Triton"] = lambda b: _TRITON[op](b, router)
    return found


def _gate(logits: Tensor, router: Router) -> tuple[Tensor, ...]:
    """Choices, weights, and the expert-level balance: without the other losses, so less than ours does."""
    scores = logits.softmax(-1)
    eligible = scores
    if router.groups > 1:
        best = scores.unflatten(1, (router.groups, -1)).amax(-1)
        keep = torch.zeros_like(best).scatter_(1, best.topk(router.top_groups, dim=-1)[1], 1.0)
        eligible = scores * keep.repeat_interleave(scores.shape[1] // router.groups, 1)
    weights, chosen = eligible.topk(router.k, dim=-1)
    routed = torch.zeros_like(scores).scatter_(1, chosen, 1.0)
    f, p = (x.unflatten(0, (router.segments, -1)).mean(1) for x in (routed, scores))
    return chosen, weights * router.scale, (f * p).sum()


_TRITON: dict[str, Callable[[dict[str, Tensor], Router], Any]] = {}

if triton is not None:

    @triton.jit
    def _gate_kernel(logits, experts, weights, count, k, groups: tl.constexpr, top_groups, scale, WIDTH: tl.constexpr):
        token = tl.program_id(0)
        e = tl.arange(0, WIDTH)
        x = tl.load(logits + token * count + e, mask=e < count, other=-float("inf"))
        scores = tl.exp(x - tl.max(x, 0))
        scores = scores / tl.sum(scores, 0)
        left = tl.where(e < count, scores, -1.0)
        if groups > 1:
            group = e // (count // groups)
            open_ = tl.zeros([WIDTH], tl.int32)
            by_group = left
            for _ in range(top_groups):
                best = tl.argmax(by_group, 0) // (count // groups)
                open_ = tl.where(group == best, 1, open_)
                by_group = tl.where(group == best, -1.0, by_group)
            left = tl.where(open_ == 1, left, -1.0)
        for j in range(k):
            best = tl.argmax(left, 0)
            tl.store(experts + token * k + j, best)
            tl.store(weights + token * k + j, tl.max(left, 0) * scale)
            left = tl.where(e == best, -1.0, left)

    @triton.jit
    def _permute_kernel(x, pos, y, hidden, k, BLOCK: tl.constexpr):
        token, h = tl.program_id(0), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        row = tl.load(x + token.to(tl.int64) * hidden + h, mask=h < hidden)
        for j in range(k):
            to = tl.load(pos + token * k + j).to(tl.int64)
            tl.store(y + to * hidden + h, row, mask=h < hidden)

    @triton.jit
    def _combine_kernel(y, weights, pos, z, hidden, k, WEIGHTED: tl.constexpr, BLOCK: tl.constexpr):
        token, h = tl.program_id(0), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        total = tl.zeros([BLOCK], tl.float32)
        for j in range(k):
            row = tl.load(pos + token * k + j).to(tl.int64)
            value = tl.load(y + row * hidden + h, mask=h < hidden, other=0.0).to(tl.float32)
            total += value * tl.load(weights + token * k + j) if WEIGHTED else value
        tl.store(z + token.to(tl.int64) * hidden + h, total.to(z.dtype.element_ty), mask=h < hidden)

    @triton.jit
    def _combine_backward_kernel(dz, y, weights, pos, dy, dweights, hidden, k, BLOCK: tl.constexpr):
        token, h = tl.program_id(0), tl.arange(0, BLOCK)
        up = tl.load(dz + token.to(tl.int64) * hidden + h, mask=h < hidden, other=0.0).to(tl.float32)
        for j in range(k):
            row = tl.load(pos + token * k + j).to(tl.int64)
            value = tl.load(y + row * hidden + h, mask=h < hidden, other=0.0).to(tl.float32)
            tl.store(dy + row * hidden + h, (up * tl.load(weights + token * k + j)).to(dy.dtype.element_ty), mask=h < hidden)
            tl.store(dweights + token * k + j, tl.sum(up * value, 0))

    def _triton_gate(b: dict[str, Tensor], r: Router) -> tuple[Tensor, Tensor]:
        tokens, count = b["logits"].shape
        experts = torch.empty(tokens, r.k, dtype=torch.int32, device=b["logits"].device)
        weights = b["logits"].new_empty(tokens, r.k)
        width = triton.next_power_of_2(count)
        _gate_kernel[(tokens,)](b["logits"], experts, weights, count, r.k, r.groups, r.top_groups, r.scale, width, num_warps=1)
        return experts, weights

    def _triton_permute(b: dict[str, Tensor], r: Router) -> Tensor:
        tokens, hidden = b["x"].shape
        y = b["x"].new_empty(tokens * r.k, hidden)
        _permute_kernel[(tokens, triton.cdiv(hidden, 1024))](b["x"], b["pos"], y, hidden, r.k, 1024)
        return y

    def _triton_combine(b: dict[str, Tensor], r: Router, weighted: bool = True) -> Tensor:
        tokens, hidden = len(b["pos"]), b["y"].shape[1]
        z = b["y"].new_empty(tokens, hidden)
        weights = b["weights"] if weighted else b["y"]
        _combine_kernel[(tokens, triton.cdiv(hidden, 1024))](b["y"], weights, b["pos"], z, hidden, r.k, weighted, 1024)
        return z

    def _triton_combine_backward(b: dict[str, Tensor], r: Router) -> tuple[Tensor, Tensor]:
        dy, dweights = torch.empty_like(b["y"]), torch.empty_like(b["weights"])
        tokens, hidden = b["x"].shape
        width = triton.next_power_of_2(hidden)
        _combine_backward_kernel[(tokens,)](
            b["x"], b["y"], b["weights"], b["pos"], dy, dweights, hidden, r.k, width, num_warps=8
        )
        return dy, dweights

    _TRITON |= {
        "gate": _triton_gate,
        "permute": _triton_permute,
        "permute backward": lambda b, r: _triton_combine(b, r, False),
        "combine": _triton_combine,
        "combine backward": _triton_combine_backward,
    }
