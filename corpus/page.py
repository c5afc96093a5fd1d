"""A record of a web archive → a document: the page's text as decoded HTML, or the reason why there is none.

    response     the page, when its status and media type are among those asked for
    resource     the same without HTTP around it
    conversion   text that somebody extracted already (WET); `mime` is text/plain, and `meta` says {"record": "conversion"}
    revisit      dropped: it says that a page was seen unchanged, and the page itself is elsewhere
    the others   (request, metadata, warcinfo, …) are no documents

A page that the crawler cut short, or whose transfer or compression broke off, is kept as far as it goes, as a browser would
show it, and `meta` says {"truncated": why}. A page of whose bytes the archive is not sure, in a damaged gzip member, is not.
"""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from corpus.charset import Decoded, decode_page
from corpus.document import SCHEMA, document_id
from corpus.http_body import Response, parse, unpack
from corpus.media_type import binary_type, media_type
from corpus.warc import Record

__all__ = ["COLUMNS", "PAGE", "REASONS", "Rules", "failed", "page"]

REASONS = ("broken", "empty", "encoding", "mime", "revisit", "status", "too_large")

COLUMNS = pa.schema(
    [
        pa.field("mime", pa.string()),
        pa.field("charset", pa.string()),
        pa.field("charset_by", pa.string()),
        pa.field("warc", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("length", pa.int64()),
    ]
)
PAGE = pa.schema([*SCHEMA, *COLUMNS])
_HEAD = 256 << 10  # of HTTP around a page of max_bytes


@dataclass(frozen=True)
class Rules:
    """What is wanted. max_bytes: of a page, unpacked and packed."""

    source: str
    statuses: frozenset[int]
    mime_types: frozenset[str]
    max_bytes: int

    @property
    def limit(self) -> int:
        """Bytes of a record's block that have to be held."""
        return self.max_bytes + _HEAD


class _Content(NamedTuple):
    """reason: None for a page."""

    text: bytes = b""
    reason: str | None = None
    evidence: str | None = None
    mime: str | None = None
    charset: str | None = None
    by: str | None = None
    truncated: str | None = None


def page(record: Record, warc: str, rules: Rules) -> tuple[Any, ...]:
    """The values of PAGE in order (text as UTF-8 bytes), then reason and evidence. warc: the file's name. Never fails."""
    headers = record.headers
    content = _content(record, rules)
    url = headers.get("warc-target-uri", "").strip("<> ")
    date = headers.get("warc-date", "")
    place = f"{warc}:{record.offset}+{record.inner}"
    meta = {"record": record.kind} if record.kind in ("conversion", "resource") else {}
    if content.truncated is not None:
        meta["truncated"] = content.truncated
    evidence = content.evidence
    if content.reason == "broken":
        evidence = f"{evidence}, at byte {record.offset} of {warc}"
    return (
        document_id(f"warc\n{url}\n{date}\n{headers.get('warc-payload-digest') or place}"),
        content.text,
        rules.source,
        url or None,
        *(None,) * 5,  # repo, path, commit, license, lang
        _milliseconds(date),
        None,
        json.dumps(meta, sort_keys=True, ensure_ascii=False) if meta else None,
        content.mime,
        content.charset,
        content.by,
        warc,
        record.offset,
        record.length,
        content.reason,
        evidence,
    )


def failed(
    source: str, url: str | None, warc: str, offset: int | None, length: int | None, why: str, reason: str = "fetch_failed"
) -> tuple[Any, ...]:
    """The row of what was not fetched: a file, or one record of it."""
    name = document_id(f"warc\n{url or ''}\n\n{warc}:{offset if offset is not None else ''}")
    nothing = (None,) * (len(SCHEMA) - 4 + 3)  # up to and with charset_by
    return (name, b"", source, url, *nothing, warc, offset, length, reason, why)


def _milliseconds(date: str) -> int | None:
    """Since 1970, of a WARC-Date; None for one that is none."""
    try:
        moment = datetime.datetime.fromisoformat(date)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
    return int(moment.timestamp() * 1000) if 1970 <= moment.year < 2200 else None


def _content(record: Record, rules: Rules) -> _Content:
    if record.fault is not None:
        return _Content(reason="broken", evidence=record.fault)
    if not record.kind:
        return _Content(reason="broken", evidence="a record without a WARC-Type")
    if record.kind == "revisit":
        original = record.headers.get("warc-refers-to-target-uri") or record.headers.get("warc-refers-to") or "not said where"
        return _Content(reason="revisit", evidence=f"unchanged since {original}")
    if record.size > rules.limit:
        return _Content(reason="too_large", evidence=f"a record of {record.size} bytes, {rules.max_bytes} allowed")
    content = _converted(record, rules) if record.kind == "conversion" else _served(record, rules)
    truncated = record.headers.get("warc-truncated")
    if truncated is None and record.short > 0:
        truncated = f"{record.short} bytes missing in the archive"
    return content._replace(truncated=truncated) if truncated is not None else content


def _converted(record: Record, rules: Rules) -> _Content:
    if record.size > rules.max_bytes:
        return _Content(reason="too_large", evidence=f"{record.size} bytes, {rules.max_bytes} allowed")
    if not record.size:
        return _Content(reason="empty", evidence="0 bytes")
    declared = record.headers.get("content-type", "text/plain")
    decoded = decode_page(record.block, declared.encode())
    return _decoded(decoded, media_type(declared.encode(), "", b""))


def _served(record: Record, rules: Rules) -> _Content:
    if record.kind == "resource":
        declared = record.headers.get("content-type", "").encode()
        response = Response(200, {b"content-type": declared}, record.block)
    else:
        response = parse(record.block)
    if response.status is None:
        return _Content(reason="broken", evidence="the block begins with no HTTP status")
    if response.status not in rules.statuses:
        where = response.headers.get(b"location", b"").decode("utf-8", "replace")
        return _Content(reason="status", evidence=f"{response.status} {where[:2000]}".rstrip())
    declared = response.headers.get(b"content-type") or record.headers.get("arc-content-type", "").encode()
    found = record.headers.get("warc-identified-payload-type", "")
    if (mime := media_type(declared, found, b"")) and mime not in rules.mime_types and "xml" not in mime and "/" in mime:
        return _Content(reason="mime", evidence=mime, mime=mime)
    body = unpack(response, rules.max_bytes)
    if body.large or len(body.data) > rules.max_bytes:
        return _Content(reason="too_large", evidence=f"more than {rules.max_bytes} bytes")
    if not bytes(body.data[:1024]).strip() and not bytes(body.data).strip():
        return _Content(reason="empty", evidence=body.fault or f"{len(body.data)} bytes")
    mime = media_type(declared, found, body.data)
    if (binary := binary_type(body.data)) is not None:
        return _Content(reason="mime", evidence=f"{binary} served as {mime or 'nothing'}", mime=binary)
    if mime not in rules.mime_types:
        return _Content(reason="mime", evidence=mime or "no type", mime=mime or None)
    return _decoded(decode_page(body.data, declared), mime)._replace(truncated=body.fault)


def _decoded(decoded: Decoded, mime: str) -> _Content:
    if decoded.fault is not None:
        return _Content(reason="encoding", evidence=decoded.fault, mime=mime, charset=decoded.charset, by=decoded.by)
    return _Content(decoded.text, mime=mime, charset=decoded.charset, by=decoded.by)
