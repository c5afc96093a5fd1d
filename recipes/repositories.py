"""The code track: from crawled repositories to samples ready for the mix. A piece of recipes, and a recipe to vary."""

from __future__ import annotations

from typing import Literal

from corpus.step import Step
from stages import (
    concatenate_repos,
    decontaminate,
    dedup_exact,
    dedup_near,
    detect_language,
    filter_code,
)

__all__ = ["clean_files", "samples"]


def clean_files(crawl: Step, index: Step, level: Literal["file", "repository"] = "file") -> Step:
    """crawl → language → file rules → exact and near duplicates at `level` → decontamination (by file: DeepSeek-Coder 2.4)."""
    languages = Step("detect_language", detect_language.Config(files=crawl))
    rules = Step("filter_code", filter_code.Config(files=languages))
    exact = Step("dedup_exact", dedup_exact.Config(files=rules, level=level))
    near = Step("dedup_near", dedup_near.Config(files=exact, level=level))
    return Step("decontaminate", decontaminate.Config(files=near, index=index))


def samples(clean: Step, order: Literal["random", "dependency"] = "random") -> Step:
    """One sample per repository, files in random order (v2) or dependencies first (v1)."""
    return Step("concatenate_repos", concatenate_repos.Config(files=clean, order=order))
