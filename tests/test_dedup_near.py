"""Laws of near-deduplication as a stage, over made-up documents and over the files of the standard library."""

from __future__ import annotations

import random
import re
import sysconfig
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from corpus import components, leaders
from corpus.engine import LocalEngine
from corpus.errors import ConfigError
from corpus.runner import run
from corpus.step import Step
from corpus.survivors import DROPS
from stages import dedup_near
from tests.dedup_source import fates, rows_of, source
from tests.test_components import family, similarity
from tests.test_minhash import grams
from tests.toys.tree import contents

SAID = re.compile(r"survivor (\S+) score ([0-9.]+)(?: at (.*))?$", re.DOTALL)


def step(rows: list[dict[str, Any]], shards: int = 3, order: int = 0, **settings: Any) -> Step:
    return Step("dedup_near", dedup_near.Config(files=source(rows, shards, order), **settings))


def made(seed: int, families: int = 12) -> list[dict[str, Any]]:
    """Families of similar documents over a few repositories, and what must not disturb them."""
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for _ in range(families):
        for text in family(rng, rng.randint(1, 6), edits=rng.choice([1, 3, 8])):
            repo, path = f"owner/r{rng.randrange(8)}", f"src/{rng.randrange(10**6)}.py"
            stars = rng.choice([None, 0, 5, 5, 900])
            license = rng.choice([None, "MIT", "GPL-3.0-only", "MIT OR GPL-2.0-only", "nonsense ("])
            created = rng.choice([None, 1_500_000_000_000, -9])
            rows.append({"text": text, "repo": repo, "path": path, "stars": stars, "license": license, "created": created})
    rows += [{"text": ""}, {"text": ""}, {"text": "four words, no more"}, {"text": "four words, no more"}, {"text": "\0" * 99}]
    return rows


def check(rows: list[dict[str, Any]], kept: set[str], dropped: dict[str, str], threshold: float) -> None:
    """Every document has one fate; every drop names one that is kept, which it really resembles, with the true score."""
    sets = {f"{i:032x}": set(grams(row["text"])) for i, row in enumerate(rows)}
    assert kept | set(dropped) == set(sets) and not kept & set(dropped)
    for id, evidence in dropped.items():
        said = SAID.match(evidence)
        assert said, evidence
        true = similarity(sets[id], sets[said[1]])
        assert said[1] in kept
        assert true >= threshold and float(said[2]) == round(true, 4)
        row = rows[int(said[1], 16)]
        assert said[3] == f"{row['repo']}/{row['path']}"


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_a_drop_is_verified_and_its_survivor_kept(tmp_path: Path, threshold: float) -> None:
    rows = made(1, families=40)
    kept, dropped = fates(tmp_path, step(rows, threshold=threshold))
    assert len(dropped) >= 5
    check(rows, kept, dropped, threshold)
    sets = [set(grams(row["text"])) for row in rows]
    clear = [(a, b) for a in range(len(rows)) for b in range(a) if similarity(sets[a], sets[b]) >= threshold + 0.1]
    assert not [pair for pair in clear if {f"{i:032x}" for i in pair} <= kept]  # found with 0.999 and more


def test_the_better_one_survives(tmp_path: Path) -> None:
    text = " ".join(f"w{i}" for i in range(50))
    best = {"stars": 7, "license": "MIT", "created": 1_400_000_000_000}
    worse: list[dict[str, Any]] = [{"stars": 6}, {"stars": None}, {"license": "GPL-3.0-only"}, {"license": None}]
    worse += [{"created": 1_400_000_000_001}, {"created": None}, {}]
    for change in worse:
        rows = [{"text": text, **best, **change}, {"text": text, **best}]
        rows = [{**row, "id": id} for row, id in zip(rows, ["9" if not change else "1", "2"], strict=True)]
        kept, dropped = fates(tmp_path, step(rows))
        assert (kept, set(dropped)) == ({"2"}, {rows[0]["id"]}), change
    rows = [{"id": "1", "text": text, "stars": 1, "license": "MIT"}, {"id": "2", "text": text, "stars": 9}]
    assert fates(tmp_path, step(rows, survivors=("license", "stars")))[0] == {"1"}
    assert fates(tmp_path, step(rows, survivors=()))[0] == {"1"}


@pytest.mark.parametrize("level", ["file", "repository"])
def test_decisions_do_not_depend_on_where_documents_lie(tmp_path: Path, level: str) -> None:
    rows = made(2)
    first = fates(tmp_path, step(rows, shards=1, level=level))
    for shards, order in ((2, 1), (5, 2), (len(rows), 3)):
        assert fates(tmp_path, step(rows, shards, order, level=level)) == first


def test_two_documents_of_one_id_are_not_both_lost(tmp_path: Path) -> None:
    rows = [{"id": "same", "text": " ".join(f"w{i}" for i in range(50))} for _ in range(3)]
    near = step(rows)
    kept, _ = fates(tmp_path, near)
    assert kept == {"same"}
    assert (len(rows_of(tmp_path, near, "shards")), len(rows_of(tmp_path, near, "dropped"))) == (1, 2)


def test_repositories_stay_whole(tmp_path: Path) -> None:
    """A repository goes or stays with all its files, even those no other has; files of kept ones that are equal stay."""
    rng = random.Random(4)
    shared = [next(family(rng, 1, words=200)) for _ in range(5)]
    own = [next(family(rng, 1, words=40)) for _ in range(3)]
    rows = [{"repo": "a/full", "path": f"{i}.py", "text": text, "stars": 3} for i, text in enumerate([*shared, own[0]])]
    rows += [{"repo": "b/fork", "path": f"x/{i}.py", "text": text} for i, text in enumerate([own[1], *shared, "", "tiny"])]
    rows += [{"repo": "c/uses", "path": "lib.py", "text": shared[0]}, {"repo": "c/uses", "path": "new.py", "text": own[2] * 9}]
    rows += [{"path": "alone.py", "text": "\n".join([*shared, own[0]])}]
    for shards in (1, 4, len(rows)):
        dropped = fates(tmp_path, step(rows, shards, level="repository"))[1]
        repositories = {rows[int(id, 16)].get("repo") for id in dropped}
        assert repositories == {"b/fork", None}
        assert len(dropped) == 8 + 1
        sets = [set().union(*(grams(r["text"]) for r in rows if r.get("repo") == repo)) for repo in ("a/full", "b/fork")]
        told = {evidence for id, evidence in dropped.items() if rows[int(id, 16)].get("repo")}
        assert told == {f"survivor a/full score {round(similarity(*sets), 4)}"}


@pytest.mark.parametrize("level", ["file", "repository"])
def test_giant_components_are_streamed_to_the_same_end(tmp_path: Path, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = made(5, families=60)
    if level == "repository":
        rows = [{"repo": f"r{i}", "text": half} for i, row in enumerate(rows) for half in (row["text"][:99], row["text"][99:])]
    whole = fates(tmp_path / "whole", step(rows, level=level))
    monkeypatch.setattr(components, "GROUP_BYTES", 4 << 10)
    monkeypatch.setattr(components, "GIANT_BYTES", 7 << 10)
    near = step(rows, level=level)
    assert fates(tmp_path / "streamed", near) == whole
    notes = run(near, LocalEngine(tmp_path / "streamed"))["dedup_near"].notes
    assert notes["giants"] > 3 and notes["forgotten"] == 0
    monkeypatch.setattr(leaders, "WINDOW_LEADERS", 2)
    kept, dropped = fates(tmp_path / "small", near)
    assert run(near, LocalEngine(tmp_path / "small"))["dedup_near"].notes["forgotten"] > 0
    assert 0 < len(dropped) <= len(whole[1])
    if level == "file":
        check(rows, kept, dropped, 0.7)


def test_a_million_tiny_documents_and_one_huge_line(tmp_path: Path) -> None:
    """Texts without shingles cost no signature; a text of one line is read in pieces."""
    tiny = pa.array(["x"] * 1_000_000, pa.large_string())
    batch = pa.record_batch({"id": pa.array(["i"] * len(tiny)), "text": tiny})
    plan = dedup_near._Plan("file", 0.7, 256, 36, 7, (), 1, (len(tiny),), 1)
    assert dedup_near.route_keys(batch, origin=0, plan=plan).num_rows == 0
    line = "x" * 3_000_000 + " " + "a b c d e f g " * 200_000
    kept, dropped = fates(tmp_path, step([{"text": line}, {"text": line + "z"}]))
    assert len(kept) == 1 and len(dropped) == 1


def test_no_documents(tmp_path: Path) -> None:
    assert fates(tmp_path, step([], shards=0)) == (set(), {})
    assert fates(tmp_path, step([{"text": "none has five words"}], shards=4)) == ({f"{0:032x}"}, {})


def test_judge_drops_the_rows_named(tmp_path: Path) -> None:
    config = step([]).config
    table = pa.table({"id": ["a", "b", "a"], "text": ["1", None, "1"]})
    drops = pa.table({"row": [9, 3, 7], "evidence": ["nine", "three", "seven"]}, schema=DROPS)
    whole = table.to_batches()[0]
    for first, batch, expected in ((7, whole, ["seven", None, "nine"]), (8, whole[1:], [None, "nine"]), (7, whole[:0], [])):
        verdict = dedup_near.judge(batch, config, drops, first)
        assert verdict.evidence.to_pylist() == expected
        assert verdict.reason.to_pylist() == ["near_duplicate" if text else None for text in expected]
        assert verdict.batch.schema.names == ["id", "text"]
    assert dedup_near.judge(whole, config, DROPS.empty_table(), 0).reason.null_count == 3


@pytest.mark.parametrize(
    "settings",
    [{"threshold": 0}, {"threshold": 1.01}, {"values": 8}, {"values": 1001}, {"level": "folder"}, {"survivors": ("forks",)}],
)
def test_nonsense_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"dedup_near\.{next(iter(settings))} = "):
        step([], **settings)


def test_a_second_run_gives_the_same_bytes(tmp_path: Path) -> None:
    near = step(made(6))
    run(near, LocalEngine(tmp_path / "one"))
    run(near, LocalEngine(tmp_path / "two"))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_recall_on_the_standard_library(tmp_path: Path) -> None:
    """Real files with edited copies: of the pairs datasketch's LSH finds and the sets confirm, we miss a hundredth at most."""
    from datasketch import MinHash, MinHashLSH

    rng = random.Random(7)
    files = sorted(path for path in Path(sysconfig.get_paths()["stdlib"]).glob("*.py") if 2_000 < path.stat().st_size < 12_000)
    rows = []
    for path in files[:40]:
        lines = path.read_text("utf-8").splitlines()
        rows.append({"text": "\n".join(lines), "repo": "stdlib", "path": path.name})
        for i in range(2):
            few = len(lines) // rng.choice([8, 12, 20, 40])
            edited = [f"changed = {rng.random()}" if rng.randrange(len(lines)) < few else line for line in lines]
            rows.append({"text": "\n".join(edited), "repo": f"copy{i}", "path": path.name})
    kept, dropped = fates(tmp_path, step(rows))
    check(rows, kept, dropped, 0.7)
    index, sets, pairs = MinHashLSH(threshold=0.6, num_perm=128), [set(grams(row["text"])) for row in rows], []
    for i, elements in enumerate(sets):
        sketch = MinHash(num_perm=128)
        sketch.update_batch([" ".join(gram).encode() for gram in elements])
        pairs += [(i, j) for j in index.query(sketch) if similarity(elements, sets[j]) >= 0.7]
        index.insert(i, sketch)
    missed = [pair for pair in pairs if {f"{i:032x}" for i in pair} <= kept]
    assert len(pairs) > 50 and len(missed) <= len(pairs) // 100
