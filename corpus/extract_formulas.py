"""Formulae: <math>, MathJax scripts and images as LaTeX in the text, <sup> and <sub> as scripts, where raw text ends."""

# ruff: noqa: SIM109 - a chain of comparisons is what numba compiles fast
from __future__ import annotations

import numpy as np
from numba import njit

from corpus.extract_prose import gap
from corpus.extract_scan import NO, S_O, S_OVER, YES, hash_span, is_letter, is_space, put
from corpus.extract_state import (
    NEWLINE,
    S_B0,
    S_CONTEXT,
    S_FORMULA_END,
    S_FORMULAS,
    S_ROLLBACK,
    S_ROLLBACK_END,
    S_ROW,
    S_SPACE,
    X_DISPLAY,
    X_HIDDEN,
    X_REGION,
    X_RENDERED,
)
from corpus.extract_tables import (
    A_ALT,
    A_ALTTEXT,
    A_CLASS,
    A_DISPLAY,
    A_MATHML,
    A_MODE,
    A_SLOTS,
    A_SRC,
    A_TYPE,
    W_DISPLAY,
    W_TEX,
    Tables,
    hash_name,
)
from corpus.latex import is_script, looks_like_tex, put_tex, put_url
from corpus.latex_mathml import mathml

__all__ = ["data_mathml", "end_script", "image", "math_element", "raw_end", "script", "wrap_tex"]

_LT, _GT, _SLASH, _BACKTICK, _DOLLAR, _BACKSLASH, _QUOTE = (np.uint8(byte) for byte in b'<>/`$\\"')
_H_BLOCK, _H_TEX, _H_TEX_DISPLAY, _H_MML, _H_ASCIIMATH = (
    np.uint64(hash_name(n)) for n in ("block", "math/tex", "mode=display", "math/mml", "math/asciimath")
)
# Ends of words in addresses, as big-endian numbers.
_W_CODECOGS, _W_MATHTE, _W_MIMETE, _W_CHART, _W_LATEX, _W_TEX_QUERY, _W_CHL = (
    np.uint64(int.from_bytes(w, "big")) for w in (b"codecogs", b"mathte", b"mimete", b"cht=tx", b"latex=", b"tex=", b"chl=")
)


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _open_formula(out_b: np.ndarray, S: np.ndarray, display: bool) -> int:
    """Write what stands before the LaTeX; where the LaTeX begins."""
    display = display and S[S_ROW] == 0 and not S[S_CONTEXT] & X_REGION
    if display:
        S[S_SPACE] = NEWLINE
    gap(out_b, S)
    put(out_b, S, _DOLLAR)
    if display:
        put(out_b, S, _DOLLAR)
    return int(S[S_O])


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _close_formula(out_b: np.ndarray, S: np.ndarray, before: int, at: int) -> None:
    """Write what stands behind the LaTeX out_b[at:]. Empty: take all back. With delimiters of its own: no others."""
    o = S[S_O]
    if S[S_OVER]:
        return
    if o == at:
        S[S_O] = before
        return
    S[S_FORMULAS] += 1
    first = out_b[at]
    own = first == _DOLLAR or (first == _BACKSLASH and o > at + 1 and (out_b[at + 1] == 40 or out_b[at + 1] == 91))
    width = 2 if at - 2 >= before and out_b[at - 1] == _DOLLAR and out_b[at - 2] == _DOLLAR else 1
    if own:
        for k in range(at, o):
            out_b[k - width] = out_b[k]
        S[S_O] = o - width
    else:
        if width == 1:
            for k in range(at, o):
                if out_b[k] == 10:
                    out_b[k] = 32
        for _ in range(width):
            put(out_b, S, _DOLLAR)
    if width == 2:
        S[S_SPACE] = NEWLINE
    S[S_FORMULA_END] = S[S_O]


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _tex_element(
    page_b: np.ndarray, a: int, b: int, out_b: np.ndarray, S: np.ndarray, T: Tables, display: bool, references: bool
) -> None:
    before = S[S_O]
    at = _open_formula(out_b, S, display)
    put_tex(page_b, a, b, out_b, S, T, references)
    _close_formula(out_b, S, before, at)


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def math_element(page_b: np.ndarray, i: int, out_b: np.ndarray, S: np.ndarray, F: np.ndarray, A: np.ndarray, T: Tables) -> int:
    """<math> whose attributes are in A and whose content begins at `i`."""
    display = S[S_CONTEXT] & X_DISPLAY != 0
    a = A[2 * A_DISPLAY]
    if a >= 0 and hash_span(page_b, a, A[2 * A_DISPLAY + 1]) == _H_BLOCK:
        display = True
    a = A[2 * A_MODE]
    if a >= 0 and A[2 * A_MODE + 1] - a == 7:  # mode="display"
        display = True
    before = S[S_O]
    at = _open_formula(out_b, S, display)
    a, b = A[2 * A_ALTTEXT], A[2 * A_ALTTEXT + 1]
    done = a >= 0 and looks_like_tex(page_b, a, b)
    if done:
        put_tex(page_b, a, b, out_b, S, T, YES)
    if A[2 * A_SLOTS] == 0:
        i = mathml(page_b, i, out_b, S, A, F, T, done)
    _close_formula(out_b, S, before, at)
    if S[S_CONTEXT] & X_RENDERED:  # the script with the source may follow, and replaces it
        S[S_ROLLBACK], S[S_ROLLBACK_END] = before, S[S_O]
    return i


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def script(page_b: np.ndarray, i: int, out_b: np.ndarray, S: np.ndarray, A: np.ndarray, T: Tables) -> int:
    """<script>: a formula where its type says so. `i` is where its content begins."""
    stop = int(raw_end(page_b, i, np.int64(6)))
    a, b = A[2 * A_TYPE], A[2 * A_TYPE + 1]
    if a < 0 or b - a < 8:
        return stop
    if b - a >= 8 and hash_span(page_b, a, a + 8) == _H_TEX and not S[S_CONTEXT] & X_HIDDEN:
        if S[S_ROLLBACK] >= 0 and S[S_ROLLBACK_END] == S[S_O]:
            S[S_O] = S[S_ROLLBACK]
            S[S_FORMULAS] -= 1
        display = b - a >= 20 and hash_span(page_b, b - 12, b) == _H_TEX_DISPLAY
        _tex_element(page_b, i, stop, out_b, S, T, display, NO)
        S[S_ROLLBACK] = -1
    elif hash_span(page_b, a, b) == _H_MML:
        return i
    elif hash_span(page_b, a, min(b, a + 14)) == _H_ASCIIMATH and stop > i and not S[S_CONTEXT] & X_HIDDEN:
        gap(out_b, S)
        put(out_b, S, _BACKTICK)
        put_tex(page_b, i, stop, out_b, S, T, NO)
        put(out_b, S, _BACKTICK)
        S[S_FORMULAS] += 1
    return stop


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def raw_end(page_b: np.ndarray, i: int, length: int) -> int:
    """Where the end tag of raw text begins: </, `length` letters that are those of the start tag, no more letters.

    The start tag is looked up by its last letters: raw elements differ in length or in their last letter.
    """
    size = len(page_b)
    while i + 2 + length <= size:
        if page_b[i] == _LT and page_b[i + 1] == _SLASH:
            last = page_b[i + 1 + length] | 0x20
            closes = i + 2 + length == size or not is_letter(page_b[i + 2 + length])
            first = page_b[i + 2] | 0x20
            if closes and (
                (length == 6 and first == 115 and last == 116)  # script
                or (length == 6 and first == 105 and last == 101)  # iframe
                or (length == 5 and first == 115 and last == 101)  # style
                or (length == 5 and first == 116 and last == 101)  # title
                or (length == 8 and first == 116 and last == 97)  # textarea
                or (length == 3 and first == 120 and last == 112)  # xmp
                or (length == 7 and first == 110 and last == 100)  # noembed
            ):
                return i
        i += 1
    return size


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def data_mathml(page_b: np.ndarray, A: np.ndarray) -> int:
    """Resolve the MathML that MathJax 2 leaves in an attribute of what it rendered, where it stands; where it then stops."""
    a, b = A[2 * A_MATHML], A[2 * A_MATHML + 1]
    i = stop = a
    while i < b:  # written over itself: the page is the kernels' own copy, and no reference is shorter than its character
        byte = page_b[i]
        if (
            byte == 38
            and i + 3 < b
            and page_b[i + 2] == 116
            and page_b[i + 3] == 59
            and (page_b[i + 1] == 108 or page_b[i + 1] == 103)
        ):
            byte = _LT if page_b[i + 1] == 108 else _GT
            i += 3
        elif byte == 38 and i + 5 < b and page_b[i + 1] == 113 and page_b[i + 5] == 59:  # &quot;
            byte = _QUOTE
            i += 5
        page_b[stop] = byte
        stop += 1
        i += 1
    return stop if stop - a > 5 and page_b[a] == _LT else -1


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def image(page_b: np.ndarray, out_b: np.ndarray, S: np.ndarray, A: np.ndarray, T: Tables, words: int) -> None:
    """An <img> of a formula: its alternative text, or what its address asks a renderer for."""
    a, b = A[2 * A_ALT], A[2 * A_ALT + 1]
    source, end = A[2 * A_SRC], A[2 * A_SRC + 1]
    query = _formula_query(page_b, source, end) if source >= 0 else -1
    if query < 0 and not (b > a and (words & W_TEX or _delimited(page_b, a, b))):
        return
    wiki = words & W_TEX and page_b[A[2 * A_CLASS]] | 32 == 109  # mwe-math-fallback-…: the <math> before it says the same
    if wiki and S[S_FORMULA_END] == S[S_O]:
        return
    display = words & W_DISPLAY != 0 or S[S_CONTEXT] & X_DISPLAY != 0
    before = S[S_O]
    at = _open_formula(out_b, S, display)
    if b > a and (query < 0 or looks_like_tex(page_b, a, b)):
        put_tex(page_b, a, b, out_b, S, T, YES)
    elif query >= 0:
        put_url(page_b, query, end, out_b, S)
    _close_formula(out_b, S, before, at)
    S[S_FORMULA_END] = -1


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _delimited(page_b: np.ndarray, a: int, b: int) -> bool:
    """An alternative text of $…$, \\(…\\) or \\[…\\], as LaTeX2HTML and Doxygen write it."""
    if b - a < 3:
        return False
    if page_b[a] == _DOLLAR and page_b[b - 1] == _DOLLAR:
        return True
    closing = page_b[b - 2] == _BACKSLASH and (page_b[b - 1] == 41 or page_b[b - 1] == 93)
    return bool(page_b[a] == _BACKSLASH and (page_b[a + 1] == 40 or page_b[a + 1] == 91) and closing)


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _formula_query(page_b: np.ndarray, a: int, b: int) -> int:
    """Where the LaTeX begins in the address of a rendering service, or -1.

    latex.php?latex=, equation?tex=, chart?cht=tx&chl=, and, behind the ? at once, codecogs.com, mathtex.cgi and mimetex.cgi.
    """
    last = min(b, a + 200)
    mark = a
    while mark < last and page_b[mark] != 63:
        mark += 1
    if mark == last:
        return -1
    word = np.uint64(0)
    renders = chart = False
    for i in range(a, last):
        byte = page_b[i]
        word = word << np.uint64(8) | np.uint64(byte | 0x20 if is_letter(byte) else byte)
        six, four = word & np.uint64(0xFFFFFFFFFFFF), word & np.uint64(0xFFFFFFFF)
        if i < mark:
            renders |= word == _W_CODECOGS or six == _W_MATHTE or six == _W_MIMETE
        elif six == _W_CHART:
            chart = True
        elif six == _W_LATEX or four == _W_TEX_QUERY or (chart and four == _W_CHL):
            return i + 1
    return mark + 1 if renders else -1


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def wrap_tex(out_b: np.ndarray, S: np.ndarray, at: int, display: bool) -> None:
    """Text of an element whose class says LaTeX, out_b[at:]: between dollar signs if it is LaTeX and has no delimiters."""
    o = S[S_O]
    if at < S[S_B0] or o - at > 8192 or o + 4 > len(out_b):
        return
    while at < o and is_space(out_b[at]):
        at += 1
    tex = False
    for k in range(at, o):
        byte = out_b[k]
        after = out_b[k + 1] if k + 1 < o else 0
        if byte == _DOLLAR or byte == _BACKTICK or (byte == _BACKSLASH and (after == 40 or after == 91)):
            return
        tex |= (byte == _BACKSLASH and is_letter(after)) or byte == 94 or byte == 95
    if not tex:
        return
    width = 2 if display else 1
    for k in range(o - 1, at - 1, -1):
        out_b[k + width] = out_b[k]
    for k in range(width):
        out_b[at + k] = _DOLLAR
        out_b[o + width + k] = _DOLLAR
    S[S_O] = o + 2 * width
    S[S_FORMULAS] += 1


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def end_script(out_b: np.ndarray, S: np.ndarray, at: int, below: bool, linked: bool) -> None:
    """The text out_b[at:] of a <sup> or <sub> as ^{} or _{}, if it is mathematics (corpus/latex.py)."""
    o = S[S_O]
    if at <= S[S_B0] or o + 3 > len(out_b) or not is_script(out_b, S[S_B0], at, o, below, linked):
        return
    for k in range(o - 1, at - 1, -1):
        out_b[k + 2] = out_b[k]
    out_b[at], out_b[at + 1], out_b[o + 2] = 95 if below else 94, 123, 125
    S[S_O] = o + 3
