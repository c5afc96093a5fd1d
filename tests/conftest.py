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
