"""Bits per byte: how many bits a model needs for each byte of documents it has not seen. Lower is better.

    bits per byte = Σ nats / ln 2 / Σ bytes of UTF-8

Nats depend on how text is cut into tokens, bits per byte do not, so models with different tokenizers can be compared. A
document is coded as a whole: its tokens and its end, after the id that stands before documents in training, each label counted
once.

A document longer than the model's window is scored in windows that overlap: each begins `stride` tokens after the one before,
and only what the one before did not score is counted, so every token but those at the beginning has window - stride tokens
before it or more. stride = window is fastest and forgets everything at a border.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from corpus.errors import ConfigError
from train.items import Progress
from train.subject import Subject

__all__ = ["Window", "nats", "sequence_of", "windows"]

_ROWS = 1024  # of logits made at once: 400 MB for a vocabulary of 100,000


class Window(NamedTuple):
    """Inputs start … stop - 1 of a sequence; label i + 1 of input i counts for i in first … stop - 1."""

    start: int
    stop: int
    first: int


def windows(labels: int, window: int, stride: int) -> Iterator[Window]:
    """Windows over a sequence of labels + 1 tokens. ConfigError unless 1 <= stride <= window."""
    if not 1 <= stride <= window:
        raise ConfigError(f"stride={stride}: from 1 to the window of {window} tokens expected")
    start = done = 0
    while done < labels:
        stop = min(start + window, labels)
        yield Window(start, stop, done)
        start, done = start + stride, stop


def sequence_of(subject: Subject, ids: np.ndarray) -> np.ndarray:
    """A document's ids between what stands before and after it; all but the first are labels."""
    end = [] if subject.end is None else [subject.end]
    return np.concatenate([[subject.begin], ids, end]).astype(np.int64)


@torch.inference_mode()
def nats(
    subject: Subject,
    sequences: Sequence[np.ndarray],
    *,
    window: int,
    stride: int,
    batch_tokens: int = 4096,
    progress: Progress = lambda done: None,
) -> np.ndarray:
    """float64 [len(sequences)]: -Σ log p of every token after the first. batch_tokens: of a forward pass, or one window.

    Windows are computed together with others of about their length, filled up on the right, where a causal model does not look.
    """
    jobs = [(number, w) for number, tokens in enumerate(sequences) for w in windows(len(tokens) - 1, window, stride)]
    jobs.sort(key=lambda job: job[1].start - job[1].stop)  # the longest first: memory runs out at once or never
    total = np.zeros(len(sequences))
    at = 0
    while at < len(jobs):
        longest = jobs[at][1].stop - jobs[at][1].start
        batch = jobs[at : at + max(1, batch_tokens // longest)]
        at += len(batch)
        for (number, _), value in zip(batch, _batch(subject, sequences, batch, longest), strict=True):
            total[number] += value
        progress(at * len(sequences) // len(jobs))
    return total


def _batch(subject: Subject, sequences: Sequence[np.ndarray], batch: Sequence[tuple[int, Window]], longest: int) -> list[float]:
    tokens_BS = np.full((len(batch), longest), subject.begin)
    for row, (number, (start, stop, _)) in enumerate(batch):
        tokens_BS[row, : stop - start] = sequences[number][start:stop]
    x_BSH = subject.hidden(torch.from_numpy(tokens_BS).to(subject.device))
    found = []
    for x_SH, (number, (start, stop, first)) in zip(x_BSH, batch):
        labels_S = torch.from_numpy(sequences[number][first + 1 : stop + 1]).to(subject.device)
        parts = zip(x_SH[first - start : stop - start].split(_ROWS), labels_S.split(_ROWS))
        found.append(sum(_nats(subject, *part) for part in parts))
    return found


def _nats(subject: Subject, x_SH: Tensor, labels_S: Tensor) -> float:
    logits_SV = subject.model.lm_head(x_SH)
    wide = logits_SV.to(torch.promote_types(logits_SV.dtype, torch.float32))
    return float(F.cross_entropy(wide, labels_S, reduction="none").double().sum())
