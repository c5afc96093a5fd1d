"""Several sources as one sequence of samples: which source sample i of a run is of, and which of that source's samples it is.

Sample k goes to the source with the largest w·(k + 1) - c, where w is its share and c how many samples it has had, the first
of equals. (Megatron's rule, which differs in using max(k, 1): there the first two samples weigh the same.) No source is ever
ahead of its share by a whole sample.

In whole numbers the rule comes back to where it began after as many samples as the weights sum to: then all deficits are whole
numbers above -1 that sum to 0. So one period is all there is to keep, any sample is found at once, both ways, and nothing
depends on how long the run is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from corpus.errors import ConfigError

__all__ = ["Blend"]

_PERIOD = 1 << 16  # samples after which a blend repeats, at most


class Blend:
    """The blend of sources with these weights, any positive numbers.

    Weights as they are written (0.6, 0.1, 0.3: 6 + 1 + 3 samples) where whole numbers in proportion sum to 2^16 at most,
    else rounded to parts of 2^16. ConfigError for a source whose part is none.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self.shares = np.array(_whole(weights), np.int64)
        self.period = int(self.shares.sum())
        self._source_P = np.empty(self.period, np.int64)
        behind = np.zeros(len(weights), np.int64)
        for k in range(self.period):
            behind += self.shares
            source = int(behind.argmax())
            behind[source] -= self.period
            self._source_P[k] = source
        self._places = [np.flatnonzero(self._source_P == s) for s in range(len(weights))]
        self._rank_P = np.empty(self.period, np.int64)
        for where in self._places:
            self._rank_P[where] = np.arange(len(where))

    def locate(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(source, number of its own sample) of each sample of the run."""
        periods, k = np.divmod(numbers, self.period)
        sources = self._source_P[k]
        return sources, periods * self.shares[sources] + self._rank_P[k]

    def counts(self, samples: int) -> list[int]:
        """How many of the first `samples` samples are of each source."""
        periods, k = divmod(samples, self.period)
        return [periods * int(n) + int(places.searchsorted(k)) for n, places in zip(self.shares, self._places)]

    def numbers(self, source: int, own: np.ndarray) -> np.ndarray:
        """The inverse: samples of the run that are a source's own samples."""
        periods, k = np.divmod(own, int(self.shares[source]))
        return periods * self.period + self._places[source][k]


def _whole(weights: Sequence[float]) -> list[int]:
    """Whole numbers in proportion to the weights as they are written, without a common divisor; rounded where they sum to
    more than 2^16, the largest remainders up.
    """
    exact = [Fraction(str(weight)) for weight in weights]
    scale = math.lcm(*(w.denominator for w in exact))
    whole = [int(w * scale) for w in exact]
    whole = [w // math.gcd(*whole) for w in whole]
    if sum(whole) > _PERIOD:
        scaled = [w * _PERIOD / sum(exact) for w in exact]
        whole = [int(w) for w in scaled]
        by_remainder = sorted(range(len(whole)), key=lambda i: (whole[i] - scaled[i], i))
        for i in by_remainder[: _PERIOD - sum(whole)]:
            whole[i] += 1
    if min(whole) < 1:
        raise ConfigError(
            f"weights {', '.join(map(str, weights))}: at least 1 part in {_PERIOD:,} of the whole expected of each"
        )
    return whole
