"""Drop source files that the rules of DeepSeek-Coder call unfit, each with the rule's name and the value it measured.

The rules, in this order; the first that fires is the reason:

    empty         no characters
    generated     flagged by the crawl (only with drop_generated)
    vendored      flagged by the crawl (only with drop_vendored)
    mean_line     mean line length > 100 characters
    max_line      longest line > 1000 characters
    alphabetic    < 25 % of the characters are alphabetic
    xml           "<?xml version=" within the first 100 characters; not for XSLT
    html_share    HTML: visible text < 20 % of the characters
    html_visible  HTML: visible text < 100 characters
    data_size     JSON and YAML: fewer than 50 or more than 5000 characters

Characters are code points; lines, letters and the mean are defined in corpus/text.py, visible text in corpus/markup.py. The
limits themselves are kept: the paper writes >= where the filter code of StarCoder, its source, has a strict >.

The trade: by the paper's text these limits hold for all languages, where StarCoder tuned some per language. They cost
little (measure the statistics once, compare) and drop much: two thirds of the raw volume in v1. Which rule applies is the
column `lang`, as detect_language and linguist spell it. HTML is "HTML" alone (XHTML is that too): templates such as
HTML ERB, HTML Django or HTML PHP are languages of their own in the paper's list, programs whose text is in
their directives. JSON stands for its dialects too, which tools tell apart by file name.

Reference: DeepSeek-Coder section 2.1, DeepSeek-Coder-V2 section 2; bigcode-dataset, preprocessing/filtering.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corpus.document import Verdict
from corpus.engine import Engine
from corpus.errors import ConfigError
from corpus.markup import visible_characters
from corpus.report import Report
from corpus.rules import Rule, first_match
from corpus.step import Step
from corpus.text import TextStats, head_contains, text_stats

REVISION = 1

REASONS = (
    "empty", "generated", "vendored", "mean_line", "max_line", "alphabetic", "xml", "html_share", "html_visible", "data_size",
)  # fmt: skip

_XML = "<?xml version="
_DATA = ("JSON", "JSON with Comments", "JSON5", "JSONLD", "YAML")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Limits in characters or shares; a file at the limit is kept. Defaults: DeepSeek-Coder section 2.1."""

    files: Step
    max_mean_line: float = 100.0
    max_line: int = 1000
    min_alphabetic: float = 0.25
    xml_head: int = 100  # characters searched for the XML declaration; 0 turns the rule off
    min_visible_share: float = 0.2  # HTML
    min_visible: int = 100  # HTML
    min_data: int = 50  # JSON and YAML
    max_data: int = 5000
    drop_generated: bool = False  # ours; not in the paper. The boolean columns the crawl appends; absent or null = false
    drop_vendored: bool = False

    def __post_init__(self) -> None:
        for name in ("min_alphabetic", "min_visible_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"filter_code.{name} = {getattr(self, name)}: a share from 0 to 1 expected")
        for name in ("max_mean_line", "max_line"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"filter_code.{name} = {getattr(self, name)}: more than 0 characters expected")
        for name in ("xml_head", "min_visible", "min_data"):
            if getattr(self, name) < 0:
                raise ConfigError(f"filter_code.{name} = {getattr(self, name)}: 0 or more characters expected")
        if self.max_data < self.min_data:
            raise ConfigError(f"filter_code.max_data = {self.max_data}: at least min_data, {self.min_data}, expected")


def judge(batch: pa.RecordBatch, config: Config) -> Verdict:
    """Keep, or the first rule that fires; reads the columns `text` and `lang`, and the flags where the Config asks for them."""
    stats = text_stats(batch.column("text"))
    rules = [*_flag_rules(batch, config), *_text_rules(batch, stats, config)]
    undecided_N = ~np.logical_or.reduce([rule.fires_N for rule in rules])
    rules += _html_rules(batch, stats, undecided_N, config)

    code_N, evidence_N = first_match(rules, REASONS, batch.num_rows)
    reason = pa.array(REASONS, pa.string()).take(pa.array(code_N, mask=code_N < 0))
    return Verdict(batch, reason, pa.array(evidence_N, pa.string()))


def _flag_rules(batch: pa.RecordBatch, config: Config) -> list[Rule]:
    rules = []
    for column, wanted in (("generated", config.drop_generated), ("vendored", config.drop_vendored)):
        if wanted and column in batch.schema.names:
            flags_N = _bools(pc.fill_null(batch.column(column), False))
            rules.append(Rule(column, flags_N, flags_N, column, "flagged {1} by the crawl"))
    return rules


def _text_rules(batch: pa.RecordBatch, stats: TextStats, config: Config) -> list[Rule]:
    size_N, longest_N = stats.characters_N, stats.longest_N
    mean_N = (size_N - stats.newlines_N) / np.maximum(stats.lines_N, 1)
    letters_N = stats.alphabetic_N / np.maximum(size_N, 1)
    xml_N = head_contains(batch.column("text"), _XML, config.xml_head) & ~_is_lang(batch, ("XSLT",))
    data_N = _is_lang(batch, _DATA) & ((size_N < config.min_data) | (size_N > config.max_data))
    data_range = f"{config.min_data} to {config.max_data}"
    return [
        Rule("empty", size_N == 0, size_N, 0, "{} characters"),
        Rule("mean_line", mean_N > config.max_mean_line, mean_N, config.max_mean_line, "mean line {:.6g} > {:g} characters"),
        Rule("max_line", longest_N > config.max_line, longest_N, config.max_line, "longest line {} > {} characters"),
        Rule("alphabetic", letters_N < config.min_alphabetic, letters_N, config.min_alphabetic, "alphabetic {:.6g} < {:g}"),
        Rule("xml", xml_N, size_N, config.xml_head, f"{_XML} within the first {{1}} characters"),
        Rule("data_size", data_N, size_N, data_range, "{} characters, {} expected"),
    ]


def _html_rules(batch: pa.RecordBatch, stats: TextStats, undecided_N: np.ndarray, config: Config) -> list[Rule]:
    """Visible text is measured only where no other rule fires: it costs more than all of them."""
    html_N = _is_lang(batch, ("HTML",)) & undecided_N
    visible_N = np.zeros(batch.num_rows, np.int64)
    visible_N[html_N] = visible_characters(batch.column("text").filter(pa.array(html_N)))
    share_N = visible_N / np.maximum(stats.characters_N, 1)
    hollow_N, short_N = html_N & (share_N < config.min_visible_share), html_N & (visible_N < config.min_visible)
    return [
        Rule("html_share", hollow_N, share_N, config.min_visible_share, "visible share {:.6g} < {:g}"),
        Rule("html_visible", short_N, visible_N, config.min_visible, "visible {} < {} characters"),
    ]


def _is_lang(batch: pa.RecordBatch, names: tuple[str, ...]) -> np.ndarray:
    """bool [N]; a null is no language."""
    return _bools(pc.is_in(batch.column("lang"), value_set=pa.array(names, pa.string())))


def _bools(array: pa.Array) -> np.ndarray:
    return np.asarray(array.to_numpy(zero_copy_only=False), np.bool_)


def run(config: Config, out: Path, engine: Engine) -> Report:
    return engine.map_shards(partial(judge, config=config), config.files, out)
