"""The benchmark harness: the sample, the table, and a benchmark that fails."""

import os
import sys
import types
from pathlib import Path

import pyarrow as pa
import pytest

from bench import __main__ as command
from bench import measure
from corpus.document import SCHEMA, text_bytes
from corpus.errors import InputError


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Path]:
    root = tmp_path / "root"
    for i in range(40):
        (root / f"package{i % 5}" / "deep").mkdir(parents=True, exist_ok=True)
        (root / f"package{i % 5}" / "deep" / f"module{i}.py").write_text(f"value = {i}\n" * 200, "utf-8")
    (root / "single.c").write_text("int x;\n", "utf-8")
    (root / "copy.c").write_text("int x;\n", "utf-8")
    (root / "latin.c").write_bytes(b"/* \xe9 */")
    (root / "nul.c").write_bytes(b"a\0b")
    (root / "large.c").write_bytes(b"x" * (measure.FILE_BYTES + 1))
    (root / "picture.png").write_bytes(b"png")
    (root / "link.c").symlink_to(root / "single.c")
    return {"root": root}


def everything(tree: dict[str, Path]) -> float:
    return (sum(f.stat().st_size for f in tree["root"].rglob("*.py")) + len("int x;\n")) / 1e6


def test_sample_holds_each_readable_text_once_in_order_of_path(tree: dict[str, Path]) -> None:
    sample = measure.build_sample(everything(tree), tree)
    table = pa.Table.from_batches(sample.batches)
    assert table.schema == SCHEMA
    places = list(zip(table["repo"].to_pylist(), table["path"].to_pylist(), strict=True))
    assert places == sorted(places) and len(set(table["id"].to_pylist())) == 41 == sample.documents
    assert ("root/package3", "deep/module8.py") in places
    assert sum(path.endswith(".c") for _, path in places) == 1
    assert set(table["lang"].to_pylist()) == {"Python", "C"}
    assert sample.bytes == sum(map(text_bytes, sample.batches))


def test_sample_is_the_same_twice_and_stops_when_there_is_enough(tree: dict[str, Path]) -> None:
    first, second = (measure.build_sample(0.03, tree) for _ in range(2))
    assert first.batches == second.batches
    assert 30_000 <= first.bytes < everything(tree) * 1e6


def test_what_make_bench_runs_are_the_modules_with_a_benchmark() -> None:
    """A command beside them, such as bench.learning, would otherwise be reported as a benchmark that failed."""
    found = [path for path in command.HERE.glob("*.py") if not path.stem.startswith("_")]
    assert command.stages() == sorted(p.stem for p in found if "\ndef bench(" in p.read_text("utf-8"))


def test_sample_that_is_too_small_says_so(tree: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"5 MB expected.*--mb"):
        measure.build_sample(5, tree)


def test_head_is_spread_over_the_whole_sample(tree: dict[str, Path]) -> None:
    sample = measure.build_sample(everything(tree), tree)
    head = sample.head(sample.bytes / 4e6)
    assert head.documents == 11 and head.bytes == sum(map(text_bytes, head.batches))
    assert len(set(pa.Table.from_batches(head.batches)["repo"].to_pylist())) == 6
    assert sample.head(1000) is sample


def run(tree: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, Path]:
    """The command over two fake benchmarks, one of which fails."""
    folder = tmp_path / "fakes"
    folder.mkdir()
    good, bad = types.ModuleType("fakes.good"), types.ModuleType("fakes.bad")
    good.bench = lambda sample: [measure.Row("good", "a|b", 400.0, {"peer": 2.0}, f"{sample.documents} files")]
    for module in (good, bad):
        (folder / f"{module.__name__.partition('.')[2]}.py").touch()
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, "fakes", types.ModuleType("fakes"))
    monkeypatch.setattr(measure, "roots", lambda: tree)
    monkeypatch.setattr(command, "one_core", lambda: "0")  # the test process keeps its cores
    return command.main(["--mb", "0.05", *arguments], folder, "fakes"), folder / "RESULTS.md"


def test_a_failing_benchmark_is_named_and_the_others_still_run(tree, tmp_path, monkeypatch, capsys) -> None:
    code, results = run(tree, tmp_path, monkeypatch)
    assert code == 1
    text = results.read_text("utf-8")
    good = next(line for line in text.splitlines() if line.startswith("| good"))
    assert "a\\|b" in good and "peer 2.00 (200×)" in good
    assert "**bad failed**: AttributeError" in text
    assert text.index("| floor | Parquet read + write") < text.index("| good")
    for fact in ("Date: ", "Sample: 0.1 MB in ", "Machine: ", "GiB", "Python 3.", f"pyarrow {pa.__version__}"):
        assert fact in text
    assert "failed: bad" in capsys.readouterr().err


def test_some_stages_print_and_leave_the_kept_table_alone(tree, tmp_path, monkeypatch, capsys) -> None:
    code, results = run(tree, tmp_path, monkeypatch, "good")
    assert code == 0 and not results.exists()
    assert "| good |" in capsys.readouterr().out


def test_an_unknown_stage_lists_the_known(tree, tmp_path, monkeypatch, capsys) -> None:
    with pytest.raises(SystemExit):
        run(tree, tmp_path, monkeypatch, "nothing")
    assert "there are: bad, good" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_one_core_pins_the_process(monkeypatch) -> None:
    cores, threads, environment = os.sched_getaffinity(0), pa.cpu_count(), dict(os.environ)
    try:
        command.one_core()
        assert len(os.sched_getaffinity(0)) == 1 and pa.cpu_count() == 1 and os.environ["NUMBA_NUM_THREADS"] == "1"
    finally:
        os.sched_setaffinity(0, cores)
        pa.set_cpu_count(threads)
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)
