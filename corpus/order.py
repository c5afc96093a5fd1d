"""The order in which a training run reads its documents: arithmetic on numbers, both ways, no token is read.

    epoch     the documents in an order keyed by (seed, epoch), one after another: a stream of tokens
    sample    tokens j·L … j·L + L of the epoch's stream: L inputs, and as labels the same shifted by one, so samples overlap
              by one token and a document cut at the end of one goes on in the next
    order     sample i of a source is j = permutation of (seed, epoch) at i mod M, for the M samples an epoch has

Every line is a function of i: the state of a run's data is one integer, and a run made longer reads the same before. How the
samples of several sources become one sequence is in corpus/blend.py. train/ goes from a sample to documents, `explain`
(corpus/seen.py) from a document to samples: both permutations are Feistel networks, which run backwards as well, and need no
table. MegatronOrder is the other order there is, with tables, for a comparison; it depends on the number of samples asked for.

The trade: fewer than L tokens at the end of an epoch are not read in that epoch.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from corpus.permutation import mix64, permuted, unpermuted

__all__ = [
    "Epoch",
    "MegatronOrder",
    "Order",
    "Part",
    "fim_origins",
    "fim_ranges",
    "held_out",
    "order_of",
    "parts",
    "places",
]

FIM_SENTINELS = 3  # begin, hole, end: what a transformed document is longer by
FIM_LEAST = 4  # ids: three and an end of text; a shorter document stays as it is

_HELD_OUT_KEY = 0x76616C6964617465  # not a seed: the documents held out are the same whatever the seed
_FIM_KEY = 0x66696C6C696E  # what sets the keys of FIM apart from those of the order
_SPM_KEY = 0x737566666978  # and those of which documents have their suffix first from its own


def held_out(lengths: np.ndarray, share: float) -> np.ndarray:
    """Numbers of the documents held out: the first of a keyed order that fit into `share` of all tokens.

    A document that would not fit even alone is passed over: a repository may be one document, and half the corpus.
    """
    budget = int(lengths.sum() * share)
    order = permuted(np.arange(len(lengths)), len(lengths), _HELD_OUT_KEY)
    order = order[(lengths[order] <= budget) & (lengths[order] > 0)]
    return np.sort(order[: int(np.cumsum(lengths[order]).searchsorted(budget, side="right"))])


class Epoch(NamedTuple):
    """Documents in the order of an epoch, where each ends in its stream, and whether it is transformed for FIM."""

    documents: np.ndarray
    ends: np.ndarray
    fim: np.ndarray


class Part(NamedTuple):
    """A stretch of one document: its ids [first, stop), as they are in `epoch` (FIM moves them)."""

    document: int
    first: int
    stop: int
    epoch: int
    fim: bool


class Order:
    """Samples of one source, endlessly, every epoch in an order of its own. 17 bytes a document for each of two epochs.

    lengths: ids of every document of the shards. documents: numbers of those to read. fim_rate: exactly that share of the
    documents with FIM_LEAST ids or more is transformed in each epoch, drawn by key, so that all epochs are equally long and
    sample i is found without counting those before. spm_rate: of those about that share has its suffix first, see cuts. tokens,
    samples: of an epoch.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        documents: np.ndarray,
        seed: int,
        seq_len: int,
        fim_rate: float = 0.0,
        spm_rate: float = 0.0,
    ) -> None:
        self.lengths, self.documents, self.seed, self.seq_len, self.spm_rate = lengths, documents, seed, seq_len, spm_rate
        eligible = int((lengths[documents] >= FIM_LEAST).sum()) if fim_rate else 0
        self._transformed = round(eligible * fim_rate)
        self._fim_seed = int(mix64(np.array([_FIM_KEY]), seed)[0])
        self.tokens = int(lengths[documents].sum()) + FIM_SENTINELS * self._transformed
        self.samples = max(0, self.tokens - 1) // seq_len
        self.epoch = functools.lru_cache(maxsize=2)(self._epoch)

    def epochs(self, samples: int) -> float:
        """How often the documents have been read after so many samples."""
        return samples / self.samples

    def starts(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(epoch, first position in its stream) of each sample."""
        epochs, i = np.divmod(numbers, self.samples)
        j = np.empty_like(i)
        for epoch in np.unique(epochs).tolist():
            j[epochs == epoch] = permuted(i[epochs == epoch], self.samples, _key(self.seed, epoch, 1))
        return epochs, j * self.seq_len

    def numbers(self, epoch: int, j: np.ndarray) -> np.ndarray:
        """The inverse: numbers of the samples that begin at positions j·seq_len of an epoch."""
        return epoch * self.samples + unpermuted(j, self.samples, _key(self.seed, epoch, 1))

    def _epoch(self, epoch: int) -> Epoch:
        count = len(self.documents)
        rows = permuted(np.arange(count), count, _key(self.seed, epoch, 0))
        documents, fim = self.documents[rows], np.zeros(count, bool)
        if self._transformed:
            eligible = np.flatnonzero(self.lengths[self.documents] >= FIM_LEAST)
            drawn = permuted(np.arange(self._transformed), len(eligible), _key(self._fim_seed, epoch, 0))
            chosen = np.zeros(count, bool)
            chosen[eligible[drawn]] = True
            fim = chosen[rows]
        return Epoch(documents, np.cumsum(self.lengths[documents] + FIM_SENTINELS * fim), fim)

    def cuts(self, document: int, epoch: int, content: int) -> tuple[int, int]:
        """The middle [a, b) of a transformed document's `content` ids (its end of text is not among them).

        Two positions, 0 and the end included, drawn with replacement and put in order, as encode_tokens draws characters.

        A document with its suffix first (SPM) is  begin hole SUFFIX end PREFIX MIDDLE : what PSM makes of a document without a
        prefix, whose middle is both. So its a is 0, and whoever writes, finds or undoes PSM does so with SPM.
        """
        drawn = mix64(np.array([2 * document, 2 * document + 1]), _key(self._fim_seed, epoch, 1)) % np.uint64(content + 1)
        share = int(mix64(np.array([document]), _key(self._fim_seed ^ _SPM_KEY, epoch, 0))[0]) / 2**64
        return 0 if share < self.spm_rate else int(drawn.min()), int(drawn.max())


def _key(seed: int, epoch: int, purpose: int) -> int:
    return int(mix64(np.array([epoch * 2 + purpose]), seed)[0])


class MegatronOrder:
    """The samples of megatron-core 0.16.1's GPTDataset, in its order: with lengths, documents (its indexed_indices), seed and
    number of samples equal, sample i here is item i there, bit for bit.

    All epochs needed for `samples` are laid out and shuffled as one; the last apart where it would give less than 80 % of an
    epoch's samples. So another number of samples is another order from the first sample on, and 8 bytes a sample and 12 a
    document and epoch are kept. No FIM: Megatron's acts on samples after packing. It knows one epoch, number 0, that holds
    them all. A document that happens to follow itself is one document to whoever looks at its number. Which documents are
    held out is our rule, not Megatron's split; several .bin files of a source are as one.
    """

    def __init__(self, lengths: np.ndarray, documents: np.ndarray, seed: int, seq_len: int, samples: int) -> None:
        self.seq_len = seq_len
        self.tokens = int(lengths[documents].sum())
        if self.tokens < 1:
            self.samples = 0  # an epoch without tokens is never enough
            return
        epochs = max(1, -(-(samples * seq_len + 1) // self.tokens))
        self.samples = (epochs * self.tokens - 1) // seq_len
        if self.samples < 1:
            return
        before_last = ((epochs - 1) * self.tokens - 1) // seq_len  # samples that end before the last epoch does
        apart = epochs > 1 and samples - before_last < int(0.80 * ((self.tokens - 1) // seq_len))
        random = np.random.RandomState(seed)
        order = [_shuffled(np.tile(documents.astype(np.int32), n), random) for n in ([epochs - 1, 1] if apart else [epochs])]
        bounds = [0, before_last, self.samples] if apart else [0, self.samples]
        shuffles = [_shuffled(np.arange(a, b, dtype=np.int64), random) for a, b in itertools.pairwise(bounds)]
        self._shuffle = np.concatenate(shuffles)
        documents = np.concatenate(order)
        self._all = Epoch(documents, np.cumsum(lengths[documents], dtype=np.int64), np.zeros(len(documents), bool))

    def epochs(self, samples: int) -> float:
        """How often the documents have been read after so many samples."""
        return samples * self.seq_len / self.tokens

    def starts(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(0, first position in the stream of all epochs) of each sample."""
        if len(numbers) and int(numbers.max()) >= self.samples:
            raise IndexError(f"sample {numbers.max()}: Megatron's order was laid out for {self.samples}")
        return np.zeros_like(numbers), self._shuffle[numbers] * self.seq_len

    def numbers(self, epoch: int, j: np.ndarray) -> np.ndarray:
        """The inverse: numbers of the samples that begin at positions j·seq_len."""
        found: np.ndarray = np.argsort(self._shuffle)[j]
        return found

    def epoch(self, epoch: int) -> Epoch:
        return self._all

    def cuts(self, document: int, epoch: int, content: int) -> tuple[int, int]:
        raise ValueError("Megatron's order has no FIM of its own")


def _shuffled(values: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    random.shuffle(values)
    return values


def parts(order: Order | MegatronOrder, epoch: int, start: int) -> Iterator[Part]:
    """The seq_len + 1 ids from position `start` of an epoch's stream, document by document."""
    documents, ends, fim = order.epoch(epoch)
    at, stop = start, start + order.seq_len + 1
    place = int(ends.searchsorted(at, side="right"))
    while at < stop:
        end = int(ends[place])
        if end > at:  # not an empty document
            begin = int(ends[place - 1]) if place else 0
            yield Part(int(documents[place]), at - begin, min(end, stop) - begin, epoch, bool(fim[place]))
            at = min(end, stop)
        place += 1


def places(
    order: Order | MegatronOrder, epoch: int, document: int, content: int, ranges: Sequence[tuple[int, int]]
) -> np.ndarray:
    """Numbers of the samples of an epoch that hold any of a document's ids in `ranges` of (first, stop), in order.

    The ids are counted in the document as it is in the shards; `content` of them come before its end of text.
    """
    documents, ends, fim = order.epoch(epoch)
    found = [np.zeros(0, np.int64)]
    for place in np.flatnonzero(documents == document).tolist():
        begin = int(ends[place - 1]) if place else 0
        here = fim_ranges(ranges, content, *order.cuts(document, epoch, content)) if fim[place] else ranges
        for first, stop in here:
            if first >= stop:
                continue
            # Sample j holds positions j·L … j·L + L, its last id being the first of the next.
            low, high = max(0, (begin + first - 1) // order.seq_len), (begin + stop - 1) // order.seq_len
            found.append(np.arange(low, min(high + 1, order.samples)))
    return np.sort(order.numbers(epoch, np.unique(np.concatenate(found))))


def fim_ranges(ranges: Sequence[tuple[int, int]], content: int, a: int, b: int) -> list[tuple[int, int]]:
    """Where ids in (first, stop) are once the document is  begin [0, a) hole [b, content) end [a, b) rest."""
    moved = []
    for first, stop in ranges:
        for begin, end, shift in _moves(content, a, b):
            if max(first, begin) < min(stop, end):
                moved.append((max(first, begin) + shift, min(stop, end) + shift))
    return moved


def fim_origins(first: int, stop: int, content: int, a: int, b: int) -> list[tuple[int, int]]:
    """The inverse: which (first, stop) of the document, in order of reading, ids [first, stop) of the transformed one are."""
    shifted = ((max(first - shift, begin), min(stop - shift, end)) for begin, end, shift in _moves(content, a, b))
    return [(x, y) for x, y in shifted if x < y]


def _moves(content: int, a: int, b: int) -> tuple[tuple[int, int, int], ...]:
    """(begin, end, shift) of the pieces of a transformed document, in its order; an end of text at most comes after content."""
    return (0, a, 1), (b, content, 2 + a - b), (a, b, 3 + content - b), (content, content + 1, FIM_SENTINELS)


def order_of(plan: dict[str, Any], source: dict[str, Any], lengths: np.ndarray) -> tuple[Order | MegatronOrder, np.ndarray]:
    """(order of the documents trained on, numbers of those held out) of a source of a run; `plan` as in its order.json.

    Documents are held out only where they make a sample or more.
    """
    out = held_out(lengths, plan["validation"])
    if int(lengths[out].sum()) <= plan["seq_len"]:
        out = out[:0]
    kept = np.setdiff1d(np.arange(len(lengths)), out)
    if plan["order"] == "megatron":
        return MegatronOrder(lengths, kept, source["seed"], plan["seq_len"], plan["samples"]), out
    return Order(lengths, kept, source["seed"], plan["seq_len"], plan["fim_rate"], plan.get("fim_spm_rate", 0.0)), out
