"""stages/train_recall.py: what is trained on, what is never, and that the same is trained every time."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import fasttext
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from corpus.engine import LocalEngine
from corpus.errors import ConfigError, InputError
from corpus.recall import read_record
from corpus.recall_training import Chosen, average_precision, cap_groups, curve, held_logits, platt, split_groups
from corpus.runner import run
from corpus.step import Step
from stages import train_recall
from stages.train_recall import Config
from tests.recall_pages import FAST, made, page, round_of, rows_of, select, site, source, tokenizer, web
from tests.toys import pages

SEED = site("seed.org", True, 10) + site("more.org", True, 10)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tokenizer(tmp_path_factory.mktemp("tokenizer"))


def trained(pool: Any, seed: Any, model: str, root: Path, **fields: Any) -> tuple[LocalEngine, Step, dict[str, Any]]:
    step, _ = round_of(source("pool", pool), source("seed", seed, 2), model, **fields)
    engine = made(step, root)
    return engine, step, read_record(engine, step)


def test_the_model_parts_topic_from_the_rest_and_stock_fasttext_loads_it(tmp_path: Path, model: str) -> None:
    engine, step, record = trained(web(), SEED, model, tmp_path)
    assert record["positives"] == 20 and record["negatives"] > 100 and record["negative_groups"] == 44
    assert record["setting"]["lr"] == 0.5 and record["setting"]["wordNgrams"] == 3
    assert "20 positives, 500,000 asked" in record["remarks"][0]
    stock = fasttext.load_model(str(engine.folder(step) / "model.bin"))
    assert sorted(stock.labels) == ["__label__other", "__label__topic"]
    assert all(word.isdigit() or word == "</s>" for word in stock.words)
    # What the card says is enough to use it.
    said = (engine.folder(step) / "README.md").read_text()
    assert "a word is an id in decimal" in said and "reads text alone" in said
    encoder = Tokenizer.from_file(str(engine.folder(step) / "tokenizer.json"))
    for rows, label in ((site("fresh.org", True, 5), "__label__topic"), (site("fresh.com", False, 5), "__label__other")):
        for _, text in rows:
            ids = encoder.encode(text, add_special_tokens=False).ids[: record["max_tokens"]]
            assert stock.predict(" ".join(map(str, ids)))[0] == (label,)


def test_the_same_bytes_in_another_root_and_with_other_shards(tmp_path: Path, model: str) -> None:
    found = []
    for n, count in enumerate((3, 3, 5)):
        step, _ = round_of(source("pool", web(), count), source("seed", SEED, count), model)
        engine = made(step, tmp_path / str(n))
        files = ("model.bin", "table.npy", "seed.npy", "recall.json")
        found.append([hashlib.sha256((engine.folder(step) / name).read_bytes()).hexdigest() for name in files])
    assert found[0] == found[1] == found[2]


def test_a_different_draw_takes_other_pages(tmp_path: Path, model: str) -> None:
    pool = [row for s in range(200) for row in site(f"other{s}.com", False, 3)]
    fields = {"positives": 10, "negatives_per_group": 1, "least_negatives": 0}
    _, _, a = trained(pool, SEED, model, tmp_path, **fields)
    _, _, b = trained(pool, SEED, model, tmp_path, **fields, draw=1)
    assert a["positives"] == b["positives"] == a["negatives"] == b["negatives"] == 10
    assert a["curve"] != b["curve"] or a["calibration"] != b["calibration"]


def lines_of(engine: LocalEngine, step: Step, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What fastText is given, decoded."""
    from corpus import recall_training
    from corpus.tokenizer import load_encoder

    seen: list[str] = []

    def keep(text: Path, setting: Any, out: Path) -> None:
        seen.extend(text.read_text().splitlines())
        real(text, setting, out)

    real = recall_training.train
    monkeypatch.setattr(recall_training, "train", keep)
    run(step, engine)
    assert load_encoder(step.config.tokenizer).vocab_size > 300
    return seen


def test_seed_pages_are_no_negatives(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool holds the seed too: those pages and only those are labelled topic."""
    pool = source("pool", web() + SEED)
    step, _ = round_of(pool, source("seed", SEED), model, negatives_per_group=100)
    lines = lines_of(LocalEngine(tmp_path), step, monkeypatch)
    topic = {line.split(" ", 1)[1] for line in lines if line.startswith("__label__topic")}
    other = {line.split(" ", 1)[1] for line in lines if line.startswith("__label__other")}
    assert len(topic) == 20 and not topic & other


def test_the_next_round_leaves_out_topic_groups_and_what_was_collected(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, seed = source("pool", web()), source("seed", SEED, 2)
    _, scores = round_of(pool, seed, model)
    before = select(pool, scores, share=0.15)
    config = Config(pool=pool, seed=(seed,), tokenizer=model, previous=before, negatives_per_group=100, **FAST)
    second = Step("train_2", dataclasses.replace(config, setting="fixed"))
    engine = made(before, tmp_path)
    hosts = {row["url"].split("/")[2] for row in rows_of(engine, before)}
    assert hosts == {"topic0.org", "topic1.org", "topic2.org", "topic3.org"}
    lines_of(engine, second, monkeypatch)
    record = read_record(engine, second)
    assert record["negative_groups"] == 40 and record["negatives"] == 160


def test_one_site_that_is_half_the_pool_is_capped(tmp_path: Path, model: str) -> None:
    pool = site("giant.com", False, 160) + [row for s in range(40) for row in site(f"o{s}.com", False, 4)]
    _, _, record = trained(pool, site("large.org", True, 70) + SEED, model, tmp_path, negatives_per_group=2)
    assert record["negatives"] == 82 and record["negative_groups"] == 41
    assert record["positives"] == 80  # of the large site twice a third of the 90, 10 of each other
    pool = site("giant.com", False, 100) + site("small.com", False, 1)
    _, _, record = trained(pool, SEED, model, tmp_path / "2", negatives_per_group=2)
    assert record["negatives"] == 20  # as many as positives, though the cap says 3
    assert "one domain has 19 of the 20 negatives" in record["remarks"]


def test_a_small_seed_is_said_and_an_empty_one_refused(tmp_path: Path, model: str) -> None:
    _, _, record = trained(web(), SEED[:1], model, tmp_path)
    assert record["positives"] == 1 and any("fewer than 100 positives" in line for line in record["remarks"])
    with pytest.raises(InputError, match=r"seed .* has no page"):
        trained(web(), [], model, tmp_path / "2")
    with pytest.raises(InputError, match="no page left to be a negative"):
        trained(SEED, SEED, model, tmp_path / "3")
    empty = Step("pool", pages.Config(shards=((),)))
    with pytest.raises(InputError, match="pool"):
        made(round_of(empty, source("seed", SEED), model)[0], tmp_path / "4")


def test_pages_without_text_or_url_train_too(tmp_path: Path, model: str) -> None:
    pool = [(f"nowhere {i}", page(False, i)) for i in range(50)] + [("https://a.com/", ""), ("", " \n")]
    _, _, record = trained(pool, SEED, model, tmp_path)
    assert record["negatives"] >= 50  # those of no site are not one site


@given(st.floats(0.125, 8), st.floats(-50, 50), st.integers(0, 2**32))
def test_a_fold_is_heard_on_the_scale_of_the_model_of_all(spread: float, shift: float, seed: int) -> None:
    """Whatever a fold's model adds to its logits, or multiplies them by; and as it is, where there is no model of all."""
    dice = np.random.default_rng(seed)
    key, label, fold = np.arange(90, dtype=np.uint64), dice.integers(0, 2, 90), np.repeat([0, 1, -1], 30)
    chosen = Chosen(key, key, label, fold, dice.random(90) < 0.1)
    own, said = dice.normal(size=90).astype(np.float32), dice.normal(size=(2, 90)).astype(np.float32)
    found = held_logits(chosen, list(said), own)
    other = held_logits(chosen, [said[0] * np.float32(spread) + np.float32(shift), said[1]], own)
    assert np.allclose(found, other, atol=1e-2, equal_nan=True) and np.isnan(found).tolist() == (fold == -1).tolist()
    itself = held_logits(chosen, [own, own], own)
    assert np.allclose(itself[:60], own[:60], atol=1e-5)
    assert (held_logits(chosen, list(said), None)[30:60] == said[1, 30:60]).all()


def test_auto_chooses_by_sites_held_back(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_recall, "_GRID", ((0.01, 1), (0.5, 15)))
    _, _, record = trained(web(), SEED + site("third.org", True, 5), model, tmp_path, setting="auto", epochs=3)
    assert [t["epoch"] for t in record["tried"]] == [1, 15]
    scores = [t["held_back_average_precision"] for t in record["tried"]]
    assert record["setting"]["epoch"] == [1, 15][int(np.argmax(scores))]
    assert record["held_back"]["positives"] == record["positives"]  # every page was held back once
    assert any("chosen on pages of groups held back" in line for line in record["remarks"])
    config = Config(pool=source("p", web()), seed=(source("s", SEED),), tokenizer=model, positives=10)
    assert train_recall.is_auto(config, 10) and not train_recall.is_auto(config, 500_000)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", ()),
        ("group_by", "country"),
        ("setting", "best"),
        ("positives", 0),
        ("epochs", 0),
        ("rate", 0.0),
        ("rate", float("nan")),
        ("max_tokens", 0),
        ("max_share", 0.0),
        ("buckets", 0),
    ],
)
def test_a_bad_field_is_named(model: str, field: str, value: Any) -> None:
    fields: dict[str, Any] = {"pool": source("p", web()), "seed": (source("s", SEED),), "tokenizer": model}
    with pytest.raises(ConfigError, match=field):
        Config(**{**fields, field: value})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 4), st.integers(0, 30), st.integers(0, 20))
def test_caps(groups: list[int], cap: int, want: int, least: int) -> None:
    taken = cap_groups(np.array(groups, np.uint64), cap, want, least).tolist()
    assert taken == sorted(set(taken)) and len(taken) <= want
    counts = np.bincount([groups[i] for i in taken], minlength=6)
    capped = sum(min(cap, groups.count(g)) for g in range(6))
    assert len(taken) == min(want, max(capped, min(least, len(groups))))
    if len(taken) <= capped:
        assert counts.max(initial=0) <= cap
    for g in range(6):  # the first of a group go first
        mine = [i for i, name in enumerate(groups) if name == g]
        assert [i for i in taken if groups[i] == g] == mine[: counts[g]]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(1, 5))
def test_folds_hold_whole_groups_and_are_even(groups: list[int], folds: int) -> None:
    fold = split_groups(np.array(groups, np.uint64), folds)
    assert all(len({int(f) for f, g in zip(fold, groups, strict=True) if g == name}) == 1 for name in groups)
    load = np.bincount(fold, minlength=folds)
    assert load.max() - load.min() <= max(groups.count(g) for g in groups)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-20, 20), st.booleans()), min_size=2, max_size=40))
def test_calibration_keeps_the_order_and_average_precision_is_a_mean(rows: list[tuple[float, bool]]) -> None:
    logit, label = np.array([v for v, _ in rows], np.float32), np.array([int(t) for _, t in rows])
    a, b = platt(logit, label)
    assert a > 0 and np.isfinite([a, b]).all()
    value = average_precision(logit, label)
    assert 0 <= value <= 1 and (value > 0) == bool(label.any())
    for row in curve(logit, label, (0.5, 1.0)):
        assert row["recall"] >= 0.5 and 0 < row["precision"] <= 1


def test_platt_finds_the_slope_and_the_middle() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(0, 3, 20_000)
    label = (rng.random(20_000) < 1 / (1 + np.exp(-(2 * logit - 1)))).astype(np.int64)
    a, b = platt(logit.astype(np.float32), label)
    prior = np.log(label.mean() / (1 - label.mean()))  # the two labels count the same
    assert abs(a - 2) < 0.15 and abs(b - (-1 - prior)) < 0.15
