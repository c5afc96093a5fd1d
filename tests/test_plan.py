"""What a run does about what earlier runs, or others, have left: repairs, leftovers, upstream steps that came out different."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from corpus.document import Verdict
from corpus.engine import LocalEngine
from corpus.errors import CorruptFile
from corpus.plan import plan
from corpus.progress import Lines
from corpus.runner import run
from corpus.step import Step, override, until, walk
from stages import crawl_github, exclude
from tests.toys import sift, source, texts
from tests.toys.recipe import recipe
from tests.toys.tree import contents


def states(last: Step, root: Path) -> list[str]:
    return [row.state for row in plan(last, root)]


def flip(path: Path) -> None:
    """A bit that rots leaves the time of change alone."""
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=times)


def other_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on the source finds other documents under the same settings, as a repository does that was rewritten."""
    real: Callable[..., Iterator[Verdict]] = source.make

    def make(item: tuple[int, int], config: source.Config) -> Iterator[Verdict]:
        return real(item, source.Config(seed=1))

    monkeypatch.setattr(source, "make", make)


def test_a_repair_that_changes_documents_reaches_all_that_was_made_from_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = recipe()
    run(last, LocalEngine(tmp_path / "a"))
    other_texts(monkeypatch)
    first = tmp_path / "a" / walk(last)[0].folder
    for path in (first / "shards").iterdir():
        path.unlink()
    seen: list[str] = []
    run(last, LocalEngine(tmp_path / "a"), lambda row: seen.append(row.state))
    assert seen == ["damaged", "outdated", "outdated"]
    run(last, LocalEngine(tmp_path / "b"))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert states(last, tmp_path / "a") == ["done"] * 3


def test_a_repair_that_changes_nothing_is_where_it_ends(tmp_path: Path) -> None:
    run(recipe(), LocalEngine(tmp_path))
    next((tmp_path / walk(recipe())[0].folder / "shards").iterdir()).unlink()
    seen: list[bool] = []
    run(recipe(), LocalEngine(tmp_path), lambda row: seen.append(row.runs))
    assert seen == [True, False, False]


def test_shards_of_an_interrupted_step_go_when_its_upstream_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, kept = walk(recipe())[:2]
    run(kept, LocalEngine(tmp_path / "a"))
    (tmp_path / "a" / kept.folder / "step.json").unlink()
    next((tmp_path / "a" / kept.folder / "done").iterdir()).unlink()
    other_texts(monkeypatch)
    for path in (tmp_path / "a" / made.folder / "shards").iterdir():
        path.unlink()
    for root in (tmp_path / "a", tmp_path / "b"):
        run(kept, LocalEngine(root))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_shard_that_only_a_killed_try_wrote_is_not_part_of_the_step(tmp_path: Path) -> None:
    made = walk(recipe())[0]
    run(made, LocalEngine(tmp_path))
    folder = tmp_path / made.folder
    for kind in ("shards", "dropped"):
        (folder / kind).mkdir(exist_ok=True)
        (folder / kind / "00003-001.parquet").write_bytes((folder / "shards" / "00003-000.parquet").read_bytes())
    (folder / "step.json").unlink()
    (folder / "done" / "00003.json").unlink()
    assert run(recipe(), LocalEngine(tmp_path))["sift"].read == 60
    assert not list(folder.rglob("00003-001.parquet"))


def test_a_repair_leaves_alone_what_another_run_has_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = recipe()
    run(last.config.files, LocalEngine(tmp_path))
    shard = next((tmp_path / walk(last)[0].folder / "shards").iterdir())
    before = shard.stat()
    real, met = sift.judge, []

    def judge(*arguments: Any, **keywords: Any) -> Verdict:
        if not met:  # the damage this run met was mended before it came to look
            met.append(1)
            raise CorruptFile("as it was", path=str(shard))
        return real(*arguments, **keywords)

    monkeypatch.setattr(sift, "judge", judge)
    run(Step("again", sift.Config(files=walk(last)[0])), LocalEngine(tmp_path))
    assert met and (shard.stat().st_ino, shard.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_record_that_goes_while_it_is_needed_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = recipe()
    real = sift.run

    def without(config: sift.Config, out: Path, engine: Any) -> Any:
        monkeypatch.setattr(sift, "run", real)
        (engine.folder(config.files) / "step.json").unlink()  # another run found that step damaged just now
        return real(config, out, engine)

    monkeypatch.setattr(sift, "run", without)
    assert run(last, LocalEngine(tmp_path))["merge"].read > 0
    assert states(last, tmp_path) == ["done"] * 3


@pytest.mark.parametrize("kind", ["shards", "exchange"])
def test_damage_that_only_a_reader_sees_is_mended(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.toys import merge

    last = recipe()
    run(last, LocalEngine(tmp_path / "whole"))
    run(last.config.files, LocalEngine(tmp_path / "root"))
    if kind == "shards":
        flip(next((tmp_path / "root" / last.config.files.folder / "shards").iterdir()))
    else:
        real = merge.merge

        def rot_first(*arguments: Any, **keywords: Any) -> Any:
            monkeypatch.setattr(merge, "merge", real)
            for path in (tmp_path / "root").rglob("*.arrow"):
                flip(path)
            return real(*arguments, **keywords)

        monkeypatch.setattr(merge, "merge", rot_first)
    run(last, LocalEngine(tmp_path / "root"))
    assert contents(tmp_path / "root") == contents(tmp_path / "whole")


def test_a_repair_is_told_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = walk(recipe())[0]
    shards = tmp_path / made.folder / "shards"
    run(made, LocalEngine(tmp_path))
    for name in ("00001-000.parquet", "00004-000.parquet"):
        capfd.readouterr()
        (shards / name).unlink()
        run(made, LocalEngine(tmp_path, Lines()))
    said = capfd.readouterr().err
    assert "00004-000" in said and "00001-000" not in said


def test_a_stage_that_exits_is_an_error_of_its_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from corpus.errors import TaskError

    def leave(*arguments: Any, **keywords: Any) -> None:
        raise SystemExit(3)

    monkeypatch.setattr(sift, "judge", leave)
    with pytest.raises(TaskError, match="SystemExit: 3"):
        run(recipe(), LocalEngine(tmp_path))


def test_a_repair_that_was_killed_is_finished(tmp_path: Path) -> None:
    """Its record went first; everything after it being done does not make it a folder deleted to save space."""
    last = recipe()
    run(last, LocalEngine(tmp_path))
    before = contents(tmp_path)
    first = tmp_path / walk(last)[0].folder
    (first / "step.json").unlink()
    next((first / "shards").iterdir()).unlink()
    run(last, LocalEngine(tmp_path))
    assert contents(tmp_path) == before and states(last, tmp_path) == ["done"] * 3


def test_until_takes_a_step_a_stage_or_a_verb(tmp_path: Path) -> None:
    one, two = (Step(name, texts.Config(shards=((("a", name),),))) for name in ("one", "texts_two"))
    first = Step("first", exclude.Config(files=one, taken=(two,)))
    last = Step("last", exclude.Config(files=first, taken=(two,)))
    named = {name: [step.name for step in until(last, name)] for name in ("one", "texts", "exclude", "first")}
    assert named == {"one": ["one"], "texts": ["one", "texts_two"], "exclude": ["last"], "first": ["first"]}
    assert [step.name for step in until(crawling(), "crawl")] == ["crawl_github"]
    run(until(last, "texts"), LocalEngine(tmp_path))
    assert states(last, tmp_path) == ["done", "done", "missing", "missing"]
    assert [row.runs for row in plan((two, first), tmp_path)] == [False, False, True]


def crawling() -> Step:
    return Step("crawl_github", crawl_github.Config(repositories=("a/b",)))


def test_steps_of_one_content_and_two_names_are_two_steps(tmp_path: Path) -> None:
    one, two = (Step(name, texts.Config(shards=((("a", "x"),),))) for name in ("one", "two"))
    both = Step("exclude", exclude.Config(files=one, taken=(two,)))
    assert [step.name for step in walk(both)] == ["one", "two", "exclude"]
    assert [step.name for step in walk(override(both, {"two.column": "more"}))] == ["one", "two", "exclude"]
    run(both, LocalEngine(tmp_path))
    assert states(both, tmp_path) == ["done"] * 3
