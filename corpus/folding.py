"""Folding: how text is read when only its words matter, as tables a kernel can use.

A *word* is a maximal run of letters, digits, `_` and vowel signs; a Han character is a word by itself, so Chinese needs no
segmenter (kana and Hangul run together as letters do). Folded: NFKD, case-folded, accents dropped, NFC. White space and
punctuation separate words; formatting characters (zero-width space and joiner, soft hyphen, byte-order mark) are not there.

The trade: Thai, Lao, Khmer and Burmese have no spaces, so a word of theirs is a phrase; й and и, ё and е fold together.
"""

from __future__ import annotations

import functools
import unicodedata
from typing import NamedTuple

import numpy as np

__all__ = ["HAN", "MARK", "MORE", "SKIP", "SPACE", "WORD", "Fold", "fold_character", "fold_tables"]

# Classes of characters. MARK: punctuation and symbols; MORE: folds to several letters. Compiled into the kernels of
# corpus/ngram_kernels.py, so a change here needs a change there (numba caches by file).
SPACE, MARK, WORD, HAN, SKIP, MORE = range(6)
_TABLE = 0x20000  # planes 2 and 3 hold nothing but Han characters; above them there is nothing to read
_HAN_RANGES = ((0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0x20000, 0x3FFFF))
_HANGUL = (0xAC00, 0xD7A3)
_SELECTORS = ((0xFE00, 0xFE0F), (0xE0000, 0xE0FFF))  # variation selectors and tags: invisible


class Fold(NamedTuple):
    """ascii_256: 0 space, 1 punctuation, 2 not ASCII, else the folded letter. wide: class << 24 | folded code point (for
    MORE: where its letters begin in `more`, which a 0 ends)."""

    ascii_256: np.ndarray
    wide: np.ndarray
    more: np.ndarray


def _within(code: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(low <= code <= high for low, high in ranges)


def _is_word(char: str) -> bool:
    if _within(ord(char), _HAN_RANGES):
        return False
    return char == "_" or char.isalnum() or unicodedata.category(char)[0] == "M"


def fold_character(char: str) -> tuple[int, str]:
    """(class, folded text) of one character.

    Combining class 10 and up are accents and optional points (Latin, Greek, Arabic, Hebrew): dropped. Below are the vowel
    signs of Indic scripts and kana's voicing marks, which spell the word: kept. A character that decomposes into more
    than letters (½, ㈠) stays as it is.
    """
    code, category = ord(char), unicodedata.category(char)
    if category in ("Cc", "Cs", "Zs", "Zl", "Zp") or code == 0xFFFD:
        return SPACE, " "
    if category == "Cf" or _within(code, _SELECTORS) or unicodedata.combining(char) >= 10:
        return SKIP, ""
    apart = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", char).casefold())
    base = unicodedata.normalize("NFC", "".join(c for c in apart if unicodedata.combining(c) < 10))
    if not base.strip():
        return SPACE, " "  # ´ and its like: a space with an accent
    if all(map(_is_word, base)):
        return (WORD if len(base) == 1 else MORE), base
    if len(base) > 1:
        base = char
    if _within(ord(base), _HAN_RANGES):
        return HAN, base
    return (WORD if _is_word(base) else MARK), base


@functools.cache
def fold_tables() -> Fold:
    """Built once per process, 0.2 s. Follows the Unicode version of this Python."""
    wide = np.arange(_TABLE, dtype=np.uint32) | np.uint32(MARK << 24)
    for low, high in _HAN_RANGES[:-1]:
        wide[low : high + 1] = np.arange(low, high + 1, dtype=np.uint32) | np.uint32(HAN << 24)
    wide[_HANGUL[0] : _HANGUL[1] + 1] += np.uint32((WORD - MARK) << 24)
    more = [0]
    for code in range(_TABLE):
        if _within(code, _HAN_RANGES) or _within(code, (_HANGUL,)):
            continue
        kind, text = fold_character(chr(code))
        if kind == MORE:
            wide[code] = MORE << 24 | len(more)
            more += [*map(ord, text), 0]
        else:
            wide[code] = kind << 24 | (ord(text) if text else 0)
    ascii_256 = np.full(256, 2, np.uint8)
    low_128 = wide[:128]
    ascii_256[:128] = np.where(low_128 >> 24 == WORD, low_128 & 0xFF, low_128 >> 24 == MARK)
    return Fold(ascii_256, wide, np.array(more, np.uint32))
