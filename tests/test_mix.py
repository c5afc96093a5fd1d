"""mix: shares by tokens, every document accounted for, the same whatever the shards."""

from __future__ import annotations

import functools
import itertools
import random
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corpus.document import document_id
from corpus.engine import LocalEngine
from corpus.errors import ConfigError, InputError
from corpus.report import Report
from corpus.runner import run
from corpus.step import Step
from corpus.tokenizer import load_encoder, train_bpe
from stages.mix import Config, Source
from tests.toys import texts

Rows = list[tuple[str, str]]

CODE: Rows = [(f"code{i}", f"def f{i}(x):\n    return {i}\n" * (1 + i % 9)) for i in range(300)]
MATH: Rows = [(f"math{i}", f"Let x = {i}; then x^2 = {i * i}. " * (1 + i % 5)) for i in range(60)]
PROSE: Rows = [(f"prose{i}", "once upon a time there was a shard " * (1 + i % 11)) for i in range(500)]


@functools.cache
def tokenizer() -> str:
    path = Path(tempfile.mkdtemp()) / "tokenizer.json"
    path.write_text(train_bpe([text for _, text in CODE + MATH + PROSE], 300), "utf-8")
    return str(path)


def shards_of(rows: Rows, size: int = 50, shuffle: int | None = None) -> tuple[tuple[tuple[str, str], ...], ...]:
    rows = list(rows)
    if shuffle is not None:
        random.Random(shuffle).shuffle(rows)
    return tuple(tuple(rows[i : i + size]) for i in range(0, len(rows), size))


def source(
    name: str,
    rows: Rows,
    share: float,
    max_epochs: float = 4.0,
    column: str = "",
    long: tuple[int, float] | None = None,
    **layout: int,
) -> Source:
    step = Step(name, texts.Config(shards=shards_of(rows, **layout), column=column))
    long_tokens, long_factor = long or (None, 1.0)
    return Source(name=name, files=step, share=share, max_epochs=max_epochs, long_tokens=long_tokens, long_factor=long_factor)


def mixed(root: Path, *sources: Source, **fields: int) -> tuple[Report, pa.Table, Path]:
    engine = LocalEngine(root)
    step = Step("mix", Config(sources=sources, tokenizer=tokenizer(), **fields))
    report = run(step, engine)["mix"]
    folder = engine.folder(step)
    return report, pq.read_table(sorted((folder / "shards").glob("*.parquet"))), folder


def tokens(rows: Rows) -> int:
    from tokenizers import Tokenizer

    oracle = Tokenizer.from_file(tokenizer())
    return sum(len(oracle.encode(text).ids) + 1 for _, text in rows)


def test_one_source_is_shuffled_and_kept_whole(tmp_path: Path) -> None:
    report, table, _ = mixed(tmp_path, source("code", CODE, 1.0))
    assert report.read == report.kept == len(CODE) and not report.dropped
    found = list(zip(table.column("id").to_pylist(), table.column("text").to_pylist(), strict=True))
    assert sorted(found) == sorted(CODE)
    ranks = [int(name[4:]) for name, _ in found]
    # Neighbours in a random order of 300 lie 100 apart on average (standard deviation of the mean: 4).
    assert 80 < sum(abs(a - b) for a, b in itertools.pairwise(ranks)) / 299 < 120
    notes = report.notes["sources"]["code"]
    assert notes["tokens"] == notes["drawn"] == tokens(CODE)
    assert notes["epochs"] == 1 and notes["share_reached"] == 1
    _, again, _ = mixed(tmp_path / "other", source("code", CODE, 1.0), seed=1)
    assert again.column("id").to_pylist() != table.column("id").to_pylist()


def test_shares_are_reached_by_tokens(tmp_path: Path) -> None:
    sources = (source("code", CODE, 6), source("math", MATH, 1), source("prose", PROSE, 3))
    report, table, folder = mixed(tmp_path, *sources, tokens=6_000)
    rows = {"code": CODE, "math": MATH, "prose": PROSE}
    drawn = Counter(table.column("id").to_pylist())
    assert max(drawn.values()) == 1
    for name, share in (("code", 0.6), ("math", 0.1), ("prose", 0.3)):
        chosen = [row for row in rows[name] if row[0] in drawn]
        longest = max(tokens([row]) for row in rows[name])
        assert tokens(chosen) == report.notes["sources"][name]["drawn"]
        assert 0 <= tokens(chosen) - 6_000 * share < longest  # exact to one document
    assert report.kept == table.num_rows
    assert report.dropped == {"not_drawn": 860 - table.num_rows}
    gone = pq.read_table(folder / "dropped").to_pylist()
    assert {row["id"] for row in gone} == {name for part in rows.values() for name, _ in part} - set(drawn)
    sizes = {name: len(text) for part in rows.values() for name, text in part}
    assert all(row["bytes"] == sizes[row["id"]] and " of " in row["evidence"] for row in gone)


def test_a_scarce_source_is_repeated_and_a_plentiful_one_cut(tmp_path: Path) -> None:
    report, table, folder = mixed(tmp_path, source("math", MATH, 0.5, max_epochs=2.5), source("prose", PROSE, 0.5))
    notes = report.notes["sources"]
    longest = max(tokens([row]) for row in MATH)
    assert 0 <= notes["math"]["drawn"] - 2.5 * tokens(MATH) < longest
    assert abs(notes["math"]["share_reached"] - 0.5) < 0.02
    lineage = pq.read_table(folder / "lineage").to_pylist()
    made = dict(zip(table.column("id").to_pylist(), table.column("text").to_pylist(), strict=True))
    assert len(made) == table.num_rows == report.written  # ids stay unique
    assert report.created == len(lineage) > 0
    given = dict(MATH + PROSE)
    epochs = Counter(name for name in given if name in made)  # the first copy is the document itself
    for row in lineage:
        assert made[row["into"]] == given[row["id"]]
        assert (row["start"], row["stop"]) == (0, len(given[row["id"]].encode()))
        epochs[row["id"]] += 1
    for name, times in epochs.items():
        assert {row["into"] for row in lineage if row["id"] == name} == {
            document_id(f"{name}\n{epoch}") for epoch in range(1, times)
        }
    assert {epochs[name] for name, _ in MATH} == {2, 3}
    assert max(epochs[name] for name, _ in PROSE) == 1
    assert report.read == 560 == report.kept + report.dropped["not_drawn"]


def sizes(rows: Rows) -> dict[str, int]:
    return {name: tokens([(name, text)]) for name, text in rows}


@pytest.mark.parametrize(("budget", "factor"), [(3_000, 3.0), (9_000, 1.5), (None, 2.0), (40_000, 4.0)])
def test_long_documents_are_drawn_more_often(tmp_path: Path, budget: int | None, factor: float) -> None:
    size = sizes(PROSE)
    least = sorted(size.values())[-100]
    long = {name for name in size if size[name] >= least}
    prose = source("prose", PROSE, 0.75, max_epochs=8, long=(least, factor))
    sources = (prose, source("code", CODE, 0.25, max_epochs=8))
    report, table, folder = mixed(tmp_path, *sources, **({"tokens": budget} if budget else {}))
    came = {row["into"]: row["id"] for row in pq.read_table(folder / "lineage").to_pylist()} if report.created else {}
    times = Counter(came.get(name, name) for name in table.column("id").to_pylist())
    notes = report.notes["sources"]["prose"]
    drawn = sum(size[name] * times[name] for name in size)
    assert notes["drawn"] == drawn and notes["epochs"] == round(drawn / sum(size.values()), 4)
    of_long = sum(size[name] * times[name] for name in long)
    assert (notes["long_tokens"], notes["long_drawn"]) == (sum(size[name] for name in long), of_long)
    # Shares by tokens stay exact to a document, and an epoch of the others is `factor` epochs of the long ones.
    total = budget or notes["drawn"] / notes["share_asked"]
    assert abs(drawn - 0.75 * total) <= max(size.values())
    others = sum(size.values()) - notes["long_tokens"]
    epoch = others + factor * notes["long_tokens"]
    assert abs(of_long - 0.75 * total * factor * notes["long_tokens"] / epoch) <= max(size.values())
    for group in (long, set(size) - long):
        assert len({times[name] for name in group}) <= 2
    assert report.read == 800 == report.kept + sum(report.dropped.values())
    again = mixed(tmp_path / "b", source("prose", PROSE, 0.75, 8, long=(least, factor), size=33, shuffle=3), sources[1],
                  **({"tokens": budget} if budget else {}))[1]  # fmt: skip
    assert again.column("id").to_pylist() == table.column("id").to_pylist()


def test_all_or_none_of_a_source_may_be_long(tmp_path: Path) -> None:
    plain = mixed(tmp_path / "a", source("code", CODE, 1))[1]
    for long in ((1_000_000, 3.0), (1, 1.0)):
        same = mixed(tmp_path / str(long[0]), source("code", CODE, 1, long=long))[1]
        assert same.equals(plain)
    twice = mixed(tmp_path / "b", source("code", CODE, 1, long=(1, 2.0)))[0]
    assert twice.notes["sources"]["code"]["epochs"] == 2 and twice.created == twice.kept == 300


def test_same_documents_for_any_shards(tmp_path: Path) -> None:
    def both(root: Path, **layout: int) -> pa.Table:
        sources = (source("math", MATH, 0.4, **layout), source("prose", PROSE, 0.6, **layout))
        return mixed(root, *sources)[1]

    one, two = both(tmp_path / "a"), both(tmp_path / "b", size=33, shuffle=7)
    assert one.column("id").to_pylist() == two.column("id").to_pylist()
    assert one.equals(two)


def test_a_larger_budget_draws_a_superset(tmp_path: Path) -> None:
    drawn = []
    for budget in (1_000, 3_000):
        drawn.append(set(mixed(tmp_path, source("prose", PROSE, 1), tokens=budget)[1].column("id").to_pylist()))
    assert drawn[0] < drawn[1]


def test_columns_are_united(tmp_path: Path) -> None:
    _, table, _ = mixed(tmp_path, source("code", CODE, 0.5, column="score"), source("prose", PROSE, 0.5))
    for score, text in zip(table.column("score").to_pylist(), table.column("text").to_pylist(), strict=True):
        assert score == (len(text) / 2 if text.startswith("def") else None)


def test_more_than_there_is_is_refused_with_the_figure(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"the sources give {2 * tokens(MATH):,}"):
        mixed(tmp_path, source("math", MATH, 1, max_epochs=2), tokens=10 * tokens(MATH))
    with pytest.raises(InputError, match="source empty"):
        mixed(tmp_path, source("math", MATH, 1), Source(name="empty", files=Step("empty", texts.Config(shards=((),))), share=1))


def test_bad_settings_are_refused() -> None:
    good = source("code", CODE, 1)
    for sources, message in [
        ((), "sources is empty"),
        ((good, good), "same name"),
        ((good, Source(name="again", files=good.files, share=1)), "same files"),
        ((source("code", CODE, 0),), "share is 0"),
        ((source("code", CODE, float("nan")),), "share is nan"),
        ((source("code", CODE, 1, max_epochs=0),), "max_epochs is 0"),
        ((source("code", CODE, 1, long=(0, 2.0)),), "long_tokens is 0"),
        ((source("code", CODE, 1, long=(9, 0.5)),), "long_factor is 0.5"),
        ((Source(name="code", files=good.files, share=1, long_factor=2.0),), "long_factor is 2.0"),
    ]:
        with pytest.raises(ConfigError, match=message):
            Config(sources=sources, tokenizer=tokenizer())
    with pytest.raises(ConfigError, match="tokens is 0"):
        Config(sources=(good,), tokenizer=tokenizer(), tokens=0)
    assert load_encoder(tokenizer()).library == "gigatoken"
