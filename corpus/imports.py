r"""What a source file imports and what it declares, for the five languages DeepSeek-Coder ordered by dependency.

A lexer (one regular expression per language: comments, string literals, import statements) finds the statements, and
tree-sitter reads each of them. The whole file is not parsed, for three measured reasons:

- Statements repeat, so their parse is remembered.
- An error far away cannot hide an import: Python 2, macros and half-written files are read like any other.
- tree-sitter's error recovery is quadratic in time *and memory*: 64 kB of `a<a<a<` as Java or C# takes a minute and 12 GB,
  and its progress callback, the only brake, is not called meanwhile. A statement is at most MAX_STATEMENT bytes, and where
  it may be long, in Python, one that is right.

Another trap, for whoever parses whole files after all: a Parser whose parse was aborted goes on with the *old* text when
given a new one, until `reset()`.

Names are in one notation: Python `a.b.c`, relative `..m.c` (the last part may be an attribute); Java `a.b.C`, `a.b.*`;
C# `A.B`; C and C++ `"path/x.h` or `<path/x.h`.
"""

from __future__ import annotations

import functools
import keyword
import re
from collections.abc import Iterator
from typing import NamedTuple

import tree_sitter_language_pack  # 0.13 bundles the grammars; 1.x downloads them at run time
from tree_sitter import Node, Parser, Query, QueryCursor

__all__ = ["IMPORT_LANGUAGES", "MAX_PARSE", "Names", "names_in", "read_tree"]

MAX_PARSE = 1 << 20  # bytes; a larger file of these languages is generated, and none of the 1,024 kB is an import
MAX_STATEMENT = 1 << 14
MAX_NESTED = 16  # namespaces in namespaces; 80,000 of them, which fit into 1 MB, have names of 7 GB

# Our language names -> tree-sitter's.
IMPORT_LANGUAGES = {"Python": "python", "Java": "java", "C#": "csharp", "C": "c", "C++": "cpp"}


class Names(NamedTuple):
    """needs: what the file imports, in order, once each. gives: the packages or namespaces it declares (Java, C#)."""

    needs: tuple[str, ...]
    gives: tuple[str, ...]


# A lexer is `(?:skip)*(?P<take>statement)?`: it steps over text, comments and strings, and stops at an import. Everything in
# `skip` consumes what it looked at (closing quotes are optional), so no input makes it go back, and time is linear. No
# possessive groups: before 3.11.5 Python matches them wrongly (gh-106052), and Debian 12 has 3.11.2.
_SLASHES = rb"//[^\n]*|/\*(?:[^*]+|\*(?!/))*(?:\*/)?|/"
_QUOTED = rb'"(?:[^"\\\n]+|\\.)*"?' + rb"|'(?:[^'\\\n]+|\\.)*'?"
_BLOCK = rb'"""(?:[^"\\]+|\\.|"(?!""))*(?:""")?'
_BLOCKS = _BLOCK + rb"|" + _BLOCK.replace(b'"', b"'")
_RAW = rb'(?:(?<=\WR)|(?<=\W[uUL]R)|(?<=\Wu8R))"(?P<fence>[^()\\\s"]{0,16})\((?:.*?)(?:\)(?P=fence)"|\Z)'
_VERBATIM = rb'(?:(?<=@)|(?<=@\$))"(?:[^"]+|"")*"?|(?P<fence>"{3,}).*?(?:(?P=fence)|\Z)'
_CLAUSE = rb"""[^;{}()"']{0,300}"""  # between a keyword and the ; or { that ends the statement
_FROM = rb"(?<![\w.])(?:from|import)\b"
# Python's statements are matched word by word: tree-sitter is quick with what is right, and takes 6 s for 16 kB of `not :not `.
_GAP, _LINES = rb"(?:[ \t\f]|\\\r?\n)*", rb"(?:[ \t\f\r\n]|\\\r?\n|\#[^\n]*\n)*"  # outside parentheses and inside
_NAME = rb"(?!(?:%b)\b)[A-Za-z_\x80-\xff][\w\x80-\xff]*" % "|".join(keyword.kwlist).encode()
_DOTTED = rb"%b(?:%b\.%b%b)*" % (_NAME, _GAP, _GAP, _NAME)
_ITEM = rb"%b(?:%bas\b%b%b)?" % (_DOTTED, _GAP, _GAP, _NAME)
_ITEMS = rb"%b(?:%b,%b%b)*" % (_ITEM, _GAP, _GAP, _ITEM)
_INSIDE = rb"\(%b%b(?:%b,%b%b)*%b(?:,%b)?\)" % (_LINES, _ITEM, _LINES, _LINES, _ITEM, _LINES, _LINES)
_WHERE = rb"(?:%b%b|(?:\.%b)+(?:%b%b)?)" % (_DOTTED, _GAP, _GAP, _DOTTED, _GAP)
_IMPORT = rb"(?<![\w.])(?:import\b%b%b|from\b%b%bimport\b%b(?:\*|%b|%b))" % (_GAP, _ITEMS, _GAP, _WHERE, _GAP, _INSIDE, _ITEMS)
_INCLUDE = rb"\#[ \t]*include\b"
_PATH = rb'[ \t]*(?:"[^"\n]{0,500}"|<[^>\n]{0,500}>)?'


def _lexer(notable: bytes, begins: bytes, take: bytes, *skips: bytes) -> re.Pattern[bytes]:
    """notable: the characters at which a comment, a string or `begins` can start; begins: how the statement `take` does."""
    skip = b"|".join([rb"[^%b]+" % notable, *skips, rb"(?!%b)[%b]" % (begins, notable)])
    return re.compile(rb"(?:%b)*(?P<take>%b)?" % (skip, take), re.DOTALL)


_LEXERS = {
    "Python": _lexer(rb"\"'\#fi", _FROM, _IMPORT, rb"\#[^\n]*", _BLOCKS, _QUOTED),
    "Java": _lexer(
        rb"\"'/ip",
        rb"\b(?:import|package)\b",
        rb"\b(?:import|package)\b" + _CLAUSE + rb";",
        _SLASHES, _BLOCK, _QUOTED,
    ),
    "C#": _lexer(
        rb"\"'/un{}",
        rb"\b(?:using|namespace)\b|[{}]",
        rb"\busing\b" + _CLAUSE + rb";|\bnamespace\b" + _CLAUSE + rb"[;{]|[{}]",
        _SLASHES, _VERBATIM, _QUOTED,
    ),
    "C": _lexer(rb"\"'/\#", _INCLUDE, _INCLUDE + _PATH, _SLASHES, _QUOTED),
    "C++": _lexer(rb"\"'/\#", _INCLUDE, _INCLUDE + _PATH, _SLASHES, _RAW, _QUOTED),
}  # fmt: skip
_KEYWORD = {"Python": b"import", "Java": b"", "C#": b"", "C": b"include", "C++": b"include"}

_PYTHON_NAME = "[(dotted_name) @name (aliased_import name: (dotted_name) @name)]"
_QUERIES = {
    "Python": f"""(import_statement name: {_PYTHON_NAME})
                  (import_from_statement module_name: (_) @from name: {_PYTHON_NAME})
                  (import_from_statement module_name: (_) @from (wildcard_import))""",
    "Java": """(import_declaration [(scoped_identifier) (identifier)] @name (asterisk)? @all)
               (package_declaration [(scoped_identifier) (identifier)] @declared)""",
    "C#": """(using_directive !name [(qualified_name) (identifier)] @name)
             (using_directive name: (_) [(qualified_name) (identifier)] @name .)
             (namespace_declaration name: (_) @declared)
             (file_scoped_namespace_declaration name: (_) @declared)""",
    "C": "(preproc_include path: [(string_literal) (system_lib_string)] @name)",
}
_QUERIES["C++"] = _QUERIES["C"]


def names_in(text: bytes, lang: str) -> Names | None:
    """The imports of a file in one of IMPORT_LANGUAGES; None when it is larger than MAX_PARSE."""
    if len(text) > MAX_PARSE:
        return None
    if _KEYWORD[lang] not in text:
        return Names((), ())
    needs: dict[str, None] = {}
    gives: dict[str, None] = {}
    depth = 0
    open_spaces: list[tuple[int, str]] = []  # C# namespaces we are inside of, with the depth of their brace
    for piece in _statements(text, lang):
        if piece == b"{":
            depth += 1
        elif piece == b"}":
            depth -= 1
            while open_spaces and open_spaces[-1][0] >= depth:
                open_spaces.pop()
        else:
            found = _read_statement(piece, lang)
            needs.update(dict.fromkeys(found.needs))
            for name in found.gives:
                full = f"{open_spaces[-1][1]}.{name}" if open_spaces else name
                if len(open_spaces) < MAX_NESTED:
                    gives[full] = None
                    if piece.endswith(b"{"):
                        open_spaces.append((depth, full))
            depth += piece.endswith(b"{")
    return Names(tuple(needs), tuple(gives))


def _statements(text: bytes, lang: str) -> Iterator[bytes]:
    for match in _LEXERS[lang].finditer(text):
        if (piece := match["take"]) and len(piece) <= MAX_STATEMENT:
            yield piece


@functools.lru_cache(maxsize=1 << 13)  # at most 128 MB of statements
def _read_statement(piece: bytes, lang: str) -> Names:
    """One statement, parsed. `namespace X {` is closed first."""
    if lang == "C#" and piece.endswith(b"{"):
        piece += b"}"
    return read_tree(_grammar(lang)[0].parse(piece + b"\n").root_node, lang)


@functools.cache
def _grammar(lang: str) -> tuple[Parser, Query]:
    language = tree_sitter_language_pack.get_language(IMPORT_LANGUAGES[lang])
    return Parser(language), Query(language, _QUERIES[lang])


def read_tree(root: Node, lang: str) -> Names:
    """The names in a syntax tree, of a statement or of a whole file."""
    needs: dict[str, None] = {}
    gives: dict[str, None] = {}
    for _, found in QueryCursor(_grammar(lang)[1]).matches(root):
        part = {key: _text(nodes[0], lang) for key, nodes in found.items()}
        if "declared" in part:
            gives[part["declared"]] = None
        elif "from" in part:
            base, name = part["from"], part.get("name", "")
            needs[base + name if base.endswith(".") else f"{base}.{name}".rstrip(".")] = None
        elif part.get("name"):
            needs[part["name"] + (".*" if "all" in part else "")] = None
    return Names(tuple(needs), tuple(gives))


def _text(node: Node, lang: str) -> str:
    raw = (node.text or b"").decode("utf-8", "replace")
    if lang in ("C", "C++"):
        return raw[:-1]  # without the closing quote; the opening one says how it is looked up
    return "".join(raw.replace("\\", "").split())
