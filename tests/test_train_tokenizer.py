"""train_tokenizer: the sample is decided by seed and ids alone, and what comes out is a tokenizer others can load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from corpus.engine import LocalEngine
from corpus.errors import ConfigError, InputError
from corpus.runner import run
from corpus.step import Step
from corpus.tokenizer import load_encoder
from stages import train_tokenizer
from tests.toys import texts

WORDS = ["def", "return", "class", "import", "print", "lambda", "yield", "self"]
DOCUMENTS = tuple((f"d{i}", f"{WORDS[i % 8]} {WORDS[i * 3 % 8]}{i}({WORDS[i * 5 % 7]})\n" * 5) for i in range(60))


def train(root: Path, *shards: tuple[tuple[str, str], ...], **settings: int):  # type: ignore[no-untyped-def]
    engine = LocalEngine(root)
    config = train_tokenizer.Config(files=Step("texts", texts.Config(shards=shards)), **{"vocab_size": 300, **settings})
    step = Step("train_tokenizer", config)
    report = run(step, engine)["train_tokenizer"]
    return report, engine.folder(step)


def test_same_bytes_for_any_sharding(tmp_path: Path) -> None:
    one, a = train(tmp_path / "a", DOCUMENTS, sample_bytes=2_000)
    two, b = train(tmp_path / "b", DOCUMENTS[40:], DOCUMENTS[:7][::-1], DOCUMENTS[7:40], sample_bytes=2_000)
    other, c = train(tmp_path / "c", DOCUMENTS, sample_bytes=2_000, seed=1)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (a / name).read_bytes() == (b / name).read_bytes()
    assert (a / "tokenizer.json").read_bytes() != (c / "tokenizer.json").read_bytes()  # another sample, other merges
    longest = max(len(text) for _, text in DOCUMENTS)
    for report in (one, two, other):
        assert report.read == report.used == len(DOCUMENTS)
        assert report.bytes_in == sum(len(text) for _, text in DOCUMENTS)
        assert 2_000 <= report.notes["sample_bytes"] < 2_000 + longest


def test_what_is_written_loads(tmp_path: Path) -> None:
    report, folder = train(tmp_path, DOCUMENTS)
    assert report.notes["sample_bytes"] == report.bytes_in  # less text than asked for: all of it
    assert report.notes["vocab_size"] == 300
    encoder = load_encoder(folder / "tokenizer.json")
    assert encoder.library == "gigatoken"
    assert encoder.special["eos"] == 301
    text = DOCUMENTS[3][1]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    names = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    assert tokenizer.token_to_id(names["bos_token"]) == 300
    assert tokenizer.token_to_id(names["eos_token"]) == tokenizer.token_to_id(names["pad_token"]) == 301


def test_a_word_of_any_length_is_learned_from(tmp_path: Path) -> None:
    """The trainer's time is quadratic in a word's length: a file of 2 MB without a space took the best part of an hour."""
    _, folder = train(tmp_path, (*DOCUMENTS, ("dna", "acgt" * 500_000), ("space", " " * 2_000_000), ("sign", "=" * 2_000_000)))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = "acgt" * 2000
    assert tokenizer.decode(tokenizer.encode(text).ids) == text and len(tokenizer.encode(text).ids) < 1000
    assert "FixedLength" not in (folder / "tokenizer.json").read_text("utf-8")


def test_nothing_to_train_on_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no text in its 1 documents"):
        train(tmp_path / "a", (("d", ""),))
    with pytest.raises(InputError, match="wrote no shards"):
        train(tmp_path / "b")


@pytest.mark.parametrize(("field", "value"), [("vocab_size", 255), ("vocab_size", 2_000_000), ("sample_bytes", 0)])
def test_bad_settings_are_refused(field: str, value: int) -> None:
    files = Step("texts", texts.Config(shards=()))
    with pytest.raises(ConfigError, match=f"{field} is {value}"):
        train_tokenizer.Config(**{"files": files, field: value})
