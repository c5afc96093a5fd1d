"""filter_text beside datatrove's filters of the same rules, one text at a time, on the text of real pages."""

from __future__ import annotations

import io
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import zstandard
from datatrove.data import Document
from datatrove.pipeline.filters import FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
from resiliparse.extract.html2text import extract_plain_text

from bench.measure import Row, Sample, rate
from corpus.document import batch_of, text_bytes
from corpus.prose import prose_stats
from corpus.urls import canonical_urls
from stages.filter_text import Config, judge

UPSTREAM: Any = None  # judge never looks there
CONFIG = Config(files=UPSTREAM)
GOPHER = Config(files=UPSTREAM, lorem_ipsum=False, min_sentences=None, min_line_ends=None, max_short_lines=None,
                max_newlines=None, max_same_lines=None)  # fmt: skip


def bench(sample: Sample) -> list[Row]:
    batch, urls = real_texts(sample)
    size = text_bytes(batch)
    if not size:
        return []
    few = batch.take(pa.array(range(0, batch.num_rows, max(1, round(size / 1.5e6)))))
    filters = [GopherQualityFilter(), GopherRepetitionFilter()]
    kept_by_peer(few.slice(0, 2), filters)  # loads spaCy
    ours = rate(lambda: judge(batch, CONFIG), size)
    gopher = rate(lambda: kept_by_peer(few, filters), text_bytes(few), repeats=1)
    every = rate(lambda: kept_by_peer(few, [*filters, FineWebQualityFilter()]), text_bytes(few), repeats=1)
    same = sum(a == b for a, b in zip(kept_by_peer(few, filters), judge(few, GOPHER).reason.is_null().to_pylist(), strict=True))
    rows = [
        Row("filter_text", "judge: all rules, reason and evidence", ours, {"datatrove, Gopher and FineWeb": every}),
        Row("filter_text", "judge: the rules of Gopher", rate(lambda: judge(batch, GOPHER), size), {"datatrove": gopher},
            f"same decision on {same} of {few.num_rows} pages"),
        Row("filter_text", "the counts alone, all of them", rate(partial(prose_stats, batch.column("text")), size)),
    ]  # fmt: skip
    if len(urls):
        many = pa.concat_arrays([urls] * max(1, 200_000 // len(urls)))
        length = int(pc.sum(pc.binary_length(many)).as_py() or 0)
        seconds = length / 1e6 / (speed := rate(partial(canonical_urls, many), length))
        rows.append(Row("filter_text", "canonical URLs", speed, {}, f"{len(many) / seconds / 1e6:.2f} million a second"))
    return rows


def kept_by_peer(batch: pa.RecordBatch, filters: list[Any]) -> list[bool]:
    kept = []
    for text in batch.column("text").to_pylist():
        answers = (f.filter(Document(text=text, id="")) for f in filters)
        kept.append(all(answer is True for answer in answers))
    return kept


def real_texts(sample: Sample) -> tuple[pa.RecordBatch, pa.Array]:
    """Text and URLs of the pages of CORPUS_DATA where it is set, else the Markdown and reStructuredText of the sample."""
    if where := os.environ.get("CORPUS_DATA"):
        with open(Path(where) / "html" / "pages.jsonl.zst", "rb") as file:
            lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
            pages = [json.loads(line) for line in lines]
        texts = [extract_plain_text(page["html"], main_content=True) for page in pages]
        rows = [{"id": str(i), "text": text} for i, text in enumerate(texts) if text]
        return batch_of(rows), pa.array([page["url"] for page in pages], pa.string())
    prose = [b.filter(pc.is_in(b.column("lang"), pa.array(["Markdown", "reStructuredText"]))) for b in sample.batches]
    table = pa.Table.from_batches(prose).combine_chunks()
    return table.to_batches()[0] if table.num_rows else prose[0], pa.array([], pa.string())
