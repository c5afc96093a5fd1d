"""Laws of the routing ops, and oracles as plain loops in float64, of the reference and of the compiled twin.

Everything goes through kernels.ops. Gradients by finite differences are in test_kernels_gradients.py; what the CUDA kernels
compute, in fp32, is compared in test_kernels_native.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import ops, reference
from tests.implementations import behind_ops


@pytest.fixture(autouse=True, scope="module", params=["reference", "twin"])
def implementation(request: pytest.FixtureRequest) -> Iterator[None]:
    with behind_ops(request.param):
        yield


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
    idx, weights, losses = ops.gate(logits, k=3, groups=4, top_groups=2)
    assert set(idx.flatten().tolist()) <= set(range(8))
    assert weights[2].isnan().all() and losses.isnan().all()
    assert weights[[0, 1, 3]].isfinite().all()


def published_losses(logits: Tensor, experts: Tensor, of: list[int], devices: int, top: int, sigmoid: bool) -> list[float]:
    """V2's equations 23-31 as they are printed, in Python's arithmetic, one segment after another; and the z-loss."""
    tokens, count, k = len(logits), logits.shape[1], experts.shape[1]
    shares = []
    for row in logits.tolist():
        raw = [1 / (1 + math.exp(-v)) if sigmoid else math.exp(v) for v in row]
        shares.append([v / sum(raw) for v in raw])
    out = [0.0, 0.0, 0.0]
    for segment in set(of):
        own = [t for t in range(tokens) if of[t] == segment]
        length = len(own)
        f = [count / (k * length) * sum(e in experts[t].tolist() for t in own) for e in range(count)]
        p = [sum(shares[t][e] for t in own) / length for e in range(count)]
        members = [range(d * count // devices, (d + 1) * count // devices) for d in range(devices)]
        sent = [sum(any(e in experts[t].tolist() for e in member) for t in own) for member in members]
        values = (
            sum(f[e] * p[e] for e in range(count)),
            sum(sum(f[e] for e in m) / len(m) * sum(p[e] for e in m) for m in members),
            sum(devices / (top * length) * s * sum(p[e] for e in m) for s, m in zip(sent, members)),
        )
        out = [o + length / tokens * v for o, v in zip(out, values)]
    return [*out, sum(math.log(sum(math.exp(v) for v in row)) ** 2 for row in logits.tolist()) / tokens]


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("of", [[0] * 10, [0] * 5 + [1] * 5, [0, 1, 1, 1, 2, 2, 3, 3, 3, 3]])
def test_losses_are_the_published_formulas(score: str, of: list[int]) -> None:
    logits = random(10, 12) * 2
    options = {"k": 4, "groups": 4, "top_groups": 2, "devices": 4, "top_devices": 2, "score": score}
    experts, _, losses = ops.gate(logits, of_T=torch.tensor(of, dtype=torch.int32), segments=of[-1] + 1, **options)
    expected = published_losses(logits, experts, of, 4, 2, score == "sigmoid")
    torch.testing.assert_close(losses, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    if of.count(0) == 5:  # equal lengths need not be spelled out
        torch.testing.assert_close(ops.gate(logits, segments=2, **options)[2], losses, rtol=1e-14, atol=0)


def test_losses_are_1_when_even_and_more_when_not() -> None:
    even = torch.zeros(4, 4, dtype=torch.float64)
    routes = torch.tensor([[0, 1], [2, 3], [0, 1], [2, 3]])
    one = torch.zeros(4, dtype=torch.int32)
    values = reference.losses(even, even.softmax(1), routes, one, 1, 2, 1)
    torch.testing.assert_close(values[:3], torch.ones(3, dtype=torch.float64))
    # All tokens to experts 0 and 1, shares there 1/2 each: f = (2, 2, 0, 0), the sums are E/K, D and D/M.
    worst = torch.tensor([[0.5, 0.5, 0, 0]], dtype=torch.float64).expand(4, 4)
    values = reference.losses(even, worst, torch.tensor([[0, 1]] * 4), one, 1, 2, 1)
    torch.testing.assert_close(values[:3], torch.tensor([2.0, 2.0, 2.0], dtype=torch.float64))


def test_losses_of_parts_add_up_by_their_share_of_the_tokens() -> None:
    """What lets micro-batches and ranks each compute their own."""
    logits = random(9, 8)
    of = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2], dtype=torch.int32)
    options = {"k": 2, "devices": 2, "top_devices": 1}
    whole = ops.gate(logits, of_T=of, segments=3, **options)[2]
    first = ops.gate(logits[:4], of_T=of[:4], segments=1, **options)[2]
    rest = ops.gate(logits[4:], of_T=of[4:] - 1, segments=2, **options)[2]
    torch.testing.assert_close(whole, first * 4 / 9 + rest * 5 / 9)


def test_losses_count_the_real_choice_not_a_plain_top_k() -> None:
    logits = torch.tensor([[3.0, -9.0, 2.0, 2.0]], dtype=torch.float64)
    _, _, losses = ops.gate(logits, k=2, groups=2, top_groups=1)  # takes 0 and 1 although 2 and 3 score above 1
    scores = logits.softmax(1)[0]
    assert losses[0].item() == pytest.approx(float(4 / 2 * (scores[0] + scores[1])))


def test_the_gradient_of_all_losses_is_one_coefficient_per_segment_and_expert() -> None:
    """dL/ds[t, e] = (a1·f + a2·f' + a3·f'')[t's segment, e] / T, then through softmax: s ∘ (d - ⟨s, d⟩), plus the z-loss's."""
    logits = random(12, 6).requires_grad_()
    alphas = torch.tensor([0.3, 0.5, 0.7, 0.2], dtype=torch.float64)
    idx, _, losses = ops.gate(logits, k=2, segments=3, devices=3, top_devices=2)
    (losses @ alphas).backward()
    rows = logits.detach()
    scores, lse = rows.softmax(1), rows.logsumexp(1, keepdim=True)
    f, received = torch.zeros(3, 6, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    for t in range(12):
        for e in idx[t].tolist():
            f[t // 4, e] += 6 / (2 * 4)
        for d in {e // 2 for e in idx[t].tolist()}:
            received[t // 4, d] += 3 / (2 * 4)
    device = f.view(3, 3, 2).mean(2)
    c = 0.3 * f + (0.5 * device + 0.7 * received).repeat_interleave(2, 1)
    d = c.repeat_interleave(4, 0) / 12
    expected = scores * (d - (scores * d).sum(1, keepdim=True)) + 0.2 * 2 * lse * scores / 12
    torch.testing.assert_close(logits.grad, expected)


def test_v3s_router_chooses_with_the_bias_and_weighs_without() -> None:
    logits = random(40, 16)
    bias = random(16, seed=5)
    scores = logits.sigmoid()
    chosen, weights, _ = ops.gate(
        logits, bias, k=3, groups=4, top_groups=2, score="sigmoid", group_score="top2", renormalize=True, scale=2.5
    )
    for t in range(40):
        rank = [float(scores[t, e] + bias[e]) for e in range(16)]
        best = [sum(sorted(rank[g * 4 : g * 4 + 4])[-2:]) for g in range(4)]
        kept = sorted(range(4), key=lambda g: -best[g])[:2]
        picks = sorted((e for e in range(16) if e // 4 in kept), key=lambda e: -rank[e])[:3]
        assert chosen[t].tolist() == picks
        torch.testing.assert_close(weights[t], 2.5 * scores[t, picks] / scores[t, picks].sum())


def loop_drop(experts: Tensor, weights: Tensor, count: int, devices: int, room: int, sequences: int, exempt: list[bool]) -> set:
    """Slots that stay, (token, choice), found by filling every device of every sequence best first."""
    tokens, k = experts.shape
    slots = [(-float(weights[t, j]), t, j) for t in range(tokens) for j in range(k)]
    filled: dict[tuple[int, int], int] = {}
    stays = set()
    for _, t, j in sorted(slots):
        place = (t * sequences // tokens, int(experts[t, j]) * devices // count)
        filled[place] = filled.get(place, 0) + 1
        if filled[place] <= room or exempt[place[0]]:
            stays.add((t, j))
    return stays


@pytest.mark.parametrize("factor", [0.3, 1.0, 8.0])
def test_what_a_device_has_no_room_for_is_dropped(factor: float) -> None:
    logits = (random(24, 8) + torch.arange(8)).requires_grad_()  # uneven
    experts, weights, _ = ops.gate(logits, k=3)
    values = weights.tolist()
    exempt = [False, True, False]
    kept, left = ops.drop(
        experts, weights, experts=8, devices=4, capacity_factor=factor, sequences=3, exempt_S=torch.tensor(exempt)
    )
    stays = loop_drop(experts, weights.detach(), 8, 4, math.ceil(factor * 8 * 3 / 4), 3, exempt)
    for t in range(24):
        for j in range(3):
            whole = (t, j) in stays
            assert int(kept[t, j]) == (int(experts[t, j]) if whole else 8)
            assert left[t, j].item() == (values[t][j] if whole else 0)
    assert len(stays) == 72 if factor == 8 else len(stays) < 72
    # Through the layer: what is dropped gives nothing and gets no gradient.
    x, w = random(24, 5, seed=1).requires_grad_(), random(8, 5, 5, seed=2).requires_grad_()
    offs, pos, src = ops.route(kept, 8)
    z = ops.combine(ops.experts(ops.permute(x, pos, src), w, offs), left, pos, src)
    for t in range(24):
        parts = [left[t, j] * (w[int(experts[t, j])] @ x[t]) for j in range(3) if (t, j) in stays]
        torch.testing.assert_close(z[t], sum(parts, torch.zeros(5, dtype=torch.float64)))
    z.sum().backward()
    assert x.grad.isfinite().all() and logits.grad.isfinite().all()


routes = st.integers(1, 5).flatmap(
    lambda k: st.tuples(st.just(k), st.lists(st.lists(st.integers(0, 6), min_size=k, max_size=k), max_size=30))
)


@settings(deadline=None, max_examples=80)
@given(routes)
def test_route_is_a_stable_counting_sort(case: tuple[int, list[list[int]]]) -> None:
    k, rows = case
    idx = torch.tensor(rows, dtype=torch.int32).reshape(len(rows), k)
    offs, pos, src = ops.route(idx, 7)
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
    """permute, experts, combine together against Σ_j w[t, j] · W[e(t, j)] x[t]; forward and every gradient."""
    k = len(rows[0]) if rows else 2
    idx = torch.tensor(rows, dtype=torch.int32).reshape(len(rows), k)
    leaves = [random(len(rows), 3, seed=1), random(5, 4, 3, seed=2), random(len(rows), k, seed=3)]
    dz = random(len(rows), 4, seed=4)
    ours, plain = ([leaf.clone().requires_grad_() for leaf in leaves] for _ in range(2))
    offs, pos, src = ops.route(idx, 5)
    z = ops.combine(ops.experts(ops.permute(ours[0], pos, src), ours[1], offs), ours[2], pos, src)
    x, w, weights = plain
    expected = [sum(weights[t, j] * (w[e] @ x[t]) for j, e in enumerate(row)) for t, row in enumerate(rows)]
    if rows:
        torch.testing.assert_close(z, torch.stack(expected))
        torch.stack(expected).backward(dz)
    z.backward(dz)
    for a, b in zip(ours, plain):
        torch.testing.assert_close(a.grad, b.grad if b.grad is not None else torch.zeros_like(a))


def test_permute_conserves_and_combine_undoes_it() -> None:
    x = random(50, 4)
    idx, _, _ = ops.gate(random(50, 8, seed=1), k=3)
    _, pos, src = ops.route(idx, 8)
    rows = ops.permute(x, pos, src)
    torch.testing.assert_close(rows.sum(0), 3 * x.sum(0))
    third = torch.full((50, 3), 1 / 3, dtype=torch.float64)
    torch.testing.assert_close(ops.combine(rows, third, pos, src), x)


def test_bf16_rows_are_summed_in_fp32_and_rounded_once() -> None:
    y = random(4 * 6, 64, dtype=torch.float32).bfloat16()
    weights = random(4, 6, dtype=torch.float32).abs()
    _, pos, src = ops.route(torch.arange(24, dtype=torch.int32).view(4, 6) % 6, 6)
    total = torch.zeros(4, 64)
    for j in range(6):
        total = total + y.float()[pos[:, j]] * weights[:, j, None]
    assert torch.equal(ops.combine(y, weights, pos, src), total.bfloat16())


def test_two_runs_give_the_same_bits() -> None:
    def once() -> list[Tensor]:
        leaves = [random(*shape, dtype=torch.float32).requires_grad_() for shape in ((301, 16), (7, 8, 16), (301, 7))]
        x, w, logits = leaves
        idx, weights, losses = ops.gate(logits, k=3, segments=7)
        offs, pos, src = ops.route(idx, 7)
        z = ops.combine(ops.experts(ops.permute(x, pos, src), w, offs), weights, pos, src)
        (z.square().sum() + losses.sum()).backward()
        return [z, *(leaf.grad for leaf in leaves)]

    assert all(torch.equal(a, b) for a, b in zip(once(), once()))


def test_wrong_calls_say_what_they_saw() -> None:
    with pytest.raises(ValueError, match="k=3, groups=4, top_groups=1 cannot be chosen from 8 experts"):
        ops.gate(torch.zeros(2, 8), k=3, groups=4, top_groups=1)
    with pytest.raises(ValueError, match="5 tokens are not 2 segments"):
        ops.gate(torch.zeros(5, 8), k=1, segments=2)
    with pytest.raises(ValueError, match="devices=3"):
        ops.gate(torch.zeros(5, 8), k=1, devices=3)
    with pytest.raises(ValueError, match="score='tanh'; softmax or sigmoid"):
        ops.gate(torch.zeros(5, 8), k=1, score="tanh")
    with pytest.raises(ValueError, match="int64"):
        ops.route(torch.zeros(2, 2, dtype=torch.int64), 4)
    for wrong in (-1, 5):
        with pytest.raises(ValueError, match=r"route: (experts has numbers|an expert number out of range)"):
            ops.route(torch.tensor([[0, wrong]], dtype=torch.int32), 4)
