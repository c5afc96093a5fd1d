"""Running programs that a model wrote: one process each, shut in, for a limited time.

    try:      run_program(text) -> Outcome
    inside:   sandbox_child.py; what it refuses is listed there

Guaranteed, without root and without any tool: nothing is written, changed or locked outside a temporary folder that is deleted
afterwards, no network, no second process or thread, no signal to, hand on or look into another process; memory, time, file
sizes and the folder's size are limited, deleted files that are still open among it; the environment is empty; output beyond
its last 2,000 bytes is thrown away. Files may be read, as far as the user may. The folder's size is looked at ten times a
second: for that long it may be passed.

A program passes when it runs to its end: an exit code says nothing, since sys.exit(0) before the tests has it too. The word
that is reported at the end is drawn for each run. A program that goes through its caller's frames for it can cheat; no test in
the same process could stop it. What a kernel cannot guarantee is said, and nothing is run, unless the user asks for it
(unsafe=True).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import errno
import json
import os
import platform
import secrets
import selectors
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from corpus.errors import ConfigError
from train import sandbox_child

__all__ = ["Limits", "Outcome", "missing", "require", "run_program", "run_programs"]

_TAIL = 2000
_LOOK = 0.1  # seconds between looks at the folder's size
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclasses.dataclass(frozen=True)
class Limits:
    seconds: float = 10.0
    memory: int = 1 << 30  # bytes of address space, Python's own among them
    folder_bytes: int = 32 << 20  # of everything in the working folder, deleted but open files too; and of one file

    def __post_init__(self) -> None:
        if not (self.seconds > 0 and self.memory >= 64 << 20 and self.folder_bytes > 0):
            raise ConfigError(
                f"seconds={self.seconds}, memory={self.memory}, folder_bytes={self.folder_bytes}: more than 0, of memory 64 MB "
                "or more, expected"
            )


@dataclasses.dataclass(frozen=True)
class Outcome:
    """why: "passed", or what came instead: an exception, "time", "memory", "disk", "exited", "signal N"."""

    passed: bool
    why: str
    seconds: float
    output: str  # the end of what it printed


def missing() -> str:
    """What this machine cannot guarantee, in words; empty when nothing."""
    if sys.platform != "linux" or platform.machine() not in sandbox_child.MACHINES:
        return f"{sys.platform} on {platform.machine()}: Linux on {' or '.join(sandbox_child.MACHINES)} expected"
    version = sandbox_child.landlock_version()
    if version < sandbox_child.LANDLOCK_LEAST:
        return (
            f"Linux {platform.release()} has Landlock version {version or 'none'}; {sandbox_child.LANDLOCK_LEAST} or newer "
            "expected (Linux 6.2, with landlock among the kernel's lsm=), or programs could write to any file"
        )
    return ""


def require(unsafe: bool) -> None:
    """ConfigError where programs may not be run: this machine cannot shut them in, and the user has not said it need not."""
    if not unsafe and (lacking := missing()):
        raise ConfigError(
            f"programs that a model wrote are not run here. {lacking}. --unsafe runs them with limits of time and "
            "memory only: in a container or virtual machine that may be lost."
        )


def run_programs(
    programs: Sequence[str],
    limits: Limits = Limits(),
    *,
    workers: int,
    unsafe: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Outcome]:
    """Each program in a process of its own, `workers` at a time. ConfigError where the machine cannot shut them in."""
    require(unsafe)
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(run_program, program, limits, unsafe=unsafe) for program in programs]
        try:
            for done, _ in enumerate(concurrent.futures.as_completed(futures), 1):
                progress(done)
        finally:
            pool.shutdown(cancel_futures=True)
    return [future.result() for future in futures]


def run_program(program: str, limits: Limits = Limits(), *, unsafe: bool = False) -> Outcome:
    """One program, in a folder of its own that is gone afterwards."""
    token = secrets.token_hex(16)
    request = {
        "program": program,
        "token": token,
        "isolate": not unsafe,
        "memory": limits.memory,
        "cpu_seconds": int(limits.seconds) + 2,  # in case this process is stopped; the clock below is what counts
        "file_bytes": limits.folder_bytes,
    }
    folder = Path(tempfile.mkdtemp(prefix="program-"))
    started = time.monotonic()
    try:
        with tempfile.TemporaryFile() as asked:
            asked.write(json.dumps(request).encode("utf-8", "surrogatepass"))
            asked.seek(0)
            report, output, why, code = _run(asked.fileno(), folder, limits)
    finally:
        _delete(folder)
    seconds = time.monotonic() - started
    if report.startswith(b"sandbox "):
        raise ConfigError(f"the sandbox could not be set up: {report[8:].decode('utf-8', 'replace')}. See --unsafe.")
    passed = not why and report == b"ended " + token.encode()
    return Outcome(passed, "passed" if passed else why or _why(report, code), seconds, output.decode("utf-8", "replace"))


def _why(report: bytes, code: int) -> str:
    said = report.decode("utf-8", "replace").strip()
    if code == -signal.SIGXCPU:
        return "time"
    if code == -signal.SIGXFSZ:
        return "disk"
    if code < 0:
        return f"signal {-code}"
    if said.startswith("MemoryError"):
        return "memory"
    if not said or said.startswith(("SystemExit", "ended")):
        return "exited"  # of its own accord, before its end
    return said


def _run(asked: int, folder: Path, limits: Limits) -> tuple[bytes, bytes, str, int]:
    """(report, end of the output, why it was killed or "", exit code) of a process that is gone when this returns."""
    report_in, report_out = os.pipe()
    with contextlib.closing(os.fdopen(report_in, "rb", 0)) as report:
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-B", "-u", "-X", "utf8", sandbox_child.__file__, str(report_out)],
                stdin=asked,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(report_out,),
                cwd=folder,
                env={**_ENVIRONMENT, "HOME": str(folder), "TMPDIR": str(folder)},
                start_new_session=True,
                bufsize=0,
            )
        finally:
            os.close(report_out)
        try:
            return _watch(process, report.fileno(), folder, limits)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _watch(process: subprocess.Popen[bytes], report: int, folder: Path, limits: Limits) -> tuple[bytes, bytes, str, int]:
    """Reads until the process and its pipes end, or a limit is passed."""
    assert process.stdout is not None
    kept = {report: b"", process.stdout.fileno(): b""}
    output = process.stdout.fileno()
    deadline = time.monotonic() + limits.seconds
    looked = time.monotonic()
    with selectors.DefaultSelector() as selector:
        for pipe in kept:
            os.set_blocking(pipe, False)
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            now = time.monotonic()
            if now > deadline or now - looked > _LOOK:
                looked = now
                if why := _over(process.pid, folder, limits, deadline):
                    return kept[report], kept[output], why, 0
            for key, _ in selector.select(min(_LOOK, max(0.0, deadline - now))):
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fd)
                elif key.fd == output:
                    kept[output] = (kept[output] + data)[-_TAIL:]
                else:
                    kept[report] = (kept[report] + data)[:_TAIL]
    while True:
        try:
            code = process.wait(min(_LOOK, max(0.0, deadline - time.monotonic())))
            break
        except subprocess.TimeoutExpired:  # it closed its pipes and goes on
            if why := _over(process.pid, folder, limits, deadline):
                return kept[report], kept[output], why, 0
    why = "disk" if _size(folder) > limits.folder_bytes else ""
    return kept[report], kept[output], why, code


def _over(pid: int, folder: Path, limits: Limits, deadline: float) -> str:
    """The limit that is passed now, or ""."""
    if time.monotonic() > deadline:
        return "time"
    return "disk" if _size(folder) + _deleted(pid, folder) > limits.folder_bytes else ""


def _size(folder: Path) -> int:
    """Bytes on disk of everything under `folder`, a block a file at least; what vanishes meanwhile does not count.

    Folders nested deeper than a path can say, or that this process may not read, are endless as far as this is concerned.
    """
    total, pending = 0, [str(folder)]
    while pending:
        try:
            for entry in os.scandir(pending.pop()):
                total += max(4096, entry.stat(follow_symlinks=False).st_blocks * 512)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
        except OSError as error:  # gone, mostly
            if error.errno in (errno.ENAMETOOLONG, errno.EACCES):
                return sys.maxsize
    return total


def _deleted(pid: int, folder: Path) -> int:
    """Bytes on disk of files that have no name any more and that process `pid` keeps: of those it has open.

    How large a file is that it has closed and still maps cannot be seen: endless as far as this is concerned. Python's mmap
    keeps a descriptor. The request, on standard input at first, counts until it is read.
    """
    sizes, opened = {}, set()
    with contextlib.suppress(OSError):  # it has ended, or this is not Linux
        mapped = _mapped(pid, folder)
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):  # closed meanwhile
                status = os.stat(entry.path)
                opened.add(status.st_ino)
                if stat.S_ISREG(status.st_mode) and not status.st_nlink:
                    sizes[status.st_dev, status.st_ino] = status.st_blocks * 512
        if (mapped - opened) & _mapped(pid, folder):  # before and after: not one that it just let go
            return sys.maxsize
    return sum(sizes.values())


def _mapped(pid: int, folder: Path) -> set[int]:
    """Inodes of the files of `folder` that have no name any more and that process `pid` maps."""
    inside = os.path.realpath(folder).encode() + b"/"
    lines = [line for line in Path(f"/proc/{pid}/maps").read_bytes().splitlines() if line.endswith(b" (deleted)")]
    fields = [line.split(maxsplit=5) for line in lines]  # addresses, access, offset, device, inode, path
    return {int(inode) for *_, inode, path in fields if path.startswith(inside)}


def _delete(folder: Path) -> None:
    """rmtree recurses a level per folder, and a program may nest thousands; rm does not."""
    with contextlib.suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        subprocess.run(
            ["chmod", "-R", "u+rwX", "--", str(folder)], check=False, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        subprocess.run(["rm", "-rf", "--", str(folder)], check=False, stdin=subprocess.DEVNULL)
