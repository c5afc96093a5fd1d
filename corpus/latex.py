"""LaTeX as authors write it, out of elements, attributes and addresses; which <sup> and <sub> are mathematics."""

# ruff: noqa: SIM109 - a chain of comparisons is what numba compiles fast
from __future__ import annotations

import numpy as np
from numba import njit

from corpus.extract_scan import S_O, YES, is_letter, is_space, put, put_code, put_text, reference
from corpus.extract_tables import Tables

__all__ = ["is_script", "looks_like_tex", "put_tex", "put_url"]

_LT, _GT, _BANG, _AMPERSAND, _BACKSLASH, _LEFT, _RIGHT, _CARET, _LOW, _SPACE, _LINE = (
    np.uint8(byte) for byte in b"<>!&\\{}^_ \n"
)


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def put_tex(page_b: np.ndarray, start: int, stop: int, out_b: np.ndarray, S: np.ndarray, T: Tables, references: bool) -> None:
    """LaTeX as the author wrote it: trimmed, character references resolved, no blank lines, no other control characters."""
    if stop - start > 9 and page_b[start] == _LT and page_b[start + 1] == _BANG and page_b[start + 2] == 91:  # <![CDATA[
        start, references = start + 9, False
        if page_b[stop - 1] == _GT and page_b[stop - 2] == 93 and page_b[stop - 3] == 93:
            stop -= 3
    begin = S[S_O]
    i = start
    while i < stop:
        byte = page_b[i]
        if byte <= 32 or byte == 127:
            o = S[S_O]
            if byte == 10 and o > begin and out_b[o - 1] != 10:
                if out_b[o - 1] == 32 and not (o > 1 and out_b[o - 2] == _BACKSLASH):
                    S[S_O] = o - 1
                put(out_b, S, _LINE)
            elif (
                is_space(byte)
                and byte != 10
                and o > begin
                and (out_b[o - 1] > 32 or (out_b[o - 1] == 32 and out_b[o - 2] == _BACKSLASH))
            ):
                put(out_b, S, _SPACE)
            i += 1
        elif byte == _AMPERSAND and references:
            end, code, text = reference(page_b, i, stop, YES, T)
            if text:
                put_text(out_b, S, T, text)
            elif code == 160:
                put(out_b, S, _SPACE)
            elif code >= 32 or code == 10:
                put_code(out_b, S, code)
            i = end
        else:
            put(out_b, S, byte)
            i += 1
    while S[S_O] > begin and is_space(out_b[S[S_O] - 1]):
        S[S_O] -= 1


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def put_url(page_b: np.ndarray, start: int, stop: int, out_b: np.ndarray, S: np.ndarray) -> None:
    """LaTeX in the query of an image's address: %XX and + resolved, up to the next parameter. What is not ASCII is left out."""
    begin = S[S_O]
    i = start
    while i < stop and page_b[i] != _AMPERSAND and page_b[i] != 35:
        byte = np.int64(page_b[i])
        if byte == 37 and i + 2 < stop and _hex(page_b[i + 1]) >= 0 and _hex(page_b[i + 2]) >= 0:
            byte = _hex(page_b[i + 1]) * 16 + _hex(page_b[i + 2])
            i += 2
        elif byte == 43:
            byte = np.int64(32)
        i += 1
        if byte < 128 and (byte > 32 or S[S_O] > begin):
            put(out_b, S, np.uint8(byte) if byte > 32 else _SPACE)
    while S[S_O] > begin and is_space(out_b[S[S_O] - 1]):
        S[S_O] -= 1


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _hex(byte: int) -> int:
    if 48 <= byte <= 57:
        return byte - 48
    return (byte | 32) - 87 if 97 <= (byte | 32) <= 102 else -1


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def looks_like_tex(page_b: np.ndarray, start: int, stop: int) -> bool:
    """Is this alternative text LaTeX and not "x squared" or "equation 3"? It has a command or script, or no two words."""
    words, letters = 0, 0
    for i in range(start, stop):
        byte = page_b[i]
        if byte == _BACKSLASH or byte == _CARET or byte == _LOW or byte == _LEFT:
            return True
        if is_letter(byte) or byte >= 0x80:
            letters += 1
            continue
        words += letters > 2
        letters = 0
    return words + (letters > 2) < 2 and stop > start


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def is_script(out_b: np.ndarray, begin: int, at: int, stop: int, below: bool, linked: bool) -> bool:
    """Is what stands in a <sup> or <sub>, out_b[at:stop] behind the text out_b[begin:at], an exponent or index?

    It is short, follows a letter, digit or closing bracket, and holds letters, digits and signs. Not one: ordinals (2nd), trade
    marks, digits behind a word of three letters or more or inside a link, which are notes.
    """
    if at <= begin or stop - at > 24 or stop <= at:
        return False
    before = out_b[at - 1]
    if not (
        is_letter(before)
        or 48 <= before <= 57
        or before == 41
        or before == 93
        or before == _RIGHT
        or before >= 0x80
        or before == 124
    ):
        return False
    letters = digits = others = 0
    for i in range(at, stop):
        byte = out_b[i]
        if is_letter(byte) or byte >= 0x80:
            letters += 1
        elif 48 <= byte <= 57:
            digits += 1
        elif (
            byte == 43
            or byte == 45
            or byte == 42
            or byte == 47
            or byte == 61
            or 39 <= byte <= 46
            or byte == _CARET
            or byte == _LOW
        ):
            others += 1
        elif not (byte == 32 or byte == _LEFT or byte == _RIGHT or byte == 124):
            return False
    if letters + digits == 0 or (linked and digits and letters == 0):
        return False
    if below:
        return True
    word = 0
    while at - word > begin and word < 3 and is_letter(out_b[at - 1 - word]):
        word += 1
    if digits and letters == 0 and others == 0:
        return word < 3
    if letters and digits == 0 and others == 0:
        if 48 <= before <= 57 or word >= 2:
            return letters == 1 and out_b[at] | 32 not in (97, 101, 111, 116, 99)  # 1a, 2e, 3o; CO t, c
        return letters < 8
    return True
