"""Learning rate, batch and place in the data as functions of the step alone, so that a resumed run needs no scheduler state.

rate    linear to `lr` over the warm-up; then half a cosine (DeepSeek-Coder-V2), or constant, or multiplied by decay_by at
        some shares of the run's tokens (DeepSeek-V2)
batch   `batch`, or in DeepSeek-V2's way growing to it: from batch_start, by batch_multiple at a time. A size is used from
        the first step that begins at or after its part of the ramp, so size and place are whole numbers for every step
"""

from __future__ import annotations

import bisect
import functools
import math

from train.config import TrainConfig

__all__ = ["batch_of", "learning_rate", "samples_before", "step_of"]


def learning_rate(step: int, config: TrainConfig) -> float:
    """For step 0, 1, …; the cosine ends at min_lr_ratio·lr at the last step."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "steps":
        done, whole = samples_before(step, config), samples_before(config.steps, config)
        return config.lr * config.decay_by ** sum(done >= share * whole for share in config.decay_at)
    span = max(1, config.steps - 1 - config.warmup)
    progress = min(1.0, (step - config.warmup) / span)
    low = config.lr * config.min_lr_ratio
    return low + (config.lr - low) * 0.5 * (1.0 + math.cos(math.pi * progress))


def batch_of(step: int, config: TrainConfig) -> int:
    """Sequences of step number `step` (0, 1, …)."""
    first_steps, _, sizes = _stretches(config)
    return sizes[bisect.bisect_right(first_steps, step) - 1]


def samples_before(step: int, config: TrainConfig) -> int:
    """Samples read by the `step` steps before step number `step` (0, 1, …): where in the data it begins."""
    first_steps, first_samples, sizes = _stretches(config)
    at = bisect.bisect_right(first_steps, step) - 1
    return first_samples[at] + (step - first_steps[at]) * sizes[at]


def step_of(sample: int, config: TrainConfig) -> int:
    """The step (0, 1, …) that reads a sample."""
    first_steps, first_samples, sizes = _stretches(config)
    at = bisect.bisect_right(first_samples, sample) - 1
    return first_steps[at] + (sample - first_samples[at]) // sizes[at]


def _stretches(config: TrainConfig) -> tuple[list[int], list[int], list[int]]:
    """Of each stretch of steps with one size of batch: its first step, the first sample of that, and the size."""
    return _grow(config.batches, -(-config.batch_ramp // config.seq_len))


@functools.lru_cache(maxsize=16)
def _grow(batches: range, ramp: int) -> tuple[list[int], list[int], list[int]]:
    """The ramp of `ramp` samples in equal parts, one for each size but the last; a part begins with the first step inside it
    or after it. A part shorter than a step is passed over."""
    first_steps, first_samples, sizes = [], [], []
    step = sample = 0
    for part, size in enumerate(batches, start=1):
        last = part == len(batches)
        end = 0 if last else -(-ramp * part // (len(batches) - 1))
        if not last and end <= sample:
            continue
        first_steps.append(step)
        first_samples.append(sample)
        sizes.append(size)
        steps = -(-(end - sample) // size)
        step, sample = step + steps, sample + steps * size
    return first_steps, first_samples, sizes
