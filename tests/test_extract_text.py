"""stages/extract_text.py: pages become text with signals, plain text passes, and what says nothing is dropped with its size."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.errors import ConfigError
from corpus.step import Step
from stages import extract_text
from stages.extract_text import SIGNALS, judge
from tests.toys import pages

FILES = Step("pages", pages.Config(shards=((),)))
CONFIG = extract_text.Config(files=FILES)
ENGLISH = "This is a page about the history of the town and its people, who have lived there for a long time. "
PAGE = f"""<!doctype html><html lang="de-AT"><head><title>Of &lt;sums&gt;</title></head><body>
<nav><a href="/">Home</a> <a href="/all">All pages</a></nav>
<main><h1>Sums</h1><p>{ENGLISH * 3} We have <span class="math">\\(\\sum_{{k}} a_k\\)</span>.</p>
<pre><code class="language-python">def f(x):
    return {{x: 1}}
</code></pre></main></body></html>"""


def batch_of(texts: list[str], mime: list[str | None] | None = None) -> pa.RecordBatch:
    columns = {"id": pa.array([str(i) for i in range(len(texts))]), "text": pa.array(texts, pa.large_string())}
    return pa.record_batch(columns | ({"mime": pa.array(mime, pa.string())} if mime else {}))


def test_a_page_becomes_text_and_signals() -> None:
    verdict = judge(batch_of([PAGE]), CONFIG)
    row = verdict.batch.to_pylist()[0]
    assert row["text"].startswith("# Sums\n\n" + ENGLISH[:40])
    assert "```python\ndef f(x):\n    return {x: 1}\n```" in row["text"] and r"\(\sum_{k} a_k\)" in row["text"]
    assert "Home" not in row["text"]
    assert (row["title"], row["formulas"], row["code_blocks"]) == ("Of <sums>", 1, 1)
    assert row["language"] == "en" and row["language_by"] == "trigrams" and row["language_score"] > 0.3  # not what it declares
    code = len("def f(x):\n    return {x: 1}\n")
    assert row["code_share"] == pytest.approx(code / len(row["text"]), abs=2 / len(row["text"]))
    assert row["text_share"] == pytest.approx(len(row["text"].encode()) / len(PAGE.encode()))
    assert verdict.reason.null_count == 1
    assert verdict.batch.schema.names == ["id", "text", *SIGNALS.names]


def test_plain_text_passes_as_it_is() -> None:
    text = "<p>not HTML & all\n" + ENGLISH * 3
    verdict = judge(batch_of([text, text, text], ["text/plain", "text/html", None]), CONFIG)
    plain, html, unknown = verdict.batch.to_pylist()
    assert plain["text"] == text and plain["text_share"] == 1 and plain["title"] is None and plain["language"] == "en"
    assert html["text"].startswith("not HTML") and unknown == html | {"mime": None, "id": "2"}


@pytest.mark.parametrize(
    ("html", "reason"),
    [("", "empty"), ("<script>a = 1</script>", "empty"), ("<p>— … !</p>", "empty"), ("<p>word</p>", None), ("<p>汉</p>", None)],
)
def test_pages_that_say_nothing_are_dropped(html: str, reason: str | None) -> None:
    verdict = judge(batch_of([html]), CONFIG)
    assert verdict.reason.to_pylist() == [reason]
    assert (verdict.evidence[0].as_py() is None) == (reason is None)


def test_short_pages_are_dropped_when_asked() -> None:
    verdict = judge(batch_of(["<p>1234567</p>", "<p>12345678</p>"]), extract_text.Config(files=FILES, least_bytes=9))
    assert verdict.reason.to_pylist() == ["short", None] and verdict.evidence[0].as_py() == "8 bytes of text"
    with pytest.raises(ConfigError, match="least_bytes"):
        extract_text.Config(files=FILES, least_bytes=0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=80) | st.just(PAGE), max_size=5), st.integers(0, 5))
def test_a_batch_is_judged_row_by_row(texts: list[str], cut: int) -> None:
    clean = [text.encode("utf-8", "replace").decode() for text in texts]
    whole = judge(batch_of(clean), CONFIG)
    parts = [judge(batch_of(clean).slice(0, cut), CONFIG), judge(batch_of(clean).slice(cut), CONFIG)]
    assert whole.batch.to_pylist() == [row for part in parts for row in part.batch.to_pylist()]
    assert whole.reason.to_pylist() == [r for part in parts for r in part.reason.to_pylist()]
    text = whole.batch.column("text").to_pylist()
    kept = [reason is None for reason in whole.reason.to_pylist()]
    assert all(any(c.isalnum() for c in t) for t, keep in zip(text, kept, strict=True) if keep)
