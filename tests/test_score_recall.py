"""stages/score_recall.py: every page of the pool gets the score that fastText itself gives its first tokens, and a rank."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import fasttext
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.document import batch_of, text_buffers
from corpus.engine import LocalEngine
from corpus.errors import ConfigError, CorruptFile
from corpus.explain import explain
from corpus.recall import HELD, HELD_ROW, SCORES, read_record, sample_keys, scored
from corpus.runner import run
from corpus.shards import read_array
from corpus.step import Step
from corpus.tokenizer import load_encoder
from stages.score_recall import Config, Reader, load, score, unseen
from tests.recall_pages import made, round_of, rows_of, score_table, site, source, tokenizer, web

SEED = site("seed.org", True, 20)
LIMIT = 64


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, model: str) -> tuple[LocalEngine, Step, Step]:
    """(engine, pool, scores)."""
    odd = [("https://a.org/empty", ""), ("nowhere", "theorem " * 500), ("https://b.org/", "\0 Ωmega 漢字 \U0001f469")]
    pool = source("pool", web() + odd)
    _, scores = round_of(pool, source("seed", SEED), model)
    return made(scores, tmp_path_factory.mktemp("root")), pool, scores


def reported(stock: Any, encoder: Any, texts: list[str]) -> np.ndarray:
    """The probability of the topic by fastText itself."""
    ids, ends = encoder.encode(*text_buffers(pa.array(texts, pa.large_string())))
    lines = [" ".join(map(str, ids[a : min(a + LIMIT, b)])) for a, b in itertools.pairwise(ends)]
    found = [dict(zip(*stock.predict(line, k=2), strict=True))["__label__topic"] for line in lines]
    return np.minimum(np.array(found), 1)


def test_scores_are_those_of_fasttext(done: tuple[LocalEngine, Step, Step], model: str) -> None:
    engine, pool, scores = done
    rows = rows_of(engine, pool, ["id", "text"])
    table = score_table(engine, scores)
    assert table.schema.equals(SCORES) and table.column("id").to_pylist() == [row["id"] for row in rows]
    stock = fasttext.load_model(str(engine.folder(scores.config.model) / "model.bin"))
    expected = reported(stock, load_encoder(model), [row["text"] for row in rows])
    assert np.abs(table.column("score").to_numpy() - expected).max() < 1e-5
    assert expected.max() > 0.9 and expected.min() < 0.1  # not all the same
    logit = table.column("logit").to_numpy().astype(np.float64)
    held = read_array(engine.folder(scores.config.model) / HELD)
    trained_on = np.isin(sample_keys(table.column("id").combine_chunks(), 0), held["key"])
    assert 100 < trained_on.sum() < len(rows)
    assert np.abs(1 / (1 + np.exp(-logit)) - expected)[~trained_on].max() < 3e-5


def test_a_page_trained_on_ranks_by_a_model_that_has_not_seen_its_site(tmp_path: Path, model: str) -> None:
    """A site that is in the seed by mistake: the model knows its pages by heart, and they do not rank by that."""
    wrong = site("wrong.com", False, 12)
    pool, seed = source("pool", web() + wrong), source("seed", [*SEED, *wrong])
    _, scores = round_of(pool, seed, model, epochs=60)
    engine = made(scores, tmp_path)
    urls = [row["url"] for row in rows_of(engine, pool, ["url"])]
    table = score_table(engine, scores)
    mistaken = np.array(["wrong.com" in url for url in urls])
    assert table.column("score").to_numpy()[mistaken].min() > 0.5
    assert table.column("logit").to_numpy()[mistaken].max() < 0
    (told,) = (line for line in explain(scores, tmp_path, "https://wrong.com/a/3.html") if "scored" in line)
    assert re.search(r"scored   0\.[5-9]\d+, ranks by 0\.[0-4]\d+ with its site unseen, \d+ tokens, of wrong.com", told)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.integers(0, 40), st.floats(-9, 9, width=32)), st.lists(st.integers(0, 40)))
def test_what_is_held_is_looked_up(of: dict[int, float], keys: list[int]) -> None:
    held = np.array(sorted(of.items()), HELD_ROW)
    found = unseen(np.full(len(keys), 77, np.float32), np.array(keys, np.uint64), held)
    assert found.tolist() == [of.get(key, 77) for key in keys]


def test_tokens_are_of_the_whole_text_and_groups_are_domains(done: tuple[LocalEngine, Step, Step], model: str) -> None:
    engine, pool, scores = done
    table = score_table(engine, scores).to_pylist()
    rows = rows_of(engine, pool, ["url", "text"])
    encoder = load_encoder(model)
    _, ends = encoder.encode(*text_buffers(pa.array([row["text"] for row in rows], pa.large_string())))
    assert [row["tokens"] for row in table] == np.diff(ends).tolist() and max(np.diff(ends)) > LIMIT
    assert [row["group"] for row in table] == [row["url"].split("/")[2] if "//" in row["url"] else "" for row in rows]


def test_every_page_is_kept_and_the_encoder_is_reported(done: tuple[LocalEngine, Step, Step]) -> None:
    engine, _pool, scores = done
    report = run(scores, engine)["score_recall" if scores.name == "score_recall" else scores.name]
    assert report.read == len(web()) + 3 and not report.dropped
    assert report.notes["encoder"] == "gigatoken" and report.notes["tokens"] > 0


def test_scores_do_not_depend_on_shards(done: tuple[LocalEngine, Step, Step], model: str, tmp_path: Path) -> None:
    engine, pool, scores = done
    rows = [(row["url"], row["text"]) for row in rows_of(engine, pool, ["url", "text"])]
    _, other = round_of(source("pool", rows, 7), source("seed", SEED), model)
    mine, theirs = (score_table(e, s).sort_by("id") for e, s in ((engine, scores), (made(other, tmp_path), other)))
    assert mine.equals(theirs)


@pytest.fixture(scope="module")
def reader(done: tuple[LocalEngine, Step, Step], model: str) -> tuple[Reader, Any]:
    engine, _, scores = done
    record = read_record(engine, scores.config.model)
    folder = engine.folder(scores.config.model)
    facts = record["words"], record["runs"], record["max_tokens"]
    return load(Path(model), folder, facts, record["signals"]), fasttext.load_model(str(folder / "model.bin"))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=200), min_size=1, max_size=4))
def test_any_text(reader: tuple[Reader, Any], texts: list[str]) -> None:
    ours, stock = reader
    batch = batch_of([{"id": f"{i:032x}", "text": text, "url": f"https://a.org/{i}"} for i, text in enumerate(texts)])
    found = score(batch, ours, "domain", 0).column("score").to_numpy()
    assert np.abs(found - reported(stock, ours.encoder, texts)).max() < 1e-5


def test_scores_of_other_pages_are_refused(done: tuple[LocalEngine, Step, Step]) -> None:
    engine, pool, scores = done
    beside = scored(engine, pool, scores)
    assert beside.scores is not None
    first, second = beside.names[:2]
    swapped = {first: second, second: first}
    mixed = type(beside)(beside.folder, beside.files, beside.step, Swapped(beside.scores, swapped))  # type: ignore[arg-type]
    with pytest.raises(CorruptFile, match="not of its documents"):
        list(mixed.read(first))


class Swapped:
    """Side files under each other's names."""

    def __init__(self, real: Any, swapped: dict[str, str]) -> None:
        self.real, self.swapped, self.folder = real, swapped, real.folder

    def read(self, name: str) -> Any:
        return self.real.read(self.swapped[name])


def test_a_step_that_is_no_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="a train_recall step expected"):
        Config(files=source("pool", web()), model=source("seed", SEED))
