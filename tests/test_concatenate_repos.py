"""Samples of repositories: every file's text is where the lineage says, whatever the shards, and v1's order holds."""

from __future__ import annotations

import json
import random
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.comments import comment_lines
from corpus.dependencies import resolve
from corpus.document import SCHEMA, Verdict, batch_of, document_id, keep_all
from corpus.engine import Engine, LocalEngine
from corpus.errors import ConfigError
from corpus.imports import Names, names_in
from corpus.report import Report
from corpus.runner import run as run_recipe
from corpus.shards import Items
from corpus.step import Step
from stages import concatenate_repos
from stages.concatenate_repos import judge, route

Rows = list[dict[str, Any]]


# --- This module is also the stage that the others read from: documents given as JSON, one string per shard --------------

REVISION = 1
REASONS: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Config:
    shards: tuple[str, ...] = ()


def give(item: str) -> Iterator[Verdict]:
    yield keep_all(batch_of(json.loads(item)))


def run(config: Config, out: Path, engine: Engine) -> Report:
    return engine.map_shards(partial(give), Items(config.shards), out)


NO_FILES = Step("files", Config())


def config(**settings: Any) -> concatenate_repos.Config:
    return concatenate_repos.Config(**({"files": NO_FILES} | settings))


def row(repo: str | None, path: str | None, text: str, lang: str | None = "Python", **more: Any) -> dict[str, Any]:
    return {"id": document_id(f"{repo}/{path}"), "repo": repo, "path": path, "text": text, "lang": lang} | more


def outcome(rows: Rows, **settings: Any) -> tuple[Rows, Rows, Rows]:
    """(kept as they are, samples, lineage) of a batch of `rows`; checks that every one is accounted for."""
    verdicts = list(judge(batch_of(rows), config(**settings)))
    kept, made, lineage = [], [], []
    for verdict in verdicts:
        assert verdict.reason.null_count == len(verdict.reason)
        if verdict.made is None:
            kept += verdict.batch.to_pylist()
        else:
            assert verdict.made.schema == SCHEMA
            verdict.made.validate(full=True)
            made += verdict.made.to_pylist()
            lineage += verdict.lineage.to_pylist()
            assert [entry["id"] for entry in verdict.lineage.to_pylist()] == verdict.batch.column("id").to_pylist()
    assert sorted(r["id"] for r in kept + lineage) == sorted(r["id"] for r in rows)
    return kept, made, lineage


def law(rows: Rows, made: Rows, lineage: Rows, limit: int = 512 << 10, separator: str = "") -> dict[str, list[str]]:
    """The lineage law, and what may stand between two texts. sample id -> its files' ids in order."""
    sources = {r["id"]: r for r in rows}
    samples = {r["id"]: r for r in made}
    assert len(samples) == len(made)
    members = defaultdict(list)
    stops: dict[str, int] = defaultdict(int)
    previous: dict[str, str] = defaultdict(str)
    for entry in lineage:
        file, sample = sources[entry["id"]], samples[entry["into"]]
        text = sample["text"].encode()
        assert text[entry["start"] : entry["stop"]] == file["text"].encode()
        assert file["repo"] == sample["repo"]
        before = text[: stops[sample["id"]]]
        between = text[len(before) : entry["start"]].decode()
        head = comment_lines(pa.array([file["path"]], pa.string()), pa.array([file["lang"]], pa.string()))[0].as_py()
        gap = ("\n" if previous[sample["id"]] not in ("", "\n") else "") + separator if before or members[sample["id"]] else ""
        assert between in (gap, gap + head)
        previous[sample["id"]] = file["text"][-1:]
        stops[sample["id"]] = entry["stop"]
        members[sample["id"]].append(file["id"])
    for sample in made:
        files = members[sample["id"]]
        assert stops[sample["id"]] == len(sample["text"].encode())
        assert json.loads(sample["meta"])["files"] == len(files) > 0
        assert len(files) == 1 or len(sample["text"].encode()) <= limit
        assert sample["path"] == (sources[files[0]]["path"] if len(files) == 1 else None)
    return dict(members)


TEXTS = st.one_of(st.text(max_size=30), st.sampled_from(["", "\n", "a", "a\n", "\r", "\0", "  x", "é\n", "\U0001f600"]))
FILES = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c/d", None]),
        st.one_of(st.none(), st.text(max_size=8)),
        TEXTS,
        st.sampled_from(["Python", "C", "HTML", "Java", "C#", None]),
    ),
    max_size=12,
).map(lambda files: [row(*file) | {"id": document_id(str(i))} for i, file in enumerate(files)])


@settings(deadline=None, max_examples=80)
@given(rows=FILES, limit=st.integers(1, 120), data=st.data())
def test_every_file_is_where_the_lineage_says(rows: Rows, limit: int, data: st.DataObject) -> None:
    chosen: dict[str, Any] = {
        "max_bytes": limit,
        "order": data.draw(st.sampled_from(["random", "dependency"])),
        "path_comments": data.draw(st.booleans()),
        "separator": data.draw(st.sampled_from(["", "<|file|>\n"])),
        "languages": data.draw(st.sampled_from([(), ("Python", "HTML")])),
    }
    kept, made, lineage = outcome(rows, **chosen)
    law(rows, made, lineage, limit, chosen["separator"])
    alone = [r for r in rows if r["repo"] is None or (chosen["languages"] and r["lang"] not in chosen["languages"])]
    assert sorted((r["id"], r["text"]) for r in kept) == sorted((r["id"], r["text"]) for r in alone)
    shuffled = data.draw(st.permutations(rows))
    again = outcome(shuffled, **chosen)
    assert (again[0], again[1], again[2]) == (kept, made, lineage)


@settings(deadline=None, max_examples=40)
@given(rows=FILES)
def test_a_slice_is_judged_like_a_copy(rows: Rows) -> None:
    filler = [row("z", f"{i}", "x" * i) for i in range(3)]
    whole = batch_of(filler + rows + filler).slice(3, len(rows))
    for ours, theirs in zip(judge(whole, config()), judge(batch_of(rows), config()), strict=True):
        assert ours.batch.equals(theirs.batch)
        assert ours.made is None or (ours.made.equals(theirs.made) and ours.lineage.equals(theirs.lineage))


def test_borders_comments_and_separator() -> None:
    rows = [row("r", "a.py", "x = 1"), row("r", "b.c", "int y;\n", "C"), row("r", "c.html", "", "HTML")]
    _, [sample], _ = outcome(rows, separator="<sep>")
    pieces = {"# a.py\nx = 1", "// b.c\nint y;", "<!-- c.html -->"}
    assert {piece.rstrip("\n") for piece in sample["text"].split("<sep>")} == pieces
    assert all(piece.endswith("\n") for piece in sample["text"].split("<sep>")[:-1])
    _, [plain], _ = outcome(rows[:2], path_comments=False)
    assert plain["text"] in ("x = 1\nint y;\n", "int y;\nx = 1")


def test_samples_are_cut_at_files_and_a_large_file_is_its_own() -> None:
    rows = [row("r", f"{i}", "x" * (10 + i)) for i in range(20)] + [row("r", "large", "y" * 500)]
    _, made, lineage = outcome(rows, max_bytes=100, path_comments=False)
    members = law(rows, made, lineage, 100)
    assert [document_id("r/large")] in members.values()
    assert sum(map(len, members.values())) == 21 and len(made) <= 8


def test_what_a_sample_says_about_its_files() -> None:
    rows = [
        row("r", "a", "x" * 100, "C", source="s", license="MIT", commit="1", url="u", created=1_000),
        row("r", "b", "x" * 50, "C++", source="s", license="MIT", commit="1", url="v", created=2_000),
        row("q", "a", "x" * 50, "C", license="MIT"),
        row("q", "b", "x" * 50, "C++"),
        row("p", "a", "x", "Lua", url="u", commit="2"),
        row("o", "a", "", None),
        row("o", "b", "x", "C"),
    ]
    _, made, _ = outcome(rows)
    by = {r["repo"]: r for r in made}
    assert [by["r"][k] for k in ("source", "license", "commit", "url", "path", "lang")] == ["s", "MIT", "1", None, None, "C"]
    assert by["r"]["created"].timestamp() == 2
    assert [by["q"][k] for k in ("source", "license", "lang", "created", "parent")] == [None] * 5
    assert [by["p"][k] for k in ("url", "path", "commit", "lang")] == ["u", "a", "2", "Lua"]
    assert by["o"]["lang"] is None


def test_the_seed_changes_the_order_and_nothing_else() -> None:
    rows = [row("r", f"{i}", f"{i}\n") for i in range(30)]
    orders = set()
    for seed in range(4):
        _, [sample], _ = outcome(rows, seed=seed, path_comments=False)
        orders.add(sample["text"])
        assert sorted(sample["text"].split()) == sorted(str(i) for i in range(30))
    assert len(orders) == 4


def test_dependency_order_splits_components_and_keeps_others_together() -> None:
    rows = [
        row("r", "main.py", "import util"),
        row("r", "util.py", "import base"),
        row("r", "base.py", ""),
        row("r", "alone.py", "import os"),
        row("r", "a.h", '#include "b.hpp"', "C"),
        row("r", "b.hpp", "", "C++"),
        row("r", "x.md", "words", "Markdown"),
        row("r", "y.md", "words", "Markdown"),
        row("q", "util.py", ""),
        row("r", None, "import util"),
        row("r", "huge.py", "import util\n" + "#" * (1 << 20)),
    ]
    _, made, lineage = outcome(rows, order="dependency")
    verdicts = judge(batch_of(rows), config(order="dependency"))
    assert sum(verdict.notes.get("unparsed", 0) for verdict in verdicts) == 1
    names = {r["id"]: f"{r['repo']}/{r['path']}" for r in rows}
    found = [[names[i] for i in files] for files in law(rows, made, lineage).values()]
    others = [files for files in found if "r/x.md" in files]
    assert sorted(others[0]) == ["r/None", "r/x.md", "r/y.md"]
    rest = sorted(files for files in found if files not in others)
    assert rest == [["q/util.py"], ["r/alone.py"], ["r/b.hpp", "r/a.h"], ["r/base.py", "r/util.py", "r/main.py"], ["r/huge.py"]]
    assert [json.loads(m["meta"]) for m in made if m["path"] == "huge.py"] == [{"files": 1, "unparsed": 1}]


def test_cycles_end_with_every_file_once() -> None:
    rows = [row("r", f"m{i}.py", f"import m{(i + 1) % 9}, m{(i * 4) % 9}") for i in range(9)]
    _, [sample], lineage = outcome(rows, order="dependency")
    law(rows, [sample], lineage)


def packages(*names: str) -> Rows:
    """Python packages of this machine as repositories."""
    root = Path(sysconfig.get_paths()["stdlib"])
    rows = []
    for name in names:
        for file in sorted((root / name).rglob("*.py")):
            if "tests" not in file.parts and "__pycache__" not in file.parts:
                rows.append(row(name, file.relative_to(root).as_posix(), file.read_text("utf-8")))
    return rows


def test_real_packages_in_dependency_order() -> None:
    rows = packages("email", "json", "asyncio", "concurrent", "importlib", "multiprocessing", "xml")
    _, made, lineage = outcome(rows, order="dependency", max_bytes=1 << 30)
    members = law(rows, made, lineage, 1 << 30)
    place = {file: (sample, at) for sample, files in members.items() for at, file in enumerate(files)}
    ordered = 0
    for repo in {r["repo"] for r in rows}:
        files = [r for r in rows if r["repo"] == repo]
        names = [names_in(r["text"].encode(), "Python") or Names((), ()) for r in files]
        needs = resolve([r["path"] for r in files], ["Python"] * len(files), names)
        assert sum(map(len, needs)) >= len(files) - 4, repo  # imports of real packages are found
        reach = reachable(needs)
        for i, found in enumerate(needs):
            for j in found:
                a, b = place[files[i]["id"]], place[files[j]["id"]]
                assert a[0] == b[0]
                if not any(k in reach[k] for k in reach[i]):  # no cycle anywhere under i
                    assert b[1] < a[1]
                    ordered += 1
    assert ordered > 50


def reachable(needs: list[set[int]]) -> list[set[int]]:
    closed = [set(n) for n in needs]
    for _ in needs:
        closed = [n.union(*(closed[j] for j in n)) for n in closed]
    return closed


def documents(root: Path, rows: Rows, shards: int, **settings: Any) -> tuple[Rows, Rows, Report]:
    """Documents and lineage after a real run over `rows` dealt to `shards` shards."""
    random.Random(shards).shuffle(rows)
    files = Step("files", Config(shards=tuple(json.dumps(rows[i::shards]) for i in range(shards))))
    step = Step("concatenate_repos", config(files=files, **settings))
    sys.modules.setdefault(Config.__module__, sys.modules[__name__])
    engine = LocalEngine(root)
    report = run_recipe(step, engine)["concatenate_repos"]
    report.check("concatenate_repos", len(rows))
    shards_ = engine.shards(step)
    out = [r for name in shards_.names for batch in shards_.read(name) for r in batch.to_pylist()]
    lineage = [r for f in (root / step.folder / "lineage").glob("*") for r in pq.read_table(f).to_pylist()]
    return sorted(out, key=lambda r: r["id"]), sorted(lineage, key=lambda r: (r["into"], r["start"], r["stop"])), report


@pytest.mark.parametrize("order", ["random", "dependency"])
def test_shards_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str) -> None:
    monkeypatch.setattr(concatenate_repos, "partitions_for", lambda weight: 3)
    rows = [*packages("email", "json", "xml"), row(None, "alone.py", "x = 1\n"), row("one", "file.py", "y = 2\n")]
    one, several = (documents(tmp_path / str(n), list(rows), n, order=order, max_bytes=60_000) for n in (1, 4))
    assert one[:2] == several[:2]
    law(rows, [r for r in one[0] if r["id"] != document_id("None/alone.py")], several[1], 60_000)
    report = several[2]
    assert (report.kept, report.merged, report.created) == (1, len(rows) - 1, len(one[0]) - 1)


def test_routes_keep_repositories_together_and_spread_the_rest() -> None:
    rows = [row("r", f"{i}", "") for i in range(50)] + [row(None, f"{i}", "") for i in range(200)]
    rows += [row("r", f"c{i}", "", "C") for i in range(200)]
    sent = route(batch_of(rows), 0, config=config(languages=("Python",)), partitions=7).column("partition").to_pylist()
    assert len(set(sent[:50])) == 1 and set(sent[50:250]) == set(sent[250:]) == set(range(7))
    assert route(batch_of([]), 0, config=config(), partitions=7).num_rows == 0


def test_no_documents() -> None:
    [verdict] = judge(batch_of([]), config())
    assert verdict.batch.schema == SCHEMA and verdict.made is None


@pytest.mark.parametrize("wrong", [{"order": "alphabetical"}, {"max_bytes": 0}, {"seed": -1}, {"languages": ("Pithon",)}])
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        config(**wrong)


def test_a_million_small_files_are_judged_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concatenate_repos, "ROWS", 100)
    rows = [row(f"r{i % 40}", f"{i}", "x") for i in range(1000)]
    sizes = [v.batch.num_rows for v in judge(batch_of(rows), config())]
    assert sum(sizes) == 1000 and max(sizes) <= 100
    _, made, lineage = outcome(rows)
    law(rows, made, lineage)
    assert len(made) == 40
