"""encode_tokens: text to ids on disk, FIM included, beside Hugging Face `tokenizers` (text to ids only), with one tokenizer.

gigatoken keeps the pieces it has met, so a second pass over the same text is two to three times as fast as the first. A real
run meets each text once: every repeat here loads the tokenizer anew, and that time is not counted.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench.measure import Row, Sample, rate
from corpus.document import text_buffers
from corpus.tokenizer import Encoder, load_encoder, train_bpe
from stages.encode_tokens import Config, convert

UPSTREAM: Any = None  # convert never looks there
VOCAB = 32_000
TRAINING_MB = 16


def first_pass(make: Callable[[], Encoder], work: Callable[[Encoder], object], bytes: int, repeats: int = 3) -> float:
    """Like bench.measure.rate, with a new encoder for every repeat."""
    best = 0.0
    for _ in range(repeats):
        encoder = make()
        started = time.perf_counter()
        work(encoder)
        best = max(best, bytes / 1e6 / (time.perf_counter() - started))
    return best


def bench(sample: Sample) -> list[Row]:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core
    training = sample.head(TRAINING_MB)
    texts = [text for batch in training.batches for text in batch.column("text").to_pylist()]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.perf_counter()
        (folder / "tokenizer.json").write_text(train_bpe(texts, VOCAB), "utf-8")
        trained = time.perf_counter() - started
        make = partial(load_encoder, folder / "tokenizer.json")
        return [
            Row(
                "train_tokenizer",
                f"{VOCAB:,} ids, one thread",
                training.bytes / 1e6 / trained,
                {},
                "the trainer is tokenizers'",
            ),
            *_encoding(sample, folder, make),
        ]


def _encoding(sample: Sample, folder: Path, make: Callable[[], Encoder]) -> list[Row]:
    from tokenizers import Tokenizer

    config = Config(files=UPSTREAM, tokenizer=str(folder / "tokenizer.json"))
    ours = first_pass(make, lambda e: convert(iter(sample.batches), "00000", folder, config, e), sample.bytes)
    ids_only = first_pass(make, lambda e: [e.encode(*text_buffers(b.column("text"))) for b in sample.batches], sample.bytes)
    few = sample.head(4)
    texts = [text for batch in few.batches for text in batch.column("text").to_pylist()]
    theirs = Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.encode_special_tokens = True
    found: list[list[int]] = []

    def peer() -> None:
        found[:] = [e.ids for e in theirs.encode_batch_fast(texts, add_special_tokens=False)]

    peers = {"tokenizers": rate(peer, few.bytes, repeats=1)}
    ids, ends = make().encode(*text_buffers(pa.array(texts, pa.large_string())))
    same = np.array_equal(ids, np.concatenate([np.array(row, np.uint32) for row in found])) and len(ends) == len(texts) + 1
    note = f"ids {'equal' if same else 'DIFFER'} on {len(texts):,} files"
    return [
        Row("encode_tokens", "text → FIM → ids → .bin/.idx and map", ours, peers, note),
        Row("encode_tokens", "text → ids", ids_only, peers, "first pass, as a run meets it"),
    ]
