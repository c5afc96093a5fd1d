"""corpus/documented.py: how much of a file is comment, and whether any of it is documentation."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.documented import documented


def measure(text: str, lang: str | None = "Python") -> tuple[int, int, bool]:
    found = documented(pa.array([text], pa.large_string()), pa.array([lang], pa.string()))
    return int(found.visible_N[0]), int(found.comment_N[0]), bool(found.doc_N[0])


@pytest.mark.parametrize(
    ("lang", "text", "comment", "doc"),
    [
        ("Python", "x = 1  # one\n", "#one", False),
        ("Python", "x = '# no'\n", "", False),
        ("Python", 'x = "\\"# no"\n', "", False),
        ("Python", "# licence\n# of\n# three lines\nx = 1\n", "", False),
        ("Python", "x = 1\n# a\n# b\n# c\n", "#a#b#c", True),
        ("Python", "x = 1\n# a\n# b\ny = 2\n# c\n", "#a#b#c", False),
        ("Python", '"""A module."""\nx = 1\n', '"""Amodule."""', True),
        ("Python", 'def f():\n    """Say.\n\n    More."""\n', '"""Say.More."""', True),
        ("Python", 'x = """no docstring"""\n', "", False),
        ("C", "int x; /* one */\n", "/*one*/", False),
        ("C", "int x;\n/** says what */\nint y;\n", "/**sayswhat*/", True),
        ("C", "int x; /**/ int y; // two\n", "/**///two", False),
        ("C", 'char *s = "/* no */";\n', "", False),
        ("C", "int x;\n/* a\n   b\n   c */\nint y;\n", "/*abc*/", True),
        ("C", "int x; /* never closed", "/*neverclosed", False),
        ("Rust", "fn f() {}\n/// says what\nfn g() {}\n", "///sayswhat", True),
        ("Haskell", "x = 1\n-- | says\ny = {- in -} 2\n", "--|says{-in-}", False),
        ("OCaml", "let x = 1 (* one *)\n", "(*one*)", False),
        ("HTML", "<p>x</p><!-- note -->\n", "<!--note-->", False),
        (None, "x # one\n", "#one", False),
    ],
)
def test_comments_by_language(lang: str | None, text: str, comment: str, doc: bool) -> None:
    visible, counted, found = measure(text, lang)
    assert visible == len("".join(text.split()))
    assert (counted, found) == (len(comment), doc)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text("#/*'\"\\\n x-{}(<!", max_size=30) | st.text(max_size=30), st.sampled_from(["Python", "C", "Haskell", None])
        )
    ),
)
def test_any_text(rows: list[tuple[str, str | None]]) -> None:
    texts = pa.array([text for text, _ in rows], pa.large_string())
    found = documented(texts, pa.array([lang for _, lang in rows], pa.string()))
    for i, (text, lang) in enumerate(rows):
        assert found.visible_N[i] == sum(byte > 32 for byte in text.encode())
        assert 0 <= found.comment_N[i] <= found.visible_N[i]
        assert (found.visible_N[i], found.comment_N[i], found.doc_N[i]) == measure(text, lang)  # its neighbours do not matter
