"""Text between tags: prose with its white space collapsed, code as it is; blocks and inline code, begun and ended."""

# ruff: noqa: SIM109 - a chain of comparisons is what numba compiles fast
from __future__ import annotations

import numpy as np
from numba import njit

from corpus.extract_scan import NO, S_O, S_OVER, hash_span, is_letter, is_space, put, put_bytes, put_code, put_text, reference
from corpus.extract_state import (
    B_ASPECT,
    B_CELL,
    B_CODED,
    B_CONTEXT,
    B_FORMULAS,
    B_GROUP,
    B_KIND,
    B_LANG0,
    B_LANG1,
    B_LINKED,
    B_LISTS,
    B_MARK,
    B_QUOTES,
    B_ROW,
    B_START,
    B_STOP,
    KIND_CODE,
    MOST_BLOCKS,
    NEWLINE,
    NOTHING,
    S_ASPECT,
    S_B0,
    S_BLOCKS,
    S_CELL,
    S_CODE_AT,
    S_CODED,
    S_CONTEXT,
    S_DEFINITION,
    S_DELIMITER,
    S_DOLLAR,
    S_ENVIRONMENT,
    S_FORMULAS,
    S_GROUP,
    S_HEADING,
    S_LANG0,
    S_LANG1,
    S_LINKED,
    S_LISTS,
    S_MARK,
    S_QUOTES,
    S_ROW,
    S_SPACE,
    SPACE,
    X_HIDDEN,
    X_LINK,
    X_REGION,
)
from corpus.extract_tables import (
    B_DROP,
    B_MATH,
    B_PLAIN,
    B_REFERENCE,
    B_SPACE,
    B_TAG,
    B_WIDE,
    T_TD,
    T_TH,
    Tables,
    byte_kinds,
    hash_name,
)

__all__ = ["end_block", "end_code", "gap", "line", "opens_markup", "prose", "start_line", "verbatim"]

_LT, _SLASH, _BANG, _QUESTION, _BACKTICK, _DOLLAR, _BACKSLASH, _SPACE, _LINE = (np.uint8(byte) for byte in b"</!?`$\\ \n")
_KINDS = byte_kinds()
_H_BEGIN, _H_END = (np.uint64(hash_name(n)) for n in ("begin{", "end{"))


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def opens_markup(page_b: np.ndarray, i: int) -> bool:
    if i + 1 >= len(page_b):
        return False
    after = page_b[i + 1]
    return bool(is_letter(after) or after == _SLASH or after == _BANG or after == _QUESTION)


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def gap(out_b: np.ndarray, S: np.ndarray) -> None:
    """The white space owed, unless at the begin of a block, of a line or of inline code."""
    o = S[S_O]
    if S[S_SPACE] and o > S[S_B0] and o != S[S_CODE_AT] and out_b[o - 1] != 10:
        put(out_b, S, _LINE if S[S_SPACE] == NEWLINE else _SPACE)
    S[S_SPACE] = NOTHING


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def prose(page_b: np.ndarray, i: int, out_b: np.ndarray, S: np.ndarray, T: Tables) -> int:
    """Text up to the next markup, white space collapsed; inside a displayed formula a line break stays one."""
    size, room = len(page_b), len(out_b) - 2
    kinds = _KINDS
    while i < size:
        byte = page_b[i]
        kind = kinds[byte]
        if kind == B_PLAIN:
            if S[S_SPACE]:
                gap(out_b, S)
            o = S[S_O]
            while o < room:
                out_b[o] = byte
                o += 1
                i += 1
                if i == size:
                    break
                byte = page_b[i]
                if kinds[byte] != B_PLAIN:
                    break
            S[S_O] = o
            if o >= room:
                S[S_OVER] = 1
                return size
        elif kind == B_SPACE:
            if byte == 10 and S[S_DELIMITER] > 1 and S[S_ROW] == 0:
                S[S_SPACE] = NEWLINE
            elif S[S_SPACE] == NOTHING:
                S[S_SPACE] = SPACE
            i += 1
        elif kind == B_TAG:
            if opens_markup(page_b, i):
                return i
            gap(out_b, S)
            put(out_b, S, byte)
            i += 1
        elif kind == B_REFERENCE:
            i = _put_reference(page_b, i, out_b, S, T)
        elif kind == B_WIDE:
            i = _put_wide(page_b, i, out_b, S)
        elif kind == B_MATH:
            length = _delimiter(page_b, i, out_b, S)
            put_bytes(out_b, S, page_b, i, i + length)
            i += length
            if S[S_DELIMITER] < 0:  # a displayed formula was closed
                S[S_DELIMITER] = 0
                if S[S_ROW] == 0 and (i == size or is_space(page_b[i]) or page_b[i] == _LT):
                    S[S_SPACE] = NEWLINE
        else:
            i += 1
    return i


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _put_reference(page_b: np.ndarray, i: int, out_b: np.ndarray, S: np.ndarray, T: Tables) -> int:
    """A character reference in prose: spaces of any kind collapse, what has no width is dropped."""
    end, code, text = reference(page_b, i, len(page_b), NO, T)
    if text:
        kind = _wide(T.pool_b, text >> 8) if text & 255 > 1 else 0
        if kind == 1 or (text & 255 == 1 and is_space(T.pool_b[text >> 8])):
            S[S_SPACE] = max(S[S_SPACE], SPACE)
        elif kind == 0:
            gap(out_b, S)
            put_text(out_b, S, T, text)
    elif (
        code == 160
        or code == 9
        or code == 10
        or code == 12
        or code == 13
        or code == 32
        or 0x2000 <= code <= 0x200A
        or code == 0x202F
    ):
        S[S_SPACE] = max(S[S_SPACE], SPACE)
    elif code >= 32 and code != 0xAD and not 0x200B <= code <= 0x200F and code != 0xFEFF and not 127 <= code < 160:
        gap(out_b, S)
        put_code(out_b, S, code)
    return int(end)


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _wide(text_b: np.ndarray, i: int) -> int:
    """1 for a space beyond ASCII at `i`, 2 for a character without width, else 0."""
    first, second = text_b[i], text_b[i + 1]
    if first == 0xC2:
        if second == 0xA0:
            return 1
        return 2 if second == 0xAD or second < 0xA0 else 0
    third = text_b[i + 2]
    if first == 0xE2 and second == 0x80:
        if third <= 0x8A or third == 0xAF:
            return 1
        return 2 if 0x8B <= third <= 0x8F else 0
    return 2 if first == 0xEF and second == 0xBB and third == 0xBF else 0


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _put_wide(page_b: np.ndarray, i: int, out_b: np.ndarray, S: np.ndarray) -> int:
    length = 2 if page_b[i] == 0xC2 else 3
    if i + length > len(page_b):
        return len(page_b)
    kind = _wide(page_b, i)
    if kind == 1:
        S[S_SPACE] = max(S[S_SPACE], SPACE)
    elif kind == 0:
        gap(out_b, S)
        put_bytes(out_b, S, page_b, i, i + length)
    return i + length


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _delimiter(page_b: np.ndarray, i: int, out_b: np.ndarray, S: np.ndarray) -> int:
    """Bytes to copy at a backslash or dollar sign; keeps track of raw formulae and puts displayed ones on their own lines.

    S_DELIMITER: 0 outside, 1 in \\( \\), 2 in \\[ \\], 3 in $$, 4 in \\begin, -1 a displayed one ends here.
    """
    size = len(page_b)
    after = page_b[i + 1] if i + 1 < size else 0
    state = S[S_DELIMITER]
    length, opened = 1, 0
    if S[S_CODE_AT]:
        state = -2
    elif page_b[i] == _DOLLAR:
        if after == _DOLLAR:
            length = 2
            opened = 3 if state == 0 else 0
            if state == 3:
                S[S_FORMULAS] += 1
                S[S_DELIMITER] = -1
        elif state == 0:
            _dollar(out_b, S, after)
    elif after == 40:
        opened = 1 if state == 0 else 0
    elif after == 91:
        opened = 2 if state == 0 else 0
    elif after == 41 and state == 1:
        S[S_FORMULAS] += 1
        S[S_DELIMITER] = 0
        length = 2
    elif after == 93 and state == 2:
        S[S_FORMULAS] += 1
        S[S_DELIMITER] = -1
        length = 2
    elif after == _BACKSLASH or after == _DOLLAR:
        length = 2
    elif after == 98 and i + 7 <= size and hash_span(page_b, i + 1, i + 7) == _H_BEGIN:
        opened = 4 if state == 0 else 0
        S[S_ENVIRONMENT] = 1 if state == 0 else S[S_ENVIRONMENT] + 1
    elif after == 101 and state == 4 and i + 5 <= size and hash_span(page_b, i + 1, i + 5) == _H_END:
        S[S_ENVIRONMENT] -= 1
        if S[S_ENVIRONMENT] == 0:
            S[S_FORMULAS] += 1
            while i + length < size and length < 24 and page_b[i + length] != 125 and page_b[i + length] > 60:
                length += 1
            S[S_DELIMITER] = -1
            if i + length < size and page_b[i + length] == 123:
                while (
                    i + length < size
                    and length < 40
                    and page_b[i + length] != 125
                    and page_b[i + length] >= 42
                    and page_b[i + length] != _LT
                ):
                    length += 1
                if i + length < size and page_b[i + length] == 125:
                    length += 1
    if opened:
        S[S_DELIMITER] = opened
        if opened > 1 and S[S_ROW] == 0:
            S[S_SPACE] = NEWLINE
        length = max(length, 2) if opened < 4 else 1
    gap(out_b, S)
    return length


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _dollar(out_b: np.ndarray, S: np.ndarray, after: int) -> None:
    """A single $ outside other formulae: is it the end of one? Between the two: no white space at the ends, at most 400
    bytes, and something that prices lack: a command, a script, an equals sign, or just one letter."""
    o, at = S[S_O], S[S_DOLLAR]
    if at >= S[S_B0] and 0 < o - at - 1 <= 400 and S[S_SPACE] == NOTHING:
        mathematical = o - at == 2 and is_letter(out_b[at + 1])
        for k in range(at + 1, o):
            byte = out_b[k]
            mathematical |= byte == _BACKSLASH or byte == 94 or byte == 95 or byte == 61
        if mathematical:
            S[S_FORMULAS] += 1
            S[S_DOLLAR] = -1
            return
    S[S_DOLLAR] = -1 if is_space(after) else o + (1 if S[S_SPACE] and o > S[S_B0] else 0)


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def verbatim(page_b: np.ndarray, i: int, out_b: np.ndarray, S: np.ndarray, T: Tables) -> int:
    """Code up to the next markup: every byte, but \\r\\n as \\n, no-break spaces as spaces, and no control characters."""
    size, room = len(page_b), len(out_b) - 8
    kinds = _KINDS
    while i < size:
        if S[S_O] >= room:
            S[S_OVER] = 1
            return size
        byte = page_b[i]
        kind = kinds[byte]
        if kind == B_TAG and opens_markup(page_b, i):
            return i
        if kind == B_REFERENCE:
            i, code, text = reference(page_b, i, size, NO, T)
            if text:
                if text & 255 == 2 and _wide(T.pool_b, text >> 8) == 1:  # &nbsp;
                    put(out_b, S, _SPACE)
                else:
                    put_text(out_b, S, T, text)
            elif code == 160:
                put(out_b, S, _SPACE)
            elif (code >= 32 or code == 10 or code == 9) and code != 0x200B and code != 0xFEFF and not 127 <= code < 160:
                put_code(out_b, S, code)
            continue
        if kind == B_WIDE and i + 2 < size:
            special = _wide(page_b, i)
            if special and (byte == 0xC2 or special == 2):
                if special == 1:
                    put(out_b, S, _SPACE)
                i += 2 if byte == 0xC2 else 3
                continue
        if byte == 13:
            if i + 1 == size or page_b[i + 1] != 10:
                put(out_b, S, _LINE)
        elif kind != B_DROP and byte != 12:
            put(out_b, S, byte)
        i += 1
    return i


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def end_block(out_b: np.ndarray, S: np.ndarray, B: np.ndarray) -> None:
    """End the block of prose, or the code region, that ends here, if it holds anything."""
    if S[S_CODE_AT]:
        end_code(out_b, S)
    start, stop = S[S_B0], S[S_O]
    while stop > start and is_space(out_b[stop - 1]):
        stop -= 1
    if stop > start:
        code = S[S_CONTEXT] & X_REGION
        kind = KIND_CODE if code else S[S_HEADING] if S[S_HEADING] else S[S_DEFINITION]
        n = S[S_BLOCKS]
        if n == MOST_BLOCKS:
            B[n - 1, B_STOP] = stop  # the bytes between are white space and the text of this block
        elif n == len(B):
            S[S_OVER] = 1
        else:
            B[n, B_START], B[n, B_STOP], B[n, B_KIND], B[n, B_CONTEXT] = start, stop, kind, S[S_CONTEXT] & ~X_LINK
            B[n, B_LINKED], B[n, B_LISTS], B[n, B_QUOTES], B[n, B_MARK] = S[S_LINKED], S[S_LISTS], S[S_QUOTES], S[S_MARK]
            B[n, B_ROW], B[n, B_CELL], B[n, B_GROUP] = S[S_ROW], S[S_CELL], S[S_GROUP]
            B[n, B_LANG0], B[n, B_LANG1], B[n, B_ASPECT] = S[S_LANG0], S[S_LANG1], S[S_ASPECT]
            B[n, B_FORMULAS], B[n, B_CODED] = S[S_FORMULAS], S[S_CODED]
            S[S_BLOCKS] = n + 1
        S[S_MARK] = 0
        if S[S_O] == stop:
            put(out_b, S, _LINE)  # so that blocks joined past MOST_BLOCKS stay apart
    S[S_B0] = S[S_O]
    S[S_SPACE] = S[S_LINKED] = S[S_FORMULAS] = S[S_DELIMITER] = S[S_CODED] = 0
    S[S_DOLLAR] = -1


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def end_code(out_b: np.ndarray, S: np.ndarray) -> None:
    """The closing backtick of inline code; two a side where the code has one."""
    at = S[S_CODE_AT]
    S[S_CODE_AT] = 0
    o = S[S_O]
    while o > at and is_space(out_b[o - 1]):
        o -= 1
    S[S_O] = o
    if o == at:
        S[S_O] = at - 1
        if at - 2 >= S[S_B0] and out_b[at - 2] == _SPACE:
            S[S_O], S[S_SPACE] = at - 2, max(S[S_SPACE], SPACE)
        return
    ticks = False
    for k in range(at, o):
        ticks |= out_b[k] == _BACKTICK
    if not ticks:
        put(out_b, S, _BACKTICK)
    elif o + 5 < len(out_b):
        for k in range(o - 1, at - 1, -1):
            out_b[k + 2] = out_b[k]
        out_b[at], out_b[at + 1] = _BACKTICK, 32
        out_b[o + 2], out_b[o + 3], out_b[o + 4] = 32, _BACKTICK, _BACKTICK
        S[S_O] = o + 5
    else:
        S[S_OVER] = 1


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def start_line(out_b: np.ndarray, S: np.ndarray, B: np.ndarray, tag: int) -> None:
    """A block begins or ends here: in a code region a line, unless it is a table cell; elsewhere the block of text."""
    if not S[S_CONTEXT] & X_REGION:
        end_block(out_b, S, B)
    elif not S[S_CONTEXT] & X_HIDDEN and tag != T_TD and tag != T_TH and S[S_O] > S[S_B0] and out_b[S[S_O] - 1] != 10:
        put(out_b, S, _LINE)


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def line(out_b: np.ndarray, S: np.ndarray, B: np.ndarray) -> None:
    """A <br>: a line; two in a row end the block, except where a block is one line anyway."""
    if S[S_CONTEXT] & X_REGION:
        put(out_b, S, _LINE)
    elif S[S_ROW] or S[S_HEADING]:
        S[S_SPACE] = max(S[S_SPACE], SPACE)
    elif S[S_SPACE] == NEWLINE and S[S_CODE_AT] == 0 and S[S_DELIMITER] == 0:
        end_block(out_b, S, B)
    else:
        S[S_SPACE] = NEWLINE
