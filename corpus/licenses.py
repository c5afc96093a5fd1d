"""Which licence a text is: SPDX identifiers from licence files and from SPDX-License-Identifier headers.

A licence is recognised by a few phrases only it contains, which must all occur once case, punctuation and line breaks are
gone: nobody rewords a licence, they change names, bullets and wrapping. Each has its length in words, so a file that is mostly
something else, or that adds a restriction, is NOASSERTION rather than the licence it quotes. A file with several is their AND.

    identify(text)              "MIT" | "Apache-2.0 AND BSD-3-Clause" | "NOASSERTION"
    repository_license(files)   over the licence files in a repository's root; None where there is none
    header_license(data)        the expression in a file's own SPDX-License-Identifier, or None
    is_permissive(expression)   whether PERMISSIVE licences alone suffice for it

The trade: 40 licences cover nearly all of GitHub, and the rest is NOASSERTION, never a guess. The bare text of the GPL does not
say whether later versions are allowed, so it is "-only" here; the notice "either version 2 …, or any later" is "-or-later".

Identifiers: https://spdx.org/licenses/. Phrases and lengths were chosen from the published texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

__all__ = [
    "NOASSERTION",
    "PERMISSIVE",
    "header_license",
    "identify",
    "is_license_file",
    "is_permissive",
    "repository_license",
]

NOASSERTION = "NOASSERTION"

_PERMISSIVE = (
    "0BSD AFL-3.0 Apache-1.1 Apache-2.0 Artistic-2.0 BSD-2-Clause BSD-3-Clause BSD-3-Clause-Clear BSD-4-Clause BSL-1.0 "
    "BlueOak-1.0.0 CC-BY-3.0 CC-BY-4.0 CC0-1.0 ECL-2.0 HPND ISC MIT MIT-0 MS-PL MulanPSL-2.0 NCSA PSF-2.0 PostgreSQL "
    "Python-2.0 UPL-1.0 Unlicense Vim WTFPL X11 ZPL-2.1 Zlib libpng-2.0"
)
PERMISSIVE = frozenset(_PERMISSIVE.split())


class Mark(NamedTuple):
    """A licence, the phrases that must all occur, how many words the whole text has, and phrases that must not occur."""

    spdx: str
    phrases: tuple[str, ...]
    words: int
    without: tuple[str, ...] = ()


_MIT = "permission is hereby granted free of charge to any person obtaining a copy of this software"
_IN, _KEPT = "deal in the software without restriction", "this permission notice shall be included in all copies"
_SALE = "advertising or otherwise to promote the sale"
_ISC = "distribute this software for any purpose with or without fee is hereby granted"
_ISC_KEPT = "permission notice appear in all copies"
_BSD, _BSD_2 = "redistribution and use in source and binary forms", "in binary form must reproduce the above copyright"
_NAMES, _ADS = "to endorse or promote products derived from", "advertising materials mentioning features or use"
_CLEAR = "no express or implied licenses to any party s patent rights"
_OLD = "distribute this software and its documentation for any purpose"
_PSF, _BEOPEN = "between the python software foundation psf and the individual", "beopen com license agreement"

_TEXTS = (
    Mark("MIT", (_MIT, _IN, _KEPT), 170, (_SALE,)),
    Mark("X11", (_MIT, _IN, _KEPT, _SALE), 210),
    Mark("MIT-0", (_MIT, _IN), 130, (_KEPT,)),
    Mark("NCSA", (_MIT, "deal with the software without restriction", _NAMES.replace("to endorse", "used to endorse")), 240),
    Mark("ISC", (_ISC, _ISC_KEPT), 120),
    Mark("0BSD", (_ISC, "disclaims all warranties"), 95, (_ISC_KEPT,)),
    Mark("BSD-4-Clause", (_BSD, _BSD_2, _ADS), 250),
    Mark("BSD-3-Clause-Clear", (_BSD, _BSD_2, _NAMES, _CLEAR), 240),
    Mark("BSD-3-Clause", (_BSD, _BSD_2, _NAMES), 220, (_ADS, _CLEAR)),
    Mark("BSD-2-Clause", (_BSD, _BSD_2), 190, (_NAMES, _ADS)),
    Mark("Apache-2.0", ("version 2.0 january 2004", "grant of patent license"), 1600),
    Mark("Apache-1.1", ("apache software license version 1.1", _NAMES), 400),
    Mark("GPL-2.0-only", ("gnu general public license version 2 june 1991", "terms and conditions for copying"), 2950),
    Mark("GPL-3.0-only", ("gnu general public license version 3 29 june 2007", "additional terms"), 5600),
    Mark("LGPL-2.0-only", ("gnu library general public license version 2 june 1991",), 4150),
    Mark("LGPL-2.1-only", ("gnu lesser general public license version 2.1 february 1999",), 4350),
    Mark("LGPL-3.0-only", ("gnu lesser general public license version 3 29 june 2007",), 1230),
    Mark("AGPL-3.0-only", ("gnu affero general public license version 3 19 november 2007",), 5600),
    Mark("MPL-1.1", ("mozilla public license version 1.1 1 definitions",), 3650),
    Mark("MPL-2.0", ("mozilla public license version 2.0 1 definitions",), 2430),
    Mark("EPL-1.0", ("eclipse public license v 1.0 the accompanying program",), 1750),
    Mark("EPL-2.0", ("eclipse public license v 2.0 the accompanying program",), 2200),
    Mark("CDDL-1.0", ("common development and distribution license cddl version 1.0",), 2550),
    Mark("EUPL-1.2", ("european union public licence v 1.2",), 2100),
    Mark("OFL-1.1", ("sil open font license version 1.1 26 february 2007",), 640),
    Mark("BSL-1.0", ("boost software license version 1.0 august 17th 2003",), 215),
    Mark("Unlicense", ("this is free and unencumbered software released into the public domain",), 215),
    Mark("WTFPL", ("do what the fuck you want to public license",), 75),
    Mark("Zlib", ("altered source versions must be plainly marked", "may not be removed or altered from any source"), 140),
    Mark("CC0-1.0", ("cc0 1.0 universal",), 1050),
    Mark("CC-BY-4.0", ("attribution 4.0 international", "section 1 definitions"), 2900),
    Mark("CC-BY-SA-4.0", ("attribution sharealike 4.0 international",), 3050),
    Mark("CC-BY-NC-4.0", ("attribution noncommercial 4.0 international",), 2950),
    Mark("CC-BY-NC-SA-4.0", ("attribution noncommercial sharealike 4.0 international",), 3150),
    Mark("CC-BY-ND-4.0", ("attribution noderivatives 4.0 international",), 2900),
    Mark("CC-BY-NC-ND-4.0", ("attribution noncommercial noderivatives 4.0 international",), 2900),
    Mark("Artistic-2.0", ("artistic license 2.0 copyright c 2000 2006",), 1450),
    Mark("MS-PL", ("microsoft public license ms pl",), 390),
    Mark("PostgreSQL", (_OLD, "without a written agreement is hereby granted", "support updates enhancements"), 170),
    Mark("HPND", (_OLD, "used in advertising or publicity pertaining to distribution"), 190),
    Mark("PSF-2.0", (_PSF, "makes no representations or warranties"), 420, (_BEOPEN,)),
    Mark("Python-2.0", (_PSF, _BEOPEN), 1900),
    Mark("UPL-1.0", ("the universal permissive license upl version 1.0",), 270),
)

# The short notice that stands in for the text. Tried only where no text is found: several texts quote their own notice.
_FSF = "public license as published by the free software foundation"
_NOTICES = (
    ("GPL-2.0-or-later", f"gnu general {_FSF} either version 2 of the license or"),
    ("GPL-3.0-or-later", f"gnu general {_FSF} either version 3 of the license or"),
    ("LGPL-2.1-or-later", f"gnu lesser general {_FSF} either version 2.1 of the license or"),
    ("LGPL-3.0-or-later", f"gnu lesser general {_FSF} either version 3 of the license or"),
    ("AGPL-3.0-or-later", f"gnu affero general {_FSF} either version 3 of the license or"),
    ("GPL-2.0-only", "gnu general public license version 2 as published by the free software foundation"),
    ("Apache-2.0", "licensed under the apache license version 2.0"),
    ("MIT", "licensed under the mit license"),
    ("MPL-2.0", "subject to the terms of the mozilla public license v 2.0"),
)
_NOTICE_WORDS = 250

# Words that take away what a permissive text gives. GPL and Creative Commons texts use some of them in passing.
_RESTRICTIONS = (
    "commons clause",
    "for good not evil",
    "for non commercial",
    "for noncommercial",
    "non commercial use only",
    "commercial use is prohibited",
    "commercial use is not permitted",
    "for research purposes only",
)

_WORD = re.compile(r"[a-z0-9]+(?:\.[0-9]+)*")


def identify(text: str) -> str:
    """The SPDX identifier of a licence text; an AND of them where it holds several; NOASSERTION where it is none we know."""
    words = _WORD.findall(text.lower())
    plain = " " + " ".join(words) + " "
    found = [m for m in _TEXTS if all(p in plain for p in m.phrases) and not any(p in plain for p in m.without)]
    if not found:
        notices = {spdx for spdx, phrase in _NOTICES if phrase in plain} if len(words) <= _NOTICE_WORDS else set()
        return notices.pop() if len(notices) == 1 else NOASSERTION
    names = _without_quoted({m.spdx for m in found})
    if any(phrase in plain for phrase in _RESTRICTIONS) and all(name in PERMISSIVE for name in names):
        return NOASSERTION
    # A text may be there several times (third-party notices), under several names and copyright lines.
    explained = sum(m.words * plain.count(m.phrases[0]) for m in found)
    if len(words) > 2 * explained + 150:
        return NOASSERTION
    return " AND ".join(sorted(names))


def _without_quoted(names: set[str]) -> set[str]:
    """The LGPL comes with the GPL it amends, Python's licence with the older ones it grew from: the one means the whole."""
    if any(name.startswith("LGPL") for name in names):
        names = {name for name in names if not name.startswith("GPL")}
    if "Python-2.0" in names:
        names = names - {"0BSD", "HPND", "PSF-2.0"}
    return names


# --- Licence files -----------------------------------------------------------------------------------------------------------

_PLAIN = re.compile(r"(?:un)?licen[sc]es?(?:\.(?:txt|md|rst|html))?|copying(?:\.(?:txt|md|rst))?", re.I)
_SUFFIXED = re.compile(r"licen[sc]e[-_.][\w.+-]+|[\w.+-]+[-_.]licen[sc]e(?:\.(?:txt|md|rst))?|copying[-.][\w.+-]+", re.I)
_CODE = re.compile(r".*\.(?:py|js|ts|c|h|cc|cpp|java|go|rs|rb|sh|json|ya?ml|xml|docx?|pdf|png|svg)", re.I)


def is_license_file(name: str) -> bool:
    """Whether a file in a repository's root is named as licence texts are."""
    return bool(_PLAIN.fullmatch(name) or _SUFFIXED.fullmatch(name)) and not _CODE.fullmatch(name)


def repository_license(files: dict[str, str]) -> str | None:
    """The licence of a repository from its root's licence files {name: text}.

    LICENSE or COPYING decides where there is one; it may hand over to its neighbours ("under either of …"). Without it,
    LICENSE-A beside LICENSE-B is a choice, OR: that is what the naming is for.
    """
    if not files:
        return None
    plain = {name: text for name, text in files.items() if _PLAIN.fullmatch(name)}
    others = {identify(text) for name, text in files.items() if name not in plain} - {NOASSERTION}
    if not plain:
        return _joined(others, " OR ")
    decided = {identify(text) for text in plain.values()} - {NOASSERTION}
    if decided:
        return _joined(_without_quoted(decided | {name for name in others if name.startswith("LGPL")}), " AND ")
    hands_over = any(re.search(r"\beither\b", text) and len(text.split()) <= _NOTICE_WORDS for text in plain.values())
    return _joined(others, " OR ") if hands_over else NOASSERTION


def _joined(expressions: set[str], operator: str) -> str:
    if len(expressions) < 2:
        return next(iter(expressions), NOASSERTION)
    return operator.join(sorted(f"({e})" if " " in e else e for e in expressions))


# --- Headers and expressions -------------------------------------------------------------------------------------------------

_HEADER = b"SPDX-License-Identifier:"
_HEADER_BYTES = 4096  # a header further down belongs to something quoted
_ENDS = re.compile(r"\*/|-->|\*\)|#}|%>|\"|'|$")
_TOKEN = re.compile(r"\(|\)|[A-Za-z0-9.+-]+|\S")
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
_SPELLED = {name.lower(): name for name in PERMISSIVE | {m.spdx for m in _TEXTS} | {spdx for spdx, _ in _NOTICES}}
_OPERATORS = ("and", "or", "with")


def header_license(data: bytes) -> str | None:
    """The SPDX expression in the first 4 kB of a file, in canonical spelling; None without one or with a malformed one."""
    at = data.find(_HEADER, 0, _HEADER_BYTES)
    if at < 0:
        return None
    start = at + len(_HEADER)
    line = data[start : start + 200].split(b"\n", 1)[0].decode("utf-8", "replace")
    tokens = _TOKEN.findall(_ENDS.split(line, maxsplit=1)[0])
    out = [t.upper() if t.lower() in _OPERATORS else _SPELLED.get(t.lower(), t) for t in tokens]
    expression = " ".join(out).replace("( ", "(").replace(" )", ")")
    return expression if _parse(out, lambda name: True) is not None else None


def is_permissive(expression: str | None) -> bool:
    """Whether the terms of PERMISSIVE licences alone suffice: one side of an OR, both sides of an AND. Unknown is False."""
    if expression is None:
        return False
    return _parse(_TOKEN.findall(expression), PERMISSIVE.__contains__) is True


def _parse(tokens: list[str], holds: Callable[[str], bool]) -> bool | None:
    """The truth of an SPDX expression, `holds` saying it of one identifier; None where it is malformed. AND binds tighter."""

    rest = tokens[::-1]

    def atom() -> bool:
        token = rest.pop()
        if token == "(":
            value = either()
            if rest.pop() != ")":
                raise ValueError
            return value
        if not _IDENTIFIER.fullmatch(token) or token.lower() in _OPERATORS:
            raise ValueError
        if rest and rest[-1] == "WITH":  # an exception only adds permissions
            rest.pop()
            if not _IDENTIFIER.fullmatch(rest.pop()):
                raise ValueError
        return bool(holds(token.rstrip("+")))

    def both() -> bool:
        value = atom()
        while rest and rest[-1] == "AND":
            rest.pop()
            value = atom() and value
        return value

    def either() -> bool:
        value = both()
        while rest and rest[-1] == "OR":
            rest.pop()
            value = both() or value
        return value

    try:
        value = either()
    except (ValueError, IndexError, RecursionError):
        return None
    return None if rest else value
