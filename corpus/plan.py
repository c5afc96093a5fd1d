"""The plan: which steps of a recipe have to run, and why.

    state      folder has                                what happens
    done       a record, and files that match            nothing
    damaged    a record, files that differ               the damaged files are rebuilt, the rest is kept
    outdated   a record, but an upstream step was made   all of it is made again
               again since, and came out different
    missing    no record                                 it runs, if something that has to run needs it, or if it was begun

A missing step whose every user is done is left alone: intermediate folders may be deleted to save space. One that was begun
is finished all the same, as it may be a repair that was killed. A step that is made again after damage gives the same bytes,
and nothing follows from it, unless what it reads has changed meanwhile: a repository that was rewritten, an edited folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

from corpus.errors import CorruptFile
from corpus.shards import FileRecord, check_file, read_json
from corpus.step import Ends, Step, canonical, ends, stage_of, upstream, walk

__all__ = ["INPUTS", "Planned", "plan", "read_record", "state_of", "upstream_outputs"]

INPUTS = ".inputs"  # in a step's folder: upstream_outputs when it was begun


@dataclasses.dataclass(frozen=True)
class Planned:
    """A step, what state it is in, whether it will run, and why."""

    step: Step
    state: str
    runs: bool
    why: str


def read_record(root: Path, step: Step) -> dict[str, Any] | None:
    """The step's record; None when it is not finished, CorruptFile when the record is damaged."""
    return read_json(root / step.folder / "step.json")


def plan(last: Ends, root: Path) -> list[Planned]:
    """Every step of the recipe, upstream first, with what would happen to it and why."""
    steps = walk(last)
    states = {step.name: state_of(root, step) for step in steps}
    needed = {step.name for step in ends(last)}
    for step in reversed(steps):
        state = states[step.name][0]
        if state == "missing" and _begun(root / step.folder):
            needed.add(step.name)
        if state in ("damaged", "outdated") or (state == "missing" and step.name in needed):
            needed.update(other.name for other in upstream(step))
    rows = []
    rebuilt: set[str] = set()
    for step in steps:
        state, why = states[step.name]
        runs = state in ("damaged", "outdated") or (state == "missing" and step.name in needed)
        if state == "missing":
            why = _why(root, step, rebuilt) if runs else "deleted; nothing that has to run needs it"
        if runs:
            rebuilt.add(step.name)
        rows.append(Planned(step, state, runs, why))
    return rows


def state_of(root: Path, step: Step) -> tuple[str, str]:
    """The step's state, and what there is to say about it."""
    folder = root / step.folder
    try:
        record = read_record(root, step)
        if record is None:
            return "missing", ""
        for file in record["files"]:
            check_file(folder, FileRecord(**file))
        seen = read_json(folder / INPUTS) or {}
    except CorruptFile as error:
        return "damaged", str(error)
    changed = [name for name, output in upstream_outputs(root, step).items() if seen.get(name, output) != output]
    if changed:
        return "outdated", f"{', '.join(changed)} was made again since, with other documents"
    return "done", "finished " + record["finished"]


def _begun(folder: Path) -> bool:
    return folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir())


def upstream_outputs(root: Path, step: Step) -> dict[str, str]:
    """What each finished upstream step holds, as one checksum over its files."""
    outputs = {}
    for other in upstream(step):
        with contextlib.suppress(CorruptFile):  # it is judged on its own turn
            record = read_record(root, other)
            if record is not None and "output" in record:
                outputs[other.name] = record["output"]
    return outputs


def _why(root: Path, step: Step, rebuilt: set[str]) -> str:
    """Why a missing step has to run: interrupted, a changed field, a new upstream, or never run."""
    shards = len(list((root / step.folder / "done").glob("*.json"))) if (root / step.folder).exists() else 0
    if shards or _begun(root / step.folder):
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
