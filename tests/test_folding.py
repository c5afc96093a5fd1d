"""Folding: what the tables must be for hashes of stored texts and of documents to agree."""

from __future__ import annotations

import unicodedata

import pytest

from corpus.folding import HAN, MARK, MORE, SKIP, SPACE, WORD, fold_character, fold_tables


def unfolded(code: int) -> tuple[int, str]:
    """(class, text) of a code point as the tables have it."""
    table = fold_tables()
    kind, low = int(table.wide[code]) >> 24, int(table.wide[code]) & 0xFFFFFF
    if kind == MORE:
        letters = table.more[low:].tolist()
        return kind, "".join(map(chr, letters[: letters.index(0)]))
    return kind, "" if kind == SKIP else chr(low)


def test_tables_say_what_the_function_says() -> None:
    table = fold_tables()
    for code in range(len(table.wide)):
        assert unfolded(code) == fold_character(chr(code)), hex(code)
    for code in range(128):
        kind, text = fold_character(chr(code))
        assert table.ascii_256[code] == (ord(text) if kind == WORD else kind == MARK)
    assert (table.ascii_256[128:] == 2).all()


def test_folded_text_keeps_its_class() -> None:
    """A stored text is hashed as it is, a document's is folded first: both must see the same words and marks."""
    for code in range(len(fold_tables().wide)):
        kind, text = unfolded(code)
        again = {fold_character(char)[0] for char in text}
        if kind in (HAN, MARK):
            assert again == {kind}, hex(code)
        if kind in (WORD, MORE):
            assert again <= {WORD, MORE}, hex(code)
        assert " " not in text or kind == SPACE


@pytest.mark.parametrize(
    ("text", "kind", "folded"),
    [
        ("A", WORD, "a"),
        ("_", WORD, "_"),
        ("é", WORD, "e"),
        ("Σ", WORD, "σ"),
        ("ς", WORD, "σ"),
        ("ß", MORE, "ss"),
        ("ﬁ", MORE, "fi"),
        ("７", WORD, "7"),
        ("𝐱", WORD, "x"),
        ("（", MARK, "("),
        ("½", WORD, "½"),
        ("か", WORD, "か"),
        ("が", WORD, "が"),
        ("한", WORD, "한"),
        ("数", HAN, "数"),
        ("𠀀", HAN, "𠀀"),
        ("ा", WORD, "ा"),
        ("\u0301", SKIP, ""),
        ("\u200b", SKIP, ""),
        ("\ufeff", SKIP, ""),
        ("\ufe0f", SKIP, ""),
        ("\0", SPACE, " "),
        ("\u3000", SPACE, " "),
        ("\ufffd", SPACE, " "),
        ("´", SPACE, " "),
        ("→", MARK, "→"),
    ],
)
def test_characters(text: str, kind: int, folded: str) -> None:
    assert fold_character(text) == (kind, folded), unicodedata.name(text, hex(ord(text)))
