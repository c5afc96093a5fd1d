"""What the web track costs: from the rows of a run of all benchmarks, core-hours for one snapshot of Common Crawl.

Every step is counted over everything that reached the track, as if nothing were dropped on the way, so the figure is an upper
bound. A row measured in memory is charged reading and writing Parquet besides, at the floor of the same run. Not counted:
downloading, training the classifiers, and what becomes of the pages that were recalled, which are few.

Size of a snapshot: Common Crawl's announcement of CC-MAIN-2024-51 (December 2024): 2.64 billion pages, 394 TiB uncompressed.
Its text: of the 653 pages of $CORPUS_DATA/html that are neither code nor mathematics. Its URLs: of all 1,444 of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from bench.measure import FLOOR, Row

__all__ = ["STEPS", "core_hours"]

PAGES = 2.64e9
HTML = 394 * 2**40  # bytes, of all that follow
TEXT = 0.053 * HTML
URLS = 74 * PAGES


class Work(NamedTuple):
    """A step: the row that says how fast, over how many bytes, and what of Parquet is read and written besides."""

    stage: str
    what: str
    size: float
    read: float = 0.0
    written: float = 0.0
    times: int = 1


STEPS = (
    Work("crawl_commoncrawl", "whole stage, WARC to Parquet", HTML),
    Work("extract_text", "HTML to text, formulae and code kept", HTML, read=HTML, written=TEXT),
    Work("filter_text", "canonical URLs", URLS, read=TEXT, written=TEXT),  # dedup_exact, by URL
    Work("dedup_near", "whole stage, Parquet to Parquet", TEXT),
    Work("score_recall", "text to scores", TEXT, read=TEXT, written=TEXT, times=6),  # code and mathematics, three rounds each
    Work("filter_text", "judge: all rules, reason and evidence", TEXT, read=TEXT, written=TEXT),
)
_LABELS = {"canonical URLs": "URL dedup"}


def core_hours(rows: Iterable[Row]) -> str | None:
    """A line; None where a row it is computed from is missing."""
    rates = {(row.stage, row.what): row.ours * 1e6 for row in rows}
    reading, writing = (rates.get((FLOOR, what)) for what in ("Parquet read", "Parquet write (zstd 1)"))
    if not reading or not writing:
        return None
    hours: dict[str, float] = {}
    for work in STEPS:
        rate = rates.get((work.stage, work.what))
        if not rate:
            return None
        seconds = work.times * (work.size / rate + work.read / reading + work.written / writing)
        hours[_LABELS.get(work.what, work.stage)] = seconds / 3600
    parts = ", ".join(f"{name} {value:,.0f}" for name, value in hours.items())
    return (
        f"One Common Crawl snapshot (CC-MAIN-2024-51: {PAGES / 1e9:.2f} billion pages, {HTML / 2**40:.0f} TiB) = "
        f"{sum(hours.values()):,.0f} core-hours at these rates: {parts}."
    )
