"""Heights of the tide between two readings of the gauge."""

from __future__ import annotations

import math


def height_between(low: float, high: float, hours_since_low: float, half_cycle: float = 6.21) -> float:
    """Metres above chart datum, taking the water to rise as half a cosine wave between low and high tide."""
    if half_cycle <= 0:
        raise ValueError(f"half_cycle is {half_cycle} hours; a positive number expected")
    phase = math.pi * min(max(hours_since_low / half_cycle, 0.0), 1.0)
    return low + (high - low) * (1 - math.cos(phase)) / 2


def clears(depth_at_datum: float, draught: float, tide: float, margin: float = 0.5) -> bool:
    """Whether a hull of the given draught passes over the bar with the margin to spare."""
    return depth_at_datum + tide >= draught + margin
