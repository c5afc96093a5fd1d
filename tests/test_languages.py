"""corpus/languages.py and the modules under it: the table, the names, the score, and what a path and a text are taken for."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus import language_content
from corpus.document import text_buffers
from corpus.errors import ConfigError
from corpus.language_content import parse_words, score
from corpus.language_shapes import SHAPES, SIGNATURES
from corpus.language_table import FORMATS, LANGUAGES
from corpus.languages import BY, NAMES, SUPPORTED, SYNONYMS, UNKNOWN, check_language, detect

# The languages of the list that no name alone gives away: a text for each.
BY_TEXT_ALONE = {
    "Debian Control File": ("control", "Source: a\nMaintainer: b\nStandards-Version: 4\n\nPackage: a\nArchitecture: any\n"),
    "COBOLFree": (
        "hello.cbl",
        "identification division.\nprogram-id. hello.\nprocedure division.\n    display 'hi'.\n    stop run.\n",
    ),
    "FoxPro": (
        "form.prg",
        "LPARAMETERS tcName\nLOCAL loForm\nDEFINE CLASS myform AS Form\n  THISFORM.Release()\nENDDEFINE\nSCAN\nENDSCAN\n",
    ),
    "MiniScript": ("game.ms", 'sayHi = function(name)\n  print "hi " + name\nend function\nwhile true\n  print 1\nend while\n'),
    "Octave": (
        "plot.m",
        '# draws\n1;\nfunction r = twice(x)\n  r = 2 * x;\nendfunction\nif (x != 2)\n  printf("%d\\n", x);\nendif\n',
    ),
}

CASES = [
    (
        "api.h",
        "#ifndef A_H\n#define A_H\n#include <stdio.h>\ntypedef struct a { int n; } a;\nint a_read(a *self);\n#endif\n",
        "C",
    ),
    (
        "api.h",
        "#pragma once\n#include <string>\nnamespace a {\ntemplate <typename T>\nclass B {\n public:\n  std::string s;\n};\n}\n",
        "C++",
    ),
    (
        "api.h",
        "#import <Foundation/Foundation.h>\n@interface A : NSObject\n@property (nonatomic) NSString *s;\n- (void)go;\n@end\n",
        "Objective-C",
    ),
    ("/* */.m", '#import "A.h"\n@implementation A\n- (void)go { NSLog(@"go"); [self stop]; }\n@end\n', "Objective-C"),
    (
        "f.m",
        "function y = f(x)\n% doubles\ny = zeros(size(x));\nfor i = 1:length(x)\n  y(i) = 2 .* x(i);\nend\nend\n",
        "MATLAB",
    ),
    ("f.m", 'implement Hello;\ninclude "sys.m";\nsys: Sys;\nsys = load Sys Sys->PATH;\nsys->print("hi");\n', "Limbo"),
    ("a.pl", 'use strict;\nuse warnings;\nmy $x = shift;\nforeach my $y (@ARGV) { print "$y\\n"; }\n', "Perl"),
    ("a.pl", "use v6;\nclass A { has $.x; method go() { say $!x } }\nmulti sub MAIN(Int $n) { say $n }\n", "Perl 6"),
    ("a.pl", ":- module(a, [p/1]).\n:- use_module(library(lists)).\np(X) :- member(X, [1, 2]), \\+ X = 2.\n", "Prolog"),
    (
        "a.v",
        "module top(input wire clk, output reg [7:0] q);\nalways @(posedge clk) begin\n  q <= q + 1;\nend\nendmodule\n",
        "Verilog",
    ),
    ("a.v", "Require Import List.\nTheorem t : forall n, n = n.\nProof.\n  intros. reflexivity.\nQed.\n", "Coq"),
    ("a.ts", "import { A } from './a';\nexport class B { private x: number; get(): string { return ''; } }\n", "TypeScript"),
    ("a.ts", '<?xml version="1.0"?>\n<!DOCTYPE TS>\n<TS version="2.1"><context></context></TS>\n', "XML"),
    ("a.inc", "<?php\nfunction f($x) { return $x; }\n", "PHP"),
    ("a.inc", 'SUMMARY = "x"\nLICENSE = "MIT"\nSRC_URI = "git://x"\ninherit autotools\ndo_install() {\n}\n', "BitBake"),
    ("a.s", "\t.globl main\n\t.text\nmain:\n\tpushq %rbp\n\tmovq %rsp, %rbp\n\tret\n\t.size main, .-main\n", "GAS"),
    (
        "a.asm",
        "section .text\nglobal _start\n_start:\n  mov eax, 1\n  xor ebx, ebx\n  int 0x80\nsection .data\nmsg db 1\n",
        "NASM",
    ),
    (
        "a.asm",
        ".386\n.model flat\n.code\nmain PROC\n  mov eax, offset msg\n  invoke ExitProcess, 0\nmain ENDP\nEND main\n",
        "Assembly",
    ),
    ("a.sql", "SELECT a FROM t WHERE b = 1 ORDER BY a;\nCREATE TABLE t (a integer PRIMARY KEY);\n", "SQL"),
    (
        "a.sql",
        "USE [db]\nGO\nSET NOCOUNT ON\nDECLARE @n int\nSELECT TOP 1 * FROM [dbo].[t] WITH (NOLOCK)\nGO\n",
        "Transact-SQL",
    ),
    ("a.xml", "<?lasso\ninline(-search);\n?>\n<a/>\n", "XML Lasso"),
    (
        "a.f",
        "      PROGRAM A\nC     COMMENT\n      INTEGER I\n      DO 10 I = 1, 5\n   10 CONTINUE\n      END\n",
        "Fortran Fixed Form",
    ),
    ("config.h.in", "#undef HAVE_X\n", "C"),
    ("Makefile.am", "bin_PROGRAMS = a\n", "Makefile"),
    ("Dockerfile.alpine", "FROM alpine\n", "Dockerfile"),
    ("main.cpp.orig", "int main() {}\n", "C++"),
    ("A.PY", "x = 1\n", "Python"),
    ("a.R", "x <- 1\n", "R"),
    ("index.html.erb", "<%= yield %>\n", "HTML ERB"),
    ("run", "#!/usr/bin/env -S python3 -u\nprint(1)\n", "Python"),
    ("run", "#!/usr/bin/python3.11\n", "Python"),
    ("run", '#! /bin/sh\nexec wish "$0" "$@"\n', "Tcl"),
    ("vector", "// <vector> -*- C++ -*-\n\n#pragma GCC system_header\n", "C++"),
    ("settings", "x\n\n# vim: set ts=4 ft=ruby :\n", "Ruby"),
    ("settings", "x\n\n; Local Variables:\n; mode: scheme\n; End:\n", "Scheme"),
    ("notes.qqq", "def f(x):\n    return x\nimport os\nclass A:\n    pass\n", UNKNOWN),
    ("", "", UNKNOWN),
]


def said(path: str | None, text: str | None) -> tuple[str, str]:
    found = detect(pa.array([path], pa.string()), pa.array([text], pa.large_string()))
    return found.lang[0].as_py(), found.by[0].as_py()


@pytest.mark.parametrize(("path", "text", "language"), CASES, ids=[f"{c[0] or 'none'}-{c[2]}" for c in CASES])
def test_path_and_text_are_taken_for(path: str, text: str, language: str) -> None:
    assert said(path, text)[0] == language


@pytest.mark.parametrize(
    ("path", "text", "by"),
    [
        ("Makefile", "", "filename"),
        ("a.py", "", "extension"),
        ("a.h", "", "extension"),
        ("run", "#!/bin/bash\n", "shebang"),
        ("a.h", "/* -*- mode: c++; tab: 4 -*- */\n", "modeline"),
        ("a.h", "namespace a { class B; }\nusing namespace std;\ntemplate <class T>\nclass C;\n", "content"),
        ("a.qqq", "anything", "none"),
        (None, None, "none"),
    ],
)
def test_how_it_was_found(path: str | None, text: str | None, by: str) -> None:
    assert said(path, text)[1] == by


def test_every_language_of_the_list_can_be_given() -> None:
    """By a name that is its own or that it is the default of; five by text. The other names of a fourth are never given."""
    assert len(SUPPORTED) == len(set(SUPPORTED)) == 338
    claims: dict[str, list[str]] = defaultdict(list)
    for line in LANGUAGES.replace("\n  ", " ").splitlines():
        name, *columns = [*line.split("|"), ""]
        for key in f"{columns[0]} {columns[1] if len(columns) > 1 else ''}".split():
            claims[name].append(key.removesuffix("*"))
    for name in SUPPORTED:
        if name in SYNONYMS:
            assert name not in NAMES and SYNONYMS[name] in NAMES
        elif name in BY_TEXT_ALONE:
            assert said(*BY_TEXT_ALONE[name])[0] == name
        else:
            paths = [key if not key.startswith(".") else "some" + key for key in claims[name]]
            assert any(said(path, "")[0] == name for path in paths), f"nothing is ever {name}"


def test_the_list_is_the_published_one(corpus_data: Path) -> None:
    assert set(SUPPORTED) == set((corpus_data / "supported_langs.txt").read_text("utf-8").split("\n")) - {""}


def test_every_shared_name_has_one_default() -> None:
    claims: dict[tuple[int, str], list[bool]] = defaultdict(list)
    for line in (LANGUAGES + FORMATS).replace("\n  ", " ").splitlines():
        columns = line.split("|")[1:3]
        for kind, keys in enumerate(columns):
            listed = [key.removesuffix("*") for key in keys.split()]
            assert len(listed) == len(set(listed)), f"twice in one cell: {line}"
            for key in keys.split():
                claims[kind, key.removesuffix("*")].append(key.endswith("*"))
    wrong = {key: marks for key, marks in claims.items() if sum(marks) != (len(marks) > 1)}
    assert not wrong, f"one language marked * for each name that several share, none for the others: {sorted(wrong)}"


def test_words_and_shapes_speak_of_languages_there_are() -> None:
    looks = parse_words(language_content.WORDS.read_text("utf-8"))
    named = (
        set(looks) | {p for look in looks.values() for p in look.parents} | {s[0] for s in SHAPES} | {s[0] for s in SIGNATURES}
    )
    assert named <= set(NAMES)
    assert all(parent in looks for look in looks.values() for parent in look.parents)


def test_a_name_nobody_knows_is_refused_with_suggestions() -> None:
    assert check_language("Docker", "x") == "Dockerfile"
    assert check_language("Python", "x") == "Python"
    with pytest.raises(ConfigError, match=r"here: no language is called 'Pyton'.*Python"):
        check_language("Pyton", "here")
    with pytest.raises(ConfigError, match="Nimrod"):
        check_language("nim", "here")


_PIECES = [
    *"(){};:#%'",
    "//",
    "/*",
    "*/",
    "->",
    "::",
    "--",
    "$x",
    "@y",
    "<%=",
    "def",
    "class",
    "0x1",
    "a-b",
    "é",
    "\n",
    "\r\n",
    "\t",
    "\0",
]
TEXTS = st.one_of(
    st.text(max_size=300),
    st.lists(st.sampled_from(_PIECES), max_size=80).map(" ".join),
    st.sampled_from([c[1] for c in CASES]),
)
PATHS = st.one_of(st.none(), st.sampled_from([c[0] for c in CASES]), st.text(max_size=20))


@given(st.lists(st.tuples(PATHS, TEXTS), max_size=6))
@settings(max_examples=60, deadline=None)
def test_each_row_is_judged_by_itself(rows: list[tuple[str | None, str]]) -> None:
    """Whatever the bytes, and whatever stands beside them in the batch: neighbours, slices and nulls change nothing."""
    paths = pa.array(["left.h", *(p for p, _ in rows), "right"], pa.string())
    texts = pa.array(["class A;", *(t for _, t in rows), "#!/bin/sh"], pa.large_string())
    found = detect(paths.slice(1, len(rows)), texts.slice(1, len(rows)))
    assert list(zip(found.lang.to_pylist(), found.by.to_pylist(), strict=True)) == [said(p, t) for p, t in rows]
    assert set(found.lang.to_pylist()) <= set(NAMES) and set(found.by.to_pylist()) <= set(BY)


def test_no_rows_and_no_types() -> None:
    assert detect(pa.array([], pa.string()), pa.array([], pa.large_string())).lang.to_pylist() == []
    nothing = detect(pa.nulls(2), pa.nulls(2, pa.large_string()))
    assert nothing.lang.to_pylist() == [UNKNOWN, UNKNOWN]


def test_only_the_head_is_read() -> None:
    """A text of any size costs its first bytes: what lies behind them cannot change the answer, one long line included."""
    head = "#include <stdio.h>\nint f(void);\n" + "int g(void);\n" * 400
    assert said("a.h", head)[0] == said("a.h", head + "namespace std { template <class T> class A; }\n" * 99)[0] == "C"
    assert said("a.h", "x" * 3_000_000)[0] == "C"


# --- The score, written again with strings instead of hashes ----------------------------------------------------------

_WORD = r"[A-Za-z_\x80-\xff](?:[A-Za-z0-9_\x80-\xff]|-(?=[A-Za-z_]))*"
_TOKEN = re.compile(
    rf"(?P<newline>[\n\r])|(?P<word>{_WORD})|(?P<number>[0-9][A-Za-z0-9_.\x80-\xff]*)"
    rf"|(?P<single>[()\[\]{{}},;\"'`])|(?P<run>[!#$%&*+\-./:<=>?@\\^|~]+)"
)


def reference_features(text: str) -> Counter[str]:
    """The features that stand in a text (bytes as Latin-1), as the file writes them."""
    lines: list[list[tuple[list[str], str]]] = [[]]  # lines of (forms, word inside)
    ends = [""]
    at = 0
    while match := _TOKEN.search(text, at):
        at = match.end()
        kind, token = match.lastgroup, match.group()
        if kind == "newline":
            if lines[-1]:
                ends[-1] = text[: match.start()].rstrip(" \t")[-1:]
                lines.append([])
                ends.append("")
            continue
        comment = _comment(text, match) if not lines[-1] and kind in ("run", "single") else None
        if comment is not None:
            lines[-1].append(([token[:8]], ""))
            at = comment
        elif kind == "word":
            lines[-1].append(([token, "W"], ""))
        elif kind == "number":
            lines[-1].append((["0"], ""))
        elif kind == "run" and token != "+" and len(token) <= 8 and (word := re.compile(_WORD).match(text, at)):
            at = word.end()
            inside = "" if len(token) == 1 and token in "#$%.@\\" else word.group()
            lines[-1].append(([token + word.group(), token + "W", token], inside))
        else:
            lines[-1].append(([token[:8]], ""))
    return _stand(lines, ends)


def _comment(text: str, match: re.Match[str]) -> int | None:
    """Where the comment that opens the line ends; None where it is none."""
    token, after = match.group(), text[match.end() : match.end() + 1]
    line_end = re.compile(r"[\n\r]|\Z").search(text, match.end())
    assert line_end is not None
    if token.startswith("/*"):
        end = text.find("*/", match.start() + 2)
        return len(text) if end < 0 else end + 2
    if token.startswith("//") or text.startswith(";;", match.start()):
        return line_end.start()
    alone = token == "--" or (len(set(token)) == 1 and token[0] in "*#%;")
    return line_end.start() if alone and (not after or after in " \t\n\r") else None


def _stand(lines: list[list[tuple[list[str], str]]], ends: list[str]) -> Counter[str]:
    found: Counter[str] = Counter()
    for line, end in zip(lines, ends, strict=True):
        for place, (forms, inside) in enumerate(line):
            different = list(dict.fromkeys(forms))
            found.update([inside] if inside else [])
            found.update(form for form in different if not (form == "W" and forms.index(form) == 1))
            before = list(dict.fromkeys(line[place - 1][0][:2])) if place else []
            pairs = [f"{b}\0{f}" for i, b in enumerate(before) for f in (different if i == 0 else different[:1])]
            found.update(pairs if place else [f"^{form}" for form in different])
            found.update(f"^{pair}" for pair in pairs if place == 1)
        if line:
            found.update([f"{line[-1][0][0]}\0\n"] + ([f"^{line[0][0][0]}..{end}"] if end else []))
    return found


@given(TEXTS)
@settings(max_examples=150, deadline=None)
def test_the_kernel_scores_as_the_reference(text: str) -> None:
    looks = parse_words(language_content.WORDS.read_text("utf-8"))
    listed = Counter(f for look in looks.values() for f in look.features)
    seen = reference_features(text.encode("utf-8").decode("latin-1"))
    seen = Counter({_written(feature): times for feature, times in seen.items()})
    damped = [0, 4, 6, 7, 8]
    offsets_N1, data = text_buffers(pa.array([text], pa.large_string()))
    scores = score(offsets_N1, data, np.array([0]), NAMES, np.zeros((1, len(NAMES)), bool), 4096)[0]
    for name in ("C++", "Python", "Perl", "Objective-C++", "Pascal", "APL", "Literate CoffeeScript", "Velocity"):
        own = language_content._inherited(name, looks)
        expected = 0
        for feature in seen.keys() & own.keys():
            weight = round(own[feature] * 16 * np.log2(len(NAMES) / listed[feature]))
            expected += weight * damped[min(seen[feature], 4)] // 4
        assert scores[NAMES.index(name)] == expected, name


def _written(feature: str) -> str:
    """A feature of Latin-1 bytes, NUL between its tokens, as the file writes it."""
    text = feature.encode("latin-1").decode("utf-8", "replace")
    return text.replace("\0\n", "·⏎").replace("\0", "·")
