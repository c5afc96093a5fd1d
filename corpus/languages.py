"""The 338 languages of DeepSeek-Coder-V2 and the formats beside them: which one a file is, by name first, then by content.

    1. file name, then extension (longest first: `.html.erb`, `.erb`), each as written, then in any case; a name with one of
       _IGNORED after it (`config.h.in`, `main.c.orig`) is read without it, `Makefile.am` and `Dockerfile-dev` by their stem
    2. where that leaves one language, it is the answer, and the text is not looked at
    3. otherwise the interpreter of a `#!` line, then a vim or emacs modeline, then signatures (`<?xml`, `%!PS`),
    4. then the score of the content among the languages that share the extension (corpus/language_content.py); a file
       without an extension is scored among all, and taken only when the first is clearly ahead; an extension nobody
       knows is believed to be a language nobody here knows
    5. then the language marked `*` for the extension, or `unknown`

Steps 1 and 2 are Arrow kernels over the path column. Steps 3 and 4 read at most `prefix` bytes of the head and 512 of the tail
of the rows that need it.

The trade: a name that only one listed language uses is believed, so a wrong extension goes unnoticed (`.py` that holds XML);
in return nine files in ten cost a table look-up.

Names. What is given is the name in the list of 338, save three that are other names of a fourth: Docker is given as
Dockerfile, Jade as Pug, Bro as Zeek (SYNONYMS: the name in use today). The other pairs that look alike are kept apart
where name or text can tell: HTML ERB `.erb` and RHTML `.rhtml`; COBOL (columns) and COBOLFree; Fortran and Fortran Fixed
Form; GAS (AT&T and GNU directives), NASM and Assembly (MASM and the rest); MATLAB and Octave (`endfunction`, `#`
comments); SQL and Transact-SQL (`GO`, `[dbo]`, `@variables`); R, S (`.ssc`) and RConsole (`.Rout`); FoxPro and XBase;
JavaScript and JSX (`.jsx`).

Reference: the list is DeepSeek-Coder-V2's `supported_langs.txt`; extensions, names and interpreters are facts that GitHub's
linguist records.
"""

from __future__ import annotations

import difflib
import functools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corpus.document import text_buffers
from corpus.errors import ConfigError
from corpus.language_content import prefixes, score
from corpus.language_shapes import SIGNATURES
from corpus.language_table import FORMATS, LANGUAGES

__all__ = ["BY", "NAMES", "SUPPORTED", "SYNONYMS", "UNKNOWN", "Detected", "check_language", "detect"]

UNKNOWN = "unknown"
BY = ("none", "filename", "extension", "shebang", "modeline", "content")
SYNONYMS = {"Docker": "Dockerfile", "Jade": "Pug", "Bro": "Zeek"}

_IGNORED = r"(?i)(?:\.(?:in|dist|example|sample|template|tmpl|default|orig|bak|old|new|save|rej|dpkg-\w+|rpm\w+)|~)$"
_CHUNK = 4096  # rows scored at once: 4 bytes per row and language are 6 MB, however many small files a batch holds
_TAIL = 512  # bytes in which a modeline may stand at the end
# What a score must reach. A feature that one language alone lists counts 136 to 272 points. Set on the part of the samples
# that is not held out, and on what lies in /etc and /usr/share, most of which is in no language at all.
_AHEAD, _AHEAD_SHARE = 120, 1.1  # against the language marked `*`: this many points more, and this many times as much
_LEAST, _LEAST_GROWTH = 250, 16  # among all languages: 250 + 16 · √(bytes read), since long texts meet more by chance
_MARGIN = 1.05  # among all languages: times the second best


@dataclass(frozen=True)
class _Row:
    """One line of the table."""

    name: str
    extensions: tuple[str, ...]
    filenames: tuple[str, ...]
    interpreters: tuple[str, ...]
    modes: tuple[str, ...]


def _rows(table: str) -> list[_Row]:
    rows = []
    for line in table.replace("\n  ", " ").splitlines():
        name, *columns = line.split("|")
        cells = [tuple(c.split()) for c in columns] + [()] * (4 - len(columns))
        rows.append(_Row(name, cells[0], cells[1], cells[2], cells[3]))
    return rows


_TABLE = _rows(LANGUAGES) + _rows(FORMATS)
NAMES: tuple[str, ...] = tuple(row.name for row in _TABLE)  # everything `detect` can answer, `unknown` last
SUPPORTED: tuple[str, ...] = tuple(sorted([row.name for row in _rows(LANGUAGES)] + list(SYNONYMS), key=str.lower))
_NUMBER = {name: i for i, name in enumerate(NAMES)}


@dataclass(frozen=True)
class Detected:
    """lang: string, one of NAMES; by: string, one of BY. Both without nulls, a value per row."""

    lang: pa.Array
    by: pa.Array


def check_language(name: str, where: str) -> str:
    """The name `detect` gives for a language of the list; ConfigError with close suggestions for any other."""
    if name in SYNONYMS or name in _NUMBER:
        return SYNONYMS.get(name, name)
    known = {n.lower(): n for n in (*NAMES, *SYNONYMS)}
    for row in _TABLE:
        known.update({mode: row.name for mode in row.modes if mode not in known})
    close = difflib.get_close_matches(name.lower(), known, n=8, cutoff=0.5)
    hint = ", ".join(dict.fromkeys(known[c] for c in close)) or "see corpus/language_table.py"
    raise ConfigError(f"{where}: no language is called {name!r}; close to it: {hint}")


@dataclass(frozen=True)
class _Groups:
    """What names stand for. A group is the languages that share a name; groups 0 and 1 are `any` and `none known`."""

    names: pa.Array
    group_of_name: np.ndarray
    extensions: pa.Array
    group_of_extension: np.ndarray
    allowed_GL: np.ndarray  # bool
    default_G: np.ndarray  # language taken when the content does not tell
    single_G: np.ndarray  # bool


_ANY, _STRANGE = 0, 1


@functools.lru_cache(maxsize=1)
def _groups() -> _Groups:
    claims: list[dict[str, dict[str, bool]]] = [{}, {}]  # names, extensions -> language -> whether it is the default
    for row in _TABLE:
        for claim, keys in zip(claims, (row.filenames, row.extensions), strict=True):
            for key in keys:
                claim.setdefault(key.removesuffix("*"), {})[row.name] = key.endswith("*")
    members: dict[tuple[str, ...], int] = {("any",): _ANY, ("strange",): _STRANGE}
    tables = []
    for claim in claims:
        for key in list(claim):  # in any case, where nobody claims that spelling
            claim.setdefault(key.lower(), claim[key])
        tables.append({key: members.setdefault(_ordered(languages), len(members)) for key, languages in claim.items()})
    allowed_GL = np.zeros((len(members), len(NAMES)), bool)
    for member, group in members.items():
        allowed_GL[group, [_NUMBER[n] for n in member if n in _NUMBER]] = True
    allowed_GL[_ANY] = True
    default_G = np.array([_NUMBER.get(member[0], _NUMBER[UNKNOWN]) for member in members])
    lookups = [(pa.array(list(t), pa.string()), np.array(list(t.values()))) for t in tables]
    return _Groups(*lookups[0], *lookups[1], allowed_GL, default_G, allowed_GL.sum(axis=1) == 1)


def _ordered(languages: dict[str, bool]) -> tuple[str, ...]:
    """The default first."""
    return tuple(sorted(languages, key=lambda name: (not languages[name], name)))


def _find(keys: pa.Array, table: pa.Array, groups: np.ndarray) -> np.ndarray:
    """Group per key, as written or in lower case; -1 where there is none."""
    at = pc.fill_null(pc.index_in(keys, table), -1).to_numpy(zero_copy_only=False)
    lower = pc.fill_null(pc.index_in(pc.utf8_lower(keys), table), -1).to_numpy(zero_copy_only=False)
    at = np.where(at >= 0, at, lower)
    return np.where(at >= 0, groups[at], -1)


def _by_name(base: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(group, how) per base name; group -1 where neither name nor extension is known."""
    g = _groups()
    group = _find(base, g.names, g.group_of_name)
    how = np.where(group >= 0, BY.index("filename"), BY.index("none"))
    for dots in (3, 2, 1):
        extension = pc.struct_field(pc.extract_regex(base, r"(?s)(?P<x>" + r"\.[^.]+" * dots + ")$"), 0)
        found = _find(extension, g.extensions, g.group_of_extension)
        new = (group < 0) & (found >= 0)
        group, how = np.where(new, found, group), np.where(new, BY.index("extension"), how)
    stem = pc.struct_field(pc.extract_regex(base, r"(?s)^(?P<x>[A-Z][A-Za-z]+)[._-]"), 0)
    found = _find(stem, g.names, g.group_of_name)
    new = (group < 0) & (found >= 0)
    return np.where(new, found, group), np.where(new, BY.index("filename"), how)


def _names(path: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(group, how) per path, every row with a group: _ANY without an extension, _STRANGE with one nobody knows."""
    base = pc.replace_substring_regex(pc.fill_null(path.cast(pa.string()), ""), r"(?s)^.*[/\\]", "")
    group, how = _by_name(base)
    left = np.flatnonzero(group < 0)
    if len(left):
        bare = pc.replace_substring_regex(base.take(pa.array(left)), _IGNORED, "")
        group[left], how[left] = _by_name(bare)
        dotted = pc.match_substring_regex(bare, r"(?s)[^/]\.[^.\s]+$").to_numpy(zero_copy_only=False)
        group[left] = np.where(group[left] >= 0, group[left], np.where(dotted, _STRANGE, _ANY))
    return group, how


@functools.lru_cache(maxsize=1)
def _spoken() -> tuple[pa.Array, np.ndarray, pa.Array, np.ndarray]:
    """(interpreters, their languages, modeline names, theirs)."""
    interpreters, modes = {}, {}
    for row in _TABLE:
        interpreters.update(dict.fromkeys(row.interpreters, _NUMBER[row.name]))
        modes.update(dict.fromkeys((row.name.lower().replace(" ", "-"), *row.modes), _NUMBER[row.name]))
    return (
        pa.array(list(interpreters)),
        np.array(list(interpreters.values())),
        pa.array(list(modes)),
        np.array(list(modes.values())),
    )


_WORD = r"[A-Za-z0-9_.+#*-]+"
# A shell script that only starts another interpreter on itself.
_EXEC = r"\A#![ \t]*/bin/(?:ba|da)?sh.*\n(?:[ \t]*#.*\n)*[ \t]*exec[ \t]+(?:\S*/)?(?P<x>[a-z]+)[0-9.]*[ \t].*\$0"
_SHEBANG = (
    r"\A(?:\xEF\xBB\xBF)?#![ \t]*(?:[^\s]*/)?(?:env[ \t]+(?:-\S+[ \t]+|\w+=\S*[ \t]+)*(?:[^\s]*/)?)?(?P<x>[A-Za-z0-9_.+-]+)"
)
_MODELINES = (
    (
        False,
        r"\A(?:[^\n]*\n)?[^\n]*-\*-[ \t]*(?:(?:[^\n]*?;[ \t]*)?[Mm]ode[ \t]*:[ \t]*)?(?P<x>"
        + _WORD
        + r")[ \t]*(?:;[^\n]*?)?-\*-",
    ),
    (False, r"\A(?:[^\n]*\n){0,4}(?:[^\n]*[ \t])?(?:vi|vim|ex)\d*:[^\n]*?[ \t:](?:ft|filetype|syntax)=(?P<x>" + _WORD + ")"),
    (
        True,
        r"\n(?:[^\n]*[ \t])?(?:vi|vim|ex)\d*:[^\n]*?[ \t:](?:ft|filetype|syntax)=(?P<x>"
        + _WORD
        + r")[^\n]*\n?(?:[^\n]*\n?){0,4}\z",
    ),
    (True, r"Local [Vv]ariables:[^\n]*\n(?:[^\n]*\n)*?[^\n]*\bmode:[ \t]*(?P<x>" + _WORD + ")"),
)


def _named_inside(heads: pa.Array, tails: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(language or -1, how) that a `#!` line, a modeline or a signature names."""
    interpreters, their, modes, theirs = _spoken()
    language, how = np.full(len(heads), -1), np.zeros(len(heads), int)

    def tell(keys: pa.Array, table: pa.Array, numbers: np.ndarray, by: str) -> None:
        keys = pc.cast(pc.utf8_lower(keys), pa.string()) if by == "modeline" else keys
        at = pc.fill_null(pc.index_in(keys, table), -1).to_numpy(zero_copy_only=False)
        new = (language < 0) & (at >= 0)
        language[new], how[new] = numbers[at[new]], BY.index(by)

    for pattern in (_EXEC, _SHEBANG):
        found = _extract(heads, pattern)
        tell(found, interpreters, their, "shebang")
        tell(pc.replace_substring_regex(found, r"[0-9.]+$", ""), interpreters, their, "shebang")
    for at_end, pattern in _MODELINES:
        tell(_extract(tails if at_end else heads, pattern), modes, theirs, "modeline")
    for name, pattern in SIGNATURES:
        hit = pc.match_substring_regex(heads, pattern).to_numpy(zero_copy_only=False) & (language < 0)
        language[hit], how[hit] = _NUMBER[name], BY.index("content")
    return language, how


def _extract(texts: pa.Array, pattern: str) -> pa.Array:
    """The group of `pattern` in each text as string, null where it does not match."""
    found = pc.struct_field(pc.extract_regex(texts, pattern), 0)
    return pc.cast(found, pa.string())


def detect(path: pa.Array, text: pa.Array, prefix: int = 4096) -> Detected:
    """The language of each document by its path and the first `prefix` bytes of its text. Nulls count as empty."""
    g = _groups()
    group, how = _names(path)
    language = g.default_G[group]
    rows_R = np.flatnonzero(~g.single_G[group])
    if len(rows_R):
        offsets_N1, data = text_buffers(text)
    for start in range(0, len(rows_R), _CHUNK):
        part = rows_R[start : start + _CHUNK]
        language[part], how[part] = _by_content(offsets_N1, data, part, group[part], how[part], prefix)
    lang = pa.DictionaryArray.from_arrays(pa.array(language, pa.int32()), pa.array(NAMES)).dictionary_decode()
    by = pa.DictionaryArray.from_arrays(pa.array(how, pa.int32()), pa.array(BY)).dictionary_decode()
    return Detected(lang, by)


def _by_content(
    offsets_N1: np.ndarray, data: np.ndarray, rows_R: np.ndarray, group_R: np.ndarray, how_R: np.ndarray, prefix: int
) -> tuple[np.ndarray, np.ndarray]:
    """(language, how) of the rows whose name leaves a choice."""
    g = _groups()
    heads, tails = prefixes(offsets_N1, data, rows_R, 1024), prefixes(offsets_N1, data, rows_R, _TAIL, tail=True)
    language_R, told_R = _named_inside(heads, tails)
    open_R = np.flatnonzero((language_R < 0) & (group_R != _STRANGE))
    how_R = np.where(language_R >= 0, told_R, how_R)
    language_R = np.where(language_R >= 0, language_R, g.default_G[group_R])
    if not len(open_R):
        return language_R, how_R
    allowed_RL = g.allowed_GL[group_R[open_R]]
    scores_RL = score(offsets_N1, data, rows_R[open_R], NAMES, allowed_RL, prefix)
    anything = group_R[open_R] == _ANY
    scores_RL[:, _NUMBER[UNKNOWN]] = np.where(anything, -1, _LEAST)
    scores_RL[~allowed_RL] = -1
    best_R = scores_RL.argmax(axis=1)
    top_R = scores_RL.max(axis=1)
    default_R = g.default_G[group_R[open_R]]
    index = np.arange(len(open_R))
    against_R = scores_RL[index, default_R]
    clear = (top_R > against_R + _AHEAD) & (top_R > _AHEAD_SHARE * against_R)
    scores_RL[index, best_R] = -1
    read_R = np.minimum(np.diff(offsets_N1)[rows_R[open_R]], prefix)
    least_R = _LEAST + _LEAST_GROWTH * np.sqrt(read_R)
    clear = np.where(anything, (top_R >= least_R) & (top_R > _MARGIN * scores_RL.max(axis=1)), clear)
    confirmed = (best_R == default_R) & (top_R > 0) & ~anything & (default_R != _NUMBER[UNKNOWN])
    language_R[open_R] = np.where(clear, best_R, default_R)
    how_R[open_R] = np.where(clear | confirmed, BY.index("content"), how_R[open_R])
    return language_R, how_R
