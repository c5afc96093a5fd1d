"""How many characters of an HTML page a reader would see.

Visible is the text outside tags, comments, declarations, processing instructions and the content of <script>, <style> and
<template>, counted as BeautifulSoup's get_text() gives it once those elements are gone:

- A character reference is one character: &name; of letters and digits, &#1234; and &#x4d2;. It is not looked up, so a name
  that does not exist is one as well; without its semicolon it is plain text, a character a letter.
- White space alone between two tags is one character however long, so indentation does not make a page look full; inside
  <pre> and <textarea> it counts in full, and so does white space beside other text.

Broken pages are read as the HTML tokenizer reads them: a < is text unless a letter, /, ! or ? follows; a > inside a quoted
attribute value does not end the tag; <script> ends only at </script; what is never closed (a comment, a quoted value, a
script) runs to the end of the page. No tree is built, so nesting costs nothing: one pass, a few counters, a time linear in the
bytes whatever they are.

The trade: no tree also means no repair. What a browser would move or close by itself is seen only for <pre>, where real
pages need it. On 1,444 real pages the decision of the 20 % rule is the oracle's (BeautifulSoup over html.parser, as in the
filter code the paper took the rule from) every time, at 450 against 2.4 MB/s; parsers with a tree gave text that differs
more, white space above all (dev/LOG.md).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numba import njit

from corpus.document import text_buffers

__all__ = ["visible_characters"]

_LT, _GT, _SLASH, _BANG, _QUESTION, _DASH, _EQUALS = b"<>/!?-="
_AMPERSAND, _HASH, _SEMICOLON = b"&#;"
_QUOTES = (39, 34)  # ' and "

# A lower-case element name as a number: eight letters are eight bytes.
_SCRIPT, _STYLE, _TEMPLATE, _PRE, _TEXTAREA = (
    int.from_bytes(name, "big") for name in (b"script", b"style", b"template", b"pre", b"textarea")
)
_RAW = (_SCRIPT, _STYLE)
_PREFORMATTED = (_PRE, _TEXTAREA)
_LONGEST_NAME = 8
_LONGEST_REFERENCE = 33  # "&CounterClockwiseContourIntegral;"


def visible_characters(text: pa.Array) -> np.ndarray:
    """Code points of visible text in each page (string or large_string, may be a slice; null = empty), as int64 [N]."""
    offsets_N1, data_B = text_buffers(text)
    visible_N = np.zeros(len(offsets_N1) - 1, np.int64)
    _scan_pages(offsets_N1, data_B, visible_N)
    return visible_N


@njit(cache=True, nogil=True)
def _scan_pages(offsets_N1: np.ndarray, data_B: np.ndarray, visible_N: np.ndarray) -> None:
    for n in range(len(visible_N)):
        visible_N[n] = _visible(data_B[offsets_N1[n] : offsets_N1[n + 1]])


@njit(cache=True, nogil=True)
def _visible(page_b: np.ndarray) -> int:
    visible = 0
    hidden = 0  # <template> elements open
    preformatted = 0  # elements open from the outermost <pre> or <textarea> on
    i = 0
    while i < len(page_b):
        i, characters, blank = _text_run(page_b, i)
        if hidden == 0:
            visible += min(characters, 1) if blank and preformatted == 0 else characters
        if i == len(page_b):
            break
        i, opened, closed = _tag(page_b, i)
        hidden = max(0, hidden + (opened == _TEMPLATE) - (closed == _TEMPLATE))
        preformatted = _preformatted_depth(preformatted, opened, closed)
        if opened in _RAW and closed == 0:
            i = _raw_end(page_b, i, opened)
    return visible


@njit(cache=True, nogil=True)
def _preformatted_depth(depth: int, opened: int, closed: int) -> int:
    """A <pre> that is never closed ends where something is closed that was opened before it."""
    if closed in _PREFORMATTED or (depth == 0 and opened not in _PREFORMATTED):
        return 0
    return max(0, depth + (opened != 0) - (closed != 0))


@njit(cache=True, nogil=True)
def _text_run(page_b: np.ndarray, start: int) -> tuple[int, int, bool]:
    """From `start` to the next markup: (where that is, characters, is it all white space)."""
    characters = 0
    blank = True
    i = start
    while i < len(page_b):
        byte = page_b[i]
        if byte == _LT and _opens_markup(page_b, i):
            break
        characters += (byte & 0xC0) != 0x80
        if not _is_space(byte):
            blank = False
            if byte == _AMPERSAND:
                i = _reference_end(page_b, i)
                continue
        i += 1
    return i, characters, blank


@njit(cache=True, nogil=True)
def _is_space(byte: int) -> bool:
    return byte == 32 or byte == 10 or byte == 9 or byte == 13 or byte == 12


@njit(cache=True, nogil=True)
def _is_letter(byte: int) -> bool:
    return 97 <= (byte | 0x20) <= 122


@njit(cache=True, nogil=True)
def _opens_markup(page_b: np.ndarray, i: int) -> bool:
    """Is the < at `i` the start of a tag, comment, declaration or instruction?"""
    if i + 1 == len(page_b):
        return False
    after = page_b[i + 1]
    return _is_letter(after) or after in (_SLASH, _BANG, _QUESTION)


@njit(cache=True, nogil=True)
def _reference_end(page_b: np.ndarray, i: int) -> int:
    """Past the character reference whose & is at `i`, or i + 1 when it is a plain &."""
    last = min(len(page_b), i + _LONGEST_REFERENCE)
    body = i + 2 if i + 1 < last and page_b[i + 1] == _HASH else i + 1
    k = body
    while k < last and (_is_letter(page_b[k]) or 48 <= page_b[k] <= 57):
        k += 1
    return k + 1 if body < k < last and page_b[k] == _SEMICOLON else i + 1


@njit(cache=True, nogil=True)
def _past(page_b: np.ndarray, start: int, byte: int) -> int:
    """Past the next `byte`, or the end of the page."""
    for i in range(start, len(page_b)):
        if page_b[i] == byte:
            return i + 1
    return len(page_b)


@njit(cache=True, nogil=True)
def _tag(page_b: np.ndarray, start: int) -> tuple[int, int, int]:
    """The markup whose < is at `start`: (past its end, name of the element it opens, of the one it closes); 0 = none."""
    size = len(page_b)
    second = page_b[start + 1]
    if second == _BANG and start + 3 < size and page_b[start + 2] == _DASH and page_b[start + 3] == _DASH:
        return _comment_end(page_b, start + 4), 0, 0
    name = start + 2 if second == _SLASH else start + 1
    if name >= size or not _is_letter(page_b[name]):  # <!doctype html>, <?php 1 ?>, </3>
        return _past(page_b, start + 2, _GT), 0, 0
    stop = name
    while stop < size and page_b[stop] != _GT and page_b[stop] != _SLASH and not _is_space(page_b[stop]):
        stop += 1
    element = _name(page_b, name, stop)
    end = _attributes_end(page_b, stop)
    if second == _SLASH:
        return end, 0, element
    itself = page_b[end - 1] == _GT and page_b[end - 2] == _SLASH  # <script src="x" />, as html.parser has it
    return end, element, element if itself else 0


@njit(cache=True, nogil=True)
def _name(page_b: np.ndarray, start: int, stop: int) -> int:
    """Letters as a number, see _SCRIPT; 0 for a name longer than any of interest."""
    if stop - start > _LONGEST_NAME:
        return 0
    number = 0
    for k in range(start, stop):
        number = number << 8 | (page_b[k] | 0x20)
    return number


@njit(cache=True, nogil=True)
def _attributes_end(page_b: np.ndarray, start: int) -> int:
    """Past the > that ends the tag: not one inside a quoted value, and a quote opens a value only after an =."""
    value = False
    i = start
    while i < len(page_b):
        byte = page_b[i]
        if byte == _GT:
            return i + 1
        if value and byte in _QUOTES:
            i = _past(page_b, i + 1, byte)
            value = False
            continue
        value = byte == _EQUALS or (value and _is_space(byte))
        i += 1
    return i


@njit(cache=True, nogil=True)
def _comment_end(page_b: np.ndarray, start: int) -> int:
    """Past the --> or --!> of the comment whose text begins at `start`; <!--> and <!---> are whole comments."""
    for i in range(start, len(page_b)):
        if page_b[i] != _GT:
            continue
        if page_b[i - 1] == _DASH and page_b[i - 2] == _DASH:
            return i + 1
        if i >= start + 3 and page_b[i - 1] == _BANG and page_b[i - 2] == _DASH and page_b[i - 3] == _DASH:
            return i + 1
    return len(page_b)


@njit(cache=True, nogil=True)
def _raw_end(page_b: np.ndarray, start: int, element: int) -> int:
    """Where </script (or </style) begins after `start`, or the end: until there, nothing is markup."""
    size = len(page_b)
    length = 6 if element == _SCRIPT else 5
    for i in range(start, size - length - 1):
        if page_b[i] != _LT or page_b[i + 1] != _SLASH:
            continue
        after = i + 2 + length
        closes = after == size or page_b[after] == _GT or page_b[after] == _SLASH or _is_space(page_b[after])
        if closes and _name(page_b, i + 2, after) == element:
            return i
    return size
