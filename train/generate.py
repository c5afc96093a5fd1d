"""Text from a model: greedy or sampled, many prompts at once, each as if it were alone.

A draw is a function of (key of the prompt, number of the token): it does not hang on what else is generated, in which batches,
or in which order. Logits do, in their last bits, as in every matrix product; so does a choice between two tokens that tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from corpus.errors import ConfigError
from corpus.order import mix64
from train.items import Progress
from train.latent_cache import LatentCache
from train.subject import Subject

__all__ = ["GREEDY", "Generated", "Sampling", "generate"]


class Sampling(NamedTuple):
    """temperature 0: the likeliest token. top_p: only the fewest likeliest tokens that together have this probability."""

    temperature: float = 0.0
    top_p: float = 1.0

    def check(self) -> None:
        if not (self.temperature >= 0 and 0 < self.top_p <= 1):
            raise ConfigError(f"temperature={self.temperature}, top_p={self.top_p}: 0 or more, and above 0 to 1, expected")


GREEDY = Sampling()


class Generated(NamedTuple):
    text: bytes  # up to the first stop, not included
    tokens: int  # generated, the end and those of the stop included
    why: str  # "end", "stop" or "length"


@torch.inference_mode()
def generate(
    subject: Subject,
    prompts: Sequence[np.ndarray],
    *,
    most: int,
    stops: Sequence[bytes] = (),
    sampling: Sampling = GREEDY,
    keys: Sequence[int] | None = None,
    batch_tokens: int = 8192,
    progress: Progress = lambda done: None,
) -> list[Generated]:
    """What follows each prompt: to the end of text, a stop, or `most` tokens.

    keys: of the draws, one a prompt; None: its number. batch_tokens: of all rows of a batch, their filling included.
    ConfigError for a prompt without tokens, or one that leaves no room in the model's context.
    """
    sampling.check()
    for i, prompt in enumerate(prompts):
        if not 0 < len(prompt) <= subject.context - most:
            raise ConfigError(
                f"prompt {i} has {len(prompt)} tokens; 1 to {subject.context - most} expected, for {most} more to fit into the "
                f"context of {subject.context}"
            )
    keys = range(len(prompts)) if keys is None else keys
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    found: dict[int, Generated] = {}
    while order:
        rows = max(1, batch_tokens // (len(prompts[order[0]]) + most))
        batch, order = order[:rows], order[rows:]
        done = _batch(subject, [prompts[i] for i in batch], [keys[i] for i in batch], most, tuple(stops), sampling)
        found.update(zip(batch, done, strict=True))
        progress(len(found))
    return [found[i] for i in range(len(prompts))]


class _Row:
    def __init__(self, number: int, key: int) -> None:
        self.number, self.key = number, key
        self.text = bytearray()
        self.tokens = 0
        self.done: Generated | None = None

    def take(self, token: int, subject: Subject, most: int, stops: tuple[bytes, ...]) -> None:
        self.tokens += 1
        if token == subject.end:
            self.done = Generated(bytes(self.text), self.tokens, "end")
            return
        seen = len(self.text)
        self.text += subject.codec.table[token]
        found = [at for stop in stops if (at := self.text.find(stop, max(0, seen - len(stop) + 1))) >= 0]
        if found:
            self.done = Generated(bytes(self.text[: min(found)]), self.tokens, "stop")
        elif self.tokens == most:
            self.done = Generated(bytes(self.text), self.tokens, "length")


def _batch(
    subject: Subject, prompts: list[np.ndarray], keys: list[int], most: int, stops: tuple[bytes, ...], sampling: Sampling
) -> list[Generated]:
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=subject.device)
    tokens_BS = np.full((len(prompts), int(lengths.max())), subject.begin)
    for number, prompt in enumerate(prompts):
        tokens_BS[number, : len(prompt)] = prompt
    tokens = torch.from_numpy(tokens_BS).to(subject.device)
    cache = LatentCache(subject.model, tokens, lengths, tokens.shape[1] + most)
    rows = [_Row(number, key) for number, key in enumerate(keys)]
    results: dict[int, Generated] = {}
    logits_BV = cache.logits_BV
    while True:
        chosen_B = choose(logits_BV[:, : len(subject.codec.table)], [row.key for row in rows], rows[0].tokens, sampling)
        for row, token in zip(rows, chosen_B.tolist(), strict=True):
            row.take(token, subject, most, stops)
        live = [i for i, row in enumerate(rows) if row.done is None]
        results.update((row.number, row.done) for row in rows if row.done is not None)
        if not live:
            return [results[number] for number in range(len(prompts))]
        if len(live) < len(rows):
            index = torch.tensor(live, device=subject.device)
            cache.keep(index)
            rows, chosen_B = [rows[i] for i in live], chosen_B[index]
        logits_BV = cache.append(chosen_B)


def choose(logits_BV: Tensor, keys: Sequence[int], number: int, sampling: Sampling) -> Tensor:
    """The next token of each row, int64 [B]; of sampled ones, that at which the sum of probabilities passes a keyed number."""
    if sampling.temperature == 0:
        return logits_BV.argmax(-1)
    shares_BV, ids_BV = (logits_BV.double() / sampling.temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    sums_BV = shares_BV.cumsum(-1)
    kept_B = (sums_BV - shares_BV < sampling.top_p).sum(-1, keepdim=True)  # at least one: the first has nothing before it
    total_B1 = sums_BV.gather(-1, kept_B - 1)
    drawn = [float(mix64(np.array([number]), key)[0] >> np.uint64(11)) / (1 << 53) for key in keys]
    target_B1 = torch.tensor(drawn, dtype=torch.float64, device=logits_BV.device)[:, None] * total_B1
    place_B1 = torch.minimum((sums_BV <= target_B1).sum(-1, keepdim=True), kept_B - 1)
    return ids_BV.gather(-1, place_B1)[:, 0]
