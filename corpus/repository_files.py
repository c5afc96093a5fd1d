"""The files of a repository, one after another: of a commit in a git folder, or of a plain directory tree.

    git_files    git ls-tree -r -z --long  →  one git cat-file --batch, asked for 256 blobs at a time
    tree_files   os.scandir, files opened without following links

Both walk in order of path (bytes), hold one file's content at a time, and never read a file over the size limit. Everything
found is yielded: what has no text to give (links, submodules, large files, …) comes with a reason and the evidence instead of
content. Of a tree, `.git`, `__pycache__`, `site-packages` and `dist-packages` are passed over: no part of its source.

Footgun: 256 requests are 17 kB, and must stay under the 64 kB a pipe holds, or git and we wait for each other for ever.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from corpus.errors import InputError
from corpus.git_process import git_environment

__all__ = ["REASONS", "File", "Limits", "git_files", "path_text", "root_files", "tree_files"]

REASONS = ("lfs_pointer", "malformed_tree", "special_file", "submodule", "symlink", "too_large", "too_many_files", "unreadable")

_AHEAD = 256
_PIPE_BYTES = 1 << 20
_SKIPPED = frozenset((b".git", b"__pycache__", b"site-packages", b"dist-packages"))
_LFS = b"version https://git-lfs.github.com/spec/"
_LFS_BYTES = 1024  # the specification's limit for a pointer
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Limits(NamedTuple):
    """Bytes in a file, files in a repository; what is over is not read."""

    max_bytes: int
    max_files: int


class File(NamedTuple):
    """path: bytes as stored, "/" between folders. data: the content, b"" where `reason` says why there is none."""

    path: bytes
    data: bytes
    reason: str | None = None
    evidence: str | None = None


class Entry(NamedTuple):
    """A line of ls-tree. size: None where git does not have the object, or cannot read it."""

    mode: bytes
    oid: bytes
    size: int | None
    path: bytes


def path_text(path: bytes) -> str:
    """A path as text, different for different paths: bytes that are not UTF-8 and control characters (newline among them)
    become \\xHH, and a backslash becomes two. U+0080-009F, two bytes of UTF-8, become \\u00HH, as \\xHH is the bytes'.
    """
    text = path.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    return text if text.isprintable() else _CONTROL.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"


def _content(path: bytes, data: bytes) -> File:
    """A regular file that was read."""
    if len(data) < _LFS_BYTES and data.startswith(_LFS):
        return File(path, b"", "lfs_pointer", " ".join(data.decode("utf-8", "replace").split()[2:])[:200])
    return File(path, data)


def _over(path: bytes, size: int) -> File:
    return File(path, b"", "too_large", f"{size} bytes")


def _too_many(limit: int) -> File:
    return File(b"", b"", "too_many_files", f"more than {limit} files; the rest was not read")


# --- git ---------------------------------------------------------------------------------------------------------------------


def git_files(git_dir: Path, commit: str, limits: Limits, *, partial: bool = False) -> Iterator[File]:
    """Every entry of a commit. partial: the clone left out what is over the limit, so a blob that is missing is too large.

    InputError (details.reason repository_failed) when git cannot go on, e.g. in a damaged repository.
    """
    max_bytes, max_files = limits
    arguments = ["ls-tree", "-r", "-z", "--long", "--full-tree", commit]
    with _git(git_dir, arguments) as listing, _git(git_dir, ["cat-file", "--batch"]) as objects:
        entries = itertools.islice(_entries(listing), max_files + 1)
        last = b""
        count = 0
        while group := list(itertools.islice(entries, _AHEAD)):
            asked = [_wanted(entry, max_bytes) for entry in group]
            _ask(objects, [entry.oid for entry, wanted in zip(group, asked, strict=True) if wanted])
            for entry, wanted in zip(group, asked, strict=True):
                data = _answer(objects, entry.oid) if wanted else None
                count += 1
                if count > max_files:
                    yield _too_many(max_files)
                elif entry.path <= last:  # sorted in any tree git made; a repeated path would be one document twice
                    yield File(entry.path, b"", "malformed_tree", f"listed after {path_text(last)}")
                else:
                    last = entry.path
                    yield _content(entry.path, data) if data is not None else _without_content(entry, max_bytes, partial)


def root_files(git_dir: Path, commit: str, chosen: Callable[[str], bool], max_bytes: int) -> dict[str, bytes]:
    """{name: content} of the files in the root whose name is `chosen`."""
    found: dict[str, bytes] = {}
    with _git(git_dir, ["ls-tree", "-z", "--long", "--full-tree", commit]) as listing:
        entries = [e for e in _entries(listing) if _wanted(e, max_bytes) and chosen(path_text(e.path))]
    if not entries:
        return found
    with _git(git_dir, ["cat-file", "--batch"]) as objects:
        for entry in entries:
            _ask(objects, [entry.oid])
            if (data := _answer(objects, entry.oid)) is not None:
                found[path_text(entry.path)] = data
    return found


def _wanted(entry: Entry, max_bytes: int) -> bool:
    return entry.mode.startswith(b"100") and entry.size is not None and entry.size <= max_bytes


def _without_content(entry: Entry, max_bytes: int, partial: bool) -> File:
    if entry.mode == b"160000":
        return File(entry.path, b"", "submodule", f"commit {entry.oid.decode('ascii')}")
    if entry.mode == b"120000":
        return File(entry.path, b"", "symlink", f"{entry.size} bytes of target")
    if entry.size is not None and entry.size > max_bytes:
        return _over(entry.path, entry.size)
    if entry.size is None and partial:
        return File(entry.path, b"", "too_large", f"more than {max_bytes} bytes")
    if not entry.mode.startswith(b"100"):
        return File(entry.path, b"", "special_file", f"mode {entry.mode.decode('ascii', 'replace')}")
    return File(entry.path, b"", "unreadable", f"object {entry.oid.decode('ascii')} is missing or damaged")


class _Process(NamedTuple):
    name: str
    stdin: IO[bytes]
    stdout: IO[bytes]
    stderr: IO[bytes]
    popen: subprocess.Popen[bytes]

    def failed(self) -> InputError:
        self.popen.kill()
        self.popen.wait()
        self.stderr.seek(0)
        said = self.stderr.read().decode("utf-8", "replace").strip()[-500:]
        return InputError(f"git {self.name} ended early: {said or 'it said nothing'}", reason="repository_failed")


@contextlib.contextmanager
def _git(git_dir: Path, arguments: list[str]) -> Iterator[_Process]:
    """A git process to talk with. Gone when the block ends, however it ends."""
    with tempfile.TemporaryFile() as err:
        with subprocess.Popen(
            ["git", "--git-dir", str(git_dir.absolute()), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=err,
            bufsize=_PIPE_BYTES,
            cwd="/",
            env=git_environment(),
        ) as popen:
            assert popen.stdin is not None and popen.stdout is not None
            try:
                yield _Process(arguments[0], popen.stdin, popen.stdout, err, popen)
            finally:
                popen.kill()
                with contextlib.suppress(BrokenPipeError):  # it went first; what it did not read does not matter
                    popen.stdin.close()


def _entries(listing: _Process) -> Iterator[Entry]:
    """The entries of an `ls-tree -z --long`, read as they come."""
    rest = b""
    while block := listing.stdout.read1(_PIPE_BYTES):  # type: ignore[attr-defined]
        *lines, rest = (rest + block).split(b"\0")
        for line in lines:
            fields, _, path = line.partition(b"\t")
            mode, _, oid, size = fields.split()
            yield Entry(mode, oid, int(size) if size.isdigit() else None, path)
    if listing.popen.wait() != 0 or rest:
        raise listing.failed()


def _ask(objects: _Process, oids: list[bytes]) -> None:
    try:
        objects.stdin.write(b"".join(oid + b"\n" for oid in oids))
        objects.stdin.flush()
    except BrokenPipeError:
        raise objects.failed() from None


def _answer(objects: _Process, oid: bytes) -> bytes | None:
    """The next answer of cat-file --batch: "<oid> blob <size>\\n<content>\\n", or "<oid> missing\\n"."""
    head = objects.stdout.readline().split()
    if len(head) == 2 and head[1] == b"missing":
        return None
    if len(head) != 3 or head[0] != oid:
        raise objects.failed()
    size = int(head[2])
    data = objects.stdout.read(size + 1)
    if len(data) != size + 1:
        raise objects.failed()
    return data[:-1]


# --- Directory trees ---------------------------------------------------------------------------------------------------------


def tree_files(folder: Path, limits: Limits) -> Iterator[File]:
    """Every file under `folder`. InputError (details.reason repository_failed) when the folder itself cannot be listed."""
    max_bytes, max_files = limits
    root = os.fsencode(folder)
    try:
        waiting = _listed(root, b"")  # the next one last
    except OSError as error:
        raise InputError(f"cannot list {folder}: {error.strerror or error}", reason="repository_failed") from error
    count = 0
    while waiting:
        path, mode = waiting.pop()
        if stat.S_ISDIR(mode):
            try:
                waiting += _listed(root, path)
                continue
            except OSError as error:
                file = File(path, b"", "unreadable", error.strerror or str(error))
        else:
            file = _read_file(root, path, mode, max_bytes)
        count += 1
        if count > max_files:
            yield _too_many(max_files)
            return
        yield file


def _listed(root: bytes, below: bytes) -> list[tuple[bytes, int]]:
    """(path, type bits) of what lies in a folder, last first: git's order, where a folder sorts as if its name ended in /."""
    found = []
    with os.scandir(os.path.join(root, below)) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in _SKIPPED:
                    found.append((entry.name + b"/", stat.S_IFDIR))
            elif entry.is_symlink():
                found.append((entry.name, stat.S_IFLNK))
            elif entry.name != b".git":
                found.append((entry.name, stat.S_IFREG if entry.is_file(follow_symlinks=False) else 0))
    found.sort(reverse=True)
    return [((below + b"/" if below else b"") + name.removesuffix(b"/"), mode) for name, mode in found]


def _read_file(root: bytes, path: bytes, mode: int, max_bytes: int) -> File:
    where = os.path.join(root, path)
    try:
        if mode == stat.S_IFLNK:
            return File(path, b"", "symlink", f"to {path_text(os.readlink(where))}"[:200])
        if mode != stat.S_IFREG:
            return File(path, b"", "special_file", stat.filemode(os.lstat(where).st_mode))
        # It may have become a link or a pipe since it was listed: follow nothing, wait for nothing.
        descriptor = os.open(where, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            if size > max_bytes:
                return _over(path, size)
            data = os.read(descriptor, size + 1)
            while len(data) > size and len(data) <= max_bytes:  # it grew
                size = len(data)
                data += os.read(descriptor, max_bytes + 1 - size)
        finally:
            os.close(descriptor)
    except OSError as error:
        return File(path, b"", "unreadable", error.strerror or str(error))
    return _content(path, data) if len(data) <= max_bytes else _over(path, len(data))
