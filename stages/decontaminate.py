"""Drop documents that contain benchmark text.

    contaminated   an n-gram of a benchmark text, or a whole short one, as the index holds them (stages/index_benchmarks.py)

The unit is the document: for code a file, as DeepSeek-Coder words it, for web text a page. So this step stands before
concatenate_repos; after it, one hit would cost a whole repository. The evidence is JSON: benchmark, item, field, the n-gram as
matched, the position of its first word, and `run`, the most words in a row that benchmark texts cover: 10 is a lone n-gram,
perhaps an idiom, 60 a copy. The report counts drops by benchmark and lists the n-grams that dropped most documents: one at the
top that is no copy belongs in index_benchmarks.allow.

The trade: the first n-gram found is named, not all of them. No n-gram is excused for being frequent: in a large corpus the
most frequent are those of the benchmarks most copied.

Reference: DeepSeek-Coder section 2.4, DeepSeekMath section 2.1.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from corpus.benchmark_index import BenchmarkIndex, read_index
from corpus.document import Verdict
from corpus.engine import Engine
from corpus.ngrams import scan
from corpus.report import Report
from corpus.step import Step

REVISION = 2

REASONS = ("contaminated",)


@dataclass(frozen=True, kw_only=True)
class Config:
    files: Step
    index: Step  # of index_benchmarks


def judge(batch: pa.RecordBatch, state: BenchmarkIndex) -> Verdict:
    """One scan of the texts; Python only for the rows it finds. All settings are the index's own."""
    matches = scan(batch.column("text"), state.ngrams)
    reason: list[str | None] = [None] * batch.num_rows
    evidence: list[str | None] = [None] * batch.num_rows
    for row in (matches.entry_N >= 0).nonzero()[0].tolist():
        reason[row] = "contaminated"
        evidence[row] = state.evidence(*(int(column[row]) for column in matches))
    return Verdict(batch, pa.array(reason, pa.string()), pa.array(evidence, pa.string()))


def run(config: Config, out: Path, engine: Engine) -> Report:
    setup = functools.partial(read_index, engine.folder(config.index))
    report = engine.map_shards(judge, config.files, out, setup=setup)
    report.notes.update(hits(out))
    return report


def hits(out: Path, most: int = 20) -> dict[str, Any]:
    """Documents dropped per benchmark, and the n-grams that dropped most, from the finished dropped/ files."""
    benchmarks: Counter[str] = Counter()
    ngrams: Counter[tuple[str, str, str]] = Counter()
    for path in sorted((out / "dropped").glob("*.parquet")):
        with path.open("rb") as file:
            for text in pq.read_table(file, columns=["evidence"]).column("evidence").to_pylist():
                found = json.loads(text)
                benchmarks[found["benchmark"]] += 1
                ngrams[found["benchmark"], found["item"], found["ngram"]] += 1
    first = sorted(ngrams.items(), key=lambda pair: (-pair[1], pair[0]))[:most]
    return {
        "hits": dict(sorted(benchmarks.items())),
        "ngrams": [{"documents": n, "benchmark": b, "item": i, "ngram": text} for (b, i, text), n in first],
    }
