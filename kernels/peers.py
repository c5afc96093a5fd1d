"""What the kernels are timed beside: each op as one would write it in torch, compiled by torch.compile, and in plain Triton."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import reference
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

    def drop(b: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """By rank: of a sequence's slots, sorted by weight and then by device, the first ones of each device."""
        devices = b["experts"].view(router.segments, -1) // (experts // router.devices)
        order = b["weights"].view_as(devices).sort(stable=True, dim=1, descending=True).indices
        order = order.gather(1, devices.gather(1, order).sort(stable=True, dim=1).indices)
        devices = devices.gather(1, order)
        rank = torch.arange(devices.shape[1], device=devices.device) - torch.searchsorted(devices, devices)
        most = reference.room(devices.shape[1], router.devices, 1.0)
        over = torch.empty_like(order, dtype=torch.bool).scatter_(1, order, rank >= most).view_as(b["experts"])
        return b["experts"].masked_fill(over, experts), b["weights"].masked_fill(over, 0.0)

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
        "gate": gate, "gate backward": gate_backward, "drop": drop, "route": route, "permute": permute,
        "permute backward": permute_backward, "combine": combine, "combine backward": combine_backward,
        "swiglu_weighted": swiglu_weighted, "swiglu_weighted backward": swiglu_weighted_backward,
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
    return chosen, weights * router.scale, (f * p).sum() * (scores.shape[1] / router.k / router.segments)


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

    @triton.jit
    def _gate_backward_kernel(
        logits, experts, dweights, share, dlosses, out, tokens, length, count, k, sets, scale, WIDTH: tl.constexpr
    ):
        token, e = tl.program_id(0), tl.arange(0, WIDTH)
        x = tl.load(logits + token * count + e, mask=e < count, other=-float("inf"))
        scores = tl.exp(x - tl.max(x, 0))
        scores = scores / tl.sum(scores, 0)
        d = tl.load(share + token // length * sets * count + e, mask=e < count, other=0.0) * tl.load(dlosses) / tokens
        for j in range(k):
            chosen = tl.load(experts + token * k + j)
            d += tl.where(e == chosen, tl.load(dweights + token * k + j) * scale, 0.0)
        tl.store(out + token * count + e, scores * (d - tl.sum(scores * d, 0)), mask=e < count)

    @triton.jit
    def _count_kernel(experts, counts, slots, count, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
        block, e = tl.program_id(0), tl.arange(0, WIDTH)
        n = block * BLOCK + tl.arange(0, BLOCK)
        chosen = tl.load(experts + n, mask=n < slots, other=WIDTH)
        here = tl.sum((chosen[:, None] == e[None, :]).to(tl.int32), 0)
        tl.store(counts + block * count + e, here, mask=e < count)

    @triton.jit
    def _place_kernel(experts, starts, pos, src, slots, count, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
        block, e = tl.program_id(0), tl.arange(0, WIDTH)
        n = block * BLOCK + tl.arange(0, BLOCK)
        chosen = tl.load(experts + n, mask=n < slots, other=WIDTH)
        mine = (chosen[:, None] == e[None, :]).to(tl.int32)
        before = tl.sum((tl.cumsum(mine, 0) - mine) * mine, 1)
        row = tl.load(starts + block * count + chosen, mask=n < slots, other=0) + before
        tl.store(pos + n, row, mask=n < slots)
        tl.store(src + row, n, mask=n < slots)

    @triton.jit
    def _swiglu_kernel(gate_up, weights, src, out, inner, BLOCK: tl.constexpr):
        row, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        gate = tl.load(gate_up + row * 2 * inner + i, mask=i < inner, other=0.0).to(tl.float32)
        up = tl.load(gate_up + row * 2 * inner + inner + i, mask=i < inner, other=0.0).to(tl.float32)
        weight = tl.load(weights + tl.load(src + row))
        tl.store(out + row * inner + i, (gate * tl.sigmoid(gate) * up * weight).to(out.dtype.element_ty), mask=i < inner)

    @triton.jit
    def _swiglu_backward_kernel(dout, gate_up, weights, src, dgate_up, dweights, inner, BLOCK: tl.constexpr):
        row, i = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
        gate = tl.load(gate_up + row * 2 * inner + i, mask=i < inner, other=0.0).to(tl.float32)
        up = tl.load(gate_up + row * 2 * inner + inner + i, mask=i < inner, other=0.0).to(tl.float32)
        d = tl.load(dout + row * inner + i, mask=i < inner, other=0.0).to(tl.float32)
        slot = tl.load(src + row)
        weight, s = tl.load(weights + slot), tl.sigmoid(gate)
        dgate = d * weight * up * s * (1 + gate * (1 - s))
        tl.store(dgate_up + row * 2 * inner + i, dgate.to(dgate_up.dtype.element_ty), mask=i < inner)
        tl.store(dgate_up + row * 2 * inner + inner + i, (d * weight * gate * s).to(dgate_up.dtype.element_ty), mask=i < inner)
        tl.store(dweights + slot, tl.sum(d * gate * s * up, 0))

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

    def _triton_gate_backward(b: dict[str, Tensor], r: Router) -> Tensor:
        out, sets = torch.empty_like(b["logits"]), b["balance"].shape[1]
        tokens, count = out.shape
        _gate_backward_kernel[(tokens,)](
            b["logits"], b["experts"], b["dweights"], b["balance"], b["dlosses"], out, tokens, tokens // len(b["balance"]),
            count, r.k, sets, r.scale, triton.next_power_of_2(count), num_warps=1,
        )  # fmt: skip
        return out

    def _triton_route(b: dict[str, Tensor], r: Router) -> tuple[Tensor, Tensor, Tensor]:
        """Counts of blocks of slots, their scan by torch, then each slot's place among its block's."""
        experts = b["balance"].shape[2]
        pos, src, slots = torch.empty_like(b["experts"]), torch.empty_like(b["experts"]).flatten(), b["experts"].numel()
        blocks, width = triton.cdiv(slots, 128), triton.next_power_of_2(experts)
        counts = torch.empty(blocks, experts, dtype=torch.int32, device=pos.device)
        _count_kernel[(blocks,)](b["experts"], counts, slots, experts, 128, width)
        ends = counts.T.flatten().cumsum(0, dtype=torch.int32).view(experts, blocks)
        starts = (ends.T - counts).contiguous()
        _place_kernel[(blocks,)](b["experts"], starts, pos, src, slots, experts, 128, width)
        return src, pos, ends[:, -1]

    def _triton_swiglu(b: dict[str, Tensor], r: Router) -> Tensor:
        rows, inner = len(b["gate_up"]), b["gate_up"].shape[1] // 2
        out = b["gate_up"].new_empty(rows, inner)
        _swiglu_kernel[(rows, triton.cdiv(inner, 1024))](b["gate_up"], b["weights"], b["src"], out, inner, 1024)
        return out

    def _triton_swiglu_backward(b: dict[str, Tensor], r: Router) -> tuple[Tensor, Tensor]:
        dgate_up, dweights = torch.empty_like(b["gate_up"]), torch.empty_like(b["weights"]).flatten()
        rows, inner = b["dout"].shape
        _swiglu_backward_kernel[(rows,)](
            b["dout"], b["gate_up"], b["weights"], b["src"], dgate_up, dweights, inner, triton.next_power_of_2(inner)
        )
        return dgate_up, dweights

    _TRITON |= {
        "gate": _triton_gate,
        "gate backward": _triton_gate_backward,
        "route": _triton_route,
        "permute": _triton_permute,
        "permute backward": lambda b, r: _triton_combine(b, r, False),
        "combine": _triton_combine,
        "combine backward": _triton_combine_backward,
        "swiglu_weighted": _triton_swiglu,
        "swiglu_weighted backward": _triton_swiglu_backward,
    }
