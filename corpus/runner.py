"""The runner: running the steps that have to (corpus/plan.py), and the record each leaves behind.

A step is done when its folder holds step.json and every file that it lists is as it says. The record is written last, so a
run killed at any moment leaves a folder that is simply not done, with its finished shards in it to continue from.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash

from corpus.engine import Engine
from corpus.errors import ConservationError, CorruptFile, StorageError, storage_error
from corpus.lock import hold
from corpus.plan import INPUTS, Planned, plan, read_record, state_of, upstream_outputs
from corpus.report import Report
from corpus.shards import FileRecord, as_path, file_system, is_local, open_checked, read_json, record_file, refresh, write_json
from corpus.step import Ends, Step, canonical, stage_of, upstream, walk

__all__ = ["Planned", "plan", "read_record", "run"]

REPAIRS = 3  # of one file in one run; a file that keeps coming out wrong is failing hardware, not bad luck


def run(last: Ends, engine: Engine, announce: Callable[[Planned], None] = lambda planned: None) -> dict[str, Report]:
    """Bring `last` and all it needs up to date; the reports of all steps that have one, upstream first.

    Every step that has to run is checked first (a stage may define `check(config)`), so that a recipe that cannot work fails
    before anything is made. A damaged file met on the way is named, deleted and made again.
    """
    try:
        _run_and_repair(last, engine, announce)
        records = {step.name: read_record(engine.root, step) for step in walk(last)}
    except OSError as error:
        raise storage_error(error, engine.root) or error from error
    return {name: Report.from_dict(record["report"]) for name, record in records.items() if record is not None}


def _run_and_repair(last: Ends, engine: Engine, announce: Callable[[Planned], None]) -> None:
    repairs: dict[str, int] = {}
    while True:
        try:
            return _run_all(last, engine, announce)
        except CorruptFile as error:
            path = str(error.details.get("path", ""))
            repairs[path] = repairs.get(path, 0) + 1
            if repairs[path] > REPAIRS or not _unmake(last, engine, as_path(path)):
                raise
            engine.progress.say(f"damaged: {error}")


def _run_all(last: Ends, engine: Engine, announce: Callable[[Planned], None]) -> None:
    rows = plan(last, engine.root)
    for row in rows:
        check = getattr(stage_of(row.step), "check", None)
        if row.runs and check is not None:
            check(row.step.config)
    made: set[str] = set()
    for row in rows:
        if row.state == "done" and made.intersection(other.name for other in upstream(row.step)):
            state, why = state_of(engine.root, row.step)  # what it was made from may have come out different
            row = Planned(row.step, state, state != "done", why)
        announce(row)
        if row.state == "damaged":
            engine.progress.say(f"damaged: {row.why}")
        if row.runs:
            _run_step(row.step, engine)
            made.add(row.step.name)
        elif row.state == "done":
            _drop_exchange(row.step, engine)


def _unmake(last: Ends, engine: Engine, path: Path) -> bool:
    """Delete a damaged file of one of the recipe's steps, and that step's record; False if it is of none of them.

    Held, and looked at again first: another run may have made it anew since.
    """
    for step in walk(last):
        out = engine.folder(step)
        if path.is_relative_to(out):
            with hold(out, engine.progress.say):
                if not _is_whole(out, path):
                    if path != out:
                        path.unlink(missing_ok=True)
                    (out / "step.json").unlink(missing_ok=True)
            return True
    return False


def _is_whole(out: Path, path: Path) -> bool:
    """Whether the step is finished and the file, if it is one that the record lists, has the recorded bytes."""
    try:
        record = read_json(out / "step.json")
        for file in record["files"] if record is not None else ():
            if out / file["path"] == path:
                open_checked(out, FileRecord(**file))
    except CorruptFile:
        return False
    return record is not None


def _run_step(step: Step, engine: Engine) -> None:
    out = engine.folder(step)
    with hold(out, engine.progress.say):
        refresh(engine.root)
        if state_of(engine.root, step)[0] == "done":
            return  # another run finished it while this one waited
        (out / "step.json").unlink(missing_ok=True)
        _sweep(out)  # of a killed run
        _begin(step, engine, out)
        started = time.perf_counter()
        engine.spent = Report()
        report: Report = stage_of(step).run(step.config, out, engine)
        report.seconds = time.perf_counter() - started
        report.task_seconds, report.peak_memory = engine.spent.task_seconds, engine.spent.peak_memory
        _sweep(out)  # of killed workers
        files = _files(out)
        _verify(step, engine, report, files)
        for line in report.notes.get("rebuilt", []):
            engine.progress.say(f"damaged: {line}")
        write_json(out / "step.json", _record(step, report, files))
        engine.progress.say(f"done {step.folder}: {report.line()}")
        if (out / "exchange").exists():
            _remove(out / "exchange")


def _begin(step: Step, engine: Engine, out: Path) -> None:
    """Note what the step is made from. Shards left by an earlier run that were made from something else go."""
    inputs = upstream_outputs(engine.root, step)
    if read_json(out / INPUTS) not in (None, inputs):
        for entry in sorted(out.iterdir(), key=lambda entry: entry.name == INPUTS):  # which says that the others have to go
            if entry.is_dir():
                _remove(entry)
            elif entry.name != ".lock":
                entry.unlink()
    write_json(out / INPUTS, inputs)


def _drop_exchange(step: Step, engine: Engine) -> None:
    """Delete what a run killed right after the step's record has left."""
    out = engine.folder(step)
    if (out / "exchange").exists():
        with contextlib.suppress(StorageError), hold(out, engine.progress.say):  # a root that is only read may keep it
            if read_record(engine.root, step) is not None and (out / "exchange").exists():
                _remove(out / "exchange")


def _sweep(out: Path) -> None:
    """Delete half-written files that nobody will finish; nobody else writes here while the step is held."""
    for leftover in out.rglob(".tmp-*") if is_local(out) else ():
        leftover.unlink(missing_ok=True)


def _remove(folder: Path) -> None:
    if is_local(folder):
        shutil.rmtree(folder)
    else:
        fs, name = file_system(folder)
        fs.rm(name, recursive=True)


def _files(out: Path) -> list[FileRecord]:
    """Every file of the finished step: those its tasks recorded, and artefacts found beside them."""
    known: dict[str, FileRecord] = {}
    for done in sorted((out / "done").glob("*.json")):
        record = read_json(done)
        for file in (record or {"files": []})["files"]:
            known[file["path"]] = FileRecord(**file)
    for path in sorted(out.rglob("*")):
        relative = path.relative_to(out).as_posix()
        top = relative.partition("/")[0]
        if relative in known or top in ("done", "exchange", "step.json") or path.name.startswith(".") or not path.is_file():
            continue
        if top in ("shards", "dropped", "lineage"):
            path.unlink()  # of a task that was killed, and gave fewer shards when it ran again: a repository changed
        else:
            known[relative] = record_file(out, path, 0)
    return [known[name] for name in sorted(known)]


def _verify(step: Step, engine: Engine, report: Report, files: list[FileRecord]) -> None:
    """Every document read by the step is accounted for, in the report and in the rows on disk, under a declared reason."""
    unknown = set(report.dropped) - set(stage_of(step).REASONS)
    if unknown:
        raise ConservationError(f"step {step.name} drops for {', '.join(sorted(unknown))}, not among its REASONS")
    counts = [n for other in upstream(step) if (n := _documents(engine.root, other)) is not None]
    report.check(step.name, sum(counts) if counts else None)
    rows = {kind: sum(f.rows for f in files if f.path.startswith(kind + "/")) for kind in ("shards", "dropped")}
    has_shards = any(f.path.startswith("shards/") for f in files)
    if has_shards and rows["shards"] != report.written:
        raise ConservationError(f"step {step.name} reports {report.written} documents, its shards hold {rows['shards']}")
    if rows["dropped"] != sum(report.dropped.values()):
        raise ConservationError(f"step {step.name} reports {report.dropped} dropped, its files hold {rows['dropped']} rows")


def _documents(root: Path, step: Step) -> int | None:
    """Documents a finished step wrote; None for a step that made an artefact."""
    record = read_record(root, step)
    shards = [f["rows"] for f in record["files"] if f["path"].startswith("shards/")] if record else []
    return sum(shards) if shards else None


def _record(step: Step, report: Report, files: list[FileRecord]) -> dict[str, Any]:
    stage = stage_of(step)
    return {
        "step": step.name,
        "stage": stage.__name__,
        "revision": stage.REVISION,
        "fingerprint": step.fingerprint,
        "config": canonical(step.config, step.name),
        "upstream": {other.name: other.fingerprint for other in upstream(step)},
        "files": [dataclasses.asdict(file) for file in files],
        "output": xxhash.xxh3_128_hexdigest(json.dumps([(f.path, f.size, f.xxh3, f.rows) for f in files])),
        "report": report.as_dict(),
        "versions": {name: importlib.metadata.version(name) for name in ("pyarrow", "numpy", "numba")},
        "host": socket.gethostname(),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
    }
