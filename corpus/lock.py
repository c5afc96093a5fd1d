"""Hold a folder against other runs, on this machine or on others that share the file system."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from corpus.errors import RootBusy, StorageError, storage_error
from corpus.shards import is_local

__all__ = ["hold"]


@contextlib.contextmanager
def hold(out: Path, say: Callable[[str], None]) -> Iterator[None]:
    """The folder `out`, made if need be, is this process's inside the block; waits for another that has it.

    A lock of the kernel's, so it goes with its holder however that ends. Object stores have none: there two runs do the
    same work and publish the same bytes.
    """
    if not is_local(out):
        yield
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise storage_error(error, out) or StorageError(f"cannot make the folder {out}: {error}", path=str(out)) from error
    try:
        _wait(handle, out, say)
        with contextlib.suppress(OSError):  # a full disk: whoever waits is then told less, and the work says the rest
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(handle)


def _wait(handle: int, out: Path, say: Callable[[str], None]) -> None:
    told = False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not told:
                holder = os.pread(handle, 200, 0).decode("utf-8", "replace").strip()
                say(f"waiting: {out.name} is being made by {holder or 'another run'}")
            told = True
            time.sleep(0.2)
        except OSError as error:
            raise RootBusy(f"{out}: this file system has no locks ({error}); give a --root on another") from error
