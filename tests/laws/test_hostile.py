"""Everything a repository may throw at the code track, in one run: it ends, every file has a fate, what is kept is intact."""

from __future__ import annotations

import codecs
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
import pytest

from corpus.engine import LocalEngine
from corpus.explain import explain
from corpus.repository import Repository, resolve_all
from corpus.repository_files import path_text
from corpus.runner import run
from corpus.shards import BATCH_BYTES
from corpus.step import Step, walk
from corpus.tokens import TokenShards, decode_document, token_bytes
from recipes.sources import planted_benchmark
from stages import (
    concatenate_repos,
    crawl_github,
    decontaminate,
    dedup_exact,
    dedup_near,
    detect_language,
    encode_tokens,
    filter_code,
    index_benchmarks,
    mix,
    train_tokenizer,
)
from tests.git_servers import git

PLANTED = Path(__file__).resolve().parents[2] / "recipes" / "planted" / "repository" / "src" / "ferries.py"
MAX_BYTES = 24 << 20
TINY = 20_000
NO_RULES = {
    "max_mean_line": 1e12, "max_line": 1 << 40, "min_alphabetic": 0.0, "xml_head": 0, "min_visible_share": 0.0,
    "min_visible": 0, "min_data": 0, "max_data": 1 << 40,
}  # fmt: skip


def code(seed: int, lines: int = 40) -> bytes:
    names = ("river", "bridge", "ferry", "harbour", "lantern", "orchard", "meadow", "quarry")
    return b"".join(
        f"def {names[(i * seed) % 8]}_{i}_{seed}(a):\n    return a + {i * seed}  # {names[i % 8]}\n".encode()
        for i in range(lines)
    )


def utf16(text: bytes) -> bytes:
    return codecs.BOM_UTF16_LE + text.decode().encode("utf-16-le")


def hostile() -> dict[bytes, bytes]:
    """Path -> content, bytes both."""
    cjk = "".join(chr(0x4E00 + i * 37 % 20000) for i in range(4000))
    names = {
        b"new\nline.py": code(3), b"not\xffutf8.py": code(5), b"c1\x85.py": code(7), "c1\x85.py".encode(): code(9),
        b"back\\x0aslash.py": code(11), b"back\nslash.py": code(13), b"-rf": code(15), b"\"'$(x)`.py": code(17),
        "\u202egnp.py".encode(): code(19), b"a" * 250 + b".py": code(21), b"jquery" + b".1" * 60 + b"!": code(23),
        b"deep/" * 300 + b"er.py": code(25), b"{}.py": code(27),
    }  # fmt: skip
    encodings = {
        b"nul.py": code(29) + b"\0", b"utf16.py": utf16(code(31)), b"bom.py": codecs.BOM_UTF8 + code(33),
        b"utf16be.py": codecs.BOM_UTF16_BE + code(35).decode().encode("utf-16-be"), b"odd16.py": utf16(code(37)) + b"x",
        b"surrogate.py": utf16(code(39)) + b"\x00\xd8" + utf16(code(41))[2:],
        b"surrogates.py": codecs.BOM_UTF16_LE + b"\x00\xdc" * 99,
        b"latin1.py": code(43) + b"# caf\xe9\n", b"cesu.py": code(45) + b"# \xed\xa0\x80\n",
        b"overlong.py": code(47) + b"# \xc0\xaf\n",
        b"escapes.json": b'{"text": "\\ud800 and some more words, so that it is long enough to be kept"}',
        b"only_bom": codecs.BOM_UTF8, b"only_bom16": codecs.BOM_UTF16_LE, b"empty.py": b"", b"ff.bin": b"\xff" * 5000,
    }  # fmt: skip
    texts = {
        b"blank.py": b" \t\r\n\x0b\x0c" * 900, b"nbsp.py": "\u00a0\u3000\u2003\u200b".encode() * 900,
        b"emoji.py": "👩‍👧🏽🇳🇴".encode() * 900, b"marks.py": b"\xcc\x81" * 4000,
        b"zalgo.py": ("a" + "\u0301\u0489" * 60).encode() * 90,
        b"rtl.py": "def שלום(عدد):\n    return عدد  # مرحبا بالعالم\n".encode() * 60, b"cjk.txt": cjk.encode(),
        b"thai.txt": "กขฃคฅฆงจฉชซ".encode() * 900, b"planes.txt": "".join(map(chr, range(0x1F000, 0x20800))).encode(),
        b"specials.py": code(49) + "<｜end▁of▁sentence｜><｜fim▁begin｜>x<｜fim▁hole｜>y<｜fim▁end｜>\n".encode() * 9,
        b"cr.py": code(51).replace(b"\n", b"\r"), b"letters.txt": b"acgt" * 500_000,
        b"long.py": b"incomprehensibilities " * ((20 << 20) // 22),
        b"repeat.py": b"a b c d e\n" * 50_000, b"contaminated.py": PLANTED.read_bytes(),
    }  # fmt: skip
    syntax = {
        b"deep.html": b"<div>" * 10_000 + b"<p>Some words that are seen." * 300 + b"</div>" * 10_000,
        b"script.html": b"<html><p>words</p><script>" + b"if (a < b) { x('</p>') } " * 2000,
        b"comment.html": b"<html><!-- " + b"<p>words " * 2000, b"quote.html": b'<a href="' + b"<p>words " * 2000,
        b"lt.html": b"<" * 60_000, b"ref.html": b"&" * 60_000, b"bad.yaml": b"- {[&a *a !!x : | >\n" * 90,
        b"deep.json": b"[" * 100_000, b"bad.xml": b"<?xml version=" * 400, b"lt.java": b"class A { a" + b"<a" * 32_768,
        b"spaces.cs": b"namespace a {" * 9_000, b"not.py": b"import " + b"not :not " * 1700 + b"\n" + b"from a import (" * 4000,
        b"raw.cpp": b'#include "' * 9_000 + b' R"x(' * 9_000, b"comment.c": b"/*/" * 20_000, b"quotes.py": b"'''\"\"\"" * 9_000,
        b"pointer.bin": b"version https://git-lfs.github.com/spec/v1\n{ \"not\": json }\n",
        b"generated.go": b"generated " * 9_000,
        b"LICENSE": b"SPDX-License-Identifier: " + b"(" * 190 + b"\n" + code(53),
        b"spdx.py": b"# SPDX-License-Identifier: " + b"(MIT OR " * 400,
        b"modeline.pl": b"-*- mode: " * 4000, b"shebang": b"#!" + b"/usr/bin/env -S " * 4000,
    }  # fmt: skip
    copies = {b"copy1.py": code(55), b"copy2.py": code(55), b"near.py": code(55) + b"# an edit at the very end of it\n"}
    return names | encodings | texts | syntax | copies


def write(folder: Path, files: dict[bytes, bytes]) -> Path:
    folder.mkdir()
    root = os.fsencode(folder)
    for path, data in files.items():
        where = os.path.join(root, path)
        os.makedirs(os.path.dirname(where), exist_ok=True)
        with open(where, "wb") as file:
            file.write(data)
    return folder


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> tuple[Repository, ...]:
    home = tmp_path_factory.mktemp("hostile")
    files = hostile()
    tree, work = write(home / "tree", files), write(home / "work", files)
    with open(tree / "huge.py", "wb") as huge:
        huge.truncate(300 << 20)
    os.mkfifo(tree / "pipe.py")
    (work / "large.py").write_bytes(bytes(MAX_BYTES + 1))
    for folder in (tree, work):
        (folder / "loop").symlink_to(".")
        (folder / "nowhere").symlink_to("/nonexistent/x")
    git(work, "init", "--quiet", "--initial-branch=main")
    git(work, "-c", "core.bigFileThreshold=1m", "add", "--all")
    git(work, "update-index", "--add", "--cacheinfo", "160000," + "1" * 40 + ",sub")
    git(work, "commit", "--quiet", "--message", "all of it")
    write(home / "tiny", {b"%d/%d.txt" % (i % 50, i): bytes([i % 256]) for i in range(TINY)})
    write(home / "fork", {b"copy.py": files[b"copy1.py"], b"b.py": code(57)})
    write(home / "mirror", {b"copy.py": files[b"copy1.py"], b"b.py": code(57)})
    (home / "bare").mkdir()
    git(home, "init", "--quiet", "--bare", "empty.git")
    trees = [
        Repository(path=str(home / name), name=name, kind="tree") for name in ("tree", "tiny", "fork", "mirror", "bare", "gone")
    ]
    return (
        *trees,
        Repository(path=str(work), name="work", stars=5),
        Repository(path=str(home / "empty.git"), name="empty"),
        Repository(url=f"file://{home}/no/such.git", name="missing"),
        Repository(url="git://127.0.0.1:1/no/such.git", name="unreachable"),
    )


def build(
    repositories: tuple[Repository, ...],
    level: Literal["file", "repository"],
    order: Literal["random", "dependency"],
    per_shard: int | None = None,
    **rules: Any,
) -> Step:
    crawl = crawl_github.Config(
        repositories=repositories, before=None, max_bytes=MAX_BYTES, attempts=1, repositories_per_shard=per_shard
    )
    languages = Step("detect_language", detect_language.Config(files=Step("crawl_github", crawl)))
    files = Step("filter_code", filter_code.Config(files=languages, **rules))
    exact = Step("dedup_exact", dedup_exact.Config(files=files, level=level))
    near = Step("dedup_near", dedup_near.Config(files=exact, level=level, threshold=0.8))
    index = Step("index_benchmarks", index_benchmarks.Config(benchmarks=(planted_benchmark(),)))
    clean = Step("decontaminate", decontaminate.Config(files=near, index=index))
    joined = Step("concatenate_repos", concatenate_repos.Config(files=clean, order=order))
    tokenizer = Step("train_tokenizer", train_tokenizer.Config(files=clean, vocab_size=500, sample_bytes=100_000_000))
    source = mix.Source(name="code", files=joined, share=1.0)
    mixed = Step("mix", mix.Config(sources=(source,), tokenizer=tokenizer))
    return Step("encode_tokens", encode_tokens.Config(files=mixed, tokenizer=tokenizer))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


def rows(root: Path, step: Step, kind: str, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    for path in sorted((root / step.folder / kind).glob("*.parquet")):
        yield from pq.read_table(path, columns=columns).to_pylist()


def check_tokens(root: Path, last: Step) -> int:
    """Every sequence decodes to the text it was made from; how many."""
    mixed = next(step for step in walk(last) if step.name == "mix")
    texts = {row["id"]: row["text"].encode() for row in rows(root, mixed, "shards", ["id", "text"])}
    shards = TokenShards(root / last.folder)
    table = token_bytes(shards.tokenizer_path)
    for row in pq.read_table(root / last.folder / "documents.parquet").to_pylist():
        ids = shards.ids(row["shard"], row["first"], row["count"])
        assert decode_document(ids, table, shards.special) == texts.pop(row["id"])
    assert not texts
    return shards.documents


def fates(root: Path, last: Step) -> dict[tuple[str, str | None], tuple[str, str | None]]:
    """(repository, path) -> (reason, evidence), or ("kept", None), of every row up to decontamination."""
    found: dict[tuple[str, str | None], tuple[str, str | None]] = {}
    for step in walk(last):
        dropped = list(rows(root, step, "dropped", ["repo", "path", "reason", "evidence"]))
        for row in dropped:
            assert (row["repo"], row["path"]) not in found and row["evidence"], row
            found[row["repo"], row["path"]] = (row["reason"], row["evidence"])
        if step.name == "decontaminate":
            kept = {(row["repo"], row["path"]): ("kept", None) for row in rows(root, step, "shards", ["repo", "path"])}
            assert not kept.keys() & found.keys()
            return found | kept
    raise AssertionError("no step decontaminate")


@pytest.mark.parametrize(
    ("level", "order", "rules"),
    [
        ("file", "random", {}),
        ("file", "dependency", NO_RULES),
        ("file", "random", NO_RULES),
        ("repository", "random", NO_RULES),
        ("repository", "dependency", NO_RULES),
    ],
    ids=["rules", "file-dependency", "file-random", "repository-random", "repository-dependency"],
)
def test_it_ends_and_nothing_vanishes(
    repositories: tuple[Repository, ...], root: Path, level: Any, order: Any, rules: dict[str, Any]
) -> None:
    last = build(repositories, level, order, **rules)
    for name, report in run(last, LocalEngine(root)).items():
        report.check(name)
    found = fates(root, last)
    ends = {path_text(path) for path in hostile()} | {"loop", "nowhere"}
    assert {path for repo, path in found if repo == "tree"} == ends | {"huge.py", "pipe.py"}
    assert {path for repo, path in found if repo == "work"} == ends | {"large.py", "sub"}
    assert sum(repo == "tiny" for repo, _ in found) == TINY
    why = {repo: reason for (repo, path), (reason, _) in found.items() if path is None}
    assert why == {
        "bare": "repository_empty", "empty": "repository_empty", "gone": "repository_failed",
        "missing": "repository_failed", "unreachable": "repository_failed",
    }  # fmt: skip
    assert found["tree", "huge.py"] == ("too_large", f"{300 << 20} bytes")
    assert check_tokens(root, last) > 0
    kept = Counter(repo for (repo, _), (reason, _) in found.items() if reason == "kept")
    assert (kept["fork"] > 0) != (kept["mirror"] > 0)


def test_explain_knows_every_file(repositories: tuple[Repository, ...], root: Path) -> None:
    last = build(repositories, "file", "dependency", **NO_RULES)
    run(last, LocalEngine(root))
    ends = Counter[str]()
    for (repo, path), (reason, _) in fates(root, last).items():
        if (repo == "tree" and reason == "exact_duplicate" and len(str(path)) % 3) or (
            repo == "tiny" and "/9999" not in str(path)
        ):
            continue
        told = list(explain(last, root, f"{repo}/{path}" if path else repo))[-1]
        ends[told.split()[0]] += 1
        if reason == "kept":
            assert told.startswith("encode_tokens") and "decode to its text" in told and " NOT " not in told, told
        else:
            assert f" {reason}: " in told, told
    assert ends["encode_tokens"] > 20 and ends["crawl_github"] > 10 and ends["dedup_exact"] > 10


def test_shards_decide_nothing(repositories: tuple[Repository, ...], root: Path, tmp_path: Path) -> None:
    """The same fates, evidence included, with every repository in a shard of its own and all of them in one."""
    for level in ("file", "repository"):
        one, other = (build(repositories, level, "random", n, **NO_RULES) for n in (1, 100))
        stop = (
            {step.name: step for step in walk(one)}["decontaminate"],
            {step.name: step for step in walk(other)}["decontaminate"],
        )
        run(stop[0], LocalEngine(tmp_path))
        run(stop[1], LocalEngine(tmp_path))
        assert fates(tmp_path, one) == fates(tmp_path, other)


def test_a_batch_is_full_when_paths_fill_it(tmp_path: Path) -> None:
    """Trees that share subtrees make paths of any length for nothing, and a column of paths may not pass 2 GiB."""
    git(tmp_path, "init", "--quiet", "--bare")
    entry = "100644 blob " + git(tmp_path, "hash-object", "-w", "--stdin", stdin=code(3))
    for _ in range(4):
        lines = [f"{entry}\t{letter * 4000}\0" for letter in "abcdefg"]
        entry = "040000 tree " + git(tmp_path, "mktree", "-z", stdin="".join(lines).encode())
    commit = git(tmp_path, "commit-tree", entry.rpartition(" ")[2], "-m", "paths")
    git(tmp_path, "update-ref", "HEAD", commit)
    config = crawl_github.Config(repositories=(Repository(path=str(tmp_path), name="r"),), before=None)
    batches = [verdict.batch for verdict in crawl_github.crawl(tuple(resolve_all(config.repositories)), config)]
    assert sum(batch.num_rows for batch in batches) == 7**4
    assert max(batch.nbytes for batch in batches) < 2 * BATCH_BYTES
