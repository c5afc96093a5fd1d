"""Bytes of a web page → UTF-8 text, with the character set it was in and what said so.

In order, after the Encoding and HTML standards, with two changes that measurement on crawled pages suggests:

    bom      a byte-order mark of UTF-8 or UTF-16; it wins over everything and is cut off
    header   charset= of the HTTP Content-Type
    meta     charset= of a <meta>, or encoding= of an XML declaration, in the first 4 kB
    bytes    the bytes themselves: valid UTF-8 beyond ASCII, whatever was declared, since nothing looks like it by accident;
             else what a statistical detector says (uchardet's, through resiliparse)
    default  nothing said anything: ASCII, or windows-1252, in which every web page without a word about it is read

A declaration that does not fit is not believed: more than a quarter of the characters beyond ASCII come out as U+FFFD. A page
with stray bytes of another character set in it, from an advertisement, fits. Labels are read as the standard reads them
(iso-8859-1 is windows-1252, gb2312 is gb18030), and nothing outside its list is a character set.

A text where more than one character in twenty is U+FFFD is in no character set we know, and comes back with a fault.

Reference: WHATWG Encoding, 4.2 names and labels; WHATWG HTML, 13.2.3.2 determining the character encoding.
"""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple

from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

__all__ = ["Decoded", "declared_charset", "decode_page"]

_PRESCAN = 4096
_IN_HEADER = re.compile(rb"charset\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.IGNORECASE)
_IN_META = re.compile(
    rb"<meta\s[^>]{0,500}?charset\s*=\s*[\"']?\s*([\w.:-]{1,40})|<\?xml\s[^>]{0,200}?encoding\s*=\s*[\"']([\w.:-]{1,40})",
    re.IGNORECASE,
)
# Python's codecs for the standard's names where the obvious one knows less; and two that are still met and that it refuses.
_WIDER = {"gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "big5hkscs", "iso8859-11": "cp874"}
_MORE = {"hz-gb-2312": "hz", "iso-2022-kr": "iso2022_kr"}
_SEVEN_BIT = ("iso2022_jp", "iso2022_kr", "hz")  # all ASCII, and not to be read as such
_UTF_16 = ("utf-16-le", "utf-16-be")
_UNFIT = 0.25  # of the characters beyond ASCII
_UNKNOWN = 0.05  # of all characters
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


class Decoded(NamedTuple):
    """text: UTF-8. charset: Python's name of the codec. by: bom, header, meta, bytes or default. fault: why it is no text."""

    text: bytes
    charset: str
    by: str
    fault: str | None = None


def declared_charset(content_type: bytes, head: bytes) -> tuple[str, str] | None:
    """(codec, "header" or "meta") of the first declaration whose label is known."""
    for found, by in ((_IN_HEADER.search(content_type), "header"), (_IN_META.search(head), "meta")):
        if found is not None and (codec := _codec(found.group(found.lastindex or 1))) is not None:
            if by == "meta" and codec in _UTF_16:
                codec = "utf-8"  # it could be read as ASCII, so it is not; the standard says the same
            return codec, by
    return None


def _codec(label: bytes) -> str | None:
    name = label.decode("ascii", "replace").lower()
    known: str | None = map_encoding_to_html5(name, fallback_utf8=False) or _MORE.get(name)
    return _WIDER.get(known, known) if known is not None else None


def decode_page(data: bytes | memoryview, content_type: bytes = b"") -> Decoded:
    """The text of a page. Never fails."""
    head = bytes(data[:_PRESCAN])
    for mark, codec in _BOMS:
        if head.startswith(mark):
            marked = str(data[len(mark) :], codec, "replace")
            return _judged(marked, codec, "bom", marked.count("\ufffd"))
    declared = declared_charset(content_type, head)
    if declared is None and (wide := _looks_utf16(head)) is not None:
        declared = (wide, "bytes")
    plain = declared is None or declared[0] not in (*_UTF_16, *_SEVEN_BIT)
    if plain and (text := _as_utf8(data)) is not None:
        ascii_only = text.isascii()
        if declared is not None and (ascii_only or declared[0] == "utf-8"):
            return Decoded(text, *declared)
        return Decoded(text, "utf-8", "default" if ascii_only else "bytes")
    if declared is not None:
        guessed = str(data, declared[0], "replace")
        if _fits(guessed, replaced := guessed.count("\ufffd")):
            return _judged(guessed, *declared, replaced)
    guess, by = _guess(bytes(data))
    guessed = str(data, guess, "replace")
    return _judged(guessed, guess, by, guessed.count("\ufffd"))


def _as_utf8(data: bytes | memoryview) -> bytes | None:
    """The bytes if they are UTF-8, perhaps without a last character that was cut in two."""
    try:
        str(data, "utf-8")
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return None
        return bytes(data[: error.start])
    return bytes(data)


def _looks_utf16(head: bytes) -> str | None:
    """UTF-16 of mostly Western text without a mark: every other byte is NUL."""
    if b"\0" not in head:
        return None
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if max(even, odd) < 0.4 * len(head) / 2 or min(even, odd) > 0.05 * len(head):
        return None
    return "utf-16-be" if even > odd else "utf-16-le"


def _fits(text: str, replaced: int) -> bool:
    if not replaced:
        return True
    beyond = len(text) - len(text.encode("ascii", "ignore"))
    return replaced <= _UNFIT * beyond


def _guess(data: bytes) -> tuple[str, str]:
    codec = _codec((detect_encoding(data) or "utf-8").encode())
    if codec is None or codec == "utf-8":  # the detector's word for "no idea", too; it is not UTF-8, which was tried
        text = str(data, "utf-8", "replace")
        return ("utf-8", "bytes") if _fits(text, text.count("\ufffd")) else ("cp1252", "default")
    return codec, "bytes"


def _judged(text: str, codec: str, by: str, replaced: int) -> Decoded:
    encoded = text.encode("utf-8", "replace")  # a codec may give lone surrogates; they are no UTF-8
    if replaced > 1 and replaced > _UNKNOWN * len(text):
        return Decoded(encoded, codec, by, f"{replaced} of {len(text)} characters are not {codec}")
    return Decoded(encoded, codec, by)
