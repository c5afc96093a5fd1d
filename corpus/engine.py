"""Engine: the verbs every stage is made of, and the in-process LocalEngine.

    map_shards   each input shard -> documents, through a Verdict per batch (map_files: -> files of another kind)
    exchange     rows of every shard -> partitions, so that rows of one key meet; the result is read like shards
    reduce       all rows, in order, in one task -> an artefact in `out`

A verb is a list of independent tasks, one per shard. A task reads files, writes files under temporary names, and writes
done/TASK.json last, so it can be killed at any moment, run twice, or run elsewhere, and leaves the same bytes. Engines differ
only in how they execute tasks: `LocalEngine` one after another in this process, `RayEngine` (corpus/engine_ray.py) on workers.
Tasks carry file references, never documents. Output names and contents depend on input shards alone, not on workers.

What a stage passes in must be picklable: module-level functions, and functools.partial over them.
"""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from corpus.errors import CorpusError, CorruptFile, TaskError
from corpus.exchange import Exchanged
from corpus.report import Report
from corpus.shards import Items, Shards, StepShards, as_path, is_local, refresh, step_files
from corpus.step import Step
from corpus.tasks import ReduceTask, ShardTask, forget_others, run_convert, run_map, run_reduce, run_route

__all__ = ["Engine", "LocalEngine", "Progress", "Task"]


class Progress(Protocol):
    """Told by the engine as tasks finish; see corpus/progress.py."""

    def begin(self, phase: str, tasks: int, weight: int) -> None: ...
    def advance(self, report: Report, weight: int) -> None: ...
    def end(self) -> None: ...
    def say(self, line: str) -> None: ...


class Silent:
    """A Progress that says nothing."""

    def begin(self, phase: str, tasks: int, weight: int) -> None: ...
    def advance(self, report: Report, weight: int) -> None: ...
    def end(self) -> None: ...
    def say(self, line: str) -> None: ...


@dataclasses.dataclass(frozen=True)
class Task:
    """A call to make somewhere: function(*arguments) -> result. `name` and `weight` (bytes) are for order and progress."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    weight: int


class Engine:
    """The verbs. A subclass says how tasks are executed, in `execute`, and nothing else."""

    def __init__(self, root: str | Path, progress: Progress | None = None) -> None:
        root = as_path(root)
        self.root = root.absolute() if is_local(root) else root  # a worker may stand in another folder
        self.progress: Progress = progress or Silent()
        self.spent = Report()  # task_seconds and peak_memory of every verb since the runner last cleared it

    def execute(self, tasks: list[Task]) -> Iterator[tuple[Task, Any]]:
        """Run every task; yield (task, result) in any order. Raises the first error that retrying does not cure."""
        raise NotImplementedError

    def open(self) -> None:
        """Have workers, if any; called before tasks are timed."""

    def close(self) -> None:
        """Release workers, if any."""

    def folder(self, step: Step) -> Path:
        """Where a step's output is; artefacts such as tokenizer.json lie directly in it."""
        return self.root / step.folder

    def shards(self, inputs: Step | Shards, folder_name: str = "shards") -> Shards:
        """The documents a finished Step wrote (anything that is Shards already passes through).

        folder_name: of the step's folder, for files it keeps beside its documents, row for row.
        """
        if not isinstance(inputs, Step):
            return inputs
        folder = self.folder(inputs)
        files = step_files(folder, folder_name)
        if files is None:
            raise CorruptFile(f"{folder} has no step.json, so step {inputs.name} is not finished", path=str(folder))
        return StepShards(folder, files, inputs.name)

    def rows(self, step: Step) -> int:
        """Documents a finished Step wrote: what a stage has read that used them otherwise than shard by shard."""
        found = self.shards(step)
        return found.rows if isinstance(found, StepShards) else 0

    def map_shards(
        self,
        judge: Callable[..., Any],
        files: Step | Shards,
        out: Path,
        *,
        setup: Callable[[], Any] | None = None,
        beside: Exchanged | None = None,
        columns: list[str] | None = None,
    ) -> Report:
        """Every input shard through `judge` to one output shard of the same name.

        judge: batch -> Verdict, or an iterator of Verdicts (a source over Items; a stage that makes documents). With `setup`
            it is also given `state=setup()`, made once per worker; with `beside`, `beside=` the pa.Table of partition i of
            an exchange, i being the input shard's position, and `first=` the row in the shard that the batch begins with.
        files: a Step, an Exchanged (partition p becomes shard p; its batch is the whole partition), or Items.
        columns: read only these of the input.

        Output of Items and of an Exchanged is cut into several shards when it passes SHARD_BYTES of text.
        """
        inputs = self.shards(files)
        tasks = []
        for i, name in enumerate(inputs.names):
            shard = ShardTask(judge, inputs.only(name), name, i, out, setup, beside, columns)
            tasks.append(Task(name, run_map, (shard,), inputs.weight(name)))
        if isinstance(inputs, Items):  # there may have been more of them when an earlier run began
            forget_others(out, inputs.names)
        return self._gather(out.name, tasks)

    def exchange(
        self,
        route: Callable[..., pa.Table | pa.RecordBatch],
        files: Step | Shards,
        out: Path,
        *,
        name: str,
        partitions: int,
        setup: Callable[[], Any] | None = None,
        beside: Exchanged | None = None,
        columns: list[str] | None = None,
    ) -> Exchanged:
        """Send rows to where they must meet. `name` is unique within the step.

        route: (batch, or one of Items, origin=int) -> a table with an integer column `partition` in [0, partitions), which is
            removed. `origin` is the ordinal of the batch's first row: shard position << 32 | row in the shard. A row's
            ordinal names it within the step, whatever the workers. `state=` and `beside=` as in map_shards.

        One indexed file per input shard, rows ordered by partition (stable), each partition read back by byte range: files
        grow with shards, not with shards × partitions. A partition reads its rows in order of input shard.
        """
        inputs = self.shards(files)
        folder = out / "exchange" / name
        tasks = []
        for i, sender in enumerate(inputs.names):
            shard = ShardTask(route, inputs.only(sender), sender, i, folder, setup, beside, columns, partitions)
            tasks.append(Task(sender, run_route, (shard,), inputs.weight(sender)))
        self._gather(f"{out.name} {name}", tasks)
        return Exchanged(folder, tuple(inputs.names), partitions)

    def map_files(
        self,
        convert: Callable[..., tuple[list[tuple[Path, int]], dict[str, Any]]],
        files: Step | Shards,
        out: Path,
        *,
        setup: Callable[[], Any] | None = None,
        columns: list[str] | None = None,
    ) -> Report:
        """Every input shard to files of another kind than documents (token shards). Documents count as kept.

        convert: (batches: Iterator[RecordBatch], name: str, out: Path, [state=]) -> ([(path, rows), …], notes). It writes
            under `out` through shards.atomic; the files are recorded with size and checksum, and the shard is then resumable.
            Numbers in notes are summed over shards.
        """
        inputs = self.shards(files)
        tasks = []
        for i, name in enumerate(inputs.names):
            shard = ShardTask(convert, inputs.only(name), name, i, out, setup, None, columns)
            tasks.append(Task(name, run_convert, (shard,), inputs.weight(name)))
        return self._gather(out.name, tasks)

    def reduce(
        self,
        fold: Callable[..., dict[str, Any] | None],
        files: Step | Shards | tuple[Step | Shards, ...],
        out: Path,
        *,
        name: str = "reduce",
        columns: list[str] | None = None,
    ) -> Report:
        """All batches of all inputs, in order, to one function that writes an artefact under `out`.

        fold: (batches: Iterator[RecordBatch], out: Path) -> notes for the report, or None. It writes its files through
            shards.atomic. The Report counts the documents of Steps as `used`.
        """
        several = files if isinstance(files, tuple) else (files,)
        inputs = tuple(self.shards(f) for f in several)
        weight = sum(s.weight(n) for s in inputs for n in s.names)
        whole = ReduceTask(fold, inputs, name, out, columns)
        return self._gather(f"{out.name} {name}", [Task(name, run_reduce, (whole,), weight)])

    def _gather(self, phase: str, tasks: list[Task]) -> Report:
        total = Report()
        if tasks:
            self.open()
        self.progress.begin(phase, len(tasks), sum(task.weight for task in tasks))
        reports: dict[str, Report] = {}
        try:
            for task, result in self.execute(tasks):
                reports[task.name] = Report.from_dict(result)
                self.progress.advance(reports[task.name], task.weight)
        finally:
            self.progress.end()
            refresh(self.root)
        for name in sorted(reports):  # the order of names, not of completion
            total.add(reports[name])
        self.spent.task_seconds += total.task_seconds
        self.spent.peak_memory = max(self.spent.peak_memory, total.peak_memory)
        return total


class LocalEngine(Engine):
    """Every task in this process, in order of name. For debugging, small runs and as the oracle of RayEngine."""

    def execute(self, tasks: list[Task]) -> Iterator[tuple[Task, Any]]:
        for task in tasks:
            yield task, call(task)


def call(task: Task) -> Any:
    """Run a task; an error that is not of our tree becomes a TaskError that names the task and carries the traceback."""
    try:
        return task.function(*task.arguments)
    except CorpusError:
        raise
    except (Exception, SystemExit) as error:  # a stage that exits must not take its worker along, to be tried again and again
        where = f"{task.function.__name__} of {task.name}"
        text = "".join(traceback.format_exception(error))
        raise TaskError(f"{where} failed with {type(error).__name__}: {error}\n{text}", task=task.name) from error
