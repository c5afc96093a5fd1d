"""Shards, exchange and the writer: rows arrive once and in order, files are whole or absent, limits cut where they say."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus import exchange, write
from corpus.document import batch_of, keep_all, text_bytes
from corpus.errors import ConfigError, CorruptFile, StorageError
from corpus.exchange import Exchanged, partition_of, partitions_for, write_exchanged
from corpus.report import Report
from corpus.shards import FileRecord, StepShards, as_path, atomic, check_file, read_json, write_json
from corpus.write import ShardWriter, absorb, by_bytes


@pytest.fixture(params=["folder", "url", "url, every range by itself"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where exchanges lie; fsspec's memory:// stands for an object store."""
    if request.param == "url, every range by itself":
        monkeypatch.setattr(exchange, "_GAP", -1)
    return tmp_path if request.param == "folder" else as_path(f"memory://{tmp_path.name}/{request.param[3:]}")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), max_size=12), min_size=1, max_size=4), st.sampled_from(["", "memory:/"]))
def test_exchange_delivers_each_row_once_in_order_of_sender(senders: list[list[int]], where: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, names, n = as_path(where + name), [], 0
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
        with met.nearby() as near:
            for seen in (met, near):
                assert [seen.table(p).column("row").to_pylist() for p in range(5)] == sent
        assert len(list(folder.iterdir())) == len(senders)  # files grow with senders, not with senders × partitions


def test_a_partition_of_more_text_than_32_bits_count_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow then gives it in two pieces, which cannot be one column of strings: it becomes one of large ones."""
    pieces = [
        pa.table({"name": pa.array(names), "data": pa.array([b"x"] * 2), "n": [1, 2]}) for names in (["a", "b"], ["c", "d"])
    ]
    monkeypatch.setattr(Exchanged, "table", lambda *_: pa.concat_tables(pieces))
    batches = list(Exchanged(Path("nowhere"), ("x",), 1).read("00000"))
    assert [batch.column("name").to_pylist() for batch in batches] == [["a", "b", "c", "d"]]
    assert batches[0].schema.types == [pa.large_string(), pa.large_binary(), pa.int64()]


def test_a_partition_out_of_range_is_an_error(tmp_path: Path) -> None:
    table = pa.table({"row": [1, 2], "partition": [0, 7]})
    with pytest.raises(ConfigError, match=r"outside \[0, 5\)"):
        write_exchanged(tmp_path, "x", [table], 5)


def test_a_damaged_exchange_file_is_named(place: Path) -> None:
    write_exchanged(place, "x", [pa.table({"row": [1], "partition": [0]})], 1)
    path = place / "x.arrow"
    whole = path.read_bytes()
    for damage in (b"", b"EXCHANGE", b"ARROW1 nothing", whole[:-1], whole[1:], whole + b"x", whole[: len(whole) // 2]):
        path.write_bytes(damage)
        with pytest.raises(CorruptFile, match=r"x\.arrow"):
            Exchanged(place, ("x",), 1).table(0)
    path.write_bytes(whole)
    with pytest.raises(CorruptFile, match="after 1 partitions"):
        Exchanged(place, ("x",), 2).table(0)
    with pytest.raises(CorruptFile, match="more expected for 100 partitions"):
        Exchanged(place, ("x",), 100).table(0)
    path.unlink()
    for read in (lambda met: met.table(0), lambda met: met.nearby().__enter__().table(0)):
        with pytest.raises(CorruptFile, match=r"x\.arrow cannot be read") as told:
            read(Exchanged(place, ("x",), 1))
        assert told.value.details["path"] == str(path)  # what the runner deletes and makes again


def test_no_flipped_bit_of_an_exchange_reaches_a_stage(place: Path) -> None:
    """lz4 as Arrow writes it has no checksum: more than half of all flips gave other rows, or broken arrays."""
    rng = np.random.default_rng(0)
    texts = pa.array([" ".join(f"w{i}" for i in rng.integers(0, 99, 30)) for _ in range(60)], pa.large_string())
    write_exchanged(place, "x", [pa.table({"text": texts, "partition": rng.integers(0, 3, 60)})], 4)
    path = place / "x.arrow"
    whole, met = path.read_bytes(), Exchanged(place, ("x",), 4)
    expected = [met.table(p) for p in range(4)]
    assert expected[3].num_rows == 0 and expected[3].schema == expected[0].schema
    for at, bit in zip(rng.integers(0, len(whole), 400).tolist(), rng.integers(0, 8, 400).tolist()):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << bit
        path.write_bytes(damaged)
        for p in range(4):
            try:
                assert met.table(p).equals(expected[p]), f"bit {bit} of byte {at}"
            except CorruptFile:
                pass  # what is wanted wherever the bytes are looked at


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


def test_a_disk_that_is_full_at_the_last_byte_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The footer does not fit: the writer fails when it is closed, and fails again while the error is on its way."""

    def full(self: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "close", full)
    batch = batch_of([{"id": "1", "text": "x"}])
    with pytest.raises(StorageError, match="No space left"), ShardWriter(tmp_path, "00000", roll=False) as writer:
        absorb(batch, keep_all(batch), writer, Report(), True, "test")
        writer.close()
    monkeypatch.undo()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


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
