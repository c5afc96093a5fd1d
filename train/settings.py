"""What --set changes: fields of a run from text, type-checked."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from corpus.errors import ConfigError
from corpus.step import Step, override, walk
from corpus.step import read_value as read_field  # the type-checked reader of --set texts
from train.config import Layout, ModelConfig, Source, TrainConfig

__all__ = ["apply_settings"]


def apply_settings(config: TrainConfig, settings: dict[str, str]) -> TrainConfig:
    """`config` with FIELD, model.FIELD, layout.FIELD, data.SOURCE.weight or STEP.FIELD set from text, type-checked.

    STEP is one behind `data`: in every source that has it.
    """
    own: dict[str, Any] = {}
    model: dict[str, Any] = {}
    layout: dict[str, Any] = {}
    weights: dict[str, Any] = {}
    corpus: dict[str, str] = {}
    for key, text in settings.items():
        prefix, _, field = key.rpartition(".")
        if prefix == "":
            own[field] = _parse(TrainConfig, key, field, text)
        elif prefix == "model":
            model[field] = _parse(ModelConfig, key, field, text)
        elif prefix == "layout":
            layout[field] = _parse(Layout, key, field, text)
        elif prefix.startswith("data."):
            weights[prefix.removeprefix("data.")] = _parse(Source, key, field, text)
        else:
            corpus[key] = text
    if weights:
        own["data"] = _reweighted(own.get("data", config.data), weights)
    if corpus:
        own["data"] = _overridden(own.get("data", config.data), corpus)
    if model:
        own["model"] = dataclasses.replace(config.model, **model)
    if layout:
        own["layout"] = dataclasses.replace(config.layout, **layout)
    return dataclasses.replace(config, **own)


def _reweighted(data: Step | str | tuple[Source, ...], weights: dict[str, float]) -> tuple[Source, ...]:
    sources = data if isinstance(data, tuple) else ()
    if missing := sorted(set(weights) - {source.name for source in sources}):
        have = ", ".join(source.name for source in sources) or "none, data is not a blend"
        raise ConfigError(f"--set data.{missing[0]}.weight: no such source; there are: {have}")
    return tuple(dataclasses.replace(s, weight=weights.get(s.name, s.weight)) for s in sources)


def _overridden(data: Step | str | tuple[Source, ...], settings: dict[str, str]) -> Any:
    """`data` with settings of the form STEP.FIELD in all its steps of that name."""
    if isinstance(data, Step):
        return override(data, settings)
    sources = data if isinstance(data, tuple) else ()
    known = {s.name: {step.name for step in walk(s.data)} for s in sources if isinstance(s.data, Step)}
    if unknown := [key for key in settings if not any(key.partition(".")[0] in steps for steps in known.values())]:
        what = "no source has a step of that name" if sources else "data is a folder here, not a step, so no step can be set"
        raise ConfigError(f"--set {unknown[0]}: {what}")
    return tuple(
        dataclasses.replace(s, data=override(s.data, theirs)) if theirs and isinstance(s.data, Step) else s
        for s in sources
        for theirs in [{key: text for key, text in settings.items() if key.partition(".")[0] in known.get(s.name, ())}]
    )


_NOT_SET = {TrainConfig: ("model", "layout"), Source: ("name", "data")}  # in the recipe only


def _parse(kind: type, key: str, field: str, text: str) -> Any:
    types = typing.get_type_hints(kind)
    known = [name for name in types if name not in _NOT_SET.get(kind, ())]
    if field not in known:
        raise ConfigError(f"--set {key}: no such field; there are: {', '.join(known)}")
    return read_field(types[field], text, f"--set {key}={text}")
