"""Score every page of a pool with the classifier of a recall round; the pages themselves are not written again.

Writes scores/NAME.parquet (corpus.recall.SCORES) for each of the pool's shards, row for row: id, group (domain or
repository, as the model was trained), tokens of the whole text, score and logit. The score is the probability that fastText
itself reports, to 1e-5, of the first `max_tokens` words, which begin with the page's signals where the model was trained on
them; the logit is the same on a scale that does not run out of digits near 1, and is what select_recall ranks by. The pages
that the model was trained on it knows by heart, so theirs is the logit that train_recall held of them, by a model that had
seen none of their site. All documents are kept: by whom and where to cut is a later, cheap step.

Where the round's model was copied from the round before (it had converged), so are the scores.

The trade: all of a text is encoded, though only its beginning is scored, because the cut is made by tokens.

Reference: DeepSeekMath (arXiv 2402.03300), section 2.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from corpus.classifier import Scorer, probability, read_table
from corpus.document import text_buffers
from corpus.engine import Engine
from corpus.errors import ConfigError, InputError
from corpus.groups import groups
from corpus.recall import HELD, SCORES, read_record, sample_keys, scores_of
from corpus.report import Report
from corpus.shards import StepShards, read_array, write_table
from corpus.signals import COLUMNS as SIGNALS
from corpus.signals import with_signals
from corpus.step import Step
from corpus.tokenizer import Encoder, load_encoder, path_of

REVISION = 4
REASONS: tuple[str, ...] = ()  # nothing is dropped


@dataclass(frozen=True, kw_only=True)
class Config:
    files: Step
    model: Step  # a train_recall step

    def __post_init__(self) -> None:
        if not all(hasattr(self.model.config, name) for name in ("tokenizer", "group_by", "seed")):
            raise ConfigError(f"score_recall.model is step {self.model.name}; a train_recall step expected")


@dataclass(frozen=True)
class Reader:
    """A tokenizer and the model over its ids."""

    encoder: Encoder
    scorer: Scorer
    signals: bool
    held: np.ndarray  # corpus.recall.HELD_ROW


def load(tokenizer: Path, model: Path, facts: tuple[int, int, int], signals: bool) -> Reader:
    """model: train_recall's folder. facts: words of the model, the longest run of them, tokens scored."""
    return Reader(load_encoder(tokenizer), read_table(model / "table.npy", *facts), signals, read_array(model / HELD))


def score(batch: pa.RecordBatch, reader: Reader, group_by: str, draw: int) -> pa.RecordBatch:
    """The rows of SCORES for a batch with id, text and url or repo."""
    ids, ends = reader.encoder.encode(*text_buffers(batch.column("text")))
    tokens = pa.array(np.minimum(np.diff(ends), 2**31 - 1).astype(np.int32))
    if reader.signals:
        if missing := [name for name in SIGNALS if name not in batch.schema.names]:
            raise InputError(
                f"the classifier reads signals of extract_text, and these documents have no {', '.join(missing)}; score pages "
                "that it made, or train with signals=False"
            )
        ids, ends = with_signals(batch, ids, ends, reader.encoder.vocab_size, reader.scorer.limit)
    own = reader.scorer.logits(ids, ends)
    logit = unseen(own, sample_keys(batch.column("id"), draw), reader.held)
    names = groups(batch, group_by)
    columns = [batch.column("id").cast(pa.string()), names, tokens, pa.array(probability(own)), pa.array(logit)]
    return pa.RecordBatch.from_arrays(columns, schema=SCORES)


def unseen(logit_N: np.ndarray, key_N: np.ndarray, held: np.ndarray) -> np.ndarray:
    """The logits, in place of those whose key is in `held` (in order of key) what is held of them."""
    if not len(held):
        return logit_N
    at = np.searchsorted(held["key"], key_N)
    at[at == len(held)] = 0
    return np.where(held["key"][at] == key_N, held["logit"][at], logit_N)


def convert(
    batches: Iterator[pa.RecordBatch], name: str, out: Path, group_by: str, draw: int, state: Reader
) -> tuple[list[tuple[Path, int]], dict[str, Any]]:
    """One shard to its side file."""
    table = pa.Table.from_batches([score(batch, state, group_by, draw) for batch in batches], SCORES)
    path = out / "scores" / f"{name}.parquet"
    write_table(out, path, table)
    return [(path, table.num_rows)], {"tokens": int(table.column("tokens").to_numpy().astype(np.int64).sum())}


def copy(
    batches: Iterator[pa.RecordBatch], name: str, out: Path, earlier: StepShards
) -> tuple[list[tuple[Path, int]], dict[str, Any]]:
    """The side file of an earlier round for the same shard, under the same name."""
    rows = sum(batch.num_rows for batch in batches)
    table = pa.Table.from_batches(list(earlier.read(name)), SCORES)
    path = out / "scores" / f"{name}.parquet"
    write_table(out, path, table)
    return [(path, rows)], {"tokens": int(table.column("tokens").to_numpy().astype(np.int64).sum())}


def run(config: Config, out: Path, engine: Engine) -> Report:
    record = read_record(engine, config.model)
    previous = config.model.config.previous
    if "copied" in record and previous is not None and previous.config.files.fingerprint == config.files.fingerprint:
        earlier = scores_of(engine, previous.config.scores)
        report = engine.map_files(partial(copy, earlier=earlier), config.files, out, columns=["id"])
        report.notes["copied"] = previous.config.scores.name
        return report
    model = config.model.config
    tokenizer = path_of(engine, model.tokenizer)
    facts = record["words"], record["runs"], record["max_tokens"]
    setup = partial(load, tokenizer, engine.folder(config.model), facts, record["signals"])
    columns = ["id", "text", "url", "repo", *SIGNALS]
    work = partial(convert, group_by=model.group_by, draw=model.draw)
    report = engine.map_files(work, config.files, out, setup=setup, columns=columns)
    encoder = load_encoder(tokenizer)
    report.notes["encoder"] = encoder.library
    if encoder.why:
        report.notes["encoder_why"] = encoder.why
    return report
