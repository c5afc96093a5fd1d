"""Batches from token shards: sample i is a pure function of (shards, seed, seq_len, i).

    epoch     the documents in an order keyed by (seed, epoch), one after another: a stream of tokens
    sample    tokens j·L … j·L + L of the epoch's stream: L inputs, and as labels the same shifted by one, so samples overlap
              by one token and a document cut at the end of one goes on in the next
    order     sample i of the run is j = permutation of (seed, epoch) at i mod M, for the M samples an epoch has

So the whole state of the data is one integer, and training can be made longer without changing what came before (Megatron's
order depends on the number of samples asked for). Both permutations are Feistel networks: no table, any place at once.
The trade: fewer than L tokens at the end of an epoch are not read in that epoch, and each sample seeks, which a memory map
does not mind. The label of a document's last token is the next document's first; `documents` lets the model mask both.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import torch
from torch import Tensor

from corpus.errors import InputError
from corpus.tokens import TokenShards

__all__ = ["Batch", "Stream", "exempt", "held_out", "mix64", "permuted", "unigram_entropy"]

_HELD_OUT_KEY = 0x76616C6964617465  # not a seed: the documents held out are the same whatever the seed
_EXEMPT_KEY = 0x6578656D7074
_COUNTED = 1 << 27  # tokens that are enough for the unigram entropy, about a second of counting
_ROUNDS = 6  # of the Feistel network: 4 suffice against an adversary (Luby & Rackoff 1988), halves of a few bits want more


@dataclasses.dataclass(frozen=True)
class Batch:
    tokens_BL1: np.ndarray  # int64 [batch, seq_len + 1]
    documents_BL1: np.ndarray  # int64: a number per token, the same throughout a document


def mix64(values: np.ndarray, key: int) -> np.ndarray:
    """A keyed 64-bit hash of integers: splitmix64's finaliser (Steele, Lea & Flood 2014) around the key, twice."""
    x = values.astype(np.uint64)
    for constant in (key & 0xFFFFFFFFFFFFFFFF, 0x9E3779B97F4A7C15):
        x = x + np.uint64(constant)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return x


def permuted(positions: np.ndarray, count: int, key: int) -> np.ndarray:
    """Where a keyed permutation of range(count) sends each position, int64.

    A Feistel network permutes the 2^2b numbers that cover count; a result outside the range is sent through again until it
    is inside (cycle walking; under 4 times on average, since 2^2b < 4·count).
    """
    half = np.uint64(max(1, (max(count - 1, 1).bit_length() + 1) // 2))
    low = np.uint64((1 << int(half)) - 1)
    x = positions.astype(np.uint64)
    outside = np.ones(x.shape, bool)
    while outside.any():
        left, right = x[outside] >> half, x[outside] & low
        for number in range(_ROUNDS):
            left, right = right, left ^ (mix64(right, key + number) & low)
        x[outside] = (left << half) | right
        outside = x >= np.uint64(count)
    return x.astype(np.int64)


def held_out(lengths: np.ndarray, share: float) -> np.ndarray:
    """Numbers of the documents held out: the first of a keyed order that fit into `share` of all tokens.

    A document that would not fit even alone is passed over: a repository may be one document, and half the corpus.
    """
    budget = int(lengths.sum() * share)
    order = permuted(np.arange(len(lengths)), len(lengths), _HELD_OUT_KEY)
    order = order[(lengths[order] <= budget) & (lengths[order] > 0)]
    return np.sort(order[: int(np.cumsum(lengths[order]).searchsorted(budget, side="right"))])


class Stream:
    """Samples over some documents of the shards, endlessly. Memory: 16 bytes per document for each of two epochs."""

    def __init__(self, shards: TokenShards, documents: np.ndarray, seed: int, seq_len: int) -> None:
        self.shards, self.documents, self.seed, self.seq_len = shards, documents, seed, seq_len
        self.tokens = int(shards.lengths[documents].sum())  # of an epoch
        self.samples = (self.tokens - 1) // seq_len  # of an epoch
        self._order = functools.lru_cache(maxsize=2)(self._epoch_order)
        if self.samples < 1:
            raise InputError(
                f"{shards.folder}: {self.tokens} tokens in {len(documents)} documents, at least seq_len + 1 = {seq_len + 1} "
                "expected. Lower seq_len, or build a larger corpus."
            )

    def batch(self, first: int, count: int) -> Batch:
        """Samples first … first + count - 1."""
        tokens = np.empty((count, self.seq_len + 1), np.int64)
        documents = np.empty_like(tokens)
        for row in range(count):
            epoch, i = divmod(first + row, self.samples)
            j = int(permuted(np.array([i]), self.samples, self._key(epoch, 1))[0])
            tokens[row], documents[row] = self._read(epoch, j * self.seq_len)
        return Batch(tokens, documents)

    def _key(self, epoch: int, purpose: int) -> int:
        return int(mix64(np.array([epoch * 2 + purpose]), self.seed)[0])

    def _epoch_order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(documents in the order of this epoch, where each ends in its stream)."""
        count = len(self.documents)
        documents = self.documents[permuted(np.arange(count), count, self._key(epoch, 0))]
        return documents, np.cumsum(self.shards.lengths[documents])

    def _read(self, epoch: int, start: int) -> tuple[np.ndarray, np.ndarray]:
        """seq_len + 1 tokens from position `start` of an epoch, and for each its document."""
        order, ends = self._order(epoch)
        want = self.seq_len + 1
        ids, owners = np.empty(want, np.int64), np.empty(want, np.int64)
        done = 0
        while done < want:
            place = int(ends.searchsorted(start + done, side="right"))  # passes over empty documents
            number = int(order[place])
            document = self.shards.document(number)
            part = document[len(document) - int(ends[place]) + start + done :][: want - done]
            ids[done : done + len(part)], owners[done : done + len(part)] = part, number
            done += len(part)
        _check_ids(ids, self.shards, f"document {owners[ids.argmax()]}")
        return ids, owners


def exempt(first: int, count: int) -> Tensor:
    """bool [count]: whether samples first … are of the tenth that lose no token (V2 section 2.2.4), keyed by their number."""
    return torch.from_numpy(mix64(np.arange(first, first + count), _EXEMPT_KEY) % np.uint64(10) == 0)


def unigram_entropy(shards: TokenShards) -> float:
    """Nats per token of the best model that knows only how frequent tokens are: what a trained model must get below.

    Counts at most 2^27 tokens, of documents in a keyed order.
    """
    counts = np.zeros(shards.vocab_size, np.int64)
    pending: list[np.ndarray] = []
    waiting = seen = 0
    for document in permuted(np.arange(shards.documents), shards.documents, 0):
        pending.append(shards.document(int(document))[: _COUNTED - seen])
        waiting += len(pending[-1])
        seen += len(pending[-1])
        if waiting > 1 << 20:  # a count per million tokens: each costs a pass over the vocabulary
            counts += _count(pending, shards)
            pending, waiting = [], 0
        if seen >= _COUNTED:
            break
    counts += _count(pending, shards)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _count(parts: list[np.ndarray], shards: TokenShards) -> np.ndarray:
    ids = np.concatenate([np.zeros(0, np.int64), *parts])
    _check_ids(ids, shards, "a document")
    return np.bincount(ids, minlength=shards.vocab_size)


def _check_ids(ids: np.ndarray, shards: TokenShards, where: str) -> None:
    if len(ids) and (ids.min() < 0 or ids.max() >= shards.vocab_size):
        seen = int(ids.min()) if ids.min() < 0 else int(ids.max())
        raise InputError(
            f"{shards.folder}: {where} has token {seen}, outside the vocabulary of {shards.vocab_size} that tokens.json names; "
            "the shards were made with another tokenizer. Run encode_tokens again."
        )
