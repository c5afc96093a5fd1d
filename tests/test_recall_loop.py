"""recipes/web.py: recall, the loop as a whole: it grows, it ends, and it is the same for any shards."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from corpus.engine import LocalEngine
from corpus.recall import read_record
from corpus.runner import run
from corpus.step import Step, walk
from recipes.web import Growth, recall
from stages import select_seed
from tests.recall_pages import COMMON, FAST, OTHER, TOPIC, made, rows_of, site, source, tokenizer, web
from tests.toys import pages

RARE = ["cohomology", "sheaf", "functor", "groupoid", "spectrum", "homotopy", "fibration", "manifold"]
SEED = site("seed.org", True, 30)


def chain() -> list[tuple[str, str]]:
    """A web on whose far sites the topic is told in words that the seed has not; sites in between use both."""

    def text(host: str, i: int, own: list[str]) -> str:
        draw = random.Random(f"{host} {i}")
        return " ".join(draw.choice(own) if draw.random() < 0.3 else draw.choice(COMMON) for _ in range(80))

    rows = [row for s in range(3) for row in site(f"near{s}.org", True, 12)]
    rows += [(f"https://mid{s}.org/a/{i}", text(f"mid{s}", i, TOPIC + RARE)) for s in range(2) for i in range(12)]
    rows += [(f"https://far{s}.org/a/{i}", text(f"far{s}", i, RARE)) for s in range(2) for i in range(12)]
    return rows + [row for s in range(60) for row in site(f"other{s}.com", False, 4)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tokenizer(tmp_path_factory.mktemp("tokenizer"))


def loop(pool: Step, seed: Step, model: str, rounds: int = 3, share: tuple[float, ...] = (0.15, 0.25), **fields: Any) -> Step:
    return recall("math", pool, seed, model, rounds, growth=Growth(share=share), **FAST, **fields)


def rounds_of(engine: LocalEngine, last: Step) -> list[dict[str, Any]]:
    """recall.json of each train_recall step, with the pages collected by its round."""
    steps = {step.name: step for step in walk(last)}
    numbers = range(1, 1 + sum(name.startswith("select_recall") for name in steps))
    found = []
    for r in numbers:
        urls = {row["url"] for row in rows_of(engine, steps[f"select_recall_math_{r}"], ["url"])}
        found.append({**read_record(engine, steps[f"train_recall_math_{r}"]), "urls": urls})
    return found


def test_three_rounds_reach_what_the_seed_has_no_words_for(tmp_path: Path, model: str) -> None:
    last = loop(source("pool", chain()), source("seed", SEED, 1), model)
    assert [step.name for step in walk(last)].count("grow_seed_math_3") == 0
    found = rounds_of(made(last, tmp_path), last)
    positives = [record["positives"] for record in found]
    assert positives[0] == 30 < positives[1] <= positives[2]
    far = [sum("far" in url for url in record["urls"]) for record in found]
    assert far[0] < 12 < far[2] and far == sorted(far)
    topic = {url for url, _ in chain() if "other" not in url}
    assert len(found[2]["urls"] & topic) > 0.85 * len(topic) and len(found[2]["urls"] - topic) <= 2


def test_rounds_after_convergence_copy(tmp_path: Path, model: str) -> None:
    last = loop(source("pool", web()), source("seed", SEED, 1), model, rounds=5, share=(0.2,))
    engine = made(last, tmp_path)
    found = rounds_of(engine, last)
    copied = [r for r, record in enumerate(found, 1) if "copied" in record]
    assert copied and copied == list(range(copied[0], 6)) and copied[0] >= 3
    steps = {step.name: engine.folder(step) for step in walk(last)}
    for r in copied:
        for name in ("model.bin", "table.npy"):
            assert (steps[f"train_recall_math_{r}"] / name).read_bytes() == (
                steps[f"train_recall_math_{r - 1}"] / name
            ).read_bytes()
        assert found[r - 1]["urls"] == found[r - 2]["urls"]
    record = read_record(engine, last)
    assert record["converged"] and record["round"] == copied[0] - 1  # rounds that copy are none
    assert run(Step("again", last.config), engine)["again"].kept == len(found[-1]["urls"])


def contents(engine: LocalEngine, last: Step) -> dict[str, Any]:
    """What must not depend on shards: models, tables of domains, and pages by id."""
    found: dict[str, Any] = {}
    for step in walk(last):
        folder = engine.folder(step)
        for name in ("model.bin", "table.npy", "recall.json", "domains.yaml", "topic_groups.npy"):
            if (folder / name).exists():
                found[f"{step.name}/{name}"] = (folder / name).read_bytes()
        found[step.name] = sorted(str(row) for row in rows_of(engine, step))
    return found


def test_the_same_bytes_for_other_shards_and_again(tmp_path: Path, model: str) -> None:
    found = []
    for n, count in enumerate((3, 3, 7)):
        last = loop(source("pool", chain(), count), source("seed", SEED, 1 + n), model, rounds=2)
        found.append(contents(made(last, tmp_path / str(n)), last))
    assert found[0] == found[1] == found[2] and len(found[0]) > 12


def test_a_pool_without_the_topic_grows_nothing(tmp_path: Path, model: str) -> None:
    pool = [row for s in range(60) for row in site(f"other{s}.com", False, 4)]
    last = loop(source("pool", pool), source("seed", SEED, 1), model)
    engine = made(last, tmp_path)
    assert [record["positives"] for record in rounds_of(engine, last)] == [30, 30, 30]
    remarks = read_record(engine, last)["remarks"]
    assert any("pages of the pool are more likely on topic than not" in line for line in remarks)


def test_a_cut_by_probability_collects_nothing_where_nothing_is(tmp_path: Path, model: str) -> None:
    pool = source("pool", [row for s in range(60) for row in site(f"other{s}.com", False, 4)])
    strict = loop(pool, source("seed", SEED, 1), model, rounds=1, probability=0.9)
    engine = made(strict, tmp_path)
    record = read_record(engine, strict)
    assert record["pages"] == 0 and "no page was collected" in record["remarks"][0]
    assert rows_of(engine, strict) == [] and (engine.folder(strict) / "report.html").exists()


def test_a_handful_of_pages_is_seed_enough_and_said(tmp_path: Path, model: str) -> None:
    last = loop(source("pool", chain()), source("seed", SEED[:5], 1), model)
    found = rounds_of(made(last, tmp_path), last)
    assert found[0]["positives"] == 5 and any("fewer than 100" in line for line in found[0]["remarks"])
    assert sum("near" in url for url in found[2]["urls"]) == 36


@pytest.mark.parametrize("topic", [True, False])
def test_one_domain_that_is_half_the_pool(tmp_path: Path, model: str, topic: bool) -> None:
    giant = site("giant.com", topic, 320)
    last = loop(source("pool", chain() + giant), source("seed", SEED, 1), model, share=(0.5,) if topic else (0.1,))
    found = rounds_of(made(last, tmp_path), last)
    if topic:
        fair = (30 + 84 + 320) / found[2]["positive_groups"]
        assert 30 < found[2]["positives"] <= 30 + 84 + 2 * fair + 1  # of the giant twice a fair share, not its 320 pages
    else:
        assert all(record["negatives"] <= 3 * found[0]["negative_groups"] for record in found[:2])
        assert found[2]["negatives"] <= 30 + 84 + 240  # of the giant 30 pages, not its 320
        giants = [sum("giant" in url for url in record["urls"]) for record in found]
        assert giants[2] <= 1 < giants[0], giants  # of some sixty pages collected; the giant is half of the pool
    assert sum("near" in url for url in found[2]["urls"]) >= 34


DOCUMENTED = '"""{0}"""\nimport {1}\n\n\ndef {1}_{2}(x):\n    """{0}\n\n    {0}"""\n    return {1}.run(x, key={3})\n'
BARE = "import {1}\nx{3} = {1}\n{1}.go(x{3})\nfor i in {1}: print(i, {3})\n{1}.{2}({3})\n"


def repositories() -> list[tuple[str, str]]:
    draw = random.Random(5)
    rows = []
    for r in range(30):
        for i in range(6):
            good = r < 6 or (r < 12 and i < 4)
            words = " ".join(draw.choice(COMMON + TOPIC) for _ in range(30))
            form = DOCUMENTED if good else BARE * 6
            rows.append((f"owner{r}-repo/src/{i}.py", form.format(words, draw.choice(OTHER), draw.choice(OTHER), i)))
    return rows


def test_repositories_are_recalled_from_documented_files(tmp_path: Path, model: str) -> None:
    pool = Step("pool", pages.Config(shards=(tuple(repositories()[::2]), tuple(repositories()[1::2])), web=False))
    first = Step("select_seed_github", select_seed.Config(files=pool, rule="documented", least_bytes=100, most_share=0.95))
    seed = Step("few", select_seed.Config(files=first, rule="documented", least_bytes=450, most_share=0.95))
    last = loop(pool, seed, model, rounds=2, share=(0.3, 0.4), group_by="repository")
    engine = made(last, tmp_path)
    assert 0 < engine.shards(seed).rows <= engine.shards(first).rows  # type: ignore[attr-defined]
    kept = sorted(rows_of(engine, last, ["text", "recall_score"]), key=lambda row: -row["recall_score"])
    assert len(kept) > 60 and all('"""' in row["text"] for row in kept[:60])  # all there are
    record = read_record(engine, last)
    assert {row["group"] for row in record["top_groups"]} <= {f"owner{r}-repo" for r in range(30)}


def test_annotations_are_per_round(tmp_path: Path, model: str) -> None:
    table = tmp_path / "math.yaml"
    table.write_text("- domain: near1.org\n  accept: true\n")
    last = loop(source("pool", chain()), source("seed", SEED, 1), model, rounds=2, annotations=(str(table),))
    engine = made(last, tmp_path / "root")
    joined = next(step for step in walk(last) if step.name == "grow_seed_math_1")
    assert {row["url"].split("/")[2] for row in rows_of(engine, joined, ["url"])} == {"near1.org"}
