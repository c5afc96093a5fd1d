"""HTML to text: formulae as LaTeX, code with its indentation, tables, lists and headings; without the navigation.

The text is Markdown as people write it: `#` before a heading, ``` around code with its language, $…$ and $$…$$ around
formulae, | between cells. How pages are read is in corpus/extract.py; how the language is found, in corpus/natural_language.py.
Plain text (`mime` text/plain, as of WET files) passes as it is. Columns added, which recall and the quality rules go by:

    title            of the page; null for none
    language         ISO 639-1, null where it cannot be told; language_score, 0 to 1; language_by: script, trigrams, declared
    formulas         how many are in the text
    code_blocks      how many are; code_share: their part of the text's characters, 0 to 1
    text_share       bytes of text per byte of HTML

Rules, first match wins:

    empty      no letter or digit is left: frames, scripts, pictures
    short      fewer than `least_bytes` of text

The trade: pages are read as they were sent, no script is run, so what a page builds in the browser is not there. No escape of
LaTeX braces, and no rule against texts with a {: those rules of C4 and others take formulae and programs with them.

Reference: DeepSeekMath (arXiv 2402.03300) 2.1 starts from HTML pages and says no more; the extractor of OpenWebMath, which
FineMath and MegaMath reuse, is what others keep formulae by.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corpus.document import Verdict, text_buffers
from corpus.engine import Engine
from corpus.errors import ConfigError
from corpus.extract import extract
from corpus.natural_language import find_language
from corpus.report import Report
from corpus.step import Step

REVISION = 1

REASONS = ("empty", "short")
REWRITES = True  # `explain` follows the text from here, not the HTML

SIGNALS = pa.schema(
    [
        pa.field("title", pa.string()),
        pa.field("language", pa.string()),
        pa.field("language_score", pa.float32()),
        pa.field("language_by", pa.string()),
        pa.field("formulas", pa.int32()),
        pa.field("code_blocks", pa.int32()),
        pa.field("code_share", pa.float32()),
        pa.field("text_share", pa.float32()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Config:
    files: Step
    least_bytes: int = 1  # of text

    def __post_init__(self) -> None:
        if self.least_bytes < 1:
            raise ConfigError(f"extract_text.least_bytes = {self.least_bytes}: 1 or more expected")


def judge(batch: pa.RecordBatch, config: Config) -> Verdict:
    """The batch with text for HTML and the columns of SIGNALS."""
    html = batch.column("text")
    plain = _plain(batch)
    found = extract(pc.if_else(plain, pa.scalar(None, pa.large_string()), html))
    text = pc.if_else(plain, html, found.text)
    language = find_language(text, found.declared)
    size = np.diff(text_buffers(text)[0])
    signals = [
        found.title,
        language.language,
        language.score,
        language.by,
        pa.array(found.formulas_N),
        pa.array(found.code_blocks_N),
        pa.array(_share(found.code_chars_N, pc.utf8_length(text).to_numpy(zero_copy_only=False))),
        pa.array(_share(size, np.diff(text_buffers(html)[0]))),
    ]
    columns = dict(zip(batch.schema.names, batch.columns, strict=True)) | {"text": text}
    judged = pa.RecordBatch.from_arrays([*columns.values(), *signals], schema=pa.schema([*batch.schema, *SIGNALS]))
    return Verdict(judged, *_rules(text, size, config))


def _plain(batch: pa.RecordBatch) -> pa.Array:
    """Which rows are text already; without a column `mime`, none."""
    if "mime" not in batch.schema.names:
        return pa.array(np.zeros(batch.num_rows, bool))
    return pc.fill_null(pc.equal(batch.column("mime"), "text/plain"), False)


def _share(part_N: np.ndarray, whole_N: np.ndarray) -> np.ndarray:
    """float32 [N], at most 1: entities and tags make the HTML the longer of the two, but for a page of nothing else."""
    return np.asarray(np.minimum(part_N / np.maximum(whole_N, 1), 1), np.float32)


def _rules(text: pa.Array, size: np.ndarray, config: Config) -> tuple[pa.Array, pa.Array]:
    said = pc.match_substring_regex(text, r"[\p{L}\p{N}]")
    none = pa.scalar(None, pa.string())
    short = pc.if_else(pa.array(size < config.least_bytes), "short", none)
    reason = pc.if_else(said, short, "empty")
    counted = pc.binary_join_element_wise(pc.cast(pa.array(size), pa.string()), "bytes of text", " ")
    return reason, pc.if_else(pc.is_valid(reason), counted, none)


def run(config: Config, out: Path, engine: Engine) -> Report:
    return engine.map_shards(partial(judge, config=config), config.files, out)
