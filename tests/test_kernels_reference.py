"""Laws of the routing ops, oracles as plain loops in float64, and gradient checks. Everything goes through kernels.ops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import ops, reference


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def loop_gate(logits: Tensor, k: int, groups: int, top_groups: int, scale: float) -> tuple[list, list]:
    """DeepSeek-V2's router, one token at a time, with Python's arithmetic."""
    chosen, weights = [], []
    for row in logits.tolist():
        size = len(row) // groups
        best = [max(row[g * size : (g + 1) * size]) for g in range(groups)]
        kept = sorted(range(groups), key=lambda g: (-best[g], g))[:top_groups]
        eligible = [e for e in range(len(row)) if e // size in kept]
        picks = sorted(eligible, key=lambda e: (-row[e], e))[:k]
        total = sum(math.exp(v - max(row)) for v in row)
        chosen.append(picks)
        weights.append([math.exp(row[e] - max(row)) / total * scale for e in picks])
    return chosen, weights


@pytest.mark.parametrize(("experts", "k", "groups", "top_groups"), [(8, 2, 1, 1), (160, 6, 8, 3), (5, 5, 1, 1), (12, 1, 4, 1)])
def test_gate_is_the_plain_loop(experts: int, k: int, groups: int, top_groups: int) -> None:
    logits = random(37, experts) * 2
    idx, weights, _ = ops.gate(logits, k=k, groups=groups, top_groups=top_groups, scale=16.0)
    chosen, expected = loop_gate(logits, k, groups, top_groups, 16.0)
    assert idx.tolist() == chosen
    assert idx.dtype == torch.int32
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_ties_go_to_the_lower_expert_and_the_lower_group() -> None:
    logits = torch.tensor([[0.0, 1.0, 1.0, 0.0, 1.0, 0.0], [2.0] * 6])
    assert ops.gate(logits, k=2)[0].tolist() == [[1, 2], [0, 1]]
    assert ops.gate(logits, k=2, groups=3, top_groups=1)[0].tolist() == [[1, 0], [0, 1]]


def test_the_group_score_is_the_maximum_not_the_sum_of_two() -> None:
    logits = torch.tensor([[3.0, -9.0, 2.0, 2.0]])  # group 0 has the best expert, group 1 the better pair
    assert ops.gate(logits, k=1, groups=2, top_groups=1)[0].tolist() == [[0]]


def test_weights_are_not_renormalised() -> None:
    _, weights, _ = ops.gate(torch.zeros(3, 8), k=2)
    torch.testing.assert_close(weights, torch.full((3, 2), 1 / 8))


def test_gate_widens_bf16_logits() -> None:
    logits = random(5, 8, dtype=torch.float32).bfloat16()
    assert ops.gate(logits, k=2)[1].dtype == torch.float32


def test_nan_reaches_the_weights_and_indices_stay_in_range() -> None:
    logits = random(4, 8)
    logits[2, 5] = float("nan")
    idx, weights, balance = ops.gate(logits, k=3, groups=4, top_groups=2)
    assert set(idx.flatten().tolist()) <= set(range(8))
    assert weights[2].isnan().all() and balance.isnan()
    assert weights[[0, 1, 3]].isfinite().all()


def test_balance_by_hand() -> None:
    even = torch.full((4, 4), 0.25, dtype=torch.float64)
    # Every expert twice: f = 1, P = 1/4, so the sum is 1.
    assert reference.balance(even, torch.tensor([[0, 1], [2, 3], [0, 1], [2, 3]]), 1).item() == pytest.approx(1)
    # All tokens to experts 0 and 1, scores there 1/2 each: f = (2, 2, 0, 0), the sum is 2 = E/K.
    worst = torch.tensor([[0.5, 0.5, 0, 0]], dtype=torch.float64).expand(4, 4)
    assert reference.balance(worst, torch.tensor([[0, 1]] * 4), 1).item() == pytest.approx(2)
    # Two sequences, each uneven in its own way, though even taken together: 2, not 1. This is the "sequence-wise".
    left, right = torch.tensor([[0.5, 0.5, 0, 0]] * 2), torch.tensor([[0, 0, 0.5, 0.5]] * 2)
    both, routes = torch.cat((left, right)), torch.tensor([[0, 1], [0, 1], [2, 3], [2, 3]])
    assert reference.balance(both, routes, 2).item() == pytest.approx(2)
    assert reference.balance(both, routes, 1).item() == pytest.approx(1)


def test_balance_counts_the_real_choice_not_a_plain_top_k() -> None:
    logits = torch.tensor([[3.0, -9.0, 2.0, 2.0]], dtype=torch.float64)
    _, _, balance = ops.gate(logits, k=2, groups=2, top_groups=1)  # takes 0 and 1 although 2 and 3 score above 1
    scores = logits.softmax(1)[0]
    assert balance.item() == pytest.approx(float(4 / 2 * (scores[0] + scores[1])))


def test_balance_gradient_is_the_derived_one() -> None:
    """dL/ds[t, e] = f of t's sequence / (tokens · sequences), then through softmax: s ∘ (d - ⟨s, d⟩)."""
    logits = random(12, 6).requires_grad_()
    idx, _, balance = ops.gate(logits, k=2, sequences=3)
    balance.backward()
    scores = logits.detach().softmax(1)
    counts = torch.zeros(3, 6, dtype=torch.float64)
    for slot, e in enumerate(idx.flatten().tolist()):
        counts[slot // 8, e] += 1
    d = (counts * 6 / (2 * 4) / (4 * 3)).repeat_interleave(4, 0)
    torch.testing.assert_close(logits.grad, scores * (d - (scores * d).sum(1, keepdim=True)))


routes = st.integers(1, 5).flatmap(
    lambda k: st.tuples(st.just(k), st.lists(st.lists(st.integers(0, 6), min_size=k, max_size=k), max_size=30))
)


@settings(deadline=None, max_examples=80)
@given(routes)
def test_index_is_a_stable_counting_sort(case: tuple[int, list[list[int]]]) -> None:
    k, rows = case
    idx = torch.tensor(rows, dtype=torch.int32).reshape(len(rows), k)
    offs, pos, src = ops.index(idx, 7)
    flat = idx.flatten().tolist()
    by_hand = sorted(range(len(flat)), key=lambda slot: (flat[slot], slot))
    assert src.tolist() == by_hand
    assert [by_hand[row] for row in pos.flatten().tolist()] == list(range(len(flat)))  # pos undoes src: a bijection
    assert offs[0] == 0 and offs[-1] == len(flat) and offs.diff().tolist() == [flat.count(e) for e in range(7)]
    assert {t.dtype for t in (offs, pos, src)} == {torch.int32}


SHAPES = {
    "mixed": [[0, 2], [2, 1], [0, 1], [3, 0], [2, 3]],
    "all to one expert": [[1, 2]] * 5,
    "k = 1": [[4], [0], [4]],
    "no tokens": [],
}


@pytest.mark.parametrize("rows", SHAPES.values(), ids=SHAPES.keys())
def test_a_layer_is_the_plain_loop(rows: list[list[int]]) -> None:
    """permute, experts, unpermute together against Σ_j w[t, j] · W[e(t, j)] x[t]; forward and every gradient."""
    k = len(rows[0]) if rows else 2
    idx = torch.tensor(rows, dtype=torch.int32).reshape(len(rows), k)
    leaves = [random(len(rows), 3, seed=1), random(5, 4, 3, seed=2), random(len(rows), k, seed=3)]
    dz = random(len(rows), 4, seed=4)
    ours, plain = ([leaf.clone().requires_grad_() for leaf in leaves] for _ in range(2))
    offs, pos, src = ops.index(idx, 5)
    z = ops.unpermute(ops.experts(ops.permute(ours[0], pos, src), ours[1], offs), ours[2], pos, src)
    x, w, weights = plain
    expected = [sum(weights[t, j] * (w[e] @ x[t]) for j, e in enumerate(row)) for t, row in enumerate(rows)]
    if rows:
        torch.testing.assert_close(z, torch.stack(expected))
        torch.stack(expected).backward(dz)
    z.backward(dz)
    for a, b in zip(ours, plain):
        torch.testing.assert_close(a.grad, b.grad if b.grad is not None else torch.zeros_like(a))


def test_gradients_by_finite_differences() -> None:
    idx = torch.tensor(SHAPES["mixed"], dtype=torch.int32)
    _, pos, src = ops.index(idx, 5)
    x, y, weights = random(5, 3, seed=1), random(10, 3, seed=2), random(5, 2, seed=3)
    for leaf in (x, y, weights):
        leaf.requires_grad_()
    assert torch.autograd.gradcheck(lambda a: ops.permute(a, pos, src), x)
    assert torch.autograd.gradcheck(lambda a, b: ops.unpermute(a, b, pos, src), (y, weights))
    logits = (torch.arange(48.0, dtype=torch.float64).view(6, 8) * 7 % 13 / 5).requires_grad_()  # no near-ties to cross
    for options in ({"k": 2, "sequences": 2}, {"k": 3, "groups": 4, "top_groups": 2, "scale": 16.0}):
        assert torch.autograd.gradcheck(lambda a, o=options: ops.gate(a, **o)[1:], logits)


def test_permute_conserves_and_unpermute_undoes_it() -> None:
    x = random(50, 4)
    idx, _, _ = ops.gate(random(50, 8, seed=1), k=3)
    _, pos, src = ops.index(idx, 8)
    rows = ops.permute(x, pos, src)
    torch.testing.assert_close(rows.sum(0), 3 * x.sum(0))
    third = torch.full((50, 3), 1 / 3, dtype=torch.float64)
    torch.testing.assert_close(ops.unpermute(rows, third, pos, src), x)


def test_bf16_rows_are_summed_in_fp32_and_rounded_once() -> None:
    y = random(4 * 6, 64, dtype=torch.float32).bfloat16()
    weights = random(4, 6, dtype=torch.float32).abs()
    _, pos, src = ops.index(torch.arange(24, dtype=torch.int32).view(4, 6) % 6, 6)
    total = torch.zeros(4, 64)
    for j in range(6):
        total = total + y.float()[pos[:, j]] * weights[:, j, None]
    assert torch.equal(ops.unpermute(y, weights, pos, src), total.bfloat16())


def test_two_runs_give_the_same_bits() -> None:
    def once() -> list[Tensor]:
        leaves = [random(*shape, dtype=torch.float32).requires_grad_() for shape in ((301, 16), (7, 8, 16), (301, 7))]
        x, w, logits = leaves
        idx, weights, balance = ops.gate(logits, k=3, sequences=7)
        offs, pos, src = ops.index(idx, 7)
        z = ops.unpermute(ops.experts(ops.permute(x, pos, src), w, offs), weights, pos, src)
        (z.square().sum() + balance).backward()
        return [z, *(leaf.grad for leaf in leaves)]

    assert all(torch.equal(a, b) for a, b in zip(once(), once()))


def test_wrong_calls_say_what_they_saw() -> None:
    with pytest.raises(ValueError, match="k=3, groups=4, top_groups=1 cannot be chosen from 8 experts"):
        ops.gate(torch.zeros(2, 8), k=3, groups=4, top_groups=1)
    with pytest.raises(ValueError, match="5 tokens are not 2 sequences"):
        ops.gate(torch.zeros(5, 8), k=1, sequences=2)
    with pytest.raises(ValueError, match="int64"):
        ops.index(torch.zeros(2, 2, dtype=torch.int64), 4)
