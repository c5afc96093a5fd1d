"""Shards, exchange and the writer: rows arrive once and in order, files are whole or absent, limits cut where they say."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus import write
from corpus.document import batch_of, keep_all, text_bytes
from corpus.errors import ConfigError, CorruptFile
from corpus.exchange import Exchanged, partition_of, partitions_for, write_exchanged
from corpus.report import Report
from corpus.shards import FileRecord, StepShards, atomic, check_file, read_json, write_json
from corpus.write import ShardWriter, absorb, by_bytes


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), max_size=12), min_size=1, max_size=4))
def test_exchange_delivers_each_row_once_in_order_of_sender(senders: list[list[int]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, names, n = Path(name), [], 0
        sent: list[list[int]] = [[] for _ in range(5)]
        for s, targets in enumerate(senders):
            rows = list(range(n, n + len(targets)))
            n += len(targets)
            table = pa.table({"row": pa.array(rows, pa.int64()), "partition": pa.array(targets, pa.int64())})
            for row, target in zip(rows, targets):
                sent[target].append(row)
            write_exchanged(folder, f"{s:05d}", [table], 5)
            names.append(f"{s:05d}")
        met = Exchanged(folder, tuple(names), 5)
        assert [met.table(p).column("row").to_pylist() for p in range(5)] == sent
        assert len(list(folder.iterdir())) == len(senders)  # files grow with senders, not with senders × partitions


def test_a_partition_out_of_range_is_an_error(tmp_path: Path) -> None:
    table = pa.table({"row": [1, 2], "partition": [0, 7]})
    with pytest.raises(ConfigError, match=r"outside \[0, 5\)"):
        write_exchanged(tmp_path, "x", [table], 5)


def test_a_damaged_exchange_file_is_named(tmp_path: Path) -> None:
    write_exchanged(tmp_path, "x", [pa.table({"row": [1], "partition": [0]})], 1)
    (tmp_path / "x.arrow").write_bytes(b"ARROW1 nothing")
    with pytest.raises(CorruptFile, match=r"x\.arrow"):
        Exchanged(tmp_path, ("x",), 1).table(0)


def test_keys_spread_over_partitions() -> None:
    counts = np.bincount(partition_of(pa.array(np.arange(70_000, dtype=np.uint64)), 7), minlength=7)
    assert counts.min() > 9_000
    assert partitions_for(0) == 1 and partitions_for(300 << 20) == 3


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=20), st.integers(1, 60))
def test_cuts_by_bytes_lose_nothing_and_keep_the_limit(texts: list[str], limit: int) -> None:
    batch = batch_of([{"id": str(i), "text": text} for i, text in enumerate(texts)])
    parts = list(by_bytes(batch, limit))
    assert pa.Table.from_batches(parts).combine_chunks().equals(pa.Table.from_batches([batch]).combine_chunks())
    assert all(part.num_rows == 1 or text_bytes(part) <= limit for part in parts if part.num_rows)


def test_large_output_becomes_several_shards_of_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "SHARD_BYTES", 1000)
    batches = [batch_of([{"id": f"{i}-{j}", "text": "x" * 90} for j in range(5)]) for i in range(9)]
    report = Report()
    with ShardWriter(tmp_path, "00000", roll=True) as writer:
        for batch in batches:
            absorb(None, iter([keep_all(batch)]), writer, report, False, "test")
        files = writer.close()
    assert [f.rows for f in files] == [15, 15, 15]
    shards = StepShards(tmp_path, tuple(files))
    ids = [i for name in shards.names for part in shards.read(name, ["id"]) for i in part.column("id").to_pylist()]
    assert ids == [i for batch in batches for i in batch.column("id").to_pylist()]


def test_a_shard_without_rows_still_has_its_schema(tmp_path: Path) -> None:
    empty = batch_of([])
    with ShardWriter(tmp_path, "00000", roll=False) as writer:
        absorb(empty, keep_all(empty), writer, Report(), True, "test")
        files = writer.close()
    (batch,) = StepShards(tmp_path, tuple(files)).read("00000")
    assert batch.num_rows == 0 and batch.schema.names == empty.schema.names


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic(tmp_path / "deep" / "file") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list((tmp_path / "deep").iterdir()) == []
    with atomic(tmp_path / "deep" / "file") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "deep" / "file").read_text() == "whole"


def test_a_record_knows_its_own_damage(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    assert read_json(path) is None
    write_json(path, {"a": 1, "text": "é"})
    assert read_json(path) == {"a": 1, "text": "é"}
    for damage in (path.read_text().replace('"a": 1', '"a": 2').encode(), b"", b"\xff\xfe", b"[]", path.read_bytes()[:-9]):
        path.write_bytes(damage)
        with pytest.raises(CorruptFile, match=r"record\.json"):
            read_json(path)


def test_a_touched_file_is_hashed_again(tmp_path: Path) -> None:
    path = tmp_path / "shards" / "f"
    path.parent.mkdir()
    path.write_bytes(b"abc")
    from corpus.shards import record_file

    record = record_file(tmp_path, path, 0)
    path.touch()
    check_file(tmp_path, record)  # same bytes, another time: fine
    path.write_bytes(b"abd")
    with pytest.raises(CorruptFile, match="checksum"):
        check_file(tmp_path, FileRecord(record.path, record.size, record.xxh3, 0, record.mtime_ns - 1))
