"""What others read: datatrove takes our shards as they are (Megatron's reader: tests/test_encode_tokens.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from corpus.engine import LocalEngine
from corpus.runner import run
from tests.toys.recipe import recipe


def test_datatrove_reads_our_shards(tmp_path: Path) -> None:
    readers = pytest.importorskip("datatrove.pipeline.readers")
    step = recipe().config.files
    run(step, LocalEngine(tmp_path))
    reader = readers.ParquetReader(str(tmp_path / step.folder / "shards"), text_key="text", id_key="id")
    found = {document.id: document.text for document in reader()}
    shards = LocalEngine(tmp_path).shards(step)
    batches = [batch for name in shards.names for batch in shards.read(name)]
    expected = {row["id"]: row["text"] for batch in batches for row in batch.to_pylist()}
    assert found == expected and len(found) > 20
