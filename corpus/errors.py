"""Every error this project raises on purpose, as one tree.

    CorpusError
    ├─ ConfigError          a recipe, a Config field or a --set is wrong; nothing has run
    │  └─ FingerprintError  a Config holds a value that cannot be named by its content
    ├─ InputError           something the user pointed at is missing, empty or unreadable
    ├─ StorageError         the root cannot be used: full, read-only, no permission, no folder, a failing disk
    ├─ CorruptFile          a file of ours does not have the bytes its record promises
    ├─ ConservationError    a stage lost or invented documents
    ├─ TaskError            a task failed, was killed too often, or ran out of time
    ├─ TrainError           training cannot go on, e.g. its loss is no longer a number
    └─ RootBusy             another run holds the step and will not let go

A message says what was seen, what was expected, where, and what to do. Each class takes only its message (plus plain
attributes set through keyword arguments), so it survives the pickling between Ray workers.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path
from typing import Any

__all__ = [
    "NO_CREDENTIALS",
    "ConfigError",
    "ConservationError",
    "CorpusError",
    "CorruptFile",
    "FingerprintError",
    "InputError",
    "RootBusy",
    "StorageError",
    "TaskError",
    "TrainError",
    "say_line",
    "storage_error",
]


class CorpusError(Exception):
    """Base of the tree. `details` holds what a caller may act on (a path, a shard name)."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.details = details

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args[0], self.details)


def _rebuild(kind: type[CorpusError], message: str, details: dict[str, Any]) -> CorpusError:
    return kind(message, **details)


class ConfigError(CorpusError):
    """A recipe, a Config field or a --set is wrong; nothing has run."""


class FingerprintError(ConfigError):
    """A Config holds a value that cannot be named by its content."""


class InputError(CorpusError):
    """Something the user pointed at is missing, empty or unreadable."""


class StorageError(CorpusError):
    """The root cannot be used: full, read-only, no permission, no folder, a failing disk."""


class CorruptFile(CorpusError):
    """A file of ours does not have the bytes its record promises. details: path, step, shard."""


class ConservationError(CorpusError):
    """A stage lost or invented documents."""


class TaskError(CorpusError):
    """A task failed, was killed too often, or ran out of time. details: task."""


class TrainError(CorpusError):
    """Training cannot go on, e.g. its loss is no longer a number."""


class RootBusy(CorpusError):
    """Another run holds the step and will not let go."""


NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound")  # botocore's, which may not be installed
_STORAGE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.ENAMETOOLONG, errno.EIO, errno.ESTALE),
}


def say_line(text: str) -> None:
    """A line on stderr in one write, as all ranks may speak at once: with PYTHONUNBUFFERED `print` writes its end apart."""
    sys.stderr.write(text + "\n")


def storage_error(error: OSError, path: Path | str, doing: str = "write") -> StorageError | None:
    """The StorageError for an OSError met while using `path`; None when it is of another kind, or about another place.

    The nearest existing folder is asked for its free space, since `path` itself may not exist yet. A URL has none to tell.
    """
    if error.errno not in _STORAGE or not _about(error, str(path)):
        return None
    said = f"cannot {doing} {path}: {error.strerror or error}. "
    if "://" in str(path):
        return StorageError(f"{said}Look at it, or give another --root.", path=str(path))
    folder = Path(path)
    while not os.path.isdir(folder) and folder != folder.parent:  # Path.is_dir raises where it may not look
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    return StorageError(
        f"{said}{usage.free / 1e9:.2f} GB free of {usage.total / 1e9:.2f} GB at {folder}. "
        "Free some space or give another --root; finished shards are kept and the next run continues from them.",
        path=str(path),
        free=usage.free,
    )


def _about(error: OSError, path: str) -> bool:
    """Whether the file the error names, if any, is `path`, above, below or beside it: a stage may fail on a file elsewhere."""
    if not isinstance(error.filename, str):
        return True
    seen, asked = os.path.abspath(error.filename), os.path.abspath(path)
    return os.path.commonpath([seen, asked]) in (seen, asked) or os.path.dirname(seen) == os.path.dirname(asked)
