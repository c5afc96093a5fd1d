"""Reading benchmark files, what is refused before a run, and the artefact."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from corpus.benchmark_index import read_index
from corpus.engine import LocalEngine
from corpus.errors import ConfigError, CorruptFile, InputError
from corpus.step import Step
from stages.index_benchmarks import Benchmark, Config, benchmark_at, build, check, run

LONG = "seven grey herons stood in the shallow water without moving at all"


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    data = "\n".join(json.dumps(row) for row in rows).encode()
    pack = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}.get(path.suffix, bytes)
    path.write_bytes(pack(data))
    return path


def config_of(*benchmarks: Benchmark, **settings: Any) -> Config:
    return Config(benchmarks=benchmarks, **settings)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_fields_lists_and_counts(tmp_path: Path, name: str) -> None:
    rows = [
        {"id": "first", "text": LONG, "tests": ["assert heron(3)", ["walk the plank", 17]], "other": LONG + " unread"},
        {"id": "second", "text": "too short", "tests": [], "code": None},
        {"id": "third", "text": "bad \ud800 surrogate and then some", "code": "wide (open, space)"},
    ]
    benchmark = benchmark_at("a", jsonl(tmp_path / name, rows), ("text", "code", "tests"), item="id")
    texts, counts = build(config_of(benchmark))
    found = [(row["item"], row["field"], row["text"].removesuffix(" )")) for row in texts.to_pylist()]
    assert found == [
        ("first", "text", LONG),
        ("first", "tests", "assert heron ( 3"),
        ("first", "tests", "walk the plank"),
        ("third", "text", "bad surrogate and then some"),
        ("third", "code", "wide ( open , space"),
    ]
    assert counts == {"a": {"items": 3, "texts": 7, "too_short": 2, "weak": 0, "whole": 4, "ngrams": 1, "entries": 7}}


def test_a_short_text_is_trimmed_to_its_words(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"q": "  (What is this?) "}])
    index = _index(tmp_path, config_of(benchmark_at("a", path, ("q",))))
    assert index.ngrams.text_of(0) == "what is this"


def test_items_without_a_name_go_by_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'\n{{"q": "{LONG}"}}\n\n{{"q": "another heron flew away"}}\n')
    texts, _ = build(config_of(Benchmark("a", str(path), ("q",))))
    assert texts.column("item").to_pylist() == ["2", "4"]


def test_what_is_refused_before_anything_runs(tmp_path: Path) -> None:
    good = jsonl(tmp_path / "good.jsonl", [{"q": LONG}])
    short = jsonl(tmp_path / "short.jsonl", [{"q": "two words"}])
    empty = jsonl(tmp_path / "empty.jsonl", [])
    odd = jsonl(tmp_path / "odd.jsonl", [{"q": {"nested": LONG}}])
    broken = tmp_path / "broken.jsonl"
    broken.write_text(f'{{"q": "{LONG}"}}\n{{"q": \n')
    array = tmp_path / "array.jsonl"
    array.write_text(f'["{LONG}"]')
    not_gzip = tmp_path / "plain.jsonl.gz"
    not_gzip.write_text("plain")
    for path, fields, error, words in (
        (tmp_path / "gone.jsonl", ("q",), InputError, "missing"),
        (short, ("q",), InputError, "nothing to look for"),
        (empty, ("q",), InputError, "nothing to look for"),
        (good, ("question",), ConfigError, "no item of .* has a field 'question'"),
        (odd, ("q",), ConfigError, "line 1 is a dict"),
        (broken, ("q",), InputError, "line 2 is not JSON"),
        (array, ("q",), InputError, "line 1 is a list"),
        (not_gzip, ("q",), InputError, "cannot be read"),
    ):
        with pytest.raises(error, match=words):
            check(config_of(benchmark_at("a", path, fields)))
    check(config_of(benchmark_at("a", good, ("q",))))
    optional = [benchmark_at(p.stem, p, ("q",), required=False) for p in (tmp_path / "gone.jsonl", short, empty)]
    texts, counts = build(config_of(*optional))
    assert len(texts) == 0 and [c["entries"] for c in counts.values()] == [0, 0, 0]


def test_a_changed_benchmark_is_another_step_and_is_noticed(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"q": LONG}])
    before = config_of(benchmark_at("a", path, ("q",)))
    again = config_of(benchmark_at("a", path, ("q",)))
    jsonl(path, [{"q": LONG + " today"}])
    after = config_of(benchmark_at("a", path, ("q",)))
    assert Step("index", before).fingerprint == Step("index", again).fingerprint != Step("index", after).fingerprint
    with pytest.raises(InputError, match="changed since"):
        check(before)


@pytest.mark.parametrize("settings", [{"ngram": 0}, {"ngram": 65}, {"min_ngram": 11}, {"min_ngram": 0}, {"distinct": 11}])
def test_values_out_of_range(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=rf"index_benchmarks\.{next(iter(settings))} = "):
        config_of(Benchmark("a", "a.jsonl", ("q",)), **settings)


def test_benchmarks_are_named_once() -> None:
    with pytest.raises(ConfigError, match="twice"):
        config_of(Benchmark("a", "a.jsonl", ("q",)), Benchmark("a", "b.jsonl", ("q",)))
    with pytest.raises(ConfigError, match="empty"):
        config_of()
    with pytest.raises(ConfigError, match="at least one field"):
        Benchmark("a", "a.jsonl", ())


def test_same_bytes_and_a_damaged_index_is_noticed(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"q": LONG}])
    config = config_of(benchmark_at("a", path, ("q",)), allow=("in the shallow water",))
    index = _index(tmp_path / "one", config)
    assert json.loads(index.evidence(0, 4, 10))["ngram"] == " ".join(LONG.split()[:10])
    _index(tmp_path / "two", config)
    for name in ("index.arrow", "index.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    data = bytearray((tmp_path / "one" / "index.arrow").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "one" / "index.arrow").write_bytes(data)
    with pytest.raises(CorruptFile, match="rebuilt"):
        read_index(tmp_path / "one")
    (tmp_path / "two" / "index.arrow").unlink()
    with pytest.raises(CorruptFile, match="rebuilt"):
        read_index(tmp_path / "two")


def test_a_damaged_archive_is_said(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(json.dumps({"q": LONG}).encode()))
    data[12] ^= 0xFF
    (tmp_path / "a.jsonl.gz").write_bytes(data)
    with pytest.raises(InputError, match="cannot be read"):
        check(config_of(Benchmark("a", str(tmp_path / "a.jsonl.gz"), ("q",))))


def _index(out: Path, config: Config) -> Any:
    report = run(config, out, LocalEngine(out))
    report.check("index_benchmarks", 0)
    return read_index(out)
