"""Token shards: what is written is read back, by us and by Megatron; tokens find their way back to bytes."""

from __future__ import annotations

import json
import pickle
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.errors import CorruptFile, InputError
from corpus.tokens import (
    TokenShards,
    TokenWriter,
    decode_document,
    locate,
    token_bytes,
    token_dtype,
    write_tokens_json,
)

Documents = list[list[int]]


def write(folder: Path, vocab_size: int, **shards: Documents) -> None:
    for name, documents in shards.items():
        with TokenWriter(folder / "tokens" / name, vocab_size) as writer:
            for part in (documents[: len(documents) // 2], documents[len(documents) // 2 :]):
                ids = np.array([i for document in part for i in document], np.uint32)
                writer.add(ids, np.array([len(document) for document in part], np.int64))
    write_tokens_json(folder, vocab_size, {"eos": 1})


def test_dtype_follows_megatron() -> None:
    assert token_dtype(65_499) == np.uint16
    assert token_dtype(65_500) == np.int32


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.lists(st.integers(0, 65_498), max_size=6), max_size=5), max_size=3),
    st.sampled_from([65_499, 102_400]),
)
def test_what_is_written_is_read_back(shards: list[Documents], vocab_size: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), vocab_size, **{f"{i:05d}.x": documents for i, documents in enumerate(shards)})
        read = pickle.loads(pickle.dumps(TokenShards(Path(name))))  # a loader's workers get it by pickle
        expected = [document for documents in shards for document in documents]
        assert read.documents == len(expected)
        assert read.tokens == sum(map(len, expected))
        assert read.dtype == token_dtype(vocab_size)
        assert read.lengths.tolist() == [len(document) for document in expected]
        assert [read.document(i).tolist() for i in range(read.documents)] == expected
        assert read.vocab_size == vocab_size and read.special == {"eos": 1}
        with pytest.raises(IndexError):
            read.document(read.documents)


@pytest.mark.parametrize("vocab_size", [1_000, 102_400])
def test_megatron_reads_the_same(tmp_path: Path, vocab_size: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        megatron = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    documents = [[3, 1, 4, 1], [5], [], [9, 2, 6, 999]]
    write(tmp_path, vocab_size, a=documents)
    theirs = megatron.IndexedDataset(str(tmp_path / "tokens" / "a"))
    assert [theirs[i].tolist() for i in range(len(theirs))] == documents
    assert theirs.document_indices.tolist() == [0, 1, 2, 3, 4]
    assert theirs.sequence_lengths.tolist() == [4, 1, 0, 4]
    assert theirs.index.dtype == TokenShards(tmp_path).dtype


def test_no_documents_no_files(tmp_path: Path) -> None:
    write(tmp_path, 300, empty=[])
    assert not (tmp_path / "tokens").exists()
    assert TokenShards(tmp_path).documents == 0


def test_an_error_inside_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), TokenWriter(tmp_path / "a", 300) as writer:
        writer.add(np.arange(3), np.array([3]))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def damage_magic(raw: bytes) -> bytes:
    return b"X" + raw[1:]


def damage_code(raw: bytes) -> bytes:
    return raw[:17] + b"\x09" + raw[18:]


@pytest.mark.parametrize("damage", [damage_magic, damage_code, lambda raw: raw[:20], lambda raw: raw[:-8]])
def test_a_damaged_index_is_named(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    write(tmp_path, 300, a=[[1, 2], [3]])
    path = tmp_path / "tokens" / "a.idx"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CorruptFile, match=r"a\.idx"):
        TokenShards(tmp_path)


def test_a_short_bin_is_named(tmp_path: Path) -> None:
    write(tmp_path, 300, a=[[1, 2], [3]])
    path = tmp_path / "tokens" / "a.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptFile, match=r"a\.bin"):
        TokenShards(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match="belong together"):
        TokenShards(tmp_path)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="encode_tokens"):
        TokenShards(tmp_path)


# --- Back to text. A made-up vocabulary: ids 0-9 stand for 1 to 3 bytes each, 10-13 are special. ---

TABLE = pa.array(
    [b"a", b"bc", b"def", b"\xe2", b"\x82\xac", b"\n", b" x", b"0", b"1", b"()", b"", b"", b"", b""], pa.large_binary()
)
SPECIAL = {"fim_begin": 10, "fim_hole": 11, "fim_end": 12, "eos": 13}
IDS = st.lists(st.integers(0, 9), max_size=8)


def text_of(ids: list[int]) -> bytes:
    return b"".join(TABLE[i].as_py() for i in ids)


def sequence(prefix: list[int], middle: list[int], suffix: list[int], fim: bool) -> np.ndarray:
    if fim:
        return np.array([10, *prefix, 11, *suffix, 12, *middle, 13], np.uint16)
    return np.array([*prefix, *middle, *suffix, 13], np.uint16)


@settings(deadline=None, max_examples=150)
@given(IDS, IDS, IDS, st.booleans())
def test_decode_undoes_fim(prefix: list[int], middle: list[int], suffix: list[int], fim: bool) -> None:
    ids = sequence(prefix, middle, suffix, fim)
    assert decode_document(ids, TABLE, SPECIAL) == text_of([*prefix, *middle, *suffix])


@settings(deadline=None, max_examples=300)
@given(IDS, IDS, IDS, st.booleans(), st.integers(0, 30), st.integers(0, 30))
def test_locate_covers_exactly_the_tokens_of_a_span(
    prefix: list[int], middle: list[int], suffix: list[int], fim: bool, one: int, two: int
) -> None:
    start, stop = sorted((one, two))
    ids = sequence(prefix, middle, suffix, fim)
    found = [i for first, count in locate(ids, TABLE, SPECIAL, start, stop) for i in range(first, first + count)]
    # The oracle walks token by token: in order of the text, those that share a byte with the span.
    order = list(range(len(ids) - 1))
    if fim:
        p, s = len(prefix), len(suffix)
        order = [*range(1, 1 + p), *range(3 + p + s, len(ids) - 1), *range(2 + p, 2 + p + s)]
    expected, at = [], 0
    for i in order:
        length = len(TABLE[int(ids[i])].as_py())
        if at < stop and at + length > start and start < stop:
            expected.append(i)
        at += length
    assert found == expected
    text = text_of([*prefix, *middle, *suffix])
    assert text[start:stop] in text_of([int(ids[i]) for i in found])


def test_token_bytes_needs_a_byte_level_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    vocab = {"Ġx": 0, "Ċ": 1, "é": 2, "ł": 3, "<｜end｜>": 4}
    added = [{"id": 4, "content": "<｜end｜>", "special": True}, {"id": 6, "content": "ø", "special": False}]
    path.write_text(json.dumps({"model": {"vocab": vocab}, "added_tokens": added}), "utf-8")
    assert token_bytes(path).to_pylist() == [b" x", b"\n", b"\xe9", b"\xa0", b"", b"", "ø".encode()]
    path.write_text(json.dumps({"model": {"vocab": {"▁the": 0}}}), "utf-8")
    with pytest.raises(InputError, match="not byte-level"):
        token_bytes(path)
