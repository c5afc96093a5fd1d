"""Near-deduplication beside datasketch and datatrove, on the same files.

datasketch: MinHash of 256 permutations over the same shingles, cut by a regular expression; datatrove: its default
MinhashDedupSignature, 112 values, xxhash. Both are signatures alone, so beside our "text to verdict" they are flattered.
"""

from __future__ import annotations

import logging
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench.measure import Row, Sample, rate
from corpus.components import components, join, size_class
from corpus.engine import LocalEngine
from corpus.leaders import find_duplicates, open_window
from corpus.minhash import choose_bands, document_keys
from corpus.shards import StepShards, write_table
from stages import dedup_near

THRESHOLD, VALUES = 0.7, 256
BANDS, ROWS = choose_bands(THRESHOLD, VALUES)


def keys(sample: Sample) -> list[tuple[np.ndarray, np.ndarray]]:
    return [document_keys(batch.column("text"), VALUES, BANDS, ROWS) for batch in sample.batches]


def verdicts(sample: Sample) -> tuple[int, int]:
    """What the stage does between reading and writing, in memory: (documents that met another, documents dropped)."""
    first, found, units = 0, [], []
    for batch, (documents, keys_MB) in zip(sample.batches, keys(sample), strict=True):
        units.append(np.repeat(documents + first, BANDS).astype(np.uint64))
        found.append(keys_MB.ravel())
        first += batch.num_rows
    every = np.concatenate(found)
    edges = join(every, np.concatenate(units), size_class(np.full(len(every), 5000)))
    bits, _, _ = components(iter([edges, edges]), 1, first)
    members = np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little")[:first])
    table = pa.Table.from_batches([batch.select(["id", "text"]) for batch in sample.batches]).take(pa.array(members))
    text = table.sort_by("id").column("text").combine_chunks()
    window = open_window(len(text), text.nbytes, VALUES, BANDS)
    _, scores = find_duplicates(text, np.arange(len(text)), np.arange(len(text) + 1), THRESHOLD, ROWS, window)
    return len(members), int((scores >= 0).sum())


def stage(sample: Sample, folder: Path) -> tuple[float, int]:
    """The whole stage over LocalEngine, text read three times and written once as Parquet: (MB/s, documents dropped)."""
    shard = write_table(folder / "in", folder / "in" / "shards" / "00000.parquet", pa.Table.from_batches(sample.batches))
    files: Any = StepShards(folder / "in", (shard,))
    dropped: list[int] = []

    def once() -> None:
        out = folder / f"out{len(dropped)}"  # a finished folder would be resumed
        report = dedup_near.run(dedup_near.Config(files=files), out, LocalEngine(folder))
        dropped.append(sum(report.dropped.values()))

    return rate(once, sample.bytes, repeats=2), dropped[0]


def datasketch_rate(sample: Sample) -> float:
    from datasketch import MinHash

    word = re.compile(rb"[A-Za-z_0-9]+")

    def run() -> None:
        for batch in sample.batches:
            for text in batch.column("text").to_pylist():
                words = word.findall(text.encode())
                MinHash(num_perm=VALUES).update_batch([b" ".join(words[i : i + 5]) for i in range(len(words) - 4)])

    return rate(run, sample.bytes, repeats=1)


def datatrove_rate(sample: Sample) -> float:
    from datatrove.data import Document
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.utils.hashing import HashConfig

    logging.disable(logging.INFO)
    texts = [text for batch in sample.batches for text in batch.column("text").to_pylist()]
    documents = [Document(text=text, id=str(i)) for i, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as folder:
        step = MinhashDedupSignature(folder, MinhashConfig(hash_config=HashConfig(hash_fc="xxhash")))
        step.run(iter(documents[:1]))  # loads its word tokenizer
        return rate(lambda: step.run(iter(documents)), sample.bytes, repeats=1)


def bench(sample: Sample) -> list[Row]:
    signing = rate(lambda: keys(sample), sample.bytes)
    judging = rate(lambda: verdicts(sample), sample.bytes)
    met, dropped = verdicts(sample)
    peers = {"datasketch": datasketch_rate(sample.head(3)), "datatrove": datatrove_rate(sample.head(1))}
    with tempfile.TemporaryDirectory() as folder:
        whole, gone = stage(sample, Path(folder))
    assert gone == dropped
    note = f"{met} met, {dropped} of {sample.documents} dropped; peers: signatures alone"
    return [
        Row("dedup_near", "text to band keys (256 values)", signing, peers, "datatrove: 112 values"),
        Row("dedup_near", "text to verdict", judging, peers, note),
        Row("dedup_near", "whole stage, Parquet to Parquet", whole, {}, "reads the text three times, writes it once"),
    ]
