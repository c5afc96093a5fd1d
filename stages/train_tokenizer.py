"""Train a byte-level BPE tokenizer on a sample of the documents.

1. Every document gets a key from hash(seed, id); documents are taken in order of key until `sample_bytes` are reached.
2. The split pattern keeps letters, single digits, punctuation and line ends apart; merges are learned inside its pieces.
3. The special tokens of DeepSeek-Coder-V2 take the ids right after the ordinary vocabulary.

Writes tokenizer.json (Hugging Face's format) and a tokenizer_config.json that names begin, end and padding. Documents count
as used: the next stage reads the same input.

The trade: the sample goes through one task, which holds it in memory twice, and Hugging Face's trainer reads 2 to 4 MB/s a
core. It is one-off, and merges settle long before a corpus is read through.

Reference: DeepSeek LLM (arXiv 2401.02954), section 2.1: 100,000 ordinary tokens, digits one by one, about 24 GB of text.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from corpus.document import text_buffers
from corpus.draw import draw_keys, weigh
from corpus.engine import Engine
from corpus.errors import ConfigError, InputError
from corpus.report import Report
from corpus.shards import atomic
from corpus.step import Step
from corpus.tokenizer import SPECIAL_TOKENS, train_bpe

REVISION = 2
REASONS: tuple[str, ...] = ()  # nothing is dropped

_SALT = "train_tokenizer"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    files: Step
    vocab_size: int = 100_000  # ordinary tokens, bytes included; DeepSeek LLM 2.1
    sample_bytes: int = 1_000_000_000  # of text; the paper's 24 GB differ little in merges and much in hours
    seed: int = 0

    def __post_init__(self) -> None:
        if not 256 <= self.vocab_size <= 1_000_000:
            raise ConfigError(f"vocab_size is {self.vocab_size}; 256 (the bytes) to 1,000,000 expected")
        if self.sample_bytes < 1:
            raise ConfigError(f"sample_bytes is {self.sample_bytes}; at least 1 byte of text expected")


def measure(batch: pa.RecordBatch) -> np.ndarray:
    """What a document takes of the sample: its bytes of text, int64 [N]."""
    return np.diff(text_buffers(batch.column("text"))[0])


def select(batch: pa.RecordBatch, origin: int, seed: int, last: int) -> pa.Table:
    """The sampled documents of a batch, all to one partition; training does not mind their order."""
    key = draw_keys(batch.column("id"), seed, _SALT)
    chosen = np.flatnonzero(key <= np.uint64(last))
    return pa.table({"text": batch.column("text").take(chosen), "partition": np.zeros(len(chosen), np.int64)})


def train(batches: Iterator[pa.RecordBatch], out: Path, vocab_size: int) -> dict[str, Any]:
    """tokenizer.json and tokenizer_config.json from the sampled texts."""
    started = time.perf_counter()
    spec = train_bpe((text for batch in batches for text in _texts(batch.column("text"))), vocab_size)
    with atomic(out / "tokenizer.json") as temporary:
        temporary.write_text(spec, "utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL_TOKENS["bos"],
        "eos_token": SPECIAL_TOKENS["eos"],
        "pad_token": SPECIAL_TOKENS["eos"],
        "clean_up_tokenization_spaces": False,
    }
    with atomic(out / "tokenizer_config.json") as temporary:
        temporary.write_text(json.dumps(config, ensure_ascii=False, indent=1), "utf-8")
    ordinary = len(json.loads(spec)["model"]["vocab"])
    return {"vocab_size": ordinary, "special_tokens": len(SPECIAL_TOKENS), "training_seconds": time.perf_counter() - started}


def _texts(column: pa.Array) -> Iterator[str]:
    offsets_N1, data_B = text_buffers(column)
    for a, b in zip(offsets_N1[:-1].tolist(), offsets_N1[1:].tolist(), strict=True):
        yield str(data_B.data[a:b], "utf-8", "replace")  # a text that is not UTF-8 must not stop the training


def run(config: Config, out: Path, engine: Engine) -> Report:
    weighed = weigh(measure, config.files, out, engine, name="bytes", seed=config.seed, salt=_SALT)
    if not weighed.weight:
        raise InputError(f"step {config.files.name} has no text in its {weighed.documents} documents; nothing to train on")
    last, drawn = weighed.cut(config.sample_bytes)
    assert last is not None  # a budget of at least one byte draws a document
    sample = engine.exchange(
        partial(select, seed=config.seed, last=last),
        config.files,
        out,
        name="sample",
        partitions=1,
        columns=["id", "text"],
    )
    report = engine.reduce(partial(train, vocab_size=config.vocab_size), sample, out, name="train")
    report.read = report.used = weighed.documents
    report.bytes_in = weighed.bytes
    report.notes["sample_bytes"] = drawn
    return report
