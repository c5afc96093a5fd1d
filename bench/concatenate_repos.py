"""Repository-level samples beside the plain Python that scripts do it with, and import extraction beside whole-file parsing."""

from __future__ import annotations

import random
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import tree_sitter_language_pack
from tree_sitter import Parser

from bench.measure import Row, Sample, rate
from corpus.comments import comment_marks
from corpus.document import batch_of, document_id
from corpus.engine import LocalEngine
from corpus.imports import IMPORT_LANGUAGES, names_in, read_tree
from corpus.shards import StepShards, parquet_writer, record_file
from stages.concatenate_repos import Config, judge, run

LIMIT = 512 << 10


def bench(sample: Sample) -> list[Row]:
    [batch] = pa.Table.from_batches(sample.batches).combine_chunks().to_batches()
    nothing = cast(Any, None)  # judge reads settings only
    ours = rate(lambda: list(judge(batch, Config(files=nothing))), sample.bytes)
    ordered = rate(lambda: list(judge(batch, Config(files=nothing, order="dependency"))), sample.bytes)
    plain = rate(lambda: plain_python(batch), sample.bytes)
    with tempfile.TemporaryDirectory() as root:
        engine = LocalEngine(root)
        files = cast(Any, shards(sample, Path(root)))
        turns = iter(range(100))
        whole = rate(lambda: run(Config(files=files), Path(root) / f"out{next(turns)}", engine), sample.bytes)
    return [
        Row(
            "concatenate_repos",
            "v2: random order",
            ours,
            {"dict + join in Python": plain},
            "peer keeps neither ids nor lineage",
        ),
        Row("concatenate_repos", "v1: dependency order", ordered, {}, "Python, Java, C#, C, C++ with import extraction"),
        Row("concatenate_repos", "v2, from shards to shards", whole, {}, "Parquet in, exchange by repository, Parquet out"),
        *(extraction(sample, lang) for lang in ("Python", "C", "C++")),
    ]


def plain_python(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Group in a dict, shuffle, join up to the limit."""
    repos = defaultdict(list)
    for row in batch.select(["repo", "path", "lang", "text"]).to_pylist():
        repos[row["repo"]].append(row)
    samples = []
    for repo, rows in sorted(repos.items()):
        random.Random(repo).shuffle(rows)
        pieces: list[str] = []
        filled = 0
        for row in rows:
            opens, closes = comment_marks(row["lang"])
            piece = f"{opens}{row['path']}{closes}\n{row['text']}"
            if pieces and filled + len(piece) > LIMIT:
                samples.append({"id": document_id(f"{repo}{len(samples)}"), "repo": repo, "text": "\n".join(pieces)})
                pieces, filled = [], 0
            pieces.append(piece)
            filled += len(piece)
        samples.append({"id": document_id(f"{repo}{len(samples)}"), "repo": repo, "text": "\n".join(pieces)})
    return batch_of(samples)


def shards(sample: Sample, root: Path) -> StepShards:
    path = root / "files" / "shards" / "00000.parquet"
    path.parent.mkdir(parents=True)
    with parquet_writer(path, sample.batches[0].schema) as writer:
        for batch in sample.batches:
            writer.write_batch(batch)
    return StepShards(root / "files", (record_file(root / "files", path, sample.documents),))


def extraction(sample: Sample, lang: str) -> Row:
    """Imports by statement beside tree-sitter over the whole file; the peer reads every k-th file, it is slow."""
    texts = [
        row["text"].encode()
        for batch in sample.batches
        for row in batch.select(["lang", "text"]).to_pylist()
        if row["lang"] == lang and len(row["text"]) < 1 << 18
    ]
    size = sum(map(len, texts))
    few = texts[:: max(1, size // 4_000_000)]
    parser = Parser(tree_sitter_language_pack.get_language(IMPORT_LANGUAGES[lang]))
    theirs = [read_tree(parser.parse(text).root_node, lang) for text in few]
    found = [names_in(text, lang) for text in few]
    more = sum(set(a.needs) > set(b.needs) for a, b in zip(found, theirs, strict=True) if a)
    less = sum(not set(a.needs) >= set(b.needs) for a, b in zip(found, theirs, strict=True) if a)
    ours = rate(lambda: [names_in(text, lang) for text in texts], size)
    peer = rate(lambda: [read_tree(parser.parse(t).root_node, lang) for t in few], sum(map(len, few)), repeats=1)
    note = f"of {len(few)} files, ours finds more in {more}, less in {less}"
    return Row("concatenate_repos", f"imports of {lang}", ours, {"tree-sitter, whole file": peer}, note)
