"""Bytes of a source file → UTF-8 text, with the encoding it was found in.

Rules, first match wins:

    starts with FF FE or FE FF            UTF-16 by its byte-order mark; lone surrogates become U+FFFD
    holds a NUL byte                      binary
    valid UTF-8 (ASCII included)          UTF-8; a byte-order mark is cut off and recorded as "utf-8-sig"
    over 2 % control bytes                binary: compressed data that happens to hold no NUL
    anything else                         Latin-1, where every byte is a character

The trade: Latin-1 never fails, so a file in Windows-1251, Shift-JIS or GBK is kept with its ASCII intact and its other letters
wrong. The recorded encoding lets a later step drop or re-read those; guessing by statistics would be right more often and
explicable less often. Valid UTF-8, nearly every file, is checked in place and never copied into a Python string if it is ASCII.
"""

from __future__ import annotations

import codecs
from typing import NamedTuple

__all__ = ["ENCODINGS", "Decoded", "decode"]

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16-le", "utf-16-be", "latin-1")  # Python's names: text.encode(one) gives the bytes back

# What a text file has no use for: C0 without \b \t \n \v \f \r and escape (terminal colours), and DEL. Uniform bytes have 9 %.
_CONTROLS = bytes(set(range(1, 32)) - set(b"\b\t\n\v\f\r\x1b")) + b"\x7f"
_CONTROL_SHARE = 0.02
# A UTF-16 file with a broken surrogate here and there is text; one with more than this is something else that starts FF FE.
_REPLACED_SHARE = 0.01


class Decoded(NamedTuple):
    """text: UTF-8 bytes, empty for a binary. encoding: one of ENCODINGS, None for a binary. binary: why it is one, or None."""

    text: bytes
    encoding: str | None
    binary: str | None


def decode(data: bytes) -> Decoded:
    """The text of a file. Never fails: what is not text comes back with the evidence in `binary`."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return _utf16(data)
    if (at := data.find(0)) >= 0:
        return Decoded(b"", None, f"NUL at byte {at}")
    if data.isascii():
        return Decoded(data, "utf-8", None)
    try:
        data.decode("utf-8")  # strict: refuses surrogates and overlong forms, as Arrow does
    except UnicodeDecodeError:
        return _latin1(data)
    if data.startswith(codecs.BOM_UTF8):
        return Decoded(data[3:], "utf-8-sig", None)
    return Decoded(data, "utf-8", None)


def _utf16(data: bytes) -> Decoded:
    encoding = "utf-16-le" if data.startswith(codecs.BOM_UTF16_LE) else "utf-16-be"
    text = data[2:].decode(encoding, "replace")
    if (at := text.find("\0")) >= 0:
        return Decoded(b"", None, f"NUL at character {at} of {encoding}")
    replaced = text.count("\ufffd")
    if replaced > 1 and replaced > _REPLACED_SHARE * len(text):
        return Decoded(b"", None, f"{replaced} of {len(text)} characters are not {encoding}")
    return Decoded(text.encode("utf-8"), encoding, None)


def _latin1(data: bytes) -> Decoded:
    controls = len(data) - len(data.translate(None, _CONTROLS))
    if controls > _CONTROL_SHARE * len(data):
        return Decoded(b"", None, f"{controls} of {len(data)} bytes are control characters")
    return Decoded(data.decode("latin-1").encode("utf-8"), "latin-1", None)
