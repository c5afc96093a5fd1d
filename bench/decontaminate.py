"""decontaminate beside datatrove's n-gram filter, each with an index over the same benchmark texts.

datatrove's indexer needs lighteval even for texts of one's own, so its index is written here in its format (uint64 hashes,
one file per task), with its own tokenizer, normalisation and hash, at 10 words. Benchmarks: those of CORPUS_DATA where that
is set, else the planted items; the size of the index is in the note.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from bench.measure import Row, Sample, rate
from corpus.benchmark_index import BenchmarkIndex, read_index
from corpus.engine import LocalEngine
from stages import index_benchmarks
from stages.decontaminate import judge
from stages.index_benchmarks import Benchmark, Config

_FIELDS = {
    "humaneval": ("prompt", "canonical_solution"),
    "mbpp": ("text", "code"),
    "gsm8k_test": ("question", "answer"),
    "math_test": ("problem", "solution"),
    "cruxeval": ("code",),
    "cmath": ("question",),
}
_PLANTED = Path(__file__).parents[1] / "recipes" / "planted" / "benchmark.jsonl"


def benchmarks() -> tuple[Benchmark, ...]:
    where = os.environ.get("CORPUS_DATA")
    if where is None:
        return (Benchmark("planted", str(_PLANTED), ("question", "solution")),)
    folder = Path(where) / "benchmarks"
    return tuple(Benchmark(name, str(folder / f"{name}.jsonl.gz"), fields) for name, fields in _FIELDS.items())


def bench(sample: Sample) -> list[Row]:
    config = Config(benchmarks=benchmarks())
    with tempfile.TemporaryDirectory() as folder:
        index_benchmarks.run(config, Path(folder), LocalEngine(folder))
        index = read_index(Path(folder))
    ours = rate(lambda: [judge(batch, index) for batch in sample.batches], sample.bytes)
    dropped = sum(len(batch) - judge(batch, index).reason.null_count for batch in sample.batches)
    note = f"{len(index.ngrams.text_E):,} n-grams of {len(config.benchmarks)} benchmarks; "
    note += f"{dropped} of {sample.documents:,} files flagged"
    few = sample.head(1.5)
    peers = {}
    try:
        peers["datatrove, 10-grams"], flagged = _datatrove(few, index)
        note += f", datatrove {flagged} of {few.documents:,}"
    except ModuleNotFoundError as error:  # datatrove alone lacks what its text functions import: regex, spacy
        note += f"; datatrove not run: {error}"
    return [Row("decontaminate", "10-grams and short texts, words folded", ours, peers, note)]


def _datatrove(sample: Sample, index: BenchmarkIndex) -> tuple[float, int]:
    """(MB/s of its filter, files it flags) on the head of the sample."""
    from datatrove.data import Document
    from datatrove.pipeline.decont import NGramsDecontConfig, NGramsDecontFilter
    from datatrove.utils.text import ngrams, simplify_text

    with tempfile.TemporaryDirectory() as folder:
        block = NGramsDecontFilter(folder, NGramsDecontConfig(n_grams=10))
        hashes: set[int] = set()
        for text in index.texts.column("text").to_pylist():
            words = block.tokenizer.word_tokenize(simplify_text(text, block.config.norm_config))
            hashes.update(map(block.hash_func, map(" ".join, ngrams(words, 10))))
        np.array(sorted(hashes), np.uint64).tofile(Path(folder) / "benchmarks.index.hashes")
        block.load_index_hashes()
        texts = pa.Table.from_batches(sample.batches).column("text").to_pylist()
        documents = [Document(text=text, id=str(i)) for i, text in enumerate(texts)]
        flagged: list[object] = []
        speed = rate(lambda: flagged.extend(d for d in documents if block.filter(d) is not True), sample.bytes, repeats=1)
    return speed, len(flagged)
