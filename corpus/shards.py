"""Shards: Parquet files of documents, written whole or not at all, and read back against a checksum.

A step's folder:

    shards/NAME.parquet    documents kept, about 128 MB of text, row groups of about 16 MB
    dropped/NAME.parquet   one row per document dropped: id, reason, evidence (document.DROPPED)
    lineage/NAME.parquet   which old document sits where in which new one (document.LINEAGE), where a stage merges or splits
    done/TASK.json         written last by each task: its files with size and xxh3-64, its counts
    exchange/…             rows on their way to where they must meet; deleted when the step is done
    step.json              written last of all: the step's record (corpus/runner.py)

NAME is the input shard's name, so shard i of the output comes from shard i of the input. Every read hashes the file: xxh3
runs at memory speed, forty times faster than the Parquet decoding behind it, so a flipped bit never reaches a stage.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from upath import UPath

from corpus.errors import ConfigError, CorruptFile, InputError, storage_error

__all__ = [
    "BATCH_BYTES",
    "SHARD_BYTES",
    "FileRecord",
    "Items",
    "Shards",
    "StepShards",
    "as_path",
    "atomic",
    "check_file",
    "file_system",
    "is_local",
    "last_evidence",
    "read_array",
    "read_json",
    "record_file",
    "refresh",
    "scratch_of",
    "step_files",
    "touched",
    "write_array",
    "write_json",
    "write_table",
]

SHARD_BYTES = 128 << 20  # of text; a compressed shard is then 20-40 MB, a second of work at 128 MB/s
BATCH_BYTES = 16 << 20  # of text in a row group: large enough that per-batch costs vanish, small beside a worker's memory

# Short, repetitive columns; anything else is stored plainly. Statistics only where a reader may skip by them.
_DICTIONARY = ["source", "repo", "commit", "license", "lang", "reason", "encoding"]
_STATISTICS = ["id", "repo", "lang"]


def as_path(where: str | os.PathLike[str]) -> Path:
    """A local Path, or a UPath (same interface over fsspec) where there is a URL scheme other than file."""
    if isinstance(where, UPath):  # which is no os.PathLike where it is remote
        return where  # type: ignore[return-value]
    text = os.fspath(where)
    scheme, found, rest = text.partition("://")
    if not found or scheme == "file":
        return Path(rest if found else text)
    try:
        path = UPath(text)
        path.fs  # noqa: B018  # made here, where it can be told what is missing
    except (ValueError, ImportError) as error:
        raise ConfigError(f"{text}: {error}; a folder, or a URL that fsspec can open, expected") from error
    return path  # type: ignore[return-value]


def is_local(path: Path) -> bool:
    return getattr(path, "protocol", "") in ("", "file")


def file_system(path: Path) -> tuple[Any, str]:
    """Of a path that is not local: fsspec's file system, and the path's name there."""
    return path.fs, path.path  # type: ignore[attr-defined]


def scratch_of(folder: Path) -> Path:
    """Where temporary files go whose results belong into `folder`: there, or to TMPDIR where that is remote."""
    return folder if is_local(folder) else Path(tempfile.gettempdir())


def refresh(path: Path) -> None:
    """Forget what was listed below a remote path: other processes, workers among them, have written there since."""
    if not is_local(path):
        file_system(path)[0].invalidate_cache()


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary local path to write; it becomes `path` only when the block ends well.

    Local: same folder, then a rename. Remote: a local file, then one upload, which object stores publish whole.
    No fsync: after a power cut a file may be short, and its checksum then says so and it is rebuilt.
    """
    local = is_local(path)
    folder = scratch_of(path.parent)
    where = path if local else folder  # what an error is about
    try:
        if local:
            folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".tmp-", suffix="-" + path.name, dir=folder)
        os.close(descriptor)
        temporary = Path(name)
        try:
            yield temporary
            if local:
                os.chmod(temporary, 0o644)  # mkstemp makes it private
                os.replace(temporary, path)
            else:
                where = path
                _upload(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if (known := storage_error(error, where)) is not None:
            raise known from error
        raise


def _upload(temporary: Path, path: Path) -> None:
    """Folders are made where one is missing: object stores have none, and would be asked three times a file."""
    fs, name = file_system(path)
    try:
        fs.put_file(str(temporary), name)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        fs.put_file(str(temporary), name)


def _read_bytes(path: Path) -> bytes:
    """All of a file; of a remote one by one request, where opening it looks it up first."""
    if is_local(path):
        return path.read_bytes()
    fs, name = file_system(path)
    return bytes(fs.cat_file(name))


@dataclasses.dataclass(frozen=True)
class FileRecord:
    """A finished file: path relative to the step's folder, size and xxh3-64 of its bytes, rows in it."""

    path: str
    size: int
    xxh3: str
    rows: int
    mtime_ns: int = 0  # only a hint that saves hashing; not part of what a file must equal

    def same(self, other: FileRecord) -> bool:
        return (self.path, self.size, self.xxh3, self.rows) == (other.path, other.size, other.xxh3, other.rows)


def record_file(folder: Path, path: Path, rows: int) -> FileRecord:
    """The record of a file just written under `folder`."""
    stat = path.stat()
    mtime = stat.st_mtime_ns if is_local(path) else 0
    return FileRecord(path.relative_to(folder).as_posix(), stat.st_size, _hash(_bytes(path)), rows, mtime)


def _bytes(path: Path) -> pa.Buffer:
    if is_local(path):
        if path.stat().st_size == 0:
            return pa.py_buffer(b"")  # an empty file cannot be mapped
        return pa.memory_map(str(path)).read_buffer()
    return pa.py_buffer(_read_bytes(path))


def _hash(data: pa.Buffer) -> str:
    return xxhash.xxh3_64_hexdigest(memoryview(data))


@contextlib.contextmanager
def _reading(path: Path, record: FileRecord | None = None) -> Iterator[None]:
    """A disk that fails or refuses is a StorageError; a file that has a record and is missing, a CorruptFile."""
    try:
        yield
    except OSError as error:
        if record is not None and isinstance(error, FileNotFoundError):
            raise _corrupt(path, "is missing", record) from None
        raise storage_error(error, path, "read") or error from error


def open_checked(folder: Path, record: FileRecord) -> pa.Buffer:
    """The bytes of a finished file; CorruptFile when they are not the recorded ones."""
    path = folder / record.path
    with _reading(path, record):
        data = _bytes(path)
    if data.size != record.size:
        raise _corrupt(path, f"has {data.size} bytes", record)
    if (seen := _hash(data)) != record.xxh3:
        raise _corrupt(path, f"has checksum {seen}", record)
    return data


def check_file(folder: Path, record: FileRecord) -> None:
    """CorruptFile unless the file is as recorded. Hashes it only if size is right and the time of change is not."""
    if touched(folder, record):
        open_checked(folder, record)


def touched(folder: Path, record: FileRecord) -> bool:
    """Whether a file of the recorded size has another time of change, as after a copy. CorruptFile for another size."""
    path = folder / record.path
    with _reading(path, record):
        stat = path.stat()
    if stat.st_size != record.size:
        raise _corrupt(path, f"has {stat.st_size} bytes", record)
    return is_local(path) and stat.st_mtime_ns != record.mtime_ns


def _corrupt(path: Path, seen: str, record: FileRecord) -> CorruptFile:
    return CorruptFile(
        f"{path} {seen}; its record says {record.size} bytes with checksum {record.xxh3}. It will be rebuilt.",
        path=str(path),
        folder=path.parent.parent.name,
        file=record.path,
    )


def write_array(path: Path, array: np.ndarray) -> None:
    """`array` as .npy, written atomically."""
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def read_array(path: Path) -> np.ndarray:
    """What write_array wrote."""
    with _reading(path), path.open("rb") as file:
        return np.asarray(np.load(file))


def write_json(path: Path, value: dict[str, Any]) -> None:
    """`value` with a checksum over itself, written atomically."""
    body = json.dumps(value, sort_keys=True, ensure_ascii=False)
    sealed = {"checksum": xxhash.xxh3_64_hexdigest(body.encode("utf-8", "surrogatepass")), "value": value}
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(sealed, sort_keys=True, ensure_ascii=False, indent=1), "utf-8")


def read_json(path: Path) -> dict[str, Any] | None:
    """What write_json wrote; None where there is no file, CorruptFile where it is damaged."""
    try:
        with _reading(path):
            data = _read_bytes(path)
    except FileNotFoundError:
        return None
    try:
        sealed = json.loads(data.decode("utf-8"))
        body = json.dumps(sealed["value"], sort_keys=True, ensure_ascii=False)
        if sealed["checksum"] == xxhash.xxh3_64_hexdigest(body.encode("utf-8", "surrogatepass")):
            value: dict[str, Any] = sealed["value"]
            return value
    except (ValueError, KeyError, TypeError):
        pass  # falls through to the error below: damaged either way
    raise CorruptFile(f"{path} does not match its own checksum. It will be rebuilt.", path=str(path), file=path.name)


def step_files(folder: Path, kind: str) -> tuple[FileRecord, ...] | None:
    """What the record of a finished step says of the files in folder `kind`, or of the one file so called. None: no record."""
    record = read_json(folder / "step.json")
    if record is None:
        return None
    return tuple(FileRecord(**file) for file in record["files"] if f"{file['path']}/".startswith(f"{kind}/"))


def last_evidence(folder: Path, reason: str) -> str:
    """What the last document dropped for `reason` says, of those below `folder`; "unknown" where there is none."""
    for path in sorted((folder / "dropped").glob("*.parquet"), reverse=True):
        with path.open("rb") as file:
            table = pq.read_table(file, columns=["evidence"], filters=[("reason", "=", reason)])
        if table.num_rows:
            return str(table.column("evidence")[-1].as_py())
    return "unknown"


def parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    names = set(schema.names)
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=[name for name in _DICTIONARY if name in names],
        write_statistics=[name for name in _STATISTICS if name in names],
    )


def write_table(folder: Path, path: Path, table: pa.Table | pa.RecordBatch) -> FileRecord:
    """One table as one Parquet file, atomically; its record."""
    with atomic(path) as temporary, parquet_writer(temporary, table.schema) as writer:
        writer.write(table)
    return record_file(folder, path, table.num_rows)


def read_batches(data: pa.Buffer, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    """One batch per row group; one empty batch for a file without rows, so that a stage always sees the schema."""
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        present = file.schema_arrow.names
        wanted = None if columns is None else [name for name in columns if name in present]
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, wanted, use_threads=False)
            yield from _one_batch(table)
        if file.num_row_groups == 0:
            schema = file.schema_arrow if wanted is None else pa.schema([file.schema_arrow.field(n) for n in wanted])
            yield pa.RecordBatch.from_pylist([], schema=schema)


def _one_batch(table: pa.Table) -> list[pa.RecordBatch]:
    return table.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], schema=table.schema)]


class Shards(Protocol):
    """What a verb of the engine reads: named shards, each a sequence of batches (or, for Items, of anything)."""

    @property
    def names(self) -> list[str]: ...
    def read(self, name: str, columns: list[str] | None = None) -> Iterator[Any]: ...
    def weight(self, name: str) -> int: ...  # bytes on disk, for progress and order
    def only(self, name: str) -> Shards: ...  # what one task needs to be told


@dataclasses.dataclass(frozen=True)
class StepShards:
    """The documents a finished step wrote. `files` in order of name."""

    folder: Path
    files: tuple[FileRecord, ...]
    step: str = ""

    @functools.cached_property
    def _by_name(self) -> dict[str, FileRecord]:
        return {Path(f.path).stem: f for f in self.files}

    @property
    def names(self) -> list[str]:
        return list(self._by_name)

    @property
    def rows(self) -> int:
        return sum(f.rows for f in self.files)

    def read(self, name: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        return read_batches(open_checked(self.folder, self._file(name)), columns)

    def weight(self, name: str) -> int:
        return self._file(name).size

    def only(self, name: str) -> StepShards:
        return StepShards(self.folder, (self._file(name),), self.step)

    def _file(self, name: str) -> FileRecord:
        if name in self._by_name:
            return self._by_name[name]
        raise InputError(f"{self.folder} has no shard {name!r}; there are {len(self.files)}: {', '.join(self.names[:5])} …")


@dataclasses.dataclass(frozen=True)
class Items:
    """Work that is not documents yet: a list of anything picklable, one shard each, named by position."""

    items: tuple[Any, ...]
    first: int = 0

    @property
    def names(self) -> list[str]:
        return [f"{self.first + i:05d}" for i in range(len(self.items))]

    def read(self, name: str, columns: list[str] | None = None) -> Iterator[Any]:
        yield self.items[int(name) - self.first]

    def weight(self, name: str) -> int:
        return 1

    def only(self, name: str) -> Items:
        return Items((self.items[int(name) - self.first],), int(name))
