"""The arms of an ablation: a recipe's corpus, and the same without one of its stages. Run by recipes/ablation.py.

Graphs are rewritten, not written again, so whatever the recipe is, an arm is that and one difference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

from corpus.errors import ConfigError
from corpus.step import Step, rewrite, stage_of, walk
from recipes import draw_random, hold_out
from stages import decontaminate, dedup_near
from train.config import TrainConfig

__all__ = ["ARMS", "ORIGINS", "Arm", "arms", "held_documents"]

ORIGINS = ("crawl_github", "extract_text")  # steps whose documents are parted; those of them that a recipe has
ARMS = ("everything", "no_filters", "no_near_dedup", "no_recall", "no_decontamination", "other_seed")


class Arm(NamedTuple):
    config: TrainConfig  # its data: the arm's encode_tokens
    contamination: Step  # benchmarks looked for in what is trained on


def _stage(step: Step) -> str:
    return stage_of(step).__name__.rpartition(".")[2]


def arms(base: TrainConfig, origins: Sequence[str] = ORIGINS, share: float = 0.01) -> dict[str, Arm]:
    """Every arm by name. ConfigError where the recipe's data is not a step, or has none of `origins`.

    share: of the families of documents, to be held out. An arm without the stage it is to do without is left out.
    """
    if not isinstance(base.data, Step):
        raise ConfigError("an ablation derives its arms from a corpus: a recipe whose data is a step expected")
    full = rewrite(base.data, lambda step: _parted(step, "rest", share) if step.name in origins else step)
    if full == base.data:
        raise ConfigError(
            f"none of the steps {', '.join(origins)} is in the recipe; its documents cannot be parted before them"
        )
    families = tuple(f"families_{name}" for name in origins)
    graphs = {
        "everything": full,
        "no_filters": _without(full, "no_filters", _bypass("filter_code", "filter_text")),
        "no_near_dedup": _without(full, "no_near_dedup", _bypass("dedup_near", but=families)),
        "no_recall": _without(full, "no_recall", _at_random(full)),
        "no_decontamination": _without(full, "no_decontamination", _bypass("decontaminate")),
    }
    found = {name: graph for name, graph in graphs.items() if name == "everything" or graph != full}
    made = {name: _arm(base, name, graph, full) for name, graph in found.items()}
    again = dataclasses.replace(made["everything"].config, name=f"{base.name}_other_seed", seed=base.seed + 1)
    return made | {"other_seed": Arm(again, made["everything"].contamination)}


def _parted(origin: Step, keep: str, share: float) -> Step:
    families = Step(f"families_{origin.name}", dedup_near.Config(files=origin))
    name = f"held_{origin.name}" if keep == "held" else f"part_{origin.name}"
    return Step(name, hold_out.Config(files=origin, families=families, keep=keep, share=share))  # type: ignore[arg-type]


def _without(full: Step, arm: str, change: Callable[[Step], Step]) -> Step:
    """`full` with `change` applied, and with its tokenizer. What comes out different is named for the arm: the steps that made
    the tokenizer are still there under their names."""
    before = {step.name: step for step in walk(full)}

    def changed(step: Step) -> Step:
        if _stage(step) == "train_tokenizer":
            return before[step.name]
        new = change(step)
        return Step(f"{new.name}_{arm}", new.config) if new.name in before and new != before[new.name] else new

    return rewrite(full, changed)


def _bypass(*stages: str, but: tuple[str, ...] = ()) -> Callable[[Step], Step]:
    """Steps of these stages replaced by what they read."""
    return lambda step: step.config.files if _stage(step) in stages and step.name not in but else step


def _at_random(full: Step) -> Callable[[Step], Step]:
    """The last round of every recall replaced by a draw of as much: of the same share (then no round is of use to anyone) or
    of as many bytes as it collected."""
    originals = {step.name: step for step in walk(full)}
    rounds = {step.name for step in walk(full) if _stage(step) == "select_recall"}
    used = {
        other.name
        for step in walk(full)
        for other in (getattr(step.config, field, None) for field in ("previous", "selected"))
        if isinstance(other, Step)
    }

    def change(step: Step) -> Step:
        if step.name not in rounds - used:
            return step
        share = step.config.share
        like = originals[step.name] if share is None else None
        return Step(step.name, draw_random.Config(files=step.config.files, share=share, like=like, salt=step.name))

    return change


def _arm(base: TrainConfig, name: str, graph: Step, full: Step) -> Arm:
    index = next((step.config.index for step in walk(full) if _stage(step) == "decontaminate"), None)
    if index is None:
        raise ConfigError("the recipe decontaminates nothing, so there are no benchmarks to look for in the arms")
    config = dataclasses.replace(base, name=f"{base.name}_{name}", data=graph)
    return Arm(config, Step("contamination", decontaminate.Config(files=graph.config.files, index=index)))


def held_documents(base: TrainConfig, origins: Sequence[str] = ORIGINS, share: float = 0.01) -> tuple[Step, ...]:
    """A step for each origin: its documents held out, after the recipe's own filters and decontamination."""
    assert isinstance(base.data, Step)
    steps = walk(base.data)
    index = next(step.config.index for step in steps if _stage(step) == "decontaminate")
    cleaned = []
    for origin in (step for step in steps if step.name in origins):
        last = _parted(origin, "held", share)
        for step in _rules(steps, origin):
            last = Step(f"{last.name}_{step.name}", dataclasses.replace(step.config, files=last))
        cleaned.append(Step(f"clean_{origin.name}", decontaminate.Config(files=last, index=index)))
    return tuple(cleaned)


def _rules(steps: Sequence[Step], origin: Step) -> list[Step]:
    """The detection of languages and the filter that documents of `origin` pass, in order: along `files`, from the first filter
    that leads back to it."""
    for last in steps:
        chain = []
        step: Step | None = last if _stage(last) in ("filter_code", "filter_text") else None
        while step is not None and step.name != origin.name:
            chain.append(step)
            step = getattr(step.config, "files", None)
        if step is not None:
            return [s for s in reversed(chain) if _stage(s) in ("detect_language", "filter_code", "filter_text")]
    return []
