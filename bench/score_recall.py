"""Scoring pages with a recall classifier, beside fastText's own batch prediction, and training it, in MB of text.

The model is the paper's: dim 256, runs of three words, 2,000,000 buckets. fastText is given the same ids as lines, and its rate
leaves out making them. Web pages where CORPUS_DATA names them, else the source files of this machine.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bench.measure import Row, Sample, rate
from corpus.classifier import Setting, collapse, probability, read_table, train, write_table, write_training
from corpus.document import text_buffers
from corpus.recall import HELD_ROW
from corpus.signals import COLUMNS, WORDS, with_signals
from corpus.tokenizer import load_encoder, train_bpe
from stages.score_recall import Reader, score
from stages.train_recall import Config

PAGES = "html/pages.jsonl.zst"
LIMIT = 1 << 20  # whole pages on both sides
TRAINED = 500  # words of a page that the model is trained on
PAPER = 1_000_000  # pages, of both sides, and three epochs


def web_pages(sample: Sample) -> list[pa.RecordBatch]:
    """Texts of real pages with their signals, as batches of 16 MB; or the sample's own, which have none."""
    folder = os.environ.get("CORPUS_DATA")
    if folder is None or not (Path(folder) / PAGES).exists():
        return sample.head(20).batches
    import zstandard

    from corpus.extract import extract

    with (Path(folder) / PAGES).open("rb") as file:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
        rows = [json.loads(line) for line in lines]
    found = extract(pa.array([row["html"] for row in rows], pa.large_string()))
    characters = np.maximum(1, pc.utf8_length(found.text).to_numpy())
    columns = {
        "id": [f"{i:032x}" for i in range(len(rows))],
        "text": found.text,
        "url": [row["url"] for row in rows],
        "formulas": found.formulas_N,
        "code_blocks": found.code_blocks_N,
        "code_share": (found.code_chars_N / characters).astype(np.float32),
    }
    return pa.table(columns).combine_chunks().to_batches()


def bench(sample: Sample) -> list[Row]:
    batches = web_pages(sample)
    size = sum(len(text_buffers(batch.column("text"))[1]) for batch in batches)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = Path(folder) / "tokenizer.json"
        texts = [text for batch in batches for text in batch.column("text").to_pylist()]
        tokenizer.write_text(train_bpe(texts, 16_384), "utf-8")
        encoder = load_encoder(tokenizer)
        signals = set(COLUMNS) <= set(batches[0].schema.names)
        words = encoder.vocab_size + (WORDS if signals else 0)
        encoded = [encoder.encode(*text_buffers(batch.column("text"))) for batch in batches]
        if signals:
            pairs = zip(batches, encoded, strict=True)
            encoded = [with_signals(batch, *ids, encoder.vocab_size, LIMIT) for batch, ids in pairs]
        model = Path(folder) / "model.bin"
        with (Path(folder) / "lines").open("wb") as file:
            for ids, ends in encoded:
                write_training(file, ids, ends, np.arange(len(ends) - 1) % 2, TRAINED)
        training = training_row(Path(folder) / "lines", model, encoded, size)
        scorer = collapse(model, words, LIMIT)
        write_table(Path(folder) / "table.npy", scorer)
        reader = Reader(encoder, read_table(Path(folder) / "table.npy", words, 3, LIMIT), signals, np.zeros(0, HELD_ROW))
        peer, theirs = fasttext_rate(model, encoded, size)

    def look_up() -> list[np.ndarray]:
        return [reader.scorer.logits(ids, ends) for ids, ends in encoded]

    ours = rate(look_up, size)
    whole = rate(lambda: [score(batch, reader, "domain", 0) for batch in batches], size)
    gap = float(np.abs(probability(np.concatenate(look_up())) - theirs).max())
    same = f"largest difference of {len(theirs):,} probabilities {gap:.1e}"
    name = "fasttext multilinePredict"
    return [
        training,
        Row("score_recall", "look-up alone, ids given", ours, {name: peer}, same),
        Row(
            "score_recall",
            "text to scores",
            whole,
            {name: peer},
            "the peer is given ids; making them is ours alone",
        ),
    ]


def training_row(lines: Path, model: Path, encoded: list[tuple[np.ndarray, np.ndarray]], size: int) -> Row:
    """fastText's training on the paper's numbers, an epoch on one thread, and what that makes at the paper's size.

    21 epochs less one: to fill and write a model of 2 GB, as either does, takes as long as many epochs of so few pages.
    """
    length_N = np.concatenate([np.diff(ends) for _, ends in encoded])
    words = int(np.minimum(length_N, TRAINED).sum())
    seconds = []
    for epochs in (21, 1):  # the model of one epoch stays, and is scored with
        started = time.perf_counter()
        train(lines, Setting(epochs=epochs), model)
        seconds.append(time.perf_counter() - started)
    each = (seconds[0] - seconds[1]) / 20 / words
    hours = 3 * PAPER * np.minimum(length_N, Config.max_tokens).mean() * each / 3600
    note = f"three epochs of {PAPER:,} pages cut at {Config.max_tokens:,} words: {hours:.1f} hours"
    return Row("train_recall", "an epoch of fastText, one thread", size / length_N.sum() / 1e6 / each, {}, note)


def fasttext_rate(model: Path, encoded: list[tuple[np.ndarray, np.ndarray]], size: int) -> tuple[float, np.ndarray]:
    """(MB/s of text, the probability of the topic per page)."""
    import fasttext  # type: ignore[import-untyped]

    stock = fasttext.load_model(str(model))
    lines = [" ".join(map(str, ids[a:b])) + "\n" for ids, ends in encoded for a, b in itertools.pairwise(ends)]
    found: list[Any] = []

    def predict() -> None:
        found[:] = stock.f.multilinePredict(lines, 2, 0.0, "strict")

    speed = rate(predict, size, repeats=1)
    labels, values = found
    topic = [dict(zip(names, row, strict=True))["__label__topic"] for names, row in zip(labels, values, strict=True)]
    return speed, np.minimum(np.array(topic), 1)
