"""explain finds documents however they are named, follows each through copies and merges, and does not read damage as truth."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corpus.document import Verdict, batch_of, document_id
from corpus.engine import LocalEngine
from corpus.errors import CorruptFile, InputError
from corpus.explain import explain
from corpus.runner import run
from corpus.shards import Items
from corpus.step import Step, walk
from stages import encode_tokens, train_tokenizer
from tests.toys import rewrite, source, texts
from tests.toys.recipe import recipe

ROWS = [
    {"id": "1", "text": "one", "repo": "r", "path": "a", "url": "https://x/1"},
    {"id": "2", "text": "two", "repo": "r", "path": "b", "url": "https://x/1"},
    {"id": "3", "text": "three", "path": "alone.txt"},
    {"id": "4", "text": "", "repo": "gone/repo", "url": "https://x/gone"},
    {"id": "5", "text": "", "repo": "r", "path": "c\n\x1b[31m"},
]
FATES = {"4": ("letter", "{fatal: no JSON,\nin two lines"), "5": ("letter", '{"key": 1.5}')}


def find(item: int, config: source.Config) -> Iterator[Verdict]:
    reason, evidence = (pa.array([FATES.get(row["id"], (None, None))[i] for row in ROWS], pa.string()) for i in range(2))
    yield Verdict(batch_of(ROWS), reason, evidence)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def crawl(config: source.Config, out: Path, engine: Any) -> Any:
        return engine.map_shards(partial(find, config=config), Items((0,)), out)

    monkeypatch.setattr(source, "run", crawl)
    monkeypatch.setattr(source, "REASONS", ("letter",))
    run(Step("source", source.Config()), LocalEngine(tmp_path))
    return tmp_path


def told(root: Path, query: str) -> list[str]:
    return list(explain(recipe(), root, query))


def test_documents_are_found_by_id_url_and_path(root: Path) -> None:
    assert told(root, "3") == told(root, "alone.txt")
    assert told(root, "alone.txt")[0] == "alone.txt  id 3"
    assert told(root, "r/b")[0] == "r/b  id 2"
    both = told(root, "https://x/1")
    assert [line for line in both if "  id " in line] == ["r/a  id 1", "r/b  id 2"]
    with pytest.raises(InputError, match="no document 'b'"):
        told(root, "b")


def test_a_recipe_that_is_not_finished_says_so(root: Path) -> None:
    assert [line.split(maxsplit=1)[1].strip() for line in told(root, "r/a")[2:]] == ["not run yet"]


def test_a_failed_repository_is_found_by_its_name_and_by_its_url(root: Path) -> None:
    assert told(root, "gone/repo") == told(root, "https://x/gone")
    assert told(root, "gone/repo")[-1] == "source  dropped  letter: {fatal: no JSON,\\nin two lines"


def test_a_line_stays_a_line_on_any_terminal(root: Path) -> None:
    assert told(root, "5") == ["r/c\\n\\x1b[31m  id 5", "source  dropped  letter: key 1.5"]


@pytest.mark.parametrize("kind", ["shards", "dropped", "lineage"])
def test_damage_is_not_taken_for_truth(tmp_path: Path, kind: str) -> None:
    import os

    last = recipe()
    run(last, LocalEngine(tmp_path))
    step = walk(last)[{"shards": 0, "dropped": 1, "lineage": 2}[kind]]
    queries = [document_id(f"toy/{i}") for i in range(60)]
    before = [list(explain(last, tmp_path, query)) for query in queries[:12]]
    for path in (tmp_path / step.folder / kind).iterdir():
        times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
        data = bytearray(path.read_bytes())
        data[60] ^= 1  # in the first page
        path.write_bytes(data)
        os.utime(path, ns=times)
    with pytest.raises(CorruptFile, match=kind):
        for query, lines in zip(queries, before):
            assert list(explain(last, tmp_path, query)) == lines


def test_a_text_that_a_stage_wrote_anew_is_the_one_that_is_followed(tmp_path: Path) -> None:
    pages = Step("pages", texts.Config(shards=((("a", "page one"), ("b", "page two")),)))
    written = Step("rewrite", rewrite.Config(files=pages))
    tokenizer = Step("train_tokenizer", train_tokenizer.Config(files=written, vocab_size=260))
    last = Step("encode_tokens", encode_tokens.Config(files=written, tokenizer=tokenizer))
    run(last, LocalEngine(tmp_path))
    _, read, kept, ends = explain(last, tmp_path, "b")
    assert "8 bytes" in read and kept.endswith("rewritten in 8 bytes")
    assert ends.endswith("; they decode to its text")


def test_a_document_that_a_step_made_is_followed_from_there(tmp_path: Path) -> None:
    """A merged document's id, as the trainer's inspect prints it, is in no crawl."""
    last = recipe()
    run(last, LocalEngine(tmp_path))
    merge = next(step for step in walk(last) if step.name == "merge")
    made = pq.read_table(next((tmp_path / merge.folder / "shards").glob("*.parquet"))).column("id")[0].as_py()
    crawled = next(step for step in walk(last) if step.name == "source")
    rows = [pq.read_table(path, columns=["id"]) for path in (tmp_path / crawled.folder / "shards").glob("*.parquet")]
    assert made not in {row["id"] for table in rows for row in table.to_pylist()}
    lines = list(explain(last, tmp_path, made))
    assert lines[0].endswith(f"id {made}, made by merge") and len(lines) > 1
