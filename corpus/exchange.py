"""Rows on their way to where they must meet: one indexed file per sender, read by range per receiver.

    schema | rows of partition 0 | rows of partition 1 | … | bounds | digests | tail

The first parts are an Arrow IPC stream (lz4), nothing where a partition has no rows. bounds: P + 1 offsets, where the rows of
each partition begin. digests: the xxh3-64 of each partition's bytes. A receiver opens every sender's file, reads its own
two bounds, digest and bytes, and nothing else, so memory is bounded by one partition and the number of files by the number
of senders; what it reads it has checked before Arrow sees it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from corpus.errors import ConfigError, CorruptFile, storage_error
from corpus.shards import FileRecord, atomic, is_local, record_file

__all__ = ["Exchanged", "Together", "exchange_file", "partition_of", "partitions_for", "write_exchanged"]

_TAIL = struct.Struct("<QQ8s")  # partitions, xxh3-64 of the schema's bytes, magic
_MAGIC = b"EXCHANGE"


def partitions_for(total_bytes: int, target: int = 128 << 20) -> int:
    """How many partitions keep one near `target` bytes; decided by data alone, never by workers.

    At most 2^15, 4 TiB of text: beyond that partitions grow, since every sender's index has an entry per partition.
    """
    return max(1, min(1 << 15, -(-total_bytes // target)))


@contextlib.contextmanager
def exchange_file(path: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table | pa.RecordBatch], None]]:
    """A function to call with the rows of every partition in turn; the file is there when the block ends well."""
    bounds: list[int] = []
    with atomic(path) as temporary:
        with pa.OSFile(str(temporary), "wb") as sink:
            with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
                writer.write_batch(pa.RecordBatch.from_pylist([], schema=schema))  # the schema goes out with the first batch
                bounds.append(sink.tell())

                def add(rows: pa.Table | pa.RecordBatch) -> None:
                    if rows.num_rows:
                        writer.write(rows)
                    bounds.append(sink.tell())

                yield add
        with pa.memory_map(str(temporary)) as written:
            data = memoryview(written.read_buffer())
            digests = [_digest(data[a:b], p) for p, (a, b) in enumerate(itertools.pairwise(bounds))]
            tail = _TAIL.pack(len(digests), _digest(data[: bounds[0]], 0), _MAGIC)
        with temporary.open("ab") as file:
            file.write(np.array(bounds, "<u8").tobytes() + np.array(digests, "<u8").tobytes() + tail)


def _digest(data: memoryview | pa.Buffer, partition: int) -> int:
    """Seeded, so that one partition's rows are not taken for another's."""
    value: int = xxhash.xxh3_64_intdigest(data, seed=partition)
    return value


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
    with exchange_file(path, table.schema) as add:
        for p in range(partitions):
            add(table.slice(bounds[p], bounds[p + 1] - bounds[p]))
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
        """All rows of a partition; `columns` of them."""
        tables = [self._rows(sender, partition) for sender in self.senders]
        if columns is not None:
            tables = [table.select(columns) for table in tables]
        return pa.concat_tables(tables).combine_chunks()

    def _rows(self, sender: str, partition: int) -> pa.Table:
        path = self.folder / f"{sender}.arrow"
        try:
            with _open(path) as source:
                return _read(source, partition, self.partitions)
        except (ValueError, FileNotFoundError, struct.error) as error:  # ArrowInvalid is a ValueError
            raise CorruptFile(
                f"{path} cannot be read ({error}); it will be made again", path=str(path), folder="exchange", file=path.name
            ) from error
        except OSError as error:
            raise storage_error(error, path, "read") or error from error

    def read(self, name: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        table = self.table(int(name), columns)
        if len(batches := table.to_batches()) > 1:  # a column of URLs or labels passes 2 GiB, which 32-bit offsets cannot hold
            batches = table.cast(_large(table.schema)).combine_chunks().to_batches()
        yield batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)

    def weight(self, name: str) -> int:
        return 1

    def only(self, name: str) -> Exchanged:
        return self


def _large(schema: pa.Schema) -> pa.Schema:
    """The schema with 64-bit offsets in every column of strings."""
    large = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}
    return pa.schema([field.with_type(large.get(field.type, field.type)) for field in schema])


@dataclasses.dataclass(frozen=True)
class Together:
    """Several exchanges of as many partitions, read as one (Shards): partition p holds theirs, in order."""

    parts: tuple[Exchanged, ...]

    @property
    def names(self) -> list[str]:
        return self.parts[0].names

    def read(self, name: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        table = pa.concat_tables([part.table(int(name), columns) for part in self.parts]).combine_chunks()
        # More than one where a column of URLs or paths passes 2 GiB, which 32-bit offsets cannot hold in one piece.
        yield from table.to_batches() or [pa.RecordBatch.from_pylist([], schema=table.schema)]

    def weight(self, name: str) -> int:
        return 1

    def only(self, name: str) -> Together:
        return self


def _open(path: Path) -> pa.NativeFile:
    return pa.memory_map(str(path)) if is_local(path) else pa.PythonFile(path.open("rb"), mode="r")


def _read(source: pa.NativeFile, partition: int, partitions: int) -> pa.Table:
    """The rows of a partition. ValueError where the bytes are not those that were written."""

    def part(start: int, stop: int) -> pa.Buffer:
        source.seek(start)
        return source.read_buffer(max(0, stop - start))

    end = source.size() - _TAIL.size
    seen, schema_digest, magic = _TAIL.unpack(part(max(0, end), end + _TAIL.size))
    if magic != _MAGIC or seen != partitions:
        raise ValueError(f"it ends in {magic!r} after {seen} partitions, {_MAGIC!r} after {partitions} expected")
    digests = end - 8 * partitions
    bounds = digests - 8 * (partitions + 1)
    first = int(np.frombuffer(part(bounds, bounds + 8), "<u8")[0])
    start, stop = np.frombuffer(part(bounds + 8 * partition, bounds + 8 * partition + 16), "<u8").tolist()
    digest = int(np.frombuffer(part(digests + 8 * partition, digests + 8 * partition + 8), "<u8")[0])
    if not first <= start <= stop <= bounds:
        raise ValueError(f"partition {partition} lies at {start}-{stop}, inside {first}-{bounds} expected")
    head, rows = part(0, first), part(start, stop)
    if _digest(head, 0) != schema_digest or _digest(rows, partition) != digest:
        raise ValueError(f"the checksum of partition {partition} is wrong")
    schema = pa.ipc.read_schema(head)
    messages = pa.ipc.MessageReader.open_stream(rows) if rows.size else ()
    return pa.Table.from_batches([pa.ipc.read_record_batch(message, schema) for message in messages], schema)


def partition_of(keys: pa.Array, partitions: int) -> np.ndarray:
    """Partition of uint64 keys, by the high bits' spread (multiply-shift), int64."""
    values = pc.cast(keys, pa.uint64()).to_numpy(zero_copy_only=False)
    mixed: np.ndarray = (values * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(33)
    return np.mod(mixed.astype(np.int64), partitions)
