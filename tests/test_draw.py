"""Drawing to a budget: keys come from the id alone, and the cut is where a sort of everything would put it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from corpus import draw
from corpus.document import text_buffers
from corpus.draw import draw_keys, weigh
from corpus.engine import LocalEngine
from corpus.runner import run
from corpus.step import Step
from tests.toys import texts

IDS = [f"{i * 7919:032x}" for i in range(5_000)]


def test_keys_come_from_seed_salt_and_id_alone() -> None:
    keys = draw_keys(pa.array(IDS), 1, "a")
    order = np.random.default_rng(0).permutation(len(IDS))
    assert np.array_equal(draw_keys(pa.array(IDS).take(pa.array(order)), 1, "a"), keys[order])
    assert np.array_equal(draw_keys(pa.array(IDS).slice(10, 5), 1, "a"), keys[10:15])
    for seed, salt in ((2, "a"), (1, "b")):
        other = draw_keys(pa.array(IDS), seed, salt)
        assert abs(np.corrcoef(keys / 2**64, other / 2**64)[0, 1]) < 0.06  # four standard deviations: independent
    assert len(np.unique(keys)) == len(IDS)
    # 64 bins of 78: chi-square of 63 degrees of freedom has mean 63 and deviation 11. High and low bits alike.
    for bits in (keys >> np.uint64(58), keys & np.uint64(63)):
        counts = np.bincount(bits.astype(np.int64), minlength=64)
        assert 20 < ((counts - 78.125) ** 2 / 78.125).sum() < 120


def measure(batch: pa.RecordBatch) -> np.ndarray:
    return np.diff(text_buffers(batch.column("text"))[0])


@pytest.mark.parametrize("rows", [1 << 20, 40])
def test_the_cut_is_the_sorts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(draw, "_ROWS", rows)  # one partition of keys, and eight
    documents = [(name, "x" * (i % 13)) for i, name in enumerate(IDS[:300])]
    step = Step("texts", texts.Config(shards=tuple(tuple(documents[i : i + 90]) for i in range(0, 300, 90))))
    engine = LocalEngine(tmp_path)
    run(step, engine)
    weighed = weigh(measure, step, tmp_path / "out", engine, name="weights", seed=5, salt="s")
    total = sum(len(text) for _, text in documents)
    assert (weighed.weight, weighed.documents, weighed.bytes) == (total, 300, total)
    assert len(weighed.weights) == max(1, -(-300 // rows))
    keys = draw_keys(pa.array([name for name, _ in documents]), 5, "s")
    order = np.argsort(keys)
    ends = np.cumsum([len(documents[i][1]) for i in order])
    for budget in (1, 2, 17, total // 2, total - 1, total):
        k = int(np.searchsorted(ends, budget))
        assert weighed.cut(budget) == (int(keys[order[k]]), int(ends[k]))
    assert weighed.cut(0) == (None, 0)
    last, drawn = weighed.cut(total + 1)
    assert last is not None and last >= keys.max() and drawn == total
