"""The code track: from crawled repositories to samples ready for the mix. Pieces of recipes."""

from __future__ import annotations

from typing import Any, Literal

from corpus.step import Step
from recipes.web import recall
from stages import (
    concatenate_repos,
    decontaminate,
    dedup_exact,
    dedup_near,
    detect_language,
    exclude,
    filter_code,
    select_seed,
)

__all__ = ["clean_files", "code_related_text", "recalled_files", "samples"]

# Code-related text of a repository, as DeepSeek-Coder-V2 2 counts it apart; issues are not in a clone.
MARKUP = ("AsciiDoc", "Markdown", "MediaWiki", "Org", "POD", "RDoc", "RMarkdown", "Textile", "reStructuredText")


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


def recalled_files(clean: Step, tokenizer: Step | str, rounds: int = 2, **settings: Any) -> tuple[Step, Step]:
    """(recalled files, the others): two rounds over repositories, from files that explain themselves (DeepSeek-Coder-V2 2).

    The paper counts both among its unique tokens (94 B and 821 B add up to the whole), so they are parted here.
    settings: of recipes.web.recall.
    """
    seed = Step("select_seed_github", select_seed.Config(files=clean, rule="documented"))
    good = recall("github", clean, seed, tokenizer, rounds, group_by="repository", **settings)
    return good, Step("exclude_github", exclude.Config(files=clean, taken=(good,)))


def code_related_text(clean: Step) -> tuple[Step, Step]:
    """(documentation in mark-up, the other files)."""
    text = Step("select_text", detect_language.Config(files=clean, languages=MARKUP))
    return text, Step("exclude_text", exclude.Config(files=clean, taken=(text,)))
