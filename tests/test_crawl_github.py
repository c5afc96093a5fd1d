"""crawl_github: over real servers, from this machine, and what becomes of everything that is wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from corpus.clone import sweep
from corpus.document import SCHEMA, text_bytes
from corpus.engine import LocalEngine
from corpus.errors import ConfigError, InputError, StorageError
from corpus.git_process import git_environment
from corpus.repository import Repository, resolve_all
from corpus.repository_files import File
from corpus.shards import BATCH_BYTES
from corpus.step import Step
from stages.crawl_github import REASONS, Config, Origin, check, crawl, documents, run
from tests.git_servers import git, git_daemon, make_repository, smart_http

EARLY, LAST_SECOND, CUT_OFF, LATE = (
    "2015-01-01T00:00:00+00:00",
    "2023-10-31T23:59:59+00:00",
    "2023-11-01T00:00:00+00:00",
    "2024-05-01T00:00:00+00:00",
)


@pytest.fixture(autouse=True)
def scratch(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Clones go here, and nothing may be left of them."""
    folder = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.delenv("GITHUB_TOKEN", raising=False)
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root of bare repositories: three whose newest commit is too new, one that is old, one all new, one empty."""
    root = tmp_path_factory.mktemp("served")
    for i in range(3):
        # The gap between the cut-off and the commit before it: seconds, and more than each window of corpus/clone.py.
        before = (LAST_SECOND, "2023-05-01T00:00:00+00:00", EARLY)[i]
        content = {"a.py": b"print(%d)\n" % i, "b/\xe9.txt": b"caf\xe9\n", "big.bin": bytes(range(1, 256)) * 8000}
        make_repository(
            root / f"work{i}",
            (EARLY, content),
            (before, {"a.py": b"kept\n" * i}),
            (CUT_OFF, {"a.py": b"too new"}),
            (LATE, {"c.py": b"newest"}),
        )
    make_repository(root / "old", (EARLY, {"a.py": b"1"}))
    make_repository(root / "new", (CUT_OFF, {"a.py": b"1"}))
    make_repository(root / "empty")
    for work in [*root.iterdir()]:
        git(root, "clone", "--quiet", "--bare", str(work), f"{work.name}.git")
    git(root / "empty.git", "symbolic-ref", "HEAD", "refs/heads/main")
    return root


NAMES = ("empty", "missing", "new", "old", "work0", "work1", "work2")


def crawled(config: Config) -> list[dict[str, Any]]:
    """Every row of a crawl, kept or dropped, with its reason and evidence."""
    rows = []
    for verdict in crawl(tuple(resolve_all(config.repositories)), config):
        verdict.batch.validate(full=True)
        assert verdict.batch.schema.names == [*SCHEMA.names, "stars", "vendored", "generated", "encoding"]
        for row, reason, evidence in zip(
            verdict.batch.to_pylist(), verdict.reason.to_pylist(), verdict.evidence.to_pylist(), strict=True
        ):
            assert reason is None or (reason in REASONS and row["text"] == "" and evidence)
            rows.append(row | {"reason": reason, "evidence": evidence})
    return rows


def over(address: str, **fields: Any) -> Config:
    at = tuple(Repository(url=f"{address}/{name}.git", name=name) for name in NAMES)
    return Config(**({"repositories": at, "backoff_s": 0.01} | fields))


def in_place(root: Path, **fields: Any) -> Config:
    at = tuple(Repository(path=f"{root}/{name}.git", name=name) for name in NAMES if name != "missing")
    return Config(**({"repositories": at} | fields))


def essence(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What must not depend on how a repository was reached."""
    columns = ("id", "repo", "path", "commit", "text", "encoding", "created", "license", "reason")
    return [tuple(row[name] for name in columns) for row in rows if row["repo"] != "missing"]


@pytest.fixture(scope="module")
def on_disk(served: Path) -> list[tuple[Any, ...]]:
    """The oracle of every server: the same repositories, read in place."""
    return essence(crawled(in_place(served)))


# --- Servers -----------------------------------------------------------------------------------------------------------------


def test_git_daemon_gives_what_the_disk_gives(served: Path, on_disk: list[Any]) -> None:
    with git_daemon(served) as address:
        rows = crawled(over(address))
    assert essence(rows) == on_disk
    missing = [row for row in rows if row["repo"] == "missing"]
    assert [(r["path"], r["reason"]) for r in missing] == [(None, "repository_failed")]
    assert "not exported" in missing[0]["evidence"] and missing[0]["url"].endswith("/missing.git")


@pytest.mark.parametrize("filters", [False, True])
@pytest.mark.parametrize("versions", [False, True])
def test_smart_http_gives_what_the_disk_gives(served: Path, on_disk: list[Any], filters: bool, versions: bool) -> None:
    for name in NAMES:
        if name != "missing":
            git(served / f"{name}.git", "config", "uploadpack.allowFilter", str(filters).lower())
    with smart_http(served, versions=versions) as (address, _):
        rows = crawled(over(address))
    assert essence(rows) == on_disk
    big = {row["evidence"] for row in rows if row["path"] == "big.bin"}
    assert big == ({"more than 1048576 bytes"} if filters else {"2040000 bytes"})


def test_a_server_that_drops_every_third_connection_is_outlasted(served: Path, on_disk: list[Any]) -> None:
    with smart_http(served, drop_every=3) as (address, server):
        rows = crawled(over(address))
        assert server.dropped >= 8
    assert essence(rows) == on_disk


def test_a_server_that_drops_all_is_given_up_and_the_rest_goes_on(served: Path) -> None:
    with smart_http(served, drop_every=1) as (bad, server), git_daemon(served) as good:
        repositories = (Repository(url=f"{bad}/old.git", name="a"), Repository(url=f"{good}/old.git", name="b"))
        rows = crawled(Config(repositories=repositories, attempts=3, backoff_s=0.01))
        assert server.connections == 3
    assert [(r["repo"], r["reason"]) for r in rows] == [("a", "repository_failed"), ("b", None)]
    assert "attempt 3 of 3" in rows[0]["evidence"]


def test_repositories_of_the_longer_hash(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    git(tmp_path / "r", "init", "--quiet", "--object-format=sha256")
    (tmp_path / "r" / "a").write_bytes(b"1")
    git(tmp_path / "r", "add", "a")
    git(tmp_path / "r", "commit", "--quiet", "-m", "x")
    with git_daemon(tmp_path) as address:
        repositories = (Repository(url=f"{address}/r/.git", name="r"),)
        (row,) = crawled(Config(repositories=repositories))
    assert (row["text"], len(row["commit"])) == ("1", 64)


def test_a_full_disk_ends_the_run_instead_of_failing_every_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shim = tmp_path / "git"
    shim.write_text("#!/bin/sh\necho 'fatal: write error: No space left on device' >&2\nexit 128\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(StorageError, match="GB free"):
        crawled(Config(repositories=("git://127.0.0.1:1/x",)))


def test_a_server_that_never_answers_runs_out_of_time(served: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = Config(repositories=(f"git://127.0.0.1:{silent.getsockname()[1]}/x",), attempts=1, timeout_s=1)
        started = time.monotonic()
        rows = crawled(config)
    assert "timeout_s" in rows[0]["evidence"] and time.monotonic() - started < 10


def test_passwords_reach_the_server_and_nothing_else(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "argv"
    shim = tmp_path / "bin" / "git"
    shim.parent.mkdir()
    real = subprocess.run(["which", "git"], capture_output=True, text=True, check=True).stdout.strip()
    shim.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec {real} "$@"\n')
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shim.parent}:{os.environ['PATH']}")
    with smart_http(served, password="ada:s3cr:t") as (address, _):
        host = address.removeprefix("http://")
        good = crawled(Config(repositories=(f"http://ada:s3cr%3At@{host}/old.git",)))
        bad = crawled(Config(repositories=(f"http://ada:wr0ng@{host}/old.git",), attempts=2, backoff_s=0.01))
    assert [row["text"] for row in good] == ["1"] and good[0]["url"] == f"http://{host}/old.git"
    assert [row["reason"] for row in bad] == ["repository_failed"]
    assert "fetch" in log.read_text()
    for secret in ("s3cr", "wr0ng", "YWRh"):
        assert secret not in log.read_text() + json.dumps([good, bad], default=str)


def test_the_token_goes_to_github_alone() -> None:
    def headers(url: str) -> list[str]:
        environment = git_environment(url, {"GITHUB_TOKEN": "t0ken", "PATH": "/bin", "GIT_DIR": "/elsewhere"})
        assert "GITHUB_TOKEN" not in environment and "GIT_DIR" not in environment
        pairs = {
            environment[f"GIT_CONFIG_KEY_{i}"]: environment[f"GIT_CONFIG_VALUE_{i}"]
            for i in range(int(environment["GIT_CONFIG_COUNT"]))
        }
        return [f"{key}={value}" for key, value in pairs.items() if "extraHeader" in key]

    assert headers("https://github.com/o/n") == [
        "http.https://github.com/.extraHeader=Authorization: Basic eC1hY2Nlc3MtdG9rZW46dDBrZW4="
    ]
    assert (
        headers("https://github.com.evil.org/o/n") == headers("http://github.com/o/n") == headers("git://github.com/o/n") == []
    )


def test_the_users_git_configuration_does_not_matter(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".gitconfig").write_text(
        '[url "git://127.0.0.1:1/"]\n\tinsteadOf = "git://"\n[fetch]\n\tfsckObjects = true\n[core]\n\tquotePath = true\n'
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_ALLOW_PROTOCOL", "ext")
    with git_daemon(served) as address:
        rows = crawled(Config(repositories=(f"{address}/old.git",)))
    assert [row["text"] for row in rows] == ["1"]


# --- Cut-off -----------------------------------------------------------------------------------------------------------------


def test_the_cut_off_is_a_moment_not_a_day(served: Path) -> None:
    def newest(before: str | None) -> set[str]:
        config = Config(repositories=(Repository(path=f"{served}/work0.git"),), before=before)
        return {str(row["created"]) for row in crawled(config)}

    assert newest("2023-11-01") == {"2023-10-31 23:59:59+00:00"}
    assert newest("2023-11-01T00:00:01") == newest("2023-11-01T01:00:01+01:00") == {"2023-11-01 00:00:00+00:00"}
    assert newest("2023-10-31T23:59:59") == {"2015-01-01 00:00:00+00:00"}
    assert newest(None) == {"2024-05-01 00:00:00+00:00"}


def test_a_branch_merged_after_the_cut_off_was_not_there_before_it(tmp_path: Path) -> None:
    work = make_repository(tmp_path / "w", (EARLY, {"a": b"main"}))
    git(work, "checkout", "--quiet", "-b", "side")
    (work / "b").write_bytes(b"side")
    git(work, "add", "b")
    git(work, "commit", "--quiet", "-m", "side", when=LAST_SECOND)
    git(work, "checkout", "--quiet", "main")
    git(work, "merge", "--quiet", "--no-ff", "-m", "merge", "side", when=LATE)
    assert [row["path"] for row in crawled(Config(repositories=(str(work),)))] == ["a"]


def test_repositories_as_a_whole(served: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    (tmp_path / "broken" / ".git").mkdir(parents=True)
    repositories = (
        Repository(path=str(tmp_path / "broken")),
        Repository(path=f"{served}/empty.git", name="empty"),
        Repository(path=f"{served}/new.git", name="new"),
        Repository(path=str(tmp_path / "nothing")),
        Repository(url="git://127.0.0.1:1/x", name="young", created="2023-11-01"),
        Repository(path=str(tmp_path / "gone")),
    )
    rows = {row["repo"]: row for row in crawled(Config(repositories=repositories))}
    assert {name: row["reason"] for name, row in rows.items()} == {
        "broken": "repository_failed",
        "empty": "repository_empty",
        "gone": "repository_failed",
        "new": "repository_too_new",
        "nothing": "repository_empty",
        "young": "repository_too_new",
    }
    assert len({row["id"] for row in rows.values()}) == 6


# --- Documents ---------------------------------------------------------------------------------------------------------------


def test_documents_of_a_commit(tmp_path: Path) -> None:
    mit = "".join(p.read_text() for p in Path(pytest.__file__).parents[1].glob("pytest-*.dist-info/licenses/LICENSE"))
    files = {
        "LICENSE": mit.encode(),
        "a.py": b"\xef\xbb\xbfprint(1)\n",
        "gpl.c": b"// SPDX-License-Identifier: GPL-2.0-only\n",
        "vendor/x.js": b"x\n",
        "y_pb2.py": b"y\n",
        "zero": b"a\0b",
        "wide.txt": "wide".encode("utf-16"),
    }
    work = make_repository(tmp_path / "w", (EARLY, files))
    where = Repository(path=str(work), name="o/n", stars=7, version="1.0")
    rows = {row["path"]: row for row in crawled(Config(repositories=(where,)))}
    assert all(
        (r["source"], r["repo"], r["stars"], r["commit"]) == ("github", "o/n", 7, git(work, "rev-parse", "HEAD"))
        for r in rows.values()
    )
    assert {p: r["text"] for p, r in rows.items()} == {
        "LICENSE": mit,
        "a.py": "print(1)\n",
        "gpl.c": files["gpl.c"].decode(),
        "vendor/x.js": "x\n",
        "y_pb2.py": "y\n",
        "zero": "",
        "wide.txt": "wide",
    }
    assert {p: r["encoding"] for p, r in rows.items() if r["encoding"] != "utf-8"} == {
        "a.py": "utf-8-sig",
        "wide.txt": "utf-16-le",
        "zero": None,
    }
    assert {p for p, r in rows.items() if r["vendored"]} == {"vendor/x.js"} and {
        p for p, r in rows.items() if r["generated"]
    } == {"y_pb2.py"}
    assert {p: r["license"] for p, r in rows.items()} == dict.fromkeys(files, "MIT") | {"gpl.c": "GPL-2.0-only"}
    assert (rows["zero"]["reason"], rows["zero"]["evidence"]) == ("binary", "NUL at byte 1")
    assert json.loads(rows["a.py"]["meta"]) == {"branch": "main", "version": "1.0"}


def test_a_folder_is_a_repository_without_history(tmp_path: Path) -> None:
    package = tmp_path / "package-1.0"
    (package / "inner").mkdir(parents=True)
    (package / "inner" / "b.py").write_bytes(b"b")
    (package / "a.py").write_bytes(b"a")
    config = Config(repositories=(Repository(path=str(package), name="package", license="MIT", version="1.0"),))
    rows = crawled(config)
    assert [(r["source"], r["path"], r["text"], r["commit"], r["created"], r["license"], r["url"]) for r in rows] == [
        ("tree", "a.py", "a", None, None, "MIT", None),
        ("tree", "inner/b.py", "b", None, None, "MIT", None),
    ]


def test_ids_name_origin_not_content() -> None:
    def ids(name: str, commit: str, *paths: bytes) -> list[str]:
        origin = Origin(Repository(url="git://h/x", name=name), commit)
        return [row[0] for row in documents(origin, [File(path, b"same") for path in paths])]

    assert ids("r", "c", b"a") == ids("r", "c", b"a")
    assert len({*ids("r", "c", b"a", b"b", b"\xff", b"\\xff"), *ids("s", "c", b"a"), *ids("r", "d", b"a")}) == 6


def test_a_row_is_made_of_any_file() -> None:
    origin = Origin(Repository(url="git://h/x", name="x"), "c", created=2**60)
    (row,) = documents(origin, [File(b"\n\xff", b"\xff\xfe\x00")])
    assert row[5] == "\\x0a\\xff" and row[9] is None  # a commit from beyond the calendar has no date


def test_a_million_tiny_files_travel_in_batches(tmp_path: Path) -> None:
    files = 70_000
    (tmp_path / "r.git").mkdir()
    git(tmp_path / "r.git", "init", "--quiet", "--bare", "--initial-branch=main")
    stream = b"blob\nmark :1\ndata 1\nx\ncommit refs/heads/main\ncommitter A <a@b> 1400000000 +0000\ndata 1\nx\n"
    stream += b"".join(b"M 100644 :1 %d/%d\n" % (i % 100, i) for i in range(files))
    git(tmp_path / "r.git", "fast-import", "--quiet", stdin=stream)
    config = Config(repositories=(str(tmp_path / "r.git"),))
    sizes = [verdict.batch.num_rows for verdict in crawl(tuple(resolve_all(config.repositories)), config)]
    assert sum(sizes) == files and max(sizes) == 1 << 16


def test_batches_keep_to_their_size_and_join_small_repositories(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        for i in range(10):
            (tmp_path / name / f"{i:02d}.txt").write_bytes(b"x" * 1_000_000)
    config = Config(repositories=tuple(str(tmp_path / name) for name in "abc"))
    batches = [v.batch for v in crawl(tuple(resolve_all(config.repositories)), config)]
    assert [b.num_rows for b in batches] == [16, 14]
    assert all(text_bytes(b) <= BATCH_BYTES for b in batches)


# --- As a step ---------------------------------------------------------------------------------------------------------------


def shards_of(config: Config, root: Path) -> tuple[dict[str, int], pa.Table]:
    engine = LocalEngine(root)
    out = engine.folder(Step("crawl_github", config))
    report = run(config, out, engine)
    report.check("crawl_github")
    files = sorted((out / "shards").glob("*.parquet"))
    return report.dropped, pa.concat_tables(pa.parquet.read_table(f) for f in files)


def test_the_step_accounts_for_all_in_any_order(served: Path, tmp_path: Path) -> None:
    config = in_place(served)
    backwards = dataclasses.replace(config, repositories=config.repositories[::-1], repositories_per_shard=3)
    (dropped, one), (_, other) = shards_of(config, tmp_path / "one"), shards_of(backwards, tmp_path / "two")
    assert dropped == {"too_large": 3, "repository_empty": 1, "repository_too_new": 1}
    assert one.sort_by("id").equals(other.sort_by("id"))
    assert pc.count_distinct(one["id"]).as_py() == one.num_rows == 7


def test_a_crawl_that_keeps_nothing_still_has_its_schema(served: Path, tmp_path: Path) -> None:
    _, table = shards_of(Config(repositories=(f"{served}/empty.git",)), tmp_path)
    assert table.num_rows == 0 and "encoding" in table.schema.names
    assert pa.Table.from_batches([v.batch for v in crawl((), Config(repositories=("a/b",)))]).num_rows == 0


def test_the_fingerprint_follows_list_content_and_version(tmp_path: Path) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text("a/b\n")

    def fingerprint(**fields: Any) -> str:
        return Step("crawl", Config(**fields)).fingerprint

    before = fingerprint(listing=str(listing))
    config = Config(listing=str(listing))
    listing.write_text("a/c\n")
    assert fingerprint(listing=str(listing)) != before
    with pytest.raises(InputError, match="changed since"):
        check(config)
    versions = [fingerprint(repositories=(Repository(path="/x", version=v),)) for v in ("1", "2", "2")]
    assert versions[0] != versions[1] == versions[2]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"repositories": ["a/b"]},
        {"before": "November"},
        {"max_bytes": 0},
        {"attempts": 0},
        {"timeout_s": 0},
        {"backoff_s": -1},
        {"repositories_per_shard": 0},
        {"max_files": 0},
        {"repositories": ("nonsense",)},
        {"repositories": ("a/b", "a/b")},
    ],
)
def test_bad_settings_are_refused_when_written(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Config(**({"repositories": ("a/b",)} | fields if fields else {}))


def test_check_finds_what_cannot_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(Config(repositories=("owner/does-not-matter", str(tmp_path))))
    gone = (str(tmp_path / "nowhere"), f"file://{tmp_path}/there.git")
    with pytest.raises(InputError, match="does not exist, nor is any of the 1 others"):
        check(Config(repositories=gone))
    check(Config(repositories=(*gone, str(tmp_path))))  # one that is missing is a row of the report
    with pytest.raises(ConfigError, match="no such user"):
        Config(repositories=("~nobody-of-that-name/x",))
    (tmp_path / "list.txt").write_text("# none\n")
    for listing, complaint in (("list.txt", "empty"), ("gone.txt", "cannot read")):
        with pytest.raises(InputError, match=complaint):
            check(Config(listing=str(tmp_path / listing)))
    monkeypatch.setenv("PATH", "")
    check(Config(repositories=(Repository(path=str(tmp_path), kind="tree"),)))
    with pytest.raises(ConfigError, match="package is `git`"):
        check(Config(repositories=("owner/name",)))


# --- The temporary folder ----------------------------------------------------------------------------------------------------


def test_clones_of_a_killed_run_are_swept_and_live_ones_are_not(scratch: Path) -> None:
    dead, alive = scratch / "corpus-clone-dead", scratch / "corpus-clone-alive"
    for folder in (dead, alive):
        folder.mkdir()
        (folder / "lock").touch()
    other = scratch / "something-else"
    other.mkdir()
    holder = "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", holder, str(alive / "lock")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert sweep() == 0  # too young to judge
        assert sweep(younger_s=0) == 1
        assert alive.exists() and not dead.exists()
        process.kill()
    assert sweep(younger_s=0) == 1 and other.exists()
    other.rmdir()


def test_an_abandoned_crawl_leaves_no_clone(served: Path, scratch: Path) -> None:
    with git_daemon(served) as address:
        config = Config(repositories=(f"{address}/old.git",))
        verdicts = crawl(tuple(resolve_all(config.repositories)), config)
        next(verdicts)
        verdicts.close()
    assert list(scratch.iterdir()) == []
