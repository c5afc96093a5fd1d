"""One remote file as a stream that does not break off: what is behind corpus/remote.py.

A Body knows its position. Whatever goes wrong, it hangs up, waits as the Pace says, and asks again from there. Its budget is
spent by every second that brings it no byte: the waiting between requests, and a request that stalls. A host that answers
nothing costs it once, not once for each of its files: afterwards one file is tried when the Pace says, and the others fail.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import fsspec

from corpus.errors import NO_CREDENTIALS, InputError, StorageError
from corpus.pace import SLOWEST_S, Access, Pace, retry_after

__all__ = ["Body", "Copy", "failure"]

_BLOCK = 8 << 20  # of a file system that is not HTTP
_STEP = 1 << 20  # of a stream
_REFUSED = frozenset((403, 408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529))
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_HOPELESS = (FileNotFoundError, ValueError, TypeError, ImportError, NotImplementedError)


class Copy:
    """What is read from elsewhere, left at `path` once it is whole. StorageError where it cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, self.temporary = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
        except OSError as error:
            raise self._failed(error) from error
        self.file = os.fdopen(descriptor, "wb")

    def write(self, data: bytes) -> None:
        try:
            self.file.write(data)
        except OSError as error:
            raise self._failed(error) from error
        self.size += len(data)

    def close(self, whole: bool) -> None:
        """Publish it, or leave nothing behind."""
        try:
            try:
                if whole:
                    self.file.flush()
                    os.fsync(self.file.fileno())  # after a power cut no half of it must stand under its name
            finally:
                with contextlib.suppress(OSError):
                    self.file.close()
            if whole:
                os.replace(self.temporary, self.path)
        except OSError as error:
            raise self._failed(error) from error
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.temporary)

    def _failed(self, error: OSError) -> StorageError:
        where = self.path.parent
        return StorageError(
            f"cannot write to the cache {where}: {error.strerror or error}. Free some space, or name another folder"
        )


class Body:
    """Bytes [start, stop) of a remote file, read on across whatever happens. keep: where to leave a copy of a whole one."""

    def __init__(self, access: Access, pace: Pace, where: str, start: int, stop: int | None, keep: Path | None = None) -> None:
        self.access, self.pace, self.where = access, pace, where
        self.position, self.stop = start, stop
        self.host = urlsplit(where).netloc
        self.size: int | None = None  # of the whole file, once known
        self.framed = False  # the server marks the end of what it sends: a connection that closes is not taken for it
        self.stream: Any = None
        self.silent = True  # no byte came from this stream yet
        self.heard = 0.0  # when something last did
        self.spent = 0.0
        self.failure: InputError | None = None
        self._copy = Copy(keep) if keep is not None else None

    @property
    def done(self) -> bool:
        ends = [end for end in (self.stop, self.size) if end is not None]
        return bool(ends) and self.position >= min(ends)

    def read(self, n: int) -> bytes:
        """Up to n bytes, fewer only at the end. InputError when they cannot be had; what came before it is given first."""
        parts: list[bytes] = []
        size = 0
        while size < n and self.failure is None:
            try:
                part = self._some(min(n - size, _STEP))
            except InputError as error:
                self.failure = error
                break
            if not part:
                break
            parts.append(part)
            size += len(part)
        if not parts and self.failure is not None:
            raise self.failure
        data = b"".join(parts)
        if self._copy is not None:
            self._copy.write(data)
        return data

    def _some(self, n: int) -> bytes:
        while not self.done:
            try:
                if self.stream is None:
                    self._ask()
                left = n if self.stop is None else min(n, self.stop - self.position)
                data: bytes = self.stream.read(left)
                if not data and not self.done:
                    if self.size is None and self.stop is None:
                        self.size = self.position  # a server that never says how long a file is
                        break
                    raise OSError(f"closed at byte {self.position} of {self.size if self.size is not None else self.stop}")
                self._hear()
                self.position += len(data)
                return data
            except (InputError, MemoryError):
                raise
            except Exception as error:  # noqa: BLE001 - every file system raises its own library's errors
                self._hang_up()
                self._refuse(error)
        return b""

    def _ask(self) -> None:
        """A stream from the position on, when it is time for that.

        However slowly its host is asked by now, a file is tried once; but not before the time the host itself has named, nor
        while the host is given up.
        """
        lost = self.pace.lost.get(self.host, 0.0)
        wait, left = self.pace.due(self.host), self.access.budget_s - max(self.spent, lost)
        if self.pace.given_up(self.host, self.access.budget_s):
            why = f"{self.host} has answered nothing for {lost:.0f} s, {self.access.budget_s:.0f} allowed"
            raise failure(self.where, self.position, why)
        if wait > max(left, SLOWEST_S):
            raise failure(self.where, self.position, f"{wait:.0f} s more until it may be asked, {left:.0f} allowed")
        wait = max(0.0, min(wait, left))
        self._spend(wait)
        self.pace.pause(wait)
        self.heard, self.silent = self.pace.clock(), True
        self.stream = _connect(self)

    def _hear(self) -> None:
        self.heard = self.pace.clock()
        if self.silent:
            self.silent = False
            self.pace.answered(self.host)

    def _refuse(self, error: Exception) -> None:
        """Slow down, or give up."""
        status = getattr(error, "status", None)
        refused = not isinstance(status, int) or not 400 <= status < 500 or status in _REFUSED
        if isinstance(error, _HOPELESS) or type(error).__name__ in NO_CREDENTIALS or not refused:
            raise failure(self.where, self.position, _said(error)) from error
        self._spend(self.pace.clock() - self.heard)
        self.pace.refused(self.host, retry_after(error))
        spent = max(self.spent, self.pace.lost[self.host])
        if spent + self.pace.due(self.host) > self.access.budget_s:
            budget = f"after {spent:.0f} s of waiting, {self.access.budget_s:.0f} allowed"
            raise failure(self.where, self.position, f"{_said(error)}, {budget}") from error

    def _spend(self, seconds: float) -> None:
        self.spent += seconds
        self.pace.spend(self.host, seconds)

    def _hang_up(self) -> None:
        if self.stream is not None:
            with contextlib.suppress(Exception):
                self.stream.close()
            self.stream = None

    def close(self) -> None:
        self._hang_up()
        if self._copy is not None:
            copy, self._copy = self._copy, None
            copy.close(self.framed and self.done and copy.size == self.position)


def failure(where: str, position: int, why: str) -> InputError:
    return InputError(f"{where} from byte {position} on: {why}", reason="fetch_failed")


def _said(error: Exception) -> str:
    status = getattr(error, "status", None)
    return f"HTTP {status}" if isinstance(status, int) else f"{type(error).__name__} {error}".strip()[:500]


def _connect(body: Body) -> Any:
    """A stream from the body's position on."""
    if body.where.startswith(("http://", "https://")):
        return _connect_http(body)
    return _Blocks(body)


class _Blocks:
    """The rest of a file, by ranges of a file system that knows them."""

    def __init__(self, body: Body) -> None:
        self.fs, self.path = fsspec.core.url_to_fs(body.where)
        size = self.fs.info(self.path)["size"]
        _check_size(body, size)
        body.framed = True
        self.position = body.position
        self.end = size if body.stop is None else min(size, body.stop)
        self.block = io.BytesIO()

    def read(self, n: int) -> bytes:
        data = self.block.read(n)
        if not data and self.position < self.end:
            stop = min(self.end, self.position + _BLOCK)
            block = self.fs.cat_file(self.path, start=self.position, end=stop)
            if len(block) != stop - self.position:
                raise OSError(f"{len(block)} bytes came, {stop - self.position} expected")
            self.block, self.position = io.BytesIO(block), stop
            data = self.block.read(n)
        return data

    def close(self) -> None:
        self.block.close()


def _connect_http(body: Body) -> Any:
    access = body.access
    fs = fsspec.filesystem(
        "http",
        client_kwargs={
            "headers": {"User-Agent": access.user_agent, "Accept-Encoding": "identity"},
            "timeout": aiohttp.ClientTimeout(total=None, sock_connect=access.stall_s, sock_read=access.stall_s),
            "auto_decompress": False,  # some servers say Content-Encoding: gzip of a file that is gzip by itself
            "trust_env": True,
        },
    )
    ranged = body.position > 0 or body.stop is not None
    last = "" if body.stop is None else str(body.stop - 1)
    headers = {"headers": {"Range": f"bytes={body.position}-{last}"}} if ranged else {}
    stream = fs.open(body.where, "rb", block_size=0, size=1, **headers)  # a size, so that it does not ask for it
    try:
        begins = _begins(body, stream.r)
        while begins < body.position:  # this server does not know ranges
            skipped = stream.read(min(_STEP, body.position - begins))
            if not skipped:
                raise OSError(f"closed at byte {begins}")
            begins += len(skipped)
    except BaseException:
        stream.close()
        raise
    return stream


def _begins(body: Body, reply: Any) -> int:
    """Which byte of the file an answer begins with."""
    begins = 0
    if reply.status == 206:
        found = _CONTENT_RANGE.match(reply.headers.get("Content-Range", ""))
        if found is None or (begins := int(found.group(1))) != body.position:
            said = reply.headers.get("Content-Range", "nothing")
            raise failure(body.where, body.position, f"asked for bytes from there on, the server sent {said:.100}")
        _check_size(body, int(found.group(3)) if found.group(3) != "*" else None)
    elif reply.status != 200:
        raise failure(body.where, body.position, f"HTTP {reply.status}")
    elif reply.headers.get("Content-Length", "").isdigit():
        _check_size(body, int(reply.headers["Content-Length"]))
    body.framed = body.size is not None or reply.headers.get("Transfer-Encoding", "").lower() == "chunked"
    return begins


def _check_size(body: Body, size: int | None) -> None:
    if size is not None and body.size is not None and size != body.size:
        raise failure(body.where, body.position, f"the file has {size} bytes now, it had {body.size}")
    body.size = size if size is not None else body.size
    if body.size is not None and body.position >= body.size and body.position > 0:
        raise failure(body.where, body.position, f"the file has {body.size} bytes")
