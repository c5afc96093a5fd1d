"""Text of pages: structure, navigation, signals, and laws that hold for any bytes."""

from __future__ import annotations

import html as entities

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.extract import Extracted, extract

PROSE = "Long enough to be prose, this sentence stands on the page and says nothing."


def text_of(html: str) -> str:
    return str(extract(pa.array([html])).text[0])


# name -> (markup, text)
STRUCTURE = {
    "paragraphs": ("<p>a\n b<p>c<div>d</div>e", "a b\n\nc\n\nd\n\ne"),
    "headings": (f"<h1>T</h1><h2>S</h2><p>{PROSE}</p><h6>D</h6>x", f"# T\n\n## S\n\n{PROSE}\n\n###### D\n\nx"),
    "lists": (
        "<ul><li>a<ul><li>b</li><li>c</li></ul></li><li>d</li></ul><ol><li>one<li>two</ol>",
        "- a\n  - b\n  - c\n- d\n\n1. one\n2. two",
    ),
    "a list that starts at 3": ('<ol start="3"><li>three</li><li>four</li></ol>', "3. three\n4. four"),
    "paragraphs in an item": ("<ul><li><p>a</p><p>b</p></li></ul>", "- a\n\n  b"),
    "a table": (
        "<table><caption>Cap</caption><thead><tr><th>n</th><th>v</th></tr></thead><tr><td>1</td><td>one</td></tr></table>",
        "Cap\n\nn | v\n1 | one",
    ),
    "a table without end tags": ("<table><tr><td>1<td>2<tr><td>3<td>4</table>", "1 | 2\n3 | 4"),
    "definitions": (
        "<dl><dt>Term</dt><dd>Meaning of it.</dd><dt>Two<dd>Second.</dl>",
        "Term\n  Meaning of it.\n\nTwo\n  Second.",
    ),
    "a quotation": ("<blockquote><p>Quoted.</p><p>Twice.</p></blockquote>", "> Quoted.\n\n> Twice."),
    "lines": ("<p>f<br>g<br><br>h</p>", "f\ng\n\nh"),
    "a short quotation": ("<p>He said <q>yes</q>.</p>", 'He said "yes".'),
    "inline elements join": ("<p>a<b>b</b>c <i>d</i> <u> e</u></p>", "abc d e"),
    "references": (
        "<p>a &amp; b &lt;tag&gt; &hellip;&#8212;&#x1F600; &copy 1&nbsp;end &unknown; &#150; &amp;lt;</p>",
        "a & b <tag> …—😀 © 1 end &unknown; – &lt;",
    ),
    "soft hyphens and zero-width spaces go": ("<p>co&shy;op\u00ader\u200bate</p>", "cooperate"),
    "comments, scripts, styles": ('<p>a<!-- > no --> b<script>"</p>"</script> c<style>p{}</style> d</p>', "a b c d"),
    "what is hidden": ('<p>a</p><p hidden>b</p><p style="color:red; DISPLAY : none">c</p><p aria-hidden="true">d</p>', "a"),
    "text that is never closed": ("<div><ul><li><b>a", "- a"),
    "end tags of nothing": ("</div></p>a</b></table>", "a"),
    "a < in text": ("<p>if a < b then</p>", "if a < b then"),
    "no markup at all": ("just text", "just text"),
}


@pytest.mark.parametrize("name", STRUCTURE)
def test_structure(name: str) -> None:
    html, text = STRUCTURE[name]
    assert text_of(html) == text + "\n"


# Each stands beside a paragraph, and must not be in the text.
NAVIGATION = {
    "nav": '<nav><ul><li><a href="/">Home</a></li></ul></nav>',
    "nav without links": "<nav><p>You are in the manual of it.</p></nav>",
    "role": '<div role="navigation"><p>You are in the manual of it.</p></div>',
    "footer": "<footer><p>Copyright 2024 by its authors, all rights reserved.</p></footer>",
    "class": '<div class="left-sidebar"><p>Something about the author, told at length.</p></div>',
    "camel case": '<div class="pageFooter"><p>Something about the author, told at length.</p></div>',
    "id": '<div id="cookie-banner"><p>We value your privacy very much, do we not.</p></div>',
    "list of links": '<div><ul><li><a href="/a">Tutorials for all</a></li><li><a href="/b">Reference</a></li></ul></div>',
    "form": '<form class="comments"><p>Your address will not be published, fields are required.</p></form>',
    "buttons": "<button>Subscribe now</button><select><option>English</option></select>",
    "what needs scripts": "<noscript><p>Please enable JavaScript to see this page well.</p></noscript>",
}


@pytest.mark.parametrize("name", NAVIGATION)
def test_navigation_is_dropped(name: str) -> None:
    assert text_of(f"<body><p>{PROSE}</p>{NAVIGATION[name]}<p>{PROSE}</p>") == f"{PROSE}\n\n{PROSE}\n"


def test_headings_lose_their_permalinks_and_go_when_nothing_is_under_them() -> None:
    head = '<h2>Head<a class="headerlink" href="#x">¶</a></h2>'
    assert text_of(f"{head}<h3>Sub</h3><p>{PROSE}") == f"## Head\n\n### Sub\n\n{PROSE}\n"
    assert text_of(f"{head}<h3>See also</h3><h2>Two</h2><p>{PROSE}</p><h3>Related</h3>") == f"## Two\n\n{PROSE}\n"


def test_words_for_navigation_around_the_whole_page_speak_of_its_layout() -> None:
    html = f'<div class="page sidebar"><div class="menu"><p>Pick one of them.</p></div><p>{PROSE}</p><pre>code</pre></div>'
    assert text_of(html) == f"{PROSE}\n\n```\ncode\n```\n"


def test_words_that_speak_of_another_element_do_not_count() -> None:
    assert text_of(f'<div class="has-sidebar no-footer"><p>{PROSE}</p></div><p>{PROSE * 3}</p>').count(PROSE) == 4


def test_short_text_beside_main_goes_and_code_stays() -> None:
    html = f"<p>Version 3 of the site.</p><pre>x = 1</pre><p>so \\(x\\).</p><main><p>{PROSE}</p><p>{PROSE}</p></main>"
    assert text_of(html) == f"```\nx = 1\n```\n\nso \\(x\\).\n\n{PROSE}\n\n{PROSE}\n"


def test_title() -> None:
    pages = [
        "<html><head><title> A &amp; <b>B</b>\n c </title></head><body>x",
        "<svg><title>no</title></svg><title>yes</title><title>second</title><p>x",
        "<title></title><p>x",
        "<p>x",
    ]
    assert extract(pa.array(pages)).title.to_pylist() == ["A & <b>B</b> c", "yes", None, None]


def test_declared_language() -> None:
    tags = ["en", "zh-Hans", "PT_br", " de ", "x-klingon", "english", "", "e"]
    pages = [f'<!doctype html><html lang="{tag}"><body lang="fr"><p lang="es">x' for tag in tags]
    expected = ["en", "zh", "pt", "de", None, None, None, None]
    assert extract(pa.array(pages)).declared.to_pylist() == expected
    assert extract(pa.array(['<html xml:lang="en">', "<html>", '<body lang="fr">'])).declared.to_pylist() == ["en", None, "fr"]


def test_signals_count_what_is_in_the_text() -> None:
    shown = r"<p>\(a\) and \(b\)</p><pre>abc</pre><pre>de</pre>"
    found = extract(pa.array([shown, f"<p>{PROSE}</p><nav>{shown}</nav>", ""]))
    assert found.formulas_N.tolist() == [2, 0, 0]
    assert found.code_blocks_N.tolist() == [2, 0, 0]
    assert found.code_chars_N.tolist() == [5, 0, 0]
    assert {a.dtype for a in (found.formulas_N, found.code_blocks_N, found.code_chars_N)} == {np.dtype(np.int32)}


def test_types_and_nothing() -> None:
    for kind in (pa.string(), pa.large_string()):
        found = extract(pa.array([None, "", "<p>x"], kind))
        assert (found.text.type, found.title.type, found.declared.type) == (pa.large_string(), pa.string(), pa.string())
        assert found.text.to_pylist() == ["", "", "x\n"]
    assert len(extract(pa.array([], pa.string())).text) == 0


# ---- laws ----------------------------------------------------------------------------------------------------------------

# What pages are made of, cut where it hurts.
TAGS = r"""<p> </p> <pre> </pre> <code> </code> <math> </math> <mi> <mfrac> <msup> </mfrac> <mover> <mtable> <table> <tr> <td>
</table> <ul> <ol> <li> </ul> <a|href=x> </a> <div|class=sidebar> </div> <span|hidden> <script|type=math/tex> <script> </script>
<!-- --> <![CDATA[ ]]>
<svg> </svg> <br> <sup> </sup> <title> </title> <textarea> <annotation|encoding=application/x-tex> <h2> </h2>
<img|alt=\frac|class=latex> <i|class="highlight <b|class=MathJax|data-mathml="&lt;math&gt;&lt;mi&gt;x">"""
OTHERS = r"""< > </ <! <? = " ' ` ``` { } & $ $$ ^ _ \ \( \) \[ \] \begin{a} \end{a} &amp; &#0; &#x110000; &#xD800; &nbsp &lt
&notin; é € 𝄞 α x 1"""
PIECES = st.sampled_from([*(tag.replace("|", " ") for tag in TAGS.split()), *OTHERS.split(), *"\0\r\n\t\u00a0\u200b "])
MARKUP = st.one_of(
    st.text(max_size=200), st.lists(PIECES, max_size=40).map("".join), st.lists(PIECES, max_size=40).map(" ".join)
)


def rows(found: Extracted) -> list[tuple[object, ...]]:
    return list(zip(*(column.to_pylist() if isinstance(column, pa.Array) else column.tolist() for column in found)))


@settings(max_examples=600, deadline=None)
@given(st.lists(MARKUP, max_size=4))
def test_anything_gives_valid_text(pages: list[str]) -> None:
    found = extract(pa.array(pages, pa.string()))
    for column in (found.text, found.title):
        column.validate(full=True)  # UTF-8
        for text in column.to_pylist():
            assert not text or not any(byte in text for byte in "\0\x1b\r\x7f")
    for text in found.text.to_pylist():
        assert text == "" or (text.endswith("\n") and text.strip())
    assert rows(extract(pa.array(pages, pa.string()))) == rows(found)  # twice the same


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.none(), MARKUP), min_size=1, max_size=5), st.data())
def test_a_page_does_not_depend_on_its_batch(pages: list[str | None], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(pages) - 1))
    array = pa.array(pages, pa.large_string())
    assert rows(extract(array.slice(start))) == rows(extract(array))[start:]
    assert rows(extract(pa.array([pages[start]], pa.string()))) == [rows(extract(array))[start]]


@settings(max_examples=300, deadline=None)
@given(
    st.text(
        st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zs", "Zl", "Zp"], exclude_characters="$\\"),
        min_size=1,
        max_size=80,
    )
)
def test_plain_text_comes_back(text: str) -> None:
    assert text_of(f"<p>{entities.escape(text)}</p>") == text + "\n"


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zs", "Zl", "Zp"]) | st.sampled_from(" \n\t"), max_size=80))
def test_code_comes_back(code: str) -> None:
    code = "x" + code + "x"
    found = text_of(f"<pre>{entities.escape(code)}</pre>")
    assert found.strip("`\n") == code.strip("`\n")
    assert f"\n{code}\n" in found
