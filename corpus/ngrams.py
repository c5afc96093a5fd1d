"""Word n-grams of benchmark texts, and one pass over documents that finds them.

Words are those of corpus/folding.py: lower-cased runs of letters and digits, a Han character by itself. White space and
punctuation only separate, so re-indenting, re-quoting or re-wrapping a text does not hide it.

A text of `ngram` words or more is looked for by each of its n-grams. A text of `min_ngram` to `ngram` - 1 words is looked for
whole, and there punctuation counts (each mark is a token), because `return n ** 2` and `return n, 2` are the same three words.

Not every n-gram is evidence: `0 0 0 0 …`, `1 2 3 … 10`, `x 3 x 2 x 1`, `for i in range n for j in range n` stand in files that
never saw a benchmark. A word *tells* when it is a Han character, or has two characters or more and is no number; an n-gram
counts only with `distinct` different telling words. A text none of whose n-grams counts is looked for whole. A whole text needs
two telling words, or one and five tokens (marks counted); otherwise it is weak, and reported as such. Measured on 400 MB of
Python's library and installed packages: see dev/LOG.md. `distinct=0` is the papers' rule to the letter.

The scan, per word: hash it while folding (ASCII through one 256-byte table), roll it into the hash of the last n words, test
one 64-bit block of a Bloom filter that fits in the second-level cache. Only what passes is looked up in the hash table, and
what is found there is compared with the indexed text, character by character: a hash collision never drops a document.
A whole text is found by the hash of its last n (or `min_ngram`) words, so any mixture of lengths costs one more test a word.

Source: DeepSeek-Coder section 2.4, DeepSeekMath section 2.1; they leave the gram and its normalisation open.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from corpus.document import text_buffers
from corpus.folding import fold_tables
from corpus.ngram_kernels import Grams, bloom, canon_all, entries, fill, power_of_two, scan_words

__all__ = ["KINDS", "Matches", "NgramIndex", "Rule", "canonical", "scan"]

KINDS = ("too_short", "weak", "whole", "ngrams")  # what becomes of a text; a weak one holds too little to look for


def canonical(text: pa.Array) -> pa.Array:
    """Each text as its folded tokens, words and punctuation marks, with one space between: large_string."""
    offsets, data = text_buffers(text)
    out = np.empty(2 * int(offsets[-1] - offsets[0]) + 64, np.uint32)
    ends = np.zeros(len(offsets), np.int64)
    while (made := canon_all(offsets, data, fold_tables(), True, out, ends)) < 0:
        out = np.empty(4 * len(out), np.uint32)  # one Arabic ligature folds to eighteen letters
    whole = out[:made].tobytes()
    return pa.array([whole[4 * a : 4 * b].decode("utf-32-le") for a, b in pairwise(ends.tolist())], pa.large_string())


@dataclass(frozen=True)
class Rule:
    """What counts as contamination; see the top of this file."""

    ngram: int = 10
    min_ngram: int = 3
    distinct: int = 4


@dataclass(frozen=True)
class NgramIndex:
    """n-grams of T texts, ready to scan with. text_E: the first text that has entry e. kind_T: index into KINDS.

    About 160 bytes of memory an entry: 100 MB for 640,000.
    """

    grams: Grams
    text_E: np.ndarray
    kind_T: np.ndarray

    @classmethod
    def of(cls, texts: pa.Array, rule: Rule, allow: pa.Array | None = None) -> NgramIndex:
        """Index texts in canonical form. What one of the texts of `allow`, also canonical, would be found by is left out."""
        canon, kind_T, (key_E, span_E, words_E, marks_E, text_E) = _index_texts(texts, rule)
        if allow is not None and len(allow):
            allowed_canon, _, (allowed_key, allowed_span, *_) = _index_texts(allow, rule)
            allowed = {_text(allowed_canon, *span) for span in allowed_span.tolist()}
            keep = ~np.isin(key_E, allowed_key)
            # The key of a whole text is that of its last words: another text may end like it.
            for e in np.flatnonzero(~keep).tolist():
                keep[e] = _text(canon, *span_E[e].tolist()) not in allowed
            key_E, span_E, words_E, marks_E, text_E = (a[keep] for a in (key_E, span_E, words_E, marks_E, text_E))
        keys = np.zeros(power_of_two(2 * len(key_E) + 1), np.uint64)
        slots = np.zeros(len(keys), np.int64)
        fill(key_E, span_E, canon, keys, slots)
        short = words_E < rule.ngram
        grams = Grams(
            ngram=rule.ngram,
            min_ngram=rule.min_ngram,
            longest=int(words_E.max(initial=0)),
            filter=bloom(key_E[~short]),
            trigger=bloom(key_E[short]),
            keys=keys,
            slots=slots,
            start_E=span_E[:, 0].copy(),
            stop_E=span_E[:, 1].copy(),
            words_E=words_E,
            marks_E=marks_E,
            canon=canon,
        )
        return cls(grams, text_E, kind_T)

    def text_of(self, entry: int) -> str:
        """What was matched: folded words (of a whole text, marks too) with one space between."""
        return _text(self.grams.canon, self.grams.start_E[entry], self.grams.stop_E[entry])


def _text(canon: np.ndarray, start: int, stop: int) -> str:
    return canon[start:stop].tobytes().decode("utf-32-le")


def _index_texts(texts: pa.Array, rule: Rule) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    encoded = [text.encode("utf-32-le") for text in texts.to_pylist()]
    marked = np.frombuffer(b"".join(encoded), np.uint32)
    bounds = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(text) // 4 for text in encoded], out=bounds[1:])
    room = len(marked) + len(encoded)  # an entry begins at a word, and a word is followed by a space
    plain = np.empty(room, np.uint32)
    kind_T = np.zeros(len(encoded), np.int64)
    columns = (
        np.empty(room, np.uint64),
        np.empty((room, 2), np.int64),
        np.empty(room, np.int64),
        np.empty(room, np.bool_),
        np.empty(room, np.int64),
    )
    wide = fold_tables().wide
    made = entries(marked, bounds, wide, rule.ngram, rule.min_ngram, rule.distinct, plain, *columns, kind_T)
    return np.concatenate([plain, marked]), kind_T, tuple(column[:made].copy() for column in columns)


class Matches(NamedTuple):
    """Per document, int64 of length N: the first entry found (-1 none), the position in words of its first word, the longest
    run of words covered by matches without a gap (10: a lone n-gram, perhaps an idiom; 60: a copied text)."""

    entry_N: np.ndarray
    word_N: np.ndarray
    run_N: np.ndarray


def scan(text: pa.Array, index: NgramIndex) -> Matches:
    """One pass over the texts on one core. A null text matches nothing."""
    offsets, data = text_buffers(text)
    rows = len(offsets) - 1
    matches = Matches(np.full(rows, -1, np.int64), np.full(rows, -1, np.int64), np.zeros(rows, np.int64))
    longest = int((index.grams.stop_E - index.grams.start_E).max(initial=0))
    scan_words(offsets, data, fold_tables(), index.grams, np.empty(longest + 1, np.uint32), *matches)
    return matches
