"""Imports: what the lexer and tree-sitter find by statement is what tree-sitter finds in the whole file."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest
import tree_sitter_language_pack
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_sitter import Parser

from corpus.imports import IMPORT_LANGUAGES, MAX_PARSE, Names, _statements, names_in, read_tree

PYTHON = b'''import a.b.c as x, d ; import e
from . import q
from ..m.n import (r as s,  # not the ) end
    t)
from z import *
try: import k
except ImportError: from l import l
"""
import docstring
"""
one = 'import string'; two = """ " import string"""; three = '\\'import string'
from back import \\
   slash
def f():
    yield from x(")")
    raise A from b
x.imports, y.import_, important = 1, 2, 3  # import comment
from more import \\
    (one as uno, two,)
from __future__ import annotations
import d
'''
JAVA = b'''/* package no; */ package a.b.c;
import x.y.Z; // import no;
import static x.y.Z.m; import p.q.*;
class A { String s = "import no;"; char c = '"'; String t = """
  import no; """; int important; }
'''
CSHARP = b'''global using G.H;
using System.Text; using static A.B; using X = A.C; using Y = List<int>;
namespace A.D {
  class K { void f() { using (var x = g()) { } using var y = f(); var s = @"using no; "" using no;"; } }
  namespace In { class L { } } namespace In2 { }
}
namespace Z { var raw = """ " using no; """; /* using no; */ } // using no;
'''
C = b"""#include "a/b.h" /* begins
#include "comment.h"
*/ #pragma once
 # include <x/y.h>
#include MACRO
#include_next <no.h>
const char *s = "#include <no.h>", c = '"';
// #include "no.h"
#ifdef A
  #include <c>
#endif
"""


@pytest.mark.parametrize(
    ("lang", "text", "needs", "gives"),
    [
        ("Python", PYTHON, "a.b.c d e .q ..m.n.r ..m.n.t z k l.l back.slash more.one more.two", ""),
        ("Java", JAVA, "x.y.Z x.y.Z.m p.q.*", "a.b.c"),
        ("C#", CSHARP, "G.H System.Text A.B A.C", "A.D A.D.In A.D.In2 Z"),
        ("C#", b"using A;\nnamespace B.C;\nclass D { }", "A", "B.C"),
        ("C", C, '"a/b.h <x/y.h <c', ""),
        ("C++", C + b'auto r = R"x(\n#include "no.h"\n)" )x"; /* */ #include "d.hpp"\n', '"a/b.h <x/y.h <c "d.hpp', ""),
    ],
)
def test_statements(lang: str, text: bytes, needs: str, gives: str) -> None:
    assert names_in(text, lang) == Names(tuple(needs.split()), tuple(gives.split()))


def whole_file(text: bytes, lang: str) -> tuple[Names, bool]:
    """The oracle: the names in the tree of the whole file, and whether it has syntax errors."""
    root = Parser(tree_sitter_language_pack.get_language(IMPORT_LANGUAGES[lang])).parse(text).root_node
    return read_tree(root, lang), root.has_error


def test_python_equals_the_whole_file_parse() -> None:
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("[a-z]*/*.py"))
    chosen = [f for f in files if "site-packages" not in f.parts and f.stat().st_size < 60_000][::17]
    assert len(chosen) > 20
    for file in chosen:
        text = file.read_bytes()
        expected, broken = whole_file(text, "Python")
        ours = names_in(text, "Python")
        assert ours is not None
        assert set(ours.needs) == set(expected.needs) or (broken and set(ours.needs) >= set(expected.needs)), file


def test_c_finds_at_least_what_the_whole_file_parse_finds() -> None:
    """tree-sitter loses includes in macros and in files with errors; the lexer does not."""
    files = sorted(Path(sysconfig.get_paths()["include"]).rglob("*.h"))[::5]
    for file in files:
        text = file.read_bytes()
        ours = names_in(text, "C")
        assert ours is not None and set(ours.needs) >= set(whole_file(text, "C")[0].needs), file


HIDDEN = {
    "Python": [
        "# import no\n",
        '"""\nimport no\n"""\n',
        "'''x\nfrom no import no\n'''\n",
        "s = 'import no'\n",
        's = "\\"import no"\n',
    ],
    "Java": ["// import no;\n", "/* import no; */", 'String s = "import no;";', '"""\n import no;\n"""', "char c = '\\'';"],
    "C#": ["// using no;\n", "/* using no; */", 'var s = "using no;";', '@"\\";', '@"a""using no;"', "{ using (f()) { } }"],
    "C": ["// #include <no/no>\n", "/*\n#include <no/no>\n*/", '"#include <no/no>"', "'\"' ", "#define A(x) #x\n"],
    "C++": ["// #include <no/no>\n", '(R"(\n#include <no/no>\n")")', "1'000'000\n", '"#include <no/no>"'],
}
SEEN = {"Python": "\nimport m{}\n", "Java": "\nimport m{};\n", "C#": "\nusing m{};\n", "C": '\n#include "m{}"\n'}
SEEN["C++"] = SEEN["C"]


@pytest.mark.parametrize("lang", IMPORT_LANGUAGES)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_imports_between_comments_and_strings(lang: str, data: st.DataObject) -> None:
    """Any mixture of things that look like imports and imports: exactly the imports are found."""
    parts = data.draw(st.lists(st.one_of(st.sampled_from(HIDDEN[lang]), st.integers(0, 9))))
    text = "".join(SEEN[lang].format(p) if isinstance(p, int) else p for p in parts)
    found = names_in(text.encode(), lang)
    assert found is not None
    assert [name.strip('"') for name in found.needs] == list(dict.fromkeys(f"m{p}" for p in parts if isinstance(p, int)))


@pytest.mark.parametrize("lang", IMPORT_LANGUAGES)
@settings(deadline=None, max_examples=60)
@given(
    text=st.one_of(st.binary(max_size=400), st.text("importfuseng#cld \n\"'\\/*(){};.<>@$R\0", max_size=200).map(str.encode))
)
def test_any_bytes(lang: str, text: bytes) -> None:
    found = names_in(text + b"\nimport using namespace #include", lang)
    assert found is not None and all(isinstance(name, str) for name in found.needs)


@pytest.mark.parametrize("lang", IMPORT_LANGUAGES)
@pytest.mark.parametrize(
    "unit", [b"(", b"a<", b'"', b"'''", b'R"(', b"import ", b"from ", b"using ", b"namespace ", b"#include <", b"{", b"\\"]
)
def test_hostile_files_end(lang: str, unit: bytes) -> None:
    """Whole-file tree-sitter takes a minute and 12 GB on 64 kB of `a<` in Java; a lexer that goes back never ends."""
    assert names_in(b"import using #include \n" + unit * (1 << 17 >> len(unit).bit_length()), lang) is not None


def test_namespaces_in_namespaces_do_not_fill_the_memory() -> None:
    """Each is named with all around it: 1 MB of them were 7 GB of names."""
    found = names_in(b"namespace ab {" * 5000 + b"}" * 5000 + b"namespace z { namespace y { } }", "C#")
    assert found is not None and sum(map(len, found.gives)) < 1000
    assert found.gives[:2] == ("ab", "ab.ab") and found.gives[-2:] == ("z", "z.y")


PIECES = [
    b"import ",
    b"from ",
    b"as ",
    b"not ",
    b"a",
    b"b1 ",
    b".",
    b",",
    b"(",
    b")",
    b"*",
    b" ",
    b"\\\n",
    b"\n",
    b"#\n",
    b";",
    b"1",
    b"=",
]


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join))
def test_only_python_that_is_right_reaches_tree_sitter(text: bytes) -> None:
    """Its error recovery takes 6 s for a statement of 16 kB, and 1 MB holds 64 of them."""
    for piece in _statements(text, "Python"):
        assert not whole_file(piece + b"\n", "Python")[1], piece


@pytest.mark.parametrize("gap", [b" ", b"\\\n", b"\t", b"\n", b"#\n", b"a.", b"a,", b"a as b,"])
@pytest.mark.parametrize("begins", [b"import ", b"from ", b"from a import ", b"from . import (", b"from a.b"])
def test_long_python_statements_end(begins: bytes, gap: bytes) -> None:
    assert names_in(begins + gap * 100_000 + b"= import", "Python") is not None


def test_a_large_file_is_left_alone() -> None:
    assert names_in(b"import a\n" + b"x" * MAX_PARSE, "Python") is None
