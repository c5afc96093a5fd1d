"""The open elements of a page: pushed with what their context says, closed by their end tag or by what follows."""

# ruff: noqa: SIM109 - a chain of comparisons is what numba compiles fast
from __future__ import annotations

import numpy as np
from numba import njit

from corpus.extract_attributes import find_language
from corpus.extract_formulas import end_script, wrap_tex
from corpus.extract_prose import end_block, end_code, gap, start_line
from corpus.extract_scan import S_O, put
from corpus.extract_state import (
    E_BLOCK,
    E_CODE,
    E_DISPLAY,
    E_LINKED,
    E_LIST,
    E_QUOTE,
    E_REGION,
    E_TEX,
    K_ASPECT,
    K_AT,
    K_CELL,
    K_CONTEXT,
    K_DEFINITION,
    K_FLAGS,
    K_GROUP,
    K_HEADING,
    K_KEY,
    K_LANG0,
    K_LANG1,
    K_LANG_DEPTH,
    K_NUMBER,
    K_ROW,
    K_TAG,
    KIND_DEFINITION,
    KIND_TERM,
    S_ASPECT,
    S_CELL,
    S_CODE_AT,
    S_CONTEXT,
    S_DEFINITION,
    S_GROUP,
    S_GROUPS,
    S_HEADING,
    S_LANG0,
    S_LANG1,
    S_LANG_DEPTH,
    S_LINKED,
    S_LISTS,
    S_MARK,
    S_QUOTES,
    S_ROW,
    S_ROWS,
    S_TOP,
    X_HIDDEN,
    X_LINK,
    X_LIST,
    X_REGION,
    X_RENDERED,
)
from corpus.extract_tables import (
    A_START,
    BLOCK,
    T_CAPTION,
    T_CODE,
    T_DD,
    T_DL,
    T_DT,
    T_H,
    T_LI,
    T_OL,
    T_OPTION,
    T_P,
    T_PRE,
    T_Q,
    T_QUOTE,
    T_SUB,
    T_SUP,
    T_TABLE,
    T_TBODY,
    T_TD,
    T_TEXMATH,
    T_TH,
    T_TR,
    T_UL,
    W_DISPLAY,
    W_TEX,
    Tables,
)

__all__ = ["close", "imply_ends", "pop", "push"]

_BACKTICK, _QUOTE, _LINE = (np.uint8(byte) for byte in b'`"\n')
_SEARCH = 128


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def push(
    page_b: np.ndarray, out_b: np.ndarray, S: np.ndarray, K: np.ndarray, A: np.ndarray, T: Tables, key: int, number: int,
    context: int, words: int,
) -> None:  # fmt: skip
    top, tag = S[S_TOP], number & 255
    flags = E_BLOCK if number & BLOCK else 0
    K[top, K_KEY], K[top, K_TAG], K[top, K_NUMBER] = key, tag, 0
    K[top, K_CONTEXT], K[top, K_LANG0], K[top, K_LANG1], K[top, K_LANG_DEPTH] = (
        S[S_CONTEXT],
        S[S_LANG0],
        S[S_LANG1],
        S[S_LANG_DEPTH],
    )
    K[top, K_ROW], K[top, K_CELL], K[top, K_GROUP] = S[S_ROW], S[S_CELL], S[S_GROUP]
    K[top, K_HEADING], K[top, K_DEFINITION], K[top, K_ASPECT] = S[S_HEADING], S[S_DEFINITION], S[S_ASPECT]
    S[S_TOP] = top + 1
    if context & X_REGION and not S[S_CONTEXT] & X_REGION:
        flags |= E_REGION
    outside = not context & X_REGION
    shown = not context & (X_HIDDEN | X_RENDERED)
    S[S_CONTEXT] = context
    a, b = find_language(page_b, A, T, tag, words)
    if b > a:
        S[S_LANG0], S[S_LANG1], S[S_LANG_DEPTH] = a, b, top
    elif outside and top - S[S_LANG_DEPTH] > 5:
        S[S_LANG0] = S[S_LANG1] = -1
    if tag == T_LI and outside:
        S[S_MARK] = -1
        if top > 0 and K[top - 1, K_TAG] == T_OL:
            K[top - 1, K_NUMBER] += 1
            S[S_MARK] = K[top - 1, K_NUMBER]
    elif tag == T_UL or tag == T_OL or tag == T_DL:
        if tag != T_DL:
            S[S_LISTS] += 1
            flags |= E_LIST
        if not S[S_CONTEXT] & X_LIST:
            S[S_GROUPS] += 1
            S[S_GROUP] = S[S_GROUPS]
            S[S_CONTEXT] |= X_LIST
        K[top, K_NUMBER] = _start_number(page_b, A)
    elif tag == T_QUOTE:
        S[S_QUOTES] += 1
        flags |= E_QUOTE
    elif tag == T_TR:
        S[S_ROWS] += 1
        S[S_ROW], S[S_CELL] = S[S_ROWS], 0
    elif tag == T_TD or tag == T_TH:
        parent = top - 1
        if parent >= 0 and K[parent, K_TAG] == T_TR:
            K[parent, K_NUMBER] += 1
            S[S_CELL] = K[parent, K_NUMBER]
        S[S_HEADING] = S[S_DEFINITION] = 0
    elif tag == T_TABLE:
        S[S_ROW] = 0
        S[S_GROUPS] += 1
        S[S_GROUP] = S[S_GROUPS]
    elif tag == T_H:
        S[S_HEADING] = number >> 8 & 15
    elif tag == T_DT:
        S[S_DEFINITION] = KIND_TERM
    elif tag == T_DD:
        S[S_DEFINITION] = KIND_DEFINITION
    elif tag == T_CODE and outside and shown and not words & W_TEX and S[S_CODE_AT] == 0:
        flags |= E_CODE
        gap(out_b, S)
        put(out_b, S, _BACKTICK)
        S[S_CODE_AT] = S[S_O]
    elif tag == T_Q and shown and outside:
        gap(out_b, S)
        put(out_b, S, _QUOTE)
    if (words & W_TEX and shown and outside and not flags & E_CODE) or tag == T_TEXMATH:
        flags |= E_TEX
        if words & W_DISPLAY or tag == T_PRE:
            flags |= E_DISPLAY
    if S[S_LINKED] or context & X_LINK:
        flags |= E_LINKED
    K[top, K_AT], K[top, K_FLAGS] = S[S_O], flags


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _start_number(page_b: np.ndarray, A: np.ndarray) -> int:
    """What the items of a list are counted from, less one: its `start`, of up to six digits."""
    a, b = A[2 * A_START], A[2 * A_START + 1]
    number = 0
    if a < 0 or b - a > 6 or b == a:
        return 0
    for i in range(a, b):
        if not 48 <= page_b[i] <= 57:
            return 0
        number = number * 10 + page_b[i] - 48
    return max(0, number - 1)


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def imply_ends(out_b: np.ndarray, S: np.ndarray, K: np.ndarray, B: np.ndarray, T: Tables, tag: int) -> None:
    """Close what a start tag closes by itself: a paragraph, the list item, term, row or cell before it."""
    top = S[S_TOP] - 1
    if top < 0:
        return
    if K[top, K_TAG] == T_P:
        pop(out_b, S, K, B, T)
        top -= 1
    if not (
        tag == T_LI
        or tag == T_DT
        or tag == T_DD
        or tag == T_TR
        or tag == T_TD
        or tag == T_TH
        or tag == T_OPTION
        or tag == T_TBODY
    ):
        return
    for at in range(top, max(top - _SEARCH, -1), -1):
        open_tag = K[at, K_TAG]
        if tag == T_LI:
            found, wall = open_tag == T_LI, open_tag == T_UL or open_tag == T_OL or open_tag == T_TD
        elif tag == T_DT or tag == T_DD:
            found, wall = open_tag == T_DT or open_tag == T_DD, open_tag == T_DL or open_tag == T_TD
        elif tag == T_OPTION:
            found, wall = open_tag == T_OPTION, open_tag != T_OPTION
        elif tag == T_TR:
            found, wall = open_tag == T_TR, open_tag == T_TABLE or open_tag == T_TBODY
        elif tag == T_TBODY:
            found, wall = open_tag == T_TBODY, open_tag == T_TABLE
        else:
            found, wall = open_tag == T_TD or open_tag == T_TH, open_tag == T_TR or open_tag == T_TABLE
        if found:
            while S[S_TOP] > at:
                pop(out_b, S, K, B, T)
            return
        if wall:
            return


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def close(out_b: np.ndarray, S: np.ndarray, K: np.ndarray, B: np.ndarray, T: Tables, key: int, tag: int, block: bool) -> None:
    """Close the innermost element of this name and what is open inside it."""
    top = S[S_TOP] - 1
    if block and top >= 0 and K[top, K_KEY] != key:
        start_line(out_b, S, B, tag)
    for at in range(top, max(top - _SEARCH, -1), -1):
        if K[at, K_KEY] == key or (tag == T_H and K[at, K_TAG] == T_H):
            while S[S_TOP] > at:
                pop(out_b, S, K, B, T)
            return
        open_tag = K[at, K_TAG]
        if (
            tag != T_TABLE
            and tag != T_TR
            and tag != T_TBODY
            and (open_tag == T_TD or open_tag == T_TH or open_tag == T_TABLE or open_tag == T_CAPTION)
        ):
            return
        if open_tag == T_TABLE:
            return
        if not block and (open_tag == T_LI or open_tag == T_P or open_tag == T_H):
            return


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def pop(out_b: np.ndarray, S: np.ndarray, K: np.ndarray, B: np.ndarray, T: Tables) -> None:
    top = S[S_TOP] - 1
    tag, flags, at = K[top, K_TAG], K[top, K_FLAGS], K[top, K_AT]
    if flags & E_TEX:
        wrap_tex(out_b, S, at, flags & E_DISPLAY != 0)
    if tag == T_SUP or tag == T_SUB:
        end_script(out_b, S, at, tag == T_SUB, flags & E_LINKED != 0 or S[S_LINKED] > 0)
    if flags & E_CODE and S[S_CODE_AT]:
        end_code(out_b, S)
    if tag == T_Q and not S[S_CONTEXT] & (X_HIDDEN | X_RENDERED | X_REGION):
        put(out_b, S, _QUOTE)
    if flags & E_REGION:
        end_block(out_b, S, B)
    elif flags & E_BLOCK:
        if S[S_CONTEXT] & X_REGION:
            o = S[S_O]
            if not S[S_CONTEXT] & X_HIDDEN and tag != T_TD and tag != T_TH and (o == at or out_b[o - 1] != 10):
                put(out_b, S, _LINE)
        else:
            end_block(out_b, S, B)
    S[S_TOP] = top
    S[S_CONTEXT] = K[top, K_CONTEXT]
    if not S[S_CONTEXT] & X_REGION:  # what a <code> inside the <pre> is said to hold is known when the <pre> ends
        S[S_LANG0], S[S_LANG1], S[S_LANG_DEPTH] = K[top, K_LANG0], K[top, K_LANG1], K[top, K_LANG_DEPTH]
    S[S_ROW], S[S_CELL], S[S_GROUP] = K[top, K_ROW], K[top, K_CELL], K[top, K_GROUP]
    S[S_HEADING], S[S_DEFINITION], S[S_ASPECT] = K[top, K_HEADING], K[top, K_DEFINITION], K[top, K_ASPECT]
    S[S_LISTS] -= flags & E_LIST != 0
    S[S_QUOTES] -= flags & E_QUOTE != 0
    if tag == T_LI:
        S[S_MARK] = 0
