"""The runner: plan, resume, repair, locks, and the laws it enforces on stages."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from corpus.engine import LocalEngine
from corpus.errors import ConfigError, ConservationError, FingerprintError, InputError, StorageError, TaskError
from corpus.runner import plan, read_record, run
from corpus.step import Step, override, walk
from tests.toys import merge, sift, source
from tests.toys.recipe import recipe
from tests.toys.tree import contents


def states(last: Step, root: Path) -> dict[str, tuple[str, bool]]:
    return {row.step.name: (row.state, row.runs) for row in plan(last, root)}


def test_a_run_accounts_for_every_document(tmp_path: Path) -> None:
    reports = run(recipe(), LocalEngine(tmp_path))
    assert reports["source"].written == 60
    sifted = reports["sift"]
    assert sifted.read == 60 and 0 < sifted.dropped["letter"] < 60
    assert sifted.kept + sifted.dropped["letter"] == 60
    assert reports["merge"].merged == sifted.kept and reports["merge"].created == 5
    dropped = tmp_path / recipe().config.files.folder / "dropped"
    rows = [row for path in dropped.glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    assert len(rows) == sifted.dropped["letter"]
    assert all(row["reason"] == "letter" and row["evidence"] in "0123" and row["path"] for row in rows)


def test_twice_is_once(tmp_path: Path) -> None:
    run(recipe(), LocalEngine(tmp_path))
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    seen = []
    run(recipe(), LocalEngine(tmp_path), lambda row: seen.append(row.runs))
    assert seen == [False, False, False]
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}


def test_a_changed_field_runs_that_step_and_what_follows(tmp_path: Path) -> None:
    run(recipe(), LocalEngine(tmp_path))
    changed = override(recipe(), {"sift.letters": "ab"})
    assert states(changed, tmp_path) == {"source": ("done", False), "sift": ("missing", True), "merge": ("missing", True)}
    why = {row.step.name: row.why for row in plan(changed, tmp_path)}
    assert why["sift"] == "changed letters: 0123 → ab"
    assert why["merge"] == "new upstream sift"


def test_deleted_intermediates_are_left_alone_until_needed(tmp_path: Path) -> None:
    import shutil

    last = recipe()
    run(last, LocalEngine(tmp_path))
    shutil.rmtree(tmp_path / last.config.files.folder)
    assert states(last, tmp_path) == {"source": ("done", False), "sift": ("missing", False), "merge": ("done", False)}
    shutil.rmtree(tmp_path / last.folder)
    assert states(last, tmp_path)["sift"] == ("missing", True)


def test_the_same_bytes_after_a_resume_from_some_shards(tmp_path: Path) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    run(recipe(), LocalEngine(whole))
    run(recipe(), LocalEngine(part))
    for step in walk(recipe()):
        (part / step.folder / "step.json").unlink()
        for path in list((part / step.folder / "done").glob("*[135].json")):
            path.unlink()
    (part / recipe().folder / "shards" / ".tmp-killed-00000.parquet").write_bytes(b"half a shard")
    assert any("shards are done" in row.why for row in plan(recipe(), part))
    run(recipe(), LocalEngine(part))
    assert contents(whole) == contents(part)


@pytest.mark.parametrize("what", ["shard", "record", "done", "truncated", "gone"])
def test_damage_is_named_and_mended(tmp_path: Path, what: str, capfd: pytest.CaptureFixture[str]) -> None:
    from corpus.progress import Lines

    run(recipe(), LocalEngine(tmp_path))
    before = contents(tmp_path)
    folder = tmp_path / recipe().config.files.folder
    shard = sorted((folder / "shards").iterdir())[2]
    if what in ("shard", "truncated"):
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(data if what == "shard" else data[:-7])
        named = shard.name
    elif what == "gone":
        shard.unlink()
        named = shard.name
    else:
        path = folder / "step.json" if what == "record" else sorted((folder / "done").iterdir())[0]
        path.write_text(path.read_text().replace('"read": ', '"read": 9'))
        named = path.name
        if what == "done":
            (folder / "step.json").unlink()
            (tmp_path / recipe().folder / "step.json").unlink()
    run(recipe(), LocalEngine(tmp_path, Lines()))
    assert named in capfd.readouterr().err
    assert contents(tmp_path) == before
    assert all(state == "done" for state, _ in states(recipe(), tmp_path).values())


def test_damage_met_while_reading_is_mended_and_the_run_goes_on(tmp_path: Path) -> None:
    last = recipe()
    run(last, LocalEngine(tmp_path / "a"))
    run(last.config.files, LocalEngine(tmp_path / "b"))
    shard = sorted((tmp_path / "b" / last.config.files.folder / "shards").iterdir())[0]
    record = shard.stat()
    data = bytearray(shard.read_bytes())
    data[60] ^= 255
    shard.write_bytes(data)
    import os

    os.utime(shard, ns=(record.st_atime_ns, record.st_mtime_ns))  # bit rot does not touch the time: plan cannot see it
    assert states(last, tmp_path / "b")["sift"] == ("done", False)
    run(last, LocalEngine(tmp_path / "b"))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_stage_that_loses_documents_is_refused(tmp_path: Path) -> None:
    bad = Step("sift", sift.Config(files=Step("source", source.Config()), lose=True))
    with pytest.raises(ConservationError, match="sift"):
        run(bad, LocalEngine(tmp_path))
    assert read_record(tmp_path, bad) is None


def test_a_stage_that_skips_a_shard_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from corpus.shards import StepShards

    made = Step("source", source.Config())
    run(made, LocalEngine(tmp_path))
    monkeypatch.setattr(StepShards, "names", property(lambda self: list(self._by_name)[1:]))
    with pytest.raises(ConservationError, match="accounts for 50 documents, its upstream steps wrote 60"):
        run(Step("sift", sift.Config(files=made)), LocalEngine(tmp_path))


def test_an_undeclared_reason_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sift, "REASONS", ())
    with pytest.raises(ConservationError, match="letter"):
        run(recipe().config.files, LocalEngine(tmp_path))


def test_a_failing_stage_names_its_shard(tmp_path: Path) -> None:
    bad = Step("sift", sift.Config(files=Step("source", source.Config()), fail=True))
    with pytest.raises(TaskError, match="00000-000 failed with ValueError: a bug in the stage"):
        run(bad, LocalEngine(tmp_path))


def test_checks_come_before_anything_runs(tmp_path: Path) -> None:
    last = Step("sift", sift.Config(files=Step("source", source.Config(broken=True))))
    with pytest.raises(InputError):
        run(last, LocalEngine(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_ends_the_run_and_nothing_half_written_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    import pyarrow.parquet as parquet

    real = parquet.ParquetWriter.write_batch
    calls = []

    def full(self: object, *arguments: object, **keywords: object) -> None:
        calls.append(1)
        if len(calls) == 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, *arguments, **keywords)

    monkeypatch.setattr(parquet.ParquetWriter, "write_batch", full)
    with pytest.raises(StorageError, match=r"No space left.*GB free"):
        run(recipe(), LocalEngine(tmp_path))
    monkeypatch.undo()
    assert not list(tmp_path.rglob(".tmp-*"))
    assert states(recipe(), tmp_path)["sift"] == ("missing", True)
    run(recipe(), LocalEngine(tmp_path))
    run(recipe(), LocalEngine(tmp_path / "clean"))
    clean = contents(tmp_path / "clean")
    assert {k: v for k, v in contents(tmp_path).items() if not k.startswith("clean/")} == clean


def _run_in_process(root: str) -> None:
    run(recipe(0.05), LocalEngine(root))


def test_two_runs_at_once_do_the_work_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_run_in_process, args=(str(tmp_path),)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    run(recipe(), LocalEngine(tmp_path / "other"))
    assert len(contents(tmp_path / "other")) * 2 == len(contents(tmp_path))


def test_the_fingerprint_is_of_content_not_of_spelling() -> None:
    first, second = recipe(), recipe()
    assert first is not second and first.folder == second.folder
    assert recipe(0.1).folder != first.folder  # a new upstream is a new name
    with pytest.raises(FingerprintError, match=r"merge.partitions is a list.*use a tuple"):
        _ = Step("merge", dataclasses.replace(first.config, partitions=[1])).fingerprint  # type: ignore[arg-type]


def test_one_name_is_one_step() -> None:
    one = Step("sift", sift.Config(files=Step("source", source.Config())))
    two = Step("merge", merge.Config(files=Step("sift", sift.Config(files=one))))
    with pytest.raises(ConfigError, match="two different steps are named 'sift'"):
        walk(two)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"nosuch.x": "1"}, "no step 'nosuch'.*source, sift, merge"),
        ({"sift.nosuch": "1"}, "no such field.*letters"),
        ({"merge.partitions": "three"}, "whole number expected"),
        ({"sift.lose": "yes"}, "true or false expected"),
        ({"sift.files": "x"}, "set it in the recipe"),
    ],
)
def test_a_bad_setting_says_what_there_is(setting: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(recipe(), setting)


def test_settings_are_read_by_type() -> None:
    step = override(recipe(), {"sift.limit": "1_000", "sift.lose": "true", "source.pause_s": "0.5"})
    assert step.config.files.config.limit == 1000 and step.config.files.config.lose is True
    assert override(step, {"sift.limit": "none"}).config.files.config.limit is None


def test_records_are_readable_json_with_config_and_counts(tmp_path: Path) -> None:
    run(recipe(), LocalEngine(tmp_path))
    value = json.loads((tmp_path / recipe().folder / "step.json").read_text())["value"]
    assert value["config"]["fields"]["partitions"] == 3
    assert value["upstream"] == {"sift": recipe().config.files.fingerprint}
    assert value["report"]["merged"] == value["report"]["read"]


def test_a_root_may_be_a_url(tmp_path: Path) -> None:
    """Object stores: the same files, no locks, no renames. fsspec's memory:// stands for them."""
    from corpus.explain import explain
    from corpus.shards import as_path

    run(recipe(), LocalEngine(tmp_path))
    url = f"memory://{tmp_path.name}/root"
    run(recipe(), LocalEngine(url))
    root = as_path(url)
    assert contents(root) == contents(tmp_path)
    assert all(not row.runs for row in plan(recipe(), root))
    assert list(explain(recipe(), root, "r0/file5.txt")) == list(explain(recipe(), tmp_path, "r0/file5.txt"))
