"""The natural-language piece and the shares of the mix, and the recipe for the network, which can only be planned here."""

from __future__ import annotations

import pytest

from corpus.errors import ConfigError
from corpus.step import Step, walk
from recipes.prose import CODE_TOKENS, natural_language, paper_shares, unique_pages
from stages import index_benchmarks, mix
from tests.toys import source


def made(name: str) -> Step:
    return Step(name, source.Config(seed=len(name)))


def test_the_papers_shares() -> None:
    assert sum(CODE_TOKENS.values()) == 1170
    parts = {name: made(name) for name in CODE_TOKENS}
    sources = paper_shares(parts, made("math"), made("prose"), long_tokens=8192, long_factor=2.0)
    share = {s.name: s.share for s in sources}
    assert sum(share.values()) == pytest.approx(1) and share["math"] == 0.1 and share["prose"] == 0.3
    assert share["github"] == pytest.approx(0.6 * 821 / 1170) and share["web_code"] == pytest.approx(0.6 * 70 / 1170)
    assert all((s.long_tokens, s.long_factor, s.max_epochs) == (8192, 2.0, 4.0) for s in sources)
    few = {s.name: s.share for s in paper_shares({"github": parts["github"]}, made("math"), made("prose"))}
    assert few == {"github": 0.6, "math": 0.1, "prose": 0.3}
    with pytest.raises(ConfigError, match="github_text"):
        paper_shares({"gitlab": made("x")}, made("math"), made("prose"))
    mix.Config(sources=sources, tokenizer=made("tokenizer"))


def test_the_piece_of_natural_language() -> None:
    index = Step("index", index_benchmarks.Config(benchmarks=(index_benchmarks.Benchmark("b", "gone", ("q",)),)))
    pages = unique_pages(made("pages"))
    last = natural_language(pages, (made("math"),), index, ("de",), min_words=10)
    names = [step.name for step in walk(last)]
    assert names == [
        "pages",
        "dedup_urls",
        "dedup_pages",
        "math",
        "exclude_recalled",
        "filter_text",
        "index",
        "decontaminate_prose",
    ]
    rules = next(step.config for step in walk(last) if step.name == "filter_text")
    assert rules.languages == ("de",) and rules.min_words == 10
    assert "exclude_recalled" not in [step.name for step in walk(natural_language(pages, (), index))]


def test_the_recipe_for_the_network_can_be_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORPUS_DATA", "nowhere")
    from recipes.online import recipe

    steps = {step.name: step for step in walk(recipe())}
    assert {"crawl_github", "crawl_commoncrawl", "extract_text", "dedup_urls", "train_recall_code_3", "select_recall_math_3",
            "exclude_recalled", "filter_text", "mix", "encode_tokens"} <= set(steps)  # fmt: skip
    sources = {s.name: s.share for s in steps["mix"].config.sources}
    assert set(sources) == {"github", "web_code", "math", "prose"} and sum(sources.values()) == pytest.approx(1)
