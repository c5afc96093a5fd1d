"""MathML to LaTeX.

It is read as a stream with a frame per open element: a fraction is "\\frac{" when it opens, "}{" before its second child,
"}" when it closes. What LaTeX writes in another order (a root's index, an accent, \\overset) is moved when the element closes.
Frames are 100 deep; what is nested deeper is read as if it were not nested, so moving costs at most 100 times the bytes.

Of several sources of one formula the author's wins: an <annotation> in TeX, then `alttext` where it looks like TeX, then the
conversion. A formula that is never closed ends where HTML begins again, as in a browser.
"""

# ruff: noqa: SIM109 - a chain of comparisons is what numba compiles fast
from __future__ import annotations

import numpy as np
from numba import njit

from corpus.extract_scan import (
    S_O,
    YES,
    attributes,
    comment_end,
    end_tag,
    find,
    hash_span,
    is_letter,
    is_space,
    past,
    put,
    put_bytes,
    rotate,
    tag_name,
)
from corpus.extract_tables import (
    A_CLOSE,
    A_ENCODING,
    A_OPEN,
    A_SEPARATORS,
    A_VARIANT,
    M_ANNOTATION,
    M_BOX,
    M_DROP,
    M_FENCED,
    M_FIRST,
    M_FRAC,
    M_LEAF_I,
    M_LEAF_N,
    M_LEAF_O,
    M_MATH,
    M_MULTI,
    M_NONE,
    M_OVER,
    M_PHANTOM,
    M_ROOT,
    M_ROW,
    M_SPACE,
    M_SQRT,
    M_SUB,
    M_SUBSUP,
    M_SUP,
    M_TABLE,
    M_TEXT,
    M_TR,
    M_UNDER,
    M_UNDEROVER,
    N_FUNCTION,
    N_MATHML,
    N_TAG,
    Tables,
    hash_name,
)
from corpus.latex import put_tex
from corpus.latex_characters import character, characters, tight, word, word_bytes
from corpus.latex_symbols import ACCENTS, SYMBOLS

__all__ = ["FRAMES", "mathml"]

FRAMES = (101, 8)
_KIND, _COUNT, _AT, _SECOND, _BRACE, _SEPARATOR, _CLOSE0, _CLOSE1 = range(8)
_LT, _GT, _SLASH, _BANG, _AMPERSAND, _BACKSLASH, _LEFT, _RIGHT, _CARET, _LOW, _DOLLAR, _SPACE, _LINE, _SQUARE, _ROUND = (
    np.uint8(byte) for byte in b"<>/!&\\{}^_$ \n]("
)


_FRAC, _SQRT, _ROOT, _TEXT, _MATRIX, _END_MATRIX = map(
    word_bytes, ("\\frac{", "\\sqrt{", "\\sqrt[", "\\text{", "\\begin{matrix}", "\\end{matrix}")
)
_ROMAN, _BOLD, _BLACKBOARD, _SCRIPT, _FRAKTUR, _PHANTOM, _BOXED, _OVERSET, _UNDERSET = map(
    word_bytes,
    ("\\mathrm{", "\\mathbf{", "\\mathbb{", "\\mathcal{", "\\mathfrak{", "\\phantom{", "\\boxed{", "\\overset", "\\underset"),
)
_H_BOLD, _H_BOLD_ITALIC, _H_BLACKBOARD, _H_SCRIPT, _H_FRAKTUR, _H_ROMAN = (
    np.uint64(hash_name(n)) for n in ("bold", "bold-italic", "double-struck", "script", "fraktur", "normal")
)
# Functions that carry what is over and under them as limits.
_LIMITS = {
    "lim", "max", "min", "sup", "inf", "limsup", "liminf", "sum", "prod", "coprod", "int", "iint", "iiint", "oint", "bigcap",
    "bigcup", "bigvee", "bigwedge", "bigoplus", "bigotimes", "bigodot", "det", "gcd", "pr",
}  # fmt: skip
_H_LIMITS = np.array([hash_name(name) for name in sorted(_LIMITS)], np.uint64)


def _accents() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hash of what the mark is in LaTeX, and the commands over and under, padded to 16 bytes with NULs."""
    marks = [SYMBOLS.get(ord(mark), "\\" + mark if mark in "_" else mark).strip() for mark in ACCENTS]
    keys = np.array([hash_name(mark.lower()) for mark in marks], np.uint64)
    columns = [[pair[k].encode().ljust(16, b"\0") for pair in ACCENTS.values()] for k in range(2)]
    over, under = (np.frombuffer(b"".join(c), np.uint8).reshape(-1, 16).copy() for c in columns)
    return keys, over, under


_MARK_KEYS, _OVER_16, _UNDER_16 = _accents()


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, inline="always")
def mathml(
    page_b: np.ndarray, i: int, out_b: np.ndarray, S: np.ndarray, A: np.ndarray, F: np.ndarray, T: Tables, done: bool
) -> int:
    """From behind <math …> to behind </math>, its LaTeX written; with `done` the LaTeX is there and the rest is passed over."""
    begin = S[S_O]
    depth = beyond = np.int64(0)
    _frame(F, depth, np.int64(M_ROW), begin)
    while i < len(page_b):
        if page_b[i] != _LT:
            i = characters(page_b, i, out_b, S, T, F[depth, _KIND], done)
            continue
        if i + 1 < len(page_b) and page_b[i + 1] == _BANG:
            i = comment_end(page_b, i + 4) if _is_comment(page_b, i) else past(page_b, i + 2, _GT)
            continue
        closing = i + 1 < len(page_b) and page_b[i + 1] == _SLASH
        name, key = tag_name(page_b, i + 1 + closing)
        kind = find(T, N_MATHML, key)
        if kind == 0 and find(T, N_TAG, key) and F[depth, _KIND] != M_TEXT and F[depth, _KIND] != M_DROP:
            break  # HTML again
        if closing:
            i = end_tag(page_b, name)
            if kind == M_MATH:
                break
            if kind and beyond:
                beyond -= 1
            elif kind:
                depth = _close_to(out_b, S, F, depth, kind, A, T)
            continue
        i = attributes(page_b, name, A, T)
        if kind == M_ANNOTATION:
            stop = _content_end(page_b, i)
            if not done and _is_tex(page_b, A, T):
                S[S_O] = begin
                depth = beyond = np.int64(0)
                done = True
                put_tex(page_b, i, stop, out_b, S, T, YES)
                begin = S[S_O]
            i = stop
            continue
        if kind == 0 or done:
            continue
        empty = A[len(A) - 1] == 1
        if depth + 1 >= len(F):
            beyond += not empty
            continue
        depth = _open(page_b, out_b, S, F, depth, kind, A, T)
        if empty:
            depth = _close_to(out_b, S, F, depth, kind, A, T)
    while depth > 0:
        depth = _close(out_b, S, F, depth, A, T)
    return i


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _frame(F: np.ndarray, depth: int, kind: int, at: int) -> None:
    for k in range(8):
        F[depth, k] = 0
    F[depth, _KIND] = kind
    F[depth, _AT] = at


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _is_comment(page_b: np.ndarray, i: int) -> bool:
    return i + 3 < len(page_b) and page_b[i + 2] == 45 and page_b[i + 3] == 45


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _content_end(page_b: np.ndarray, i: int) -> int:
    """Where the next end tag begins."""
    while i < len(page_b):
        if page_b[i] == _LT and i + 1 < len(page_b) and page_b[i + 1] == _SLASH:
            return i
        i += 1
    return i


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _is_tex(page_b: np.ndarray, A: np.ndarray, T: Tables) -> bool:
    """application/x-tex, application/x-latex, TeX, LaTeX: an encoding that ends in tex."""
    stop = A[2 * A_ENCODING + 1]
    if stop - A[2 * A_ENCODING] < 3:
        return False
    return bool((page_b[stop - 3] | 32) == 116 and (page_b[stop - 2] | 32) == 101 and (page_b[stop - 1] | 32) == 120)


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _open(
    page_b: np.ndarray, out_b: np.ndarray, S: np.ndarray, F: np.ndarray, depth: int, kind: int, A: np.ndarray, T: Tables
) -> int:
    leaf = kind == M_LEAF_I or kind == M_LEAF_N or kind == M_LEAF_O
    dropped = _before_child(out_b, S, F, depth, leaf, kind)
    depth += 1
    _frame(F, depth, M_DROP if dropped else kind, S[S_O])
    if kind == M_FRAC:
        word(out_b, S, _FRAC)
    elif kind == M_SQRT:
        word(out_b, S, _SQRT)
    elif kind == M_TEXT:
        word(out_b, S, _TEXT)
    elif kind == M_TABLE:
        word(out_b, S, _MATRIX)
    elif kind == M_PHANTOM:
        word(out_b, S, _PHANTOM)
    elif kind == M_BOX:
        word(out_b, S, _BOXED)
    elif kind == M_FENCED:
        _fence(page_b, out_b, S, A[2 * A_OPEN], A[2 * A_OPEN + 1], T)
        F[depth, _CLOSE0], F[depth, _CLOSE1] = A[2 * A_CLOSE], A[2 * A_CLOSE + 1]
        a, b = A[2 * A_SEPARATORS], A[2 * A_SEPARATORS + 1]
        F[depth, _SEPARATOR] = 44 if a < 0 else page_b[a] if b > a and page_b[a] < 128 and page_b[a] > 32 else 0
        F[depth, _BRACE] = _closing_byte(page_b, A[2 * A_CLOSE], A[2 * A_CLOSE + 1])
    elif leaf:
        F[depth, _BRACE] = _variant(page_b, A)
    return depth


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _closing_byte(page_b: np.ndarray, a: int, b: int) -> int:
    if a < 0:
        return 41
    return page_b[a] if b == a + 1 and page_b[a] < 128 else 0


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _fence(page_b: np.ndarray, out_b: np.ndarray, S: np.ndarray, a: int, b: int, T: Tables) -> None:
    """The opening fence of an <mfenced>."""
    if a < 0:
        put(out_b, S, _ROUND)
        return
    k = a
    while k < b:
        k = character(page_b, k, b, out_b, S, T)


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _variant(page_b: np.ndarray, A: np.ndarray) -> int:
    a = A[2 * A_VARIANT]
    if a < 0:
        return 0
    key = hash_span(page_b, a, A[2 * A_VARIANT + 1])
    if key == _H_BOLD or key == _H_BOLD_ITALIC:
        return 2
    if key == _H_BLACKBOARD:
        return 3
    if key == _H_SCRIPT:
        return 4
    if key == _H_FRAKTUR:
        return 5
    return 1 if key == _H_ROMAN else 0


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _before_child(out_b: np.ndarray, S: np.ndarray, F: np.ndarray, depth: int, leaf: bool, kind: int) -> bool:
    """What stands between the children of the frame; True for a child that is not shown."""
    parent, n = F[depth, _KIND], F[depth, _COUNT]
    F[depth, _COUNT] = n + 1
    if parent == M_FRAC and n == 1:
        tight(out_b, S, _RIGHT)
        put(out_b, S, _LEFT)
    elif parent == M_TABLE and n:
        put(out_b, S, _SPACE)
        put(out_b, S, _BACKSLASH)
        put(out_b, S, _BACKSLASH)
        put(out_b, S, _SPACE)
    elif parent == M_TR and n:
        put(out_b, S, _SPACE)
        put(out_b, S, _AMPERSAND)
        put(out_b, S, _SPACE)
    elif parent == M_FENCED and n and F[depth, _SEPARATOR]:
        put(out_b, S, np.uint8(F[depth, _SEPARATOR]))
    elif parent == M_ROOT and n <= 1:
        if n == 1:
            tight(out_b, S, _RIGHT)
            F[depth, _SECOND] = S[S_O]
            word(out_b, S, _ROOT)
        else:
            put(out_b, S, _LEFT)
    elif M_SUP <= parent <= M_UNDEROVER or parent == M_MULTI:
        _before_script(out_b, S, F, depth, leaf, n)
    return (parent == M_FIRST and n > 0) or parent == M_DROP or kind == M_DROP


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _before_script(out_b: np.ndarray, S: np.ndarray, F: np.ndarray, depth: int, leaf: bool, n: int) -> None:
    parent = F[depth, _KIND]
    if n == 0:
        F[depth, _BRACE] = not leaf
        if not leaf:
            put(out_b, S, _LEFT)
        return
    if n > 1 or F[depth, _BRACE]:
        tight(out_b, S, _RIGHT)
    if n == 1:
        F[depth, _SECOND] = S[S_O]
    below = parent == M_SUB or parent == M_UNDER
    if parent == M_SUBSUP or parent == M_UNDEROVER:
        below = n == 1
    elif parent == M_MULTI:
        below = n % 2 == 1
    tight(out_b, S, _LOW if below else _CARET)
    if n == 1:
        F[depth, _SECOND] = S[S_O] - 1
    put(out_b, S, _LEFT)


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _close_to(out_b: np.ndarray, S: np.ndarray, F: np.ndarray, depth: int, kind: int, A: np.ndarray, T: Tables) -> int:
    """Close frames down to the innermost of `kind`; none of it open, nothing is closed."""
    at = depth
    while at > 0 and F[at, _KIND] != kind and F[at, _KIND] != M_DROP:
        at -= 1
    while at > 0 and depth >= at:
        depth = _close(out_b, S, F, depth, A, T)
    return depth


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _close(out_b: np.ndarray, S: np.ndarray, F: np.ndarray, depth: int, A: np.ndarray, T: Tables) -> int:
    kind, n, at = F[depth, _KIND], F[depth, _COUNT], F[depth, _AT]
    if kind == M_DROP or kind == M_NONE:
        S[S_O] = at
    elif kind == M_SPACE:
        put(out_b, S, _SPACE)
    elif kind == M_FRAC:
        if n < 2:
            put(out_b, S, _RIGHT)
            put(out_b, S, _LEFT)
        tight(out_b, S, _RIGHT)
    elif kind == M_SQRT or kind == M_PHANTOM or kind == M_BOX or kind == M_TEXT:
        if kind == M_TEXT:
            put(out_b, S, _RIGHT)
        else:
            tight(out_b, S, _RIGHT)
    elif kind == M_ROOT and n:
        if n == 1:
            tight(out_b, S, _RIGHT)
        else:
            tight(out_b, S, _SQUARE)
            rotate(out_b, at, F[depth, _SECOND], S[S_O])
    elif kind == M_TABLE:
        word(out_b, S, _END_MATRIX)
    elif kind == M_FENCED:
        if F[depth, _BRACE]:
            if F[depth, _BRACE] == _RIGHT:
                put(out_b, S, _BACKSLASH)
            put(out_b, S, np.uint8(F[depth, _BRACE]))
    elif kind == M_LEAF_I or kind == M_LEAF_O or kind == M_LEAF_N:
        _close_leaf(out_b, S, at, kind, F[depth, _BRACE], T)
    elif (M_SUP <= kind <= M_UNDEROVER or kind == M_MULTI) and n:
        if n > 1 or F[depth, _BRACE]:
            tight(out_b, S, _RIGHT)
        if n == 2 and (kind == M_OVER or kind == M_UNDER):
            _close_over(out_b, S, at, F[depth, _SECOND], kind == M_OVER, F[depth, _BRACE] == 1)
    return depth - 1


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _close_leaf(out_b: np.ndarray, S: np.ndarray, at: int, kind: int, variant: int, T: Tables) -> None:
    """A word becomes a function or upright, a letter takes its style."""
    while S[S_O] > at and is_space(out_b[S[S_O] - 1]) and not (S[S_O] - 2 >= at and out_b[at] == _BACKSLASH):
        S[S_O] -= 1
    stop = S[S_O]
    letters = 0
    while at + letters < stop and is_letter(out_b[at + letters]):
        letters += 1
    plain = letters == stop - at and letters > 0
    style = variant if letters > 0 or stop > at else 0
    if plain and letters > 1 and kind != M_LEAF_N and variant < 2:
        if find(T, N_FUNCTION, hash_span(out_b, at, stop)):
            put(out_b, S, _BACKSLASH)
            rotate(out_b, at, stop, S[S_O])
            put(out_b, S, _SPACE)
            return
        style = 1
    if style == 0 or (style == 1 and not plain) or (kind != M_LEAF_I and style == 1 and letters < 2):
        return
    word(
        out_b,
        S,
        _ROMAN if style == 1 else _BOLD if style == 2 else _BLACKBOARD if style == 3 else _SCRIPT if style == 4 else _FRAKTUR,
    )
    rotate(out_b, at, stop, S[S_O])
    tight(out_b, S, _RIGHT)


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _close_over(out_b: np.ndarray, S: np.ndarray, at: int, second: int, over: bool, braced: bool) -> None:
    """base^{mark} or base_{mark} -> an accent, limits (left as they are), or \\overset, \\underset."""
    stop = S[S_O]
    if stop > len(out_b) or second + 3 > stop:
        return
    a, b = second + 2, stop - 1
    while b > a and out_b[b - 1] == 32:
        b -= 1
    key = hash_span(out_b, a, b)
    for k in range(len(_MARK_KEYS)):
        command = _OVER_16[k] if over else _UNDER_16[k]
        if _MARK_KEYS[k] == key and command[0]:
            S[S_O] = second
            put(out_b, S, _BACKSLASH)
            size = 0
            while size < 16 and command[size]:
                size += 1
            put_bytes(out_b, S, command, np.int64(0), np.int64(size))
            if not braced:
                put(out_b, S, _LEFT)
            rotate(out_b, at, second, S[S_O])
            if not braced:
                tight(out_b, S, _RIGHT)
            return
    a = at + braced
    if out_b[a] == _BACKSLASH:
        b = a + 1
        while b < second and is_letter(out_b[b]):
            b += 1
        key = hash_span(out_b, a + 1, b)
        for k in range(len(_H_LIMITS)):
            if _H_LIMITS[k] == key:
                return
    word(out_b, S, _OVERSET if over else _UNDERSET)
    rotate(out_b, second + 1, stop, S[S_O])
    rotate(out_b, second, second + 1, S[S_O])
    S[S_O] -= 1
    rotate(out_b, at, second, S[S_O])
