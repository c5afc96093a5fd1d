"""How a language writes a one-line comment: enough to put a file's path above its text.

Only what differs from `#` is listed. Languages whose comments are unknown here, or that have none (JSON, plain text), get
what most of their readers accept; the path is for a language model, no compiler reads it.
"""

from __future__ import annotations

import functools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["comment_lines", "comment_marks"]

# What opens and what closes a comment -> our language names.
# fmt: off
_MARKS = (
    ("// ", "", """
        ActionScript, AGS Script, ANTLR, Arduino, AspectJ, Asymptote, Bluespec, Boogie, BrightScript, C, C#, C++,
        CADL, Ceylon, Chapel, ChucK, CUDA, Cypher, Dart, DeviceTree, DM, eC, F#, F*, Fantom, G-Code, GLSL, Go, Gosu, Gradle,
        Groovy, Haxe, HLSL, Io, Java, JavaScript, JavaScript MozPreproc, JFlex, JSON, JSONiq, JSX, Kotlin, Less,
        Limbo, LSL, Metal, MiniScript, Mirah, Monkey, MQL, NetLinx, Objective-C, Objective-C++, Odin, OMG Interface Definition
        Language, ooc, Opa, OpenCL, OpenSCAD, Oz, PAWN, PHP, Pike, POV-Ray, Processing, Protocol Buffer, Pug, QML, QVTO,
        ReasonML, RenderScript, Rust, Sass, Scala, Scilab, SCSS, Silver, Slim, Smithy, Solidity, SourcePawn, SQF, Squirrel,
        Stan, Stata, Stylus, Swift, SystemVerilog, Thrift, TypeScript, TypoScript, Uno, UnrealScript, Vala, Verilog, Web
        IDL, X10, XC, Xtend, Xtlang, Zephir, Zig"""),
    ("-- ", "", """
        Ada, Agda, Alloy, AppleScript, C2HS Haskell, Eiffel, Elm, GSQL, Haskell, Idris, Isabelle, Lean, Lua, MoonScript,
        NuSMV, PureScript, SQL, Transact-SQL, UrWeb, VHDL"""),
    ("% ", "", """
        BibTeX, BST, Erlang, LilyPond, Literate Agda, Logtalk, MATLAB, Mizar, Octave, PostScript, Prolog, TeX,
        Turing"""),
    ("; ", "", """
        AMD GPU, Arc, Assembly, AutoHotkey, AutoIt, Clojure, Common Lisp, Csound, Csound Score, DASM16, Emacs Lisp,
        Fennel, GAS, Hy, INI, Inno Setup, LFE, LLVM, NASM, NCL, NSIS, Papyrus, Propeller Spin, PureBasic, Racket,
        Red, Rouge, Scheme, SMT"""),
    ("<!-- ", " -->", """
        ColdFusion CFC, Genshi, Handlebars, HTML, HTML Django, HTML ERB, HTML PHP, Markdown, Mason, RHTML, RMarkdown,
        Svelte, SVG, Vue, XML, XML Lasso, XSLT"""),
    ("/* ", " */", """
        ANSYS Parametric Design Language, CSS, Lex, Linker Script, PEG, REXX, SAS, SWIG, Yacc"""),
    ("(* ", " *)", "BNF, Coq, EBNF, Mathematica, Modula-2, OCaml, Pascal, Standard ML"),
    ("! ", "", "Factor, Fortran, Fortran Fixed Form"),
    ("' ", "", "ASP, BlitzMax, REALbasic, VBScript, Visual Basic"),
    ('" ', "", "ABAP, Smalltalk, VimL"),
    ("{# ", " #}", "Liquid, Smarty, Twig"),
    (".. ", "", "reStructuredText"),
    ("dnl ", "", "M4"),
    ("rem ", "", "Batchfile"),
    ("* ", "", "COBOL, COBOLFree, FoxPro, XBase"),
    ("<%-- ", " --%>", "Groovy Server Pages, Java Server Pages"),
)
# fmt: on
_DEFAULT = ("# ", "")


@functools.cache
def _table() -> dict[str, tuple[str, str]]:
    return {" ".join(lang.split()): (opens, closes) for opens, closes, names in _MARKS for lang in names.split(",")}


def comment_marks(lang: str | None) -> tuple[str, str]:
    """What opens and what closes a comment of one line."""
    return _table().get(lang or "", _DEFAULT)


def comment_lines(text: pa.Array, lang: pa.Array) -> pa.Array:
    """Each text as a comment line of its row's language, with its newline, as large_string; a null text gives "".

    Characters that would end the line are written as spaces.
    """
    coded = lang.dictionary_encode()
    marks = [comment_marks(name) for name in [*coded.dictionary.to_pylist(), None]]
    codes = pa.array(coded.indices.fill_null(len(marks) - 1).to_numpy(zero_copy_only=False).astype(np.int64))
    opens = pa.array([m[0] for m in marks], pa.large_string()).take(codes)
    closes = pa.array([m[1] + "\n" for m in marks], pa.large_string()).take(codes)
    one_line = pc.replace_substring_regex(text.cast(pa.large_string()), r"[\x00-\x1f\x7f\x{85}\x{2028}\x{2029}]", " ")
    return pc.fill_null(pc.binary_join_element_wise(opens, one_line, closes, pa.scalar("", pa.large_string())), "")
