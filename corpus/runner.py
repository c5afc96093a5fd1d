"""The runner: which steps of a recipe have to run and why; running them; the record each leaves behind.

A step is done when its folder holds step.json and every file that it lists is as it says. The record is written last, so a
run killed at any moment leaves a folder that is simply not done, with its finished shards in it to continue from.

    state      folder has                      what happens
    done       a record, and files that match  nothing
    damaged    a record, files that differ     the damaged files are rebuilt, the rest is kept
    missing    no record                       it runs, if it or something that needs it has to

A missing step whose every user is done is left alone: intermediate folders may be deleted to save space.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from corpus.engine import Engine
from corpus.errors import ConservationError, CorruptFile, RootBusy
from corpus.report import Report
from corpus.shards import FileRecord, as_path, check_file, is_local, read_json, record_file, write_json
from corpus.step import Step, canonical, stage_of, upstream, walk

__all__ = ["Planned", "plan", "read_record", "run"]

REPAIRS = 3  # of one file in one run; a file that keeps coming out wrong is failing hardware, not bad luck


@dataclasses.dataclass(frozen=True)
class Planned:
    """A step, what state it is in (done, damaged, missing), whether it will run, and why."""

    step: Step
    state: str
    runs: bool
    why: str


def read_record(root: Path, step: Step) -> dict[str, Any] | None:
    """The step's record; None when it is not finished, CorruptFile when the record is damaged."""
    return read_json(root / step.folder / "step.json")


def plan(last: Step, root: Path) -> list[Planned]:
    """Every step of the recipe, upstream first, with what would happen to it and why."""
    steps = walk(last)
    states = {step.name: _state(root, step) for step in steps}
    needed = {last.name}
    for step in reversed(steps):
        state = states[step.name][0]
        if state == "damaged" or (state == "missing" and step.name in needed):
            needed.update(other.name for other in upstream(step))
    rows = []
    rebuilt: set[str] = set()
    for step in steps:
        state, why = states[step.name]
        runs = state == "damaged" or (state == "missing" and step.name in needed)
        if state == "missing":
            why = _why(root, step, rebuilt) if runs else "deleted; nothing that has to run needs it"
        if runs:
            rebuilt.add(step.name)
        rows.append(Planned(step, state, runs, why))
    return rows


def _state(root: Path, step: Step) -> tuple[str, str]:
    folder = root / step.folder
    try:
        record = read_record(root, step)
        if record is None:
            return "missing", ""
        for file in record["files"]:
            check_file(folder, FileRecord(**file))
    except CorruptFile as error:
        return "damaged", str(error)
    return "done", "finished " + record["finished"]


def _why(root: Path, step: Step, rebuilt: set[str]) -> str:
    """Why a missing step has to run: interrupted, a changed field, a new upstream, or never run."""
    shards = len(list((root / step.folder / "done").glob("*.json"))) if (root / step.folder).exists() else 0
    if shards:
        return f"interrupted: {shards} shards are done and kept"
    earlier = _latest_variant(root, step)
    if earlier is None:
        return "never run"
    now = {"revision": stage_of(step).REVISION, **canonical(step.config, step.name)["fields"]}
    before = {"revision": earlier["revision"], **earlier["config"]["fields"]}
    changes = []
    for field in sorted(set(now) | set(before)):
        old, new = before.get(field), now.get(field)
        if old == new:
            continue
        if _names_only(old) != _names_only(new):
            changes.append(f"changed {field}: {_short(old)} → {_short(new)}")
    above = [other.name for other in upstream(step) if other.name in rebuilt]
    if above:
        changes.append("new upstream " + ", ".join(above))
    return "; ".join(changes) or "its folder was deleted"


def _names_only(value: Any) -> Any:
    """A canonical value with upstream steps reduced to their names, so that only the step's own settings are compared."""
    if isinstance(value, dict):
        kept = {"step"} if "step" in value else set(value)
        return {key: _names_only(item) for key, item in value.items() if key in kept}
    return [_names_only(item) for item in value] if isinstance(value, list) else value


def _short(value: Any) -> str:
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


def _latest_variant(root: Path, step: Step) -> dict[str, Any] | None:
    records = []
    for path in root.glob(f"{step.name}-*/step.json") if root.exists() else ():
        with contextlib.suppress(CorruptFile):  # only looked at for an explanation; it is judged on its own turn
            record = read_json(path)
            if record is not None and record["step"] == step.name:
                records.append(record)
    return max(records, key=lambda record: record["finished"], default=None)


def run(last: Step, engine: Engine, announce: Callable[[Planned], None] = lambda planned: None) -> dict[str, Report]:
    """Bring `last` and all it needs up to date; the reports of all steps that have one, upstream first.

    Every step that has to run is checked first (a stage may define `check(config)`), so that a recipe that cannot work fails
    before anything is made. A damaged file met on the way is named, deleted and made again.
    """
    repairs: dict[str, int] = {}
    while True:
        try:
            _run_all(last, engine, announce)
            break
        except CorruptFile as error:
            path = str(error.details.get("path", ""))
            repairs[path] = repairs.get(path, 0) + 1
            if repairs[path] > REPAIRS or not _unmake(engine.root, last, as_path(path)):
                raise
            engine.progress.say(f"damaged: {error}")
    records = {step.name: read_record(engine.root, step) for step in walk(last)}
    return {name: Report.from_dict(record["report"]) for name, record in records.items() if record is not None}


def _run_all(last: Step, engine: Engine, announce: Callable[[Planned], None]) -> None:
    rows = plan(last, engine.root)
    for row in rows:
        check = getattr(stage_of(row.step), "check", None)
        if row.runs and check is not None:
            check(row.step.config)
    for row in rows:
        announce(row)
        if row.state == "damaged":
            engine.progress.say(f"damaged: {row.why}")
            (engine.folder(row.step) / "step.json").unlink(missing_ok=True)
        if row.runs:
            _run_step(row.step, engine)


def _unmake(root: Path, last: Step, path: Path) -> bool:
    """Delete a damaged file of one of the recipe's steps, and that step's record; False if it is of none of them."""
    for step in walk(last):
        folder = root / step.folder
        if path.is_relative_to(folder):
            path.unlink(missing_ok=True)
            (folder / "step.json").unlink(missing_ok=True)
            return True
    return False


def _run_step(step: Step, engine: Engine) -> None:
    out = engine.folder(step)
    with _hold(out, engine):
        if read_record(engine.root, step) is not None:
            return  # another run finished it while this one waited
        _sweep(out)  # of a killed run
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


def _sweep(out: Path) -> None:
    """Delete half-written files that nobody will finish; nobody else writes here while the step is held."""
    for leftover in out.rglob(".tmp-*") if is_local(out) else ():
        leftover.unlink(missing_ok=True)


def _remove(folder: Path) -> None:
    if is_local(folder):
        shutil.rmtree(folder)
    else:
        folder.fs.rm(folder.path, recursive=True)  # type: ignore[attr-defined]


def _files(out: Path) -> list[FileRecord]:
    """Every file of the finished step: those its tasks recorded, and artefacts found beside them."""
    known: dict[str, FileRecord] = {}
    for done in sorted((out / "done").glob("*.json")):
        record = read_json(done)
        for file in (record or {"files": []})["files"]:
            known[file["path"]] = FileRecord(**file)
    for path in sorted(out.rglob("*")):
        relative = path.relative_to(out).as_posix()
        ours = relative.split("/")[0] in ("done", "exchange", "step.json") or path.name.startswith(".")
        if path.is_file() and relative not in known and not ours:
            known[relative] = record_file(out, path, 0)
    return [known[name] for name in sorted(known)]


def _verify(step: Step, engine: Engine, report: Report, files: list[FileRecord]) -> None:
    """Every document read by the step is accounted for, in the report and in the rows on disk, under a declared reason."""
    unknown = set(report.dropped) - set(stage_of(step).REASONS)
    if unknown:
        raise ConservationError(f"step {step.name} drops for {', '.join(sorted(unknown))}, not among its REASONS")
    expected: int | None = None
    if not report.used:
        counts = [_documents(engine.root, other) for other in upstream(step)]
        expected = sum(n for n in counts if n is not None) if any(n is not None for n in counts) else None
    report.check(step.name, expected)
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
        "report": report.as_dict(),
        "versions": {name: importlib.metadata.version(name) for name in ("pyarrow", "numpy", "numba")},
        "host": socket.gethostname(),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
    }


@contextlib.contextmanager
def _hold(out: Path, engine: Engine) -> Iterator[None]:
    """Hold the step's folder against other runs on this file system; wait for one that has it.

    A lock of the kernel's, so it goes with its holder however that ends. Object stores have none: there two runs do the
    same work and publish the same bytes.
    """
    if not is_local(out):
        yield
        return
    import fcntl

    from corpus.errors import storage_error

    try:
        out.mkdir(parents=True, exist_ok=True)
        handle = open(out / ".lock", "a+")  # noqa: SIM115 - held for the whole step
    except OSError as error:
        raise storage_error(error, out) or error from error
    with handle:
        waited = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waited:
                    handle.seek(0)
                    engine.progress.say(f"waiting: {out.name} is being made by {handle.read().strip() or 'another run'}")
                waited = True
                time.sleep(0.2)
            except OSError as error:
                raise RootBusy(f"{out}: this file system has no locks ({error}); give a --root on another") from error
        handle.seek(0)
        handle.truncate()
        handle.write(f"process {os.getpid()} on {socket.gethostname()}")
        handle.flush()
        yield
