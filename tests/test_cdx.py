"""corpus/cdx.py: what the patterns mean, in a columnar index and on a real CDX server."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.cdx import Capture, Pattern, from_api, from_parquet, listed, surt
from corpus.errors import ConfigError, InputError
from corpus.remote import Access, Remote
from tests.archive_servers import every_third, serving

REMOTE = Remote(Access(first_wait_s=0.01, stall_s=0.2, budget_s=20))


def anything(status: int | None, mime: str | None) -> str | None:
    return None


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("http://www.Example.com/", "com,example)/"),
        ("https://example.com", "com,example)/"),
        ("www2.example.com/A?b=2&a=1#c", "com,example)/a?a=1&b=2"),
        ("http://user:pw@example.co.uk:8080/x", "uk,co,example:8080)/x"),
        ("https://example.com:443/x", "com,example)/x"),
        ("http://192.168.1.2/x", "192.168.1.2)/x"),
        ("http://www.com/", "com,www)/"),
        ("example.com/?", "com,example)/"),
        ("example.com/a/?x=/", "com,example)/a?x=/"),
    ],
)
def test_sort_keys(url: str, key: str) -> None:
    assert surt(url) == key


def test_sort_keys_are_those_of_real_indexes(corpus_data: Path) -> None:
    lines = (corpus_data / "warc" / "iana.cdxj").read_text().splitlines()
    for line in lines:
        key, _, rest = line.split(" ", 2)
        assert surt(json.loads(rest)["url"]) == key, line


@pytest.mark.parametrize(
    "text", ["", "*", "*.", "/", "http://*", "*.*", "a b.com/*", "ex*mple.com/", "*.example.com/path", "**.com"]
)
def test_patterns_that_mean_nothing_or_everything(text: str) -> None:
    with pytest.raises(ConfigError, match="URL pattern"):
        Pattern.of(text)


URLS = [
    "http://example.com/", "http://www.example.com/docs/a", "https://example.com/docs/b?x=1", "https://example.com/docs",
    "http://sub.example.com/docs/c", "http://example.com.evil.net/docs/a", "http://notexample.com/docs/a", "http://example.org/",
    "http://example.com:8080/docs/a", "http://example.community/", "http://deep.sub.example.com/",
]  # fmt: skip
MATCHES = {
    "*.example.com": {0, 1, 2, 3, 4, 10},
    "*.example.com/*": {0, 1, 2, 3, 4, 10},
    "example.com/*": {0, 1, 2, 3},
    "http://www.example.com/*": {0, 1, 2, 3},
    "example.com/docs/*": {1, 2},
    "example.com/docs*": {1, 2, 3},
    "EXAMPLE.com/Docs/b?x=*": {2},
    "https://example.com/docs/b?x=1": {2},
    "example.com/docs/": {3},
    "example.com": {0},
    "nowhere.example": set(),
}


def index_file(path: Path, urls: list[str], **columns: Any) -> Path:
    """Common Crawl's columnar index of captures, capture i at offset i; sorted, in row groups of three."""
    order = sorted(range(len(urls)), key=lambda i: surt(urls[i]))
    table = pa.table(
        {
            "url_surtkey": [surt(urls[i]) for i in order],
            "url": [urls[i] for i in order],
            "fetch_status": pa.array([200 for _ in order], pa.int16()),
            "content_mime_type": ["text/html" for _ in order],
            "content_mime_detected": ["text/html" for _ in order],
            "warc_filename": ["x.warc.gz" for _ in order],
            "warc_record_offset": pa.array(order, pa.int32()),
            "warc_record_length": pa.array([10 for _ in order], pa.int32()),
            "warc_segment": ["1" for _ in order],
        }
    )
    for name, values in columns.items():
        table = table.drop_columns([name]).append_column(name, pa.array([values[i] for i in order]))
    pq.write_table(table, path, row_group_size=3)
    return path


@pytest.mark.parametrize("pattern", MATCHES)
def test_patterns_in_the_columnar_index(tmp_path: Path, pattern: str) -> None:
    path = index_file(tmp_path / "index.parquet", URLS)
    found, others = listed(from_parquet(str(path), [Pattern.of(pattern)], anything, REMOTE))
    assert {c.offset for c in found} == MATCHES[pattern] and not others
    assert all(c == Capture("x.warc.gz", c.offset, 10, URLS[c.offset]) for c in found)


def test_row_groups_without_a_match_are_not_read(tmp_path: Path) -> None:
    urls = [f"http://host{i:04d}.example/{'x' * 200}" for i in range(3000)]
    order = sorted(urls, key=surt)
    index_file(tmp_path / "index.parquet", order)
    with serving(tmp_path) as server:
        found, _ = listed(from_parquet(f"{server.url}index.parquet", [Pattern.of("host1234.example/*")], anything, REMOTE))
        asked = sum(int(b) - int(a) + 1 for _, r, _ in server.requests for a, b in [r.removeprefix("bytes=").split("-")])
        sized = (tmp_path / "index.parquet").stat().st_size
        footer = pq.read_metadata(tmp_path / "index.parquet").serialized_size
    assert [c.url for c in found] == [urls[1234]]
    assert asked < footer + 70_000 + (sized - footer) / 20  # Arrow reads a footer with what lies before it


def test_several_patterns_and_files_list_a_capture_once_in_order(tmp_path: Path) -> None:
    one, two = index_file(tmp_path / "1", URLS), index_file(tmp_path / "2", URLS, warc_filename=["a.warc.gz"] * len(URLS))
    patterns = [Pattern.of(text) for text in ("example.com/*", "*.example.com", "example.com/docs/*")]
    with serving(tmp_path, every_third) as server:
        rows = [from_parquet(server.url + name, patterns, anything, REMOTE) for name in (one.name, two.name, one.name)]
        found, _ = listed(itertools.chain(*rows))
    places = [(c.filename, c.offset) for c in found]
    assert places == sorted(places) and places == [(f, i) for f in ("a.warc.gz", "x.warc.gz") for i in (0, 1, 2, 3, 4, 10)]


def test_what_is_not_wanted_is_counted(tmp_path: Path) -> None:
    statuses = [200, 301, None, 404, 200, 200, 200, 200, 200, 200, 200]
    types = ["text/html", "text/html", None, "text/html", "application/pdf", *["text/html"] * 6]
    path = index_file(tmp_path / "index", URLS, fetch_status=statuses, content_mime_detected=types)

    def wanted(status: int | None, mime: str | None) -> str | None:
        return "status" if status not in (200, None) else "mime" if mime != "text/html" else None

    found, others = listed(from_parquet(str(path), [Pattern.of("*.example.com")], wanted, REMOTE))
    assert [c.offset for c in found] == [0, 2, 10]  # what detection does not say, the server's own word does
    assert others == {"status": 2, "mime": 1}


def test_a_file_that_is_no_index_says_so(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    pq.write_table(pa.table({"url": ["x"]}), tmp_path / "other.parquet")
    (tmp_path / "empty").write_bytes(b"")
    for name, said in (
        ("text", "cannot be read"),
        ("other.parquet", "has no column warc_filename"),
        ("empty", "empty"),
        ("none", "none"),
    ):
        with pytest.raises(InputError, match=said):
            list(from_parquet(str(tmp_path / name), [Pattern.of("example.com")], anything, REMOTE))


def answer(folder: Path, *lines: Any) -> None:
    (folder / "index").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_api_answers_of_other_kinds(tmp_path: Path) -> None:
    """Pages as a bare number, no pages at all, nothing found as 404, and answers that are no captures."""
    row = {"url": "http://a.example/", "filename": "f", "offset": "3", "length": "4", "status": "-", "mime": "warc/revisit"}
    patterns = [Pattern.of("a.example/*")]
    with serving(tmp_path, every_third) as server:
        assert list(from_api(server.url + "index", patterns, anything, REMOTE)) == []
        answer(tmp_path, row)
        found = list(from_api(server.url + "index", patterns, anything, REMOTE))
        assert found == [(Capture("f", 3, 4, "http://a.example/"), None)]
        wrongs = [{**row, "offset": value} for value in ("x", None, 1e400, 1 << 70)] + [{**row, "url": None}]
        for wrong in ({"error": "x"}, ["list"], *wrongs):
            answer(tmp_path, row, wrong)
            with pytest.raises(InputError, match="a capture expected"):
                list(from_api(server.url + "index", patterns, anything, REMOTE))
        (tmp_path / "index").write_text("<html>")
        with pytest.raises(InputError, match="does not answer in JSON"):
            list(from_api(server.url + "index", patterns, anything, REMOTE))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_has_a_key_and_is_a_pattern_or_an_error(text: str) -> None:
    assert ")" in surt(text)
    try:
        assert Pattern.of(text).keys
    except ConfigError:
        pass
