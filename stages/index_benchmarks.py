"""Read benchmark files and index what must not be trained on.

    a text of `ngram` words or more         looked for by each n-gram with at least `distinct` different telling words
    a text none of whose n-grams has them   looked for whole, punctuation included
    a text of `min_ngram` … `ngram` - 1     looked for whole, punctuation included
    a shorter one                           not looked for, counted as too_short

Words, folding and the meaning of *telling* are in corpus/folding.py and corpus/ngrams.py. A benchmark is a JSONL file (plain,
.gz or .zst) and the fields to read; a field may hold text, a number, or a list of them, each a text of its own. Which fields
decides precision: docstrings, questions and solutions, as the paper takes, are evidence; test inputs and outputs such as
`[1, 2, 3]` are not: CRUXEval's, taken to the letter, drop 6 % of 44,358 files of Python's library and its packages.

A recipe names a file by `benchmark_at`, which hashes it: a changed benchmark is another step. Before anything runs, `check`
reads every file; a required benchmark that is missing, was changed since, or has nothing to look for, stops the recipe.
decon and datatrove carry on with an empty index there, and report a clean corpus.

The trade: an n-gram of common words only is no evidence (see `distinct`), so a copied fragment that consists of nothing else
is missed; measured on 44,358 real files, the letter of the rule flags 872, with `distinct=4` it flags 29.

Reference: DeepSeek-Coder section 2.4, DeepSeekMath section 2.1.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from corpus.benchmark_index import INDEX, write_index
from corpus.engine import Engine
from corpus.errors import ConfigError, InputError
from corpus.ngrams import KINDS, NgramIndex, Rule, canonical
from corpus.report import Report
from corpus.shards import as_path

REVISION = 2

REASONS = ()  # it reads no documents


@dataclass(frozen=True)
class Benchmark:
    """A file of test items. item: the field that names an item, else its line number does. xxh3: of the file's bytes, filled by
    benchmark_at; None is not checked. required=False: a missing or empty file is reported, not an error."""

    name: str
    path: str
    fields: tuple[str, ...]
    item: str | None = None
    required: bool = True
    xxh3: str | None = None

    def __post_init__(self) -> None:
        if not self.name or not self.fields or not all(self.fields):
            raise ConfigError(f"benchmark {self.name!r} of {self.path}: a name and at least one field to read are expected")


@dataclass(frozen=True, kw_only=True)
class Config:
    benchmarks: tuple[Benchmark, ...]
    ngram: int = 10  # words; DeepSeek-Coder 2.4
    min_ngram: int = 3  # words of the shortest text looked for whole; DeepSeek-Coder 2.4
    distinct: int = 4  # different telling words an n-gram needs; 0: none, the papers' rule to the letter
    allow: tuple[str, ...] = ()  # texts whose n-grams are never evidence, such as a licence header or `return x + y`

    def __post_init__(self) -> None:
        if not self.benchmarks:
            raise ConfigError("index_benchmarks.benchmarks is empty; at least one Benchmark expected")
        names = [benchmark.name for benchmark in self.benchmarks]
        if len(set(names)) < len(names):
            raise ConfigError(f"index_benchmarks.benchmarks names one twice: {', '.join(names)}")
        for field, value, low, high in (
            ("ngram", self.ngram, 1, 64),
            ("min_ngram", self.min_ngram, 1, self.ngram),
            ("distinct", self.distinct, 0, self.ngram),
        ):
            if not low <= value <= high:
                raise ConfigError(f"index_benchmarks.{field} = {value}; {low} … {high} expected")

    @property
    def rule(self) -> Rule:
        return Rule(self.ngram, self.min_ngram, self.distinct)


def benchmark_at(
    name: str, path: str | Path, fields: tuple[str, ...], item: str | None = None, required: bool = True
) -> Benchmark:
    """The Benchmark of a file as it is now. One that cannot be read gets no hash, so that a recipe can be planned without
    its data; `check` then says what is missing."""
    try:
        xxh3 = xxhash.xxh3_64_hexdigest(as_path(path).read_bytes())
    except OSError:
        xxh3 = None
    return Benchmark(name, str(path), fields, item, required, xxh3)


def check(config: Config) -> None:
    """InputError or ConfigError where a required benchmark cannot be used as the recipe says. Writes nothing."""
    build(config)


def run(config: Config, out: Path, engine: Engine) -> Report:
    texts, counts = build(config)
    write_index(out, texts, config.rule, canonical(_texts(list(config.allow))).to_pylist(), counts)
    return Report(notes={"benchmarks": counts})


def build(config: Config) -> tuple[pa.Table, dict[str, dict[str, int]]]:
    """Rows of INDEX for every text that can be found, and per benchmark: items, texts, how many of each of ngrams.KINDS,
    and n-grams no earlier text has."""
    allow = canonical(_texts(list(config.allow)))
    tables: list[pa.Table] = []
    counts: dict[str, dict[str, int]] = {}
    for benchmark in config.benchmarks:
        table, items = _read(benchmark)
        index = NgramIndex.of(table.column("text").combine_chunks(), config.rule, allow)
        kinds = np.bincount(index.kind_T, minlength=len(KINDS)).tolist()
        counts[benchmark.name] = {"items": items, "texts": len(table)} | dict(zip(KINDS, kinds, strict=True))
        counts[benchmark.name]["entries"] = len(index.text_E)
        if benchmark.required and len(index.text_E) == 0:
            raise InputError(
                f"benchmark {benchmark.name} has nothing to look for: {benchmark.path}, fields {', '.join(benchmark.fields)}, "
                f"gives {counts[benchmark.name]}. At least one text of {config.min_ngram} words expected; "
                "name other fields, or give required=False."
            )
        tables.append(table.filter(pa.array(index.kind_T >= KINDS.index("whole"))))
    return pa.concat_tables(tables), counts


def _read(benchmark: Benchmark) -> tuple[pa.Table, int]:
    """Every text of the benchmark, in order, as rows of INDEX; how many items."""
    items: list[str] = []
    fields: list[str] = []
    texts: list[str] = []
    present: set[str] = set()
    rows = 0
    for number, row in _rows(benchmark):
        rows += 1
        name = str(number) if benchmark.item is None else str(row.get(benchmark.item, number))
        for field in benchmark.fields:
            if field in row:
                present.add(field)
                for text in _strings(row[field], benchmark, field, number):
                    for column, cell in ((items, name), (fields, field), (texts, text)):
                        column.append(cell)
    if rows and (absent := [f for f in benchmark.fields if f not in present]):
        raise ConfigError(f"benchmark {benchmark.name}: no item of {benchmark.path} has a field {', '.join(map(repr, absent))}")
    columns = [[benchmark.name] * len(texts), items, fields, canonical(_texts(texts))]
    return pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, INDEX, strict=True)], schema=INDEX), rows


def _rows(benchmark: Benchmark) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of every line that is not blank."""
    where = as_path(benchmark.path)
    expected = "a JSONL file, plain, .gz or .zst, one object a line, is expected"
    try:
        data = where.read_bytes()
        if benchmark.xxh3 is not None and (seen := xxhash.xxh3_64_hexdigest(data)) != benchmark.xxh3:
            raise InputError(
                f"benchmark {benchmark.name}: {where} has checksum {seen}, the recipe was built with {benchmark.xxh3}; "
                "it changed since. Run the recipe again."
            )
        lines = _unpack(data, where.suffix).split(b"\n")
    except FileNotFoundError:
        if benchmark.required:
            advice = "bring it there or set CORPUS_DATA to the folder of benchmarks/; with required=False a recipe does without"
            raise InputError(f"benchmark {benchmark.name} is missing: there is no {where}; {expected}: {advice}") from None
        return
    except (OSError, EOFError, zlib.error, pa.ArrowInvalid) as error:
        raise InputError(f"benchmark {benchmark.name}: {where} cannot be read ({error}); {expected}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"benchmark {benchmark.name}: {where} line {number} is not JSON ({error}); {expected}") from None
        if not isinstance(row, dict):
            raise InputError(f"benchmark {benchmark.name}: {where} line {number} is a {type(row).__name__}; {expected}")
        yield number, row


def _unpack(data: bytes, suffix: str) -> bytes:
    if suffix == ".gz":
        return gzip.decompress(data)
    if suffix == ".zst":
        unpacked: bytes = pa.CompressedInputStream(pa.BufferReader(data), "zstd").read()
        return unpacked
    return data


def _strings(value: Any, benchmark: Benchmark, field: str, number: int) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _strings(inner, benchmark, field, number)
    elif isinstance(value, (int, float)):
        yield str(value)
    elif value is not None:
        raise ConfigError(
            f"benchmark {benchmark.name}: field {field!r} of {benchmark.path} line {number} is a {type(value).__name__}; "
            "text or a list of texts expected"
        )


def _texts(texts: list[str]) -> pa.Array:
    """large_string. A lone surrogate, which JSON can spell and UTF-8 cannot, becomes U+FFFD: a space when folded."""
    return pa.array([t.encode("utf-8", "surrogatepass").decode("utf-8", "replace") for t in texts], pa.large_string())
