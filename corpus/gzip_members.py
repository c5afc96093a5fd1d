"""A compressed archive as pieces of its content: gzip members found, decompressed, and found again behind damage.

Web archives are one gzip member per record, so that a record can be read alone. Two ways to decompress a member:

    whole    from one member's magic to the next one's, in one call of libdeflate with the size its trailer promises
    streamed by zlib, 1 MB of content at a time, for what that does not fit: a member that is large or damaged, a member that
             holds the whole file, one whose compressed bytes happen to contain the magic of another

The first is three times as fast and is where nearly every byte goes; the second decides what is damaged and says why. After
damage, reading goes on at the next magic: a false one (three given bytes and three zero bits: one in 134 MB of noise) costs
one more piece with a fault. Memory: the window, a member of at most 32 MB of content, or 1 MB of a streamed one.
"""

from __future__ import annotations

import bisect
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import deflate
import numpy as np

__all__ = ["MAGIC", "Piece", "pieces"]

MAGIC = b"\x1f\x8b\x08"

_WINDOW = 2 << 20  # of the file
_KEEP = 64 << 10  # of it behind the position: damage shows a little after it happened
_HEADER = 10  # fixed bytes of a member's head (RFC 1952)
_TRAILER = struct.Struct("<II")  # checksum and size of the content
_WHOLE = 32 << 20  # content of a member decompressed in one call
_MOST_RATIO = 1032  # deflate cannot do better; a trailer that promises more lies
_STREAM = 1 << 20
_FILLER = b"\0\r\n"


class Piece(NamedTuple):
    """Content in order. start, stop: its bytes in the file, compressed unless `plain`. opens: a member or plain file begins.

    fault: what is wrong at this point; such a piece has no data, and does not open when it is about the member before it.
    whole: it is all of a sound member.
    """

    start: int
    stop: int
    data: bytes | bytearray
    opens: bool
    fault: str | None = None
    plain: bool = False
    whole: bool = False


class _Window:
    """Bytes of the file from `start` on; `at` is the position in them, `starts` where members may begin."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self.read = read
        self.data = b""
        self.start = self.at = 0
        self.ended = False
        self.failure: Exception | None = None
        self.starts: list[int] = []

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    @property
    def position(self) -> int:
        return self.start + self.at

    def fill(self) -> bool:
        """One read more, what lies well behind the position forgotten; False at the end of the file."""
        parts: list[bytes] = []
        size = 0
        while size < _WINDOW and not self.ended:  # what is found must not depend on how much a source gives at once
            try:
                if self.failure is not None:
                    raise self.failure
                parts.append(self.read(_WINDOW - size))
            except Exception as error:  # noqa: BLE001 - raised again, once what came before it is read
                self.failure = error
                break
            size += len(parts[-1])
            self.ended = not parts[-1]
        if self.failure is not None and not size:
            raise self.failure
        if not size:
            return False
        more = parts[0] if len(parts) == 1 else b"".join(parts)
        gone = max(0, self.at - _KEEP)
        self.data = self.data[gone:] + more
        self.start += gone
        self.at -= gone
        self.starts = _magics(self.data)
        return True

    def next_start(self, after: int) -> int | None:
        """The first member's start in the window at or behind index `after`."""
        found = bisect.bisect_left(self.starts, after)
        return self.starts[found] if found < len(self.starts) else None


def _magics(data: bytes) -> list[int]:
    data_B = np.frombuffer(data, np.uint8)
    found = np.flatnonzero(data_B[:-3] == MAGIC[0])  # one byte in 256: the other tests cost nothing
    found = found[(data_B[found + 1] == MAGIC[1]) & (data_B[found + 2] == MAGIC[2]) & (data_B[found + 3] & 0xE0 == 0)]
    positions: list[int] = found.tolist()
    return positions


def pieces(read: Callable[[int], bytes]) -> Iterator[Piece]:
    """The content of a file, gzip or not. read(n): up to n bytes of it, b"" at its end; what it raises passes through."""
    window = _Window(read)
    if not window.fill():
        return
    if window.next_start(0) is None or not (window.data.startswith(MAGIC) or _is_noise(window.data)):
        yield from _plain(window)
        return
    while window.left or window.fill():
        if not window.data.startswith(MAGIC, window.at):
            yield from _skip(window)
        elif (whole := _whole(window)) is not None:
            yield whole
        else:
            yield from _streamed(window)


def _is_noise(data: bytes) -> bool:
    """Whether a file that holds a magic, though not at its beginning, is a damaged gzip file and not plain text."""
    head = data[:1024]
    return len(head.translate(None, bytes(range(32)) + bytes(range(127, 256)))) < 0.7 * len(head)


def _plain(window: _Window) -> Iterator[Piece]:
    opens = True
    while window.left or window.fill():
        start = window.position
        data = window.data[window.at :]
        window.at = len(window.data)
        yield Piece(start, window.position, data, opens, plain=True)
        opens = False


def _skip(window: _Window) -> Iterator[Piece]:
    """To the next magic. Bytes that are not padding are a fault."""
    start, strays = window.position, 0
    while True:
        stop = window.next_start(window.at)
        end = stop if stop is not None else len(window.data) if window.ended else max(window.at, len(window.data) - 3)
        strays += len(window.data[window.at : end].strip(_FILLER))
        window.at = end
        if stop is not None or not (window.fill() or window.left):
            break
    if strays:
        yield Piece(start, window.position, b"", True, f"{strays} bytes that are no gzip member")


def _whole(window: _Window) -> Piece | None:
    """The member at the position if one call gives it; None leaves it to zlib."""
    end = window.next_start(window.at + _HEADER)
    while end is None and not window.ended and window.left < _WINDOW:
        window.fill()
        end = window.next_start(window.at + _HEADER)
    if end is None:
        if not window.ended:
            return None
        end = len(window.data)
    at, length = window.at, end - window.at
    if length < _HEADER + _TRAILER.size:
        return None
    crc, size = _TRAILER.unpack_from(window.data, end - _TRAILER.size)
    if size == 0 or size > _WHOLE or size > _MOST_RATIO * length:
        return None
    try:
        data = deflate.gzip_decompress(memoryview(window.data)[at:end])
    except deflate.DeflateError:
        return None
    if len(data) != size or deflate.crc32(data) != crc:  # the member ends before the next one begins
        return None
    window.at = end
    return Piece(window.start + at, window.start + end, data, True, whole=True)


def _streamed(window: _Window) -> Iterator[Piece]:
    start = window.position
    member = zlib.decompressobj(31)
    opens, packed = True, b""
    try:
        while not member.eof:
            if not packed:
                if not (window.left or window.fill()):
                    yield Piece(start, window.position, b"", opens, "the file ends inside this gzip member")
                    return
                packed = window.data[window.at : window.at + _KEEP]
                window.at += len(packed)
            data = member.decompress(packed, _STREAM)
            packed = member.unconsumed_tail
            if data:
                yield Piece(start, window.position - len(packed), data, opens)
                opens = False
    except zlib.error as error:
        yield Piece(start, window.position, b"", opens, f"damaged gzip member: {error}")
        # Where bytes were lost, the next member begins inside what was taken for this one.
        behind = max(start + 1 - window.start, window.at - _KEEP - len(packed), 0)
        stop = window.next_start(behind)
        window.at = stop if stop is not None else len(window.data)
    else:
        window.at -= len(member.unused_data)
        if opens:
            yield Piece(start, window.position, b"", True)  # an empty member is still one
