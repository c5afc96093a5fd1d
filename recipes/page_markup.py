"""Documentation text → the HTML of a page, as made-up sites of different make would serve it.

`rendered` reads what docstrings and READMEs are written in: paragraphs, headings, lists, definitions, literal blocks,
doctests, fences, the directives `math` and `code-block`, roles, inline literals. It reads them loosely: what it does not know
becomes a paragraph. Formulae come out in one of STYLES, which are those met on the web; `page_of` puts a body into one of
LOOKS, with the navigation, sidebar and footer a page has around what it says.
"""

from __future__ import annotations

import html
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import NamedTuple

__all__ = ["LOOKS", "STYLES", "Markup", "formula", "formulas_in", "page_of", "rendered"]

STYLES = ("mathjax", "katex", "mathml", "brackets", "dollars", "wikipedia", "wordpress")
LOOKS = ("reference", "application", "forum", "blog")

_HEADING = re.compile(r"([=\-~^\"'#*+])\1{2,}\s*$")
_HASHES = re.compile(r"(#{1,5}) +(.*)")
_ITEM = re.compile(r"(?:[-*+•]|(\d{1,2})[.)]) +(?=\S)")
_DIRECTIVE = re.compile(r"\.\. *([\w-]+) *:: *(.*)")
_REFERENCE = re.compile(r"\.\. (?:\[(\w+)\]|_[^:]*:) *(.*)")
_FENCE = re.compile(r"(?:```|~~~) *([\w+#.-]*)")
_INLINE = re.compile(
    r"``(?P<literal>[^`]+)``"
    r"|:math:`(?P<math>[^`]+)`"
    r"|:[\w:.+-]+:`(?P<role>[^`]+)`"
    r"|`(?P<link>[^`<]+) <(?P<target>[^`>]+)>`__?"
    r"|\[(?P<label>[^\]\n]+)\]\((?P<address>https?:[^)\s]+)\)"
    r"|`(?P<plain>[^`\n]+)`_{0,2}"
    r"|\$\$(?P<block>[^$]+)\$\$"
    r"|(?<![\w$\\])\$(?P<dollar>[^$\s](?:[^$\n]{0,200}?[^$\s])?)\$(?![\w$])"
    r"|\*\*(?P<strong>[^*\n]+)\*\*"
    r"|(?<![\w*])\*(?P<em>[^*\s](?:[^*\n]*[^*\s])?)\*(?![\w*])"
    r"|(?P<url>https?://[^\s<>\")\]]+)"
)
_FORMULA = re.compile(r"<annotation|math/tex|\\\(|\\\[|mwe-math|class=\"latex\"|\$[^$]+\$")
_TEX = re.compile(r"\\[A-Za-z]+|[A-Za-z]|\d+(?:\.\d+)?|\S")
_CODE = re.compile(r"[\w.]+\(.*\)|[\w.]*_[a-z]\w+|[a-z_]\w*(?:\.\w+)+|[A-Za-z]{3,}\w*|.*(?:==|\*\*|\[|'|\").*")


class Markup(NamedTuple):
    """How a site writes. style: of STYLES; math: whether text in single backticks is a formula, as sympy and mpmath mean it."""

    style: str
    math: bool = False


def formula(tex: str, style: str, display: bool = False) -> str:
    """A formula as a site of that style has it in its HTML. MathML and KaTeX carry the LaTeX as an annotation."""
    tex = " ".join(tex.split())
    safe = html.escape(tex, quote=True)
    if style == "mathjax":
        return f'<script type="math/tex{"; mode=display" if display else ""}">{tex.replace("</", "< /")}</script>'
    if style == "brackets":
        return rf"\[{safe}\]" if display else rf"\({safe}\)"
    if style == "dollars":
        return f"$${safe}$$" if display else f"${safe}$"
    if style == "wikipedia":
        alt = f"{{\\displaystyle {safe}}}"
        return f'<img src="/media/math/render/svg/{len(tex):x}" class="mwe-math-fallback-image-inline" alt="{alt}">'
    if style == "wordpress":
        return f'<img src="/latex.php?latex={len(tex)}&amp;fg=000" alt="{safe}" title="{safe}" class="latex">'
    shown = "".join(_element(token) for token in _TEX.findall(tex))
    block = ' display="block"' if display else ""
    math = (
        f'<math xmlns="http://www.w3.org/1998/Math/MathML"{block}><semantics><mrow>{shown}</mrow>'
        f'<annotation encoding="application/x-tex">{safe}</annotation></semantics></math>'
    )
    if style == "mathml":
        return math
    visible = html.escape(re.sub(r"[\\{}^_]", " ", tex))
    visible = f'<span class="katex-html" aria-hidden="true">{visible}</span>'
    inner = f'<span class="katex"><span class="katex-mathml">{math}</span>{visible}</span>'
    return f'<span class="katex-display">{inner}</span>' if display else inner


def formulas_in(body: str) -> int:
    """About how many formulae are in HTML made here, whatever the style."""
    return len(_FORMULA.findall(body))


def _element(token: str) -> str:
    """One token of LaTeX in MathML: near enough, the annotation says what is meant."""
    if token in "{}^_&":
        return ""
    name = html.escape(token.lstrip("\\") or "\\")
    return f"<mn>{name}</mn>" if token[0].isdigit() else f"<mi>{name}</mi>" if token[-1].isalpha() else f"<mo>{name}</mo>"


def rendered(text: str, markup: Markup) -> str:
    """The HTML of a documentation text, whatever the text."""
    return "\n".join(_blocks(inspect.cleandoc(text.expandtabs(4)).split("\n"), markup, 2, 0))


def _blocks(lines: list[str], markup: Markup, level: int, depth: int) -> Iterator[str]:
    i = 0
    while i < len(lines):
        line = lines[i]
        if not line.strip():
            i += 1
        elif (found := _FENCE.match(line.strip())) is not None:
            stop = next((k for k in range(i + 1, len(lines)) if lines[k].strip()[:3] == line.strip()[:3]), len(lines))
            yield _code(lines[i + 1 : stop], found[1] or "text")
            i = stop + 1
        elif i + 1 < len(lines) and _HEADING.match(lines[i + 1]) and not _HEADING.match(line) and len(line) < 120:
            yield f"<h{level}>{inline(line.strip(), markup)}</h{level}>"
            i += 2
        elif (found := _HASHES.match(line)) is not None:
            yield f"<h{len(found[1]) + 1}>{inline(found[2], markup)}</h{len(found[1]) + 1}>"
            i += 1
        elif line.lstrip().startswith(">>>"):
            stop = _until(lines, i, lambda k: not lines[k].strip())
            yield _code(lines[i:stop], "python")
            i = stop
        elif line.lstrip().startswith(".. "):
            stop = _below(lines, i + 1, _indent(line))
            yield from _directive(line.strip(), lines[i + 1 : stop], markup, level, depth)
            i = stop
        elif _HEADING.match(line) and i + 1 < len(lines):  # a rule above a title, or of a table
            i += 1
        else:
            i, made = _paragraph(lines, i, markup, level, depth)
            yield made


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _until(lines: list[str], i: int, ends: Callable[[int], bool]) -> int:
    while i < len(lines) and not ends(i):
        i += 1
    return i


def _below(lines: list[str], i: int, indent: int) -> int:
    """The first line from i on that is not blank and not set in deeper than `indent`."""
    return _until(lines, i, lambda k: bool(lines[k].strip()) and _indent(lines[k]) <= indent)


def _paragraph(lines: list[str], i: int, markup: Markup, level: int, depth: int) -> tuple[int, str]:
    """(the line after, HTML) of the paragraph, list item, definition or literal block that begins at line i."""
    line, indent = lines[i], _indent(lines[i])
    item = _ITEM.match(line.lstrip())
    stop = _until(lines, i + 1, lambda k: not lines[k].strip() or _indent(lines[k]) != indent or _begins(lines[k], item))
    if item is not None:
        stop = _below(lines, i + 1, indent)
        inner = [line.lstrip()[item.end() :], *textwrap.dedent("\n".join(lines[i + 1 : stop])).split("\n")]
        body = "\n".join(_blocks(inner, markup, level, depth + 1)) if depth < 6 else inline(" ".join(inner), markup)
        tag = "ol" if item[1] else "ul"
        return stop, f"<{tag}><li>{body}</li></{tag}>"
    said = " ".join(part.strip() for part in lines[i:stop])
    below = _below(lines, stop, indent)
    block = textwrap.dedent("\n".join(lines[stop:below])).strip("\n").split("\n")
    if said.endswith("::"):
        return below, f"<p>{inline(said[:-1], markup)}</p>" + (_code(block, "python") if any(block) else "")
    if stop < len(lines) and lines[stop].strip() and _indent(lines[stop]) > indent and depth < 6:
        body = "\n".join(_blocks(block, markup, level, depth + 1))
        return below, f"<dl><dt>{inline(said, markup)}</dt><dd>{body}</dd></dl>"
    return stop, f"<p>{inline(said, markup)}</p>"


def _begins(line: str, item: re.Match[str] | None) -> bool:
    """Whether a line begins something of its own in the middle of a paragraph."""
    start = line.lstrip()
    return start.startswith((">>>", ".. ", "```")) or (item is None and _ITEM.match(start) is not None)


def _directive(line: str, block: list[str], markup: Markup, level: int, depth: int) -> Iterator[str]:
    block = textwrap.dedent("\n".join(block)).strip("\n").split("\n")
    found = _DIRECTIVE.match(line)
    if found is None:
        if (reference := _REFERENCE.match(line)) is not None and reference[2]:
            yield f'<p class="reference">{inline(" ".join([reference[2], *map(str.strip, block)]), markup)}</p>'
        return
    name, given = found[1], found[2]
    content = [b for b in block if not re.match(r":[\w-]+:", b)]
    if name == "math":
        for part in re.split(r"\n\s*\n", "\n".join([given, *content])):
            if part.strip():
                yield f"<div>{formula(part, markup.style, display=True)}</div>"
    elif name in ("code-block", "code", "sourcecode", "plot", "testcode", "ipython", "doctest"):
        yield _code(content, given.strip() if given.strip().isalpha() else "python")
    elif depth < 6:
        kind = html.escape(name)
        inner = "\n".join(_blocks(content, markup, level, depth + 1))
        head = f"<p>{inline(given, markup)}</p>" if given else ""
        yield f'<div class="admonition {kind}"><p class="admonition-title">{kind.capitalize()}</p>{head}{inner}</div>'


def _code(lines: list[str], lang: str) -> str:
    text = textwrap.dedent("\n".join(lines)).strip("\n")
    return f'<pre><code class="language-{html.escape(lang.lower())}">{html.escape(text, quote=False)}</code></pre>'


def inline(text: str, markup: Markup) -> str:
    """Roles, literals, formulae, emphasis and links of one paragraph."""
    out, at = [], 0
    for found in _INLINE.finditer(text):
        out.append(html.escape(text[at : found.start()], quote=False))
        out.append(_inline(found, markup))
        at = found.end()
    out.append(html.escape(text[at:], quote=False))
    return "".join(out)


def _inline(found: re.Match[str], markup: Markup) -> str:
    kind, value = found.lastgroup or "", found[found.lastgroup or 0]
    if kind in ("math", "dollar", "block"):
        return formula(value, markup.style, display=kind == "block")
    if kind == "plain" and markup.math and not _CODE.fullmatch(value):
        return formula(value, markup.style)
    if kind in ("literal", "plain"):
        return f"<code>{html.escape(value, quote=False)}</code>"
    if kind == "role":
        short = re.sub(r"\s*<.*>$", "", value).rpartition(".")[2] if value.startswith("~") else value
        return f'<a class="reference internal" href="#{html.escape(short)}"><code>{html.escape(short.lstrip("~!"))}</code></a>'
    if kind in ("target", "address", "url"):
        label = found["link"] or found["label"] or value
        return f'<a href="{html.escape(value)}">{html.escape(label, quote=False)}</a>'
    return f"<{kind}>{html.escape(value, quote=False)}</{kind}>"


def page_of(look: str, domain: str, title: str, body: str, nav: list[str], lang: str = "en", charset: str = "utf-8") -> str:
    """A whole page: `body` with a site of that look around it. nav: titles of other pages."""
    name = domain.split(".")[0].capitalize() if domain.count(".") < 2 else domain.split(".")[-2].capitalize()
    shown, links = html.escape(title, quote=False), [html.escape(n, quote=False) for n in nav]
    menu = "".join(f'<li><a href="/{n}">{n}</a></li>' for n in links)
    head = (
        f'<!DOCTYPE html>\n<html lang="{lang}"><head><meta charset="{charset}"><title>{shown} — {name}</title>'
        f'<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="/static/site.css">'
        f"<script>window.dataLayer = window.dataLayer || []; function track(a) {{ dataLayer.push(a); }}</script></head>"
    )
    search = '<form action="/search"><input name="q" placeholder="Search"></form>'
    top = f'<header><a class="brand" href="/">{name}</a>{search}</header>'
    foot = f"<footer><p>Copyright the {name} contributors. Cookie preferences. Terms of use. Privacy.</p></footer>"
    if look == "reference":
        side = f'<div class="sphinxsidebar" role="navigation"><h3>Navigation</h3><ul>{menu}</ul><h3>Quick search</h3></div>'
        main = f'<div class="body" role="main"><section id="top"><h1>{shown}</h1>\n{body}\n</section></div>'
        return f'{head}<body>{top}<div class="document">{main}</div>{side}{foot}</body></html>\n'
    if look == "application":
        side = f'<nav aria-label="Docs sidebar"><ul>{menu}</ul></nav>'
        main = f"<main><article><h1>{shown}</h1>\n{body}\n</article><a href='#'>Previous</a> <a href='#'>Next</a></main>"
        return f'{head}<body><div id="root">{top}{side}{main}{foot}</div></body></html>\n'
    if look == "forum":
        votes = '<div class="votecell"><span class="vote-count">{}</span><button>Share</button><button>Follow</button></div>'
        first, *others = body.split("\n", 2)
        question, answer = first + "".join(others[:1]), "".join(others[1:])
        post = f'<div class="question">{votes.format(len(body) % 90)}<div class="post-body">{question}</div></div>'
        reply = f'<h2>Answers</h2><div class="answer">{votes.format(len(title))}<div class="post-body">{answer}</div></div>'
        side = f'<aside class="related"><h4>Related questions</h4><ul>{menu}</ul></aside>'
        return f"{head}<body>{top}<div id='mainbar'><h1>{shown}</h1>{post}{reply}</div>{side}{foot}</body></html>\n"
    share = '<div class="share">Share this: <a href="#">by mail</a> <a href="#">elsewhere</a></div>'
    recent = f'<aside><h3>Recent posts</h3><ul>{menu}</ul></aside><div class="comments"><h3>Leave a reply</h3></div>'
    post = f'<article class="post"><h1 class="entry-title">{shown}</h1>{body}{share}</article>'
    return f'{head}<body class="single">{top}{post}{recent}{foot}</body></html>\n'
