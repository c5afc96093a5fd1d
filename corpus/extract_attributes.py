"""What an element's attributes say: is it shown, is it code, is it navigation, which language.

class and id are read as tokens and as the words inside them (between - and _, and where case rises), each looked up by hash.
A word that speaks of another element does not count: "has-sidebar", "content-sidebar" (a word for the body is beside it).
"""

# ruff: noqa: SIM109 - a chain of comparisons is what numba compiles fast
from __future__ import annotations

import numpy as np
from numba import njit

from corpus.extract_scan import find, hash_span, is_letter, is_space
from corpus.extract_state import (
    X_ARTICLE,
    X_ASIDE,
    X_BAD,
    X_BODY,
    X_COMMENT,
    X_DISPLAY,
    X_FOOTER,
    X_FORM,
    X_HEADER,
    X_HIDDEN,
    X_HIGHLIGHT,
    X_LINK,
    X_MAIN,
    X_NAV,
    X_NOSCRIPT,
    X_REGION,
    X_RENDERED,
    X_SOFT,
)
from corpus.extract_tables import (
    A_ARIA_HIDDEN,
    A_CLASS,
    A_DISPLAY,
    A_HIDDEN,
    A_HREF,
    A_ID,
    A_ITEMPROP,
    A_LANG,
    A_LINE,
    A_ROLE,
    A_STYLE,
    N_TOKEN,
    N_WORD,
    PRIME,
    START,
    T_A,
    T_ARTICLE,
    T_ASIDE,
    T_BODY,
    T_BUTTON,
    T_CODE,
    T_DIV,
    T_FOOTER,
    T_FORM,
    T_HEAD,
    T_HEADER,
    T_MAIN,
    T_MJX,
    T_NAV,
    T_NOSCRIPT,
    T_OPTION,
    T_OTHER,
    T_PRE,
    T_SELECT,
    T_SKIP,
    T_SPAN,
    T_SUB,
    T_SUP,
    T_TABLE,
    T_TD,
    T_TH,
    W_CODE,
    W_COMMENT,
    W_DISPLAY,
    W_GUTTER,
    W_HIDDEN,
    W_LANG,
    W_LANGUAGE,
    W_MAIN,
    W_NAV,
    W_NONE,
    W_REGION,
    W_RENDERED,
    W_SKIP,
    W_SOFT,
    W_SOURCE,
    W_VOID,
    Tables,
    hash_name,
)

__all__ = ["class_words", "element_context", "find_language"]

_START, _PRIME = np.uint64(START), np.uint64(PRIME)
_H_TRUE, _H_MAIN, _H_ARTICLE, _H_BODY, _H_NONE, _H_HIDDEN = (
    np.uint64(hash_name(n)) for n in ("true", "main", "article", "articlebody", "none", "hidden")
)
_H_NAV_ROLES = np.array(
    [
        hash_name(n)
        for n in [
            "navigation",
            "banner",
            "contentinfo",
            "complementary",
            "search",
            "menu",
            "menubar",
            "toolbar",
            "dialog",
            "alertdialog",
        ]
    ],
    np.uint64,
)


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def class_words(page_b: np.ndarray, A: np.ndarray, T: Tables, tag: int) -> np.int64:
    """The W_ bits of class and id. A page's body, main and article speak of the whole: what they say of navigation is void."""
    bits = np.int64(0)
    for slot in (A_CLASS, A_ID):
        a, b = A[2 * slot], A[2 * slot + 1]
        while a < b:
            while a < b and is_space(page_b[a]):
                a += 1
            stop, token = _token(page_b, a, b, T)
            bits |= token
            a = stop
    if tag == T_BODY or tag == T_MAIN or tag == T_ARTICLE:
        bits &= W_MAIN
    return bits


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _token(page_b: np.ndarray, a: int, b: int, T: Tables) -> tuple[int, np.int64]:
    """(past the token that begins at `a`, its bits)."""
    whole = word = _START
    bits, size, i = np.int64(0), 0, a
    odd = lower = False
    while True:
        byte = page_b[i] if i < b else 32
        ends = is_space(byte)
        rises = 65 <= byte <= 90 and lower
        if ends or byte == 45 or byte == 95 or rises:
            if size > 1:
                bits |= find(T, N_WORD, word)
            word, size = _START, 0
            if ends:
                break
        odd |= byte == 58 or byte == 91 or byte == 47  # utility classes: md:hidden, [&_nav]:p-2, w-1/2
        lower = 97 <= byte <= 122
        if 65 <= byte <= 90:
            byte |= 0x20
        whole = (whole ^ np.uint64(byte)) * _PRIME
        if byte != 45 and byte != 95:
            word = (word ^ np.uint64(byte)) * _PRIME
            size += 1
        i += 1
    if i == a:
        return i, np.int64(0)
    token = find(T, N_TOKEN, whole)
    if odd:
        return i, token & W_LANG
    if bits & W_VOID:
        bits = np.int64(0)
    if bits & W_MAIN and bits & W_NAV:
        bits ^= W_NAV
    return i, bits | token & ~W_LANGUAGE & ~W_NONE


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def element_context(page_b: np.ndarray, A: np.ndarray, context: int, tag: int, words: int) -> int:
    """The context of what is inside an element, from the one it stands in."""
    if words:
        context = _by_words(context, tag, words)
    a = A[2 * A_ROLE]
    if a >= 0:
        key = hash_span(page_b, a, A[2 * A_ROLE + 1])
        if key == _H_MAIN:
            context |= X_MAIN
        elif key == _H_ARTICLE:
            context |= X_ARTICLE
        else:
            for k in range(len(_H_NAV_ROLES)):
                if key == _H_NAV_ROLES[k] and tag != T_BODY:
                    context |= X_NAV
    a = A[2 * A_ITEMPROP]
    if a >= 0 and hash_span(page_b, a, A[2 * A_ITEMPROP + 1]) == _H_BODY:
        context |= X_BODY
    if _hides(page_b, A) and tag != T_BODY and tag != T_MAIN and tag != T_ARTICLE:
        context |= X_RENDERED if words & W_SOURCE else X_HIDDEN
    if tag == T_A:
        if A[2 * A_HREF] >= 0:
            context |= X_LINK
    elif tag == T_TD and A[2 * A_LINE] >= 0:
        context |= X_HIDDEN
    elif tag == T_PRE:
        context |= X_REGION
    elif tag == T_MJX:
        context |= X_RENDERED
        if A[2 * A_DISPLAY] >= 0 and hash_span(page_b, A[2 * A_DISPLAY], A[2 * A_DISPLAY + 1]) == _H_TRUE:
            context |= X_DISPLAY
    else:
        context |= _by_tag(context, tag)
    return context


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _by_tag(context: int, tag: int) -> int:
    if tag == T_NAV:
        return X_NAV
    if tag == T_HEADER:
        return 0 if context & (X_MAIN | X_ARTICLE | X_BODY) else X_HEADER
    if tag == T_FOOTER:
        return X_FOOTER
    if tag == T_ASIDE:
        return X_ASIDE
    if tag == T_MAIN:
        return X_MAIN
    if tag == T_ARTICLE:
        return X_ARTICLE
    if tag == T_FORM:
        return X_FORM
    if tag == T_SKIP or tag == T_BUTTON or tag == T_SELECT or tag == T_OPTION or tag == T_HEAD:
        return X_HIDDEN
    return X_NOSCRIPT if tag == T_NOSCRIPT else 0


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _by_words(context: int, tag: int, words: int) -> int:
    if words & W_CODE:
        context |= X_HIGHLIGHT
    inside = context & (X_REGION | X_HIGHLIGHT)
    inline = tag == T_SPAN or tag == T_A or tag == T_OTHER or tag == T_CODE or tag == T_SUP or tag == T_SUB
    if words & (W_SKIP | W_HIDDEN):
        context |= X_HIDDEN
    if words & W_GUTTER and (tag == T_TD or tag == T_TH or (inside and tag != T_PRE and tag != T_CODE and tag != T_TABLE)):
        context |= X_HIDDEN
    if words & W_RENDERED:
        context |= X_RENDERED
    if words & W_DISPLAY:
        context |= X_DISPLAY
    if words & W_REGION and not inline:
        context |= X_REGION | X_HIGHLIGHT
    if inside:
        return context | X_HIDDEN if words & W_NAV and not inline and not words & W_CODE else context
    if not inline and not words & W_CODE:
        if words & W_NAV:
            context |= X_BAD
        if words & W_SOFT:
            context |= X_SOFT
        if words & W_COMMENT:
            context |= X_COMMENT
        if words & W_MAIN:
            context |= X_BODY
    return context


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _hides(page_b: np.ndarray, A: np.ndarray) -> bool:
    """hidden, aria-hidden="true", style="display: none" or "visibility: hidden"."""
    if A[2 * A_HIDDEN] >= 0:
        return True
    a = A[2 * A_ARIA_HIDDEN]
    if a >= 0 and hash_span(page_b, a, A[2 * A_ARIA_HIDDEN + 1]) == _H_TRUE:
        return True
    i, stop = A[2 * A_STYLE], A[2 * A_STYLE + 1]
    if i < 0:
        return False
    while i < stop:
        while i < stop and not is_letter(page_b[i]) and page_b[i] != 45:
            i += 1
        name = i
        while i < stop and (is_letter(page_b[i]) or page_b[i] == 45):
            i += 1
        if (i - name == 7 and page_b[name] | 32 == 100) or (i - name == 10 and page_b[name] | 32 == 118):  # display, visibility
            while i < stop and (page_b[i] == 58 or is_space(page_b[i])):
                i += 1
            value = i
            while i < stop and is_letter(page_b[i]):
                i += 1
            key = hash_span(page_b, value, i)
            if key == _H_NONE or key == _H_HIDDEN:
                return True
        while i < stop and page_b[i] != 59:
            i += 1
    return False


_PREFIXES = np.array(
    [list(p.encode().ljust(17, b"\0")) for p in (
        "highlight-source-", "highlight-text-", "language-", "highlight-", "lang-", "hl-", "src-", "source-", "brush:"
    )], np.uint8
)  # fmt: skip


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def find_language(page_b: np.ndarray, A: np.ndarray, T: Tables, tag: int, words: int) -> tuple[int, int]:
    """(start, stop) of the name of a programming language in data-lang or the class; (0, 0) where none is named."""
    code = tag == T_PRE or tag == T_CODE
    a, b = A[2 * A_LANG], A[2 * A_LANG + 1]
    if b > a and (code or tag == T_DIV or words & W_CODE):
        start, stop = _language_name(page_b, a, b, T)
        return start, stop
    if not (code or words & W_LANG) or A[2 * A_CLASS] < 0:
        return 0, 0
    i, b = A[2 * A_CLASS], A[2 * A_CLASS + 1]
    while i < b:
        while i < b and is_space(page_b[i]):
            i += 1
        stop = i
        while stop < b and not is_space(page_b[stop]):
            stop += 1
        for k in range(len(_PREFIXES)):
            length = 0
            while (
                length < 17
                and _PREFIXES[k, length]
                and i + length < stop
                and page_b[i + length] | 32 == _PREFIXES[k, length] | 32
            ):
                length += 1
            if length == 17 or _PREFIXES[k, length] == 0:
                if k == 4 and not code:  # lang-en on a <div> is no programming language
                    break
                at = i + length
                if k == 8:
                    while at < b and is_space(page_b[at]):
                        at += 1
                start, last = _language_name(page_b, at, b, T)
                if last:
                    return start, last
                break
        if (code or words & W_CODE) and find(T, N_TOKEN, hash_span(page_b, i, stop)) & W_LANGUAGE:
            return i, stop
        i = stop
    return 0, 0


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _language_name(page_b: np.ndarray, a: int, b: int, T: Tables) -> tuple[int, int]:
    """The name that begins at `a`: letters, digits and + # . _ -, at most 24, and not a word that names none."""
    i = a
    while i < b and (
        is_letter(page_b[i])
        or 48 <= page_b[i] <= 57
        or page_b[i] == 43
        or page_b[i] == 35
        or 45 <= page_b[i] <= 46
        or page_b[i] == 95
    ):
        i += 1
    if i == a or i - a > 24 or find(T, N_TOKEN, hash_span(page_b, a, i)) & W_NONE:
        return 0, 0
    return a, i
