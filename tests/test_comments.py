"""Comment lines: every language's own marks, one line whatever the text holds."""

from __future__ import annotations

import pyarrow as pa
import pytest

from corpus.comments import _MARKS, comment_lines, comment_marks
from corpus.languages import NAMES


@pytest.mark.parametrize(
    ("lang", "line"),
    [
        ("Python", "# a/b\n"),
        ("C++", "// a/b\n"),
        ("OMG Interface Definition Language", "// a/b\n"),
        ("Haskell", "-- a/b\n"),
        ("TeX", "% a/b\n"),
        ("Markdown", "<!-- a/b -->\n"),
        ("CSS", "/* a/b */\n"),
        ("a language nobody has heard of", "# a/b\n"),
        (None, "# a/b\n"),
    ],
)
def test_marks(lang: str | None, line: str) -> None:
    assert comment_lines(pa.array(["a/b"]), pa.array([lang], pa.string())).to_pylist() == [line]
    assert "".join(comment_marks(lang)) in line.replace("a/b", "")


def test_a_path_cannot_leave_its_line() -> None:
    paths = ["a\nb", "a\r\nb\x00\x85c", "\u2028", None, ""]
    lines = comment_lines(pa.array(paths), pa.array(["Python", "C", "Lua", "C", "C"])).to_pylist()
    assert lines == ["# a b\n", "// a  b  c\n", "--  \n", "", "// \n"]


def test_slices_and_empty_arrays() -> None:
    paths, langs = pa.array(["x", "a", "b", "y"]), pa.array(["C", "Lua", "C", "C"])
    assert comment_lines(paths[1:3], langs[1:3]).to_pylist() == ["-- a\n", "// b\n"]
    assert len(comment_lines(paths[:0], langs[:0])) == 0


def test_every_language_is_one_of_ours_and_listed_once() -> None:
    """A name spelt otherwise than detect_language spells it would silently get `#`."""
    listed = [" ".join(name.split()) for *_, names in _MARKS for name in names.split(",")]
    assert sorted(set(listed)) == sorted(listed)
    assert set(listed) <= set(NAMES)
