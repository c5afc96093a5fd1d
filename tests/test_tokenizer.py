"""Tokenizer: the layout asked for, ids equal to Hugging Face's, and no text that can forge a special token."""

from __future__ import annotations

import functools
import itertools
import json
import random
import sysconfig
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from corpus.document import text_buffers
from corpus.errors import InputError
from corpus.tokenizer import SPECIAL_TOKENS, Encoder, load_encoder, train_bpe
from corpus.tokens import decode_document, token_bytes

VOCAB = 1_000


def real_texts(bytes: int) -> list[str]:
    texts, total = [], 0
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        texts.append(path.read_text("utf-8"))
        total += len(texts[-1])
        if total > bytes:
            break
    return texts


@functools.cache
def trained() -> str:
    return train_bpe(real_texts(400_000), VOCAB)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(trained(), "utf-8")
    return path


@pytest.fixture(scope="module")
def encoder(path: Path) -> Encoder:
    return load_encoder(path)


def ids_of(encoder: Encoder, texts: list[str]) -> list[list[int]]:
    ids, ends = encoder.encode(*text_buffers(pa.array(texts, pa.large_string())))
    return [ids[a:b].tolist() for a, b in itertools.pairwise(ends)]


def oracle(path: Path) -> Tokenizer:
    """Hugging Face's own reading of the file, told to leave special tokens in a text alone."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True
    return tokenizer


def test_training_does_not_depend_on_order(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = real_texts(400_000)
    random.Random(1).shuffle(texts)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    assert train_bpe(texts, VOCAB) == trained()


def test_layout_is_deepseeks(encoder: Encoder) -> None:
    spec = json.loads(trained())
    assert sorted(spec["model"]["vocab"].values()) == list(range(VOCAB))
    assert [(t["id"], t["content"]) for t in spec["added_tokens"]] == [
        (VOCAB, "<\uff5cbegin\u2581of\u2581sentence\uff5c>"),
        (VOCAB + 1, "<\uff5cend\u2581of\u2581sentence\uff5c>"),
        (VOCAB + 2, "<\uff5cfim\u2581hole\uff5c>"),
        (VOCAB + 3, "<\uff5cfim\u2581begin\uff5c>"),
        (VOCAB + 4, "<\uff5cfim\u2581end\uff5c>"),
    ]
    assert encoder.vocab_size == VOCAB + 5
    assert encoder.special == {name: VOCAB + i for i, name in enumerate(SPECIAL_TOKENS)}


def test_digits_stand_alone() -> None:
    merged = [token for token in json.loads(trained())["model"]["vocab"] if any(c.isdigit() for c in token) and len(token) > 1]
    # A byte's letter may itself be a "digit" (²); merges with those are bytes of other characters.
    assert [token for token in merged if any("0" <= c <= "9" for c in token)] == []


def test_ids_are_hugging_faces_on_real_files(path: Path, encoder: Encoder, corpus_data: Path) -> None:
    import zstandard

    raw = zstandard.ZstdDecompressor().stream_reader((corpus_data / "langid" / "samples.jsonl.zst").open("rb")).read()
    rows = [json.loads(line) for line in raw.decode().split("\n") if line]
    texts = [row["text"] for row in rows][:1500]
    assert encoder.library == "gigatoken"
    expected = [e.ids for e in oracle(path).encode_batch_fast(texts, add_special_tokens=False)]
    assert ids_of(encoder, texts) == expected


@settings(deadline=None, max_examples=150)
@given(st.lists(st.text() | st.sampled_from([*SPECIAL_TOKENS.values(), "0123", "\x00", "  \n\n  x", "it's", ""]), max_size=6))
def test_ids_are_hugging_faces_on_any_text(parts: list[str]) -> None:
    folder = _folder()
    encoder, theirs = _encoder(folder), _oracle(folder)
    texts = ["".join(parts), *parts]
    ids = ids_of(encoder, texts)
    assert ids == [e.ids for e in theirs.encode_batch_fast(texts, add_special_tokens=False)]
    table = token_bytes(folder / "tokenizer.json")
    assert [decode_document(np.array(i, np.int64), table, {}) for i in ids] == [t.encode() for t in texts]
    assert max((i for row in ids for i in row), default=0) < VOCAB  # no special id from any text


@functools.cache
def _folder() -> Path:
    import tempfile

    folder = Path(tempfile.mkdtemp())
    (folder / "tokenizer.json").write_text(trained(), "utf-8")
    return folder


@functools.cache
def _encoder(folder: Path) -> Encoder:
    return load_encoder(folder / "tokenizer.json")


@functools.cache
def _oracle(folder: Path) -> Tokenizer:
    return oracle(folder / "tokenizer.json")


def test_a_slice_encodes_like_a_copy(encoder: Encoder) -> None:
    texts = ["def f():", "é" * 9, "", "return 42\n", "x"]
    column = pa.array(texts, pa.large_string())
    ids, ends = encoder.encode(*text_buffers(column.slice(1, 3)))
    assert [ids[a:b].tolist() for a, b in itertools.pairwise(ends)] == ids_of(encoder, texts)[1:4]
    assert len(encoder.encode(*text_buffers(column.slice(2, 0)))[0]) == 0


def test_bytes_that_are_not_utf8_do_not_stop_either(path: Path, encoder: Encoder, tmp_path: Path) -> None:
    data = np.frombuffer(b"ok \xff\xfe\xed\xa0\x80 end", np.uint8)
    offsets = np.array([0, len(data)], np.int64)
    ids, _ = encoder.encode(offsets, data)
    assert decode_document(ids, token_bytes(path), {}) == data.tobytes()
    slow = load_encoder(digits_apart(tmp_path))
    assert len(slow.encode(offsets, data)[0])


def digits_apart(folder: Path) -> Path:
    """A byte-level tokenizer with a pre-tokenizer gigatoken refuses, and sentinels that are not flagged as special."""
    tokenizer = Tokenizer(models.BPE())
    split = [pre_tokenizers.Split(Regex(r"\s?\p{L}+"), "isolated"), pre_tokenizers.Digits(individual_digits=True)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        ["def f(): return 1"] * 9, trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.add_tokens(["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<tool>"])
    tokenizer.enable_truncation(4)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def test_any_other_tokenizer_goes_through_hugging_face(tmp_path: Path) -> None:
    path = digits_apart(tmp_path)
    encoder = load_encoder(path)
    assert encoder.library == "tokenizers" and "gigatoken" in encoder.why
    size = encoder.vocab_size
    assert encoder.special == {"eos": size - 5, "fim_begin": size - 4, "fim_hole": size - 3, "fim_end": size - 2}
    ids = ids_of(encoder, ["def f(): return 123 # <|endoftext|><|fim_prefix|>", "<tool>"])
    assert not set(encoder.special.values()) & set(ids[0])
    assert len(ids[0]) > 4  # a tokenizer's own truncation is not ours
    assert ids[1] == [size - 1]  # an added token that is neither special nor a sentinel is ordinary vocabulary


def test_tokenizer_config_names_the_end(tmp_path: Path) -> None:
    path = digits_apart(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<tool>"}}))
    assert load_encoder(path).special["eos"] == load_encoder(path).vocab_size - 1


@pytest.mark.parametrize("content", ["{", "[]", '{"model": {}}'])
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(InputError, match="not a Hugging Face"):
        load_encoder(path)
    with pytest.raises(InputError, match="no tokenizer at"):
        load_encoder(tmp_path / "absent.json")
