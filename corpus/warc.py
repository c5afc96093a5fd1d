"""Web archives (WARC, ARC, WET, WAT) as records, one after another, whatever state the file is in.

    for record in records(open(path, "rb").read, limit=8 << 20): ...

Compression is corpus/gzip_members.py's part. Here: where a record begins and ends. A record has a head, Content-Length bytes of
block, and two line ends. Files break every part of that, so:

    no head where one should be          bytes up to the next head are one record without a kind, which says how many they are
    lines end in LF, or are folded       read as meant (RFC 2616, 2.2; WARC 1.1, 4)
    Content-Length says too little       the block goes on to the next head, or to the end of the gzip member
    Content-Length says too much         a gzip member or the file ends first, or another head is in the block: it ends there
    no Content-Length                    the block reaches to the next head, or to the end of the gzip member
    several records in a gzip member, or a record in several members: both are read

A record in a damaged gzip member has a `fault`, as has one whose head is cut off. The next one is read as if nothing were
amiss. Memory is bounded: of a block no more than `limit` bytes are held, of what nobody wants nothing.

Reference: ISO 28500:2017 (WARC 1.1); Internet Archive's ARC version 1 (1996).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from corpus.gzip_members import Members, Piece, pieces
from corpus.warc_kernels import CODES, HEAD, heads_of

__all__ = ["KINDS", "Record", "records"]

KINDS = frozenset(("response", "revisit", "resource", "conversion"))  # whose blocks are pages, or stand for one

_BLANK = re.compile(rb"\n\r?\n")
_SKIP = re.compile(rb"[\r\n\0]*")
_TYPE = re.compile(rb"\nWARC-Type[ \t]*:[ \t]*(\w+)", re.IGNORECASE)
_LENGTH = re.compile(rb"\nContent-Length[ \t]*:[ \t]*(\d+)[ \t\r]*(?:\n|$)", re.IGNORECASE)
_FOLD = re.compile(r"\r?\n[ \t]+")
_WARC_LINE = rb"WARC/\d\.\d+[ \t]*\r?\n"
_ARC_LINE = rb"(?:https?|ftp|dns|filedesc):[^\r\n]{1,8192} \S+ \d{8,17} \S+ \d+[ \t]*\r?\n"
_OPENS = re.compile(rb"[\r\n\0]*(?:%s|%s)" % (_WARC_LINE, _ARC_LINE))
_BEGINS = re.compile(rb"(?:%s|%s)" % (_WARC_LINE, _ARC_LINE))
_LATER = re.compile(rb"\n(?=%s|%s)" % (_WARC_LINE, _ARC_LINE))
_LINE = 32  # more than WARC/1.1 and its line end
_OVERLAP = 8 << 10  # a head's first line may lie across two pieces
_FILE = 1 << 62  # bytes: no limit


class Record(NamedTuple):
    """A record. kind: WARC-Type in lower case; of an ARC file, `response` and once `warcinfo`; "" for bytes without a head.

    offset, length: its bytes in the file, compressed if that is; of records that share a gzip member, the member's offset, and
    inner tells them apart: where the record begins in the member's content. headers: by lower-case name, the first of several;
    ARC's five fields under WARC's names. block: at most `limit` bytes of it. Neither if the kind is not wanted. size: of the
    whole block. short: bytes that Content-Length promised beyond that; negative: found beyond what it promised. fault: what is
    damaged in the file.
    """

    kind: str
    offset: int
    length: int
    inner: int
    headers: Mapping[str, str]
    block: memoryview
    size: int
    short: int = 0
    fault: str | None = None


_NONE = memoryview(b"")


class _Headers(Mapping[str, str]):
    """Of a head, when somebody asks: most records are counted and not read."""

    def __init__(self, head: memoryview) -> None:
        self.head: memoryview | None = head
        self.found: dict[str, str] = {}

    def _all(self) -> dict[str, str]:
        if self.head is not None:
            self.found, self.head = _headers(str(self.head, "utf-8", "replace")), None
        return self.found

    def __getitem__(self, name: str) -> str:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return repr(self._all())


class _Feed:
    """The pieces of a file one by one; of members that came together, the heads of all, and the place among them."""

    def __init__(self, found: Iterator[Piece | Members]) -> None:
        self.found = found
        self.members: Members | None = None
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.heads: list[list[int]] = []
        self.next_one = 0

    def take(self) -> Piece | None:
        if self.members is None or self.next_one == len(self.members):
            found = next(self.found, None)
            if not isinstance(found, Members):
                self.members = None
                return found
            self.members, self.next_one = found, 0
            self.starts, self.ends = found.starts_S.tolist(), found.ends_S.tolist()
            self.heads = heads_of(found.content_B, found.ends_S).tolist()
        self.next_one += 1
        return self.members.piece(self.next_one - 1)


class _Cursor:
    """A position `at` in the content, with one piece of lookahead; what lies behind `mark` is kept, to go back to."""

    def __init__(self, feed: _Feed) -> None:
        self.feed = feed
        self.ahead = feed.take()
        self.data: bytes | bytearray = b""
        self.at = self.mark = 0
        self.inner = 0  # of data[0], in the content of the gzip member that begins at `member`; of a plain file, in the file
        self.member = self.stop = 0
        self.plain = False

    @property
    def empty(self) -> bool:
        return self.at == len(self.data)

    @property
    def position(self) -> int:
        """In the file: exact if that is plain, else the end of the compressed bytes used so far."""
        return self.inner + self.at if self.plain else self.stop

    def more(self, within: bool = False) -> bool:
        """Join the next piece to what is kept; False where a record ends whatever its head says: file, damage, next record.

        within: nor into another member. Otherwise one that begins with no head is taken to go on with this record.
        """
        piece = self.ahead
        if piece is None or piece.fault is not None or (piece.opens and (within or _OPENS.match(piece.data))):
            return False
        self._join(piece)
        return True

    def _join(self, piece: Piece) -> None:
        if self.mark == len(self.data):
            self.data, gone = piece.data, self.mark
        else:
            gone = self._append(piece.data)
        self.inner += gone
        self.at -= gone
        self.mark = 0
        self.stop = piece.stop
        self.ahead = self.feed.take()

    def _append(self, more: bytes | bytearray) -> int:
        """To what lies behind the mark, in place: a record may come in a hundred thousand members. The bytes that went."""
        try:
            if not isinstance(self.data, bytearray):
                raise BufferError
            del self.data[: self.mark]
            self.data += more
        except BufferError:  # a record's block is a view of it, and nothing was done
            self.data = bytearray(memoryview(self.data)[self.mark :])
            self.data += more
        return self.mark

    def open(self) -> bool:
        """Go on to the next piece with nothing left of the last; False at the end of the file."""
        piece = self.ahead
        if piece is None:
            return False
        self.mark = self.at
        self._join(piece)
        if piece.opens:
            self.member, self.inner, self.plain = piece.start, 0, piece.plain
        return True

    def skip_blank(self) -> None:
        """Past line ends and NULs, into later pieces of the same member."""
        if self.at == len(self.data) and (self.ahead is None or self.ahead.opens):
            return
        while True:
            found = _SKIP.match(self.data, self.at)
            assert found is not None
            self.at = found.end()
            if not self.empty or self.ahead is None or self.ahead.opens or not self.more():
                return

    def take_fault(self) -> str | None:
        """What is wrong with this member, if its content breaks off here."""
        if self.empty and self.ahead is not None and self.ahead.fault is not None and not self.ahead.opens:
            fault, self.stop = self.ahead.fault, self.ahead.stop
            self.ahead = self.feed.take()
            return fault
        return None

    def head(self, kinds: frozenset[str]) -> tuple[str, dict[str, str], int | None] | None:
        """(kind, headers, block size) of the record that begins here, None if none does. Moves behind it.

        No headers of a kind that is not among `kinds`.
        """
        while True:
            stop = min(len(self.data), self.at + HEAD)
            if (begins := _BEGINS.match(self.data, self.at, stop)) is not None:
                if not self.data.startswith(b"WARC", self.at):
                    self.at = begins.end()
                    return _arc_head(begins.group())
                if (blank := _BLANK.search(self.data, begins.end() - 1, stop)) is not None:
                    head = self.data[self.at : blank.start()]
                    self.at = blank.end()
                    return _warc_head(head, kinds)
            strays = begins is None and len(self.data) - self.at > _LINE
            if stop - self.at >= HEAD or not self.more(within=strays):
                return None

    def block(self, size: int, limit: int) -> tuple[memoryview, int]:
        """(the first `limit` bytes, bytes there are) of the next `size`. Moves behind them, or to the next head if too large.

        Up to `limit` they are in one piece from `mark` on.
        """
        self.mark = self.at
        wanted = min(size, limit)
        while self.at + wanted > len(self.data) and self.more():
            pass
        kept = memoryview(self.data)[self.at : self.at + wanted]
        if self.at + size <= len(self.data):
            self.at += size
            return kept, size
        inside = _LATER.search(kept) if size > limit else None
        if inside is not None:  # too large to be held and searched at its end, as it may end well
            self.at += inside.end()
            return kept[: inside.start()], inside.start()
        self.at += len(kept)
        if len(kept) < wanted:
            return kept, len(kept)
        _, passed = self.until_head(size - len(kept), 0, within=False)
        return kept, len(kept) + passed

    def until_head(self, size: int, limit: int, within: bool = True) -> tuple[bytes, int]:
        """(the first `limit` bytes, bytes there are) up to the next head, not counting one right here, at most `size`."""
        parts: list[bytes] = []
        passed = 0
        while True:
            room = min(len(self.data), self.at + size - passed)
            found = _LATER.search(self.data, self.at, min(len(self.data), room + _OVERLAP))
            ends = found is not None or room < len(self.data) or passed + room - self.at == size
            stop = min(room, found.end()) if found is not None else room if ends else max(self.at, room - _OVERLAP)
            parts.append(bytes(self.data[self.at : min(stop, self.at + max(0, limit - passed))]))
            passed += stop - self.at
            self.at = self.mark = stop
            if ends:
                return b"".join(parts), passed
            if not self.more(within):
                size = passed + len(self.data) - stop  # no head is in what is left: it was looked through

    def follows(self) -> bool:
        """Whether the content ends here, or another record begins, perhaps with a first line that two members share."""
        while not self.empty and b"WARC/1.".startswith(bytes(self.data[self.at : self.at + 7])):
            if len(self.data) - self.at >= _LINE or not self.more():
                break
        return self.empty or _BEGINS.match(self.data, self.at) is not None


def records(read: Callable[[int], bytes], limit: int, kinds: frozenset[str] = KINDS) -> Iterator[Record]:
    """The records of a file. read(n): up to n bytes of it, b"" at its end; what it raises passes through.

    limit: bytes held of a block, and none of one whose kind is not among `kinds`.
    """
    cursor = _Cursor(_Feed(pieces(read)))
    while True:
        if cursor.empty and cursor.feed.members is not None:
            yield from _alone(cursor, limit, kinds)
        cursor.skip_blank()
        if not cursor.empty:
            yield _record(cursor, limit, kinds)
        elif cursor.ahead is not None and cursor.ahead.fault is not None:
            broken = cursor.ahead
            cursor.ahead = cursor.feed.take()
            yield Record("", broken.start, broken.stop - broken.start, 0, {}, _NONE, 0, fault=broken.fault)
        elif not cursor.open():
            return


def _alone(cursor: _Cursor, limit: int, kinds: frozenset[str]) -> Iterator[Record]:
    """The records of the next members, as long as each holds one and nothing else, as nearly all do."""
    feed = cursor.feed
    while (members := feed.members) is not None:
        content = members.content_B.data
        at = ahead = feed.next_one - 1
        rest = zip(feed.heads[at:], itertools.pairwise(feed.starts[at:]), feed.ends[at:-1], strict=True)
        for (code, head_end, block, size), (offset, stop), head in rest:
            if not code:
                break
            at += 1
            kind = CODES[code]
            if kind in kinds:
                kept = content[block : block + min(size, limit)]
                yield Record(kind, offset, stop - offset, 0, _Headers(content[head:head_end]), kept, size)
            else:
                yield Record(kind, offset, stop - offset, 0, {}, _NONE, size)
        if at == ahead:
            return
        feed.next_one = at
        cursor.ahead = feed.take()


def _record(cursor: _Cursor, limit: int, kinds: frozenset[str]) -> Record:
    cursor.mark = cursor.at
    inner = cursor.inner + cursor.at
    offset, inner = (inner, 0) if cursor.plain else (cursor.member, inner)
    head = cursor.head(kinds)
    if head is None:
        _, size = cursor.until_head(_FILE, 0)
        strays = cursor.take_fault() or f"{size} bytes that begin no record"
        return Record("", offset, cursor.position - offset, inner, {}, _NONE, size, fault=strays)
    kind, headers, promised = head
    limit = limit if kind in kinds else 0
    block, size = cursor.block(promised or 0, limit)
    cursor.skip_blank()
    if promised is None or size < promised or not cursor.follows():
        block, size = _mend(cursor, block, size, limit)
        cursor.skip_blank()
    short = 0 if promised is None else promised - size
    fault = cursor.take_fault()
    return Record(kind, offset, cursor.position - offset, inner, headers, block, size, short, fault)


def _mend(cursor: _Cursor, block: memoryview, size: int, limit: int) -> tuple[memoryview, int]:
    """A block whose Content-Length is wrong: another head stands in it, or what is left until the next one is its rest."""
    if len(block) == size and (inside := _LATER.search(block)) is not None:
        cursor.at = cursor.mark + inside.end()
        return memoryview(bytes(block[: inside.start()]).rstrip(b"\r\n")), inside.start()
    if cursor.follows():
        return block, size
    rest, more = cursor.until_head(_FILE, limit - len(block))
    if len(block) + len(rest) == size + more:
        whole = (bytes(block) + rest).rstrip(b"\r\n")
        return memoryview(whole), len(whole)
    return memoryview(bytes(block) + rest), size + more


def _warc_head(head: bytes | bytearray, kinds: frozenset[str]) -> tuple[str, dict[str, str], int | None]:
    found = _TYPE.search(head, max(0, head.find(b"\nWARC-Type:")))  # as it is nearly always written
    kind = found.group(1).decode("ascii").lower() if found is not None else ""
    if kind in kinds or not kind:
        headers = _headers(head.decode("utf-8", "replace"))
        return kind, headers, _number(headers.get("content-length"))
    found = _LENGTH.search(head, max(0, head.find(b"\nContent-Length:")))
    return kind, {}, _number(found.group(1).decode("ascii") if found is not None else None)


def _headers(text: str) -> dict[str, str]:
    if "\n " in text or "\n\t" in text:
        text = _FOLD.sub(" ", text)
    headers: dict[str, str] = {}
    for line in reversed(text.split("\n")):  # of several of a name the first stays
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    return headers


def _arc_head(line: bytes) -> tuple[str, dict[str, str], int | None]:
    url, address, date, mime, size = line.decode("utf-8", "replace").strip().rsplit(" ", 4)
    kind = "warcinfo" if url.startswith("filedesc:") else "response"
    d = date.ljust(14, "0")
    stamp = f"{d[:4]}-{d[4:6]}-{d[6:8]}T{d[8:10]}:{d[10:12]}:{d[12:14]}Z"
    headers = {"warc-target-uri": url, "warc-date": stamp, "warc-ip-address": address, "arc-content-type": mime}
    return kind, headers, _number(size)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 19 else None
