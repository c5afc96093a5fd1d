"""A needle in a haystack: one sentence with a random number at a chosen depth of a long text, and a question for it at the end.

    haystack[:depth] NEEDLE haystack[depth:] QUESTION          exactly `length` tokens, what stands before a document included

The haystack is text the model was not trained on, the same for all depths of a length and repetition. The number has seven
digits and occurs once. Depth 0 is the beginning, depth 1 right before the question. A pass is the number as the first one said.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from corpus.errors import ConfigError, InputError
from corpus.order import permuted
from train.generate import generate
from train.held_documents import Document
from train.items import Item, Progress, key_of
from train.subject import Codec, Subject

__all__ = ["NEEDLE", "QUESTION", "Haystack", "check_needles", "haystack", "score_needles", "set_needle"]

NEEDLE = "\nThe secret number of this text is {number}.\n"
QUESTION = "\nThe secret number of this text is"
_SAID = re.compile(r"\d+")
_NEW = 16  # tokens enough for seven digits, one by one, and a space


class Haystack(NamedTuple):
    tokens: np.ndarray  # the whole prompt
    number: str
    at: int  # where the needle's first token is
    needle: int  # tokens of it


def haystack(documents: Sequence[Document], codec: Codec, tokens: int, key: int) -> np.ndarray:
    """So many ids of documents one after another, in a keyed order; InputError where all of them are shorter."""
    parts: list[np.ndarray] = []
    have = 0
    for i in permuted(np.arange(len(documents)), len(documents), key).tolist():
        if have >= tokens:
            break
        parts += codec.encode([documents[i].text + "\n"])
        have += len(parts[-1])
    if have < tokens:
        raise InputError(f"{len(documents)} documents have {have:,} tokens; {tokens:,} expected for one haystack. Take more")
    return np.concatenate([np.zeros(0, np.int64), *parts])[:tokens]


def set_needle(
    documents: Sequence[Document], subject: Subject, length: int, depth: float, key: int, number_key: int
) -> Haystack:
    """A prompt of exactly `length` tokens. key: of the haystack; number_key: of the number, drawn again if the hay has it."""
    codec = subject.codec
    question = codec.encode([QUESTION])[0]
    for attempt in range(100):
        number = str(1_000_000 + key_of(f"{number_key} {attempt}", 0) % 9_000_000)
        needle = codec.encode([NEEDLE.format(number=number)])[0]
        room = length - 1 - len(needle) - len(question)
        if room < 0:
            raise ConfigError(f"length={length}: needle and question alone are {length - room} tokens")
        hay = haystack(documents, codec, room, key)
        at = round(depth * room)
        tokens = np.concatenate([[subject.begin], hay[:at], needle, hay[at:], question]).astype(np.int64)
        if codec.decode(tokens.tolist()).count(number.encode()) == 1:
            return Haystack(tokens, number, 1 + at, len(needle))
    raise InputError("a hundred random numbers are all in the haystack; other documents expected")


def check_needles(lengths: Sequence[int], depths: Sequence[float], context: int) -> None:
    """ConfigError for a depth outside the text, or a length that leaves the context no room for an answer."""
    if any(not 0 <= depth <= 1 for depth in depths):
        raise ConfigError(f"depths {', '.join(map(str, depths))}: from 0 to 1 expected")
    if longest := [length for length in lengths if length + _NEW > context]:
        raise ConfigError(
            f"length={max(longest)} and an answer of {_NEW} tokens do not fit into the context of {context}; --context "
            "for a model that was trained further"
        )


def score_needles(
    subject: Subject,
    documents: Sequence[Document],
    *,
    lengths: Sequence[int],
    depths: Sequence[float],
    repeats: int,
    seed: int,
    batch_tokens: int,
    progress: Progress = lambda done: None,
) -> list[Item]:
    """An item of "needle" for every length, depth and repetition, grouped by both."""
    check_needles(lengths, depths, subject.context)
    wanted = [(n, d, r) for n in lengths for d in depths for r in range(repeats)]
    hays = [
        set_needle(documents, subject, n, d, key_of(f"hay {n} {r}", seed), key_of(f"number {n} {d} {r}", seed))
        for n, d, r in wanted
    ]
    found = generate(subject, [h.tokens for h in hays], most=_NEW, stops=(b"\n",), batch_tokens=batch_tokens, progress=progress)
    items = []
    for (length, depth, repeat), hay, given in zip(wanted, hays, found):
        said = given.text.decode("utf-8", "replace")
        right = (_SAID.findall(said) or [""])[0] == hay.number
        groups = {"length": str(length), "depth": f"{depth:g}"}
        key = f"{length} {depth:g} {repeat}"
        items.append(Item("needle", key, float(right), groups=groups, more={"number": hay.number, "said": said}))
    return items
