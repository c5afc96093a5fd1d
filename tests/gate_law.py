"""The law of the gate: what an implementation computes in fp32 is what the reference computes in float64."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from kernels import ops, reference

WIDE = torch.float64


def noise(*shape: int, seed: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


@dataclasses.dataclass(frozen=True)
class Gate:
    experts: int
    k: int
    groups: int = 1
    top_groups: int = 1
    devices: int = 1
    top_devices: int = 1
    score: str = "softmax"
    group_score: str = "max"
    renormalize: bool = False
    scale: float = 1.0
    biased: bool = False

    def options(self) -> dict[str, object]:
        return {n: v for n, v in dataclasses.asdict(self).items() if n not in ("experts", "biased")}


def same_as_reference(
    gate: Gate, logits: Tensor, documents: bool, device: str, segments: int = 1, equal_nan: bool = False
) -> None:
    tokens = len(logits)
    bias = (noise(gate.experts, seed=7) * 4).round() / 8 if gate.biased else None
    of = None
    if documents:
        # Documents that begin within a tile and at its edges, end with it, hold many tiles, or have no token.
        lengths = torch.tensor([3, 61, 0, 70, 1, 12])
        of = torch.arange(6, dtype=torch.int32).repeat_interleave(lengths)[:tokens].clone()
        segments = 6
    elif tokens == 147:
        segments = 3
    dweights, dlosses = noise(tokens, gate.k, seed=3), torch.tensor([0.3, 0.5, 0.7, 0.2])
    results = []
    for wide in (False, True):
        to = {"dtype": WIDE} if wide else {"device": device}
        leaf = logits.to(**to).requires_grad_()
        route = reference.gate if wide else ops.gate
        where = None if of is None else of.to(leaf.device)
        experts, weights, losses = route(
            leaf, None if bias is None else bias.to(**to), where, segments=segments, **gate.options()
        )
        (dlogits,) = torch.autograd.grad([weights, losses], [leaf], [dweights.to(**to), dlosses.to(**to)])
        results.append([t.detach().cpu() for t in (experts, weights, losses, dlogits)])
    (experts, *seen), (expected_experts, *expected) = results
    assert torch.equal(experts, expected_experts)
    for one, other in zip(seen, expected, strict=True):
        torch.testing.assert_close(one.to(WIDE), other, rtol=2e-5, atol=2e-7, equal_nan=equal_nan)
