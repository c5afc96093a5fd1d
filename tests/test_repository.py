"""Repositories: addresses, list files, and reading every file of a commit or a folder, hostile ones included."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from corpus.engine import LocalEngine
from corpus.errors import ConfigError, CorpusError, InputError
from corpus.progress import Lines
from corpus.repository import Repository, credentials, file_url, is_git, public_url, read_listing, resolve, resolve_all
from corpus.repository_files import REASONS, File, Limits, git_files, path_text, root_files, tree_files
from stages import crawl_github
from tests.git_servers import git, make_repository

LIMITS = Limits(1 << 20, 1_000_000)
DAY = "2023-06-01T12:00:00+00:00"


def head(folder: Path) -> str:
    return git(folder, "rev-parse", "HEAD")


def committed(folder: Path, limits: Limits = LIMITS) -> list[File]:
    return list(git_files(folder / ".git", head(folder), limits))


# --- Addresses ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "url", "name"),
    [
        ("owner/name", "https://github.com/owner/name", "owner/name"),
        ("owner/some.name.git", "https://github.com/owner/some.name", "owner/some.name"),
        ("https://github.com/owner/name.git", "https://github.com/owner/name.git", "owner/name"),
        ("https://gitlab.com/a/b/c.git", "https://gitlab.com/a/b/c.git", "gitlab.com/a/b/c"),
        ("git@github.com:owner/name.git", "ssh://git@github.com/owner/name.git", "owner/name"),
        ("git://127.0.0.1:9418/x", "git://127.0.0.1:9418/x", "127.0.0.1/x"),
        ("http://user:pass@host:81/x/", "http://user:pass@host:81/x/", "host/x"),
    ],
)
def test_remote_addresses(given_: str, url: str, name: str) -> None:
    repository = resolve(given_)
    assert (repository.url, repository.name, repository.path) == (url, name, None)
    assert resolve(repository) == repository


def test_paths_and_file_urls_are_read_in_place(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    assert resolve(f"{tmp_path}/a b") == resolve(f"file://{tmp_path}/a%20b") == Repository(path=f"{tmp_path}/a b", name="a b")
    assert resolve(".").name == Path.cwd().name


@pytest.mark.parametrize(
    "address",
    [
        "ext::sh -c id",
        "ext://x/y",
        "fd::3",
        "name",
        "",
        "a/b/c",
        "-oProxyCommand=x/y",
        "ssh://-oProxy/x",
        "https://host",
        "ftp://h/x",
        "https://h:port/x",
        "--upload-pack=x",
        "owner/na me",
        "https://h/x\ny",
    ],
)
def test_what_git_must_not_be_given_is_refused(address: str) -> None:
    with pytest.raises(ConfigError):
        resolve(address)


def test_a_refused_address_does_not_print_its_password() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("ftp://user:hunter2@host/x")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"url": "a/b", "path": "/x"},
        {"url": "a/b", "stars": -1},
        {"url": "a/b", "kind": "tree"},
        {"path": "/x", "kind": "zip"},
        {"url": "a/b", "created": "yesterday"},
        {"url": "a/b", "name": "x\0y"},
        {"path": ""},
    ],
)
def test_nonsense_in_a_repository_is_a_config_error(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Repository(**fields)  # type: ignore[arg-type]


def test_credentials_are_told_apart_from_the_address() -> None:
    url = "https://user:p%40ss@host:8443/x.git"
    assert (credentials(url), public_url(url)) == ("user:p@ss", "https://host:8443/x.git")
    assert (credentials("ssh://git@host/x"), public_url("ssh://git:pw@host/x")) == (None, "ssh://git@host/x")
    assert credentials("https://host/x") is None


def test_file_urls_lead_to_the_file() -> None:
    on_github = resolve("https://tok:en@github.com/o/n.git")
    assert file_url(on_github, "c0ffee", b"a b/\xff#.py") == "https://github.com/o/n/blob/c0ffee/a%20b/%FF%23.py"
    assert file_url(resolve("https://u:p@h/x.git"), "c0ffee", b"a") == "https://h/x.git"
    assert file_url(resolve("/tmp"), "", b"a") is None


def test_names_must_differ_and_order_does_not_matter() -> None:
    assert [r.name for r in resolve_all(("b/b", "a/a"))] == ["a/a", "b/b"]
    with pytest.raises(ConfigError, match=r"two repositories are named 'o/n'.*ssh://\*\*\*@github\.com"):
        resolve_all(("o/n", "git@github.com:o/n"))


def test_kinds_are_told_by_looking(tmp_path: Path) -> None:
    work = make_repository(tmp_path / "work", (DAY, {"a": b"1"}))
    git(tmp_path, "clone", "--quiet", "--bare", str(work), "bare")
    (tmp_path / "tree").mkdir()
    kinds = {name: is_git(resolve(str(tmp_path / name))) for name in ("work", "bare", "tree")}
    assert kinds == {"work": True, "bare": True, "tree": False}
    assert not is_git(Repository(path=str(work), kind="tree"))
    assert is_git(resolve("o/n"))


# --- List files --------------------------------------------------------------------------------------------------------------


def test_the_three_list_formats_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("# mine\n\na/b\n  /tmp/c  \n", "utf-8")
    columns = {"repository": ["a/b", "/tmp/c"]}
    pa.csv.write_csv(pa.table(columns), tmp_path / "list.csv")
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    expected = (resolve("a/b"), resolve("/tmp/c"))
    assert all(read_listing(str(tmp_path / f"list.{kind}")) == expected for kind in ("txt", "csv", "parquet"))


def test_lists_carry_what_is_known(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("url,stars,created,license,name\na/b,7,2020-01-02,MIT,\nhttps://h/x,,,,mine\n", "utf-8")
    first, second = read_listing(str(tmp_path / "l.csv"))
    assert (first.name, first.stars, first.created, first.license) == ("a/b", 7, "2020-01-02", "MIT")
    assert (second.name, second.stars) == ("mine", None)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("l.txt", b"a/b\next::sh\n", "row 2"),
        ("l.csv", b"url,sters\na/b,1\n", "sters"),
        ("l.csv", b"url,stars\na/b,many\n", "row 2"),
        ("l.csv", b"name\nx\n", "exactly one of url and path"),
        ("l.csv", b"url\na/b,more\n", "unknown columns"),
        ("l.parquet", b"not parquet", "cannot read"),
        ("l.txt", b"\xff\xfe\xff", "cannot read"),
    ],
)
def test_malformed_lists_name_the_row(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=complaint):
        read_listing(str(tmp_path / name))


def test_a_missing_list_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        read_listing(str(tmp_path / "nowhere.txt"))


# --- Files -------------------------------------------------------------------------------------------------------------------

ODD = {
    b"a\nb.py": b"1",
    b"\xff\xfe.c": b"2",
    b"tab\there": b"3",
    b"a-b": b"4",
    b"a/x": b"5",
    b"a.b": b"6",
    "é/ü.py".encode(): b"7",
    b"back\\slash": b"8",
    b"empty": b"",
    b" lead": b"9",
    b"-dash": b"10",
    b"a/.gitignore": b"*",
    b"crlf": b"\r\n\0",
}


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A work tree of file names that break line-based readers, committed."""
    folder = tmp_path / "odd"
    for name, content in ODD.items():
        where = Path(os.fsdecode(os.path.join(os.fsencode(folder), name)))
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_bytes(content)
    git(tmp_path, "init", "--quiet", "odd")
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "--message", "odd")
    return folder


def test_a_commit_and_its_folder_read_alike(odd: Path) -> None:
    files = committed(odd)
    assert files == list(tree_files(odd, LIMITS)) == sorted(files)
    assert {f.path: f.data for f in files} == ODD


ODD_PATHS = st.lists(st.sampled_from([b"\x85", b"\xc2", b"\\", b"x85", b"u0085", b"\n", b"a"]), min_size=1, max_size=5).map(
    b"".join
)


@settings(max_examples=400, deadline=None)
@given(ODD_PATHS, ODD_PATHS)
@example(b"\x85", "\x85".encode())
def test_path_text_is_printable_utf8_and_one_to_one(one: bytes, other: bytes) -> None:
    text = path_text(one)
    text.encode("utf-8")
    assert not any(ord(c) < 32 or c == "\x7f" for c in text)
    assert (path_text(other) == text) == (one == other)


def test_ordinary_paths_stay_as_they_are() -> None:
    assert path_text("src/größe файл.py".encode()) == "src/größe файл.py"
    assert path_text(b"a\nb\xff") == "a\\x0ab\\xff"


def test_what_has_no_text_has_a_reason(tmp_path: Path) -> None:
    sub = make_repository(tmp_path / "sub", (DAY, {"s": b"s"}))
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 12345\n"
    work = make_repository(tmp_path / "work", (DAY, {"big": b"x" * 11, "fits": b"x" * 10, "model.bin": pointer}))
    (work / "link").symlink_to("/etc/passwd")
    (work / "folder-link").symlink_to("/")
    git(work, "update-index", "--add", "--cacheinfo", f"160000,{head(sub)},lib/sub")
    git(work, "add", "link", "folder-link")
    git(work, "commit", "--quiet", "--message", "more")
    limits = Limits(200, 100)
    found = {f.path: (f.reason, f.evidence) for f in committed(work, limits)}
    assert found == {
        b"big": (None, None),
        b"fits": (None, None),
        b"folder-link": ("symlink", "1 bytes of target"),
        b"lib/sub": ("submodule", f"commit {head(sub)}"),
        b"link": ("symlink", "11 bytes of target"),
        b"model.bin": ("lfs_pointer", "oid sha256:" + "ab" * 32 + " size 12345"),
    }
    os.mkfifo(work / "pipe")
    (work / "__pycache__").mkdir()
    (work / "__pycache__" / "a.pyc").write_bytes(b"1")
    tree = {f.path: (f.reason, f.evidence) for f in tree_files(work, Limits(10, 100))}
    assert tree[b"big"] == ("too_large", "11 bytes") and tree[b"fits"] == (None, None)
    assert tree[b"link"] == ("symlink", "to /etc/passwd") and tree[b"folder-link"] == ("symlink", "to /")
    assert tree[b"pipe"][0] == "special_file"
    assert set(tree) == {b"big", b"fits", b"folder-link", b"link", b"model.bin", b"pipe"}
    assert {f.path: f.evidence for f in committed(work, Limits(10, 100)) if f.reason == "too_large"}[b"big"] == "11 bytes"


def test_a_large_file_is_not_read_into_memory(tmp_path: Path) -> None:
    work = make_repository(tmp_path / "work", (DAY, {"small.py": b"1"}))
    with (work / "huge").open("wb") as file:
        file.truncate(40 << 20)
    git(work, "add", "huge")
    git(work, "commit", "--quiet", "--message", "huge")
    with (work / "huge").open("wb") as file:
        file.truncate(300 << 20)
    tracemalloc.start()
    try:
        assert [f.evidence for f in committed(work)] == [f"{40 << 20} bytes", None]
        assert [f.evidence for f in tree_files(work, LIMITS)] == [f"{300 << 20} bytes", None]
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_too_many_files_end_with_a_row(odd: Path) -> None:
    for files in (committed(odd, Limits(1 << 20, 5)), list(tree_files(odd, Limits(1 << 20, 5)))):
        assert [f.reason for f in files] == [None] * 5 + ["too_many_files"]
    assert len(committed(odd, Limits(1 << 20, len(ODD)))) == len(ODD)


def test_only_the_wanted_root_files_are_read(tmp_path: Path) -> None:
    work = make_repository(tmp_path / "w", (DAY, {"LICENSE": b"mit", "a/LICENSE": b"other", "b.py": b"1"}))
    assert root_files(work / ".git", head(work), "LICENSE".__eq__, 100) == {"LICENSE": b"mit"}
    assert root_files(work / ".git", head(work), "LICENSE".__eq__, 2) == {}


def test_a_tree_with_one_path_twice_gives_it_once(tmp_path: Path) -> None:
    work = make_repository(tmp_path / "w", (DAY, {"a": b"1"}))
    blob = bytes.fromhex(git(work, "rev-parse", "HEAD:a"))
    tree = git(work, "hash-object", "-t", "tree", "-w", "--literally", "--stdin", stdin=(b"100644 a\0" + blob) * 2)
    commit = git(work, "commit-tree", tree, "-m", "twice")
    files = list(git_files(work / ".git", commit, LIMITS))
    assert [(f.path, f.reason) for f in files] == [(b"a", None), (b"a", "malformed_tree")]


def test_a_missing_object_costs_one_file_and_a_damaged_one_the_rest(tmp_path: Path) -> None:
    content = hashlib.shake_128(b"seed").digest(5000)  # does not compress, so half of the object is half of the content
    work = make_repository(tmp_path / "w", (DAY, {"a": b"1", "b": content, "c": b"3"}))
    oid = git(work, "rev-parse", "HEAD:b")
    stored = work / ".git" / "objects" / oid[:2] / oid[2:]
    whole = stored.read_bytes()
    stored.unlink()
    assert [(f.path, f.reason) for f in committed(work)] == [(b"a", None), (b"b", "unreadable"), (b"c", None)]
    stored.write_bytes(b"not even zlib")
    assert [(f.path, f.reason) for f in committed(work)] == [(b"a", None), (b"b", "unreadable"), (b"c", None)]
    stored.write_bytes(whole[:2500])
    with pytest.raises(InputError, match=oid) as caught:
        committed(work)
    assert caught.value.details["reason"] == "repository_failed"


def test_an_unreadable_folder_is_an_error_or_a_row(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        list(tree_files(tmp_path / "nowhere", LIMITS))
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").write_bytes(b"1")
    (tmp_path / "a").chmod(0)
    (tmp_path / "b").chmod(0)
    assert [(f.path, f.reason) for f in tree_files(tmp_path, LIMITS)] == [(b"a", "unreadable"), (b"b", "unreadable")]
    (tmp_path / "a").chmod(0o700)


def test_stopping_early_leaves_no_process(odd: Path) -> None:
    files = git_files(odd / ".git", head(odd), LIMITS)
    next(files)
    files.close()
    children = subprocess.run(
        ["ps", "-o", "comm=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=False
    ).stdout
    assert "git" not in children


def test_reasons_are_the_closed_list() -> None:
    assert list(REASONS) == sorted(REASONS)
    assert issubclass(InputError, CorpusError)


def test_repositories_that_cannot_be_had_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a funnel of many they would be a number; and where there was none at all, nothing is done."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a.py").write_text("x = 1\n")
    there = Repository(path=f"{tmp_path}/there", name="there", kind="tree")
    gone = Repository(url="http://127.0.0.1:9/gone.git", name="gone")
    report = crawl_github.run(
        crawl_github.Config(repositories=(there, gone), attempts=1), tmp_path / "one", LocalEngine(tmp_path, Lines())
    )
    assert report.dropped == {"repository_failed": 1} and report.kept == 1
    assert "1 of 2 repositories could not be had, the last: " in capsys.readouterr().err
    with pytest.raises(
        InputError, match=r"1 of 1 repositories could not be had, the last: .*; correct what it says and delete"
    ):
        crawl_github.run(crawl_github.Config(repositories=(gone,), attempts=1), tmp_path / "two", LocalEngine(tmp_path))
