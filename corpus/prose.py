"""What rules about natural language measure of a text: words, lines, paragraphs, repetition. One pass, from the UTF-8 buffer.

A token is a word or a mark.

    word    what white space separates, without the marks in front and behind; cut at hyphens, slashes and the like between
            letters, and before 's, n't, 'll, 're, 've, 'd, 'm: "well-known" is three, `f(x)=1`, 3.14, U.S. and a URL are one.
            A character of a script written without spaces (Han, kana, Thai, Lao, Khmer, Burmese: those of
            corpus/shingles.py) is a word by itself
    mark    any other character that is no white space; a run of dots or of hyphens is one

which gives nearly the tokens of spaCy's English tokenizer, by which FineWeb and others apply these rules: shares of words count
marks among the words, as they do there. Letters are str.isalpha, white space is str.isspace of the running Python.

Lines end with "\\n" alone. A line that is blank counts for lines, not for the shares of lines. Repetition is counted as in
MassiveText: a line or paragraph that stood before, the most frequent n-gram with its spaces, and the characters of n-grams
that stood before, none twice. Of a document of more than a million tokens or lines, the first million are compared.

Two hashes of 64 bits taken for equal would take two texts for one with probability 10^-8 in a text of a million words.

Reference: Gopher (arXiv 2112.11446), appendix A.1; C4 (arXiv 1910.10683) section 2.2; FineWeb (arXiv 2406.17557) section 3.
"""

from __future__ import annotations

import functools
import unicodedata
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from corpus.document import text_buffers
from corpus.prose_kernels import count_all
from corpus.word_kernels import ALONE, CHUNK, LETTER, MARK, MOST, NUMBER, SPACE, Tables, Work, hash_of, token_ends

__all__ = ["CLOSERS", "STOP_WORDS", "TERMINAL", "ProseStats", "is_mark", "prose_stats", "tokens"]

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")  # Gopher A.1
TERMINAL = ".!?。！？．｡؟۔।॥።፧։។៕‼⁇⁈⁉"  # what ends a sentence, of the larger scripts
CLOSERS = "\"'”’»)]」』）"  # what may follow it at the end of a line

_STRIP = ",:;!?()[]{}<>_#*&\"'`–—"  # and brackets, quotes, punctuation and pictures beyond ASCII
_FRONT = "%=+§$£€¥"
_ALONE = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF),
          (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))  # fmt: skip


class ProseStats(NamedTuple):
    """One int64 per document; characters are code points."""

    characters_N: np.ndarray
    tokens_N: np.ndarray
    words_N: np.ndarray
    word_characters_N: np.ndarray
    lettered_N: np.ndarray  # tokens with a letter
    alone_N: np.ndarray  # words that are a character of a script without spaces
    stop_words_N: np.ndarray  # different ones
    hashes_N: np.ndarray
    newlines_N: np.ndarray
    lines_N: np.ndarray
    bullets_N: np.ndarray  # lines that begin with • or -
    ellipsis_lines_N: np.ndarray
    filled_N: np.ndarray  # lines that are not blank
    ended_N: np.ndarray  # of these, with a terminal mark at their end
    short_N: np.ndarray  # of these, with at most 30 characters
    sentences_N: np.ndarray  # in ended lines of three words and more
    filled_again_N: np.ndarray  # characters in filled lines that stood before
    pieces_N: np.ndarray  # what stands between newlines
    pieces_repeated_N: np.ndarray
    pieces_again_N: np.ndarray  # characters of those repeated
    paragraphs_N: np.ndarray  # what stands between empty lines
    paragraphs_repeated_N: np.ndarray
    paragraphs_again_N: np.ndarray
    top2_N: np.ndarray  # characters of the most frequent 2-gram times its count
    top3_N: np.ndarray
    top4_N: np.ndarray
    again5_N: np.ndarray  # characters in 5-grams that stood before
    again6_N: np.ndarray
    again7_N: np.ndarray
    again8_N: np.ndarray
    again9_N: np.ndarray
    again10_N: np.ndarray
    ellipses_N: np.ndarray
    lorem_N: np.ndarray  # 1 where `lorem ipsum` stands in it


def prose_stats(
    text: pa.Array, stop_words: tuple[str, ...] = STOP_WORDS, again_limits: tuple[float, ...] | None = None
) -> ProseStats:
    """The statistics of each text (string or large_string, may be a slice; null = empty). At most 64 stop words.

    again_limits: six shares of the characters, for again5 … again10. Counting all of them takes as long as all the rest, so
    with limits only what decides is counted: a field that cannot pass its limit is 0, as are those after the first that does.
    """
    offsets_N1, data_B = text_buffers(text)
    longest = int(np.diff(offsets_N1).max(initial=0))
    out_NK = np.zeros((len(offsets_N1) - 1, len(ProseStats._fields)), np.int64)
    limit_6 = np.array([np.nan] * 6 if again_limits is None else again_limits, np.float64)
    count_all(offsets_N1, data_B, _tables(stop_words), _work(min(longest + 2, MOST)), limit_6, out_NK)
    return ProseStats(*np.ascontiguousarray(out_NK.T))


def tokens(text: pa.Array) -> list[list[str]]:
    """The tokens of each text, as the statistics see them. For tests and for looking."""
    offsets_N1, data_B = text_buffers(text)
    found = []
    for a, b in pairwise(offsets_N1.tolist()):
        spans_T2 = np.empty((b - a, 2), np.int64)
        count = token_ends(data_B[a:b], _tables(STOP_WORDS), spans_T2)
        found.append([data_B[a + i : a + j].tobytes().decode("utf-8", "replace") for i, j in spans_T2[:count].tolist()])
    return found


def is_mark(character: str) -> bool:
    """Whether a character by itself is a mark."""
    return int(_classes()[ord(character)]) == MARK


def _work(most: int) -> Work:
    size = 16
    while size < 2 * most:
        size *= 2
    return Work(
        np.empty(most, np.uint64),
        np.empty(most, np.int64),
        np.zeros(size, np.uint64),
        np.zeros(size, np.int64),
        np.empty(CHUNK + 4, np.int64),
    )


@functools.cache
def _tables(stop_words: tuple[str, ...]) -> Tables:
    assert len(stop_words) <= 64
    icons_U = np.zeros(0x110000, np.bool_)
    marks = (np.flatnonzero(_classes()[0x80:0x20000] == MARK) + 0x80).tolist()
    icons_U[[point for point in marks if unicodedata.category(chr(point)) in ("So", "Ps", "Pe", "Pi", "Pf", "Po")]] = True
    words = [np.frombuffer(word.encode(), np.uint8) for word in stop_words]
    hashes = np.array([hash_of(word, 0, len(word)) for word in words], np.uint64)
    bits = np.bitwise_or.reduce(np.uint64(1) << (hashes & np.uint64(63)), initial=np.uint64(0))
    return Tables(_classes(), _of(_STRIP) | icons_U, _of(_FRONT), _of(TERMINAL), _of(CLOSERS), hashes, bits)


def _of(characters: str) -> np.ndarray:
    member_U = np.zeros(0x110000, np.bool_)
    member_U[[ord(c) for c in characters]] = True
    return member_U


@functools.cache
def _classes() -> np.ndarray:
    """uint8 [0x110000]: the class of each code point. Made on first use, in 50 ms."""
    points = np.arange(0x110000, dtype=np.uint32)
    letters, numbers, spaces = (f(points.view("U1")) for f in (np.char.isalpha, np.char.isnumeric, np.char.isspace))
    class_U = np.full(0x110000, MARK, np.uint8)
    class_U[numbers] = NUMBER
    class_U[spaces] = SPACE
    for point in np.flatnonzero(~(letters | numbers | spaces)[:0x20000]).tolist():
        if unicodedata.category(chr(point))[0] == "M":
            class_U[point] = NUMBER
    word_U = class_U == NUMBER
    class_U[letters] = LETTER
    for first, last in _ALONE:
        inside = slice(first, last + 1)
        class_U[inside][letters[inside] | word_U[inside]] = ALONE
    class_U.setflags(write=False)
    return class_U
