"""What a response's body is: by its headers, corrected by its first bytes where those leave no doubt.

A server says text/html of anything: pictures, PDF files, archives. Their formats begin with marks that no text begins with.
The other way round, a page may come without a type, or with one that says nothing; then the crawler's own finding counts, and
after that the first bytes.
"""

from __future__ import annotations

import re

__all__ = ["binary_type", "media_type"]

_MARKS = {
    b"%PDF-": "application/pdf", b"%!PS": "application/postscript", b"\x89PNG": "image/png", b"GIF8": "image/gif",
    b"\xff\xd8\xff": "image/jpeg", b"RIFF": "audio/riff", b"BM": "image/bmp", b"\0\0\1\0": "image/x-icon",
    b"PK\3\4": "application/zip", b"\x1f\x8b": "application/gzip", b"BZh": "application/x-bzip2",
    b"7z\xbc\xaf": "application/x-7z", b"Rar!": "application/x-rar", b"\xfd7zXZ": "application/x-xz",
    b"\x28\xb5\x2f\xfd": "application/zstd", b"wOFF": "font/woff", b"wOF2": "font/woff2", b"OTTO": "font/otf",
    b"\0\1\0\0": "font/ttf", b"ID3": "audio/mpeg", b"OggS": "audio/ogg", b"fLaC": "audio/flac", b"FLV\1": "video/x-flv",
    b"\x1aE\xdf\xa3": "video/webm", b"CWS": "application/x-flash", b"FWS": "application/x-flash",
    b"\x7fELF": "application/x-executable", b"MZ\x90": "application/x-dosexec", b"\xd0\xcf\x11\xe0": "application/x-ole",
    b"SQLite format": "application/x-sqlite3", b"\xca\xfe\xba\xbe": "application/java",
}  # fmt: skip
_FIRST = {mark[0] for mark in _MARKS}
_LETTERS = (b"BM", b"RIFF", b"GIF8", b"ID3", b"CWS", b"FWS", b"BZh")  # could begin a text; then no control byte is near
_CONTROLS = bytes(set(range(32)) - set(b"\b\t\n\v\f\r\x1b")) + b"\x7f"
_CONTROL_SHARE = 0.05
# Atomic groups: how many comments there are must not decide in how many ways they can be told apart.
_HTML = re.compile(
    rb"\s*+(?>(?><!--.{0,512}?-->|<\?xml[^>]{0,256}>)\s*+)*+"
    rb"<(?:!doctype\s+html|html|head|body|title|meta|script|div|table)\b",
    re.IGNORECASE | re.DOTALL,
)
_VAGUE = (
    "",
    "application/octet-stream",
    "application/xml",
    "text/xml",
    "unknown/unknown",
    "content/unknown",
    "application/unknown",
)


def media_type(declared: bytes, found: str, body: bytes | memoryview) -> str:
    """E.g. "text/html"; "" when nothing tells. declared: the HTTP Content-Type; found: the crawler's, or ""."""
    mime = declared.split(b";")[0].strip().lower().decode("ascii", "replace")
    if mime.count("/") != 1 or mime in _VAGUE or len(mime) > 100:
        found = found.split(";")[0].strip().lower()
        if found not in _VAGUE:
            return found
        return "text/html" if _HTML.match(bytes(body[:2048])) else mime
    return mime


def binary_type(body: bytes | memoryview) -> str | None:
    """The type of what cannot be text: by a format's mark, or "binary" by its control bytes. None for what may be text."""
    head = bytes(body[:1024])
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return None  # UTF-16, half of whose bytes are NUL
    controls = len(head) - len(head.translate(None, _CONTROLS))
    for mark, mime in _MARKS.items() if head and head[0] in _FIRST else ():
        if head.startswith(mark) and (controls or mark not in _LETTERS):
            return mime
    nul = head.count(0)
    if controls - nul > _CONTROL_SHARE * len(head) or (nul > 0.05 * len(head) and not 0.4 < nul / len(head) < 0.55):
        return "binary"
    return None
