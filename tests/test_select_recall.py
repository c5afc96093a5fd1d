"""stages/select_recall.py: cuts exact to a page, the round in numbers, and when the rounds end."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.engine import LocalEngine
from corpus.errors import ConfigError
from corpus.recall import logit_of, ranks, read_record
from corpus.recall_report import SAMPLED
from corpus.runner import run
from corpus.step import Step
from stages.select_recall import Config, _rank_at
from tests.recall_pages import made, page, round_of, rows_of, score_table, select, site, source, tokenizer, web

SEED = site("seed.org", True, 20)
# Every text three times, so that a cut falls among equal scores as often as not; 200 pages alike.
TIES = [(f"https://s{i % 9}.org/{i}", page(i % 2 == 0, i // 3 * 2 + i % 2)) for i in range(120)]
TIES += [(f"https://same{i}.org/", page(True, 7)) for i in range(200)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, model: str) -> tuple[LocalEngine, Step, Step]:
    pool = source("pool", web() + TIES)
    _, scores = round_of(pool, source("seed", SEED), model)
    return made(scores, tmp_path_factory.mktemp("root")), pool, scores


def collect(done: tuple[LocalEngine, Step, Step], **fields: Any) -> tuple[list[str], dict[str, Any], Step]:
    """(ids kept, recall.json, the step)."""
    engine, pool, scores = done
    step = Step("again" if "previous" in fields else "select", Config(files=pool, scores=scores, **fields))
    run(step, engine)
    return [row["id"] for row in rows_of(engine, step, ["id"])], read_record(engine, step), step


def ranked(done: tuple[LocalEngine, Step, Step]) -> list[dict[str, Any]]:
    engine, _, scores = done
    table = score_table(engine, scores)
    rank = ranks(table.column("id").combine_chunks(), table.column("logit").to_numpy())
    return [row for _, row in sorted(zip(rank.tolist(), table.to_pylist(), strict=True), key=lambda pair: pair[0])]


@pytest.mark.parametrize(
    "fields", [{"tokens": 1}, {"tokens": 700}, {"tokens": 12_345}, {"share": 0.3}, {"share": 1.0}, {"tokens": 10**9}]
)
def test_a_budget_takes_the_fewest_pages_that_hold_it(done: tuple[LocalEngine, Step, Step], fields: dict[str, Any]) -> None:
    order = ranked(done)
    total = sum(row["tokens"] for row in order)
    budget = fields.get("tokens") or math.ceil(fields["share"] * total)
    kept, record, _ = collect(done, **fields)
    wanted, spent = set(), 0
    for row in order:
        if spent >= budget:
            break
        wanted.add(row["id"])
        spent += row["tokens"]
    assert set(kept) == wanted and len(kept) == len(wanted)
    assert record["pages"] == len(kept) and record["tokens"] == spent and record["pool_tokens"] == total
    logits = [row["logit"] for row in order]
    assert logits == sorted(logits, reverse=True)


def test_a_cut_among_equal_scores_is_exact_and_the_same_for_other_shards(
    done: tuple[LocalEngine, Step, Step], model: str, tmp_path: Path
) -> None:
    order = ranked(done)
    same = [i for i, row in enumerate(order) if row["group"].startswith("same")]
    budget = sum(row["tokens"] for row in order[: same[0] + 77])
    kept, _, _ = collect(done, tokens=budget)
    assert len(kept) == same[0] + 77 and order[same[0] + 76]["logit"] == order[same[0] + 77]["logit"]
    pool = source("pool", web() + TIES, 5)
    _, scores = round_of(pool, source("seed", SEED), model)
    step = select(pool, scores, tokens=budget)
    assert {row["id"] for row in rows_of(made(step, tmp_path), step, ["id"])} == set(kept)


@pytest.mark.parametrize("least", [0.2, 0.5, 0.9])
def test_a_probability_is_calibrated(done: tuple[LocalEngine, Step, Step], least: float) -> None:
    engine, _, scores = done
    a, b = read_record(engine, scores.config.model)["calibration"]
    kept, _, _ = collect(done, probability=least)
    assert set(kept) == {row["id"] for row in ranked(done) if 1 / (1 + math.exp(-(a * row["logit"] + b))) >= least}
    assert 0 < len(kept) < len(web() + TIES)


def test_a_precision_is_held_or_nothing_is_kept(done: tuple[LocalEngine, Step, Step]) -> None:
    engine, _, scores = done
    curve = read_record(engine, scores.config.model)["curve"]
    for least in sorted({row["precision"] for row in curve}):
        kept, record, _ = collect(done, precision=least)
        cut = min(row["logit"] for row in curve if row["precision"] >= least)
        assert set(kept) == {row["id"] for row in ranked(done) if row["logit"] >= cut}
        assert record["held_back_at_cut"]["logit"] >= cut
    assert _rank_at(None) is None and _rank_at(math.inf) is None


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=True), min_size=1, max_size=20), st.floats(-1e30, 1e30))
def test_ranks_order_logits_and_a_threshold_lets_none_below_in(values: list[float], least: float) -> None:
    import pyarrow as pa

    logit = np.array(values, np.float32)
    rank = ranks(pa.array([str(i) for i in range(len(values))]), logit)
    clean = np.where(np.isnan(logit), -np.inf, logit)
    order = np.argsort(rank)
    assert clean[order].tolist() == sorted(clean.tolist(), reverse=True)
    assert [logit_of(int(r)) for r in rank] == clean.tolist()
    cut = _rank_at(least)
    assert cut is not None
    assert ((rank <= np.uint64(cut)) == (clean.astype(np.float64) >= least)).all()


def test_what_is_dropped_says_by_how_much(done: tuple[LocalEngine, Step, Step]) -> None:
    engine, _, _ = done
    kept, record, step = collect(done, tokens=700)
    report = run(step, engine)[step.name]
    assert report.dropped == {"below_cut": len(web() + TIES) - len(kept)} and report.kept == len(kept)
    rows = rows_of(engine, step)
    by_id = {row["id"]: row for row in ranked(done)}
    assert all(row["recall_score"] == pytest.approx(1 / (1 + math.exp(-by_id[row["id"]]["logit"])), abs=2e-5) for row in rows)
    assert "recall_logit" not in rows[0] and record["cut"] is not None


def test_groups_are_counted(done: tuple[LocalEngine, Step, Step]) -> None:
    engine, _, _ = done
    kept, record, step = collect(done, share=0.3)
    of = {row["id"]: row for row in ranked(done)}
    found = pq.read_table(engine.folder(step) / "groups.parquet").to_pylist()
    hosts = {of[id]["group"] for id in kept}
    assert {row["group"] for row in found} == hosts and record["groups"] == record["new_groups"] == len(hosts)
    for row in found:
        mine = [r for r in of.values() if r["group"] == row["group"]]
        taken = [r for r in mine if r["id"] in kept]
        assert (row["pages"], row["collected"], row["tokens"]) == (len(mine), len(taken), sum(r["tokens"] for r in taken))
    topic = sum(row["collected"] > 0.1 * row["pages"] for row in found)
    assert record["topic_groups"] == topic == len(np.load(engine.folder(step) / "topic_groups.npy"))


def test_the_round_is_written_for_people_and_programs(done: tuple[LocalEngine, Step, Step]) -> None:
    engine, _, _ = done
    _, record, step = collect(done, share=0.3)
    page_ = (engine.folder(step) / "report.html").read_text()
    told = (engine.folder(step) / "report.txt").read_text()
    for kind, title in SAMPLED:
        shown = told[told.index(title) :].split("\n\n")[0].split("\n")[1:]
        assert [line.split()[1] for line in shown if line] == [row["where"] for row in record["sampled"][kind]]
    assert page_.count("<svg") >= 3 and "average precision held back" in page_ and "https://" in page_
    assert json.loads((engine.folder(step) / "recall.json").read_text())["value"] == record
    assert sum(record["histogram"]["pages"]) == record["pool_pages"] == len(web() + TIES)
    order = [row["id"] for row in ranked(done)]
    n, places = record["pages"], {row["id"]: row["url"] for row in rows_of(engine, done[1], ["id", "url"])}
    where = {kind: [p["where"] for p in pages] for kind, pages in record["sampled"].items()}
    assert where == {
        "top": [places[id] for id in order[:10]],
        "kept": [places[id] for id in order[n - 10 : n]],
        "missed": [places[id] for id in order[n : n + 10]],
    }


def test_pages_are_shown_as_text(tmp_path: Path, model: str) -> None:
    pool = source("pool", [*web(), ("https://evil.org/<script>", "<script>alert(1)</script> theorem lemma proof " * 9)])
    _, scores = round_of(pool, source("seed", SEED), model)
    step = select(pool, scores, share=0.9)
    engine = made(step, tmp_path)
    assert "<script>" not in (engine.folder(step) / "report.html").read_text()


def test_a_round_that_brings_nothing_new_has_converged(done: tuple[LocalEngine, Step, Step]) -> None:
    _engine, _pool, _scores = done
    first, record, before = collect(done, share=0.3)
    assert record["round"] == 1 and record["overlap"] is None and not record["converged"]
    again, record, _ = collect(done, share=0.3, previous=before)
    assert set(again) == set(first) and record["round"] == 2 and record["overlap"] == 1.0 and record["converged"]
    assert record["new_groups"] == 0 and len(record["rounds"]) == 2 and "converged" in record["remarks"][-1]
    more, record, _ = collect(done, share=0.6, previous=before)
    assert record["overlap"] == pytest.approx(len(first) / len(more), abs=1e-6) and not record["converged"]
    _, record, _ = collect(done, share=0.6, previous=before, enough=0.3)
    assert record["converged"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "none given"),
        ({"tokens": 5, "share": 0.1}, "tokens, share given"),
        ({"tokens": 0}, "tokens = 0"),
        ({"share": 0.0}, "share = 0.0"),
        ({"probability": 1.5}, "probability = 1.5"),
        ({"share": 0.1, "topic_share": 2.0}, "topic_share"),
    ],
)
def test_a_bad_cut_is_named(done: tuple[LocalEngine, Step, Step], fields: dict[str, Any], said: str) -> None:
    _, pool, scores = done
    with pytest.raises(ConfigError, match=said):
        Config(files=pool, scores=scores, **fields)


def test_scores_of_another_pool_are_refused(done: tuple[LocalEngine, Step, Step]) -> None:
    _, _, scores = done
    with pytest.raises(ConfigError, match="a score_recall step over step other expected"):
        Config(files=source("other", SEED), scores=scores, share=0.1)
