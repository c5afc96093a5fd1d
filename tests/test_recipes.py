"""Recipes: the resolved graphs, as reviewed text (tests/golden), and what they refuse before anything runs.

After a deliberate change: python -m tests.test_recipes writes the golden files again; read the difference.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from corpus.engine import LocalEngine
from corpus.errors import CorpusError
from corpus.runner import run
from corpus.step import Step, canonical, override, stage_of, walk

GOLDEN = Path(__file__).parent / "golden"


def render(last: Step) -> str:
    """A graph as text: a step per paragraph, a field per line, upstream steps by name."""

    def plain(value: object) -> object:
        if isinstance(value, dict) and "step" in value:
            return f"<{value['step']}>"
        if isinstance(value, dict) and set(value) == {"float"}:
            return float(str(value["float"]))
        if isinstance(value, dict) and "dataclass" in value:
            return {key: plain(item) for key, item in value["fields"].items()}
        return [plain(item) for item in value] if isinstance(value, list) else value

    paragraphs = []
    for step in walk(last):
        fields = canonical(step.config, step.name)["fields"]
        lines = [f"{name} = {json.dumps(plain(value), ensure_ascii=False)}" for name, value in fields.items()]
        paragraphs.append(
            "\n    ".join([f"{step.name}  ({stage_of(step).__name__} revision {stage_of(step).REVISION})", *lines])
        )
    return "\n\n".join(paragraphs) + "\n"


def graph() -> str:
    from recipes.deepseek_coder_v2 import recipe

    return render(recipe())


def test_the_paper_recipe_is_as_reviewed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORPUS_DATA", "nowhere")
    assert graph() == (GOLDEN / "deepseek_coder_v2.txt").read_text("utf-8")


def test_a_missing_listing_or_benchmark_fails_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recipes.deepseek_coder_v2 import recipe

    monkeypatch.setenv("CORPUS_DATA", "nowhere")
    with pytest.raises(CorpusError, match=r"repositories\.txt"):
        run(recipe(), LocalEngine(tmp_path))
    listing = tmp_path / "list.txt"
    listing.write_text("python/cpython\n")
    with pytest.raises(CorpusError, match="humaneval"):
        run(override(recipe(), {"crawl_github.listing": str(listing)}), LocalEngine(tmp_path / "root"))
    assert not (tmp_path / "root").exists()


def test_the_sample_is_made_of_what_is_installed() -> None:
    from recipes.sample import recipe

    steps = {step.name: step for step in walk(recipe())}
    names = {repository.name for repository in steps["crawl_github"].config.repositories}
    assert {"crawl-to-tokens", "python-stdlib", "numpy", "pyarrow", "ray"} <= names
    assert recipe().folder == recipe().folder
    changed = {s.name for s in walk(override(recipe(), {"filter_code.max_line": "500"}))
               if s.fingerprint != steps[s.name].fingerprint}  # fmt: skip
    # The pages themselves, and which of them are seeds, have nothing to do with file rules; the tokenizer has.
    pages = {"sample_pages", "crawl_commoncrawl", "extract_text", "dedup_urls", "dedup_pages"}
    same = {"crawl_github", "detect_language", "index_benchmarks", "select_seed_code", "select_seed_math"} | pages
    assert changed == set(steps) - same and "filter_code" in changed and "train_recall_math_1" in changed


def test_the_network_recipe_asks_for_what_its_seeds_need() -> None:
    from recipes.online import SEEDS, recipe

    steps = {step.name: step for step in walk(recipe())}
    urls = steps["crawl_commoncrawl"].config.urls
    for topic, prefixes in SEEDS.items():
        assert steps[f"select_seed_{topic}"].config.prefixes == prefixes
        assert {f"{prefix}/*" for prefix in prefixes} <= set(urls)


if __name__ == "__main__":
    os.environ["CORPUS_DATA"] = "nowhere"
    (GOLDEN / "deepseek_coder_v2.txt").write_text(graph(), "utf-8")
