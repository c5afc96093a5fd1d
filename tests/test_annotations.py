"""corpus/annotations.py: what a person sets in the table is what is read, and what is malformed is named by line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.annotations import Accepted, read_annotations, write_annotations
from corpus.errors import ConfigError

NAMES = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=20)
ENTRIES = st.lists(st.tuples(NAMES, st.booleans(), st.lists(st.tuples(NAMES, st.booleans()), max_size=3)), max_size=5)


def read(folder: Path, text: str) -> Accepted:
    (folder / "domains.yaml").write_text(text, "utf-8")
    return read_annotations(folder / "domains.yaml")


@settings(max_examples=60, deadline=None)
@given(ENTRIES)
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, bool, list[tuple[str, bool]]]]
) -> None:
    path = tmp_path_factory.mktemp("table") / "domains.yaml"
    entries = [
        {"domain": name, "pages": 3, "accept": flag, "prefixes": [{"prefix": p, "accept": f} for p, f in parts]}
        for name, flag, parts in rows
    ]
    write_annotations(path, entries)
    groups = tuple(name for name, flag, _ in rows if flag)
    assert read_annotations(path) == Accepted(groups, tuple(p for _, _, parts in rows for p, f in parts if f))


def test_the_table_says_how_it_is_edited(tmp_path: Path) -> None:
    write_annotations(tmp_path / "t.yaml", [{"domain": "a.org", "accept": False}])
    text = (tmp_path / "t.yaml").read_text()
    assert text.startswith("# Domains") and "annotations" in text and "- domain: a.org" in text


def test_what_a_person_leaves_out_is_not_accepted(tmp_path: Path) -> None:
    text = "- domain: a.org\n- domain: b.org\n  accept: yes\n  prefixes:\n"
    text += "- domain: c.org\n  prefixes:\n  - {prefix: c.org/x, accept: On}\n"
    assert read(tmp_path, text) == Accepted(("b.org",), ("c.org/x",))
    assert read(tmp_path, "# nothing\n") == Accepted((), ())


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("domain: a.org\n", 1, "a list of domains"),
        ("- a.org\n", 1, "an entry with `domain`"),
        ("- domain: a.org\n- accept: true\n", 2, "has no `domain`"),
        ("- domain: a.org\n  accept: maybe\n", 2, "true or false expected"),
        ("- domain: a.org\n  accept: [true]\n", 2, "true or false expected"),
        ('- domain: " "\n', 1, "a name expected"),
        ("- domain: [a]\n", 1, "a name expected"),
        ("- domain: a.org\n  prefixes: a.org/x\n", 2, "a list of prefixes"),
        ("- domain: a.org\n  prefixes:\n  - accept: true\n", 3, "has no `prefix`"),
        ("- domain: a.org\n  prefixes:\n  - a.org/x\n", 3, "an entry with `prefix`"),
        ("- domain: a.org\n  accept: {\n", 3, "not YAML"),
        ("- domain: a.org\n accept: true\n", 2, "not YAML"),
    ],
)
def test_malformed_tables_are_named_by_line(tmp_path: Path, text: str, line: int, expected: str) -> None:
    with pytest.raises(ConfigError, match=rf"domains\.yaml, line {line}\D.*{expected}"):
        read(tmp_path, text)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file .*missing\.yaml; a copy of a grow_seed step's domains\.yaml expected"):
        read_annotations(tmp_path / "missing.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"- domain: \xff\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml cannot be read"):
        read_annotations(tmp_path / "latin.yaml")


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("table") / "t.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        assert isinstance(read_annotations(path), Accepted)
    except ConfigError as error:
        assert str(path) in str(error)
