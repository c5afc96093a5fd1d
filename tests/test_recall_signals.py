"""Signals of pages in recall: words a classifier reads before the text, on both sides or on neither."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.classifier import first_ids
from corpus.document import text_buffers
from corpus.engine import LocalEngine
from corpus.errors import InputError
from corpus.recall import read_record
from corpus.recall_training import average_precision
from corpus.signals import WORDS, levels, with_signals
from corpus.step import Step
from corpus.tokenizer import load_encoder
from stages import score_recall
from tests.recall_pages import made, page, round_of, rows_of, score_table, site, source, tokenizer
from tests.test_classifier import reported

LEAST = (1, 0.25, 1, 1 / 128)


def batch(rows: list[tuple[str, int | None, int | None, float | None]]) -> pa.RecordBatch:
    text, formulas, blocks, share = zip(*rows, strict=True)
    columns = {
        "text": pa.array(text, pa.large_string()),
        "formulas": pa.array(formulas, pa.int32()),
        "code_blocks": pa.array(blocks, pa.int32()),
        "code_share": pa.array(share, pa.float32()),
    }
    return pa.RecordBatch.from_pydict(columns)


def level(value: float, least: float) -> int:
    found = 0
    while found < 15 and value >= least * 2**found:
        found += 1
    return found


COUNTS = st.none() | st.integers(0, 2**31 - 1)
SHARES = st.none() | st.floats(0, 1, width=32)


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=50), COUNTS, COUNTS, SHARES), min_size=1, max_size=5))
def test_levels_are_powers_of_two(rows: list[tuple[str, int | None, int | None, float | None]]) -> None:
    for found, (text, formulas, blocks, share) in zip(levels(batch(rows)).tolist(), rows, strict=True):
        values = (formulas or 0, (formulas or 0) / max(1, len(text)) * 1000, blocks or 0, share or 0.0)
        assert found == [level(value, least) for value, least in zip(values, LEAST, strict=True)]


def test_a_page_of_a_thousand_characters() -> None:
    rows = [("x" * 1000, 0, 0, 0.0), ("é" * 1000, 3, 1, 0.5), ("x" * 1000, 2**30, 2, 1.0), ("", None, None, None)]
    assert levels(batch(rows)).tolist() == [[0, 0, 0, 0], [2, 4, 1, 7], [15, 15, 2, 8], [0, 0, 0, 0]]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 100)), min_size=1, max_size=5), st.integers(1, 150))
def test_words_come_before_the_text_and_are_an_eighth_of_it(pages: list[tuple[int, int]], limit: int) -> None:
    pages_ = batch([("x", formulas, 0, 0.0) for _, formulas in pages])
    ends = np.cumsum([0, *(length for length, _ in pages)])
    ids = np.arange(ends[-1], dtype=np.uint32) % 400
    out, out_ends = with_signals(pages_, ids, ends, 400, limit)
    level_N4 = levels(pages_)
    for i, (length, _) in enumerate(pages):
        times = math.ceil(min(length, limit) / 32)
        words = [400 + 16 * k + int(level_N4[i, k]) for k in range(4) for _ in range(times)]
        assert out[out_ends[i] : out_ends[i + 1]].tolist() == words + ids[ends[i] : ends[i + 1]].tolist()
    assert len(out_ends) == len(pages) + 1 and out.max(initial=0) < 400 + WORDS


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tokenizer(tmp_path_factory.mktemp("tokenizer"))


def site_of(host: str, tex: bool, count: int = 6) -> list[tuple[str, str]]:
    """Pages of the same words, whether they have formulae or not."""
    folder = "tex/" if tex else "a/"
    return [(f"https://{host}/{folder}{i}", page(False, sum(map(ord, host)) * 100 + i)) for i in range(count)]


POOL = [row for s in range(30) for row in site_of(f"site{s}.org", s % 5 == 0)]
SEED = [row for s in range(4) for row in site_of(f"seed{s}.org", True)]


def ranked(root: Path, model: str, pool: Step, seed: Step, **fields: Any) -> tuple[float, dict[str, Any], LocalEngine, Step]:
    """(average precision on the pages with formulae, what the training says, …)."""
    trained, scores = round_of(pool, seed, model, **{"doubt": 0.0, **fields})
    engine = made(scores, root)
    on = np.array(["/tex/" in row["url"] for row in rows_of(engine, pool, ["url"])], np.int64)
    logit = score_table(engine, scores).column("logit").to_numpy()
    return average_precision(logit, on), read_record(engine, trained), engine, scores


def test_formulae_tell_pages_of_the_same_words_apart(tmp_path: Path, model: str) -> None:
    pool, seed = source("pool", POOL, signals=True), source("seed", SEED, signals=True)
    with_them, record, engine, scores = ranked(tmp_path, model, pool, seed)
    assert with_them > 0.95 and record["signals"] and record["words"] == load_encoder(model).vocab_size + WORDS
    without, plain, _, _ = ranked(tmp_path, model, pool, seed, signals=False)
    assert without < 0.6 and not plain["signals"] and plain["words"] == load_encoder(model).vocab_size
    # Stock fastText, given the same words, gives the same probabilities.
    encoder, found = load_encoder(model), []
    for name in engine.shards(pool).names:
        for rows in engine.shards(pool).read(name):
            words = with_signals(rows, *encoder.encode(*text_buffers(rows.column("text"))), encoder.vocab_size, 64)
            found += reported(engine.folder(scores.config.model) / "model.bin", *first_ids(*words, 64)).tolist()
    assert np.abs(score_table(engine, scores).column("score").to_numpy() - np.minimum(found, 1)).max() < 1e-5


@pytest.mark.parametrize("sides", [(True, False), (False, True)])
def test_signals_of_one_side_alone_are_not_read(tmp_path: Path, model: str, sides: tuple[bool, bool]) -> None:
    """They would be the label: a page has them if and only if it is of that side."""
    pool, seed = source("pool", POOL, signals=sides[0]), source("seed", site("a.org", True, 20), signals=sides[1])
    _, record, _, _ = ranked(tmp_path, model, pool, seed)
    assert not record["signals"]


def test_pages_without_signals_are_refused_by_a_model_that_reads_them(tmp_path: Path, model: str) -> None:
    trained, _ = round_of(source("pool", POOL, signals=True), source("seed", SEED, signals=True), model)
    others = Step("score", score_recall.Config(files=source("others", POOL), model=trained))
    with pytest.raises(InputError, match=r"have no formulas, code_blocks, code_share; score pages that it made, or train with"):
        made(others, tmp_path)
