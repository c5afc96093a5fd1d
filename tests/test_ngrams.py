"""The scan against a plain oracle: strings, tuples and dictionaries, the same definitions."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.folding import HAN, MARK, MORE, SKIP, SPACE, WORD, fold_character
from corpus.ngrams import KINDS, NgramIndex, Rule, canonical, scan

# --- The oracle -------------------------------------------------------------------------------------------------------


def spelled(char: str, marks: bool) -> str:
    kind, text = (HAN, char) if 0x20000 <= ord(char) < 0x40000 else fold_character(char)
    if kind in (WORD, MORE):
        return text
    if kind == HAN or (kind == MARK and marks):
        return f" {text} "
    return "" if kind == SKIP else " "


def tokens(text: str, marks: bool = False) -> list[str]:
    return "".join(spelled(char, marks) for char in text).split()


def is_word(token: str) -> bool:
    return fold_character(token[0])[0] != MARK


def tells(token: str) -> bool:
    return fold_character(token[0])[0] == HAN or (len(token) > 1 and not (token.isascii() and token.isdigit()))


def distinct(words: list[str]) -> int:
    return len({word for word in words if tells(word)})


@dataclass(frozen=True)
class Entry:
    tail: tuple[str, ...]  # the words it is looked up by
    shown: str
    words: int
    marks: bool


def entries_of(text: str, rule: Rule) -> tuple[str, list[Entry]]:
    words, marked, n = tokens(text), tokens(text, True), rule.ngram
    if len(words) < rule.min_ngram:
        return "too_short", []
    grams = [words[i : i + n] for i in range(len(words) - n + 1)]
    if strong := [gram for gram in grams if distinct(gram) >= rule.distinct]:
        return "ngrams", [Entry(tuple(gram), " ".join(gram), n, False) for gram in strong]
    places = [i for i, token in enumerate(marked) if is_word(token)][:64]
    whole, words = marked[places[0] : places[-1] + 1], words[:64]
    if rule.distinct > 0 and distinct(words) < 2 and not (distinct(words) == 1 and len(whole) >= 5):
        return "weak", []
    tail = n if len(words) >= n else rule.min_ngram
    return "whole", [Entry(tuple(words[-tail:]), " ".join(whole), len(words), True)]


def oracle(text: str, entries: list[Entry], rule: Rule) -> tuple[str, int, int]:
    """(matched, word, run) of the first match; ("", -1, 0) for none."""
    marked = tokens(text, True)
    places = [i for i, token in enumerate(marked) if is_word(token)]
    words = [marked[i] for i in places]
    found, covered = ("", -1), [False] * len(words)
    for k in range(1, len(words) + 1):
        for size in (rule.ngram, rule.min_ngram):
            hits = [e for e in entries if len(e.tail) == size and e.words <= k and tuple(words[max(0, k - size) : k]) == e.tail]
            hits = [e for e in hits if e.shown == shown(marked, places, words, k, e)]
            if hits:
                break
        if hits:
            first = k - hits[0].words
            found = (hits[0].shown, first) if found[1] < 0 else found
            covered[first:k] = [True] * (k - first)
    runs = "".join("x" if c else " " for c in covered).split()
    return (*found, max(map(len, runs), default=0))


def shown(marked: list[str], places: list[int], words: list[str], k: int, entry: Entry) -> str:
    first = k - entry.words
    return " ".join(marked[places[first] : places[k - 1] + 1] if entry.marks else words[first:k])


def array(texts: list[str]) -> pa.Array:
    return pa.array(texts, pa.large_string())


def index_of(texts: list[str], rule: Rule, allow: list[str] | None = None) -> NgramIndex:
    return NgramIndex.of(canonical(array(texts)), rule, None if allow is None else canonical(array(allow)))


def found_by(text: pa.Array, index: NgramIndex) -> list[tuple[str, int, int]]:
    matches = scan(text, index)
    return [
        (index.text_of(int(e)) if e >= 0 else "", int(w), int(r))
        for e, w, r in zip(matches.entry_N, matches.word_N, matches.run_N, strict=True)
    ]


# --- Laws -------------------------------------------------------------------------------------------------------------

WORDS = [
    "for",
    "For",
    "in",
    "x",
    "1",
    "22",
    "数",
    "学",
    "cafe\u0301",
    "CAFÉ",
    "ﬁsh",
    "ß",
    "ह\u093f",
    "w1",
    "が",
    "한글",
    "\U00020001",
]
GAPS = [" ", " ", "\n\t", ", ", "(", "+", "\0", "\u200b", "—", " \ufeff", "\u3000", "", "\r\n", "… "]
piece = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(GAPS)), max_size=9).map(lambda p: "".join(map("".join, p)))
rules = st.sampled_from([Rule(3, 2, 0), Rule(3, 2, 2), Rule(4, 1, 1), Rule(5, 3, 3), Rule(2, 2, 1), Rule(1, 1, 1)])


@given(st.lists(piece, max_size=5), st.lists(piece, max_size=4), st.data(), rules)
@settings(deadline=None, max_examples=120)
def test_scan_is_the_oracle(texts: list[str], others: list[str], data: st.DataObject, rule: Rule) -> None:
    planted = st.lists(st.sampled_from(texts), max_size=2).map(" ".join) if texts else st.just("")
    documents = [other + data.draw(planted) + data.draw(st.text(max_size=5)) for other in others]
    index = index_of(texts, rule)
    kinds, entries = zip(*[entries_of(text, rule) for text in texts], strict=True) if texts else ((), ())
    assert [KINDS[k] for k in index.kind_T] == list(kinds)
    wanted = [oracle(document, [e for several in entries for e in several], rule) for document in documents]
    assert found_by(array(documents), index) == wanted
    padded = array(["for in x", *documents, "22 22 22"])
    assert found_by(padded.slice(1, len(documents)), index) == wanted


@given(st.lists(st.binary(max_size=12) | st.sampled_from([w.encode() for w in WORDS]), max_size=14), st.binary(max_size=3))
@settings(deadline=None, max_examples=250)
def test_bytes_that_are_not_text_read_as_spaces(parts: list[bytes], cut: bytes) -> None:
    data = b" ".join(parts) + cut
    index = index_of(["for in x", "数学 ﬁsh", "22 + w1"], Rule(3, 2, 0))
    buffers = [None, pa.py_buffer(np.array([0, len(data)], np.int64)), pa.py_buffer(data + b"\xa9\xa9")]
    broken = pa.Array.from_buffers(pa.large_string(), 1, buffers)
    assert found_by(broken, index) == found_by(array([data.decode("utf-8", "replace")]), index)


def test_every_character_spells_as_the_oracle_says() -> None:
    chars = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000 and not (0x40000 <= c < 0xE0000 or c >= 0xE2000)]
    text = array(["a" + c + "b" for c in chars if ord(c) < 0x20000 or ord(c) % 97 == 0])
    wanted = [" ".join(tokens(t, True)) for t in text.to_pylist()]
    assert canonical(text).to_pylist() == wanted


def test_a_match_is_found_wherever_blocks_end() -> None:
    """Words are hashed in blocks of 2048; the window and a 64-word text reach back over the border."""
    short, long = "zebra, crossing; ahead", " ".join(["0"] * 66 + ["ab"])
    index = index_of(["alpha beta gamma delta", short, long], Rule(4, 3, 2))
    filler = [f"f{i}" for i in range(6000)]
    for at in [*range(2036, 2056), 4093, 4096, 5999]:
        for text, words in (("Alpha-beta gamma\ndelta", 4), (short, 3)):
            document = " ".join([*filler[:at], text, *filler[at:]])
            assert found_by(array([document]), index) == [
                ("alpha beta gamma delta" if words == 4 else "zebra , crossing ; ahead", at, words)
            ]


def test_a_text_without_telling_ngrams_is_looked_for_whole() -> None:
    numbers = "matrix [" + ", ".join(str(i % 7) for i in range(70)) + "]"
    index = index_of([numbers, "1, 2, 3, 4, 5", "x + y z"], Rule(10, 3, 4))
    assert [KINDS[k] for k in index.kind_T] == ["whole", "weak", "weak"]
    documents = array(
        ["see " + numbers.replace(", ", ",\n") + " here", numbers.replace("matrix", "vector"), numbers.replace(",", ";")]
    )
    assert [word for _, word, _ in found_by(documents, index)] == [1, -1, -1]


def test_a_collision_of_hashes_is_no_match() -> None:
    """The same keys over other text: only the comparison of the text itself tells them apart."""
    texts = ["one two three four five", "red, green; blue"]
    index = index_of(texts, Rule(4, 3, 2))
    assert [word for _, word, _ in found_by(array(texts), index)] == [0, 0]
    other = np.where(index.grams.canon == ord("e"), ord("a"), index.grams.canon).astype(np.uint32)
    forged = NgramIndex(index.grams._replace(canon=other), index.text_E, index.kind_T)
    assert [word for _, word, _ in found_by(array(texts), forged)] == [-1, -1]


def test_the_first_text_owns_a_shared_ngram() -> None:
    texts = ["left one two three four", "one two three four right", "one two three four"]
    index = index_of(texts, Rule(4, 3, 2))
    matches = scan(array(["xx one two three four", "four right", "two three four right"]), index)
    assert [int(index.text_E[e]) if e >= 0 else -1 for e in matches.entry_N] == [0, -1, 1]


def test_allowed_texts_are_no_evidence() -> None:
    licence = "permission is hereby granted free of charge to any person obtaining a copy"
    texts = ["please note that " + licence, "return length + width"]
    index = index_of(texts, Rule(10, 3, 4), allow=[licence, "return length+width"])
    documents = array([licence, texts[0], texts[1]])
    assert [text for text, _, _ in found_by(documents, index)] == [
        "",
        "please note that permission is hereby granted free of charge",
        "",
    ]


def test_a_text_that_ends_like_an_allowed_one_is_evidence() -> None:
    """A short text is found by its last three words, so those alone do not say which text it is."""
    texts = ["def total(prices): return x + y", "return x + y", "return x[-y]"]
    index = index_of(texts, Rule(10, 3, 4), allow=["return x + y", "whatever: return x[-y]"])
    assert [text for text, _, _ in found_by(array(texts), index)] == [
        "def total ( prices ) : return x + y",
        "",
        "return x [ - y",
    ]


@pytest.mark.parametrize("texts", [[], [""], [None, "", None]])
def test_nothing_matches_nothing(texts: list[str | None]) -> None:
    empty = index_of([], Rule())
    full = index_of(["one two three four five six seven eight nine ten"], Rule())
    for index in (empty, full):
        assert scan(pa.array(texts, pa.large_string()), index).entry_N.tolist() == [-1] * len(texts)
    assert found_by(array(["one two three four five six seven eight nine ten"]), empty) == [("", -1, 0)]


def test_hostile_documents() -> None:
    index = index_of(["one two three four five six seven eight nine ten", "0" * 40 + " abc, abd"], Rule())
    huge = "x" * 3_000_000
    documents = array(
        [huge, huge + " one two three four five six seven eight nine ten", "\u0301" * 100_000, "\ufdfa" * 1000, "0 " * 9000]
    )
    assert scan(documents, index).word_N.tolist() == [-1, 1, -1, -1, -1]
    assert canonical(array(["\ufdfa"])).to_pylist() == [" ".join(tokens("\ufdfa", True))]
    assert unicodedata.category("\ufdfa") == "Lo" and SPACE == 0
