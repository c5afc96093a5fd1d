"""corpus/classifier.py beside fasttext itself: the same lines, features and probabilities, and bytes that do not change."""

from __future__ import annotations

import io
import itertools
import struct
import subprocess
import sys
from pathlib import Path

import fasttext
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus import classifier_kernels
from corpus.classifier import Scorer, Setting, collapse, first_ids, probability, read_table, train, write_table, write_training
from corpus.classifier_kernels import _WORDS, decimal_hashes, word_hash
from corpus.errors import InputError

WORDS = 40_000
SMALL = Setting(dim=8, rate=0.5, epochs=5, buckets=5_000)


def documents(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ids, ends, labels): ids are Zipf-like, so many are rare, and label 1 has favourites of its own."""
    rng = np.random.default_rng(seed)
    lengths = np.maximum(rng.integers(-20, 200, count), 0)  # some are empty
    label = np.arange(count) % 2
    ids = np.minimum(rng.pareto(0.5, lengths.sum()).astype(np.uint64) * 7, WORDS - 1).astype(np.uint32)
    owner = np.repeat(label, lengths)
    ids[(owner == 1) & (rng.random(len(ids)) < 0.05)] = 1234
    return ids, np.concatenate([[0], np.cumsum(lengths)]), label


def trained(folder: Path, setting: Setting = SMALL, limit: int = 1000) -> Path:
    ids, ends, label = documents(300)
    with open(folder / "lines", "wb") as file:
        write_training(file, ids, ends, label, limit)
    train(folder / "lines", setting, folder / "model.bin")
    return folder / "model.bin"


def reported(model: Path, ids: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The probability of "topic" that fasttext gives each document."""
    loaded = fasttext.load_model(str(model))
    found = []
    for a, b in itertools.pairwise(ends):
        labels, values = loaded.predict(" ".join(map(str, ids[a:b])), k=2)
        found.append(dict(zip(labels, values, strict=True))["__label__topic"])
    return np.array(found)


@pytest.mark.parametrize("runs", [1, 2, 3, 5])
@pytest.mark.parametrize("min_count", [1, 4])
def test_scores_are_those_of_fasttext(tmp_path: Path, runs: int, min_count: int) -> None:
    model = trained(tmp_path, Setting(dim=8, rate=0.5, epochs=5, buckets=5_000, runs=runs, min_count=min_count))
    ids, ends, _ = documents(400, seed=1)
    scorer = collapse(model, WORDS, 10**6)
    assert (scorer.known_V == 0).any() and scorer.known_V.any()  # words out of the vocabulary are met too
    assert np.abs(probability(scorer.logits(ids, ends)) - np.minimum(reported(model, ids, ends), 1)).max() < 1e-5
    assert (np.diff(ends) == 0).any()  # and empty documents


@pytest.mark.parametrize(("runs", "buckets"), [(1, 10), (2, 9_973), (3, 2_000_000), (6, 9_973), (3, 1)])
def test_long_documents_lose_no_run_of_words(runs: int, buckets: int) -> None:
    """Rows are looked up _WORDS at a time; in a mean of thousands one lost at a border would pass for fastText's rounding."""
    rng = np.random.default_rng(runs)
    value = rng.normal(size=5_000).astype(np.float32), rng.normal(size=buckets).astype(np.float32)
    hash_V = decimal_hashes(5_000)
    scorer = Scorer(value[0], np.ones(5_000, np.uint8), hash_V, value[1], (word_hash(b"</s>"), 0.5, 1), runs, 4 * _WORDS)
    lengths = [0, 1, 2, runs, _WORDS - 1, _WORDS, _WORDS + 1, 2 * _WORDS - 2, 3 * _WORDS + 7, 5 * _WORDS]
    ids, ends = rng.integers(0, 5_000, sum(lengths)).astype(np.uint32), np.cumsum([0, *lengths])
    expected = []
    for a, b in itertools.pairwise(ends):
        words = ids[a : min(b, a + scorer.limit)]
        hashes = [*hash_V[words].tolist(), scorer.end[0]]
        found = [*value[0][words].tolist(), 0.5]
        for length in range(2, runs + 1):
            for first in range(len(hashes) - length + 1):
                h = 0
                for word in hashes[first : first + length]:
                    h = (h * 116049371 + word) % 2**64
                found.append(float(value[1][h % len(value[1])]))
        expected.append(np.mean(found))
    assert np.abs(scorer.logits(ids, ends) - expected).max() < 1e-6


@given(st.integers(0, 2**64 - 1), st.integers(1, 2**31 - 1))
def test_a_remainder_without_division(n: int, divisor: int) -> None:
    for value in (n, n // divisor * divisor, max(0, n // divisor * divisor - 1), 2**64 - 1):
        words = np.uint64(value), np.uint64(divisor), np.uint64((2**64 - 1) // divisor)
        assert classifier_kernels._modulo(*words) == value % divisor


def test_real_texts_in_many_scripts(tmp_path: Path, corpus_data: Path) -> None:
    """Thousands of real files, through a real tokenizer."""
    import json

    import pyarrow as pa
    import zstandard

    from corpus.document import text_buffers
    from corpus.tokenizer import load_encoder, train_bpe

    with open(corpus_data / "langid" / "samples.jsonl.zst", "rb") as file:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8").readlines()
    rows = [json.loads(line) for line in lines]
    (tmp_path / "tokenizer.json").write_text(train_bpe((row["text"] for row in rows[::4]), 3_000), "utf-8")
    encoder = load_encoder(tmp_path / "tokenizer.json")
    ids, ends = encoder.encode(*text_buffers(pa.array([row["text"] for row in rows], pa.large_string())))
    label = np.array([row["language"] in ("Python", "C", "Rust", "Java", "Go") for row in rows], np.int64)
    with open(tmp_path / "lines", "wb") as out:
        write_training(out, ids, ends, label, 300)
    train(tmp_path / "lines", Setting(dim=8, rate=0.5, epochs=2, buckets=20_000), tmp_path / "model.bin")
    ours = probability(collapse(tmp_path / "model.bin", encoder.vocab_size, 10**6).logits(ids, ends))
    assert len(rows) > 2000
    assert np.abs(ours - np.minimum(reported(tmp_path / "model.bin", ids, ends), 1)).max() < 1e-5


def test_the_table_on_disk_scores_the_same(tmp_path: Path) -> None:
    scorer = collapse(trained(tmp_path), WORDS, 50)
    write_table(tmp_path / "table.npy", scorer)
    again = read_table(tmp_path / "table.npy", WORDS, scorer.runs, 50)
    ids, ends, _ = documents(100, seed=2)
    assert (again.logits(ids, ends) == scorer.logits(ids, ends)).all()


def test_training_twice_gives_the_same_bytes_in_another_process_too(tmp_path: Path) -> None:
    first = trained(tmp_path).read_bytes()
    code = (
        "import sys, numpy; from pathlib import Path; from corpus.classifier import Setting, train; "
        "junk = [bytearray(b'\\xff' * 100_000) for _ in range(300)]; del junk; "  # a heap that is not all zeros
        "train(Path(sys.argv[1]), Setting(dim=8, rate=0.5, epochs=5, buckets=5_000), Path(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "lines"), str(tmp_path / "again.bin")], check=True)
    assert (tmp_path / "again.bin").read_bytes() == first
    assert trained(tmp_path, Setting(dim=8, rate=0.5, epochs=5, buckets=5_000, seed=1)).read_bytes() != first


def test_a_limit_cuts_documents_in_training_and_scoring(tmp_path: Path) -> None:
    ids, ends, label = documents(100)
    short, short_ends = first_ids(ids, ends, 7)
    assert np.diff(short_ends).tolist() == np.minimum(np.diff(ends), 7).tolist()
    a, b = io.BytesIO(), io.BytesIO()
    write_training(a, ids, ends, label, 7)
    write_training(b, short, short_ends, label, 10**6)
    assert a.getvalue() == b.getvalue()
    assert a.getvalue().split(b"\n")[1].startswith(b"__label__topic ")
    model = trained(tmp_path)
    whole, cut = collapse(model, WORDS, 10**6), collapse(model, WORDS, 7)
    assert (whole.logits(short, short_ends) == cut.logits(ids, ends)).all()
    assert (whole.logits(ids, ends) != cut.logits(ids, ends)).any()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), max_size=20))
def test_lines_are_decimal_numbers(ids: list[int]) -> None:
    out = io.BytesIO()
    write_training(out, np.array(ids, np.uint32), np.array([0, len(ids)]), np.array([0]), 100)
    assert out.getvalue().split() == [b"__label__other", *(str(i).encode() for i in ids)]
    assert out.getvalue().endswith(b"\n")


def test_hashes_of_ids_are_hashes_of_their_words() -> None:
    table = decimal_hashes(1_000_001)
    assert [int(table[i]) for i in (0, 9, 10, 99_999, 1_000_000)] == [
        word_hash(str(i).encode()) for i in (0, 9, 10, 99_999, 1_000_000)
    ]
    assert word_hash(b"") == 2166136261 - 2**32
    assert word_hash("é".encode()) == word_hash(b"\xc3\xa9")  # bytes over 127 are negative numbers to fastText


def test_what_is_no_such_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "junk.bin").write_bytes(b"x" * 1000)
    with pytest.raises(InputError, match="not a fastText model"):
        collapse(tmp_path / "junk.bin", 10, 10)
    (tmp_path / "short.bin").write_bytes(b"x")
    with pytest.raises(InputError, match="not a fastText model"):
        collapse(tmp_path / "short.bin", 10, 10)
    model = trained(tmp_path)
    data = model.read_bytes()
    (tmp_path / "cut.bin").write_bytes(data[:300])
    with pytest.raises(InputError, match=r"cut\.bin"):
        collapse(tmp_path / "cut.bin", WORDS, 10)
    (tmp_path / "half.bin").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"half\.bin"):
        collapse(tmp_path / "half.bin", WORDS, 10)
    with pytest.raises(InputError, match="not trained on the ids of this tokenizer"):
        collapse(model, 100, 10)
    (tmp_path / "lines").write_text("__label__topic a b a b a b\n__label__other b c b c b c\n")
    train(tmp_path / "lines", SMALL, tmp_path / "words.bin")
    with pytest.raises(InputError, match="not trained on the ids"):
        collapse(tmp_path / "words.bin", WORDS, 10)
    (tmp_path / "lines").write_text("__label__a 1 1 1\n__label__b 2 2 2\n__label__c 3 3 3\n")
    train(tmp_path / "lines", SMALL, tmp_path / "three.bin")
    with pytest.raises(InputError, match="two labels"):
        collapse(tmp_path / "three.bin", WORDS, 10)
    (tmp_path / "lines").write_text("")
    with pytest.raises(InputError, match="cannot train"):
        train(tmp_path / "lines", SMALL, tmp_path / "none.bin")
    assert struct.calcsize("<iiiqq") == 28  # the layout the reader counts on


def test_ids_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    scorer: Scorer = collapse(trained(tmp_path), WORDS, 10)
    with pytest.raises(InputError, match="another tokenizer"):
        scorer.logits(np.array([WORDS], np.uint32), np.array([0, 1]))


def test_probability_is_monotone_and_bounded() -> None:
    values = probability(np.array([-1e9, -30, -1, 0, 1, 30, 1e9], np.float32))
    assert (np.diff(values) >= 0).all() and values.min() >= 0 and values.max() <= 1
    assert abs(float(values[3]) - 0.50001) < 1e-6
