"""stages/detect_language.py: the columns it sets, what it drops, and how often it is right on files of known language."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bench.detect_language import accuracy, report
from corpus.document import SCHEMA, batch_of
from corpus.errors import ConfigError
from stages.detect_language import REASONS, Config, judge

UPSTREAM: Any = None  # judge never looks there


def documents() -> pa.RecordBatch:
    return batch_of(
        [
            {"id": "a", "text": "x = 1\n", "path": "src/a.py", "lang": "wrong"},
            {"id": "b", "text": "FROM x\n", "path": "Dockerfile"},
            {"id": "c", "text": "\x00\x01", "path": "c.bin"},
            {"id": "d", "text": "", "path": None},
            {"id": "e", "text": "#!/bin/sh\n", "path": "odd\nname"},
        ]
    )


def test_lang_and_lang_by_are_set_and_nothing_is_dropped() -> None:
    verdict = judge(documents(), Config(files=UPSTREAM))
    assert verdict.batch.column("lang").to_pylist() == ["Python", "Dockerfile", "unknown", "unknown", "Shell"]
    assert verdict.batch.column("lang_by").to_pylist() == ["extension", "filename", "none", "none", "shebang"]
    assert verdict.reason.null_count == verdict.evidence.null_count == 5
    assert verdict.batch.schema.names == [*SCHEMA.names, "lang_by"]
    assert verdict.batch.select(["id", "text", "path"]).equals(documents().select(["id", "text", "path"]))


def test_other_languages_are_dropped_by_any_name_of_the_list() -> None:
    verdict = judge(documents(), Config(files=UPSTREAM, languages=("Docker", "Shell")))
    assert verdict.reason.to_pylist() == ["language", None, "language", "language", None]
    assert verdict.evidence.to_pylist() == ["Python", None, "unknown", "unknown", None]
    assert set(verdict.reason.drop_null().to_pylist()) <= set(REASONS)


def test_twice_is_once() -> None:
    config = Config(files=UPSTREAM)
    once = judge(documents(), config).batch
    assert judge(once, config).batch.equals(once)


def test_slices_and_empty_batches() -> None:
    config = Config(files=UPSTREAM, languages=("Python",))
    whole = judge(documents(), config)
    part = judge(documents().slice(1, 3), config)
    assert part.batch.to_pylist() == whole.batch.slice(1, 3).to_pylist()
    assert part.reason.to_pylist() == whole.reason.slice(1, 3).to_pylist()
    empty = judge(documents().slice(0, 0), config)
    assert empty.batch.num_rows == 0 and empty.batch.schema == whole.batch.schema


def test_a_bad_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"detect_language\.languages: no language is called 'Phyton'.*Python"):
        Config(files=UPSTREAM, languages=("C", "Phyton"))
    with pytest.raises(ConfigError, match=r"detect_language\.prefix = 3: 256 to 1048576"):
        Config(files=UPSTREAM, prefix=3)


def test_accuracy_on_files_of_known_language(corpus_data: Path) -> None:
    measured = accuracy(corpus_data / "langid" / "samples.jsonl.zst")
    assert measured.right >= 0.95
    assert measured.held_out >= 0.94  # 429 files: a standard error is one percent
    assert measured.with_extension >= 0.98
    assert "| held out" in report(measured)
