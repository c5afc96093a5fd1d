"""The toy stages as a recipe, for tests that start real processes."""

from __future__ import annotations

from corpus.step import Step
from tests.toys import merge, sift, source


def recipe(pause_s: float = 0.0) -> Step:
    made = Step("source", source.Config(pause_s=pause_s))
    kept = Step("sift", sift.Config(files=made, pause_s=pause_s))
    return Step("merge", merge.Config(files=kept))


def slow() -> Step:
    return recipe(0.15)
