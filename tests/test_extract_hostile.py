"""Pages made to break an extractor. Each must come back, and in time linear in its size.

Linear is measured by work and not by the clock of one run: a page of twice the size may take at most four times as long, and a
quadratic one takes minutes at these sizes, far past the timeout.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pyarrow as pa
import pytest

from corpus.extract import extract

pytestmark = pytest.mark.timeout(240)

# name -> a page of about n bytes, and what must be in its text
PAGES: dict[str, tuple[Callable[[int], str], str]] = {
    "deep <div>": (lambda n: "<div>" * (n // 11) + "core" + "</div>" * (n // 11), "core"),
    "deep <b>": (lambda n: "<b>" * (n // 7) + "core" + "</b>" * (n // 7), "core"),
    "deep <ul>": (lambda n: "<ul><li>" * (n // 8) + "core", "core"),
    "deep <table>": (lambda n: "<table><tr><td>" * (n // 15) + "core", "core"),
    "deep <blockquote>": (lambda n: "<blockquote>" * (n // 12) + "core", "core"),
    "deep MathML": (
        lambda n: "<p>a <math>" + "<mrow>" * (n // 13) + "<mi>x</mi>" + "</mrow>" * (n // 13) + "</math> core",
        "core",
    ),
    "deep fractions": (lambda n: "<p>a <math>" + "<mfrac><mn>1</mn>" * (n // 17) + "</math> core", "core"),
    "deep roots": (lambda n: "<p>a <math>" + "<mroot><mi>x</mi>" * (n // 17) + "</math> core", "core"),
    "end tags of nothing": (lambda n: "<div>" * 2000 + "</p></ul></section>" * (n // 19) + "core", "core"),
    "end tags out of a table": (lambda n: "<i><table><td>" + "</i>" * (n // 4) + "core", "core"),
    "entity bomb": (lambda n: "<p>core &" + "amp;" * (n // 4), "core &amp;amp;"),
    "one long reference": (lambda n: "<p>core &#" + "9" * n + ";", "core \ufffd"),
    "one long name": (lambda n: "<p>core &" + "a" * n, "core &aaa"),
    "many &": (lambda n: "<p>core " + "&" * n, "core &&&"),
    "many <": (lambda n: "<p>core " + "<" * n, "core <<<"),
    "many < in code": (lambda n: "<pre>core " + "<" * n, "core <<<"),
    "many <!": (lambda n: "<p>core " + "<!" * (n // 2), "core"),
    "many <!--": (lambda n: "<p>core " + "<!-- " * (n // 5), "core"),
    "many <math": (lambda n: "<p>core " + "<math>" * (n // 6), "core"),
    "many </": (lambda n: "<p>core " + "</" * (n // 2), "core"),
    "NUL": (lambda n: "<p>core" + "\0" * n + "end", "coreend"),
    "unclosed <script>": (lambda n: "<p>core</p><script>" + "</scrip" * (n // 7), "core"),
    "unclosed <script>s of formulae": (lambda n: "<p>core</p>" + '<script type="math/tex">' * (n // 24), "core"),
    "unclosed <math>": (lambda n: "<p>core</p><math>" + "<mi>x" * (n // 5), "core"),
    "unclosed comment": (lambda n: "<p>core</p><!--" + "-" * n, "core"),
    "unclosed quotation mark": (lambda n: '<p>core</p><a href="' + "x" * n, "core"),
    "attributes": (lambda n: "<p>core</p><p " + "a=1 " * (n // 4) + ">end", "end"),
    "class words": (lambda n: f'<p class="{"side-bar " * (n // 9)}">core of it.', "core of it."),
    "dollar signs": (lambda n: "<p>core " + "$a " * (n // 3), "core $a"),
    "open formulae": (lambda n: "<p>core " + "\\(" * (n // 2), "core \\("),
    "environments": (lambda n: "<p>core " + "\\begin{a}" * (n // 9), "core"),
    "backticks": (lambda n: "<pre>core" + "`" * n, "core`"),
    "inline code": (lambda n: "<p>core " + "<code>`" * (n // 7), "core"),
    "scripts": (lambda n: "<p>core" + "<sup>2" * (n // 6), "core"),
    "navigation in navigation": (lambda n: "<p>core sentence of text.</p>" + '<div class="menu">a' * (n // 19), "core"),
    "headings": (lambda n: "<p>core</p>" + "<h2>a" * (n // 5), "core"),
    "list items": (lambda n: "<p>core</p><ol>" + "<li>a" * (n // 5), "1. a"),
    "one word": (lambda n: "<p>core" + "x" * n, "corex"),
    "white space": (lambda n: "<p>core" + " \n" * (n // 2) + "end", "core end"),
    "blocks": (lambda n: "<p>core" + "<p>a" * (n // 4), "core\n\na"),
}


def seconds(html: str, wanted: str) -> float:
    array = pa.array([html])
    started = time.process_time()
    text = str(extract(array).text[0])
    taken = time.process_time() - started
    assert wanted in text, text[:200]
    assert "\0" not in text
    return taken


@pytest.mark.parametrize("name", PAGES)
def test_a_hostile_page_is_read_in_linear_time(name: str) -> None:
    page, wanted = PAGES[name]
    seconds(page(1000), wanted)
    size = 1_000_000
    one, two = seconds(page(size), wanted), seconds(page(2 * size), wanted)
    assert two < 4 * one + 0.2, (one, two)


def test_ten_thousand_elements_deep_keep_what_follows() -> None:
    for tag in ("div", "span", "ul", "td", "b", "blockquote", "custom-element"):
        text = str(extract(pa.array([f"<{tag}>" * 10_000 + "core" + f"</{tag}>" * 10_000 + "<p>after the storm</p>"])).text[0])
        assert "core" in text and "after the storm" in text


def test_a_million_attributes() -> None:
    found = extract(pa.array(["<p " + " ".join(f"a{k}={k}" for k in range(1_000_000)) + " hidden>no</p><p>core"]))
    assert found.text.to_pylist() == ["core\n"]


def test_twenty_megabytes() -> None:
    page = "<p>" + "A sentence &amp; another, with <b>words</b> in it. " * 4 + "</p>\n<pre>  code\n</pre>"
    count = 20_000_000 // len(page) + 1
    found = extract(pa.array([page * count]))
    assert found.code_blocks_N[0] == count
    assert str(found.text[0]).count("A sentence & another, with words in it.") == 4 * count


def test_more_blocks_than_are_kept_apart_lose_nothing() -> None:
    count = (1 << 19) + 1000
    text = str(extract(pa.array(["<p>word" * count])).text[0])
    assert text.count("word") == count
