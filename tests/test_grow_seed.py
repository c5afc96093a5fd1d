"""stages/grow_seed.py: the table a person edits, what is accepted without one, and what joins the seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.annotations import read_annotations
from corpus.engine import LocalEngine
from corpus.errors import ConfigError
from corpus.report import Report
from corpus.runner import run
from corpus.shards import read_json
from corpus.step import Step
from stages import grow_seed
from stages.grow_seed import Config, survey, wilson
from tests.recall_pages import grow, made, round_of, rows_of, select, site, source, tokenizer

SEED = site("seed.org", True, 20)
# half.org has a folder on topic and one that is not; few.org one page in twenty that is.
POOL = [row for s in range(3) for row in site(f"topic{s}.org", True, 12)]
POOL += site("half.org", True, 12, "math/deep/") + site("half.org", False, 12, "blog/")
POOL += site("few.org", True, 1, "m/") + site("few.org", False, 19, "b/")
POOL += [row for s in range(40) for row in site(f"other{s}.com", False, 4)]
POOL += SEED[:5]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, model: str) -> tuple[LocalEngine, Step, Step, Step]:
    """(engine, pool, scores, selected): a round that collects the topic and no more."""
    pool = source("pool", POOL)
    _, scores = round_of(pool, source("seed", SEED), model, max_tokens=100)
    selected = select(pool, scores, share=0.2)
    return made(selected, tmp_path_factory.mktemp("root")), pool, scores, selected


def grown(done: tuple[LocalEngine, Step, Step, Step], **fields: Any) -> tuple[set[str], Report, list[dict[str, Any]]]:
    """(URLs that join, report, domains.yaml)."""
    engine, pool, scores, selected = done
    step = grow(pool, scores, selected, **fields)
    report = run(step, engine)[step.name]
    table = yaml.safe_load((engine.folder(step) / "domains.yaml").read_text("utf-8"))
    return {row["url"] for row in rows_of(engine, step, ["url"])}, report, table


def under(*starts: str) -> set[str]:
    return {url for url, _ in POOL if url.startswith(tuple(f"https://{start}" for start in starts))}


def test_topic_domains_are_listed_with_their_prefixes(done: tuple[LocalEngine, Step, Step, Step]) -> None:
    engine, _pool, _, selected = done
    _, _, table = grown(done)
    kept = {row["url"] for row in rows_of(engine, selected, ["url"])}
    expected = {}
    for host in {url.split("/")[2] for url, _ in POOL}:
        mine = under(host + "/")
        if len(mine & kept) > 0.1 * len(mine):
            expected[host] = (len(mine), len(mine & kept))
    assert {row["domain"]: (row["pages"], row["collected"]) for row in table} == expected
    assert "half.org" in expected and "few.org" not in expected
    assert [row["collected"] for row in table] == sorted((row["collected"] for row in table), reverse=True)
    half = next(row for row in table if row["domain"] == "half.org")
    parts = {part["prefix"]: part for part in half["prefixes"]}
    assert set(parts) == {"half.org/math/", "half.org/math/deep/", "half.org/blog/"}
    for prefix, part in parts.items():
        mine = under(prefix)
        assert part["pages"] == len(mine) and part["collected"] == len(mine & kept)
        assert part["share"] == round(len(mine & kept) / len(mine), 4)
        assert set(part["not_collected"]) <= {url.removeprefix("https://") for url in mine - kept}
        assert len(part["not_collected"]) == min(5, len(mine - kept))
    assert half["share"] == round(half["collected"] / 24, 4)


def test_sites_and_folders_of_the_topic_join_without_a_person(done: tuple[LocalEngine, Step, Step, Step]) -> None:
    joined, report, table = grown(done)
    assert joined == under("topic", "half.org/math/")  # not the blog, not few.org, not the seed's own pages
    assert {row["domain"] for row in table if row["accept"]} >= {"topic0.org", "topic1.org", "topic2.org"}
    assert report.dropped["in_seed"] == 5
    assert report.kept + sum(report.dropped.values()) == len(POOL)
    assert report.notes["accepted_groups"] >= 3 and report.notes["accepted_prefixes"] >= 1


def test_collected_pages_may_be_left_out(done: tuple[LocalEngine, Step, Step, Step]) -> None:
    engine, _, _, selected = done
    kept = {row["url"] for row in rows_of(engine, selected, ["url"])}
    joined, report, _ = grown(done, add_collected=False)
    assert joined == under("topic", "half.org/math/") - kept
    assert report.dropped["collected"] == len(under("topic", "half.org/math/") & kept)


def test_the_bound_is_a_lower_bound_of_precision(done: tuple[LocalEngine, Step, Step, Step]) -> None:
    assert grown(done, bound=1.0)[0] == set()
    assert grown(done, least_pages=13)[0] == set()
    everything = grown(done, bound=0.0, least_pages=1, unlikely=0.0)[0]
    assert under("half.org/blog/") <= everything
    for row in grown(done)[2]:
        for part in [row, *row.get("prefixes", [])]:
            assert part["bound"] <= part["share"]
            assert not part["accept"] or (part["bound"] >= 0.65 and part["pages"] >= 3)


def test_pages_surely_off_topic_do_not_join_with_their_site(done: tuple[LocalEngine, Step, Step, Step], tmp_path: Path) -> None:
    blog, maths = under("half.org/blog/"), under("half.org/math/")
    joined, report, table = grown(done, bound=0.0, least_pages=1)
    assert next(row["accept"] for row in table if row["domain"] == "half.org")
    assert maths <= joined and not blog & joined
    assert report.dropped["unlikely"] >= len(blog)
    assert report.kept + sum(report.dropped.values()) == len(POOL)
    edited = tmp_path / "all.yaml"
    edited.write_text(yaml.safe_dump([{"domain": "half.org", "accept": True}]), "utf-8")
    joined, report, _ = grown(done, annotations=str(edited))  # what a person accepts joins whole
    assert joined == blog | maths and not report.dropped.get("unlikely")


def test_a_person_decides(done: tuple[LocalEngine, Step, Step, Step], tmp_path: Path) -> None:
    _engine, pool, scores, selected = done
    _, _, table = grown(done)
    for row in table:
        row["accept"] = row["domain"] == "topic1.org"
        for part in row.get("prefixes", []):
            part["accept"] = part["prefix"] == "half.org/blog/"
    table += [{"domain": "few.org", "prefixes": [{"prefix": "https://www.few.org/m/0.html", "accept": True}]}]
    table += [{"domain": "unheard.org", "accept": True}]
    edited = tmp_path / "math.yaml"
    edited.write_text(yaml.safe_dump(table), "utf-8")
    joined, report, _ = grown(done, annotations=str(edited))
    assert joined == under("topic1.org", "half.org/blog/", "few.org/m/0.html")
    assert report.notes["annotated_but_not_on_topic"] == ["unheard.org"]
    before = grow(pool, scores, selected, annotations=str(edited)).fingerprint
    edited.write_text(edited.read_text().replace("topic1.org\n", "topic2.org\n"), "utf-8")
    assert grow(pool, scores, selected, annotations=str(edited)).fingerprint != before


def test_a_malformed_table_is_refused_before_anything_runs(done: tuple[LocalEngine, Step, Step, Step], tmp_path: Path) -> None:
    bad = tmp_path / "math.yaml"
    bad.write_text("- domain: a.org\n  accept: perhaps\n")
    with pytest.raises(ConfigError, match=r"math\.yaml, line 2, `accept` is 'perhaps'; true or false expected"):
        grow(*done[1:], annotations=str(bad))


def test_the_same_for_other_shards(done: tuple[LocalEngine, Step, Step, Step], model: str, tmp_path: Path) -> None:
    pool = source("pool", POOL, 7)
    _, scores = round_of(pool, source("seed", SEED), model, max_tokens=100)
    selected = select(pool, scores, share=0.2)
    other = made(selected, tmp_path), pool, scores, selected
    assert grown(other)[0] == grown(done)[0] and grown(other)[2] == grown(done)[2]


def test_a_budget_larger_than_the_topic_accepts_no_more(done: tuple[LocalEngine, Step, Step, Step]) -> None:
    """What is collected because there was room is not sure."""
    engine, pool, scores, _ = done
    all_of_it = Step("all", select(pool, scores, share=1.0).config)
    run(all_of_it, engine)
    joined, _, table = grown((engine, pool, scores, all_of_it))
    assert joined == under("topic", "half.org/math/")
    assert len(table) > 40 and all(row["share"] == 1.0 for row in table)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 50), st.integers(1, 50), st.floats(0, 5))
def test_wilson_is_under_the_share_and_grows_with_pages(hits: int, more: int, z: float) -> None:
    n = hits + more
    low = float(wilson(np.array([hits]), np.array([n]), z)[0])
    assert -1e-12 <= low <= hits / n + 1e-12
    assert float(wilson(np.array([10 * hits]), np.array([10 * n]), z)[0]) >= low - 1e-12
    assert abs(float(wilson(np.array([8]), np.array([10]), 1.96)[0]) - 0.4902) < 1e-4  # a table's value


@pytest.mark.parametrize(
    "fields", [{"bound": 2.0}, {"confidence": -1.0}, {"least_pages": 0}, {"samples": -1}, {"unlikely": 1.0}]
)
def test_a_bad_field_is_named(done: tuple[LocalEngine, Step, Step, Step], fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        grow(*done[1:], **fields)


def test_a_round_by_other_scores_is_refused(done: tuple[LocalEngine, Step, Step, Step], model: str) -> None:
    _, pool, _scores, selected = done
    _, others = round_of(pool, source("seed", SEED), model, epochs=3)
    with pytest.raises(ConfigError, match="select_recall by the same scores expected"):
        Config(files=pool, scores=others, selected=selected)


def pages_of(group: str, folders: dict[str, tuple[int, int]]) -> pa.RecordBatch:
    """A batch as `route` sends it: of each folder (pages, of them collected and sure)."""
    rows = []
    for folder, (pages, sure) in folders.items():
        for i in range(pages):
            row = {"group": group, "one": f"{group}/{folder}/", "two": "", "collected": i < sure, "sure": i < sure}
            rows.append({**row, "place": f"{group}/{folder}/{i}.html", "key": i})
    return pa.RecordBatch.from_pylist(rows)


def test_what_is_accepted_does_not_depend_on_what_is_listed(
    done: tuple[LocalEngine, Step, Step, Step], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grow_seed, "_LISTED", 2)
    monkeypatch.setattr(grow_seed, "_TABLE", 3)
    config = grow(*done[1:], bound=0.5).config
    mixed = {f"math{i}": (6, 6) for i in range(9)} | {f"blog{i}": (90, 0) for i in range(9)}
    sites = [pages_of(f"open{i}.org", {"a": (9, i)}) for i in range(1, 8)] + [pages_of("mixed.org", mixed)]
    notes = survey(iter(sites), tmp_path, config, 1.0, False)
    accepted = read_json(tmp_path / "accepted.json")
    assert accepted is not None
    assert accepted["prefixes"] == [f"mixed.org/math{i}/" for i in range(9)]
    assert accepted["groups"] == ["open6.org", "open7.org"]  # six of nine: 0.50 at one deviation
    table = yaml.safe_load((tmp_path / "domains.yaml").read_text("utf-8"))
    assert [row["domain"] for row in table] == ["mixed.org", "open7.org", "open6.org", "open5.org", "open4.org", "open3.org"]
    assert notes["topic_groups"] == 8 and notes["topic_groups_not_listed"] == 2
    assert len(table[0]["prefixes"]) == 11 and table[0]["prefixes_not_listed"] == 7
    written = read_annotations(tmp_path / "domains.yaml")  # an unedited copy accepts the same
    assert (sorted(written.groups), sorted(written.prefixes)) == (accepted["groups"], accepted["prefixes"])


def test_where_nothing_could_be_held_back_nothing_joins_by_itself(tmp_path: Path, model: str) -> None:
    pool = source("pool", POOL)
    _, scores = round_of(pool, source("seed", SEED[:1]), model, max_tokens=100)
    selected = select(pool, scores, share=0.2)
    engine = made(selected, tmp_path)
    step = grow(pool, scores, selected, bound=0.01, least_pages=1)
    report = run(step, engine)[step.name]
    assert report.notes["topic_groups"] > 0 and report.notes["accepted"] == [] and report.kept == 0
