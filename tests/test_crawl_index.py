"""stages/crawl_commoncrawl.py by a columnar index: rows that are wrong, runs that are resumed."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from corpus.engine import LocalEngine
from corpus.errors import InputError
from corpus.progress import Lines
from corpus.runner import run
from corpus.step import Step
from stages.crawl_commoncrawl import Config
from stages.crawl_commoncrawl import run as stage_run
from tests.archive_servers import serving
from tests.test_cdx import index_file
from tests.test_crawl_commoncrawl import PAGE, QUICK, archive, crawl, response
from tests.test_warc import FIVE


def test_an_index_row_that_is_wrong_is_a_row(tmp_path: Path) -> None:
    members = [gzip.compress(response(PAGE, url=f"http://{name}.example/")) for name in "ab"]
    members.append(gzip.compress(FIVE[0].replace(b"response", b"request")))
    (tmp_path / "x.warc.gz").write_bytes(b"".join(members))
    first, second, third = map(len, members)
    places = [(0, first), (3, 40), (first - 9, 9), (first, second - 5), (first + second, third), (10**6, 50)]
    urls = [f"http://example.com/{i}" for i in range(len(places))]
    index_file(
        tmp_path / "index.parquet", urls,
        warc_record_offset=[a for a, _ in places], warc_record_length=[b for _, b in places],
    )  # fmt: skip
    result = crawl(tmp_path, index=str(tmp_path / "index.parquet"), urls=("example.com/*",), prefix=f"{tmp_path}/")
    assert [row["url"] for row in result.kept] == ["http://a.example/"]
    assert len(result.dropped) == len(places) - 1
    assert {row["reason"] for row in result.dropped} == {"broken"}
    assert any("the index says" in row["evidence"] and "request" in row["evidence"] for row in result.dropped)


def test_an_index_row_that_would_bring_a_whole_file_is_not_fetched(tmp_path: Path) -> None:
    good = gzip.compress(response(PAGE, url="http://a.example/"))
    (tmp_path / "x.warc.gz").write_bytes(good * 3)
    places = [
        (len(good), len(good)),
        (0, 10**11),
        (2 * len(good), 2000 + (256 << 10) + 1),
        (-5, 20),
        (7, 0),
        (9, -1),
        (2**40, 9),
    ]
    index_file(
        tmp_path / "index.parquet", [f"http://example.com/{i}" for i in range(len(places))],
        warc_record_offset=[a for a, _ in places], warc_record_length=[b for _, b in places],
    )  # fmt: skip
    with serving(tmp_path) as server:
        asked = {"index": str(tmp_path / "index.parquet"), "urls": ("example.com/*",), "prefix": server.url, "max_bytes": 2000}
        result = crawl(tmp_path, **asked, **QUICK)
        ranges = [asked for _, asked, _ in server.requests]
    assert ranges == [f"bytes={len(good)}-{2 * len(good) - 1}", f"bytes={2**40}-{2**40 + 8}"]
    assert [row["url"] for row in result.kept] == ["http://a.example/"]
    assert result.report.dropped == {"too_large": 2, "broken": 3, "fetch_failed": 1}
    assert all(re.search(r"the index says|HTTP 416", row["evidence"]) for row in result.dropped)


def test_a_resumed_run_keeps_to_what_the_index_said_and_says_the_same(tmp_path: Path) -> None:
    archive(tmp_path / "x.warc.gz", response(PAGE, url="http://a.example/"))
    size = (tmp_path / "x.warc.gz").stat().st_size
    urls = ["http://example.com/a", "http://example.com/b"]
    columns = {"warc_record_offset": [0, 0], "warc_record_length": [size, size], "fetch_status": [200, 404]}
    columns["warc_filename"] = ["x.warc.gz", "y.warc.gz"]
    index = index_file(tmp_path / "index.parquet", urls, **columns)
    config = Config(index=str(index), urls=("example.com/*",), prefix=f"{tmp_path}/")
    (tmp_path / "out").mkdir()
    reports = []
    for _ in range(2):
        reports.append(stage_run(config, tmp_path / "out", LocalEngine(tmp_path / "root")))
        index.unlink(missing_ok=True)  # the second run must not ask again
    assert [r.notes["captures"] for r in reports] == [r.notes["index_other_status"] for r in reports] == [1, 1]
    assert reports[0].kept == reports[1].kept == 1


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_damaged_list_of_captures_is_asked_for_again(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is no Parquet any more, or a sound one that holds less than was told."""
    archive(tmp_path / "x.warc.gz", response(PAGE, url="http://a.example/"))
    size = (tmp_path / "x.warc.gz").stat().st_size
    index = index_file(
        tmp_path / "index.parquet", ["http://example.com/a"],
        warc_filename=["x.warc.gz"], warc_record_offset=[0], warc_record_length=[size],
    )  # fmt: skip
    step = Step("crawl", Config(index=str(index), urls=("example.com/*",), prefix=f"{tmp_path}/"))
    first = run(step, LocalEngine(tmp_path / "root"))["crawl"]
    told = tmp_path / "root" / step.folder / "captures.parquet"
    whole = told.read_bytes()
    if damage == "cut":
        told.write_bytes(whole[: len(whole) // 2])
    else:
        table = pq.read_table(told)
        pq.write_table(table.slice(0, 0).replace_schema_metadata(table.schema.metadata), told)
    again = run(step, LocalEngine(tmp_path / "root", Lines()))["crawl"]
    assert told.read_bytes() == whole and again.kept == first.kept == 1
    assert "damaged: " in capsys.readouterr().err


def test_files_of_an_index_are_tasks_of_their_own(tmp_path: Path) -> None:
    """A run that one of them ended goes on with it, and does not ask the others again."""
    archive(tmp_path / "x.warc.gz", response(PAGE, url="http://a.example/"))
    size = (tmp_path / "x.warc.gz").stat().st_size
    (tmp_path / "index").mkdir()
    one, two = (tmp_path / "index" / f"{i}.parquet" for i in (1, 2))
    places = {"warc_record_offset": [0], "warc_record_length": [size]}
    index_file(one, ["http://example.com/a"], warc_filename=["x.warc.gz"], **places)
    two.write_bytes(b"no Parquet")
    config = Config(index=str(tmp_path / "index"), urls=("example.com/*",), prefix=f"{tmp_path}/")
    (tmp_path / "out").mkdir()
    engine = LocalEngine(tmp_path / "root")
    with pytest.raises(InputError, match=r"2\.parquet cannot be read"):
        stage_run(config, tmp_path / "out", engine)
    one.write_bytes(b"nor this, now")
    index_file(two, ["http://example.com/b", "http://example.com/c"], warc_filename=["x.warc.gz", "y.warc.gz"], **{
        "warc_record_offset": [0, 0], "warc_record_length": [size, size], "fetch_status": [200, 301],
    })  # fmt: skip
    report = stage_run(config, tmp_path / "out", engine)
    assert (report.notes["captures"], report.notes["index_other_status"], report.kept) == (1, 1, 1)  # one place, listed twice
