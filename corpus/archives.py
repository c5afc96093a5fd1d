"""Which web archives there are to read: on this machine, in a listing of a crawl, or anywhere by URL.

A step is named by what decides its bytes. Of a file on this machine that is its name, size, and the xxh3-64 of its first and
last 512 kB (`seen_at`): a file of a megabyte counts whole, and terabytes are not hashed to find that nothing changed. A change
in the middle of a larger file that keeps its length is not seen; archives are written once, and grow at their end. What lies
behind a URL counts by the URL: crawls are published once.
"""

from __future__ import annotations

import glob
import gzip
import os
import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import fsspec
import numpy as np
import pyarrow as pa

from corpus.draw import draw_keys
from corpus.errors import InputError
from corpus.remote import Remote, is_remote
from corpus.step import file_seen

__all__ = ["Archive", "archives_at", "chosen", "find_files", "read_listing", "seen_at"]

SUFFIXES = (".warc.gz", ".warc", ".arc.gz", ".arc", ".wet.gz", ".wet")
_SAMPLE = 512 << 10


@dataclass(frozen=True)
class Archive:
    """A file to read. name: what its documents say they are from; the same on every machine."""

    name: str
    path: str


def find_files(where: str, suffixes: tuple[str, ...] = SUFFIXES) -> list[str]:
    """The files of a path, glob, folder (those with the suffixes) or URL, sorted; [] where a local one has none.

    A glob behind a URL is looked up by its file system, which HTTP cannot do.
    """
    if is_remote(where):
        scheme = where.partition("://")[0]
        if not glob.has_magic(where) or scheme in ("http", "https"):
            return [where]
        fs, path = fsspec.core.url_to_fs(where)
        try:
            return sorted(f"{scheme}://{found}" for found in fs.glob(path))
        except OSError as error:
            raise InputError(f"cannot list {where}: {error}") from error
    where = os.path.expanduser(where)
    if os.path.isdir(where):
        return sorted(os.path.join(where, name) for name in os.listdir(where) if name.endswith(suffixes))
    if glob.has_magic(where) and not os.path.exists(where):
        return sorted(path for path in glob.glob(where, recursive=True) if os.path.isfile(path))
    return [where] if os.path.exists(where) else []


def archives_at(paths: Iterable[str], ours: Collection[str] = ()) -> list[Archive]:
    """Each path once, in order. A local file, or one of `ours`, goes by its last name, unless another has the same."""
    unique = list(dict.fromkeys(paths))
    names = [path if is_remote(path) and path not in ours else os.path.basename(path) for path in unique]
    return [Archive(name if names.count(name) == 1 else path, path) for name, path in zip(names, unique, strict=True)]


def seen_at(where: str, suffixes: tuple[str, ...] = SUFFIXES) -> tuple[str, ...]:
    """What of the local files a fingerprint sees; of a URL nothing beyond itself, of a file that cannot be read its name."""
    return () if is_remote(where) else tuple(_seen(path) for path in find_files(where, suffixes))


def _seen(path: str) -> str:
    try:
        return file_seen(path, _SAMPLE)
    except OSError:
        return f"{os.path.basename(path)} unreadable"


def read_listing(where: str, remote: Remote) -> list[str]:
    """The lines of a listing such as warc.paths.gz, gzip (of any number of members) or not. InputError when it has none."""
    data = remote.read(where)
    if data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"the listing {where} is damaged: {error}") from error
    lines = [line.strip() for line in data.decode("utf-8-sig", "replace").splitlines()]
    if not (lines := [line for line in lines if line and not line.startswith("#")]):
        raise InputError(f"the listing {where} is empty; a path on each line expected")
    return lines


def chosen(lines: list[str], first: int, count: int | None, sample: int | None, seed: int) -> list[str]:
    """`count` lines from `first` on, and a random `sample` of those, in their order. A larger sample holds a smaller one.

    InputError where there is no such line.
    """
    if first >= len(lines):
        raise InputError(f"the listing has {len(lines)} lines, and the first wanted is number {first}, counted from 0")
    part = lines[first:] if count is None else lines[first : first + count]
    if sample is None or sample >= len(part):
        return part
    keys = draw_keys(pa.array(part, pa.string()), seed, "archives")
    return [part[i] for i in sorted(np.argsort(keys, kind="stable")[:sample].tolist())]
