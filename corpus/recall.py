"""What the stages of a recall round share: scores beside a pool's shards, and the rank at which a round is cut.

score_recall writes scores/NAME.parquet (SCORES), row for row as the pool's shard NAME, and no text. A page's rank is 64 bits,
the better the smaller: its logit, then a hash of its id, so equal scores have an order that no worker or shard can change.
A cut is a rank: what ranks at it or before it is collected.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from corpus.classifier import probability
from corpus.draw import draw_keys
from corpus.engine import Engine
from corpus.errors import ConfigError, CorruptFile
from corpus.shards import StepShards, read_json
from corpus.step import Step

__all__ = [
    "HELD",
    "RECORD",
    "SCORES",
    "TOPIC_GROUPS",
    "Scored",
    "check_scores",
    "collected",
    "id_keys",
    "logit_of",
    "ranks",
    "read_record",
    "sample_keys",
    "scored",
    "scores_of",
]

RECORD = "recall.json"  # what train_recall and select_recall say about a round, in their folders
HELD = "held.npy"  # of train_recall: HELD_ROW by key, of pages trained on, by a model that had seen none of their site
HELD_ROW = np.dtype([("key", "<u8"), ("logit", "<f4")])
TOPIC_GROUPS = "topic_groups.npy"  # of select_recall: sorted hashes of the groups it found to be on topic

SCORES = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),  # domain or repository; "" for none
        pa.field("tokens", pa.int32(), nullable=False),  # of the whole text
        pa.field("score", pa.float32(), nullable=False),  # the probability fastText reports
        pa.field("logit", pa.float32(), nullable=False),  # what ranks: the model's own, or of a page trained on what is held
    ]
)
_MARK = "recall_"  # before the names of score columns beside a document's


def scores_of(engine: Engine, scores: Step) -> StepShards:
    """The side files of a score_recall step, read like shards."""
    found = engine.shards(scores, "scores")
    assert isinstance(found, StepShards)
    return found


@dataclasses.dataclass(frozen=True)
class Scored(StepShards):
    """A pool's shards with recall_group, recall_tokens, recall_logit, of SCORES, and recall_score, that logit's probability."""

    scores: StepShards | None = None

    def read(self, name: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        assert self.scores is not None
        table = pa.Table.from_batches(list(self.scores.read(name))).combine_chunks()
        first = 0
        for batch in super().read(name, columns):
            part = table.slice(first, batch.num_rows).combine_chunks()
            first += batch.num_rows
            if not part.column("id").combine_chunks().equals(batch.column("id").cast(pa.string())):
                raise CorruptFile(f"scores of shard {name} are not of its documents", path=str(self.scores.folder))
            values = {name: part.column(name).combine_chunks() for name in ("group", "tokens", "logit")}
            values["score"] = pa.array(probability(values["logit"].to_numpy()))
            for name, value in values.items():
                batch = batch.append_column(_MARK + name, value)
            yield batch

    def only(self, name: str) -> Scored:
        assert self.scores is not None
        return Scored(self.folder, (self._file(name),), self.step, self.scores.only(name))


def scored(engine: Engine, files: Step, scores: Step) -> Scored:
    """The pool `files` beside its scores."""
    pool = engine.shards(files)
    assert isinstance(pool, StepShards)
    return Scored(pool.folder, pool.files, pool.step, scores_of(engine, scores))


def check_scores(where: str, files: Step, scores: Step) -> None:
    """ConfigError unless `scores` is a score_recall step over `files`."""
    pool = getattr(scores.config, "files", None)
    if not hasattr(scores.config, "model") or not isinstance(pool, Step) or pool.fingerprint != files.fingerprint:
        raise ConfigError(f"{where}.scores is step {scores.name}; a score_recall step over step {files.name} expected")


def read_record(engine: Engine, step: Step) -> dict[str, Any]:
    """recall.json of a finished step."""
    record = read_json(engine.folder(step) / RECORD)
    if record is None:
        raise CorruptFile(f"{engine.folder(step)} has no {RECORD}", path=str(engine.folder(step) / RECORD))
    return record


def ranks(ids: Any, logits_N: np.ndarray) -> np.ndarray:
    """uint64 [N]: logits in descending order in the upper half, a hash of the id in the lower. NaN comes last."""
    clean = np.where(np.isnan(logits_N), np.float32(-np.inf), logits_N).astype(np.float32)
    bits = (clean + np.float32(0)).view(np.uint32)  # -0 + 0 is 0: one zero, one rank
    descending = np.where(bits >> np.uint32(31) == 1, bits, bits ^ np.uint32(0x7FFFFFFF))
    ties = draw_keys(ids, 0, "recall rank") >> np.uint64(32)
    return np.asarray((descending.astype(np.uint64) << np.uint64(32)) | ties, np.uint64)


def logit_of(rank: int) -> float:
    """The logit in a rank."""
    bits = np.uint32(rank >> 32)
    return float((bits if bits >> np.uint32(31) == 1 else bits ^ np.uint32(0x7FFFFFFF)).view(np.float32))


def collected(batch: Any, cut: int | None, mark: str = _MARK) -> np.ndarray:
    """bool [N]: which rows of a Scored batch (mark="": of a batch of SCORES) rank at `cut` or before; None: no row does."""
    if cut is None:
        return np.zeros(batch.num_rows, bool)
    return np.asarray(ranks(batch.column("id"), batch.column(f"{mark}logit").to_numpy()) <= np.uint64(cut))


def id_keys(ids: Any) -> np.ndarray:
    """uint64 [N]: a hash of each id, to tell the pages of a seed by. 10^7 of them among 10^10 pages: 0.5 % for one mistake."""
    return draw_keys(ids, 0, "recall id")


def sample_keys(ids: Any, draw: int) -> np.ndarray:
    """uint64 [N]: what train_recall draws its pages by, and names them by ever after."""
    return draw_keys(ids, draw, "train_recall")
