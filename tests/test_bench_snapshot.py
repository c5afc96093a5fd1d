"""bench/snapshot.py: the hours are sizes over rates, and the rows they come from are those the benchmarks write."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.measure import FLOOR, Row
from bench.snapshot import HTML, STEPS, TEXT, URLS, core_hours

FLOORS = [Row(FLOOR, "Parquet read", 1000.0), Row(FLOOR, "Parquet write (zstd 1)", 500.0)]


def rows(rate: float = 100.0) -> list[Row]:
    return [*FLOORS, *(Row(work.stage, work.what, rate) for work in STEPS), Row("encode_tokens", "text → ids", 1.0)]


def hours(line: str | None) -> dict[str, float]:
    assert line is not None
    found = re.findall(r"([\w ]+?) ([\d,]+)[,.](?= |$)", line.partition("rates: ")[2])
    return {name.strip(): float(value.replace(",", "")) for name, value in found}


def test_the_hours_are_sizes_over_rates() -> None:
    found = hours(core_hours(rows()))
    assert list(found) == ["crawl_commoncrawl", "extract_text", "URL dedup", "dedup_near", "score_recall", "filter_text"]
    per_hour = 3600 * 1e6
    parquet = (TEXT / 1000 + TEXT / 500) / per_hour
    expected = {
        "crawl_commoncrawl": HTML / 100 / per_hour,
        "extract_text": (HTML / 100 + HTML / 1000 + TEXT / 500) / per_hour,
        "URL dedup": URLS / 100 / per_hour + parquet,
        "dedup_near": TEXT / 100 / per_hour,
        "score_recall": 6 * (TEXT / 100 / per_hour + parquet),
        "filter_text": TEXT / 100 / per_hour + parquet,
    }
    assert found == {name: round(value) for name, value in expected.items()}


def test_the_sum_is_said_first() -> None:
    line = core_hours(rows())
    said = re.search(r"= ([\d,]+) core-hours", line or "")
    assert said is not None
    assert float(said.group(1).replace(",", "")) == pytest.approx(sum(hours(line).values()), abs=3)  # each is rounded
    assert hours(core_hours(rows(200.0)))["dedup_near"] == pytest.approx(hours(line)["dedup_near"] / 2, abs=1)


@pytest.mark.parametrize("missing", range(2 + len(STEPS)))
def test_without_one_of_its_rows_there_is_no_line(missing: int) -> None:
    some = rows()
    assert core_hours(some[:missing] + some[missing + 1 :]) is None
    some[missing] = Row(some[missing].stage, some[missing].what, 0.0)
    assert core_hours(some) is None


@pytest.mark.parametrize("work", STEPS, ids=lambda work: f"{work.stage}: {work.what}")
def test_its_rows_are_rows_of_the_benchmarks(work: object) -> None:
    path = Path(__file__).parents[1] / "bench" / f"{work.stage}.py"  # type: ignore[attr-defined]
    assert f'"{work.what}"' in path.read_text("utf-8")  # type: ignore[attr-defined]
