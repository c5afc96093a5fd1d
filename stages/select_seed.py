"""Choose the first seed of a recall: pages under known addresses, or source files that explain themselves.

rule "prefixes": pages whose URL is at or below one of `prefixes` ("math.stackexchange.com", "pytorch.org/docs/stable"; scheme,
"www." and a slash at the end make no difference). What is not is dropped:

    elsewhere       the page's host and path are the evidence

rule "documented": source files, for the loop over repositories. The first that fires is the reason:

    generated       flagged by the crawl
    vendored        flagged by the crawl
    size            fewer than `least_bytes` or more than `most_bytes` of text
    undocumented    no docstring, documentation comment or three lines of comment in a row (corpus/documented.py)
    comment_share   comments are less than `least_share` of the file, or more than `most_share`: a file of code commented out

The trade: rules of shape, not of taste: they find files with detailed descriptions, and what those are worth the classifier
has to learn from what they have in common.

Reference: DeepSeek-Coder-V2 (arXiv 2406.11931), section 2: coding forums, library documentation and mathematics sites as
seeds; for GitHub it says only that the same was done over two rounds, on a seed of high-quality code.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corpus.document import Verdict, text_buffers
from corpus.documented import documented
from corpus.engine import Engine
from corpus.errors import ConfigError
from corpus.groups import places, under
from corpus.report import Report
from corpus.step import Step

REVISION = 1
REASONS = ("elsewhere", "generated", "vendored", "size", "undocumented", "comment_share")


@dataclass(frozen=True, kw_only=True)
class Config:
    files: Step
    rule: Literal["prefixes", "documented"] = "prefixes"
    prefixes: tuple[str, ...] = ()
    least_share: float = 0.15  # of the bytes that are not white space
    most_share: float = 0.6
    least_bytes: int = 500
    most_bytes: int = 100_000

    def __post_init__(self) -> None:
        if self.rule not in ("prefixes", "documented"):
            raise ConfigError(f"select_seed.rule = {self.rule!r}: 'prefixes' or 'documented' expected")
        if (self.rule == "prefixes") != bool(self.prefixes):
            raise ConfigError(
                f"select_seed.prefixes = {self.prefixes!r} with rule {self.rule!r}: some with 'prefixes', else none"
            )
        if any(not name.strip("/ ") for name in self.prefixes):
            raise ConfigError(f"select_seed.prefixes = {self.prefixes!r}: one is empty; a host or a URL expected")
        if not 0 <= self.least_share <= self.most_share <= 1:
            raise ConfigError(
                f"select_seed.least_share = {self.least_share}: 0 to most_share, {self.most_share}, up to 1 expected"
            )
        if not 0 <= self.least_bytes <= self.most_bytes:
            raise ConfigError(f"select_seed.least_bytes = {self.least_bytes}: 0 to most_bytes, {self.most_bytes}, expected")


def judge(batch: pa.RecordBatch, config: Config) -> Verdict:
    """Keep the pages or files of the seed."""
    return _by_prefix(batch, config) if config.rule == "prefixes" else _by_documentation(batch, config)


def _by_prefix(batch: pa.RecordBatch, config: Config) -> Verdict:
    place = places(batch)
    gone = pa.array(~under(place, config.prefixes))
    none = pa.scalar(None, pa.string())
    said = pc.if_else(pc.equal(place, ""), "no URL", place)
    return Verdict(batch, pc.if_else(gone, "elsewhere", none), pc.if_else(gone, said, none))


def _by_documentation(batch: pa.RecordBatch, config: Config) -> Verdict:
    found = documented(batch.column("text"), batch.column("lang"))
    size = np.diff(text_buffers(batch.column("text"))[0])
    share = found.comment_N / np.maximum(found.visible_N, 1)
    limits = f"{config.least_share:g} to {config.most_share:g}"
    rules = [
        *((name, _flag(batch, name), "flagged by the crawl") for name in ("generated", "vendored")),
        ("size", (size < config.least_bytes) | (size > config.most_bytes), "{size} bytes"),
        ("undocumented", ~found.doc_N, "comments {share:.4g} of the file, none of them documentation"),
        ("comment_share", (share < config.least_share) | (share > config.most_share), f"{{share:.4g}}, {limits} expected"),
    ]
    reason, said = np.full(batch.num_rows, None, object), np.full(batch.num_rows, None, object)
    for name, fires, words in rules:
        rows = np.flatnonzero(fires & pc.is_null(pa.array(reason, pa.string())).to_numpy(zero_copy_only=False))
        reason[rows] = name
        said[rows] = [words.format(size=size[row], share=share[row]) for row in rows.tolist()]
    return Verdict(batch, pa.array(reason, pa.string()), pa.array(said, pa.string()))


def _flag(batch: pa.RecordBatch, name: str) -> np.ndarray:
    if name not in batch.schema.names:
        return np.zeros(batch.num_rows, bool)
    return np.asarray(pc.fill_null(batch.column(name), False).to_numpy(zero_copy_only=False), bool)


def run(config: Config, out: Path, engine: Engine) -> Report:
    return engine.map_shards(partial(judge, config=config), config.files, out)
