"""One walk over a page: its text into a raw buffer, cut into blocks, each with what the elements around it say.

Two kinds of text: prose, where white space collapses and character references resolve, and code regions, copied as they are.
Formulae are written as LaTeX where they stand. Which blocks are worth keeping is decided afterwards (corpus/extract_blocks.py).

Elements are a stack of at most 4096; deeper ones count as their ancestor. An end tag looks for its element at most 128
deep and not out of a table cell, so work is linear in the bytes whatever the nesting; what is not found is ignored, as is
what closes only later. Inline elements that change nothing (<b>, <em>) are not on the stack at all.
"""

# ruff: noqa: SIM109 - a chain of comparisons is what numba compiles fast
from __future__ import annotations

import numpy as np
from numba import njit

from corpus.extract_attributes import class_words, element_context
from corpus.extract_formulas import data_mathml, image, math_element, raw_end, script
from corpus.extract_prose import end_block, line, prose, start_line, verbatim
from corpus.extract_scan import NO, S_O, S_OVER, attributes, comment_end, end_tag, find, is_letter, past, tag_name
from corpus.extract_stack import close, imply_ends, pop, push
from corpus.extract_state import (
    B_OUTER,
    K_TAG,
    S_ASPECT,
    S_ASPECTS,
    S_CODE_AT,
    S_CODED,
    S_CONTEXT,
    S_DECLARED0,
    S_DECLARED1,
    S_DOLLAR,
    S_EXTRA,
    S_FORMULA_END,
    S_LANG0,
    S_LINKED,
    S_ROLLBACK,
    S_ROLLBACK_END,
    S_SEEN_TITLE,
    S_TITLE0,
    S_TITLE1,
    S_TOP,
    X_BAD,
    X_HIDDEN,
    X_LINK,
    X_REGION,
    X_RENDERED,
)
from corpus.extract_tables import (
    A_DECLARED,
    A_MATHML,
    A_SLOTS,
    BLOCK,
    N_TAG,
    T_A,
    T_BODY,
    T_BR,
    T_HEAD,
    T_HR,
    T_IMG,
    T_MATH,
    T_OTHER,
    T_PRE,
    T_RAW,
    T_SCRIPT,
    T_STYLE,
    T_TEXTAREA,
    T_TITLE,
    VOID,
    W_RENDERED,
    Tables,
)

__all__ = ["walk"]

_LT, _GT, _SLASH, _BANG, _QUESTION, _DASH, _BACKTICK, _QUOTE, _LINE = (np.uint8(byte) for byte in b'<>/!?-`"\n')


@njit(cache=True, nogil=True)
def walk(
    page_b: np.ndarray, out_b: np.ndarray, S: np.ndarray, K: np.ndarray, B: np.ndarray, F: np.ndarray, A: np.ndarray, T: Tables
) -> None:
    """Fill out_b with raw text and B [most, BLOCK_FIELDS] with blocks; S[S_OVER] is 1 where one of the two was too small."""
    size = len(page_b)
    S[:] = 0
    S[S_DOLLAR] = S[S_ROLLBACK] = S[S_ROLLBACK_END] = S[S_FORMULA_END] = S[S_LANG0] = -1
    i = np.int64(0)
    while i < size and S[S_OVER] == 0:
        context = S[S_CONTEXT]
        if context & (X_HIDDEN | X_RENDERED):
            while i < size and page_b[i] != _LT:
                i += 1
        else:
            before = S[S_O]
            i = verbatim(page_b, i, out_b, S, T) if context & X_REGION else prose(page_b, i, out_b, S, T)
            if context & X_LINK:
                S[S_LINKED] += S[S_O] - before
            if S[S_CODE_AT]:
                S[S_CODED] += S[S_O] - before
        if i + 1 >= size:
            break
        second = page_b[i + 1]
        if is_letter(second):
            i = _start_tag(page_b, i + 1, out_b, S, K, B, F, A, T)
        elif second == _SLASH:
            i = _end_tag(page_b, i + 2, out_b, S, K, B, T)
        elif second == _BANG and i + 3 < size and page_b[i + 2] == _DASH and page_b[i + 3] == _DASH:
            i = comment_end(page_b, i + 4)
        elif second == _BANG or second == _QUESTION:
            i = past(page_b, i + 2, _GT)
        else:  # a < in text that is not shown
            i += 1
    while S[S_TOP] > 0:
        pop(out_b, S, K, B, T)
    end_block(out_b, S, B)


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, inline="always")
def _start_tag(
    page_b: np.ndarray,
    i: int,
    out_b: np.ndarray,
    S: np.ndarray,
    K: np.ndarray,
    B: np.ndarray,
    F: np.ndarray,
    A: np.ndarray,
    T: Tables,
) -> int:
    """The start tag whose name begins at `i`; past it, and past its content where that is raw text or MathML."""
    start = i
    i, key = tag_name(page_b, i)
    number = find(T, N_TAG, key)
    tag = number & 255
    stop = i
    i = attributes(page_b, i, A, T)
    if tag == T_SCRIPT:
        return int(script(page_b, i, out_b, S, A, T))
    if tag == T_STYLE or tag == T_TEXTAREA or tag == T_TITLE or tag == T_RAW:
        end = raw_end(page_b, i, stop - start)
        own = not S[S_CONTEXT] & X_HIDDEN or (S[S_TOP] > 0 and K[S[S_TOP] - 1, K_TAG] == T_HEAD)  # and not that of an <svg>
        if tag == T_TITLE and S[S_SEEN_TITLE] == 0 and own:
            S[S_TITLE0], S[S_TITLE1], S[S_SEEN_TITLE] = i, end, 1
        return int(end)
    words = class_words(page_b, A, T, tag)
    if number & VOID:
        _void(page_b, out_b, S, B, A, T, tag, words)
        return i
    if tag == T_MATH and not S[S_CONTEXT] & X_HIDDEN:
        return int(math_element(page_b, i, out_b, S, F, A, T))
    if tag == T_BODY and S[S_DECLARED1] == 0 and A[2 * A_DECLARED] >= 0:  # <html lang>, or that of <body>
        S[S_DECLARED0], S[S_DECLARED1] = A[2 * A_DECLARED], A[2 * A_DECLARED + 1]
    if number & BLOCK:
        imply_ends(out_b, S, K, B, T, tag)
        start_line(out_b, S, B, tag)
    elif tag == T_A and S[S_CONTEXT] & X_LINK:  # links do not nest
        close(out_b, S, K, B, T, np.int64(key), tag, NO)
    context = element_context(page_b, A, S[S_CONTEXT] & ~X_BAD, tag, words)
    beside, context = context & X_BAD, context | S[S_CONTEXT] & X_BAD
    if tag == T_OTHER and (context == S[S_CONTEXT] or A[2 * A_SLOTS]):
        return i
    if S[S_TOP] == len(K):
        S[S_EXTRA] += 1
        return i
    push(page_b, out_b, S, K, A, T, np.int64(key), number, context, words)
    if beside and S[S_ASPECTS] + 1 < len(B):
        S[S_ASPECTS] += 1
        B[S[S_ASPECTS], B_OUTER] = S[S_ASPECT]
        S[S_ASPECT] = S[S_ASPECTS]
    if words & W_RENDERED and A[2 * A_MATHML] >= 0 and not S[S_CONTEXT] & X_HIDDEN:
        a, b = A[2 * A_MATHML], data_mathml(page_b, A)
        if b >= 0:
            a = attributes(page_b[:b], tag_name(page_b[:b], a + 1)[0], A, T)
            math_element(page_b[:b], a, out_b, S, F, A, T)
            S[S_CONTEXT] |= X_HIDDEN
    if tag == T_PRE and i < len(page_b):
        i += page_b[i] == 13 and i + 1 < len(page_b) and page_b[i + 1] == 10
        i += i < len(page_b) and page_b[i] == 10
    return i


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _end_tag(page_b: np.ndarray, i: int, out_b: np.ndarray, S: np.ndarray, K: np.ndarray, B: np.ndarray, T: Tables) -> int:
    if i >= len(page_b) or not is_letter(page_b[i]):
        return int(past(page_b, i, _GT))
    i, key = tag_name(page_b, i)
    i = end_tag(page_b, i)
    number = find(T, N_TAG, key)
    tag = number & 255
    if number & VOID:
        if tag == T_BR and not S[S_CONTEXT] & (X_HIDDEN | X_RENDERED):  # </br> is a <br>
            line(out_b, S, B)
        return i
    if S[S_EXTRA] > 0 and tag != T_OTHER:
        S[S_EXTRA] -= 1
        if number & BLOCK:
            start_line(out_b, S, B, tag)
        return i
    close(out_b, S, K, B, T, np.int64(key), tag, number & BLOCK != 0)
    return i


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _void(
    page_b: np.ndarray, out_b: np.ndarray, S: np.ndarray, B: np.ndarray, A: np.ndarray, T: Tables, tag: int, words: int
) -> None:
    """<br>, <hr>, <img>; the other elements without content say nothing."""
    if S[S_CONTEXT] & (X_HIDDEN | X_RENDERED):
        return
    if tag == T_BR:
        line(out_b, S, B)
    elif tag == T_HR:
        start_line(out_b, S, B, tag)
    elif tag == T_IMG and not S[S_CONTEXT] & X_REGION:
        image(page_b, out_b, S, A, T, words)
