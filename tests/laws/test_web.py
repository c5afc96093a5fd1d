"""The whole web track on small real pages: any engine, the same bytes; explain follows a page through every round."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from corpus.engine import LocalEngine
from corpus.engine_ray import RayEngine
from corpus.explain import explain
from corpus.recall import read_record
from corpus.runner import run
from corpus.shards import as_path, read_json
from corpus.step import Step, walk
from recipes import sample_pages
from recipes.prose import natural_language, paper_shares, unique_pages
from recipes.sources import installed_package, planted_benchmark
from recipes.web import topic_pages
from stages import crawl_commoncrawl, encode_tokens, extract_text, index_benchmarks, mix, train_tokenizer
from tests.laws.test_pipeline import outputs

pytestmark = pytest.mark.timeout(900)  # on a new machine, every kernel of the track is compiled first

SOURCES = ("huggingface_hub", "jinja2", "mpmath", "pip", "requests", "rich")
SEEDS = {"code": ("ask.programming.example/requests",), "math": ("mpmath.example/mpmath/calculus",)}
FAST = {"setting": "fixed", "dim": 8, "rate": 0.5, "epochs": 10, "buckets": 20_000}


def build() -> Step:
    """Local archives to tokens; 60 % code, 10 % math, 30 % natural language."""
    found = [package for name in SOURCES if (package := installed_package(name)) is not None]
    index = Step("index_benchmarks", index_benchmarks.Config(benchmarks=(planted_benchmark(),)))
    archives = Step("sample_pages", sample_pages.Config(sources=tuple(found), planted=planted_benchmark()))
    crawl = Step("crawl_commoncrawl", crawl_commoncrawl.Config(warcs=(archives,)))
    pages = unique_pages(Step("extract_text", extract_text.Config(files=crawl)))
    tokenizer = Step("train_tokenizer", train_tokenizer.Config(files=pages, vocab_size=1000, sample_bytes=500_000))
    topics = topic_pages(pages, SEEDS, tokenizer, index, rounds=2, **FAST)
    prose = natural_language(pages, topics.taken, index, min_letters=None, max_duplicate_grams=None, max_words=5_000)
    mixed = Step("mix", mix.Config(sources=paper_shares({"web_code": topics.code}, topics.math, prose), tokenizer=tokenizer))
    return Step("encode_tokens", encode_tokens.Config(files=mixed, tokenizer=tokenizer))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    run(build(), LocalEngine(root))
    return root


def test_ray_leaves_the_same_bytes(local: Path, tmp_path: Path) -> None:
    engine = RayEngine(tmp_path, workers=2)
    try:
        run(build(), engine)
    finally:
        engine.close()
    here, there = outputs(build(), local), outputs(build(), tmp_path)
    assert sorted(here) == sorted(there) and [name for name in here if here[name] != there[name]] == []
    assert {"train_recall_math_2/model.bin", "select_recall_code_2/report.html", "grow_seed_math_1/domains.yaml"} <= set(here)


def test_a_root_in_an_object_store_has_the_same_bytes(local: Path) -> None:
    """fsspec's memory:// stands for it: no local path, no rename, no lock. Folders written there stay for this process."""
    root = as_path("memory://web/root")
    run(build(), LocalEngine("memory://web/root"))
    here, there = outputs(build(), local), outputs(build(), root)
    assert sorted(here) == sorted(there) and [name for name in here if here[name] != there[name]] == []
    mixed = next(s for s in walk(build()) if s.name == "mix")
    table = pq.read_table(next((local / mixed.folder / "shards").glob("*.parquet")), columns=["id"])
    page = table.column("id")[0].as_py()
    assert list(explain(build(), root, page)) == list(explain(build(), local, page))


def test_the_mix_has_the_papers_shares(local: Path) -> None:
    step = next(s for s in walk(build()) if s.name == "mix")
    notes = (read_json(local / step.folder / "step.json") or {})["report"]["notes"]["sources"]
    assert {name: line["share_asked"] for name, line in notes.items()} == {"web_code": 0.6, "math": 0.1, "prose": 0.3}
    assert all(abs(line["share_reached"] - line["share_asked"]) < 0.02 for line in notes.values()), notes


def test_no_page_is_in_two_tracks_and_no_benchmark_in_any(local: Path) -> None:
    ids, texts = [], []
    for name in ("decontaminate_code", "decontaminate_math", "decontaminate_prose"):
        step = next(s for s in walk(build()) if s.name == name)
        for path in (local / step.folder / "shards").glob("*.parquet"):
            table = pq.read_table(path, columns=["id", "text"])
            ids += table.column("id").to_pylist()
            texts += table.column("text").to_pylist()
    assert len(ids) == len(set(ids)) > 100
    assert not any("ferry_crossings" in text for text in texts)  # of recipes/planted, which one page shows


def test_explain_follows_a_page_through_every_round(local: Path) -> None:
    last = build()
    step = next(s for s in walk(last) if s.name == "decontaminate_math")
    shards = (pq.read_table(path, columns=["url"]) for path in sorted((local / step.folder / "shards").glob("*.parquet")))
    lines = list(explain(last, local, next(url for table in shards for url in table.column("url").to_pylist())))
    told = {line.split()[0]: line.split()[1] for line in lines}
    assert told["crawl_commoncrawl"] == "read" and told["dedup_urls"] == told["dedup_pages"] == "kept"
    assert told["score_recall_math_1"] == told["score_recall_math_2"] == told["score_recall_code_2"] == "scored"
    assert told["select_recall_math_2"] == "kept" and told["exclude_recalled"] == "dropped"
    # In a mix this small mathematics is drawn to a third; a page that is drawn ends in tokens that decode to its text.
    drawn = next(s for s in walk(last) if s.name == "mix")
    mixed = [pq.read_table(path, columns=["url"]) for path in sorted((local / drawn.folder / "shards").glob("*.parquet"))]
    urls = [url for table in mixed for url in table.column("url").to_pylist()[::97]]
    ends = [line for url in urls for line in explain(last, local, url) if line.startswith("encode_tokens")]
    assert len(ends) > 3 and all(line.endswith("they decode to its text") for line in ends), ends


def test_rounds_say_what_they_found(local: Path) -> None:
    last = build()
    engine = LocalEngine(local)
    for topic in ("code", "math"):
        step = next(s for s in walk(last) if s.name == f"select_recall_{topic}_2")
        record = read_record(engine, step)
        assert [row["round"] for row in record["rounds"]] == [1, 2] and record["pages"] > 0
        assert all(len(record["sampled"][kind]) == 10 for kind in ("top", "kept", "missed"))
