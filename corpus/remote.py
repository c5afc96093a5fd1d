"""Files read as if nothing ever failed: over HTTP(S), s3:// (or any file system of fsspec), or from this machine.

A server that serves the whole world refuses, stalls and hangs up. Reading goes on where it stopped:

    refused      403, 408, 425, 429, 5xx: wait as long as Retry-After says, or a time that doubles with every refusal
    stalled      no byte for `stall_s`: a new request from this position on
    hung up      fewer bytes than promised: the same
    no such file, no such range, no credentials, a file that changed meanwhile, another range than asked for: at once an error

A host that refused is asked more slowly from then on, by this reader's next requests too, and faster again with each one it
answers (corpus/pace.py). All that time comes out of one budget per file (or group of ranges), as do stalls; when it is spent
the error is an InputError. A host that answers nothing costs one budget, however many of its files are asked for.
HTTP is streamed in one request for as long as it lasts; a server that ignores ranges costs what lies before the position.
Other file systems are read in blocks. Credentials, endpoints and proxies are those of fsspec's and the library's own
configuration (for s3://, s3fs and the AWS variables).

With a cache folder, a file read to its end, and every range, is read from there the next time. A file whose end nobody marked
(neither a length nor chunks, only a connection that closed) is not kept: it may be half of one.

Reference: RFC 9110, 14 (ranges), 10.2.3 (Retry-After); Common Crawl's advice: few connections, adaptive retries.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import xxhash

from corpus.errors import InputError
from corpus.pace import Access, Pace
from corpus.remote_body import Body, Copy, failure

__all__ = ["Access", "Remote", "is_remote"]

_STEP = 1 << 20
_GAP = 64 << 10  # between two ranges worth one request: a request costs more than these bytes
_TOGETHER = 16 << 20


def is_remote(where: str) -> bool:
    return "://" in where


class Remote:
    """Opens files. sleep, clock: how to wait, for tests."""

    def __init__(
        self,
        access: Access,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.access = access
        self.pace = Pace(access.first_wait_s, sleep, clock)

    def open(self, where: str, start: int = 0, stop: int | None = None) -> IO[bytes] | Body:
        """Something to read(n) bytes [start, stop) of a file from; to be closed. InputError where that cannot be had."""
        if not is_remote(where):
            return _local(where, start)
        whole = start == 0 and stop is None
        if (cached := self._cached(where)) is not None and cached.exists():
            return _local(str(cached), start)
        return Body(self.access, self.pace, where, start, stop, cached if whole else None)

    def read(self, where: str, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes [start, stop), fewer where the file ends before."""
        data, error = self._read(where, start, stop)
        if error is not None:
            raise error
        return data

    def _read(self, where: str, start: int, stop: int | None) -> tuple[bytes, InputError | None]:
        """What came, and why no more did."""
        ranged = is_remote(where) and (start, stop) != (0, None)  # whole files are kept as they are read
        cached = self._cached(f"{where}#{start}-{stop}") if ranged else None
        if cached is not None and cached.exists():
            return cached.read_bytes(), None
        parts: list[bytes] = []
        try:
            with contextlib.closing(self.open(where, start, stop)) as body:
                left = stop - start if stop is not None else 1 << 62
                while left and (part := body.read(min(left, _STEP))):
                    parts.append(part)
                    left -= len(part)
        except InputError as error:
            return b"".join(parts), error
        data = b"".join(parts)
        if cached is not None:
            copy = Copy(cached)
            try:
                copy.write(data)
            finally:
                copy.close(copy.size == len(data))
        return data, None

    def size(self, where: str) -> int:
        """Bytes of a file."""
        if not is_remote(where):
            with _local(where, 0) as file:
                return file.seek(0, os.SEEK_END)
        with contextlib.closing(Body(self.access, self.pace, where, 0, 1)) as body:
            body.read(1)
            if body.size is None:
                raise failure(where, 0, "the server does not say how long it is")
            return body.size

    def ranges(self, where: str, spans: Sequence[tuple[int, int]]) -> Iterator[bytes | InputError]:
        """The bytes of each (start, stop), in their order, or why they cannot be had; neighbours in one request."""
        for group in _grouped(spans):
            start, stop = group[0][0], max(b for _, b in group)
            data, error = self._read(where, start, stop)
            for a, b in group:
                yield error if error is not None and b - start > len(data) else data[a - start : b - start]

    def _cached(self, name: str) -> Path | None:
        if self.access.cache is None:
            return None
        return Path(self.access.cache) / xxhash.xxh3_128_hexdigest(name.encode("utf-8", "surrogatepass"))


def _local(where: str, start: int) -> IO[bytes]:
    try:
        file = open(where, "rb")  # noqa: SIM115 - the caller closes it
        file.seek(start)
    except OSError as error:
        raise InputError(f"cannot read {where}: {error.strerror or error}", reason="fetch_failed") from error
    return file


def _grouped(spans: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    group: list[tuple[int, int]] = []
    for span in spans:
        if group and not (span[0] >= group[0][0] and span[0] - group[-1][1] <= _GAP and span[1] - group[0][0] <= _TOGETHER):
            yield group
            group = []
        group.append(span)
    if group:
        yield group
