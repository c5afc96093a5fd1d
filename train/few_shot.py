"""Exact answers after a few worked examples, on files of GSM8K's format: {question, answer}, the answer ending in "#### 42".

    Question: …
    Answer: … #### 42
    <blank line>
    Question: …          k of these, chosen by key for each question, never the question itself
    Answer:

The answer is decoded greedily up to the next "Question:" or the end. What counts is one number:

1. after the first "####" if it is written, else the last number of the answer;
2. a sign, digits, commas between digits, a decimal part: "-1,234.50"; what stands before (as $) or after (as % or a full
   stop) is not part of it;
3. compared as a number: 42, 42.0 and 0042 are the same.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from corpus.errors import ConfigError, InputError
from corpus.order import permuted
from train.generate import generate
from train.items import Item, Progress, Say, key_of, last_tokens, read_rows
from train.subject import Codec, Subject

__all__ = ["check_questions", "number_in", "prompt_for", "read_questions", "score_questions", "shots_for"]

# A minus is a sign only where no digit or letter stands before it: "5-3" ends in 3.
_NUMBER = re.compile(r"(?<![\w.])[-+](?=\$?\.?\d)\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)|\d[\d,]*(?:\.\d+)?|\.\d+")


def read_questions(path: Path) -> list[dict[str, Any]]:
    """Rows of {question, answer}; InputError for an answer without a number after "####"."""
    rows = read_rows(path, ("question", "answer"))
    for number, row in enumerate(rows, 1):
        if "####" not in row["answer"] or number_in(row["answer"]) is None:
            raise InputError(f"{path}, row {number}: an answer ending in '#### NUMBER' expected, {row['answer'][-40:]!r} seen")
    return rows


def number_in(answer: str) -> Decimal | None:
    """The number an answer gives, by the rules above; None where it gives none."""
    _, mark, after = answer.partition("####")
    found = _NUMBER.findall(after if mark else answer)
    if not found:
        return None
    return Decimal((found[0] if mark else found[-1]).replace(",", "").replace("$", ""))


def shots_for(question: str, rows: Sequence[dict[str, Any]], count: int, seed: int) -> list[dict[str, Any]]:
    """`count` rows in a keyed order of their own for each question, the question itself left out."""
    order = permuted(np.arange(len(rows)), len(rows), key_of(question, seed))
    found: list[dict[str, Any]] = []
    for i in order.tolist():
        if len(found) == count:
            break
        if rows[i]["question"] != question:
            found.append(rows[i])
    if len(found) < count:
        raise ConfigError(f"{count} examples asked for, {len(found)} there are")
    return found


def check_questions(
    rows: Sequence[dict[str, Any]], examples: Sequence[dict[str, Any]], *, shots: int, most: int, context: int
) -> None:
    """ConfigError where an answer does not fit into the context, or a question has too few examples beside itself."""
    if context - most < 2:
        raise ConfigError(f"{most} new tokens do not fit into the context of {context}; fewer expected")
    same = Counter(example["question"] for example in examples)
    fewest = max(rows, key=lambda row: same[row["question"]])
    shots_for(fewest["question"], examples, shots, 0)


def prompt_for(question: str, shots: Sequence[dict[str, Any]]) -> str:
    told = "".join(f"Question: {shot['question']}\nAnswer: {shot['answer']}\n\n" for shot in shots)
    return f"{told}Question: {question}\nAnswer:"


def _fit(codec: Codec, question: str, told: Sequence[dict[str, Any]], room: int) -> tuple[np.ndarray, int]:
    """(ids, examples among them) of the longest prompt of at most `room` tokens; without examples it may be longer."""
    for skip in range(len(told)):
        ids = codec.encode([prompt_for(question, told[skip:])])[0]
        if len(ids) <= room:
            return ids, len(told) - skip
    return codec.encode([prompt_for(question, ())])[0], 0


def score_questions(
    subject: Subject,
    rows: Sequence[dict[str, Any]],
    examples: Sequence[dict[str, Any]],
    *,
    shots: int,
    most: int,
    seed: int,
    batch_tokens: int,
    say: Say,
    progress: Progress = lambda done: None,
) -> list[Item]:
    """An item of "few-shot" a question. Examples that do not fit into the context are left out, first ones first: said."""
    check_questions(rows, examples, shots=shots, most=most, context=subject.context)
    room = subject.context - most - 1
    chosen = [shots_for(row["question"], examples, shots, seed) for row in rows]
    fitted = [_fit(subject.codec, row["question"], told, room) for row, told in zip(rows, chosen)]
    used = [count for _, count in fitted]
    if fewer := sum(count < shots for count in used):
        say(f"{fewer:,} of {len(rows):,} prompts have fewer than {shots} examples, for a context of {subject.context} tokens")
    if cut := sum(len(ids) > room for ids, _ in fitted):
        say(f"{cut:,} questions are longer than the context by themselves and lose their beginning")
    prompts = [np.concatenate([[subject.begin], last_tokens(ids, room)]) for ids, _ in fitted]
    found = generate(subject, prompts, most=most, stops=(b"Question:",), batch_tokens=batch_tokens, progress=progress)
    items = []
    for row, given, count in zip(rows, found, used):
        said = given.text.decode("utf-8", "replace")
        right = number_in(said) == number_in(row["answer"])
        more = {"said": said, "number": str(number_in(said)), "expected": str(number_in(row["answer"])), "shots": count}
        items.append(Item("few-shot", f"{key_of(row['question'], 0):016x}", float(right), more=more))
    return items
