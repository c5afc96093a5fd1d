"""The whole code track on a small real corpus: any engine, any order of input, the same bytes; explain tells the truth."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from corpus.engine import Engine, LocalEngine
from corpus.engine_ray import RayEngine
from corpus.explain import Track, explain, token_ranges
from corpus.repository import Repository
from corpus.runner import run
from corpus.step import Step, walk
from corpus.tokens import TokenShards
from recipes.repositories import clean_files, samples
from recipes.sources import planted_benchmark
from stages import crawl_github, encode_tokens, index_benchmarks, mix, train_tokenizer

HERE = Path(__file__).resolve().parents[2]
STDLIB = Path(sysconfig.get_paths()["stdlib"])
PACKAGES = ("asyncio", "concurrent", "email", "html", "http", "importlib", "json", "logging", "unittest", "xml")


def build(copy: Path, *, backwards: bool = False) -> Step:
    packages = [Repository(path=str(STDLIB / name), name=name, kind="tree", version="1") for name in PACKAGES]
    planted = Repository(path=str(HERE / "recipes" / "planted" / "repository"), name="planted", kind="tree", version="1")
    repositories = [*packages, planted, Repository(path=str(copy), name="zcopy", kind="tree", version="1")]
    if backwards:
        repositories.reverse()
    crawl = Step("crawl_github", crawl_github.Config(repositories=tuple(repositories), before=None, repositories_per_shard=3))
    index = Step("index_benchmarks", index_benchmarks.Config(benchmarks=(planted_benchmark(),)))
    clean = clean_files(crawl, index)
    tokenizer = Step("train_tokenizer", train_tokenizer.Config(files=clean, vocab_size=1000, sample_bytes=500_000))
    code = mix.Source(name="code", files=samples(clean), share=1.0)
    mixed = Step("mix", mix.Config(sources=(code,), tokenizer=tokenizer))
    return Step("encode_tokens", encode_tokens.Config(files=mixed, tokenizer=tokenizer))


def outputs(last: Step, root: Path) -> dict[str, bytes]:
    """Every data file: step/path -> bytes. Not tokens.json, which holds a checksum of itself only."""
    found = {}
    for step in walk(last):
        for path in sorted((root / step.folder).rglob("*")):
            relative = path.relative_to(root / step.folder).as_posix()
            if path.is_file() and relative.split("/")[0] not in ("done", "step.json", ".lock"):
                found[f"{step.name}/{relative}"] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a near-duplicate of json/decoder.py, an exact one of json/scanner.py and a file of its own."""
    folder = tmp_path_factory.mktemp("zcopy")
    decoder = (STDLIB / "json" / "decoder.py").read_text()
    (folder / "decoder_of_ours.py").write_text(decoder.replace("JSONDecodeError", "OurDecodeError") + "\n# ours, edited\n")
    (folder / "scanner.py").write_text((STDLIB / "json" / "scanner.py").read_text())
    (folder / "noise.dat").write_bytes(b"\0\1\2")
    return folder


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, copy: Path) -> Path:
    root = tmp_path_factory.mktemp("root")
    run(build(copy), LocalEngine(root))
    return root


@pytest.mark.parametrize("workers", [1, 2])
def test_ray_with_any_workers_leaves_the_same_bytes(local: Path, copy: Path, tmp_path: Path, workers: int) -> None:
    engine: Engine = RayEngine(tmp_path, workers=workers)
    try:
        run(build(copy), engine)
    finally:
        engine.close()
    assert outputs(build(copy), tmp_path) == outputs(build(copy), local)


def test_the_order_of_repositories_does_not_matter(local: Path, copy: Path, tmp_path: Path) -> None:
    run(build(copy, backwards=True), LocalEngine(tmp_path))
    assert outputs(build(copy, backwards=True), tmp_path) == outputs(build(copy), local)


def lines(copy: Path, root: Path, query: str) -> list[str]:
    return list(explain(build(copy), root, query))


def test_explain_a_kept_file_ends_in_tokens_that_decode_to_its_text(local: Path, copy: Path) -> None:
    last = build(copy)
    clean = next(step for step in walk(last) if step.name == "decontaminate")
    shards = [pq.read_table(path, columns=["id", "text"]) for path in (local / clean.folder / "shards").glob("*.parquet")]
    lineage_of = next(step for step in walk(last) if step.name == "concatenate_repos")
    rows = [r for p in (local / lineage_of.folder / "lineage").glob("*.parquet") for r in pq.read_table(p).to_pylist()]
    lineage = {row["id"]: row for row in rows}
    pieces, checked = set(), 0
    for table in shards:
        for row in table.to_pylist()[::2]:
            where = lineage.get(row["id"])
            text = row["text"].encode()
            track = Track(where["into"], text, where["start"], where["stop"]) if where else Track(row["id"], text)
            _, ranges, decoded = token_ranges(local / last.folder, track)
            # A sample's cut for fill-in-the-middle may fall into the file; its pieces are found and put in order.
            assert text in decoded and len(decoded) - len(text) < 40, row["id"]
            pieces.add(len(ranges))
            checked += 1
    assert checked > 40 and {1, 2} <= pieces
    told = lines(copy, local, "json/decoder.py") + lines(copy, local, "asyncio/locks.py")
    assert sum("they decode to its text" in line for line in told) == 2, told


def test_explain_a_dropped_file_ends_in_reason_and_evidence(local: Path, copy: Path) -> None:
    told = lines(copy, local, "planted/src/ferries.py")
    assert told[-1].split()[:3] == ["decontaminate", "dropped", "contaminated:"]
    assert "benchmark planted" in told[-1] and "ferry_crossings" in told[-1]
    told = lines(copy, local, "zcopy/noise.dat")
    assert told[-1].split()[:3] == ["crawl_github", "dropped", "binary:"]


def test_explain_a_duplicate_ends_in_its_survivor_and_score(local: Path, copy: Path) -> None:
    """Which of a pair survives is decided by id: whichever does not ends in the other, and the other was kept."""
    for ours, theirs, step in (("zcopy/decoder_of_ours.py", "json/decoder.py", "dedup_near"),
                               ("zcopy/scanner.py", "json/scanner.py", "dedup_exact")):  # fmt: skip
        fates = {name: lines(copy, local, name) for name in (ours, theirs)}
        (loser,) = [name for name, told in fates.items() if told[-1].split()[0] == step]
        winner = theirs if loser == ours else ours
        assert "tokens" in fates[winner][-1]
        id_of_winner = fates[winner][0].rpartition(" ")[2]
        assert id_of_winner in fates[loser][-1] and winner in fates[loser][-1]
        if step == "dedup_near":
            score = float(re.search(r"score ([\d.]+)", fates[loser][-1])[1])  # type: ignore[index]
            assert 0.7 <= score < 1


def test_the_shards_hold_every_sample(local: Path, copy: Path) -> None:
    shards = TokenShards(local / build(copy).folder)
    table = pq.read_table(local / build(copy).folder / "documents.parquet")
    assert shards.documents == table.num_rows and shards.tokens == sum(table.column("count").to_pylist())
    assert all(shards.document(i)[-1] == shards.special["eos"] for i in range(shards.documents))
