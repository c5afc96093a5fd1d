"""Rules of a stage that drops documents: each is measured for a whole batch, and the first that fires is the reason."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Rule", "first_match"]


class Rule(NamedTuple):
    """A rule over a batch: which rows it would drop, the value measured in each, and the words for value and limit."""

    reason: str
    fires_N: np.ndarray
    value_N: np.ndarray
    limit: float | str
    evidence: str


def first_match(rules: list[Rule], reasons: tuple[str, ...], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """(int64 [rows]: place in `reasons` of the first rule that fires, in their order, or -1; object [rows]: its evidence)."""
    code_N = np.full(rows, -1, np.int64)
    evidence_N = np.full(rows, None, object)
    for rule in sorted(rules, key=lambda rule: reasons.index(rule.reason)):
        rows_M = np.flatnonzero(rule.fires_N & (code_N < 0))
        code_N[rows_M] = reasons.index(rule.reason)
        evidence_N[rows_M] = [rule.evidence.format(value, rule.limit) for value in rule.value_N[rows_M].tolist()]
    return code_N, evidence_N
