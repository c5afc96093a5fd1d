"""Which blocks of a page are kept, and how the kept ones are laid out."""

from __future__ import annotations

import numpy as np
from numba import njit

from corpus.extract_scan import S_O, is_space, put, put_bytes
from corpus.extract_state import (
    B_ASPECT,
    B_CELL,
    B_CODED,
    B_CONTEXT,
    B_FORMULAS,
    B_GROUP,
    B_INSIDE,
    B_KEEP,
    B_KIND,
    B_LANG0,
    B_LANG1,
    B_LINKED,
    B_LISTS,
    B_MARK,
    B_OUTER,
    B_QUOTES,
    B_ROW,
    B_START,
    B_STOP,
    KIND_CODE,
    KIND_DEFINITION,
    X_ARTICLE,
    X_ASIDE,
    X_COMMENT,
    X_FOOTER,
    X_FORM,
    X_MAIN,
    X_NAV,
    X_NOSCRIPT,
    X_SOFT,
)

__all__ = ["choose", "lay_out"]

_SPACE, _LINE, _BAR, _GT, _DASH, _HASH, _POINT, _BACKTICK = (np.uint8(byte) for byte in b" \n|>-#.`")


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def choose(raw_b: np.ndarray, B: np.ndarray, count: int, aspects: int) -> None:
    """Set B_KEEP of each block. Code, formulae and a page's first heading go only with the navigation they stand in."""
    _weigh(B, count, aspects)
    kept = central = 0
    for n in range(count):
        B[n, B_KEEP] = _worthwhile(raw_b, B, n)
        if B[n, B_KEEP]:
            free = B[n, B_STOP] - B[n, B_START] - B[n, B_LINKED]
            kept += free
            if B[n, B_CONTEXT] & (X_MAIN | X_ARTICLE):
                central += free
    if central * 5 > kept * 3:  # <main> or <article> is where the text is: what is short and outside is not of it
        for n in range(count):
            short = B[n, B_STOP] - B[n, B_START] <= 200 and B[n, B_KIND] != KIND_CODE and B[n, B_KIND] != 1
            if short and B[n, B_FORMULAS] == 0 and not B[n, B_CONTEXT] & (X_MAIN | X_ARTICLE):
                B[n, B_KEEP] = 0
    _drop_empty_headings(B, count)


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _worthwhile(raw_b: np.ndarray, B: np.ndarray, n: int) -> bool:
    """Is this block kept, by what it is and where it stands?"""
    context, kind, size = B[n, B_CONTEXT], B[n, B_KIND], B[n, B_STOP] - B[n, B_START]
    if context & (X_NAV | X_FOOTER | X_NOSCRIPT) or (B[n, B_ASPECT] and B[B[n, B_ASPECT], B_INSIDE]):
        return False
    if kind == KIND_CODE:
        return True
    if B[n, B_LINKED] * 2 > size or (context & (X_SOFT | X_ASIDE | X_FORM) and B[n, B_LINKED] * 5 > size * 2):
        return False
    if context & X_FORM and context & X_COMMENT and size < 250:  # what is asked of who comments
        return False
    if not context & X_SOFT or size >= 40 or kind or B[n, B_LISTS] or B[n, B_ROW] or B[n, B_FORMULAS] or B[n, B_CODED]:
        return True
    last = raw_b[B[n, B_STOP] - 1]  # a short line beside the text stays if it is a sentence
    return bool(last == 46 or last == 58 or last == 63 or last == 33 or last == 34)


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _weigh(B: np.ndarray, count: int, aspects: int) -> None:
    """B_INSIDE of each element whose words say navigation becomes 1 where it, or one around it, is.

    One that holds more than half of the page's text outside links is no navigation: its words speak of the page's layout.
    """
    for k in range(1, aspects + 1):
        B[k, B_INSIDE] = 0
    total = 0
    for n in range(count):
        free = B[n, B_STOP] - B[n, B_START] - B[n, B_LINKED]
        total += free
        if B[n, B_ASPECT]:
            B[B[n, B_ASPECT], B_INSIDE] += free
    for k in range(aspects, 0, -1):  # what is inside another was opened after it
        if B[k, B_OUTER]:
            B[B[k, B_OUTER], B_INSIDE] += B[k, B_INSIDE]
    for k in range(1, aspects + 1):
        B[k, B_INSIDE] = B[k, B_INSIDE] * 2 <= total or (B[k, B_OUTER] and B[B[k, B_OUTER], B_INSIDE])


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _drop_empty_headings(B: np.ndarray, count: int) -> None:
    """A heading of level 2 to 6 goes when nothing is kept between it and the next heading of its level or a higher one."""
    filled = 0  # bit l: something follows that a heading of level l would stand over
    for n in range(count - 1, -1, -1):
        level = B[n, B_KIND]
        if not B[n, B_KEEP]:
            continue
        if not 1 <= level <= 6:
            filled = 127
        elif level == 1 or filled >> level & 1:
            filled = (1 << level) - 1
        else:
            B[n, B_KEEP] = 0


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def lay_out(
    page_b: np.ndarray, raw_b: np.ndarray, B: np.ndarray, count: int, out_b: np.ndarray, S: np.ndarray
) -> tuple[int, int, int]:
    """Write the kept blocks to out_b from S[S_O] on: (formulae, code blocks, characters in them)."""
    begin = S[S_O]
    formulas = blocks = characters = 0
    last = -1
    for n in range(count):
        if not B[n, B_KEEP]:
            continue
        start, stop, kind = B[n, B_START], B[n, B_STOP], B[n, B_KIND]
        formulas += B[n, B_FORMULAS]
        same_row = last >= 0 and B[n, B_ROW] and B[n, B_ROW] == B[last, B_ROW] and kind == 0 and B[last, B_KIND] == 0
        if same_row:
            put(out_b, S, _SPACE)
            if B[n, B_CELL] != B[last, B_CELL]:
                put(out_b, S, _BAR)
                put(out_b, S, _SPACE)
            put_bytes(out_b, S, raw_b, start, stop)
            last = n
            continue
        if last >= 0:
            put(out_b, S, _LINE)
            tight = (
                B[n, B_GROUP]
                and B[n, B_GROUP] == B[last, B_GROUP]
                and (
                    (B[n, B_ROW] and B[last, B_ROW])
                    or (B[n, B_LISTS] and B[n, B_MARK] and B[last, B_LISTS])
                    or (kind == KIND_DEFINITION and B[last, B_KIND] > KIND_CODE)
                )
            )
            if not tight or kind == KIND_CODE or B[last, B_KIND] == KIND_CODE:
                put(out_b, S, _LINE)
        if kind == KIND_CODE:
            blocks += 1
            characters += _code(page_b, raw_b, start, stop, B[n, B_LANG0], B[n, B_LANG1], out_b, S)
        else:
            _text(raw_b, B, n, out_b, S)
        last = n
    if S[S_O] > begin:
        put(out_b, S, _LINE)
    return formulas, blocks, characters


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _text(raw_b: np.ndarray, B: np.ndarray, n: int, out_b: np.ndarray, S: np.ndarray) -> None:
    """A block of prose behind its marks: > for a quotation, # for a heading, - or a number for an item, indented by depth."""
    kind, mark = B[n, B_KIND], B[n, B_MARK]
    quotes, indent = min(B[n, B_QUOTES], 4), 2 * max(0, min(B[n, B_LISTS], 8) - 1)
    for k in range(B[n, B_START], B[n, B_STOP]):
        if k == B[n, B_START] or raw_b[k - 1] == 10:
            for _ in range(quotes):
                put(out_b, S, _GT)
                put(out_b, S, _SPACE)
            if k == B[n, B_START]:
                if kind > KIND_CODE:
                    indent += 2 * (kind == KIND_DEFINITION)
                for _ in range(indent + 2 * (mark == 0 and B[n, B_LISTS] > 0)):
                    put(out_b, S, _SPACE)
                if mark < 0:
                    put(out_b, S, _DASH)
                    put(out_b, S, _SPACE)
                elif mark > 0:
                    _number(mark, out_b, S)
                if 0 < kind < KIND_CODE:
                    for _ in range(kind):
                        put(out_b, S, _HASH)
                    put(out_b, S, _SPACE)
            else:
                for _ in range(indent + 2 * (B[n, B_LISTS] > 0)):
                    put(out_b, S, _SPACE)
        put(out_b, S, raw_b[k])


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _number(number: int, out_b: np.ndarray, S: np.ndarray) -> None:
    """The number, a point and a space."""
    power = 1
    while power * 10 <= number:
        power *= 10
    while power:
        put(out_b, S, np.uint8(48 + number // power % 10))
        power //= 10
    put(out_b, S, _POINT)
    put(out_b, S, _SPACE)


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _code(
    page_b: np.ndarray, raw_b: np.ndarray, start: int, stop: int, lang0: int, lang1: int, out_b: np.ndarray, S: np.ndarray
) -> int:
    """A fenced block without the blank lines at its ends; its characters. The fence is longer than any backticks in it."""
    k = start
    while k < stop and is_space(raw_b[k]):
        if raw_b[k] == 10:
            start = k + 1
        k += 1
    fence, run, characters = 3, 0, 0
    for k in range(start, stop):
        run = run + 1 if raw_b[k] == 96 else 0
        fence = max(fence, run + 1)
        characters += raw_b[k] & 0xC0 != 0x80
    for _ in range(fence):
        put(out_b, S, _BACKTICK)
    if lang0 >= 0:
        for k in range(lang0, lang1):
            put(out_b, S, page_b[k] | _SPACE if 65 <= page_b[k] <= 90 else page_b[k])
    put(out_b, S, _LINE)
    put_bytes(out_b, S, raw_b, start, stop)
    put(out_b, S, _LINE)
    for _ in range(fence):
        put(out_b, S, _BACKTICK)
    return characters
