"""Rows on their way to where they must meet: one indexed file per sender, read by range per receiver.

    schema | rows of partition 0 | rows of partition 1 | … | bounds | digests | tail

The first parts are an Arrow IPC stream (lz4), nothing where a partition has no rows. bounds: P + 1 offsets, where the rows of
each partition begin. digests: the xxh3-64 of each partition's bytes. A receiver opens every sender's file, reads its own
two bounds, digest and bytes, and little else, so memory is bounded by one partition and the number of files by the number
of senders; what it reads it has checked before Arrow sees it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from corpus.errors import ConfigError, CorruptFile, storage_error
from corpus.shards import FileRecord, atomic, file_system, is_local, record_file, refresh

__all__ = ["Exchanged", "Together", "exchange_file", "partition_of", "partitions_for", "write_exchanged"]

_TAIL = struct.Struct("<QQ8s")  # partitions, xxh3-64 of the schema's bytes, magic
_MAGIC = b"EXCHANGE"
_GAP = 1 << 16  # bytes that are cheaper to read than another request to an object store


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
    copy: Path | None = None  # where its files are read instead

    @property
    def names(self) -> list[str]:
        return [f"{p:05d}" for p in range(self.partitions)]

    def table(self, partition: int, columns: list[str] | None = None) -> pa.Table:
        """All rows of a partition; `columns` of them."""
        tables = self._tables(partition)
        if columns is not None:
            tables = [table.select(columns) for table in tables]
        return pa.concat_tables(tables).combine_chunks()

    @contextlib.contextmanager
    def nearby(self) -> Iterator[Exchanged]:
        """The same, for who reads it more than once: where it lies behind a URL, from a copy in TMPDIR that the block has."""
        if is_local(self.folder):
            yield self
            return
        with tempfile.TemporaryDirectory(prefix="exchange-") as copy:
            fs, folder = file_system(self.folder)
            try:
                fs.get([f"{folder}/{s}.arrow" for s in self.senders], [f"{copy}/{s}.arrow" for s in self.senders])
            except OSError as error:
                lost = next((sender for sender in self.senders if not self._path(sender).exists()), self.senders[0])
                with self._reading(lost):
                    raise error from None
            yield dataclasses.replace(self, copy=Path(copy))

    def _path(self, sender: str) -> Path:
        return self.folder / f"{sender}.arrow"

    def _tables(self, partition: int) -> list[pa.Table]:
        """In order of sender."""
        where = self.copy or self.folder
        if not is_local(where):
            return self._fetched(partition)
        tables = []
        for sender in self.senders:
            with self._reading(sender), pa.memory_map(str(where / f"{sender}.arrow")) as source:
                data = source.read_buffer()
                at = _index_at(data.size, partition, self.partitions)
                index = _index([data[a:b] for a, b in at], at, self.partitions)
                tables.append(_table(data[: index.first], data[index.start : index.stop], index, partition))
        return tables

    @functools.cached_property
    def _sizes(self) -> dict[str, int]:
        """Of the remote files, listed once: there is an Exchanged when they are all written, and another when they are anew."""
        refresh(self.folder)
        fs, folder = file_system(self.folder)
        return {file["name"].rpartition("/")[2]: file["size"] for file in fs.ls(folder, detail=True)}

    def _fetched(self, partition: int) -> list[pa.Table]:
        """In two rounds, each for all files at once: an answer of an object store takes tens of milliseconds."""
        wanted = []
        for sender in self.senders:
            with self._reading(sender):
                if (size := self._sizes.get(f"{sender}.arrow")) is None:
                    raise FileNotFoundError("no such file")
                wanted.append(_index_at(size, partition, self.partitions))
        indexes = []
        for sender, parts, at in zip(self.senders, self._cat(wanted), wanted, strict=True):
            with self._reading(sender):
                indexes.append(_index(parts, at, self.partitions))
        bodies = self._cat([[(0, index.first), (index.start, index.stop)] for index in indexes])
        tables = []
        for sender, index, (head, rows) in zip(self.senders, indexes, bodies, strict=True):
            with self._reading(sender):
                tables.append(_table(head, rows, index, partition))
        return tables

    def _cat(self, wanted: list[list[tuple[int, int]]]) -> list[list[pa.Buffer]]:
        """Ranges of each sender's file, rising; those that lie close together with one request."""
        spans = [list(_spans(ranges)) for ranges in wanted]
        flat = [(sender, a, b) for sender, some in zip(self.senders, spans, strict=True) for a, b in some]
        fs, folder = file_system(self.folder)
        paths = [f"{folder}/{sender}.arrow" for sender, _, _ in flat]
        got = fs.cat_ranges(paths, [a for _, a, _ in flat], [b for _, _, b in flat], on_error="return")
        for (sender, a, b), data in zip(flat, got, strict=True):
            with self._reading(sender):
                if isinstance(data, BaseException):
                    raise data
                if len(data) != b - a:
                    raise ValueError(f"{len(data)} bytes at {a}, {b - a} expected")
        taken = iter(got)
        bodies = [[(a, pa.py_buffer(next(taken))) for a, _ in some] for some in spans]
        return [[_part(span, a, b) for a, b in ranges] for ranges, span in zip(wanted, bodies, strict=True)]

    @contextlib.contextmanager
    def _reading(self, sender: str) -> Iterator[None]:
        path = self._path(sender)
        try:
            yield
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


class _Index(NamedTuple):
    """Where the schema ends, where a partition's rows lie, and both digests."""

    first: int
    start: int
    stop: int
    schema_digest: int
    digest: int


def _index_at(size: int, partition: int, partitions: int) -> list[tuple[int, int]]:
    """Where an exchange file of `size` bytes says where a partition is, rising: first bound, its two, its digest, tail."""
    end = size - _TAIL.size
    digests = end - 8 * partitions
    bounds = digests - 8 * (partitions + 1)
    if bounds < 0:
        raise ValueError(f"{size} bytes, more expected for {partitions} partitions")
    own = bounds + 8 * partition
    return [(bounds, bounds + 8), (own, own + 16), (digests + 8 * partition, digests + 8 * partition + 8), (end, size)]


def _index(parts: list[pa.Buffer], at: list[tuple[int, int]], partitions: int) -> _Index:
    """What they say. ValueError where the bytes are not those that were written."""
    seen, schema_digest, magic = _TAIL.unpack(parts[3])
    if magic != _MAGIC or seen != partitions:
        raise ValueError(f"it ends in {magic!r} after {seen} partitions, {_MAGIC!r} after {partitions} expected")
    first, start, stop, digest = np.frombuffer(b"".join(parts[:3]), "<u8").tolist()
    if not first <= start <= stop <= at[0][0]:
        raise ValueError(f"its rows lie at {start}-{stop}, inside {first}-{at[0][0]} expected")
    return _Index(first, start, stop, schema_digest, digest)


def _table(head: pa.Buffer, rows: pa.Buffer, index: _Index, partition: int) -> pa.Table:
    if _digest(head, 0) != index.schema_digest or _digest(rows, partition) != index.digest:
        raise ValueError(f"the checksum of partition {partition} is wrong")
    schema = pa.ipc.read_schema(head)
    messages = pa.ipc.MessageReader.open_stream(rows) if rows.size else ()
    return pa.Table.from_batches([pa.ipc.read_record_batch(message, schema) for message in messages], schema)


def _spans(ranges: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Fewer ranges that hold all of these, which rise; none where all are empty."""
    begin = end = -1
    for a, b in ranges:
        if a == b:
            continue
        if begin >= 0 and a - end > _GAP:
            yield begin, end
            begin = -1
        begin, end = (a if begin < 0 else begin), b
    if begin >= 0:
        yield begin, end


def _part(spans: list[tuple[int, pa.Buffer]], a: int, b: int) -> pa.Buffer:
    if a == b:
        return pa.py_buffer(b"")
    begin, data = next(span for span in reversed(spans) if span[0] <= a)
    return data[a - begin : b - begin]


def partition_of(keys: pa.Array, partitions: int) -> np.ndarray:
    """Partition of uint64 keys, by the high bits' spread (multiply-shift), int64."""
    values = pc.cast(keys, pa.uint64()).to_numpy(zero_copy_only=False)
    mixed: np.ndarray = (values * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(33)
    return np.mod(mixed.astype(np.int64), partitions)
