"""Fixtures every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def corpus_data() -> Path:
    """The folder of real data that CORPUS_DATA names; the test is skipped where there is none."""
    where = os.environ.get("CORPUS_DATA")
    if not where:
        pytest.skip("CORPUS_DATA is not set: it names a folder of real data, see README.md")
    return Path(where)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n 2 --dist loadgroup` (pytest-xdist): a file's tests run in one process, and all of laws/ in one, where local Ray
    clusters come and go and processes are killed."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group("laws" if item.path.parent.name == "laws" else item.path.stem))
