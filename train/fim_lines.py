"""Filling in one line: the share of lines that come out exactly, but for white space at their ends.

Of a document one line is cut out, chosen by key, and asked for as in training: PSM,  begin PREFIX hole SUFFIX end . The line is
decoded greedily up to its newline. Prefix and suffix lose what is farthest from the line where they do not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from corpus.errors import ConfigError, InputError
from train.data import SENTINELS
from train.generate import generate
from train.held_documents import Document
from train.items import Item, Progress, Say, key_of
from train.subject import Subject

__all__ = ["Blank", "cut_line", "fim_prompt", "score_lines"]

_LEAST, _MOST = 4, 200  # characters of a line worth asking for, white space at its ends aside; closing brackets are not


class Blank(NamedTuple):
    prefix: str
    line: str
    suffix: str


def cut_line(document: Document, seed: int) -> Blank | None:
    """One line of 4 to 200 characters taken out, its newline left in the suffix; None where the document has no other line."""
    lines = document.text.split("\n")
    fit = [i for i, line in enumerate(lines) if _LEAST <= len(line.strip()) <= _MOST]
    if len(lines) < 2 or not fit:
        return None
    i = fit[key_of(document.id, seed) % len(fit)]
    before, after = "\n".join(lines[:i]), "\n".join(lines[i + 1 :])
    return Blank(before + "\n" if i else "", lines[i], "\n" + after if i + 1 < len(lines) else "")


def fim_prompt(prefix: np.ndarray, suffix: np.ndarray, marks: Sequence[int], room: int) -> np.ndarray:
    """begin PREFIX hole SUFFIX end in at most `room` tokens: each side may take half, and what the other leaves."""
    space = room - len(marks)
    if space < 2:
        raise ConfigError(f"a prompt of {room} tokens has no room for a prefix and a suffix; a longer context expected")
    before = min(len(prefix), max(space - space // 2, space - len(suffix)))
    begin, hole, end = ([mark] for mark in marks)
    return np.concatenate([begin, prefix[len(prefix) - before :], hole, suffix[: space - before], end]).astype(np.int64)


def score_lines(
    subject: Subject,
    documents: Sequence[Document],
    *,
    most: int,
    seed: int,
    batch_tokens: int,
    say: Say,
    progress: Progress = lambda done: None,
) -> list[Item]:
    """An item of "fim line" for every document that has a line to ask for; how many have none is said."""
    if lacking := [name for name in SENTINELS if name not in subject.codec.special]:
        raise InputError(f"{subject.codec.path} has no {', '.join(lacking)} token: the model was not trained to fill in")
    blanks = [(document, blank) for document in documents if (blank := cut_line(document, seed)) is not None]
    if len(blanks) < len(documents):
        say(f"{len(documents) - len(blanks):,} of {len(documents):,} documents have no line of {_LEAST} to {_MOST} characters")
    if not blanks:
        raise InputError("no document has a line to fill in")
    marks = [subject.codec.special[name] for name in SENTINELS]
    prefixes = subject.codec.encode([blank.prefix for _, blank in blanks])
    suffixes = subject.codec.encode([blank.suffix for _, blank in blanks])
    prompts = [fim_prompt(p, s, marks, subject.context - most) for p, s in zip(prefixes, suffixes)]
    found = generate(subject, prompts, most=most, stops=(b"\n",), batch_tokens=batch_tokens, progress=progress)
    items = []
    for (document, blank), given in zip(blanks, found):
        said = given.text.decode("utf-8", "replace")
        groups = {"lang": document.lang, "source": document.source, "data": document.data}
        more = {"line": blank.line, "said": said, "why": given.why}
        items.append(Item("fim line", document.id, float(said.strip() == blank.line.strip()), groups=groups, more=more))
    return items
