"""The paired bootstrap: antisymmetric, nothing out of nothing, and right about as often as it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.errors import ConfigError, InputError
from train.bootstrap import FEWEST, Interval, paired_bootstrap, shown

SCORES = st.lists(st.tuples(*[st.floats(-1e3, 1e3)] * 2, st.floats(0.5, 1e3)), min_size=FEWEST, max_size=40)


@settings(deadline=None, max_examples=60)
@given(SCORES, st.integers(0, 9))
def test_exchanging_the_two_negates(rows: list[tuple[float, float, float]], seed: int) -> None:
    a, b, w = np.array(rows).T
    one, two = paired_bootstrap(a, b, w, samples=200, seed=seed), paired_bootstrap(b, a, w, samples=200, seed=seed)
    assert two == Interval(-one.difference, -one.high, -one.low, one.p)
    assert one.low <= one.high


def test_a_model_against_itself() -> None:
    a = np.random.default_rng(0).normal(size=50)
    assert paired_bootstrap(a, a, samples=100) == Interval(0.0, 0.0, 0.0, 1.0)


def test_the_difference_is_a_ratio_of_sums() -> None:
    a, b, w = np.tile([10.0, 2.0], 5), np.tile([4.0, 2.0], 5), np.tile([1.0, 5.0], 5)
    drawn = paired_bootstrap(a, b, w)
    assert drawn.difference == pytest.approx(1.0)  # not the mean of 6 and 0
    # k of the ten are drawn of the first kind: 1 or fewer in 1.07 % of draws, 2 or fewer in 5.5 %.
    assert (drawn.low, drawn.high) == (6 * 2 / (2 + 5 * 8), 6 * 8 / (8 + 5 * 2))


def test_few_items_have_no_interval() -> None:
    """One item is drawn every time: its interval would have no width, and its p be the smallest there is."""
    for count in (1, FEWEST - 1):
        a = np.random.default_rng(0).normal(size=count)
        found = paired_bootstrap(a + 0.5, a)
        assert found == Interval(pytest.approx(0.5), None, None, None)
        assert [shown(value) for value in found] == ["0.5000", *["too few"] * 3]
    found = paired_bootstrap(np.arange(FEWEST), np.zeros(FEWEST))
    assert found.low is not None and found.low < found.difference and "few" not in shown(found.low)


def test_a_constant_difference_is_certain_and_noise_is_not() -> None:
    dice = np.random.default_rng(1)
    a = dice.normal(size=100)
    sure = paired_bootstrap(a + 0.5, a, samples=1000)
    assert sure.low == pytest.approx(0.5) == sure.high and sure.p == pytest.approx(2 / 1001)
    noise = paired_bootstrap(a - a.mean(), np.zeros(100), samples=1000)
    assert noise.low < 0 < noise.high and noise.p > 0.5


def test_what_items_share_cancels() -> None:
    """Documents differ a hundred times more than the models do: only a paired test sees the models."""
    dice = np.random.default_rng(2)
    hard = dice.normal(0, 10, 200)
    found = paired_bootstrap(hard + 0.1 + dice.normal(0, 0.1, 200), hard, samples=1000)
    assert 0 < found.low < 0.1 < found.high < 0.2


def test_ninety_five_intervals_of_a_hundred_hold_the_truth() -> None:
    """Of a ratio of sums with weights that vary; bounds are four standard errors of 300 trials wide."""
    dice = np.random.default_rng(3)
    inside = 0
    for seed in range(300):
        w = dice.integers(1, 20, 80).astype(float)
        a, b = w * dice.normal(1.2, 0.5, 80), w * dice.normal(1.0, 0.5, 80)
        found = paired_bootstrap(a, b, w, samples=400, seed=seed)
        inside += found.low <= 0.2 <= found.high
    assert 0.90 <= inside / 300 <= 0.99


def test_p_and_interval_agree() -> None:
    dice = np.random.default_rng(4)
    for seed in range(100):
        d = dice.normal(0.25, 1, 60)
        found = paired_bootstrap(d, np.zeros(60), samples=400, seed=seed)
        assert (found.p <= 0.05) == (found.low > 0 or found.high < 0)


def test_what_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="one or more"):
        paired_bootstrap(np.zeros(0), np.zeros(0))
    with pytest.raises(InputError, match="3 and 3 scores with 2 weights"):
        paired_bootstrap(np.zeros(3), np.zeros(3), np.ones(2))
    with pytest.raises(InputError, match="finite"):
        paired_bootstrap(np.array([np.nan]), np.zeros(1))
    with pytest.raises(InputError, match="2 and 3 scores"):
        paired_bootstrap(np.zeros(2), np.zeros(3))
    with pytest.raises(ConfigError, match="samples=10"):
        paired_bootstrap(np.zeros(3), np.zeros(3), samples=10)
