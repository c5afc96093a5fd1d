"""How sure a difference is: the paired bootstrap (Efron & Tibshirani 1993, chapters 13 and 16).

Two models answer the same items (documents, tasks, questions). Items are drawn with replacement, both models' scores of an item
together, and the difference is computed anew: what all items share, such as being hard, cancels out.

A score is a ratio of sums, Σ score / Σ weight: bits over bytes for bits per byte, right answers over tasks elsewhere. Drawing
whole documents or tasks, never tokens or samples, keeps what belongs together together.

Of few items the draws are as few: one item is drawn every time, and an interval of no width would call it certain. Below
FEWEST items there is no interval and no p.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from corpus.errors import ConfigError, InputError

__all__ = ["FEWEST", "Interval", "paired_bootstrap", "shown"]

FEWEST = 10  # items for an interval
_DRAWN = 1 << 22  # items drawn at once: 64 MB of numbers


class Interval(NamedTuple):
    """difference: first minus second. low, high: its central 95 %. p: two-sided, of there being no difference.

    All but the difference are None for fewer than FEWEST items.
    """

    difference: float
    low: float | None
    high: float | None
    p: float | None


def shown(value: float | None, form: str = ".4f") -> str:
    """A figure as tables print it."""
    return "too few" if value is None else f"{value:{form}}"


def paired_bootstrap(
    a_N: np.ndarray, b_N: np.ndarray, weight_N: np.ndarray | None = None, *, samples: int = 10_000, seed: int = 0
) -> Interval:
    """Σ a / Σ weight − Σ b / Σ weight over N items that both were scored on, with its percentile interval.

    weight: None counts each item once. p is 2 · the smaller share of draws at or beyond 0 on either side, so that it is under
    0.05 where the interval leaves 0 out; its smallest value is 2 / (samples + 1). Exchanging a and b negates the difference and
    the interval to the last bit. InputError for no items, or lengths that differ.
    """
    if samples < 40:
        raise ConfigError(f"samples={samples}: 40 or more expected, or 2.5 % at either end is less than one of them")
    w_N = np.ones(len(a_N)) if weight_N is None else np.asarray(weight_N, np.float64)
    if not 0 < len(a_N) == len(b_N) == len(w_N):
        raise InputError(
            f"{len(a_N)} and {len(b_N)} scores with {len(w_N)} weights; as many of each, and one or more, expected"
        )
    d_N = np.asarray(a_N, np.float64) - np.asarray(b_N, np.float64)
    if not np.isfinite(d_N).all() or not (w_N >= 0).all() or w_N.sum() <= 0:
        raise InputError("scores must be finite and weights 0 or more, not all 0")
    difference = float(d_N.sum() / w_N.sum())
    if len(d_N) < FEWEST:
        return Interval(difference, None, None, None)
    drawn_S = np.sort(_draw(d_N, w_N, samples, np.random.default_rng(seed)))
    tail = (samples + 1) // 40  # as p counts, so that the two agree
    beyond = min(int((drawn_S <= 0).sum()), int((drawn_S >= 0).sum()))
    p = min(1.0, 2 * (beyond + 1) / (samples + 1))
    return Interval(difference, float(drawn_S[tail - 1]), float(drawn_S[samples - tail]), p)


def _draw(d_N: np.ndarray, w_N: np.ndarray, samples: int, dice: np.random.Generator) -> np.ndarray:
    """The difference in each of `samples` draws of N items out of N."""
    count = len(d_N)
    found = np.empty(samples)
    at_once = max(1, _DRAWN // count)
    for first in range(0, samples, at_once):
        rows = min(at_once, samples - first)
        chosen_RN = dice.integers(count, size=(rows, count))
        weight_R = w_N[chosen_RN].sum(1)
        sum_R = d_N[chosen_RN].sum(1)
        found[first : first + rows] = np.divide(sum_R, weight_R, out=np.zeros(rows), where=weight_R > 0)
    return found
