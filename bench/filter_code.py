"""filter_code beside the same rules written in plain Python, one document at a time, with BeautifulSoup for HTML."""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import zstandard
from bs4 import BeautifulSoup
from selectolax.lexbor import LexborHTMLParser

from bench.measure import Row, Sample, rate
from corpus.markup import visible_characters
from corpus.text import text_stats
from stages.filter_code import Config, judge

UPSTREAM: Any = None  # judge never looks there
CONFIG = Config(files=UPSTREAM)


def bench(sample: Sample) -> list[Row]:
    few = sample.head(10)
    ours = rate(lambda: [judge(batch, CONFIG) for batch in sample.batches], sample.bytes)
    theirs = rate(lambda: keep_by_plain_python(few), few.bytes, repeats=1)
    kept = [keep for batch in few.batches for keep in judge(batch, CONFIG).reason.is_null().to_pylist()]
    same = sum(a == b for a, b in zip(kept, keep_by_plain_python(few), strict=True))
    note = f"same decision on {same} of {few.documents} files"
    counting = rate(lambda: [text_stats(batch.column("text")) for batch in sample.batches], sample.bytes)
    rows = [
        Row("filter_code", "judge: all rules, reason and evidence", ours, {"plain Python + BeautifulSoup": theirs}, note),
        Row("filter_code", "line and letter statistics alone", counting),
    ]
    return rows + html_rows(html_pages(sample))


def html_pages(sample: Sample) -> pa.Array:
    """The real pages of CORPUS_DATA where it is set, else the HTML of the sample, of which there may be little."""
    if where := os.environ.get("CORPUS_DATA"):
        with open(Path(where) / "html" / "pages.jsonl.zst", "rb") as file:
            lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
            return pa.array([json.loads(line)["html"] for line in lines], pa.large_string())
    return pa.concat_arrays([b.column("text").filter(pc.equal(b.column("lang"), "HTML")) for b in sample.batches])


def html_rows(pages: pa.Array) -> list[Row]:
    """Visible text alone, and how often each decides as BeautifulSoup; no row where there is no page."""
    size = int(pc.sum(pc.binary_length(pages)).as_py() or 0)
    if not size:
        return []
    ours = rate(lambda: visible_characters(pages), size)
    few = pages.take(pa.array(range(0, len(pages), max(1, round(size / 4e6)))))
    texts = few.to_pylist()
    few_size = sum(len(page.encode()) for page in texts)
    peers = {
        "BeautifulSoup": rate(partial(visible_by, soup_text, texts), few_size, repeats=1),
        "selectolax": rate(partial(visible_by, selectolax_text, texts), few_size),
    }
    lengths = np.array([len(page) for page in texts])
    oracle = shown(visible_by(soup_text, texts), lengths)
    agree = {
        "ours": (shown(visible_characters(few), lengths) == oracle).sum(),
        "selectolax": (shown(visible_by(selectolax_text, texts), lengths) == oracle).sum(),
    }
    note = "decides as BeautifulSoup: " + ", ".join(f"{name} on {n} of {len(few)}" for name, n in agree.items())
    return [Row("filter_code", "visible text of HTML", ours, peers, note)]


def visible_by(get_text: Callable[[str], str], pages: list[str]) -> np.ndarray:
    return np.array([len(get_text(page)) for page in pages])


def shown(visible_N: np.ndarray, length_N: np.ndarray) -> np.ndarray:
    """Rule 4 of the paper, as bool [N]."""
    return (visible_N >= 0.2 * length_N) & (visible_N >= 100)


def keep_by_plain_python(sample: Sample) -> list[bool]:
    kept = []
    for batch in sample.batches:
        for text, lang in zip(batch.column("text").to_pylist(), batch.column("lang").to_pylist(), strict=True):
            kept.append(keeps(text, lang))
    return kept


def keeps(text: str, lang: str | None) -> bool:
    """The rules as a user would write them."""
    lines = text.removesuffix("\n").split("\n")
    if not text or sum(map(len, lines)) / len(lines) > 100 or max(map(len, lines)) > 1000:
        return False
    if sum(map(str.isalpha, text)) / len(text) < 0.25:
        return False
    if lang != "XSLT" and "<?xml version=" in text[:100]:
        return False
    if lang == "HTML":
        visible = len(soup_text(text))
        return visible / len(text) >= 0.2 and visible >= 100
    return lang not in ("JSON", "YAML") or 50 <= len(text) <= 5000


def soup_text(page: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = BeautifulSoup(page, "html.parser")
    for element in tree(["script", "style"]):
        element.decompose()
    return tree.get_text()


def selectolax_text(page: str) -> str:
    tree = LexborHTMLParser(page)
    tree.strip_tags(["script", "style"])
    return tree.text() or ""
