"""Gradients of every routing op by finite differences, in float64, and what gradients conserve, of every implementation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from kernels import ops
from tests.implementations import behind_ops

WIDE = torch.float64


@pytest.fixture(autouse=True, scope="module", params=["reference", "twin", "emulated", "cuda"])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    with behind_ops(request.param) as device:
        yield device


@pytest.fixture
def wide(request: pytest.FixtureRequest) -> None:
    if request.node.callspec.params["device"] in ("emulated", "cuda"):
        pytest.skip("the CUDA kernels have no fp64")


def leaf(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=WIDE).requires_grad_()


# Token 2 keeps one of its slots, token 4 none: 5 is nobody.
EXPERTS = [[0, 2], [2, 1], [5, 1], [3, 0], [5, 5]]
LIVE = pytest.mark.parametrize("dropped", [False, True])


def routes(dropped: bool) -> tuple[Tensor | None, Tensor, Tensor]:
    """(offs or None, pos, src) of 5 tokens."""
    experts = torch.tensor(EXPERTS, dtype=torch.int32)
    offs, pos, src = ops.route(experts if dropped else experts.clamp(max=4), 5)
    return offs if dropped else None, pos, src


@LIVE
def test_of_permute(dropped: bool, wide: None) -> None:
    offs, pos, src = routes(dropped)
    assert gradcheck(lambda x: ops.permute(x, pos, src, offs), leaf(5, 3, seed=1))


@LIVE
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_of_combine(dropped: bool, weighted: bool, shared: bool, wide: None) -> None:
    offs, pos, src = routes(dropped)
    y, weights, everyones = leaf(10, 3, seed=1), leaf(5, 2, seed=2), leaf(5, 3, seed=3)

    def combined(y: Tensor, weights: Tensor, everyones: Tensor) -> Tensor:
        return ops.combine(y, weights if weighted else None, pos, src, offs, everyones if shared else None)

    assert gradcheck(combined, (y, weights, everyones))


@LIVE
def test_of_swiglu_weighted(dropped: bool, wide: None) -> None:
    offs, _, src = routes(dropped)
    assert gradcheck(
        lambda rows, weights: ops.swiglu_weighted(rows, weights, src, offs), (leaf(10, 6, seed=1), leaf(5, 2, seed=2))
    )


@pytest.mark.parametrize("factor", [0.5, 1.0, 9.0])
def test_of_drop(factor: float, wide: None) -> None:
    experts = torch.tensor([[0, 2], [2, 1], [0, 1], [3, 0], [2, 3], [0, 1]], dtype=torch.int32)
    exempt = torch.tensor([False, True])
    options = {"experts": 4, "devices": 2, "capacity_factor": factor, "sequences": 2, "exempt_S": exempt}
    weights = (torch.arange(12.0, dtype=WIDE) * 7 % 12 / 8).view(6, 2).requires_grad_()  # no two near each other
    assert gradcheck(lambda w: ops.drop(experts, w, **options)[1], weights)
    assert (ops.drop(experts, weights, **options)[0] == 4).any() == (factor < 9)


GATES = {
    "segments": {"k": 2, "segments": 2, "devices": 2},
    "groups": {"k": 3, "groups": 4, "top_groups": 2, "scale": 16.0, "devices": 4, "top_devices": 2},
    "sigmoid": {"k": 3, "score": "sigmoid", "renormalize": True, "scale": 2.5},
    "renormalised": {"k": 3, "renormalize": True, "groups": 2, "group_score": "top2"},
}


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_of_gate(name: str, documents: bool, biased: bool, wide: None) -> None:
    logits = (torch.arange(48.0, dtype=WIDE).view(6, 8) * 7 % 13 / 5).requires_grad_()  # no near-ties to cross
    bias = torch.arange(8.0, dtype=WIDE) / 37 if biased else None
    of = torch.tensor([0, 0, 0, 2, 2, 3], dtype=torch.int32) if documents else None
    options = GATES[name] | ({"segments": 4} if documents else {})
    assert gradcheck(lambda a: ops.gate(a, bias, of, **options)[1:], logits)


def test_of_a_whole_layer(wide: None) -> None:
    """Every op with every argument it has, one after another."""
    logits, x, weights_ED, shared = leaf(6, 4, seed=1), leaf(6, 3, seed=2), leaf(4, 4, 3, seed=3), leaf(6, 2, seed=4)
    of = torch.tensor([0, 0, 1, 1, 1, 2], dtype=torch.int32)

    def layer(logits: Tensor, x: Tensor, weights_ED: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
        experts, weights, losses = ops.gate(logits, of_T=of, segments=3, k=2, devices=2)
        experts, weights = ops.drop(experts, weights, experts=4, devices=2, capacity_factor=0.8, sequences=1)
        offs, pos, src = ops.route(experts, 4)
        rows = ops.experts(ops.permute(x, pos, src, offs), weights_ED, offs)
        return ops.combine(ops.swiglu_weighted(rows, weights, src, offs), None, pos, src, offs, shared), losses

    assert gradcheck(layer, (logits, x, weights_ED, shared))


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, int, int, bool, int]:
    """(experts of each slot, how many there are, columns / 8, whether there is nobody, seed)."""
    tokens, k, count = draw(st.integers(0, 40)), draw(st.integers(1, 16)), draw(st.integers(1, 20))
    seed, dropped = draw(st.integers(0, 2**16)), draw(st.booleans())
    dice = torch.Generator().manual_seed(seed)
    experts = torch.randint(0, count + dropped, (tokens, k), generator=dice, dtype=torch.int32)
    return experts, count, draw(st.integers(1, 5)), dropped, seed


@settings(deadline=None, max_examples=50)
@given(problems())
def test_what_the_rows_get_is_what_the_tokens_give(device: str, problem: tuple[Tensor, int, int, bool, int]) -> None:
    """Sums of gradients go through permute and combine unchanged, whichever the shapes; rows of nobody give and get nothing."""
    experts, count, eighths, dropped, seed = problem
    (tokens, k), hidden = experts.shape, 8 * eighths
    dice = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=dice).to(device)

    offs, pos, src = ops.route(experts.to(device), count)
    live = (experts < count).to(device)  # slots
    offs = offs if dropped else None
    x, y, weights = (t.requires_grad_() for t in (noise(tokens, hidden), noise(tokens * k, hidden), noise(tokens, k)))
    shared, dy, dz = noise(tokens, hidden).requires_grad_(), noise(tokens * k, hidden), noise(tokens, hidden)
    alive = int(live.sum())
    dead = torch.arange(tokens * k, device=device) >= alive
    dy[dead] = float("nan")

    def same(one: Tensor, other: Tensor) -> None:
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=2e-5)

    (dx,) = torch.autograd.grad(ops.permute(x, pos, src, offs), x, dy)
    same(dx.double().sum(0), dy[:alive].double().sum(0))
    (plain,) = torch.autograd.grad(ops.combine(y, None, pos, src, offs), y, dz)
    assert not plain[dead].any()
    same(plain.double().sum(0), (dz.double() * live.sum(1, keepdim=True)).sum(0))
    z = ops.combine(y, weights, pos, src, offs, shared)
    got, dweights, dshared = torch.autograd.grad(z, (y, weights, shared), dz)
    assert not got[dead].any() and not dweights[~live].any() and torch.equal(dshared, dz)
    same(got.double().sum(0), (dz.double() * (weights.detach() * live).double().sum(1, keepdim=True)).sum(0))
    # z - shared is linear in the rows and in the weights: both gradients give it back.
    whole = ((z - shared).detach().double() * dz).sum()
    torch.testing.assert_close((got.double() * y.detach()).sum(), whole, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close((dweights.double() * weights.detach()).sum(), whole, rtol=1e-4, atol=1e-3)
