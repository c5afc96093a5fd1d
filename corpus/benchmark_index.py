"""The benchmark index as an artefact: what index_benchmarks writes and decontaminate reads.

    index.arrow    one row per benchmark text that can be found: benchmark, item, field, text (folded, ngrams.canonical)
    index.json     the rule, counts per benchmark, and the xxh3-64 of index.arrow

The hash table is not stored: building it from the texts takes half a second for a million n-grams, less than reading it.
"""

from __future__ import annotations

import dataclasses
import json
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

from corpus.errors import CorruptFile
from corpus.ngrams import NgramIndex, Rule
from corpus.shards import atomic, read_json, write_json

__all__ = ["INDEX", "BenchmarkIndex", "read_index", "write_index"]

INDEX = pa.schema(
    [
        pa.field("benchmark", pa.string(), nullable=False),
        pa.field("item", pa.string(), nullable=False),
        pa.field("field", pa.string(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
    ]
)


@dataclasses.dataclass(frozen=True)
class BenchmarkIndex:
    """An NgramIndex and where each of its texts comes from."""

    ngrams: NgramIndex
    texts: pa.Table

    def evidence(self, entry: int, word: int, run: int) -> str:
        """JSON: whose n-gram it is, the n-gram, its position in words, and the longest run of matched words."""
        row = self.texts.slice(int(self.ngrams.text_E[entry]), 1).to_pylist()[0]
        found = {"benchmark": row["benchmark"], "item": row["item"], "field": row["field"]}
        found |= {"ngram": self.ngrams.text_of(entry), "word": word, "run": run}
        return json.dumps(found, ensure_ascii=False)


def write_index(out: Path, texts: pa.Table, rule: Rule, allow: list[str], counts: dict[str, Any]) -> None:
    """texts: rows of INDEX; allow: canonical texts. Same input, same bytes."""
    path = out / "index.arrow"
    with atomic(path) as temporary, pa.OSFile(str(temporary), "wb") as sink:
        with pa.ipc.new_file(sink, INDEX, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_table(texts.cast(INDEX).combine_chunks(), max_chunksize=1 << 16)
    record = {
        "benchmarks": counts,
        "rule": dataclasses.asdict(rule),
        "allow": allow,
        "unicode": unicodedata.unidata_version,
        "xxh3": xxhash.xxh3_64_hexdigest(path.read_bytes()),
    }
    write_json(out / "index.json", record)


def read_index(folder: Path) -> BenchmarkIndex:
    """Ready to scan with. CorruptFile when a file is missing or not as it was written."""
    record = read_json(folder / "index.json")
    path = folder / "index.arrow"
    data = path.read_bytes() if record is not None and path.exists() else b""
    if record is None or xxhash.xxh3_64_hexdigest(data) != record["xxh3"]:
        raise CorruptFile(
            f"{path} does not match {folder / 'index.json'}: missing or changed since it was written. It will be rebuilt.",
            path=str(path),
            folder=folder.name,
            file=path.name,
        )
    with pa.ipc.open_file(pa.BufferReader(data)) as reader:
        texts = reader.read_all().combine_chunks()
    allow = pa.array(record["allow"], pa.large_string())
    return BenchmarkIndex(NgramIndex.of(texts.column("text").combine_chunks(), Rule(**record["rule"]), allow), texts)
