"""A blend is the largest-deficit rule, at any place at once, in whole numbers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.blend import Blend
from corpus.errors import ConfigError

WEIGHTS = st.lists(st.one_of(st.integers(1, 40), st.decimals("0.01", 9, places=2).map(float)), min_size=1, max_size=6)


def by_rule(weights: list[float], samples: int) -> list[int]:
    """The rule as it reads, in fractions."""
    total = sum(Fraction(str(w)) for w in weights)
    shares = [Fraction(str(w)) / total for w in weights]
    had, drawn = [0] * len(weights), []
    for k in range(samples):
        deficits = [w * (k + 1) - c for w, c in zip(shares, had)]
        drawn.append(deficits.index(max(deficits)))
        had[drawn[-1]] += 1
    return drawn


@settings(deadline=None, max_examples=50)
@given(WEIGHTS)
def test_a_blend_is_the_largest_deficit_rule(weights: list[float]) -> None:
    blend = Blend(weights)
    sources, own = blend.locate(np.arange(300))
    assert sources.tolist() == by_rule(weights, 300)
    for s in range(len(weights)):
        assert own[sources == s].tolist() == list(range(int((sources == s).sum())))  # each source's samples in turn
        assert blend.numbers(s, own[sources == s]).tolist() == np.flatnonzero(sources == s).tolist()
    assert blend.counts(217) == [int((sources[:217] == s).sum()) for s in range(len(weights))]


@settings(deadline=None, max_examples=20)
@given(WEIGHTS, st.integers(0, 10**12))
def test_any_place_is_as_near_as_the_first(weights: list[float], far: int) -> None:
    blend = Blend(weights)
    numbers = np.arange(far, far + 50)
    sources, own = blend.locate(numbers)
    for k in range(50):
        assert blend.numbers(int(sources[k]), own[k : k + 1]) == numbers[k]
    counts = np.array(blend.counts(far))
    assert counts.sum() == far
    shares = blend.shares / blend.period
    assert (counts - shares * far < 1 + 1e-3).all()  # never ahead by a sample
    again = np.array([counts[s] + (sources[:k] == s).sum() for k, s in enumerate(sources.tolist())])
    assert np.array_equal(own, again)


def test_one_source_is_the_sequence_itself() -> None:
    sources, own = Blend([0.3]).locate(np.arange(5, 9))
    assert sources.tolist() == [0] * 4 and own.tolist() == [5, 6, 7, 8]


def test_weights_without_a_short_common_sum_are_rounded() -> None:
    blend = Blend([0.123456789, 1.0])
    assert blend.period == 65_536 and blend.shares.tolist() == [7_202, 58_334]
    assert Blend([0.6, 0.1, 0.3]).shares.tolist() == [6, 1, 3]
    assert Blend([1e-30, 2e-30]).shares.tolist() == [1, 2]
    with pytest.raises(ConfigError, match=r"weights 1\.0, 1e-07: at least 1 part in 65,536"):
        Blend([1.0, 1e-7])
