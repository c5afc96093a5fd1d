"""The sources of a run: token shards opened, checked to go together, and laid out as the streams it trains and validates on.

A source is a finished encode_tokens step, or Megatron's .bin/.idx files of any tool. What decides which step reads what is one
small record, RUN/order.json, from which the streams are made and from which `corpus explain` works back.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from corpus.errors import ConfigError, CorruptFile, InputError
from corpus.order import Order, order_of
from corpus.permutation import mix64, permuted
from corpus.shards import open_checked, touched
from corpus.step import Step
from corpus.tokens import TokenShards
from train.config import Source, TrainConfig
from train.data import SENTINELS, Reader, Stream, check_ids
from train.schedule import samples_before

__all__ = ["Data", "check_content", "open_data", "order_plan", "streams", "unigram_entropy"]

_COUNTED = 1 << 27  # tokens that are enough for the unigram entropy, about a second of counting
_SAY_EVERY = 10.0  # seconds of hashing


@dataclasses.dataclass(frozen=True)
class Data:
    """The sources of a run, opened. vocab_size, special: of all; documents, tokens: in all; tokenizer_path: of the first."""

    sources: tuple[Source, ...]
    shards: tuple[TokenShards, ...]

    @property
    def folder(self) -> str:
        return ", ".join(str(shards.folder) for shards in self.shards)

    @property
    def vocab_size(self) -> int:
        return max(shards.vocab_size for shards in self.shards)

    @property
    def special(self) -> dict[str, int]:
        return self._first.special

    @property
    def tokenizer_path(self) -> Path:
        return self._first.tokenizer_path

    @property
    def documents(self) -> int:
        return sum(shards.documents for shards in self.shards)

    @property
    def tokens(self) -> int:
        return sum(shards.tokens for shards in self.shards)

    @property
    def content(self) -> str:
        """A hash of what encode_tokens recorded of every token file: other ids in files of the same sizes make another."""
        facts = [(record.path, record.size, record.xxh3) for shards in self.shards for record in shards.records]
        return xxhash.xxh3_64_hexdigest(repr(facts).encode())

    @property
    def _first(self) -> TokenShards:
        return next((shards for shards in self.shards if shards.ours), self.shards[0])


def open_data(config: TrainConfig, root: Path) -> Data:
    """The token shards `data` names; an error says what is missing, or does not go together, and what to do."""
    data = config.data
    sources = data if isinstance(data, tuple) else (Source(name="data", data=data, weight=1.0),)
    opened = Data(sources, tuple(_open_shards(source.data, root, config.model.vocab_size) for source in sources))
    ours = [(source, shards) for source, shards in zip(sources, opened.shards) if shards.ours]
    for source, shards in ours[1:]:
        if _tokenizer(shards) != _tokenizer(ours[0][1]):
            raise ConfigError(
                f"sources {ours[0][0].name} and {source.name} were encoded with different tokenizers, by {ours[0][1].folder} "
                f"and {shards.folder}; one tokenizer for all of a run's sources expected"
            )
    if config.fim_rate:
        for shards in opened.shards:
            _check_fim(shards)
    return opened


def _open_shards(data: Step | str, root: Path, vocab_size: int | None) -> TokenShards:
    folder = root / data.folder if isinstance(data, Step) else Path(data)
    if isinstance(data, Step) and not (folder / "step.json").exists():
        raise InputError(
            f"no token shards at {folder}: step {data.name} of the corpus is not finished. Build it first with "
            f"`python -m corpus run` on the same recipe, --root {root} and --set."
        )
    shards = TokenShards(folder, vocab_size)
    if shards.tokens == 0:
        raise InputError(f"{folder} has {shards.documents} documents and no tokens; nothing to train on")
    return shards


def check_content(data: Data, say: Callable[[str], None], rank: int = 0, ranks: int = 1) -> None:
    """CorruptFile unless the token files are those that encode_tokens recorded. Each rank looks at its share of them.

    Sizes always; checksums, at the rate of the disk, of files whose time of change is not the recorded one, as after a copy.
    """
    try:
        found = [(shards.folder, record) for shards in data.shards for record in shards.records][rank::ranks]
        doubtful = [(folder, record) for folder, record in found if touched(folder, record)]
        total, done, said = sum(record.size for _, record in doubtful), 0, time.monotonic()
        if doubtful:
            say(f"changed or copied since they were recorded: {len(doubtful)} token files; hashing {total / 1e6:,.0f} MB")
        for folder, record in doubtful:
            open_checked(folder, record)
            done += record.size
            if time.monotonic() - said > _SAY_EVERY:
                say(f"checksums of {done / 1e6:,.0f} of {total / 1e6:,.0f} MB are right")
                said = time.monotonic()
    except CorruptFile as error:
        seen = str(error).removesuffix(" It will be rebuilt.")
        what = f"{seen} `python -m corpus run` on its recipe makes it anew; a copy is to be copied again."
        raise CorruptFile(what, **error.details) from None


def _tokenizer(shards: TokenShards) -> tuple[Any, ...]:
    path = shards.tokenizer_path
    return shards.vocab_size, shards.special, path.read_bytes() if path.exists() else b""


def _check_fim(shards: TokenShards) -> None:
    if missing := [name for name in SENTINELS if name not in shards.special]:
        raise ConfigError(
            f"fim_rate: the tokenizer of {shards.folder} has no {', '.join(missing)} token "
            f"(it has {', '.join(shards.special) or 'none that tokens.json names'}); set fim_rate=0"
        )
    if changed := shards.fim_documents():
        raise ConfigError(
            f"fim_rate: {changed:,} of {shards.documents:,} documents of {shards.folder} are transformed for FIM already; set "
            "fim_rate=0, or encode with encode_tokens.fim_rate=0"
        )


def order_plan(config: TrainConfig, data: Data) -> dict[str, Any]:
    """All that decides which step reads what: RUN/order.json, for corpus/seen.py. batches: [first step, samples a step], ….

    A single source has the run's seed; those of a blend one by name, so that adding a source reorders no other.
    """
    before = np.array([samples_before(step, config) for step in range(config.steps + 1)])
    sizes = np.diff(before)
    changes = np.flatnonzero(np.diff(sizes, prepend=-1))
    blend = isinstance(config.data, tuple)
    sources = [
        {
            "name": source.name,
            "folder": source.data.folder if isinstance(source.data, Step) else str(Path(source.data).absolute()),
            "weight": source.weight,
            "seed": int(mix64(np.array([xxhash.xxh3_64_intdigest(source.name)], np.uint64), config.seed)[0])
            if blend
            else config.seed,
            "documents": shards.documents,
            "tokens": shards.tokens,
        }
        for source, shards in zip(data.sources, data.shards)
    ]
    copied = {name: getattr(config, name) for name in ("order", "seq_len", "fim_rate", "fim_spm_rate", "validation", "steps")}
    batches = [[int(step), int(sizes[step])] for step in changes]
    return {**copied, "samples": int(before[-1]), "batches": batches, "sources": sources}


def streams(config: TrainConfig, data: Data) -> tuple[Stream, Stream | None]:
    """(samples to train on, samples of the documents held out or None). Held-out samples have one order for any seed."""
    plan = order_plan(config, data)
    train, held, base = [], [], 0
    for index, (source, facts, shards) in enumerate(zip(data.sources, plan["sources"], data.shards)):
        order, out = order_of(plan, facts, shards.lengths)
        train.append(Reader(source.name, shards, order, source.weight, index, base))
        if len(out):
            alone = Order(shards.lengths, out, 0, config.seq_len)
            held.append(Reader(source.name, shards, alone, source.weight, index, base))
        base += shards.documents
    return Stream(train), Stream(held) if held else None


def unigram_entropy(data: Data) -> float:
    """Nats per token of the best model that knows only how frequent tokens are: what a trained model must get below.

    Counts at most 2^27 tokens, of documents in a keyed order; of a blend, the same number of each source, weighed.
    """
    shares = np.zeros(data.vocab_size)
    total = sum(source.weight for source in data.sources)
    for source, shards in zip(data.sources, data.shards):
        counts = _counts(shards, _COUNTED // len(data.sources))
        shares[: len(counts)] += source.weight / total * counts / counts.sum()
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def _counts(shards: TokenShards, most: int) -> np.ndarray:
    counts = np.zeros(shards.vocab_size, np.int64)
    pending: list[np.ndarray] = []
    waiting = seen = 0
    for document in permuted(np.arange(shards.documents), shards.documents, 0):
        pending.append(shards.document(int(document))[: most - seen])
        waiting += len(pending[-1])
        seen += len(pending[-1])
        if waiting > 1 << 20:  # a count per million tokens: each costs a pass over the vocabulary
            counts += _count(pending, shards)
            pending, waiting = [], 0
        if seen >= most:
            break
    return counts + _count(pending, shards)


def _count(parts: list[np.ndarray], shards: TokenShards) -> np.ndarray:
    ids = np.concatenate([np.zeros(0, np.int64), *parts])
    check_ids(ids, shards, "a document")
    return np.bincount(ids, minlength=shards.vocab_size)
