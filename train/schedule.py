"""Learning rate and place in the data as functions of the step alone, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from train.config import TrainConfig

__all__ = ["learning_rate", "samples_before"]


def learning_rate(step: int, config: TrainConfig) -> float:
    """For step 0, 1, …: linear to `lr` over `warmup` steps, then half a cosine to min_lr_ratio·lr at the last step."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    span = max(1, config.steps - 1 - config.warmup)
    progress = min(1.0, (step - config.warmup) / span)
    low = config.lr * config.min_lr_ratio
    return low + (config.lr - low) * 0.5 * (1.0 + math.cos(math.pi * progress))


def samples_before(step: int, config: TrainConfig) -> int:
    """Samples read by the `step` steps before step number `step` (0, 1, …): where in the data it begins."""
    return step * config.batch
