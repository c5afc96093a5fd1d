"""Decontamination end to end: planted items, real benchmarks as positive controls, real files as negative ones."""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corpus.benchmark_index import BenchmarkIndex, read_index
from corpus.document import batch_of
from corpus.engine import LocalEngine
from corpus.ngrams import KINDS, scan
from corpus.runner import run as run_recipe
from corpus.step import Step
from stages import decontaminate, index_benchmarks
from stages.decontaminate import judge
from stages.index_benchmarks import Benchmark, Config, benchmark_at
from tests.toys import texts as toy

PLANTED = Path(__file__).parents[1] / "recipes" / "planted"

# The papers' choice: docstrings, questions and solutions; of CRUXEval the functions.
FIELDS = {
    "humaneval": ("prompt", "canonical_solution"),
    "mbpp": ("text", "code"),
    "gsm8k_test": ("question", "answer"),
    "math_test": ("problem", "solution"),
    "cruxeval": ("code",),
    "cmath": ("question",),
}

TRANSFORMS: dict[str, Callable[[str], str]] = {
    "verbatim": lambda text: text,
    "indented": lambda text: "\t" + text.replace("\n", "\n\t"),
    "upper case": str.upper,
    "CRLF": lambda text: text.replace("\r\n", "\n").replace("\n", "\r\n"),
    "a word a line": lambda text: "\n".join(text.split()),
}


def planted() -> Config:
    return Config(benchmarks=(benchmark_at("planted", PLANTED / "benchmark.jsonl", ("question", "solution"), item="id"),))


def index_of(config: Config, out: Path) -> BenchmarkIndex:
    index_benchmarks.run(config, out, LocalEngine(out))
    return read_index(out)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> BenchmarkIndex:
    import os

    where = os.environ.get("CORPUS_DATA")
    if not where:
        pytest.skip("CORPUS_DATA is not set: it names a folder of real data, see README.md")
    folder = Path(where) / "benchmarks"
    benchmarks = tuple(Benchmark(name, str(folder / f"{name}.jsonl.gz"), fields) for name, fields in FIELDS.items())
    return index_of(Config(benchmarks=benchmarks), tmp_path_factory.mktemp("index"))


def test_the_planted_repository(tmp_path: Path) -> None:
    files = sorted(path for path in (PLANTED / "repository").rglob("*") if path.is_file())
    batch = batch_of([{"id": path.name, "text": path.read_text("utf-8")} for path in files])
    verdict = judge(batch, index_of(planted(), tmp_path))
    fate = {path.name: text and json.loads(text) for path, text in zip(files, verdict.evidence.to_pylist(), strict=True)}
    items = {name: found and found["item"] for name, found in fate.items()}
    assert items == {
        "README.md": None,
        "tides.py": None,
        "ferries.py": "planted/ferry",
        "riddles.md": "planted/staircase",
        "guoyuan.md": "planted/orchard",
        "chores.py": "planted/knots",
    }
    assert fate["chores.py"] == {
        "benchmark": "planted",
        "item": "planted/knots",
        "field": "question",
        "ngram": "untangle seventeen marzipan submarines ( quietly",
        "word": 13,
        "run": 5,
    }
    assert fate["ferries.py"]["run"] > 60
    assert verdict.reason.to_pylist() == [None if item is None else "contaminated" for item in items.values()]


def test_a_run_counts_hits_and_leaves_evidence(tmp_path: Path) -> None:
    riddle = (PLANTED / "repository/docs/riddles.md").read_text("utf-8")
    files = Step(
        "files", toy.Config(shards=((("a", riddle), ("b", "clean")), (("c", ""), ("d", riddle + "!"), ("e", "\0")), ()))
    )
    step = Step("decontaminate", decontaminate.Config(files=files, index=Step("index", planted())))
    report = run_recipe(step, LocalEngine(tmp_path))["decontaminate"]
    assert (report.read, report.kept, report.dropped) == (5, 3, {"contaminated": 2})
    assert report.notes["hits"] == {"planted": 2}
    (top,) = report.notes["ngrams"]
    assert top["documents"] == 2 and top["item"] == "planted/staircase"
    tables = [pq.read_table(path) for path in sorted((tmp_path / step.folder / "dropped").glob("*.parquet"))]
    assert pa.concat_tables(tables).column("id").to_pylist() == ["a", "d"]


def test_empty_null_and_sliced_batches(tmp_path: Path) -> None:
    index = index_of(planted(), tmp_path)
    riddle = (PLANTED / "repository/docs/riddles.md").read_text("utf-8")
    batch = batch_of([{"id": str(i), "text": riddle if i in (1, 4) else "clean"} for i in range(6)])
    assert judge(batch.slice(0, 0), index).reason.to_pylist() == []
    whole, part = judge(batch, index), judge(batch.slice(1, 3), index)
    assert part.reason.to_pylist() == ["contaminated", None, None]
    assert part.evidence.to_pylist() == whole.evidence.to_pylist()[1:4]
    nulls = pa.RecordBatch.from_arrays([pa.array(["a", "b"]), pa.array([None, riddle], pa.large_string())], ["id", "text"])
    assert judge(nulls, index).reason.to_pylist() == [None, "contaminated"]


@pytest.mark.parametrize("how", TRANSFORMS)
def test_every_item_is_found_in_a_source_file(real: BenchmarkIndex, corpus_data: Path, how: str) -> None:
    """Recall: of all texts that can be looked for, in their original spelling inside a file, all are found."""
    host = ("import os\n\n\nclass Journal:\n    def read(self):\n        ", "\n\n\ndef main():\n    print(os.sep)\n")
    missed, beyond = [], []
    for name, fields in FIELDS.items():
        benchmark = Benchmark(name, str(corpus_data / "benchmarks" / f"{name}.jsonl.gz"), fields)
        texts = [str(row[field]) for _, row in index_benchmarks._rows(benchmark) for field in fields]
        kinds = _kinds(texts)
        files = pa.array([host[0] + TRANSFORMS[how](text) + host[1] for text in texts], pa.large_string())
        found = scan(files, real.ngrams).entry_N >= 0
        missed += [(name, text) for text, kind, hit in zip(texts, kinds, found, strict=True) if kind >= 2 and not hit]
        beyond += [text for text, kind in zip(texts, kinds, strict=True) if kind < KINDS.index("whole")]
    assert missed == []
    assert len(beyond) <= 5, beyond  # `return x + y`, and four problems of MATH of one or two words


def _kinds(texts: list[str]) -> list[int]:
    from corpus.ngrams import NgramIndex, Rule, canonical

    kinds: list[int] = NgramIndex.of(canonical(pa.array(texts, pa.large_string())), Rule()).kind_T.tolist()
    return kinds


def test_real_files_are_not_benchmarks(real: BenchmarkIndex) -> None:
    """Precision: of Python's own library next to nothing is flagged; the rule to the letter flags twenty times that."""
    paths = [p for p in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")) if "site-packages" not in p.parts]
    texts = pa.array([path.read_bytes().decode("utf-8", "replace") for path in paths], pa.large_string())
    entries = scan(texts, real.ngrams).entry_N
    flagged = {str(path): real.ngrams.text_of(int(e)) for path, e in zip(paths, entries, strict=True) if e >= 0}
    assert len(paths) > 500 and len(flagged) <= 0.004 * len(paths), flagged
