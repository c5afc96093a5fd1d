"""extract_text beside trafilatura, resiliparse and BeautifulSoup: speed, formulae and code kept, boilerplate left out.

The quality rows need the real pages of CORPUS_DATA. What a page holds is found by lxml, apart from our code:

- a formula is the source of a MathJax script, a TeX annotation, an alttext, the alt of a formula's image, or text between
  \\(…\\), \\[…\\], $$…$$ or \\begin{equation} and its like, outside code, navigation and footers; kept = its source, white
  space apart, is in the text
- a line of code is a line of a <pre> that is not blank, outside navigation, footers and line numbers; kept = a line of the text
- phrases that must and must not be in the text, and whole bodies, are labels that come with some of the pages
"""

from __future__ import annotations

import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import lxml.html
import pyarrow as pa
import pyarrow.compute as pc
import zstandard

from bench.measure import Row, Sample, rate
from corpus.extract import extract

Page = dict[str, Any]
_BESIDE = "ancestor-or-self::nav or ancestor-or-self::footer or ancestor-or-self::aside or ancestor-or-self::header or " \
    "ancestor-or-self::*[@role='navigation' or @hidden or @aria-hidden='true']"  # fmt: skip
_RAW = re.compile(
    r"\\\((.+?)\\\)|\\\[(.+?)\\\]|\$\$(.+?)\$\$|\\begin\{((?:equation|align|gather|eqnarray|multline)\*?)\}(.+?)\\end\{\4\}",
    re.S,
)
_GUTTER = re.compile(r"\b(lineno|linenos|gutter|line-numbers-rows|linenodiv|rouge-gutter|blob-num)\b")


def real_pages() -> list[Page]:
    """The labelled pages of CORPUS_DATA; none where it is not set."""
    where = os.environ.get("CORPUS_DATA")
    if not where:
        return []
    with open(Path(where) / "html" / "pages.jsonl.zst", "rb") as file:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
        return [json.loads(line) for line in lines]


def tree_of(html: str) -> Any:
    parser = lxml.html.HTMLParser(encoding="utf-8", huge_tree=True)
    return lxml.html.document_fromstring(html.encode() or b"<html></html>", parser=parser)


def formulas_of(tree: Any) -> list[str]:
    """LaTeX sources marked up in the page; a source standing twice counts twice."""
    found = [e.text or "" for e in tree.xpath(f"//script[starts-with(@type, 'math/tex')][not({_BESIDE})]")]
    for element in tree.xpath("//math"):
        notes = element.xpath(".//annotation[contains(@encoding, 'tex') or contains(@encoding, 'TeX')]")
        found.append((notes[0].text_content() if notes else element.get("alttext")) or "")
    found += [
        e.get("alt") or "" for e in tree.xpath("//img[contains(@class, 'mwe-math-fallback') or @class='tex' or @class='latex']")
    ]
    for element in tree.xpath(
        f"//body//*[self::script or self::style or self::pre or self::code or self::textarea or self::math or {_BESIDE}]"
    ):
        if element.getparent() is not None:
            element.drop_tree()
    bodies = tree.xpath("//body")
    for match in _RAW.finditer(bodies[0].text_content() if bodies else ""):
        if "\n\n" not in match.group():
            found.append(match.group())
    return [text for source in found if (text := squeezed(source))]


def squeezed(text: str) -> str:
    """Without white space, and without what has no width."""
    return re.sub(r"[\s\u200b\ufeff\u00ad]+", "", text)


def code_lines_of(tree: Any) -> list[str]:
    """Lines of <pre> that are not blank; a <br> and the elements that are blocks end a line."""
    lines: list[str] = []
    for pre in tree.xpath(f"//pre[not({_BESIDE}) and not(ancestor::pre)]"):
        classes = " ".join(e.get("class") or "" for e in [pre, *pre.iterancestors("td", "th")])
        if _GUTTER.search(classes) and pre.tag == "pre" and not re.search(r"language-|lang-|code", classes):
            continue
        for element in pre.iterdescendants():
            if isinstance(element.tag, str) and (_GUTTER.search(element.get("class") or "") or element.get("aria-hidden")):
                element.text = ""
                for child in list(element):
                    element.remove(child)
            if element.tag == "br":
                element.tail = "\n" + (element.tail or "")
            if element.tag in ("div", "li", "p", "tr"):
                element.tail = "\n" + (element.tail or "")
        text = pre.text_content().replace("\r\n", "\n").replace("\r", "\n").replace("\xa0", " ").replace("\u200b", "")
        lines += [line.rstrip() for line in text.split("\n") if line.strip()]
    return lines


def kept_formulas(pages: Iterable[Page], texts: Iterable[str]) -> tuple[int, int]:
    """(kept, marked up)."""
    kept = total = 0
    for page, text in zip(pages, texts, strict=True):
        sources = formulas_of(tree_of(page["html"]))
        if sources:
            whole = squeezed(text)
            kept += sum(source in whole for source in sources)
            total += len(sources)
    return kept, total


def kept_code(pages: Iterable[Page], texts: Iterable[str]) -> tuple[int, int]:
    """(lines kept with their indentation, lines); a line standing twice in the page must stand twice in the text."""
    kept = total = 0
    for page, text in zip(pages, texts, strict=True):
        lines = Counter(code_lines_of(tree_of(page["html"])))
        kept += (lines & Counter(line.rstrip() for line in text.split("\n"))).total()
        total += lines.total()
    return kept, total


def boilerplate(pages: Iterable[Page], texts: Iterable[str]) -> tuple[float, float, float]:
    """(share of the phrases kept that must be, share found that must not be, mean F1 of words with the whole body)."""
    counts = Counter[str]()
    scores = []
    for page, text in zip(pages, texts, strict=True):
        flat = " ".join(text.split())
        for field in ("gt_with", "gt_without"):
            for phrase in page.get(field) or []:
                counts[field] += 1
                counts[field + "_found"] += " ".join(phrase.split()) in flat
        if page.get("gt_body"):
            scores.append(word_f1(text, page["gt_body"]))
    kept, left = (counts[f + "_found"] / max(1, counts[f]) for f in ("gt_with", "gt_without"))
    return kept, left, sum(scores) / max(1, len(scores))


def word_f1(text: str, body: str) -> float:
    ours, theirs = (Counter(re.findall(r"\w+", t)) for t in (text, body))
    common = (ours & theirs).total()
    return 2 * common / max(1, ours.total() + theirs.total())


def by_us(pages: list[str]) -> list[str]:
    return extract(pa.array(pages, pa.large_string())).text.to_pylist()


def by_trafilatura(pages: list[str]) -> list[str]:
    import trafilatura

    return [trafilatura.extract(page, include_comments=True, include_tables=True) or "" for page in pages]


def by_resiliparse(pages: list[str]) -> list[str]:
    from resiliparse.extract.html2text import extract_plain_text

    return [extract_plain_text(page, main_content=True, preserve_formatting=True) for page in pages]


def by_soup(pages: list[str]) -> list[str]:
    from bs4 import BeautifulSoup

    return [BeautifulSoup(page, "html.parser").get_text() for page in pages]


def by_lexbor(pages: list[str]) -> list[str]:
    """A bare parse: what a tree costs before anything is done with it."""
    from selectolax.lexbor import LexborHTMLParser

    for page in pages:
        LexborHTMLParser(page)
    return []


PEERS: dict[str, Callable[[list[str]], list[str]]] = {
    "trafilatura": by_trafilatura, "resiliparse main content": by_resiliparse, "BeautifulSoup get_text": by_soup,
}  # fmt: skip


def bench(sample: Sample) -> list[Row]:
    pages = real_pages()
    html = [page["html"] for page in pages] or _pages_of(sample)
    if not html:
        return []
    array = pa.array(html, pa.large_string())
    size = int(pc.sum(pc.binary_length(array)).as_py())
    few = html[:: max(1, round(size / 6e6))]
    few_size = sum(len(page.encode()) for page in few)
    peers = {name: rate(partial(function, few), few_size, repeats=1) for name, function in PEERS.items()}
    peers["floor: a bare Lexbor parse"] = rate(partial(by_lexbor, html), size)
    rows = [
        Row(
            "extract_text",
            "HTML to text, formulae and code kept",
            rate(lambda: extract(array), size),
            peers,
            quality(pages[::6], by_us),
        )
    ]
    rows += [
        Row("extract_text", f"the same by {name}", peers[name], {}, quality(pages[::6], f))
        for name, f in list(PEERS.items())[:2]
    ]
    return rows


def quality(pages: list[Page], function: Callable[[list[str]], list[str]]) -> str:
    """One line: formulae and code lines kept, phrases and F1."""
    texts = function([page["html"] for page in pages])
    formulas, code, (kept, left, f1) = kept_formulas(pages, texts), kept_code(pages, texts), boilerplate(pages, texts)
    return (
        f"formulae {formulas[0] / max(1, formulas[1]):.1%} of {formulas[1]}, "
        f"code lines {code[0] / max(1, code[1]):.1%} of {code[1]}, "
        f"phrases wanted {kept:.1%}, unwanted {left:.1%}, F1 of bodies {f1:.3f}"
    )


def _pages_of(sample: Sample) -> list[str]:
    return [t for b in sample.batches for t in b.column("text").filter(pc.equal(b.column("lang"), "HTML")).to_pylist()]
