"""Rows on their way to where they must meet: one indexed file per sender, read by range per receiver.

A file is Arrow IPC (lz4) with exactly one record batch per partition, in order, empty ones included; the IPC footer is the
index. A receiver opens every sender's file, seeks to its own batch and reads nothing else, so memory is bounded by one
partition and the number of files by the number of senders. Checksums: per sender in done/NAME.json, per batch by lz4.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corpus.errors import ConfigError, CorruptFile
from corpus.shards import FileRecord, atomic, is_local, record_file

__all__ = ["Exchanged", "partition_of", "partitions_for", "write_exchanged"]


def partitions_for(total_bytes: int, target: int = 128 << 20) -> int:
    """How many partitions keep one near `target` bytes; decided by data alone, never by workers.

    At most 2^15, 4 TiB of text: beyond that partitions grow, since every sender's index has an entry per partition.
    """
    return max(1, min(1 << 15, -(-total_bytes // target)))


def write_exchanged(folder: Path, name: str, tables: list[pa.Table], partitions: int) -> FileRecord:
    """Write one sender's rows, ordered by their column `partition` (stable)."""
    table = pa.concat_tables(tables).combine_chunks()
    target = table.column("partition").to_numpy()
    if len(target) and (target.min() < 0 or target.max() >= partitions):
        raise ConfigError(f"exchange {folder.name}: partition {target.min()}…{target.max()} outside [0, {partitions})")
    order = np.argsort(target, kind="stable")
    table = table.drop_columns(["partition"]).take(pa.array(order)).combine_chunks()
    bounds = np.searchsorted(target[order], np.arange(partitions + 1))
    path = folder / f"{name}.arrow"
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with atomic(path) as temporary, pa.OSFile(str(temporary), "wb") as sink:
        with pa.ipc.new_file(sink, table.schema, options=options) as writer:
            for p in range(partitions):
                rows = table.slice(bounds[p], bounds[p + 1] - bounds[p])
                batches = rows.to_batches()
                writer.write_batch(batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema))
    return record_file(folder, path, table.num_rows)


@dataclasses.dataclass(frozen=True)
class Exchanged:
    """The result of Engine.exchange, read like shards: shard p is everything sent to partition p, in order of sender."""

    folder: Path
    senders: tuple[str, ...]
    partitions: int

    @property
    def names(self) -> list[str]:
        return [f"{p:05d}" for p in range(self.partitions)]

    def table(self, partition: int, columns: list[str] | None = None) -> pa.Table:
        """All rows of a partition; only `columns` are decoded."""
        tables = [pa.Table.from_batches([self._batch(sender, partition, columns)]) for sender in self.senders]
        return pa.concat_tables(tables).combine_chunks()

    def _batch(self, sender: str, partition: int, columns: list[str] | None) -> pa.RecordBatch:
        path = self.folder / f"{sender}.arrow"
        try:
            with _open(path) as source, pa.ipc.open_file(source) as reader:
                if columns is None:
                    return reader.get_batch(partition)
                fields = [reader.schema.get_field_index(name) for name in columns]
            with (
                _open(path) as source,
                pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=fields)) as reader,
            ):
                return reader.get_batch(partition).select(columns)
        except (pa.ArrowInvalid, OSError) as error:
            raise CorruptFile(
                f"{path} cannot be read ({error}); it will be made again", path=str(path), folder="exchange", file=path.name
            ) from error

    def read(self, name: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        table = self.table(int(name), columns)
        batches = table.to_batches()
        yield batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)

    def weight(self, name: str) -> int:
        return 1

    def only(self, name: str) -> Exchanged:
        return self


def _open(path: Path) -> pa.NativeFile:
    return pa.memory_map(str(path)) if is_local(path) else pa.PythonFile(path.open("rb"), mode="r")


def partition_of(keys: pa.Array, partitions: int) -> np.ndarray:
    """Partition of uint64 keys, by the high bits' spread (multiply-shift), int64."""
    values = pc.cast(keys, pa.uint64()).to_numpy(zero_copy_only=False)
    mixed: np.ndarray = (values * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(33)
    return np.mod(mixed.astype(np.int64), partitions)
