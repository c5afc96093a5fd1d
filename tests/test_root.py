"""Roots and runs that are not one folder written by one process at a time: URLs, listings that change, runs cut off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from corpus import runner
from corpus.document import Verdict, batch_of, document_id, keep_all
from corpus.engine import Engine, LocalEngine, Task, call
from corpus.errors import ConfigError
from corpus.plan import INPUTS
from corpus.report import Report
from corpus.runner import plan, run
from corpus.shards import Items, as_path, is_local, write_json
from corpus.step import Step
from tests.toys import sift, source
from tests.toys.recipe import recipe
from tests.toys.tree import contents


class Listed(MemoryFileSystem):
    """An object store whose client keeps what it has listed, as s3fs does; all clients see the same objects."""

    kept: ClassVar[dict[str, list[Any]]] = {}

    def ls(self, path: str, detail: bool = True, **keywords: Any) -> list[Any]:
        path = self._strip_protocol(path)
        found = self.kept[path] if path in self.kept else self.kept.setdefault(path, super().ls(path, detail=True))
        return found if detail else [entry["name"] for entry in found]

    def find(self, path: str, *arguments: Any, **keywords: Any) -> Any:
        return AbstractFileSystem.find(self, path, *arguments, **keywords)  # by ls; MemoryFileSystem's own looks anew

    def rm_file(self, path: str) -> None:
        super().rm_file(path)
        self.kept.clear()

    def invalidate_cache(self, path: str | None = None) -> None:
        self.kept.clear()


class Elsewhere(LocalEngine):
    """As on workers, what tasks write changes no listing that this process has kept. Stops after `most` tasks."""

    def __init__(self, root: str, most: int = 1000) -> None:
        super().__init__(root)
        self.left = most

    def execute(self, tasks: list[Task]) -> Iterator[tuple[Task, Any]]:
        for task in tasks:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            yield task, call(task)


@pytest.fixture
def listing() -> Iterator[None]:
    fsspec.register_implementation("memory", Listed, clobber=True)
    yield
    fsspec.register_implementation("memory", MemoryFileSystem, clobber=True)


@pytest.mark.usefixtures("listing")
def test_a_run_in_an_object_store_is_resumed_where_listings_are_kept(tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}/root"
    with pytest.raises(KeyboardInterrupt):
        run(recipe(), Elsewhere(url, most=3))
    assert next(row.why for row in plan(recipe(), as_path(url))) == "interrupted: 3 shards are done and kept"
    run(recipe(), Elsewhere(url))
    run(recipe(), LocalEngine(tmp_path))
    assert contents(as_path(url)) == contents(tmp_path)


def letters(item: str) -> Iterator[Verdict]:
    yield keep_all(batch_of([{"id": document_id(item), "text": item * 9}]))


class Stopped(LocalEngine):
    def execute(self, tasks: list[Task]) -> Iterator[tuple[Task, Any]]:
        for task in tasks[:2]:
            yield task, call(task)
        raise KeyboardInterrupt


@pytest.mark.parametrize("now", [("a", "b", "c"), ("c",), ("c", "b"), ("b", "c")])
def test_a_listing_may_change_while_a_run_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: tuple[str, ...]
) -> None:
    """Shards are named by position: whatever arrived, left or moved, each item is read once and none that is gone is kept."""
    listing: tuple[str, ...] = ("b", "c", "d")

    def listed(config: source.Config, out: Path, engine: Engine) -> Report:
        return engine.map_shards(letters, Items(listing), out)

    monkeypatch.setattr(source, "run", listed)
    step = Step("source", source.Config())
    with pytest.raises(KeyboardInterrupt):
        run(step, Stopped(tmp_path))
    listing = now
    run(step, LocalEngine(tmp_path))
    shards = LocalEngine(tmp_path).shards(step)
    kept = [text[0] for name in shards.names for batch in shards.read(name) for text in batch.column("text").to_pylist()]
    assert sorted(kept) == sorted(now)


def test_what_tells_that_shards_are_stale_goes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the middle of wiping what was made from something else, a run must not leave it looking fresh."""
    step = Step("source", source.Config())
    out = tmp_path / step.folder
    for name in ("done", "shards"):
        (out / name).mkdir(parents=True)
    write_json(out / INPUTS, {"upstream": "of another day"})
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: sorted(listed(self), key=lambda path: path.name != INPUTS))

    def killed(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "_remove", killed)
    with pytest.raises(KeyboardInterrupt):
        run(step, LocalEngine(tmp_path))
    assert (out / INPUTS).exists() and (out / "shards").exists()


def test_a_stage_that_uses_some_and_loses_others_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents used for an artefact count like all others (exclude, select_recall, grow_seed)."""

    def lossy(config: sift.Config, out: Path, engine: Engine) -> Report:
        one = engine.shards(config.files)
        report = engine.map_shards(keep_all, one.only(one.names[0]), out)
        report.read, report.used = report.read + 1, 1
        return report

    monkeypatch.setattr(sift, "run", lossy)
    with pytest.raises(runner.ConservationError, match="accounts for 11 documents, its upstream steps wrote 60"):
        run(Step("sift", sift.Config(files=Step("source", source.Config()))), LocalEngine(tmp_path))


def test_a_file_url_is_its_folder_and_an_unknown_scheme_is_refused(tmp_path: Path) -> None:
    path = as_path(f"file://{tmp_path}/root")
    assert path == tmp_path / "root" and is_local(path) and type(path) is type(tmp_path)
    memory = as_path("memory://x/y")
    assert as_path(memory) is memory
    with pytest.raises(ConfigError, match="nosuch://x: "):
        as_path("nosuch://x")
