"""What one task of a verb does, wherever it runs: read a shard, let the stage work, publish files, then say that it is done.

done/NAME.json is written last. A task that finds it, and the files it lists whole, returns the report in it and does nothing.
Items are named by their position only, so it also says which item it was: a listing may have changed since a run was stopped.
"""

from __future__ import annotations

import dataclasses
import functools
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

from corpus.document import text_bytes
from corpus.errors import CorruptFile, storage_error
from corpus.exchange import Exchanged, write_exchanged
from corpus.report import Report
from corpus.shards import FileRecord, Items, Shards, StepShards, check_file, read_json, record_file, write_json
from corpus.write import ShardWriter, absorb, clear_peak, peak_memory

__all__ = ["ReduceTask", "ShardTask", "forget_others", "run_convert", "run_map", "run_reduce", "run_route"]


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """Work on one input shard. function: the stage's judge, convert or route; position: the shard's, among all inputs."""

    function: Callable[..., Any]
    inputs: Shards
    name: str
    position: int
    folder: Path  # where files and done/ go
    setup: Callable[[], Any] | None = None
    beside: Exchanged | None = None
    columns: list[str] | None = None
    partitions: int = 0  # of an exchange

    @property
    def item(self) -> str | None:
        """A checksum of what an item says of itself."""
        return xxhash.xxh3_64_hexdigest(repr(next(self.batches()))) if isinstance(self.inputs, Items) else None

    def batches(self) -> Iterator[Any]:
        return self.inputs.read(self.name, self.columns)

    def extras(self) -> dict[str, Any]:
        extras: dict[str, Any] = {}
        if self.setup is not None:
            extras["state"] = _state(pickle.dumps(self.setup))
        if self.beside is not None:
            extras["beside"] = self.beside.table(self.position)
        return extras


@dataclasses.dataclass(frozen=True)
class ReduceTask:
    """Work on everything, in one task."""

    fold: Callable[..., dict[str, Any] | None]
    inputs: tuple[Shards, ...]
    name: str
    out: Path
    columns: list[str] | None


def run_map(task: ShardTask) -> dict[str, Any]:
    """One shard of map_shards."""
    strict = isinstance(task.inputs, StepShards)
    where = f"{task.folder.name} shard {task.name}"

    def work(report: Report) -> list[FileRecord]:
        extras = task.extras()
        first = 0
        with ShardWriter(task.folder, task.name, roll=not strict) as writer:
            for batch in task.batches():
                if task.beside is not None:
                    extras["first"] = first
                    first += batch.num_rows
                absorb(batch, task.function(batch, **extras), writer, report, strict, where)
            return writer.close()

    return _recorded(task, work)


def run_convert(task: ShardTask) -> dict[str, Any]:
    """One shard of map_files."""

    def work(report: Report) -> list[FileRecord]:
        def batches() -> Iterator[pa.RecordBatch]:
            for batch in task.batches():
                report.read += batch.num_rows
                report.kept += batch.num_rows
                report.bytes_in += text_bytes(batch)
                yield batch

        paths, notes = task.function(batches(), task.name, task.folder, **task.extras())
        report.notes.update(notes)
        return [record_file(task.folder, path, rows) for path, rows in paths]

    return _recorded(task, work)


def run_route(task: ShardTask) -> dict[str, Any]:
    """One shard of exchange."""

    def work(report: Report) -> list[FileRecord]:
        extras = task.extras()
        tables = []
        origin = task.position << 32
        for batch in task.batches():
            routed = task.function(batch, origin=origin, **extras)
            tables.append(routed if isinstance(routed, pa.Table) else pa.Table.from_batches([routed]))
            rows = batch.num_rows if isinstance(batch, pa.RecordBatch) else 0  # an item is no document
            origin += rows
            report.read += rows
            report.used += rows
        return [write_exchanged(task.folder, task.name, tables, task.partitions)]

    return _recorded(task, work)


def run_reduce(task: ReduceTask) -> dict[str, Any]:
    """The one task of reduce. It is not resumed: it runs again if the step was not finished."""
    started = time.perf_counter()
    clear_peak()
    report = Report()

    def batches() -> Iterator[pa.RecordBatch]:
        for inputs in task.inputs:
            for name in inputs.names:
                for batch in inputs.read(name, task.columns):
                    if isinstance(inputs, StepShards):
                        report.read += batch.num_rows
                        report.used += batch.num_rows
                        report.bytes_in += text_bytes(batch)
                    yield batch

    task.out.mkdir(parents=True, exist_ok=True)
    try:
        notes = task.fold(batches(), task.out)
    except OSError as error:
        raise storage_error(error, task.out) or error from error
    report.notes.update(notes or {})
    report.task_seconds = time.perf_counter() - started
    report.peak_memory = peak_memory()
    return report.as_dict()


def _recorded(task: ShardTask, work: Callable[[Report], list[FileRecord]]) -> dict[str, Any]:
    """Do `work` unless it was done before; publish done/NAME.json; the report as a dict."""
    done = task.folder / "done" / f"{task.name}.json"
    report = Report()
    damage: list[str] = []
    try:
        if (earlier := _finished(task, done)) is not None:
            return earlier
    except CorruptFile as error:
        damage.append(str(error))
    started = time.perf_counter()
    clear_peak()
    try:
        files = work(report)
    except OSError as error:
        raise storage_error(error, task.folder) or error from error
    report.task_seconds = time.perf_counter() - started
    report.peak_memory = peak_memory()
    said = {"files": [dataclasses.asdict(file) for file in files], "report": report.as_dict(), "item": task.item}
    write_json(done, said)
    if damage:  # told by this run, not by every later one that finds the shard done
        report.notes["rebuilt"] = damage
    return report.as_dict()


def _finished(task: ShardTask, done: Path) -> dict[str, Any] | None:
    """The report of a task that ended well; None when there is none, CorruptFile when its files are no longer whole."""
    record = read_json(done)
    if record is None or record.get("item") != task.item:
        return None
    for file in record["files"]:
        check_file(task.folder, FileRecord(**file))
    report: dict[str, Any] = record["report"]
    return report


def forget_others(folder: Path, names: list[str]) -> None:
    """What is said to be done and is none of `names`: the runner then deletes its shards."""
    known = set(names)  # of a hundred thousand
    for done in (folder / "done").glob("*.json"):
        if done.stem not in known:
            done.unlink()


@functools.lru_cache(maxsize=2)
def _state(setup: bytes) -> Any:
    """setup() once per worker process. Keyed by its pickle: equal settings share, different ones do not."""
    return pickle.loads(setup)()
