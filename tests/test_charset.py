"""corpus/charset.py: declared, undeclared, wrong and broken character sets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import zstandard
from bs4.dammit import EncodingDetector
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.charset import Decoded, declared_charset, decode_page

RUSSIAN = "<p>Съешь же ещё этих мягких французских булок, да выпей чаю. Широкая электрификация южных губерний.</p>" * 5
GERMAN = "<p>Falsches Üben von Xylophonmusik quält jeden größeren Zwerg — „schön“ für 5 €.</p>" * 5
CHINESE = "<p>我们的服务器每天处理大量的网页数据，并且从中提取数学公式和程序代码。</p>" * 8
JAPANESE = "<p>いろはにほへと ちりぬるを わかよたれそ つねならむ。日本語のページです。</p>" * 8


def decoded(data: bytes, content_type: str = "text/html") -> tuple[str, str, str]:
    found = decode_page(data, content_type.encode())
    assert found.fault is None, found.fault
    return found.text.decode("utf-8"), found.charset, found.by


@pytest.mark.parametrize(
    ("text", "label", "charset"),
    [
        (RUSSIAN, "windows-1251", "cp1251"), (RUSSIAN, "koi8-r", "koi8-r"), (RUSSIAN, "UTF-8", "utf-8"),
        (GERMAN, "iso-8859-1", "cp1252"), (GERMAN, "windows-1252", "cp1252"), (CHINESE, "gb2312", "gb18030"),
        (CHINESE, "GB18030", "gb18030"), (JAPANESE, "Shift_JIS", "cp932"), (JAPANESE, "euc-jp", "euc_jp"),
        (JAPANESE, "iso-2022-jp", "iso2022_jp"), (RUSSIAN, "utf-16le", "utf-16-le"),
    ],
)  # fmt: skip
def test_a_declaration_is_read_as_browsers_read_it(text: str, label: str, charset: str) -> None:
    data = text.encode(charset)
    assert decoded(data, f'text/html; Charset="{label}"') == (text, charset, "header")
    if charset != "utf-16-le":
        for tag in (
            f"<meta charset={label}>",
            f'<META http-equiv=Content-Type content="text/html; charset={label}">',
            f"<?xml version='1.0' encoding='{label}'?>",
        ):
            assert decoded(tag.encode() + data) == (tag + text, charset, "meta")


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8-r"),
        (GERMAN, "cp1252"),
        (CHINESE, "gb18030"),
        (JAPANESE, "cp932"),
        (JAPANESE, "euc_jp"),
    ],
)
def test_without_a_declaration_the_bytes_say(text: str, codec: str) -> None:
    assert decoded(text.encode(codec)) == (text, codec, "bytes")
    assert decoded(text.encode("utf-8")) == (text, "utf-8", "bytes")


def test_a_mark_wins_and_goes() -> None:
    for codec, mark in (("utf-8", b"\xef\xbb\xbf"), ("utf-16-le", b"\xff\xfe"), ("utf-16-be", b"\xfe\xff")):
        assert decoded(mark + RUSSIAN.encode(codec), "text/html; charset=koi8-r") == (RUSSIAN, codec, "bom")


def test_utf8_under_a_wrong_name_is_utf8() -> None:
    assert decoded(GERMAN.encode("utf-8"), "text/html; charset=iso-8859-1") == (GERMAN, "utf-8", "bytes")


def test_a_wrong_name_is_not_believed() -> None:
    assert decoded(RUSSIAN.encode("cp1251"), "text/html; charset=utf-8") == (RUSSIAN, "cp1251", "bytes")
    assert decoded(CHINESE.encode("gb18030"), "text/html; charset=utf-8") == (CHINESE, "gb18030", "bytes")


def test_a_few_foreign_bytes_do_not_make_it_another_set() -> None:
    text, charset, by = decoded(CHINESE.encode("utf-8") + b" caf\xe9 ", "text/html; charset=utf-8")
    assert (text, charset, by) == (CHINESE + " caf\ufffd ", "utf-8", "header")


def test_a_page_cut_inside_a_character_loses_only_that() -> None:
    data = CHINESE.encode("utf-8")
    assert decoded(data + "中".encode()[:2])[0] == CHINESE


def test_ascii_is_what_it_says_or_utf8() -> None:
    assert decoded(b"<p>hello") == ("<p>hello", "utf-8", "default")
    assert decoded(b"<p>hello", "text/html; charset=windows-1251")[1:] == ("cp1251", "header")
    assert decode_page(b"") == Decoded(b"", "utf-8", "default")


@pytest.mark.parametrize(
    "label", ["hex", "rot13", "idna", "unicode_escape", "utf-7", "zlib", "none", "undefined", "", "x" * 30]
)
def test_a_name_outside_the_standard_is_none(label: str) -> None:
    assert declared_charset(f"text/html; charset={label}".encode(), b"") is None
    assert decoded(GERMAN.encode("utf-8"), f"text/html; charset={label}")[0] == GERMAN


def test_noise_is_no_text() -> None:
    found = decode_page(bytes(range(128, 256)) * 30, b"text/html; charset=utf-8")
    assert found.fault is None or "characters are not" in found.fault
    assert decode_page(b"\x81\xff\xfe\x80" * 500, b"text/html; charset=euc-jp").text is not None


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=400),
    st.sampled_from(["", "utf-8", "gbk", "iso-2022-jp", "utf-16le", "euc-kr", "big5", "hz-gb-2312", "macintosh"]),
)
def test_any_bytes_come_back_as_utf8(data: bytes, label: str) -> None:
    found = decode_page(memoryview(data), f"text/html; charset={label}".encode())
    found.text.decode("utf-8")
    assert found.by in ("bom", "header", "meta", "bytes", "default")
    if not data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")) and label in ("", "utf-8"):
        try:
            assert found.text.decode() == data.decode("utf-8") or b"charset" in data or b"encoding" in data or 0 in data
        except UnicodeDecodeError:
            pass


def test_the_declaration_of_real_pages_is_beautiful_soups(corpus_data: Path) -> None:
    """BeautifulSoup's detector finds what a page declares about itself; ours finds the same where it is a known set."""
    with (corpus_data / "html" / "pages.jsonl.zst").open("rb") as file:
        lines = zstandard.ZstdDecompressor().stream_reader(file).read().splitlines()
    compared = 0
    for line in lines[::3]:
        row = json.loads(line)
        data = row["html"].encode("utf-8")
        theirs = EncodingDetector.find_declared_encoding(data[:4096], is_html=True)
        ours = declared_charset(b"", data[:4096])
        assert decode_page(data).text == data.removeprefix(b"\xef\xbb\xbf")
        if theirs is not None and ours is not None:
            known = declared_charset(f"charset={theirs}".encode(), b"")
            assert known is not None and ours[0] == known[0], row["url"]
            compared += 1
    assert compared > 300


def test_real_pages_survive_their_own_character_set(corpus_data: Path) -> None:
    """As crawled: re-encoded in the set each page came in, and declared only by its own <meta>.

    Two of the names are wrong, as browsers know: iso-8859-1 means windows-1252, and the page in iso8859_10 says iso-8859-2.
    """
    with (corpus_data / "html" / "pages.jsonl.zst").open("rb") as file:
        rows = [json.loads(line) for line in zstandard.ZstdDecompressor().stream_reader(file).read().splitlines()]
    others = [row for row in rows if (row["charset"] or "utf-8").lower() not in ("utf-8", "ascii")]
    meant = {"iso-8859-1": "cp1252", "iso8859_10": "iso8859-2"}
    assert len(others) == 9
    for row in others:
        data = row["html"].encode(row["charset"], "replace")
        expected = data.decode(meant.get(row["charset"], row["charset"]), "replace")
        assert decode_page(data).text.decode() == expected, row["url"]
