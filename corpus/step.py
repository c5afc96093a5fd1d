"""Step: a name and a stage's frozen Config; its fingerprint names the folder its output lives in.

    fingerprint = xxh3-128 of (stage module, REVISION, every Config field, the fingerprints of upstream Steps)

An upstream Step is an ordinary Config field, so what a step depends on, what is hashed and what `run` receives are one
thing and cannot drift apart. Worker count, machine and root are not in it: the same work elsewhere is the same work.
A value whose content cannot be written down (a function, an open file, an array) is refused, not guessed at.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import math
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any, cast

import xxhash

from corpus.errors import ConfigError, FingerprintError

__all__ = [
    "Ends",
    "Step",
    "canonical",
    "ends",
    "file_seen",
    "override",
    "read_value",
    "rewrite",
    "stage_of",
    "until",
    "upstream",
    "walk",
]

_NAME = re.compile(r"[a-z][a-z0-9_]*$")


@dataclasses.dataclass(frozen=True)
class Step:
    """A named use of a stage. Two Steps of one recipe may share a stage, never a name."""

    name: str
    config: Any

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise ConfigError(f"step name {self.name!r}: lower-case letters, digits and _ expected, e.g. 'dedup_near'")
        if not dataclasses.is_dataclass(self.config) or isinstance(self.config, type):
            raise ConfigError(f"step {self.name}: its config is a {type(self.config).__name__}, a stage's Config expected")
        stage_of(self)

    @functools.cached_property
    def fingerprint(self) -> str:
        """32 hexadecimal digits."""
        text = json.dumps(canonical(self.config, self.name), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        stage = stage_of(self)
        return xxhash.xxh3_128_hexdigest(f"{stage.__name__}\n{stage.REVISION}\n{text}".encode("utf-8", "surrogatepass"))

    @property
    def folder(self) -> str:
        """The folder's name under the root: 12 digits, 48 bits, are plenty to tell the variants of one name apart."""
        return f"{self.name}-{self.fingerprint[:12]}"


Ends = Step | tuple[Step, ...]  # what a run is to bring up to date: the last step of a recipe, or several on the way to it


def stage_of(step: Step) -> types.ModuleType:
    """The module that defines the step's Config, checked to be a stage."""
    module = sys.modules[type(step.config).__module__]
    missing = [name for name in ("REVISION", "REASONS", "Config", "run") if not hasattr(module, name)]
    if missing:
        raise ConfigError(f"step {step.name}: {module.__name__} is not a stage, it lacks {', '.join(missing)}")
    return module


def upstream(step: Step) -> list[Step]:
    """The Steps found in the Config's fields (inside tuples and nested dataclasses too), each once, in field order."""
    found: dict[str, Step] = {}
    for other in _steps_in(step.config):
        found.setdefault(other.folder, other)  # not the fingerprint: two names are two folders, even of one content
    return list(found.values())


def _steps_in(value: Any) -> Iterator[Step]:
    if isinstance(value, Step):
        yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _steps_in(getattr(value, field.name))
    elif isinstance(value, (tuple, frozenset)):
        for item in value:
            yield from _steps_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _steps_in(item)


def ends(last: Ends) -> tuple[Step, ...]:
    """The Steps of an Ends."""
    return last if isinstance(last, tuple) else (last,)


def walk(last: Ends) -> list[Step]:
    """All Steps `last` needs and itself, upstream first. Refuses two different Steps of one name."""
    order: dict[str, Step] = {}

    def visit(step: Step) -> None:
        if step.folder in order:
            return
        for other in upstream(step):
            visit(other)
        order[step.folder] = step

    for end in ends(last):
        visit(end)
    names: dict[str, Step] = {}
    for step in order.values():
        if step.name in names:
            raise ConfigError(f"two different steps are named {step.name!r}; give one of them another name")
        names[step.name] = step
    return list(order.values())


def canonical(value: Any, where: str) -> Any:
    """`value` as JSON types, the same for equal values and different for different ones; `where` is for the message."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise FingerprintError(f"{where} is {value}; a finite number expected")
        return {"float": repr(value)}  # 1.0 and 1 differ in type, so they may differ in effect
    if isinstance(value, Step):
        return {"step": value.name, "fingerprint": value.fingerprint}
    if isinstance(value, PurePath):
        return {"path": value.as_posix()}
    if isinstance(value, (datetime.datetime, datetime.date)):
        return {"date": value.isoformat()}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: canonical(getattr(value, f.name), f"{where}.{f.name}") for f in dataclasses.fields(value)}
        return {"dataclass": type(value).__qualname__, "fields": fields}
    if isinstance(value, tuple):
        return [canonical(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, frozenset):
        return {"set": sorted(json.dumps(canonical(item, where), sort_keys=True) for item in value)}
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise FingerprintError(f"{where}: a dict with keys that are not text cannot be fingerprinted; use str keys")
        return {"dict": {key: canonical(value[key], f"{where}[{key!r}]") for key in sorted(value)}}
    instead: dict[type, str] = {list: "a tuple", set: "a frozenset"}
    hint = instead.get(type(value), "plain values: numbers, text, tuples, dataclasses, Steps")
    raise FingerprintError(f"{where} is a {type(value).__name__}, which has no stable content to name it by; use {hint}")


def file_seen(path: str | os.PathLike[str], sample: int) -> str:
    """What a fingerprint sees of a large file: its name, its size, and a checksum of `sample` bytes at both ends."""
    with open(path, "rb") as file:
        head = file.read(sample)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(len(head), size - sample))
        return f"{os.path.basename(path)} {size} {xxhash.xxh3_64_hexdigest(head + file.read())}"


def until(last: Ends, name: str) -> tuple[Step, ...]:
    """The steps of a recipe that `name` means, less those that others of them need.

    name: a stage's (every step of it, whatever it is called), a step's, or a stage's verb, before its first "_" (crawl).
    """
    steps = walk(last)
    stages = {step.name: stage_of(step).__name__.rpartition(".")[2] for step in steps}
    for means in (lambda s: (s.name, stages[s.name]), lambda s: (stages[s.name].partition("_")[0],)):
        if meant := [step for step in steps if name in means(step)]:
            needed = {other.name for step in meant for other in walk(step) if other is not step}
            return tuple(step for step in meant if step.name not in needed)
    kinds = sorted(set(stages.values()))
    raise ConfigError(f"no step or stage {name!r} in the recipe; steps: {', '.join(stages)}; stages: {', '.join(kinds)}")


def override(last: Step, settings: dict[str, str]) -> Step:
    """`last` with "step.field" = text set, everything downstream rebuilt around it. Text is read by the field's type."""
    steps = {step.name: step for step in walk(last)}
    by_step: dict[str, dict[str, Any]] = {}
    for key, text in settings.items():
        name, _, field = key.partition(".")
        if name not in steps:
            raise ConfigError(f"--set {key}={text}: no step {name!r} in this recipe; there are: {', '.join(steps)}")
        by_step.setdefault(name, {})[field] = _parse(steps[name], field, text)

    def changed(step: Step) -> Step:
        return Step(step.name, dataclasses.replace(step.config, **by_step[step.name])) if step.name in by_step else step

    return rewrite(last, changed)


def rewrite(last: Step, change: Callable[[Step], Step]) -> Step:
    """`last` with change(step) in the place of every step; upstream first, so `change` is given steps that read what is new."""
    done: dict[str, Step] = {}

    def rebuild(value: Any) -> Any:
        if isinstance(value, Step):
            if value.folder not in done:
                config = rebuild(value.config)
                done[value.folder] = change(value if config is value.config else Step(value.name, config))
            return done[value.folder]
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            if not any(True for _ in _steps_in(value)):
                return value
            return dataclasses.replace(
                cast(Any, value), **{f.name: rebuild(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
            )
        if isinstance(value, tuple):
            return tuple(rebuild(item) for item in value)
        if isinstance(value, dict):
            return {key: rebuild(item) for key, item in value.items()}
        return value

    return cast(Step, rebuild(last))


def _parse(step: Step, field: str, text: str) -> Any:
    """The value of `text` for a Config field, by the field's annotated type."""
    kinds = typing.get_type_hints(type(step.config))
    settable = {f.name: kinds[f.name] for f in dataclasses.fields(step.config) if f.init}
    if field not in settable:
        raise ConfigError(f"--set {step.name}.{field}: no such field; there are: {', '.join(settable)}")
    where = f"--set {step.name}.{field}={text}"
    return read_value(settable[field], text, where)


def read_value(kind: Any, text: str, where: str) -> Any:
    """`text` as a value of an annotated type; ConfigError, which begins with `where`, says what was expected."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if text.lower() in ("none", "null") and type(None) in arguments:
            return None
        errors = []
        for option in arguments:
            if option is not type(None):
                try:
                    return read_value(option, text, where)
                except ConfigError as error:
                    errors.append(str(error))
        raise ConfigError(errors[0])
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(read_value(arguments[0], part.strip(), where) for part in text.split(",") if part.strip())
    if origin is typing.Literal:
        if text in [str(a) for a in arguments]:
            return next(a for a in arguments if str(a) == text)
        raise ConfigError(f"{where}: one of {', '.join(map(str, arguments))} expected")
    if kind is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise ConfigError(f"{where}: true or false expected")
    if kind in (int, float):
        try:
            return kind(text.replace("_", ""))
        except ValueError:
            raise ConfigError(f"{where}: {'a whole number' if kind is int else 'a number'} expected") from None
    if kind is str:
        return text
    if isinstance(kind, type) and issubclass(kind, datetime.date):
        try:
            return kind.fromisoformat(text)
        except ValueError:
            raise ConfigError(f"{where}: a date such as 2023-11-01 expected") from None
    named = getattr(kind, "__name__", kind)
    raise ConfigError(f"{where}: this field holds a {named}; set it in the recipe, not on the command line")
