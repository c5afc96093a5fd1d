"""Batches of a run: sample i is a pure function of (shards, config, i).

corpus/order.py says which documents sample i of a source is made of, corpus/blend.py which source sample i of the run is of.
Here they are read and, with `fim_rate`, transformed. The state of the data is one integer, the number of samples
read. So data ranks need nothing but arithmetic: rank r of R reads samples first + r·(B/R) … of a batch of B that begins at
`first`, whatever it read before.

Documents are packed one after another, none is padded. The label of a document's last token is the next document's first;
`documents` lets the model mask both. FIM is done per document before packing, so masks are as exact with it as without, as
DeepSeek-Coder-V2 does it (arXiv 2406.11931, section 3.1): PSM,  begin PREFIX hole SUFFIX end MIDDLE eos . With `fim_spm_rate`
some are SPM,  begin hole SUFFIX end PREFIX MIDDLE eos  (Bavarian et al., arXiv 2207.14255, section 3). Here it cuts between
tokens and draws anew in every epoch; encode_tokens cuts between characters, which is what a user's cursor does, once. Held-out
documents are not transformed. Long documents are not repeated here: that is mix's up-sampling, in the corpus.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from corpus.blend import Blend
from corpus.errors import InputError
from corpus.order import MegatronOrder, Order, Part, fim_origins, mix64, parts
from corpus.tokens import TokenShards

__all__ = ["SENTINELS", "Batch", "Reader", "Stream", "check_ids", "exempt", "fim_slice"]

SENTINELS = ("fim_begin", "fim_hole", "fim_end")
_EXEMPT_KEY = 0x6578656D7074


@dataclasses.dataclass(frozen=True)
class Batch:
    tokens_BL1: np.ndarray  # int64 [batch, seq_len + 1]
    documents_BL1: np.ndarray  # int64: a number per token, the same throughout a document, unique over all sources
    sources_B: np.ndarray  # int64: which source each sample is of


@dataclasses.dataclass(frozen=True)
class Reader:
    """A source and the order its documents are read in. base: what is added to their numbers to tell sources apart."""

    name: str
    shards: TokenShards
    order: Order | MegatronOrder
    weight: float = 1.0
    index: int = 0  # among the run's sources
    base: int = 0

    def __post_init__(self) -> None:
        if self.order.samples < 1:
            raise InputError(
                f"{self.shards.folder}: {self.order.tokens} tokens to read, at least seq_len + 1 = {self.order.seq_len + 1} "
                "expected. Lower seq_len, or build a larger corpus."
            )

    def read(self, part: Part) -> np.ndarray:
        """Ids of a part, transformed where the order says so. InputError for one outside the vocabulary."""
        document = self.shards.document(part.document)
        if part.fim:
            marks = np.array([self.shards.special[name] for name in SENTINELS], np.int64)
            ids = fim_slice(document, *self._cut(part, document), marks, part.first, part.stop)
        else:
            ids = document[part.first : part.stop]
        check_ids(ids, self.shards, f"document {part.document}")
        return ids

    def origins(self, part: Part) -> list[tuple[int, int]]:
        """(first, stop) of the document's ids, as they are in the shards, that a part shows, in order of reading."""
        if part.fim:
            cut = self._cut(part, self.shards.document(part.document))
            return fim_origins(part.first, part.stop, *cut)
        return [(part.first, part.stop)]

    def _cut(self, part: Part, document: np.ndarray) -> tuple[int, int, int]:
        """(ids before the end of text, begin of the middle, its end) of a document that is to be transformed."""
        if document[0] == self.shards.special["fim_begin"]:
            raise InputError(
                f"{self.shards.folder}: document {part.document} is transformed for FIM already; set fim_rate=0, or encode "
                "with encode_tokens.fim_rate=0"
            )
        content = len(document) - int(document[-1] == self.shards.special.get("eos"))
        return content, *self.order.cuts(part.document, part.epoch, content)


def fim_slice(ids: np.ndarray, content: int, a: int, b: int, marks: np.ndarray, first: int, stop: int) -> np.ndarray:
    """Ids [first, stop) of  begin ids[:a] hole ids[b:content] end ids[a:b] ids[content:] , nothing else read.

    marks: the ids of begin, hole and end.
    """
    pieces = (marks[:1], ids[:a], marks[1:2], ids[b:content], marks[2:], ids[a:b], ids[content:])
    taken, at = [], 0
    for piece in pieces:
        taken.append(piece[max(0, first - at) : max(0, stop - at)].astype(np.int64))
        at += len(piece)
    return np.concatenate(taken)


class Stream:
    """Samples of one source or of a blend, endlessly. Memory: see corpus.order."""

    def __init__(self, readers: Sequence[Reader]) -> None:
        self.readers = tuple(readers)
        self.blend = Blend([reader.weight for reader in readers])
        self.seq_len = readers[0].order.seq_len

    @property
    def tokens(self) -> int:
        """Of an epoch of every source."""
        return sum(reader.order.tokens for reader in self.readers)

    @property
    def samples(self) -> int:
        """Until the first source begins anew."""
        ends = [int(self.blend.numbers(s, np.array([r.order.samples]))[0]) for s, r in enumerate(self.readers)]
        return min(ends)

    def epochs(self, samples: int) -> dict[str, float]:
        """How often each source has been read after so many samples of the run."""
        return {r.name: r.order.epochs(n) for r, n in zip(self.readers, self.blend.counts(samples))}

    def parts(self, first: int, count: int) -> Iterator[tuple[Reader, list[Part]]]:
        """What samples first … first + count - 1 are made of."""
        sources, own = self.blend.locate(np.arange(first, first + count))
        epochs, starts = np.empty(count, np.int64), np.empty(count, np.int64)
        for source in np.unique(sources).tolist():
            rows = sources == source
            epochs[rows], starts[rows] = self.readers[source].order.starts(own[rows])
        for source, epoch, start in zip(sources.tolist(), epochs.tolist(), starts.tolist()):
            reader = self.readers[source]
            yield reader, list(parts(reader.order, epoch, start))

    def batch(self, first: int, count: int) -> Batch:
        """Samples first … first + count - 1."""
        tokens = np.empty((count, self.seq_len + 1), np.int64)
        documents, sources = np.empty_like(tokens), np.empty(count, np.int64)
        for row, (reader, found) in enumerate(self.parts(first, count)):
            at = 0
            sources[row] = reader.index
            for part in found:
                end = at + part.stop - part.first
                tokens[row, at:end] = reader.read(part)
                documents[row, at:end] = reader.base + part.document
                at = end
        return Batch(tokens, documents, sources)


def exempt(first: int, count: int) -> Tensor:
    """bool [count]: whether samples first … are of the tenth that lose no token (V2 section 2.2.4), keyed by their number."""
    return torch.from_numpy(mix64(np.arange(first, first + count), _EXEMPT_KEY) % np.uint64(10) == 0)


def check_ids(ids: np.ndarray, shards: TokenShards, where: str) -> None:
    """InputError for an id that is not in the vocabulary."""
    if len(ids) and (ids.min() < 0 or ids.max() >= shards.vocab_size):
        seen = int(ids.min()) if ids.min() < 0 else int(ids.max())
        what = (
            "that tokens.json names; the shards were made with another tokenizer. Run encode_tokens again."
            if shards.ours
            else "that model.vocab_size says. Raise it to the size of the tokenizer the files were made with."
        )
        raise InputError(f"{shards.folder}: {where} has token {seen}, outside the vocabulary of {shards.vocab_size} {what}")
