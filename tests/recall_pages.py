"""Made-up sites for tests of recall: a topic with words of its own, on some sites; the rest of the web; and a tokenizer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from corpus.engine import Engine, LocalEngine
from corpus.recall import scores_of
from corpus.runner import run
from corpus.shards import StepShards
from corpus.step import Step
from corpus.tokenizer import train_bpe
from stages import grow_seed, score_recall, select_recall, train_recall
from tests.toys import pages

COMMON = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "was",
    "for",
    "on",
    "that",
    "with",
    "as",
    "it",
    "at",
    "by",
    "from",
    "this",
    "be",
    "are",
    "or",
    "an",
    "have",
    "not",
    "which",
    "their",
]
TOPIC = [
    "theorem",
    "lemma",
    "proof",
    "integral",
    "matrix",
    "vector",
    "algebra",
    "polynomial",
    "derivative",
    "topology",
    "manifold",
    "equation",
]
OTHER = [
    "football",
    "recipe",
    "holiday",
    "weather",
    "music",
    "fashion",
    "politics",
    "garden",
    "cinema",
    "travel",
    "health",
    "market",
]
FAST: dict[str, Any] = {"setting": "fixed", "dim": 8, "rate": 0.5, "epochs": 15, "buckets": 2_000, "max_tokens": 64}


def page(topic: bool, number: int, share: float = 0.3) -> str:
    """Some eighty words, `share` of them of its kind, the same for the same number."""
    draw = random.Random(f"{topic} {number}")
    own = TOPIC if topic else OTHER
    return " ".join(draw.choice(own) if draw.random() < share else draw.choice(COMMON) for _ in range(80))


def site(host: str, topic: bool, count: int, folder: str = "a/", first: int = 0) -> list[tuple[str, str]]:
    salt = sum(map(ord, host + folder)) * 1000
    return [(f"https://{host}/{folder}{i}.html", page(topic, salt + i)) for i in range(first, first + count)]


def web() -> list[tuple[str, str]]:
    """Four sites on topic, one with a folder that is not, and forty others."""
    rows = [row for s in range(4) for row in site(f"topic{s}.org", True, 12)]
    rows += site("topic3.org", False, 12, "blog/")
    return rows + [row for s in range(40) for row in site(f"other{s}.com", False, 4)]


def shards(rows: Sequence[tuple[str, str]], count: int = 3) -> tuple[tuple[tuple[str, str], ...], ...]:
    return tuple(tuple(rows[i::count]) for i in range(count))


def source(name: str, rows: Sequence[tuple[str, str]], count: int = 3, web: bool = True, signals: bool = False) -> Step:
    return Step(name, pages.Config(shards=shards(rows, count), web=web, signals=signals))


def tokenizer(folder: Path) -> str:
    path = folder / "tokenizer.json"
    if not path.exists():
        texts = [page(topic, i) for topic in (True, False) for i in range(100)]
        path.write_text(train_bpe(texts, 400), "utf-8")
    return str(path)


def round_of(pool: Step, seed: Step, model: Path | str, **fields: Any) -> tuple[Step, Step]:
    """(train_recall, score_recall) of a first round."""
    trained = Step("train", train_recall.Config(pool=pool, seed=(seed,), tokenizer=str(model), **{**FAST, **fields}))
    return trained, Step("score", score_recall.Config(files=pool, model=trained))


def select(pool: Step, scores: Step, **fields: Any) -> Step:
    fields = fields or {"share": 0.2}
    return Step("select", select_recall.Config(files=pool, scores=scores, **fields))


def grow(pool: Step, scores: Step, selected: Step, **fields: Any) -> Step:
    return Step("grow", grow_seed.Config(files=pool, scores=scores, selected=selected, **fields))


def made(step: Step, root: Path) -> LocalEngine:
    engine = LocalEngine(root)
    run(step, engine)
    return engine


def rows_of(engine: Engine, step: Step, columns: list[str] | None = None) -> list[dict[str, Any]]:
    found = engine.shards(step)
    return [row for name in found.names for batch in found.read(name, columns) for row in batch.to_pylist()]


def score_table(engine: Engine, step: Step) -> pa.Table:
    found: StepShards = scores_of(engine, step)
    return pa.concat_tables([pa.Table.from_batches(list(found.read(name))) for name in found.names])
