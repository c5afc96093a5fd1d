"""What is evaluated: a model with its tokenizer, from a run's newest checkpoint or from a Hugging Face folder.

The one place that opens runs. A model is held whole by this process, whatever layout it was trained on, and loses no token to a
capacity, which is a device of training.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from corpus.errors import ConfigError, InputError
from corpus.order import held_out
from corpus.tokenizer import Encoder, load_encoder
from corpus.tokens import TokenShards, token_bytes
from train.config import TrainConfig
from train.hf import import_model, read_config
from train.model import Model
from train.sources import open_data, streams
from train.weights import open_weights

__all__ = ["Codec", "Held", "Subject", "held_by", "held_in", "not_held", "open_folder", "open_trained"]


class Codec:
    """A byte-level tokenizer.json, both ways. Special tokens in a text are text, and stand for no bytes."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise InputError(f"no tokenizer at {path}; evaluation needs the tokenizer.json the model was trained with")
        self.path = path
        self.encoder: Encoder = load_encoder(path)
        self.special = self.encoder.special
        self.table: list[bytes] = token_bytes(path).to_pylist()

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """int64 ids of each text."""
        parts = [text.encode("utf-8") for text in texts]
        offsets_N1 = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        ids, ends_N1 = self.encoder.encode(offsets_N1, np.frombuffer(b"".join(parts), np.uint8))
        return [ids[a:b].astype(np.int64) for a, b in zip(ends_N1[:-1].tolist(), ends_N1[1:].tolist())]

    def decode(self, ids: Sequence[int]) -> bytes:
        return b"".join(self.table[i] for i in ids)


@dataclasses.dataclass(frozen=True)
class Subject:
    """context: tokens the model is asked to look at, at most. begin: the id that stands before a document; end: after it.

    A run's documents follow one another, each with its end, so what a document begins after is the end of another; a released
    model may have been trained with a beginning of its own, which its tokenizer_config.json then says (add_bos_token).
    """

    name: str
    model: Model
    codec: Codec
    context: int
    begin: int
    end: int | None

    def __post_init__(self) -> None:
        size = self.model.config.vocab_size
        assert size is not None
        if self.codec.encoder.vocab_size > size:
            raise ConfigError(
                f"{self.codec.path} has {self.codec.encoder.vocab_size} ids, {self.name} a vocabulary of {size}; the tokenizer "
                "the model was trained with expected"
            )

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def hidden(self, tokens_BS: Tensor) -> Tensor:
        """[B, S, H] of all positions, normed; no token loses an expert to a capacity."""
        exempt = torch.ones(len(tokens_BS), dtype=torch.bool, device=tokens_BS.device)
        return self.model.hidden(tokens_BS, exempt_B=exempt)[0]

    def logits(self, tokens_BS: Tensor) -> Tensor:
        """[B, S, V] of all positions: for few tokens."""
        return self.model.lm_head(self.hidden(tokens_BS))


@dataclasses.dataclass(frozen=True)
class Held:
    """Documents of one source that a run did not train on, by number. name: the source's in a blend."""

    name: str
    shards: TokenShards
    numbers: np.ndarray


def open_trained(config: TrainConfig, root: Path, device: str, say: Callable[[str], None] = print) -> Subject:
    """The newest checkpoint of a run; one that is damaged is passed over, and that is said. InputError where there is none."""
    torch.use_deterministic_algorithms(config.deterministic)
    found = open_weights(config, root, getattr(torch, config.dtype))
    name = f"{found.folder.name} step {found.step}"  # of the results' file as well, so no sentence
    if found.passed_over:
        say(f"{name}{found.passed_over}")
    codec = Codec(found.shards.tokenizer_path)
    begin, end = _ends(codec, False)
    return Subject(name, found.model.to(device).eval(), codec, config.seq_len, begin, end)


def held_by(config: TrainConfig, root: Path) -> list[Held]:
    """The documents a run holds out, by source; InputError where it holds none."""
    held = streams(config, open_data(config, root))[1]
    if held is None:
        raise InputError(
            f"{config.name} holds no documents out: validation={config.validation} of its shards is not a sample of "
            f"seq_len={config.seq_len}. Raise validation, which is another run, or name shards it has not seen with --data."
        )
    return [Held(reader.name, reader.shards, np.sort(reader.order.epoch(0).documents)) for reader in held.readers]


def not_held(config: TrainConfig, root: Path, documents: Sequence[Held]) -> tuple[int, int]:
    """How many of these documents a run does not hold out: (of shards it reads, of shards it does not).

    The first it trains on, as far as it comes. Of the others nothing is known: their texts may be in its own shards, or not.
    """
    data = open_data(config, root)
    held = streams(config, data)[1]
    unseen = {shards.folder.resolve(): np.zeros(0, np.int64) for shards in data.shards}
    for reader in [] if held is None else held.readers:
        unseen[reader.shards.folder.resolve()] = reader.order.epoch(0).documents
    trained = other = 0
    for asked in documents:
        known = unseen.get(asked.shards.folder.resolve())
        if known is None:
            other += len(asked.numbers)
        else:
            trained += int((~np.isin(asked.numbers, known)).sum())
    return trained, other


def held_in(folder: Path, share: float) -> list[Held]:
    """Documents that a run on these shards with this `validation` holds out."""
    shards = TokenShards(folder)
    numbers = held_out(shards.lengths, share)
    if not len(numbers):
        raise InputError(
            f"{folder}: no document fits into a share of {share} of its {shards.tokens:,} tokens; raise --validation"
        )
    return [Held("data", shards, numbers)]


def open_folder(folder: Path, device: str, dtype: torch.dtype) -> Subject:
    """A Hugging Face checkpoint with its tokenizer.json; its context is config.json's max_position_embeddings."""
    config = read_config(folder)
    with torch.device("meta"):
        model = Model(config)
    model = model.to_empty(device=device).to(dtype)
    for name, buffer in list(model.named_buffers()):  # the router's bias stays fp32 whatever dtype
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, torch.zeros(buffer.shape, dtype=torch.float32, device=device))
    with torch.no_grad():
        import_model(folder, model)
    codec = Codec(folder / "tokenizer.json")
    beside: dict[str, Any] = _plain_json(folder / "tokenizer_config.json")
    begin, end = _ends(codec, bool(beside.get("add_bos_token")))
    return Subject(folder.name, model.eval(), codec, config.max_position_embeddings, begin, end)


def _plain_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text("utf-8"))) if path.exists() else {}
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is not a JSON object: {error}") from error


def _ends(codec: Codec, own_begin: bool) -> tuple[int, int | None]:
    end = codec.special.get("eos")
    begin = codec.special.get("bos") if own_begin or end is None else end
    if begin is None:
        raise InputError(f"{codec.path} has neither an eos nor a bos token, so the first token of a document has no context")
    return begin, end
