"""The compiled ops in torch's own terms: `torch.ops.moe.*` for CPU and CUDA tensors, shapes for tracing, and their gradients.

The ops are plain functions of tensors; gradients are thin autograd Functions over them. (An op made by torch.library.custom_op
with register_autograd costs 38 us a call, one of torch.library.Library under a Function 14: dev/LOG.md.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from corpus.errors import say_line
from kernels.build import built
from kernels.check import disagreements
from kernels.native import KernelError, Library, Router

__all__ = ["Combine", "Drop", "Gate", "Permute", "SwigluWeighted", "library", "route"]

ROUTER = (
    "int k, int segments, int groups, int top_groups, str score, str group_score, bool renormalize, float scale, int devices, "
    "int top_devices"
)
SCHEMAS = {
    "gate": f"(Tensor logits, Tensor? bias, Tensor? of, {ROUTER}) -> (Tensor, Tensor, Tensor, Tensor)",
    "gate_backward": "(Tensor logits, Tensor? of, Tensor experts, Tensor balance, Tensor dweights, Tensor dlosses, "
    f"{ROUTER}) -> Tensor",
    "drop": "(Tensor experts, Tensor weights, Tensor? exempt, int count, int devices, int sequences, int room)"
    " -> (Tensor, Tensor)",
    "route": "(Tensor experts, int count) -> (Tensor, Tensor, Tensor)",
    "permute": "(Tensor x, Tensor pos, Tensor? offs) -> Tensor",
    "combine": "(Tensor y, Tensor? weights, Tensor? shared, Tensor pos, Tensor? offs) -> Tensor",
    "combine_backward": "(Tensor dz, Tensor y, Tensor weights, Tensor pos, Tensor? offs) -> (Tensor, Tensor)",
    "swiglu_weighted": "(Tensor gate_up, Tensor weights, Tensor src, Tensor? offs) -> Tensor",
    "swiglu_weighted_backward": "(Tensor dout, Tensor gate_up, Tensor weights, Tensor src, Tensor? offs) -> (Tensor, Tensor)",
}


@functools.cache
def library(device: str) -> Library | None:
    """What was compiled for `device`, cpu or cuda, and agrees with the reference; None: plain torch has to do. Said once."""
    path = built(device)
    where = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    if not path.exists():
        if device == "cuda":
            _say(f"no compiled CUDA kernels for this {where}; torch.compile does their work. `make kernels` builds them")
        else:
            _say("no compiled twin for this CPU; plain torch computes the same. `make kernels` builds it")
        return None
    try:
        found = Library(path)
        wrong = disagreements(found, device) if device == "cuda" else []
    except (OSError, KernelError) as error:  # OSError: the loader's, of a library for another system, or of no driver
        wrong = [f"{type(error).__name__}: {error}"]
    if wrong:
        _say(
            f"{path} does not do what the reference does on this {where}, and is not used; plain torch is. Please report:\n  "
            + "\n  ".join(wrong)
        )
        return None
    _say(f"{path.name} computes on this {where}" + (", and agrees with the reference there" if device == "cuda" else ""))
    return found


def _say(text: str) -> None:
    say_line(f"kernels: {text}")


_FRAGMENT = torch.library.Library("moe", "FRAGMENT")


def _implement(name: str, device: str) -> None:
    gated = name in ("gate", "gate_backward")

    def call(*arguments: Any) -> Any:
        found = library(device)
        assert found is not None, f"torch.ops.moe.{name} needs what `make kernels` builds for {device}"
        if gated:
            arguments = (*arguments[:-10], Router(*arguments[-10:]))
        return getattr(found, name)(*arguments)

    _FRAGMENT.impl(name, call, device.upper())


for _name, _schema in SCHEMAS.items():
    _FRAGMENT.define(_name + _schema)
    for _device in ("cpu", "cuda"):
        _implement(_name, _device)


# --- Shapes, for torch.compile and torch.library.opcheck ----------------------------------------------------------------


@torch.library.register_fake("moe::gate", lib=_FRAGMENT)
def _gate(logits: Tensor, bias: Tensor | None, of: Tensor | None, k: int, segments: int, *_: Any) -> tuple[Tensor, ...]:
    tokens, count = logits.shape
    experts = logits.new_empty(tokens, k, dtype=torch.int32)
    return experts, logits.new_empty(tokens, k), logits.new_empty(4), logits.new_empty(segments, 3, count)


@torch.library.register_fake("moe::gate_backward", lib=_FRAGMENT)
def _gate_backward(logits: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(logits)


@torch.library.register_fake("moe::drop", lib=_FRAGMENT)
def _drop(experts: Tensor, weights: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(experts), torch.empty_like(weights)


@torch.library.register_fake("moe::route", lib=_FRAGMENT)
def _route(experts: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    return experts.new_empty(count + 1), torch.empty_like(experts), experts.new_empty(experts.numel())


@torch.library.register_fake("moe::permute", lib=_FRAGMENT)
def _permute(x: Tensor, pos: Tensor, offs: Tensor | None) -> Tensor:
    return x.new_empty(pos.numel(), x.shape[1])


@torch.library.register_fake("moe::combine", lib=_FRAGMENT)
def _combine(y: Tensor, weights: Tensor | None, shared: Tensor | None, pos: Tensor, offs: Tensor | None) -> Tensor:
    return y.new_empty(pos.shape[0], y.shape[1])


@torch.library.register_fake("moe::combine_backward", lib=_FRAGMENT)
def _combine_backward(dz: Tensor, y: Tensor, weights: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(y), torch.empty_like(weights)


@torch.library.register_fake("moe::swiglu_weighted", lib=_FRAGMENT)
def _swiglu_weighted(gate_up: Tensor, *_: Any) -> Tensor:
    return gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2)


@torch.library.register_fake("moe::swiglu_weighted_backward", lib=_FRAGMENT)
def _swiglu_weighted_backward(dout: Tensor, gate_up: Tensor, weights: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(gate_up), torch.empty_like(weights)


# --- Gradients ----------------------------------------------------------------------------------------------------------


def route(experts_TK: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ops.moe.route(experts_TK, count)  # type: ignore[no-any-return]


class _Once(torch.autograd.Function):
    """The first `count` tensors, which nobody differentiates by the others."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        return tensors[:count]

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise NotImplementedError("kernels: compiled ops have no second derivatives; plain torch has: CORPUS_KERNELS=reference")


def _once(backward: Callable[..., tuple[Tensor | None, ...]]) -> Callable[..., tuple[Tensor | None, ...]]:
    """A second derivative through `backward` is an error, not 0 without a word.

    torch's once_differentiable leaves it at 0 where autograd.grad is asked by an input, for its error lies on no way to one.
    What torch.compile made refuses by itself.
    """

    @functools.wraps(backward)
    def call(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return backward(ctx, *gradients)
        with torch.no_grad():
            found = backward(ctx, *gradients)
        return _Once.apply(len(found), *found, *gradients, *ctx.saved_tensors)  # type: ignore[no-any-return]

    return call


class Gate(torch.autograd.Function):
    """Choices, counts and f are constants; weights and the four losses have gradients, which come back in one pass."""

    @staticmethod
    def forward(
        ctx: Any, logits_TE: Tensor, bias_E: Tensor | None, of_T: Tensor | None, options: tuple[Any, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        experts_TK, weights_TK, losses_4, balance_S3E = torch.ops.moe.gate(logits_TE, bias_E, of_T, *options)
        ctx.save_for_backward(logits_TE, of_T, experts_TK, balance_S3E)
        ctx.mark_non_differentiable(experts_TK)
        ctx.options = options
        return experts_TK, weights_TK, losses_4

    @staticmethod
    @_once
    def backward(ctx: Any, _: Any, dweights_TK: Tensor, dlosses_4: Tensor) -> tuple[Tensor, None, None, None]:
        gradients = (dweights_TK.contiguous(), dlosses_4.contiguous())
        return torch.ops.moe.gate_backward(*ctx.saved_tensors, *gradients, *ctx.options), None, None, None


class Drop(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, experts_TK: Tensor, weights_TK: Tensor, exempt_S: Tensor | None, numbers: tuple[int, int, int, int]
    ) -> tuple[Tensor, Tensor]:
        kept_TK, kept_weights_TK = torch.ops.moe.drop(experts_TK, weights_TK, exempt_S, *numbers)
        ctx.save_for_backward(kept_TK)
        ctx.mark_non_differentiable(kept_TK)
        ctx.nobody = numbers[0]
        return kept_TK, kept_weights_TK

    @staticmethod
    @_once
    def backward(ctx: Any, _: Any, dweights_TK: Tensor) -> tuple[None, Tensor, None, None]:
        (kept_TK,) = ctx.saved_tensors
        return None, dweights_TK.masked_fill(kept_TK == ctx.nobody, 0.0), None, None


class Permute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TH: Tensor, pos_TK: Tensor, offs_E1: Tensor | None) -> Tensor:
        ctx.save_for_backward(pos_TK, offs_E1)
        return torch.ops.moe.permute(x_TH, pos_TK, offs_E1)  # type: ignore[no-any-return]

    @staticmethod
    @_once
    def backward(ctx: Any, dy_NH: Tensor) -> tuple[Tensor, None, None]:
        return torch.ops.moe.combine(dy_NH.contiguous(), None, None, *ctx.saved_tensors), None, None


class Combine(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, y_NH: Tensor, weights_TK: Tensor | None, shared_TH: Tensor | None, pos_TK: Tensor, offs_E1: Tensor | None
    ) -> Tensor:
        ctx.weighted, ctx.shared = weights_TK is not None, shared_TH is not None
        ctx.save_for_backward(*((y_NH, weights_TK) if ctx.weighted else ()), pos_TK, offs_E1)
        return torch.ops.moe.combine(y_NH, weights_TK, shared_TH, pos_TK, offs_E1)  # type: ignore[no-any-return]

    @staticmethod
    @_once
    def backward(ctx: Any, dz_TH: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        dz_TH = dz_TH.contiguous()
        dshared_TH = dz_TH if ctx.shared else None
        if ctx.weighted:
            dy_NH, dweights_TK = torch.ops.moe.combine_backward(dz_TH, *ctx.saved_tensors)
            return dy_NH, dweights_TK, dshared_TH, None, None
        return torch.ops.moe.permute(dz_TH, *ctx.saved_tensors), None, dshared_TH, None, None


class SwigluWeighted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up_N2I: Tensor, weights_TK: Tensor, src_N: Tensor, offs_E1: Tensor | None) -> Tensor:
        ctx.save_for_backward(gate_up_N2I, weights_TK, src_N, offs_E1)
        return torch.ops.moe.swiglu_weighted(gate_up_N2I, weights_TK, src_N, offs_E1)  # type: ignore[no-any-return]

    @staticmethod
    @_once
    def backward(ctx: Any, dout_NI: Tensor) -> tuple[Tensor, Tensor, None, None]:
        dgate_up_N2I, dweights_TK = torch.ops.moe.swiglu_weighted_backward(dout_NI.contiguous(), *ctx.saved_tensors)
        return dgate_up_N2I, dweights_TK, None, None
