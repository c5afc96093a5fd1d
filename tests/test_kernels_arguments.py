"""What callers can get wrong is a ValueError of ops that names the argument, whichever implementation would compute.

Tensors on the device `meta` have shapes and no memory: batches of 2^31 slots, and tensors that lie on another device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import ops
from tests.implementations import behind_ops


@pytest.fixture(autouse=True, scope="module", params=["reference", "twin"])
def which(request: pytest.FixtureRequest) -> Iterator[str]:
    with behind_ops(request.param):
        yield request.param


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def slots(*shape: int, device: str = "cpu") -> Tensor:
    return torch.zeros(*shape, dtype=torch.int32, device=device)


def routed() -> tuple[Tensor, Tensor, Tensor]:
    return ops.route(torch.tensor([[0, 1], [2, 0]], dtype=torch.int32), 3)


def drop(weights: Tensor | None = None, exempt: Tensor | None = None, **changed: Any) -> tuple[Tensor, Tensor]:
    options = {"experts": 4, "devices": 2, "capacity_factor": 1.0, "sequences": 1} | changed
    return ops.drop(slots(2, 2), torch.ones(2, 2) if weights is None else weights, exempt_S=exempt, **options)


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "weights of whole numbers": (
        lambda: drop(torch.ones(2, 2, dtype=torch.int64)),
        r"drop: weights is torch.int64 \[2, 2\] on cpu; fp32 or fp64 \[2, 2\] on cpu expected",
    ),
    "weights elsewhere": (lambda: drop(meta(2, 2)), r"drop: weights is .* on meta; .* on cpu expected"),
    "weights of another shape": (lambda: drop(torch.ones(2, 3)), r"drop: weights is .*\[2, 3\]"),
    "exempt elsewhere": (
        lambda: drop(exempt=meta(1, dtype=torch.bool)),
        r"drop: exempt is torch.bool \[1\] on meta; bool \[1\] on cpu expected",
    ),
    "a factor of nan": (lambda: drop(capacity_factor=math.nan), "drop: capacity_factor=nan; a finite number above 0"),
    "a factor of inf": (lambda: drop(capacity_factor=math.inf), "drop: capacity_factor=inf; a finite number above 0"),
    "a factor of 0": (lambda: drop(capacity_factor=0.0), "drop: capacity_factor=0.0; a finite number above 0"),
    "experts past 2^32": (lambda: drop(experts=2**32 + 4), "drop: .* 4294967300 experts on 2 devices"),
    "places past 2^31": (
        lambda: ops.drop(
            slots(2**26, 1, device="meta"), meta(2**26, 1), experts=64, devices=64, capacity_factor=1.0, sequences=2**26
        ),
        "drop: 67108864 sequences times 64 devices",
    ),
    "shared elsewhere": (
        lambda: ops.combine(torch.zeros(4, 8), None, *routed()[1:], shared_TH=meta(2, 8)),
        r"combine: shared is torch.float32 \[2, 8\] on meta; torch.float32 \[2, 8\] on cpu expected",
    ),
    "shared of another dtype": (
        lambda: ops.combine(torch.zeros(4, 8), None, *routed()[1:], shared_TH=torch.zeros(2, 8).half()),
        "combine: shared is torch.float16",
    ),
    "pos of one dimension": (
        lambda: ops.permute(torch.zeros(4, 8), slots(4), slots(4)),
        r"permute: pos is torch.int32 \[4\] on cpu; int32 \[tokens, k\] expected",
    ),
    "combine's pos of one dimension": (
        lambda: ops.combine(torch.zeros(4, 8), None, slots(4), slots(4)),
        r"combine: pos is torch.int32 \[4\] on cpu; int32 \[tokens, k\] expected",
    ),
    "pos of none": (lambda: ops.permute(torch.zeros(1, 8), slots(()), slots(1)), r"permute: pos is torch.int32 \[\]"),
    "no segment": (lambda: ops.gate(torch.zeros(2, 4), of_T=slots(2), k=1, segments=0), "gate: segments=0"),
    "segments past 2^32": (
        lambda: ops.gate(torch.zeros(2, 4), of_T=slots(2), k=1, segments=2**32 + 1),
        "gate: segments=4294967297",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_is_named(name: str) -> None:
    call, said = WRONG[name]
    with pytest.raises(ValueError, match=said):
        call()


BIG = 2**27  # tokens of 16 slots: 2^31
TOO_MANY: dict[str, Callable[[], object]] = {
    "gate": lambda: ops.gate(meta(BIG, 16), k=16),
    "drop": lambda: ops.drop(
        slots(BIG, 16, device="meta"), meta(BIG, 16), experts=16, devices=1, capacity_factor=1.0, sequences=1
    ),
    "route": lambda: ops.route(slots(BIG, 16, device="meta"), 16),
    "permute": lambda: ops.permute(meta(BIG, 8), slots(BIG, 16, device="meta"), slots(BIG * 16, device="meta")),
    "experts": lambda: ops.experts(meta(BIG * 16, 8), meta(4, 8, 8), slots(5, device="meta")),
    "swiglu_weighted": lambda: ops.swiglu_weighted(
        meta(BIG * 16, 16), meta(BIG, 16), slots(BIG * 16, device="meta")
    ),
    "combine": lambda: ops.combine(
        meta(BIG * 16, 8), None, slots(BIG, 16, device="meta"), slots(BIG * 16, device="meta")
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ops.__all__)
def test_more_slots_than_32_bits_count_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}.*fewer than 2\*\*31"):
        TOO_MANY[name]()


def test_room_for_more_than_there_is_drops_nothing() -> None:
    """2^32 + 1 places, whose lower 32 bits are 1; and as many as no float counts."""
    weights = torch.rand(2, 2)
    for factor in ((2**32 + 1) / 2, 1e308):
        kept, left = ops.drop(slots(2, 2), weights, experts=4, devices=2, capacity_factor=factor, sequences=1)
        assert kept.tolist() == [[0, 0], [0, 0]] and torch.equal(left, weights)


@pytest.mark.parametrize(
    ("of", "segments"), [([0, 1, 2, -1], 3), ([0, 0, 3, 3], 3), ([-1, 0], 2), ([1, 0], 2), ([0, 2, 1, 2], 3)]
)
def test_segments_out_of_range_or_order_are_refused(of: list[int], segments: int) -> None:
    with pytest.raises(ValueError, match=r"gate.*\bof\b"):
        ops.gate(torch.zeros(len(of), 8), of_T=torch.tensor(of, dtype=torch.int32), segments=segments, k=2)


def test_a_segment_may_have_no_token() -> None:
    of = torch.tensor([1, 1, 3], dtype=torch.int32)
    assert ops.gate(torch.zeros(3, 8), of_T=of, segments=6, k=2)[2].isfinite().all()
    assert ops.gate(torch.zeros(0, 8), of_T=of[:0], segments=2, k=2)[0].shape == (0, 2)
