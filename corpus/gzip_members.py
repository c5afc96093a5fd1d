"""A compressed archive as pieces of its content: gzip members found, decompressed, and found again behind damage.

Web archives are one gzip member per record, so that a record can be read alone. Two ways to decompress:

    together  by libdeflate, member after member into one buffer, from a kernel: Python sees some hundred members at a time
    streamed  by zlib, 1 MB of content at a time, for what that does not fit: a member that is large or damaged, as one that
              holds the whole file, or one without content

The first is three times as fast and is where nearly every byte goes; the second decides what is damaged and says why. After
damage, reading goes on at the next magic: a false one (three given bytes and three zero bits: one in 134 MB of noise) costs
one more piece with a fault. Memory: the window and 2 MB of content, which live as long as a view of them does.

The kernel calls the libdeflate that the `deflate` package brings in its extension module. Of a build that does not export it
everything is streamed: the same pieces, slower.
"""

from __future__ import annotations

import bisect
import ctypes
import dataclasses
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from deflate import _deflate
from numba import njit, types

__all__ = ["MAGIC", "Members", "Piece", "pieces"]

MAGIC = b"\x1f\x8b\x08"

_READ = 256 << 10  # of the file at a time
_WINDOW = 2 << 20  # of it, before a member that does not end in it is streamed
_KEEP = 64 << 10  # of it behind the position: damage shows a little after it happened
_CONTENT = 2 << 20  # of members decompressed together: a processor's cache holds it until it is looked at
_MEMBERS = 4096
_FULL = 3  # LIBDEFLATE_INSUFFICIENT_SPACE
_STREAM = 1 << 20
_FILLER = b"\0\r\n"


class Piece(NamedTuple):
    """Content in order. start, stop: its bytes in the file, compressed unless `plain`. opens: a member or plain file begins.

    fault: what is wrong at this point; such a piece has no data, and does not open when it is about the member before it.
    """

    start: int
    stop: int
    data: bytes | bytearray
    opens: bool
    fault: str | None = None
    plain: bool = False


@dataclasses.dataclass(frozen=True)
class Members:
    """M sound members, one right behind another. starts_S: of their bytes in the file; ends_S: of their content; S = M + 1."""

    starts_S: np.ndarray
    ends_S: np.ndarray
    content_B: np.ndarray

    def __len__(self) -> int:
        return len(self.ends_S) - 1

    def piece(self, i: int) -> Piece:
        start, stop = self.starts_S[i : i + 2].tolist()
        return Piece(start, stop, self.content_B[self.ends_S[i] : self.ends_S[i + 1]].tobytes(), True)


class _Window:
    """Bytes of the file from `start` on; `at` is the position in them, `starts` where members may begin."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self.read = read
        self.data = b""
        self.start = self.at = 0
        self.ended = False
        self.failure: Exception | None = None
        self.starts: list[int] | None = None  # not looked for yet

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
        while size < _READ and not self.ended:  # what is found must not depend on how much a source gives at once
            try:
                if self.failure is not None:
                    raise self.failure
                parts.append(self.read(_READ - size))
            except Exception as error:  # noqa: BLE001 - raised again, once what came before it is read
                self.failure = error
                break
            size += len(parts[-1])
            self.ended = not parts[-1]
        if self.failure is not None and not size:
            raise self.failure
        if not size:
            return False
        gone = max(0, self.at - _KEEP)
        self.data = b"".join((memoryview(self.data)[gone:], *parts))
        self.start += gone
        self.at -= gone
        self.starts = None
        return True

    def next_start(self, after: int) -> int | None:
        """The first member's start in the window at or behind index `after`."""
        if self.starts is None:
            self.starts = _magics(self.data)
        found = bisect.bisect_left(self.starts, after)
        return self.starts[found] if found < len(self.starts) else None


def _magics(data: bytes) -> list[int]:
    data_B = np.frombuffer(data, np.uint8)
    found = np.flatnonzero(data_B[:-3] == MAGIC[0])  # one byte in 256: the other tests cost nothing
    found = found[(data_B[found + 1] == MAGIC[1]) & (data_B[found + 2] == MAGIC[2]) & (data_B[found + 3] & 0xE0 == 0)]
    positions: list[int] = found.tolist()
    return positions


def pieces(read: Callable[[int], bytes]) -> Iterator[Piece | Members]:
    """The content of a file, gzip or not. read(n): up to n bytes of it, b"" at its end; what it raises passes through."""
    window = _Window(read)
    if not window.fill():
        return
    if not window.data.startswith(MAGIC) and (window.next_start(0) is None or not _is_noise(window.data)):
        yield from _plain(window)
        return
    while window.left or window.fill():
        if not window.data.startswith(MAGIC, window.at):
            yield from _skip(window)
        elif (members := _together(window)) is not None:
            yield members
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


def _together(window: _Window) -> Members | None:
    """The sound members at the position, as many as the window and the buffer hold; None leaves the first one to zlib."""
    if not _EXPORTED:
        return None
    starts_S, ends_S = np.empty(_MEMBERS + 1, np.int64), np.empty(_MEMBERS + 1, np.int64)
    content_B = np.empty(_CONTENT, np.uint8)
    while True:
        found = _inflate(np.frombuffer(window.data, np.uint8), window.at, content_B, starts_S, ends_S)
        if found or window.ended or window.left >= _WINDOW or not window.fill():
            break  # else the first member may go on behind the window
    if found < 1:
        return None
    window.at = int(starts_S[found])
    return Members(starts_S[: found + 1] + window.start, ends_S[: found + 1], content_B)


_SYMBOLS = ("libdeflate_alloc_decompressor", "libdeflate_gzip_decompress_ex", "libdeflate_free_decompressor")
_LIBRARY = ctypes.CDLL(_deflate.__file__, ctypes.RTLD_GLOBAL)  # global, so that compiled kernels find it by name
_EXPORTED = all(hasattr(_LIBRARY, name) for name in _SYMBOLS)
_allocate = types.ExternalFunction(_SYMBOLS[0], types.intp())
_decompress = types.ExternalFunction(
    _SYMBOLS[1],
    types.int32(types.intp, types.voidptr, types.uintp, types.voidptr, types.uintp, types.voidptr, types.voidptr),
)
_release = types.ExternalFunction(_SYMBOLS[2], types.void(types.intp))


@njit(cache=True, nogil=True)
def _inflate(data_B, at, content_B, starts_S, ends_S):  # type: ignore[no-untyped-def]
    """How many members from `at` on are sound, not empty, and fit; -1: the first does not fit. Fills in where each begins.

    libdeflate compares checksum and size, and says how far a member reaches: what stands behind it is not looked at.
    """
    state = _allocate()
    if state == 0:  # no memory for it
        return 0
    used = np.zeros(2, np.uintp)  # bytes read, bytes written
    found, end = 0, np.int64(0)
    starts_S[0], ends_S[0] = at, 0
    while found < len(starts_S) - 1 and at < len(data_B):
        source, target = data_B[at:], content_B[end:]
        failed = _decompress(state, source.ctypes, source.size, target.ctypes, target.size, used[0:].ctypes, used[1:].ctypes)
        if failed != 0 or used[1] == 0:
            if failed == _FULL and found == 0:
                found = -1
            break
        found, at, end = found + 1, at + np.int64(used[0]), end + np.int64(used[1])
        starts_S[found], ends_S[found] = at, end
    _release(state)
    return found


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
                yield Piece(start, window.position - len(packed) - len(member.unused_data), data, opens)
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
