"""Bytes → text: nothing fails, nothing invented, and the bytes can be had back."""

from __future__ import annotations

import codecs
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.decode import ENCODINGS, decode

BOM = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE, "utf-8-sig": b""}


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_text_that_encodes_back_or_evidence(data: bytes) -> None:
    text, encoding, binary = decode(data)
    if binary is not None:
        assert text == b"" and encoding is None
        return
    assert encoding in ENCODINGS
    decoded = text.decode("utf-8")
    assert "\0" not in decoded
    if not encoding.startswith("utf-16"):  # a broken surrogate there is replaced
        assert decoded.encode(encoding) == data


@settings(max_examples=200, deadline=None)
@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    st.sampled_from(["utf-8-sig", "utf-16-le", "utf-16-be"]),
)
def test_text_with_a_mark_comes_back(text: str, encoding: str) -> None:
    found = decode(BOM[encoding] + text.encode(encoding))
    assert (found.text.decode("utf-8"), found.encoding) == (text, encoding)


@pytest.mark.parametrize(
    ("data", "text", "encoding"),
    [
        (b"", "", "utf-8"),
        ("naïve ☃\n".encode(), "naïve ☃\n", "utf-8"),
        (b"caf\xe9 = 1\n", "café = 1\n", "latin-1"),
        (b"x = '\xed\xa0\x80'\n", "x = 'í\xa0\x80'\n", "latin-1"),  # a lone surrogate in UTF-8 is not UTF-8
        (b"\xff\xfea\x00\x00\xd8" + b"b\x00" * 200, "a\ufffd" + "b" * 200, "utf-16-le"),
        (b"\xef\xbb\xbf\xef\xbb\xbfx", "\ufeffx", "utf-8-sig"),
        (b"\x1b[31mred\x1b[0m\r\n\f", "\x1b[31mred\x1b[0m\r\n\f", "utf-8"),
    ],
)
def test_known_bytes(data: bytes, text: str, encoding: str) -> None:
    assert decode(data) == (text.encode("utf-8"), encoding, None)


@pytest.mark.parametrize(
    ("data", "evidence"),
    [
        (b"abc\0def", "NUL at byte 3"),
        (b"\xff\xfe\x00\x00a\x00\x00\x00", "NUL at character 0 of utf-16-le"),  # UTF-32
        (zlib.compress(bytes(range(256)) * 40, 9).replace(b"\0", b"\x01"), "control characters"),
        (b"\xff\xfe" + b"\x00\xd8" * 50, "are not utf-16-le"),
    ],
)
def test_binaries_say_why(data: bytes, evidence: str) -> None:
    found = decode(data)
    assert found.text == b"" and found.binary is not None and evidence in found.binary
