"""Recall over crawled pages, or over repositories: round after round, what a growing seed has in common is collected."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeVar

from corpus.step import Step
from stages import decontaminate, exclude, grow_seed, score_recall, select_recall, select_seed, train_recall

__all__ = ["GROWTH", "Growth", "Topics", "recall", "topic_pages"]

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Growth:
    """What changes from round to round; the last value holds for all later rounds.

    share: of the pool's tokens to collect. per_group: negatives of one domain. Pages of a topic cluster in sites, so few of
    each keep those of the topic few among the negatives while its sites are still being found; train_recall doubts most of
    the rest. The third round leaves out the sites found, and learns from many pages of the others what is near the topic.
    """

    share: tuple[float, ...] = (0.15, 0.2)
    per_group: tuple[int, ...] = (3, 3, 30)


# Sites of mathematics are found in the first round, mostly, and then many negatives help the second; sites with code are more
# and more various, and a second round with many takes some of them for negatives (bench/RECALL.md).
GROWTH = {"math": Growth(per_group=(3, 30))}


def recall(
    domain: str,
    pool: Step,
    seed: Step,
    tokenizer: Step | str,
    rounds: int = 3,
    *,
    tokens: tuple[int, ...] = (),
    probability: float | None = None,
    precision: float | None = None,
    growth: Growth | None = None,
    group_by: Literal["domain", "repository"] = "domain",
    annotations: tuple[str | None, ...] = (),
    **training: Any,
) -> Step:
    """The pages of the last round (a select_recall step); steps are named train_recall_math_1 and so on.

    domain: "code", "math" or "github", or any name of yours. tokens: to collect, per round (the paper's cut). Where it is
    empty, pages of at least `probability`, or as deep as `precision` was held, in every round (select_recall). Where those
    are not given either, growth.share, whether the pool has so much of the topic or not. growth: where it is not given, the
    domain's of GROWTH. annotations: an edited domains.yaml per round, None where the choice is automatic. training: fields
    of train_recall.Config, the same in every round.
    """
    growth = growth or GROWTH.get(domain, Growth())
    seeds: tuple[Step, ...] = (seed,)
    previous: Step | None = None
    for r in range(1, rounds + 1):
        config = train_recall.Config(
            pool=pool,
            seed=seeds,
            tokenizer=tokenizer,
            previous=previous,
            group_by=group_by,
            negatives_per_group=_of(growth.per_group, r),
            **training,
        )
        model = Step(f"train_recall_{domain}_{r}", config)
        scores = Step(f"score_recall_{domain}_{r}", score_recall.Config(files=pool, model=model))
        given = {"tokens": _of(tokens, r) if tokens else None, "probability": probability, "precision": precision}
        limits = {name: value for name, value in given.items() if value is not None} or {"share": _of(growth.share, r)}
        cut = select_recall.Config(files=pool, scores=scores, previous=previous, **limits)
        previous = Step(f"select_recall_{domain}_{r}", cut)
        if r < rounds:
            table = annotations[r - 1] if r <= len(annotations) else None
            grow = grow_seed.Config(files=pool, scores=scores, selected=previous, annotations=table)
            seeds = (*seeds, Step(f"grow_seed_{domain}_{r}", grow))
    assert previous is not None
    return previous


def _of(values: tuple[_T, ...], r: int) -> _T:
    return values[min(r, len(values)) - 1]


class Topics(NamedTuple):
    """Pages on code and on mathematics, none on both, free of benchmarks; taken: the same before decontamination."""

    code: Step
    math: Step
    taken: tuple[Step, Step]


def topic_pages(
    pages: Step,
    seeds: Mapping[str, tuple[str, ...]],
    tokenizer: Step | str,
    index: Step,
    rounds: int = 3,
    tokens: Mapping[str, tuple[int, ...]] | None = None,
    **settings: Any,
) -> Topics:
    """Both recalls over one pool of pages, then decontamination.

    seeds: URL prefixes of "code" and of "math". tokens: of both, to collect by round. settings: of recall.
    """
    found = {}
    for topic in ("code", "math"):
        seed = Step(f"select_seed_{topic}", select_seed.Config(files=pages, prefixes=seeds[topic]))
        budget = (tokens or {}).get(topic, ())
        found[topic] = recall(topic, pages, seed, tokenizer, rounds, tokens=budget, **settings)
    # A page on both is mathematics: there is less of it.
    code = Step("exclude_math", exclude.Config(files=found["code"], taken=(found["math"],)))
    clean = {
        topic: Step(f"decontaminate_{topic}", decontaminate.Config(files=step, index=index))
        for topic, step in (("code", code), ("math", found["math"]))
    }
    return Topics(clean["code"], clean["math"], (code, found["math"]))
