"""stages/select_seed.py: pages under known addresses, files that explain themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from corpus.document import Verdict, batch_of
from corpus.errors import ConfigError
from corpus.runner import run
from corpus.step import Step
from stages.select_seed import REASONS, Config, judge
from tests.recall_pages import made, rows_of, site, source
from tests.toys import pages

GOOD = '''import sys


def area(r):
    """The area of a circle of radius r, by the formula everybody knows."""
    return 3.14159 * r * r


print(sum(area(float(word)) for word in sys.argv[1:] if word.isdigit()))
'''
FILES = Step("files", pages.Config(shards=()))


def verdict(rows: list[dict[str, Any]], extra: pa.Schema | None = None, **fields: Any) -> Verdict:
    rows = [{"id": f"{i:032x}", "source": "toy", **row} for i, row in enumerate(rows)]
    return judge(batch_of(rows, extra), Config(files=FILES, **fields))


def test_pages_under_a_prefix_are_kept(tmp_path: Path) -> None:
    rows = [*site("seed.org", True, 3), *site("www.seed.org", True, 2, "b/"), *site("other.com", False, 4)]
    step = Step("seed", Config(files=source("pool", rows), prefixes=("https://www.seed.org/a/", "other.com/a/1.html")))
    engine = made(step, tmp_path)
    assert sorted(row["url"] for row in rows_of(engine, step, ["url"])) == [
        "https://other.com/a/1.html",
        *(f"https://seed.org/a/{i}.html" for i in range(3)),
    ]
    assert run(step, engine)["seed"].dropped == {"elsewhere": 5}


def test_where_a_page_is_is_the_evidence() -> None:
    found = verdict([{"text": "x", "url": "https://a.org/x?y"}, {"text": "x"}], prefixes=("b.org",))
    assert found.reason.to_pylist() == ["elsewhere", "elsewhere"]
    assert found.evidence.to_pylist() == ["a.org/x", "no URL"]


def test_the_first_rule_that_fires_is_the_reason() -> None:
    flags = pa.schema([pa.field("generated", pa.bool_()), pa.field("vendored", pa.bool_())])
    rows: list[dict[str, Any]] = [
        {"text": GOOD},
        {"text": GOOD, "generated": True, "vendored": True},
        {"text": "", "vendored": True},
        {"text": ""},
        {"text": GOOD * 10},
        {"text": "x = 1  # one\n" * 20},
        {"text": GOOD + "y = 2\n" * 80},
        {"text": '"""' + "all words " * 30 + '"""\n'},
    ]
    rows = [{**row, "lang": "Python"} for row in rows]
    found = verdict(rows, flags, rule="documented", least_bytes=100, most_bytes=1000)
    assert found.reason.to_pylist() == [
        None,
        "generated",
        "vendored",
        "size",
        "size",
        "undocumented",
        "comment_share",
        "comment_share",
    ]
    assert set(found.reason.to_pylist()[1:]) <= set(REASONS)
    said = found.evidence.to_pylist()
    assert said[0] is None and said[1] == "flagged by the crawl" and said[3] == "0 bytes"
    assert said[7] == "1, 0.15 to 0.6 expected"


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "prefixes"),
        ({"rule": "best", "prefixes": ("a.org",)}, "rule"),
        ({"rule": "documented", "prefixes": ("a.org",)}, "prefixes"),
        ({"prefixes": ("a.org", "/")}, "one is empty"),
        ({"rule": "documented", "least_share": 0.7}, "least_share"),
        ({"rule": "documented", "least_bytes": -1}, "least_bytes"),
    ],
)
def test_a_bad_field_is_named(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Config(files=FILES, **fields)
