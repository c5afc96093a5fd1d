"""Drop natural-language texts that the rules of Gopher, C4 and FineWeb call unfit, each with the rule's name and the value.

The rules, in this order; the first that fires is the reason. What is counted, and what a word is, says corpus/prose.py.

    language         the column `language` is none of `languages` (only where languages are given)
    language_score   its score is below min_language_score
    lorem_ipsum      "lorem ipsum" stands in the text                                             C4
    few_sentences    fewer than 5, in lines of 3 words and more that end in a terminal mark       C4
    few_words        fewer than 50 words         many_words  more than 100,000                    Gopher
    word_length      mean length outside 3 to 10 characters                                       Gopher
    hashes           more than 0.1 # per word    ellipses    more than 0.1 … or ... per word      Gopher
    bullets          more than 90 % of the lines begin with • or -                                Gopher
    ellipsis_lines   more than 30 % of the lines end in … or ...                                  Gopher
    letters          less than 80 % of the words have a letter                                    Gopher
    stop_words       fewer than 2 of: the be to of and that have with                             Gopher
    line_ends        less than 12 % of the lines end in a terminal mark                           FineWeb
    short_lines      more than 67 % of the lines have at most 30 characters                       FineWeb
    newlines         more than 0.3 newlines per word                                              FineWeb
    same_lines       more than 10 % of the characters are in lines that stood before              FineWeb
    paragraphs, paragraph_characters, lines, line_characters
                     what stood before: more than 30 %, 20 %, 30 %, 20 %                          Gopher
    top_grams        the most frequent 2-, 3-, 4-gram: more than 20 %, 18 %, 16 % of the characters       Gopher
    duplicate_grams  in 5- to 10-grams that stood before: more than 15, 14, 13, 12, 11, 10 %      Gopher
    datatrove        a filter of datatrove, named in the Config, said no; the evidence names filter and reason
    datatrove_failed such a filter raised an error; the evidence has it

Every limit may be None: the rule is off. Rules on word length hold for the words written with spaces, where those are half of
a text's words and more; the stop words are English, so that rule holds for rows whose `language` is "en" or unknown.

The trade: C4's rule against every text with a { is left out, for it takes formulae and programs with it; nor are single lines
removed, as C4 does, because a formula or a code line ends in no full stop. "Shares of words" count marks as words, and repeated
n-grams the marks too, which is how FineWeb and others set their thresholds with datatrove; the limits are the papers'.

Any filter of datatrove (an optional package) can follow, by name and arguments. It sees the texts one by one, at its own
speed, and what it changes in a text is not taken over: a filter here keeps or drops.

Reference: Gopher (arXiv 2112.11446) appendix A.1.1 and table A1; C4 (arXiv 1910.10683) section 2.2; FineWeb (arXiv 2406.17557)
section 3.6, its newline rule from its released code. DeepSeek-Coder-V2 takes its natural language from DeepSeek-V2's corpus,
whose rules are not published.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corpus.document import Verdict
from corpus.engine import Engine
from corpus.errors import ConfigError
from corpus.prose import STOP_WORDS, ProseStats, prose_stats
from corpus.report import Report
from corpus.rules import Rule, first_match
from corpus.step import Step

REVISION = 2

REASONS = (
    "language", "language_score", "lorem_ipsum", "few_sentences", "few_words", "many_words", "word_length", "hashes",
    "ellipses", "bullets", "ellipsis_lines", "letters", "stop_words", "line_ends", "short_lines", "newlines", "same_lines",
    "paragraphs", "paragraph_characters", "lines", "line_characters", "top_grams", "duplicate_grams", "datatrove",
    "datatrove_failed",
)  # fmt: skip

_COUNTS = (
    "min_sentences", "min_words", "max_words", "min_word_length", "max_word_length", "min_stop_words", "max_hashes",
    "max_ellipses", "max_newlines",
)  # fmt: skip
_SHARES = (
    "min_language_score", "max_bullets", "max_ellipsis_lines", "min_letters", "min_line_ends", "max_short_lines",
    "max_same_lines", "max_paragraphs", "max_paragraph_characters", "max_lines", "max_line_characters",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Filter:
    """A filter of datatrove: the dotted name of its class, and its arguments as (name, value) pairs of plain values."""

    name: str
    arguments: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Config:
    """Limits; a text at the limit is kept. None: the rule is off. Defaults are those of the papers named at the top."""

    files: Step
    languages: tuple[str, ...] = ()  # ISO 639-1; () is all of them, and no language at all
    min_language_score: float | None = None  # of the column `language_score`; FineWeb: 0.65
    lorem_ipsum: bool = True  # C4 2.2
    min_sentences: int | None = 5  # C4 2.2
    min_words: int | None = 50  # Gopher A.1.1, as far as letters
    max_words: int | None = 100_000
    min_word_length: float | None = 3.0
    max_word_length: float | None = 10.0
    max_hashes: float | None = 0.1
    max_ellipses: float | None = 0.1
    max_bullets: float | None = 0.9
    max_ellipsis_lines: float | None = 0.3
    min_letters: float | None = 0.8
    min_stop_words: int | None = 2
    stop_words: tuple[str, ...] = STOP_WORDS
    min_line_ends: float | None = 0.12  # FineWeb 3.6
    max_short_lines: float | None = 0.67
    max_same_lines: float | None = 0.1
    max_newlines: float | None = 0.3  # FineWeb's code
    max_paragraphs: float | None = 0.3  # Gopher table A1, from here on
    max_paragraph_characters: float | None = 0.2
    max_lines: float | None = 0.3
    max_line_characters: float | None = 0.2
    max_top_grams: tuple[float, ...] | None = (0.20, 0.18, 0.16)  # 2- to 4-grams
    max_duplicate_grams: tuple[float, ...] | None = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)  # 5- to 10-grams
    datatrove: tuple[Filter, ...] = ()

    def __post_init__(self) -> None:
        for name in _COUNTS:
            _in_range(name, getattr(self, name), math.inf)
        for name in _SHARES:
            _in_range(name, getattr(self, name), 1)
        for name, several in (("max_top_grams", 3), ("max_duplicate_grams", 6)):
            values = getattr(self, name)
            if values is not None and len(values) != several:
                raise ConfigError(f"filter_text.{name} = {values}: {several} shares expected, one per length of n-gram")
            for value in values or ():
                _in_range(name, value, 1)
        if len(self.stop_words) > 64 or not all(word and word.isalpha() for word in self.stop_words):
            raise ConfigError(f"filter_text.stop_words = {self.stop_words}: at most 64 words of letters expected")
        if not isinstance(self.datatrove, tuple) or not all(isinstance(f, Filter) for f in self.datatrove):
            raise ConfigError(f"filter_text.datatrove = {self.datatrove!r}: a tuple of Filter expected")


def _in_range(name: str, value: float | None, high: float) -> None:
    if value is not None and not 0 <= value <= high:
        expected = "0 or more" if high == math.inf else f"a share from 0 to {high:g}"
        raise ConfigError(f"filter_text.{name} = {value}: {expected} expected, or None")


def check(config: Config) -> None:
    """ConfigError where a filter of datatrove cannot be had here, before anything runs."""
    filters(config)


def judge(batch: pa.RecordBatch, config: Config, state: list[Any] | None = None) -> Verdict:
    """Keep, or the first rule that fires; reads `text`, and `language` and `language_score` where there are such columns.
    state: what filters(config) made."""
    limits = config.max_duplicate_grams or (1.0,) * 6
    stats = prose_stats(batch.column("text"), config.stop_words, limits)
    rules = [*_language_rules(batch, config), *_quality_rules(batch, stats, config), *_repetition_rules(stats, config)]
    code_N, evidence_N = first_match(rules, REASONS, batch.num_rows)
    for row, why, said in _told_by_datatrove(batch, np.flatnonzero(code_N < 0), state or []):
        code_N[row], evidence_N[row] = REASONS.index(why), said
    reason = pa.array(REASONS, pa.string()).take(pa.array(code_N, mask=code_N < 0))
    return Verdict(batch, reason, pa.array(evidence_N, pa.string()))


def _language_rules(batch: pa.RecordBatch, config: Config) -> list[Rule]:
    rules = []
    if config.languages:
        language = _column(batch, "language", pa.string())
        known = pc.is_in(language, value_set=pa.array(config.languages, pa.string()))
        told_N = np.array(pc.fill_null(language, "unknown").to_pylist(), object)
        allowed = ", ".join(config.languages)
        rules.append(Rule("language", ~_bools(known), told_N, allowed, "{}, one of {} expected"))
    if (least := config.min_language_score) is not None:
        score_N = pc.fill_null(_column(batch, "language_score", pa.float64()), 0.0).to_numpy(zero_copy_only=False)
        rules.append(Rule("language_score", score_N < least, score_N, least, "score {:.6g} < {:g}"))
    return rules


def _quality_rules(batch: pa.RecordBatch, s: ProseStats, config: Config) -> list[Rule]:
    language = _column(batch, "language", pa.string())
    english_N = _bools(pc.fill_null(pc.equal(language, "en"), True))
    # A word of one Han character says nothing about lengths.
    spaced_N = s.words_N - s.alone_N
    length_N = _share(s.word_characters_N - s.alone_N, spaced_N)
    written_N = (spaced_N > 0) & (2 * spaced_N >= s.words_N)
    stop = "{} of the stop words, {} expected"
    rules = [
        _under("few_sentences", s.sentences_N, config.min_sentences, "{} sentences < {}"),
        _under("few_words", s.words_N, config.min_words, "{} words < {}"),
        _over("many_words", s.words_N, config.max_words, "{} words > {}"),
        _under("word_length", length_N, config.min_word_length, "mean word {:.6g} < {:g} characters", written_N),
        _over("word_length", length_N, config.max_word_length, "mean word {:.6g} > {:g} characters", written_N),
        _over("hashes", _share(s.hashes_N, s.tokens_N), config.max_hashes, "{:.6g} # per word > {:g}"),
        _over("ellipses", _share(s.ellipses_N, s.tokens_N), config.max_ellipses, "{:.6g} … per word > {:g}"),
        _over("bullets", _share(s.bullets_N, s.lines_N), config.max_bullets, "bullets {:.6g} of the lines > {:g}"),
        _over("ellipsis_lines", _share(s.ellipsis_lines_N, s.lines_N), config.max_ellipsis_lines, "{:.6g} of the lines > {:g}"),
        _under("letters", _share(s.lettered_N, s.tokens_N), config.min_letters, "{:.6g} of the words < {:g}"),
        _under("stop_words", s.stop_words_N, config.min_stop_words, stop, english_N),
        _under("line_ends", _share(s.ended_N, s.filled_N), config.min_line_ends, "{:.6g} of the lines < {:g}"),
        _over("short_lines", _share(s.short_N, s.filled_N), config.max_short_lines, "{:.6g} of the lines > {:g}"),
        _over("newlines", _share(s.newlines_N, s.tokens_N), config.max_newlines, "{:.6g} newlines per word > {:g}"),
    ]
    if config.lorem_ipsum:
        rules.append(Rule("lorem_ipsum", s.lorem_N > 0, s.lorem_N, "", "lorem ipsum"))
    return [rule for rule in rules if rule is not None]


def _repetition_rules(s: ProseStats, config: Config) -> list[Rule]:
    inside_N = s.characters_N - s.newlines_N
    rules = [
        _over("same_lines", _share(s.filled_again_N, inside_N), config.max_same_lines, "{:.6g} of the characters > {:g}"),
        _over("paragraphs", _share(s.paragraphs_repeated_N, s.paragraphs_N), config.max_paragraphs, "{:.6g} of them > {:g}"),
        _over("paragraph_characters", _share(s.paragraphs_again_N, s.characters_N), config.max_paragraph_characters,
              "{:.6g} of the characters > {:g}"),
        _over("lines", _share(s.pieces_repeated_N, s.pieces_N), config.max_lines, "{:.6g} of them > {:g}"),
        _over("line_characters", _share(s.pieces_again_N, s.characters_N), config.max_line_characters,
              "{:.6g} of the characters > {:g}"),
    ]  # fmt: skip
    for reason, least, field, limits in (
        ("top_grams", 2, "top{}_N", config.max_top_grams),
        ("duplicate_grams", 5, "again{}_N", config.max_duplicate_grams),
    ):
        for n, limit in enumerate(limits or (), start=least):
            share_N = _share(getattr(s, field.format(n)), s.characters_N)
            rules.append(_over(reason, share_N, limit, f"{n}-grams {{:.6g}} of the characters > {{:g}}"))
    return [rule for rule in rules if rule is not None]


def _over(
    reason: str, value_N: np.ndarray, limit: float | None, evidence: str, where_N: np.ndarray | None = None
) -> Rule | None:
    if limit is None:
        return None
    return Rule(reason, (value_N > limit) & (True if where_N is None else where_N), value_N, limit, evidence)


def _under(
    reason: str, value_N: np.ndarray, limit: float | None, evidence: str, where_N: np.ndarray | None = None
) -> Rule | None:
    if limit is None:
        return None
    return Rule(reason, (value_N < limit) & (True if where_N is None else where_N), value_N, limit, evidence)


def _share(part_N: np.ndarray, whole_N: np.ndarray) -> np.ndarray:
    """float64 [N]; 0 of nothing is 0."""
    share_N: np.ndarray = part_N / np.maximum(whole_N, 1)
    return share_N


def _column(batch: pa.RecordBatch, name: str, kind: pa.DataType) -> pa.Array:
    return batch.column(name).cast(kind) if name in batch.schema.names else pa.nulls(batch.num_rows, kind)


def _bools(array: pa.Array) -> np.ndarray:
    return np.asarray(array.to_numpy(zero_copy_only=False), np.bool_)


# --- Filters of datatrove ----------------------------------------------------------------------------------------------------


def filters(config: Config) -> list[Any]:
    """The filters the Config names, made; ConfigError where one cannot be."""
    return [_made(given) for given in config.datatrove]


def _made(given: Filter) -> Any:
    where = f"filter_text.datatrove: {given.name}"
    module, _, name = given.name.rpartition(".")
    try:
        base = importlib.import_module("datatrove.pipeline.filters.base_filter").BaseFilter
    except ImportError as error:
        raise ConfigError(f"{where} needs datatrove, which is not installed: pip install 'datatrove[processing]'") from error
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{where} is not there ({error}); for instance datatrove.pipeline.filters.C4QualityFilter") from error
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise ConfigError(f"{where} is no filter of datatrove; a subclass of its BaseFilter expected")
    try:
        return kind(**dict(given.arguments))
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"{where} cannot be made with {dict(given.arguments)}: {error}") from error


def _told_by_datatrove(batch: pa.RecordBatch, rows_M: np.ndarray, made: list[Any]) -> list[tuple[int, str, str]]:
    """(row, reason, evidence) of each document a filter drops, or fails on: a document that stops a filter stops no run."""
    if not made or not len(rows_M):
        return []
    kind = importlib.import_module("datatrove.data").Document
    told = []
    for row in rows_M.tolist():
        text, url = batch.column("text")[row].as_py(), _column(batch, "url", pa.string())[row].as_py()
        for one in made:
            document = kind(text=text, id=batch.column("id")[row].as_py(), metadata={"url": url or ""})
            try:
                answer = one.filter(document)
            except Exception as error:  # noqa: BLE001 - any code at all runs here
                told.append((row, "datatrove_failed", f"{type(one).__name__}: {type(error).__name__}: {error}"[:200]))
                break
            keep, why = answer if isinstance(answer, tuple) else (answer, None)
            if not keep:
                told.append((row, "datatrove", type(one).__name__ + (f": {why}" if why else "")))
                break
    return told


def run(config: Config, out: Path, engine: Engine) -> Report:
    setup = partial(filters, config) if config.datatrove else None
    return engine.map_shards(partial(judge, config=config), config.files, out, setup=setup)
