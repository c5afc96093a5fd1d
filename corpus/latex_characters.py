"""Characters of MathML as LaTeX, and the words and bytes around them."""

from __future__ import annotations

import numpy as np
from numba import njit

from corpus.extract_scan import NO, S_O, find, is_letter, is_space, put, put_bytes, put_code, put_text, reference
from corpus.extract_tables import M_TEXT, N_SYMBOL, SALT, Tables

__all__ = ["character", "characters", "tight", "word", "word_bytes"]

_LT, _SLASH, _BANG, _AMPERSAND, _BACKSLASH, _SPACE = (np.uint8(byte) for byte in b"</!&\\ ")
_SALT = np.uint64(SALT)


def word_bytes(text: str) -> np.ndarray:
    out = np.frombuffer(text.encode(), np.uint8).copy()
    out.setflags(write=False)
    return out


_BACKSLASH_NAME = word_bytes("backslash ")


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def word(out_b: np.ndarray, S: np.ndarray, word_b: np.ndarray) -> None:
    put_bytes(out_b, S, word_b, np.int64(0), len(word_b))


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def tight(out_b: np.ndarray, S: np.ndarray, byte: np.uint8) -> None:
    """`byte` without the space that ended a command before it."""
    o = S[S_O]
    if o > 1 and out_b[o - 1] == 32 and out_b[o - 2] != _BACKSLASH:
        S[S_O] = o - 1
    put(out_b, S, byte)


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def characters(page_b: np.ndarray, i: int, out_b: np.ndarray, S: np.ndarray, T: Tables, kind: int, done: bool) -> int:
    """Text inside MathML up to the next <: characters become LaTeX; white space counts only in <mtext>."""
    size = len(page_b)
    while i < size and page_b[i] != _LT:
        if done:
            i += 1
        elif is_space(page_b[i]):
            if kind == M_TEXT and out_b[S[S_O] - 1] != 32:
                put(out_b, S, _SPACE)
            i += 1
        else:
            i = character(page_b, i, size, out_b, S, T)
    if i < size and (i + 1 >= size or not (is_letter(page_b[i + 1]) or page_b[i + 1] == _SLASH or page_b[i + 1] == _BANG)):
        if not done:
            put(out_b, S, _LT)
        i += 1  # a < that begins no tag
    return i


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def character(page_b: np.ndarray, i: int, stop: int, out_b: np.ndarray, S: np.ndarray, T: Tables) -> int:
    """One character or reference as LaTeX."""
    byte = page_b[i]
    if byte == _AMPERSAND:
        end, code, text = reference(page_b, i, stop, NO, T)
        if text:
            code, _ = _decode(T.pool_b, text >> 8)
        _put_symbol(out_b, S, code, T)
        return int(end)
    if byte < 0x80:
        _put_symbol(out_b, S, np.int64(byte), T)
        return i + 1
    code, length = _decode(page_b, i)
    _put_symbol(out_b, S, code, T)
    return int(min(i + length, stop))


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _decode(text_b: np.ndarray, i: int) -> tuple[int, int]:
    """(code point, bytes) of the UTF-8 sequence at `i`."""
    lead = np.int64(text_b[i])
    if lead < 0xC0:
        return int(lead), 1
    length = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    if i + length > len(text_b):
        return 0xFFFD, 1
    code = lead & (0x7F >> length)
    for k in range(1, length):
        code = code << 6 | np.int64(text_b[i + k]) & 0x3F
    return int(code), length


@njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _put_symbol(out_b: np.ndarray, S: np.ndarray, code: int, T: Tables) -> None:
    if code < 0x80:
        if code < 32:
            return
        if code == 92:
            put(out_b, S, _BACKSLASH)
            word(out_b, S, _BACKSLASH_NAME)
            return
        if code == 123 or code == 125 or code == 35 or code == 36 or code == 37 or code == 38 or code == 95:
            put(out_b, S, _BACKSLASH)
        put(out_b, S, np.uint8(code))
        return
    text = find(T, N_SYMBOL, np.uint64(code) * _SALT)
    if text:
        put_text(out_b, S, T, text)
    else:
        put_code(out_b, S, code)
