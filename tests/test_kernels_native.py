"""The compiled implementations against the float64 reference: the CPU twin, the CUDA kernels emulated, and on a GPU themselves.

Memory is filled with NaN before a kernel writes it, so what it leaves out shows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from kernels import ops, reference
from kernels.native import KernelError, Library, entries
from tests.gate_law import WIDE, Gate, noise, same_as_reference
from tests.implementations import behind_ops_in_nan, implementation


@pytest.fixture(autouse=True, scope="module", params=["twin", "emulated", "cuda"])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    with behind_ops_in_nan(request.param) as device:
        yield device


GATES = {
    "smallest": Gate(1, 1),
    "a few": Gate(8, 2, devices=2),
    "all of them": Gate(5, 5),
    "not a multiple of four": Gate(30, 16, devices=3, top_devices=2),
    "Lite": Gate(64, 6, devices=8, top_devices=3),
    "Lite in groups": Gate(64, 6, 8, 3, 8, 3, scale=16.0),
    "V2": Gate(160, 6, 8, 3, 8, 3, scale=16.0),
    "V2, sum of two": Gate(160, 6, 8, 3, 8, 3, group_score="top2"),
    "V3": Gate(256, 8, 8, 4, 8, 4, "sigmoid", "top2", True, 2.5, biased=True),
    "V3, softmax": Gate(256, 8, 8, 4, biased=True, renormalize=True),
    "groups across lanes": Gate(96, 6, 3, 2, 6, 2),
    "groups of one": Gate(32, 8, 32, 9, 32, 4),
    "groups of one, two best": Gate(16, 4, 16, 5, group_score="top2"),
    "wide": Gate(128, 8, 4, 1, 4),
    "widest": Gate(512, 16, 16, 4, 512, 4),
    "widest, sigmoid": Gate(512, 16, devices=64, top_devices=3, score="sigmoid"),
}


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("tokens", [0, 1, 64, 147])
@pytest.mark.parametrize("documents", [False, True])
def test_gate(name: str, tokens: int, documents: bool, device: str) -> None:
    gate = GATES[name]
    # Sixteenths: many ties, and no two scores so close that rounding decides.
    logits = (noise(tokens, gate.experts, seed=len(name)) * 32).round() / 16
    same_as_reference(gate, logits, documents, device)


# Not where sums and sigmoids are compared: rounding decides then.
BY_LOGIT = [n for n, gate in GATES.items() if gate.score == "softmax" and gate.group_score == "max" and not gate.biased]


@pytest.mark.parametrize("name", BY_LOGIT)
@pytest.mark.parametrize("apart", [1e-1, 1e-4, 1e-6])
def test_gate_of_logits_that_differ_in_all_their_bits(name: str, apart: float, device: str) -> None:
    """Most kernels look at the upper bits first: no two are equal there, some are, nearly all are."""
    gate = GATES[name]
    logits = noise(147, gate.experts, seed=len(name)) * apart + 1
    same_as_reference(gate, torch.where(noise(147, 1, seed=1) > 1, -logits, logits), False, device)


# Widths between those that lanes hold full, 64, 128, 160, 256 and 512; and more slots than a token has lanes.
BETWEEN = {
    "up to 160": Gate(144, 6, 9, 4, 9, 3),
    "up to 160, uneven": Gate(131, 16, renormalize=True),
    "up to 256": Gate(200, 16, devices=8, top_devices=3, score="sigmoid"),
    "up to 256, uneven": Gate(210, 7, 7, 3, 7, 3, group_score="top2", biased=True, renormalize=True),
    "up to 512": Gate(300, 9, 10, 4, 10, 4, scale=16.0),
    "up to 512, uneven": Gate(387, 16, devices=3, score="sigmoid", biased=True),
    "many slots in few lanes": Gate(64, 16, 8, 3, 8, 3),
    "many slots in whole groups": Gate(128, 16, 8, 3, 8, 3),
}


@pytest.mark.parametrize("name", BETWEEN)
@pytest.mark.parametrize("documents", [False, True])
def test_gate_between_the_full_widths(name: str, documents: bool, device: str) -> None:
    gate = BETWEEN[name]
    same_as_reference(gate, (noise(147, gate.experts, seed=len(name)) * 32).round() / 16, documents, device)
    if gate.score == "softmax" and gate.group_score == "max":
        same_as_reference(gate, noise(147, gate.experts, seed=len(name)) * 1e-4 + 1, documents, device)


def test_gate_of_many_segments(device: str) -> None:
    """More segments, and more tiles, than a block has lanes for them."""
    same_as_reference(Gate(8, 2, devices=2), (noise(15_000, 8, seed=1) * 32).round() / 16, False, device, segments=300)


ROWS = [torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def close(seen: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Equal up to one rounding to `dtype` of sums in fp32."""
    assert not seen.isnan().any()
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(seen.cpu().to(WIDE), expected, rtol=TOLERANCE[dtype], atol=2e-6 * scale)


@pytest.mark.parametrize("dtype", ROWS, ids=str)
@pytest.mark.parametrize(
    ("tokens", "k", "hidden"), [(0, 2, 8), (1, 1, 8), (37, 3, 24), (19, 6, 2056), (33, 8, 520), (5, 16, 64), (9, 2, 4104)]
)
@pytest.mark.parametrize("dropped", [False, True])
def test_rows(tokens: int, k: int, hidden: int, dropped: bool, dtype: torch.dtype, device: str) -> None:
    """permute, swiglu_weighted and combine with every gradient; rows that are nobody's hold NaN."""
    count = 11
    experts = torch.randint(0, count + dropped, (tokens, k), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    offs, pos, src = ops.route(experts.to(device), count)
    expected_route = reference.route(experts, count)
    for one, other in zip((offs, pos, src), expected_route, strict=True):
        assert torch.equal(one.cpu(), other)
    live = offs if dropped else None
    expected_live = expected_route[0] if dropped else None
    alive = int(offs[-1])
    leaves = {
        "x": noise(tokens, hidden, seed=2, dtype=dtype),
        "y": noise(tokens * k, hidden, seed=3, dtype=dtype),
        "gate_up": noise(tokens * k, 2 * hidden, seed=4, dtype=dtype),
        "shared": noise(tokens, hidden, seed=5, dtype=dtype),
        "weights": noise(tokens, k, seed=6).abs(),
    }
    for name in ("y", "gate_up"):
        leaves[name][alive:] = float("nan")
    ups = {
        name: noise(tokens * (1 if "combine" in name else k), hidden, seed=9, dtype=dtype)
        for name in ("permute", "swiglu", "combine", "plain combine")
    }
    for name in ("permute", "swiglu"):
        ups[name][alive:] = float("nan")

    def run(module: object, wide: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        to = {"dtype": WIDE} if wide else {"device": device}
        own = {name: leaf.to(**to).detach().requires_grad_() for name, leaf in leaves.items()}
        offs_, pos_, src_ = (expected_live, *expected_route[1:]) if wide else (live, pos, src)
        out = {
            "permute": module.permute(own["x"], pos_, src_, offs_),
            "swiglu": module.swiglu_weighted(own["gate_up"], own["weights"], src_, offs_),
            "combine": module.combine(own["y"], own["weights"], pos_, src_, offs_, own["shared"]),
            "plain combine": module.combine(own["y"], None, pos_, src_, offs_),
        }
        gradients = {}
        for name, value in out.items():
            found = torch.autograd.grad(value, list(own.values()), ups[name].to(**to), allow_unused=True)
            gradients |= {f"{name}: {leaf}": grad for leaf, grad in zip(own, found, strict=True) if grad is not None}
        return {name: value.detach() for name, value in out.items()}, gradients

    seen, expected = run(ops, False), run(reference, True)
    assert seen[1].keys() == expected[1].keys() and len(seen[1]) == 7
    for part, expected_part in zip(seen, expected, strict=True):
        for name, value in part.items():
            wanted = expected_part[name]
            if name == "swiglu: gate_up":  # the reference's own gradient goes through NaN · 0 in rows of nobody
                assert not value[alive:].any()
                value, wanted = value[:alive], wanted[:alive]
            close(
                value,
                wanted.nan_to_num(0.0) if name == "swiglu: weights" and dropped else wanted,
                torch.float32 if "weights" in name else dtype,
            )


@pytest.mark.parametrize(("count", "tokens"), [*itertools.product([1, 7, 64, 512], [1, 341, 1111]), (9, 22_000)])
def test_route_of_many(count: int, tokens: int, device: str) -> None:
    """More slots than a tile, than a warp's part of it, than 64 tiles have; all to one expert; none to some."""
    for most in (count + 1, 1):
        experts = torch.randint(0, most, (tokens, 6), generator=torch.Generator().manual_seed(count), dtype=torch.int32)
        for one, other in zip(ops.route(experts.to(device), count), reference.route(experts, count), strict=True):
            assert torch.equal(one.cpu(), other)


@pytest.mark.parametrize("factor", [0.2, 1.0, 8.0])
@pytest.mark.parametrize(("sequences", "tokens"), [(1, 1), (3, 60), (2, 600), (2, 3600)])
def test_drop(factor: float, sequences: int, tokens: int, device: str) -> None:
    experts = torch.randint(0, 12, (tokens, 3), generator=torch.Generator().manual_seed(2), dtype=torch.int32)
    weights = (noise(tokens, 3, seed=3).abs() * 16).round() / 16  # many equal ones
    weights[0, 0] = 1e30
    exempt = torch.arange(sequences) % 3 == 2
    options = {"experts": 12, "devices": 4, "capacity_factor": factor, "sequences": sequences}
    leaf = weights.to(device).requires_grad_()
    kept, left = ops.drop(experts.to(device), leaf, exempt_S=exempt.to(device), **options)
    expected, expected_left = reference.drop(experts, weights, exempt_S=exempt, **options)
    assert torch.equal(kept.cpu(), expected) and torch.equal(left.detach().cpu(), expected_left)
    left.backward(torch.ones_like(left))
    assert torch.equal(leaf.grad.cpu(), (expected < 12).float())


def layer(device: str) -> list[Tensor]:
    logits, x, shared, gate_up, down = (
        noise(*shape, seed=i, device=device, dtype=dtype).requires_grad_()
        for i, (shape, dtype) in enumerate(
            [
                ((151, 64), torch.float32),
                ((151, 64), torch.bfloat16),
                ((151, 64), torch.bfloat16),
                ((64, 32, 64), torch.bfloat16),
                ((64, 64, 16), torch.bfloat16),
            ]
        )
    )
    of = (torch.arange(151, device=device) // 40).int()
    experts, weights, losses = ops.gate(logits, of_T=of, segments=4, k=6, groups=8, top_groups=3, devices=8, top_devices=3)
    experts, weights = ops.drop(experts, weights, experts=64, devices=8, capacity_factor=1.0, sequences=1)
    offs, pos, src = ops.route(experts, 64)
    rows = ops.experts(ops.permute(x, pos, src, offs), gate_up, offs)
    rows = ops.experts(ops.swiglu_weighted(rows, weights, src, offs), down, offs)
    z = ops.combine(rows, None, pos, src, offs, shared)
    weighted = ops.combine(rows.detach().requires_grad_(), weights, pos, src, offs)
    (z.float().square().sum() + weighted.float().square().sum() + losses.sum()).backward()
    return [z, weighted, losses, *(leaf.grad for leaf in (logits, x, shared, gate_up, down))]


def test_two_runs_give_the_same_bits(device: str) -> None:
    """Emulated, threads run in another order the second time: a missing barrier or an order of its own would show."""
    for one, other in zip(layer(device), layer(device), strict=True):
        assert torch.equal(one, other) and one.isfinite().all()


def test_ops_are_what_torch_expects_of_ops(device: str) -> None:
    logits = noise(9, 16, seed=1, device=device)
    options = (2, 1, 4, 2, "softmax", "max", False, 1.0, 4, 2)
    experts, weights, _, balance = torch.ops.moe.gate(logits, None, None, *options)
    x, gate_up = noise(9, 8, seed=2, device=device), noise(18, 16, seed=3, device=device)
    offs, pos, src = torch.ops.moe.route(experts, 16)
    rows = torch.ops.moe.permute(x, pos, offs)
    cases = {
        "gate": (logits, None, None, *options),
        "gate_backward": (logits, None, experts, balance, weights, torch.ones(4, device=device), *options),
        "drop": (experts, weights, None, 16, 4, 3, 1),
        "route": (experts, 16),
        "permute": (x, pos, offs),
        "combine": (rows, weights, x, pos, None),
        "combine_backward": (x, rows, weights, pos, offs),
        "swiglu_weighted": (gate_up, weights, src, offs),
        "swiglu_weighted_backward": (rows, gate_up, weights, src, None),
    }
    for name, arguments in cases.items():
        torch.library.opcheck(getattr(torch.ops.moe, name).default, arguments)


def test_a_layer_traces_whole(device: str) -> None:
    """torch.compile sees one graph; what it computes is what runs without."""

    def routed(logits: Tensor, x: Tensor) -> Tensor:
        experts, weights, losses = ops.gate(logits, k=2, devices=4)
        _, pos, src = ops.route(experts, 16)
        return ops.combine(ops.permute(x, pos, src), weights, pos, src).sum() + losses.sum()

    leaves = [noise(12, width, seed=width, device=device).requires_grad_() for width in (16, 8)]
    compiled = torch.compile(routed, fullgraph=True, backend="aot_eager")
    plain, traced = routed(*leaves), compiled(*leaves)
    torch.testing.assert_close(traced, plain)
    for one, other in zip(torch.autograd.grad(traced, leaves), torch.autograd.grad(plain, leaves), strict=True):
        torch.testing.assert_close(one, other)


SECOND = {  # through every backward pass; slots of 12 tokens, and a leaf [12, 16]
    "gate": lambda slots, a: ops.gate(a, k=2, devices=4)[1],
    "drop": lambda slots, a: ops.drop(slots, a[:, :2] ** 2, experts=16, devices=4, capacity_factor=9.0, sequences=1)[1],
    "permute": lambda slots, a: ops.permute(a**2, *ops.route(slots, 16)[1:]),
    "combine": lambda slots, a: ops.combine(a.repeat(2, 1) ** 2, a[:, :2].exp(), *ops.route(slots, 16)[1:]),
    "combine without weights": lambda slots, a: ops.combine(a.repeat(2, 1) ** 2, None, *ops.route(slots, 16)[1:]),
    "swiglu_weighted": lambda slots, a: ops.swiglu_weighted(a.repeat(2, 1), a[:, :2].exp(), ops.route(slots, 16)[2]),
}


@pytest.mark.parametrize("name", SECOND)
def test_a_second_derivative_is_refused(name: str, device: str) -> None:
    """It would be 0 without a word."""
    slots = torch.arange(24, dtype=torch.int32, device=device).view(12, 2) * 7 % 16
    leaf = noise(12, 16, seed=1, device=device).requires_grad_()
    loss = SECOND[name](slots, leaf).square().sum()
    (first,) = torch.autograd.grad(loss, leaf, create_graph=True)
    assert torch.equal(first, torch.autograd.grad(loss, leaf, retain_graph=True)[0])
    with pytest.raises(NotImplementedError, match="no second derivatives"):
        torch.autograd.grad(first.square().sum(), leaf)


def test_what_kernels_do_not_serve_is_said(request: pytest.FixtureRequest, device: str) -> None:
    library = request.node.callspec.params["device"]
    if library == "twin":
        for wrong in (-1, 4):
            with pytest.raises(ValueError, match="route: an expert number out of range"):
                ops.route(torch.tensor([[0, wrong], [3, 3]], dtype=torch.int32), 3)
    if library == "emulated":
        with pytest.raises(KernelError, match="route ended with CUDA error 719"):  # the trap
            torch.ops.moe.route(torch.tensor([[5, 1]], dtype=torch.int32), 3)
        with pytest.raises(ValueError, match="a multiple of 8"):
            torch.ops.moe.permute(torch.zeros(2, 12), torch.tensor([[0], [1]], dtype=torch.int32), None)
        with pytest.raises(ValueError, match="multiple of 16 bytes"):
            torch.ops.moe.permute(torch.zeros(17)[1:].view(2, 8), torch.tensor([[0], [1]], dtype=torch.int32), None)
        with pytest.raises(ValueError, match="a dtype that the kernels do not serve"):
            ops.permute(torch.zeros(2, 8, dtype=WIDE), torch.zeros(2, 1, dtype=torch.int32), torch.zeros(2, dtype=torch.int32))


def test_ops_called_past_the_checks_look_at_strides(device: str) -> None:
    """torch.ops.moe.* hand over pointers: columns of a wider tensor would be read as rows."""
    offs, pos, src = ops.route(torch.tensor([[0, 1], [1, 0]], dtype=torch.int32, device=device), 2)
    wide, weights = noise(4, 32, seed=1, device=device), noise(2, 2, seed=2, device=device)
    with pytest.raises(ValueError, match=r"permute: x is torch.float32 \[2, 16\] with strides \[32, 1\]; a contiguous tensor"):
        torch.ops.moe.permute(wide[:2, :16], pos, offs)
    with pytest.raises(ValueError, match=r"permute: pos is torch.int32 \[2, 2\] with strides \[1, 2\]"):
        torch.ops.moe.permute(wide[:2], pos.T, None)
    with pytest.raises(ValueError, match="gate_forward: logits is"):
        torch.ops.moe.gate(wide[:, ::2], None, None, 2, 1, 1, 1, "softmax", "max", False, 1.0, 1, 1)
    with pytest.raises(ValueError, match="swiglu_weighted_backward: weights is"):
        torch.ops.moe.swiglu_weighted_backward(wide[:, :16].contiguous(), wide, weights.T, src, offs)


def test_every_entry_of_the_header_is_there(request: pytest.FixtureRequest) -> None:
    library = implementation(request.node.callspec.params["device"])
    assert isinstance(library, Library) and len(entries()) == 12
    for name, (_, parameters) in entries().items():
        assert name == "moe_version" or len(parameters) >= 2
