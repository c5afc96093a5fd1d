"""Which errors of the operating system are about the root, and what is said of them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from corpus.errors import storage_error


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.EIO, errno.EDQUOT])
def test_trouble_with_the_root_names_path_and_free_space(tmp_path: Path, code: int) -> None:
    said = str(storage_error(OSError(code, os.strerror(code)), tmp_path / "not" / "yet" / "there"))
    assert str(tmp_path / "not" / "yet" / "there") in said and os.strerror(code) in said
    assert f"GB at {tmp_path}." in said and "\n" not in said


def test_trouble_elsewhere_is_not_the_roots(tmp_path: Path) -> None:
    """A stage that may not read its list of repositories: saying that the step's folder cannot be written would be a lie."""
    out = tmp_path / "root" / "step"
    for file in (out / "shards" / "x", tmp_path / "root", tmp_path / "root" / ".tmp-beside"):
        assert storage_error(PermissionError(errno.EACCES, "denied", str(file)), out) is not None
    for file in (tmp_path / "list.txt", Path("/etc/list.txt"), tmp_path / "root-2" / "step"):
        assert storage_error(PermissionError(errno.EACCES, "denied", str(file)), out) is None
    assert storage_error(FileNotFoundError(errno.ENOENT, "gone", str(out)), out) is None


def test_a_url_has_no_free_space_to_tell() -> None:
    said = str(storage_error(OSError(errno.EACCES, "denied"), "s3://bucket/step"))
    assert "s3://bucket/step: denied" in said and "free" not in said
