"""Permutations: onto, undone by their inverse, the same at one place as at all, and mixing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus import permutation
from corpus.permutation import permuted, unpermuted


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_permuted_is_a_permutation_at_any_place(count: int, key: int) -> None:
    whole = permuted(np.arange(count), count, key)
    assert np.array_equal(np.sort(whole), np.arange(count))
    assert permuted(np.array([count - 1]), count, key)[0] == whole[-1]
    assert np.array_equal(unpermuted(whole, count, key), np.arange(count))
    assert unpermuted(whole[-1:], count, key)[0] == count - 1


def test_permuted_mixes() -> None:
    a, b = (permuted(np.arange(1000), 1000, key) for key in (1, 2))
    assert (a == b).sum() < 10 and (a == np.arange(1000)).sum() < 10
    assert abs(np.corrcoef(a, np.arange(1000))[0, 1]) < 0.1
    assert (np.diff(a) == 1).sum() < 10


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = permuted(np.arange(1000), 1000, 5)
    monkeypatch.setattr(permutation, "_BLOCK", 7)
    assert np.array_equal(permuted(np.arange(1000), 1000, 5), whole)
