"""What is asked: lines, worked examples, needles. Their construction, and that an oracle finds the answer and others do not."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.errors import ConfigError, InputError
from tests.test_train_evaluate_model import codec, one_thread, subject
from train import few_shot, fim_lines, needle
from train.few_shot import number_in, prompt_for, read_questions, score_questions, shots_for
from train.fim_lines import cut_line, fim_prompt, score_lines
from train.generate import Generated
from train.held_documents import Document
from train.needle import NEEDLE, QUESTION, score_needles, set_needle

__all__ = ["one_thread"]  # a fixture for every test here


def document(text: str, name: str = "d") -> Document:
    return Document(name, text, "Python", "github", "data")


HAY = [document(Path(__file__).with_name(f"test_train_{name}.py").read_text("utf-8"), name) for name in ("loop", "data", "hf")]


def silent(text: str) -> None:
    pass


# --- Lines ----------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.sampled_from(["", " ", "x = 1", "    return x", "}", "é" * 300, "\tyield\r"]), max_size=8), st.integers(0, 99)
)
def test_a_line_cut_out_fits_where_it_was(lines: list[str], seed: int) -> None:
    text = "\n".join(lines)
    blank = cut_line(document(text), seed)
    worth = [line for line in lines if 4 <= len(line.strip()) <= 200]
    if blank is None:
        assert not worth or len(lines) < 2
        return
    assert blank.prefix + blank.line + blank.suffix == text and blank.line in worth
    assert blank.prefix[-1:] in ("", "\n") and blank.suffix[:1] in ("", "\n")


def test_lines_are_chosen_by_key() -> None:
    text = "\n".join(f"line number {i}" for i in range(50))
    chosen = {cut_line(document(text, f"{i}"), 0).line for i in range(60)}  # type: ignore[union-attr]
    assert len(chosen) > 25
    assert cut_line(document(text), 3) == cut_line(document(text), 3) != cut_line(document(text), 4)


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(5, 40))
def test_a_prompt_keeps_what_is_near_the_line(before: int, after: int, room: int) -> None:
    prefix, suffix = np.arange(before), 100 + np.arange(after)
    prompt = fim_prompt(prefix, suffix, (900, 901, 902), room).tolist()
    assert len(prompt) == min(room, before + after + 3)
    hole = prompt.index(901)
    assert prompt[0] == 900 and prompt[-1] == 902
    assert prompt[1:hole] == list(range(before - (hole - 1), before))
    assert prompt[hole + 1 : -1] == list(range(100, 100 + len(prompt) - hole - 2))
    if before + after + 3 > room:  # neither side is cut below half for the other's sake
        assert hole - 1 >= min(before, (room - 3) // 2) and len(prompt) - hole - 2 >= min(after, (room - 3) // 2)


def test_lines_are_asked_for_and_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [document(f"def f{i}(x):\n    return x + {i}\n", str(i)) for i in range(6)] + [document("}\n", "none")]
    lines = {d.id: cut_line(d, 0) for d in documents}
    asked: list[np.ndarray] = []

    def oracle(who, prompts, **settings):  # type: ignore[no-untyped-def]
        asked.extend(prompts)
        assert settings["stops"] == (b"\n",)
        said = [lines[d.id].line.strip() + " \r" if d.id != "3" else "x" for d in documents[:6]]  # type: ignore[union-attr]
        return [Generated(text.encode(), 1, "stop") for text in said]

    monkeypatch.setattr(fim_lines, "generate", oracle)
    told: list[str] = []
    items = score_lines(subject(context=128), documents, most=10, seed=0, batch_tokens=100, say=told.append)
    assert [(item.key, item.score) for item in items] == [(str(i), float(i != 3)) for i in range(6)]
    assert told == ["1 of 7 documents have no line of 4 to 200 characters"]
    special = codec().special
    assert [int(asked[0][0]), int(asked[0][-1])] == [special["fim_begin"], special["fim_end"]]
    blank = lines["0"]
    assert blank is not None and codec().decode(asked[0].tolist()) == (blank.prefix + blank.suffix).encode()


def test_lines_of_a_model_that_is_asked() -> None:
    items = score_lines(subject(context=128), HAY, most=8, seed=0, batch_tokens=1000, say=silent)
    assert [item.key for item in items] == ["loop", "data", "hf"] and all(item.score == 0 for item in items)
    assert items[0].groups == {"lang": "Python", "source": "github", "data": "data"}


# --- Numbers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("so 16 - 7 = <<16-7=9>>9 eggs.\n#### 18", "18"),
        ("#### 1,234", "1234"),
        ("#### $-1,234.50.", "-1234.50"),
        ("#### -$5", "-5"),
        ("####42 and then 43", "42"),
        ("#### 0.5%", "0.5"),
        ("#### .5", "0.5"),
        ("The answer is 42.", "42"),
        ("3 apples and 4 pears, 7 in all", "7"),
        ("it costs $1,000,000.", "1000000"),
        ("5-3", "3"),
        ("5 - 3 = +2", "2"),
        ("x1-2", "2"),
        ("no number", None),
        ("3 stood before #### none", None),
        ("", None),
    ],
)
def test_the_number_of_an_answer(said: str, number: str | None) -> None:
    assert number_in(said) == (None if number is None else Decimal(number))


@settings(deadline=None)
@given(st.decimals(-(10**9), 10**9, places=2), st.sampled_from(["#### {}", "so it is {}.", "$1 or 2, then {} of them"]))
def test_numbers_come_back(value: Decimal, frame: str) -> None:
    assert number_in(frame.format(f"{value:,}")) == value


def test_examples_are_keyed_and_never_the_question() -> None:
    rows = [{"question": f"question {i}", "answer": f"#### {i}"} for i in range(9)]
    chosen = {row["question"]: [shot["question"] for shot in shots_for(row["question"], rows, 8, 0)] for row in rows}
    for question, shots in chosen.items():
        assert len(set(shots)) == 8 and question not in shots
    assert len({tuple(shots) for shots in chosen.values()}) == 9
    with pytest.raises(ConfigError, match="9 examples asked for, 8 there are"):
        shots_for("question 0", rows, 9, 0)
    assert prompt_for("c", rows[:1]) == "Question: question 0\nAnswer: #### 0\n\nQuestion: c\nAnswer:"


def test_questions_are_asked_with_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"question": f"what is {i} " + "x" * (i * 20), "answer": f"it is\n#### {i}"} for i in range(6)]
    asked: list[str] = []

    def oracle(who, prompts, **settings):  # type: ignore[no-untyped-def]
        assert all(len(prompt) + settings["most"] <= who.context and prompt[0] == who.begin for prompt in prompts)
        asked.extend(who.codec.decode(prompt.tolist()).decode() for prompt in prompts)
        return [Generated(f" {'so ' * i}#### {i}.0".encode(), 1, "end") for i in range(5)] + [Generated(b"no", 1, "end")]

    monkeypatch.setattr(few_shot, "generate", oracle)
    told: list[str] = []
    who = subject(context=100)
    items = score_questions(who, rows, rows, shots=2, most=30, seed=0, batch_tokens=100, say=told.append)
    assert [item.score for item in items] == [1, 1, 1, 1, 1, 0]
    assert all(prompt.endswith("\nAnswer:") for prompt in asked)
    counts = [item.more["shots"] for item in items]
    assert counts == [prompt.count("Question:") - 1 if prompt.startswith("Q") else 0 for prompt in asked]
    assert sum(count < 2 for count in counts) > 0 and "prompts have fewer than 2 examples" in told[0]
    with pytest.raises(ConfigError, match="100 new tokens do not fit"):
        score_questions(who, rows, rows, shots=1, most=100, seed=0, batch_tokens=100, say=silent)


def test_the_real_gsm8k_reads(corpus_data: Path) -> None:
    folder = corpus_data / "benchmarks"
    rows = read_questions(folder / "gsm8k_test.jsonl.gz")
    assert len(rows) == 1319 and number_in(rows[0]["answer"]) == 18
    for row in rows[:300]:
        assert number_in(row["answer"]) == Decimal(row["answer"].split("####")[1].strip().replace(",", ""))


def test_answers_without_a_number_are_named(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps({"question": "a", "answer": "#### 1"}) + "\n" + json.dumps({"question": "b", "answer": "2"}))
    with pytest.raises(InputError, match="row 2: an answer ending in '#### NUMBER' expected, '2' seen"):
        read_questions(path)


# --- Needles --------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.integers(90, 700), st.floats(0, 1), st.integers(0, 1 << 60))
def test_a_needle_is_there_once_and_where_it_should_be(length: int, depth: float, key: int) -> None:
    who = subject()
    hay = set_needle(HAY, who, length, depth, key, key + 1)
    assert len(hay.tokens) == length and hay.tokens[0] == who.begin
    text = codec().decode(hay.tokens.tolist()).decode("utf-8", "replace")
    assert text.count(hay.number) == 1 and len(hay.number) == 7 and text.endswith(QUESTION)
    assert codec().decode(hay.tokens[hay.at : hay.at + hay.needle].tolist()).decode() == NEEDLE.format(number=hay.number)
    hay_tokens = length - 1 - hay.needle - len(codec().encode([QUESTION])[0])
    assert abs(hay.at - 1 - depth * hay_tokens) <= 0.5
    rest = np.concatenate([hay.tokens[1 : hay.at], hay.tokens[hay.at + hay.needle : 1 + hay_tokens + hay.needle]])
    assert np.array_equal(rest, needle.haystack(HAY, codec(), hay_tokens, key))  # the same for every depth


def ask(monkeypatch: pytest.MonkeyPatch, reads: int) -> dict[tuple[str, str], float]:
    """Mean score by (length, depth) of a reader that sees the last `reads` tokens and copies the number it sees there."""

    def reader(who, prompts, **settings):  # type: ignore[no-untyped-def]
        said = []
        for prompt in prompts:
            text = who.codec.decode(prompt[-reads:].tolist()).decode("utf-8", "replace")
            _, found, after = text.partition("secret number of this text is ")
            said.append(Generated(b" " + after[:7].encode() + b". Yes, 7" if found else b" 1234567.", 9, "stop"))
        return said

    monkeypatch.setattr(needle, "generate", reader)
    who = subject(context=700)
    depths = (0.0, 0.5, 1.0)
    items = score_needles(who, HAY, lengths=(200, 600), depths=depths, repeats=4, seed=0, batch_tokens=100)
    assert len({item.more["number"] for item in items}) == len(items) == 24
    means: dict[tuple[str, str], list[float]] = {}
    for item in items:
        means.setdefault((item.groups["length"], item.groups["depth"]), []).append(item.score)
    return {cell: float(np.mean(scores)) for cell, scores in means.items()}


def test_who_sees_everything_finds_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(ask(monkeypatch, 10_000).values()) == {1.0}


def test_who_sees_the_end_finds_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ask(monkeypatch, 250)
    assert found == {(n, d): float(n == "200" or d == "1") for n in ("200", "600") for d in ("0", "0.5", "1")}


def test_who_sees_nothing_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(ask(monkeypatch, 5).values()) == {0.0}


def test_needles_that_do_not_fit() -> None:
    who = subject(context=100)
    common = {"depths": (0.5,), "repeats": 1, "seed": 0, "batch_tokens": 100}
    with pytest.raises(ConfigError, match=r"length=90 and an answer of 16 tokens do not fit into the context of 100"):
        score_needles(who, HAY, lengths=(50, 90), **common)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needle and question alone are"):
        score_needles(who, HAY, lengths=(20,), **common)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"1 documents have 3 tokens; 1,000 expected"):
        needle.haystack([document("ab")], codec(), 1000, 0)
    with pytest.raises(ConfigError, match=r"depths 1\.5"):
        score_needles(who, HAY, lengths=(80,), **{**common, "depths": (1.5,)})  # type: ignore[arg-type]
    scored = score_needles(who, HAY, lengths=(80,), **common)  # type: ignore[arg-type]
    assert scored[0].score == 0  # a model of random weights
