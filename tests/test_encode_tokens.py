"""encode_tokens: FIM can be undone, does not depend on neighbours, and every document is found again through the map."""

from __future__ import annotations

import dataclasses
import functools
import random
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from corpus.document import batch_of
from corpus.engine import LocalEngine
from corpus.errors import ConfigError
from corpus.runner import run
from corpus.step import Step
from corpus.tokenizer import SPECIAL_TOKENS, Encoder, load_encoder, train_bpe
from corpus.tokens import TokenShards, decode_document, locate, token_bytes
from stages.encode_tokens import Config, encode
from tests.toys import texts

BEGIN, HOLE, END, EOS = 403, 402, 404, 401
FILES = Step("texts", texts.Config(shards=()))
TEXTS = st.lists(
    st.text() | st.sampled_from(["naïve €uro\n", "\U0001f469\u200d\U0001f467", *SPECIAL_TOKENS.values()]), max_size=5
)


@functools.cache
def tokenizer() -> str:
    path = Path(tempfile.mkdtemp()) / "tokenizer.json"
    path.write_text(train_bpe([Path(__file__).read_text("utf-8")], 400), "utf-8")
    return str(path)


@functools.cache
def encoder() -> Encoder:
    return load_encoder(tokenizer())


@functools.cache
def table() -> pa.LargeBinaryArray:
    return token_bytes(tokenizer())


def config(**fields: object) -> Config:
    return Config(**{"files": FILES, "tokenizer": tokenizer(), **fields})  # type: ignore[arg-type]


def documents(rows: list[str], first: int = 0) -> pa.RecordBatch:
    return batch_of([{"id": f"document {first + i}", "text": text} for i, text in enumerate(rows)])


def sequences(batch: pa.RecordBatch, settings: Config) -> tuple[list[np.ndarray], np.ndarray]:
    ids, lengths, cuts = encode(batch, settings, encoder())
    return np.split(ids, np.cumsum(lengths)[:-1]) if len(lengths) else [], cuts


@settings(deadline=None, max_examples=80)
@given(TEXTS, st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0]), st.booleans())
def test_every_document_decodes_to_its_text(rows: list[str], rate: float, spm_rate: float, eos: bool) -> None:
    found, cuts = sequences(documents(rows), config(fim_rate=rate, fim_spm_rate=spm_rate, append_eos=eos))
    assert len(found) == len(rows)
    for ids, text, start in zip(found, rows, cuts[:, 0].tolist(), strict=True):
        assert decode_document(ids, table(), encoder().special) == text.encode()
        if rate != 0.5:
            assert (start >= 0) == (rate == 1 and text != "")
        assert np.flatnonzero(ids == EOS).tolist() == ([len(ids) - 1] if eos else [])


@settings(deadline=None, max_examples=80)
@given(TEXTS, st.sampled_from([0.0, 1.0]))
def test_fim_is_psm_of_pieces_encoded_apart(rows: list[str], spm_rate: float) -> None:
    """And SPM is that without a prefix: begin hole SUFFIX end PREFIX MIDDLE."""
    oracle = Tokenizer.from_file(tokenizer())
    oracle.encode_special_tokens = True
    found, cuts = sequences(documents(rows), config(fim_rate=1.0, fim_spm_rate=spm_rate))
    assert spm_rate == 0 or (cuts[:, 0] <= 0).all()
    for ids, text, (start, stop) in zip(found, rows, cuts.tolist(), strict=True):
        if start < 0:
            assert text == "" and ids.tolist() == [EOS]
            continue
        raw = text.encode()
        # .decode() fails on a cut inside a character.
        prefix, middle, suffix = (oracle.encode(p.decode()).ids for p in (raw[:start], raw[start:stop], raw[stop:]))
        assert ids.tolist() == [BEGIN, *prefix, HOLE, *suffix, END, *middle, EOS]


@settings(deadline=None, max_examples=80)
@given(st.text(min_size=1), st.integers(0, 60), st.integers(0, 60), st.booleans())
def test_a_span_is_located_under_fim(text: str, one: int, two: int, fim: bool) -> None:
    found, _ = sequences(documents([text]), config(fim_rate=float(fim)))
    start, stop = sorted((one, two))
    places = locate(found[0], table(), encoder().special, start, stop)
    covered = b"".join(decode_document(found[0][a : a + n], table(), {}) for a, n in places)
    assert text.encode()[start:stop] in covered


def test_cuts_are_uniform_and_the_rate_is_kept() -> None:
    n = 4_000
    _, cuts = sequences(documents(["é" * 9] * n), config(fim_rate=0.5))
    drawn = cuts[cuts[:, 0] >= 0]
    assert abs(len(drawn) / n - 0.5) < 0.04  # five standard deviations
    assert np.all(drawn % 2 == 0)
    # Both cuts come from ten positions alike: 100 equal pairs, in order. E|a - b| = 3.3 characters, P(a = b) = 0.1.
    assert abs(np.mean(drawn[:, 1] - drawn[:, 0]) / 2 - 3.3) < 0.3
    assert abs(np.mean(drawn[:, 1] == drawn[:, 0]) - 0.1) < 0.04
    assert set(drawn[:, 0] // 2) == set(drawn[:, 1] // 2) == set(range(10))
    _, some = sequences(documents(["é" * 9] * n), config(fim_rate=0.5, fim_spm_rate=0.25))
    moved = (some != cuts).any(1)
    assert (some[moved, 0] == 0).all() and (some[:, 1] == cuts[:, 1]).all()
    assert abs(moved.sum() / (cuts[:, 0] > 0).sum() - 0.25) < 0.05


def test_a_document_does_not_depend_on_its_neighbours() -> None:
    rows = [f"def f{i}(x):\n    return x + {i}\n" for i in range(50)]
    settings = config(fim_rate=0.5, seed=3)
    whole, _ = sequences(documents(rows), settings)
    batch = documents(rows)
    for start in (0, 13, 49):
        part, _ = sequences(batch.slice(start, 1), settings)
        assert part[0].tolist() == whole[start].tolist()
    assert sequences(batch.slice(0, 0), settings)[0] == []
    other, _ = sequences(batch, dataclasses.replace(settings, seed=4))
    assert [a.tolist() for a in other] != [a.tolist() for a in whole]


def corpus() -> list[tuple[tuple[str, str], ...]]:
    rows = [(f"d{i}", f"class C{i}:\n    é = '<｜end▁of▁sentence｜>'  # {'x' * (i % 7)}\n" * (i % 4)) for i in range(90)]
    return [tuple(rows[:30]), (), tuple(rows[30:31]), tuple(rows[31:])]


def encoded(root: Path, shards: list[tuple[tuple[str, str], ...]], **fields: object):  # type: ignore[no-untyped-def]
    engine = LocalEngine(root)
    files = Step("texts", texts.Config(shards=tuple(shards)))
    step = Step("encode_tokens", config(files=files, **fields))
    return run(step, engine)["encode_tokens"], engine.folder(step)


def test_the_map_finds_every_document(tmp_path: Path) -> None:
    report, folder = encoded(tmp_path, corpus())
    shards = TokenShards(folder)
    rows = pq.read_table(folder / "documents.parquet").to_pylist()
    expected = {name: text for shard in corpus() for name, text in shard}
    assert report.read == report.kept == len(rows) == shards.documents == 90
    assert report.notes["tokens"] == shards.tokens == sum(row["count"] for row in rows)
    assert 0 < report.notes["fim_documents"] == sum(row["fim"] for row in rows) < 90
    assert report.notes["encoder"] == "gigatoken"
    assert [row["id"] for row in rows] == list(expected)  # document i of the shards is row i of the map
    ours = token_bytes(shards.tokenizer_path)
    for i, row in enumerate(rows):
        ids = shards.ids(row["shard"], row["first"], row["count"])
        assert ids.tolist() == shards.document(i).tolist()
        raw = decode_document(ids, ours, shards.special)
        assert raw.decode() == expected[row["id"]]
        if row["fim"]:
            prefix = ids[1 : ids.tolist().index(HOLE)]
            assert b"".join(ours.take(pa.array(prefix)).to_pylist()) == raw[: row["cut_start"]]
            assert 0 <= row["cut_start"] <= row["cut_stop"] <= len(raw)
        else:
            assert row["cut_start"] is row["cut_stop"] is None


def test_other_shards_give_the_same_documents(tmp_path: Path) -> None:
    rows = [row for shard in corpus() for row in shard]
    random.Random(0).shuffle(rows)
    found = []
    for name, shards in (("a", corpus()), ("b", [tuple(rows[:50]), tuple(rows[50:])])):
        _, folder = encoded(tmp_path / name, shards)
        ids = pq.read_table(folder / "documents.parquet").column("id").to_pylist()
        tokens = TokenShards(folder)
        found.append({document: tokens.document(i).tolist() for i, document in enumerate(ids)})
    assert found[0] == found[1]


def test_a_lost_shard_comes_back_the_same(tmp_path: Path) -> None:
    _, folder = encoded(tmp_path, corpus())
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.suffix in (".bin", ".idx", ".parquet")}
    victim = next(path for path in before if path.suffix == ".bin")
    victim.write_bytes(victim.read_bytes()[:-2])
    (folder / "documents.parquet").unlink()
    encoded(tmp_path, corpus())
    assert {path: path.read_bytes() for path in before} == before


def test_megatron_reads_every_document(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        megatron = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    _, folder = encoded(tmp_path, corpus())
    shards = TokenShards(folder)
    i = 0
    for name in shards.names:
        theirs = megatron.IndexedDataset(str(folder / "tokens" / name))
        assert theirs.document_indices.tolist() == list(range(len(theirs) + 1))
        for j in range(len(theirs)):
            assert theirs[j].tolist() == shards.document(i).tolist()
            i += 1
    assert i == shards.documents


def test_a_tokenizer_without_sentinels_is_refused_before_anything_runs(tmp_path: Path) -> None:
    bare = Tokenizer.from_file(tokenizer())
    spec = bare.to_str()
    path = tmp_path / "tokenizer.json"
    path.write_text(spec.replace("fim▁hole", "fim▁whole"), "utf-8")
    with pytest.raises(ConfigError, match="no fim_hole token"):
        encoded(tmp_path / "root", corpus(), tokenizer=str(path))
    assert not (tmp_path / "root").exists()
    report, _ = encoded(tmp_path / "root", corpus(), tokenizer=str(path), fim_rate=0.0)
    assert report.notes["fim_documents"] == 0


def test_a_path_is_named_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(Path(tokenizer()).read_text("utf-8"), "utf-8")
    before = Step("encode_tokens", config(tokenizer=str(path))).fingerprint
    path.write_text(path.read_text("utf-8") + "\n", "utf-8")
    assert Step("encode_tokens", config(tokenizer=str(path))).fingerprint != before


@pytest.mark.parametrize("fields", [{"fim_rate": 1.5}, {"fim_rate": -0.1}, {"tokenizer": "/no/such/file.json"}])
def test_bad_settings_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        config(**fields)
