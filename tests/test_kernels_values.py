"""Values that training should not make and does: logits without bound, infinite or NaN, segments that are not in order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import ops
from kernels.native import KernelError
from tests.gate_law import Gate, noise, same_as_reference
from tests.implementations import behind_ops_in_nan

INF, NAN = float("inf"), float("nan")


@pytest.fixture(autouse=True, scope="module", params=["twin", "emulated", "cuda"])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    with behind_ops_in_nan(request.param) as device:
        yield device


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize(("experts", "groups"), [(8, 4), (96, 3), (64, 4), (64, 8), (160, 8), (256, 8), (512, 16)])
def test_the_largest_logit_may_lie_in_a_closed_group(
    experts: int, groups: int, renormalize: bool, biased: bool, device: str
) -> None:
    """By sums of two a group of 200 and -300 loses; scores are of all experts all the same."""
    logits = (noise(9, experts, seed=experts) * 32).round() / 16
    size = experts // groups
    for token, closed in ((0, 0), (4, groups - 1)):
        logits[token, closed * size : (closed + 1) * size] = -300.0
        logits[token, closed * size] = 200.0
    gate = Gate(experts, 2, groups, 1, group_score="top2", renormalize=renormalize, biased=biased)
    same_as_reference(gate, logits, False, device)


ODD = {
    "softmax": Gate(64, 6),
    "in groups": Gate(64, 6, 8, 3, 8, 3),
    "sum of two": Gate(64, 6, 4, 2, group_score="top2", renormalize=True),
    "with a bias": Gate(64, 6, 8, 3, biased=True),
    "sigmoid": Gate(64, 6, devices=4, score="sigmoid"),
    "V3": Gate(64, 6, 8, 3, 8, 3, "sigmoid", "top2", True, 2.5, biased=True),
    "uneven": Gate(62, 6, 2, 1, score="sigmoid", renormalize=True),
}


def odd(experts: int) -> Tensor:
    logits = (noise(8, experts, seed=1) * 32).round() / 16
    logits[0, 5] = NAN
    logits[5, 9], logits[5, 4] = -NAN, INF
    logits[1, 7] = INF
    logits[2, 3:40] = -INF
    logits[3] = -INF
    logits[4] = 0.0
    logits[4, 2] = -0.0
    logits[6, 0], logits[6, 8] = INF, -INF
    return logits


@pytest.mark.parametrize("token", range(8))
@pytest.mark.parametrize("name", ODD)
def test_odd_logits_are_what_the_reference_makes_of_them(name: str, token: int, device: str) -> None:
    """Of one odd token beside two ordinary ones, so that what it does to losses and gradients is its own."""
    logits = odd(ODD[name].experts)[[7, token, 4]]
    same_as_reference(ODD[name], logits, False, device, equal_nan=True)
    leaf = logits.to(device).requires_grad_()
    _, weights, losses = ops.gate(leaf, **ODD[name].options())
    (weights.sum() + losses.sum()).backward()
    finite = [True, not (logits[1].isnan().any() or logits[1].amax().isinf()), True]
    assert leaf.grad.isfinite().all(1).tolist() == finite
    assert bool(losses[3].isfinite()) == finite[1]  # what is not finite reaches the loss, and the trainer stops


def test_an_infinite_logit_has_the_score_of_its_limit(device: str) -> None:
    """As README.md says it: sigmoids of +inf are 1, of -inf 0; a softmax with +inf is NaN, with -inf 0 there."""
    logits = torch.tensor([[0.0, INF, 1.0, -INF]], device=device)
    experts, weights, losses = ops.gate(logits, k=4, score="sigmoid")
    assert experts.tolist() == [[1, 2, 0, 3]]
    assert weights[0, [0, 2, 3]].tolist() == [1.0, 0.5, 0.0]
    assert losses[:3].isfinite().all() and losses[3].isnan()
    _, weights, losses = ops.gate(logits, k=4)
    assert weights.isnan().all() and losses.isnan().all()
    _, weights, losses = ops.gate(logits[:, [0, 2, 3]].contiguous(), k=3)
    assert losses.isfinite().all() and weights[0, 2] == 0 and weights.sum().item() == pytest.approx(1)


def refused(of: list[int], segments: int, device: str, which: str) -> bool:
    of_T = torch.tensor(of, dtype=torch.int32, device=device)
    logits = torch.zeros(len(of), 8, device=device)
    try:
        ops.gate(logits, of_T=of_T, segments=segments, k=2)
    except (ValueError, KernelError) as error:
        assert isinstance(error, ValueError if which == "twin" else KernelError)
        assert "`of`" in str(error)
        return True
    return False


def without_traps(request: pytest.FixtureRequest) -> str:
    which = str(request.node.callspec.params["device"])
    if which == "cuda":
        pytest.skip("a trap ends the process's use of the GPU")
    return which


@pytest.mark.parametrize(
    ("of", "segments"),
    [([0, 1, 2, -1], 3), ([0, 0, 3, 3], 3), ([-1, 0, 1], 2), ([1, 0], 2), ([0, 2, 1, 2], 3), ([7] * 200, 7), ([2**31 - 1], 1)],
)
def test_segments_out_of_range_or_order_are_refused(
    of: list[int], segments: int, device: str, request: pytest.FixtureRequest
) -> None:
    assert refused(of, segments, device, without_traps(request))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3), st.lists(st.integers(-1, 3), max_size=70), st.booleans())
def test_segments_are_refused_just_when_they_do_not_rise_in_range(
    device: str, request: pytest.FixtureRequest, segments: int, of: list[int], ordered: bool
) -> None:
    of = sorted(of) if ordered else of
    right = of == sorted(of) and all(0 <= n < segments for n in of)
    assert refused(of, segments, device, without_traps(request)) != right


def test_the_backward_pass_looks_where_it_reads(device: str, request: pytest.FixtureRequest) -> None:
    which = without_traps(request)
    options = (2, 2, 1, 1, "softmax", "max", False, 1.0, 1, 1)
    logits, of = torch.zeros(70, 8), torch.zeros(70, dtype=torch.int32)
    experts, weights, _, balance = torch.ops.moe.gate(logits, None, of, *options)
    for wrong in (2, -1, 2**30):
        of[69] = wrong
        with pytest.raises(ValueError if which == "twin" else KernelError, match="`of`"):
            torch.ops.moe.gate_backward(logits, of, experts, balance, weights, torch.ones(4), *options)
