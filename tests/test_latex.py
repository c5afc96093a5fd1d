"""Formulae: one fixture per kind of markup that pages write them in, with the LaTeX that must stand in the text."""

from __future__ import annotations

import pyarrow as pa
import pytest

from corpus.extract import extract

KATEX = (
    '<span class="katex"><span class="katex-mathml"><math><semantics><mrow><mi>x</mi></mrow>'
    '<annotation encoding="application/x-tex">{source}</annotation></semantics></math></span>'
    '<span class="katex-html" aria-hidden="true"><span class="mord">x1</span></span></span>'
)
WIKIPEDIA = (
    '<span class="mwe-math-element"><span class="mwe-math-mathml-inline mwe-math-mathml-a11y" style="display: none;">'
    '<math alttext="{{\\displaystyle {0}}}"><semantics><mrow><mi>E</mi></mrow>'
    '<annotation encoding="application/x-tex">{{\\displaystyle {0}}}</annotation></semantics></math></span>'
    '<img src="https://wiki/svg/1" class="mwe-math-fallback-image-inline" alt="{{\\displaystyle {0}}}"></span>'
)


def text_of(html: str) -> str:
    return str(extract(pa.array([html])).text[0])


def formulas_of(html: str) -> int:
    return int(extract(pa.array([html])).formulas_N[0])


# name -> (markup, text, formulae)
FIXTURES = {
    "MathJax 2 script": (r'<p>A <script type="math/tex">x^2 < \frac{1}{2}</script> b.</p>', r"A $x^2 < \frac{1}{2}$ b.", 1),
    "MathJax 2 displayed": (
        r'<p>See</p><script type="math/tex; mode=display">\begin{aligned} a &= b \\ c &= d \end{aligned}</script><p>next.</p>',
        "See\n\n$$\\begin{aligned} a &= b \\\\ c &= d \\end{aligned}$$\n\nnext.",
        1,
    ),
    "MathJax 2 rendered: the rendering goes, the source stays": (
        '<p>E <span class="MathJax_Preview">e to the</span><span class="MathJax"><nobr>eiπ</nobr></span>'
        r'<script type="math/tex">e^{i\pi}</script>.</p>',
        r"E $e^{i\pi}$.",
        1,
    ),
    "MathJax 2 rendered with MathML in an attribute, no script": (
        '<p>E <span class="MathJax" data-mathml="&lt;math&gt;&lt;msup&gt;&lt;mi&gt;x&lt;/mi&gt;'
        '&lt;mn&gt;2&lt;/mn&gt;&lt;/msup&gt;&lt;/math&gt;"><nobr>x2</nobr></span> end.</p>',
        "E $x^{2}$ end.",
        1,
    ),
    "MathJax 3 with assistive MathML": (
        '<p>M <mjx-container class="MathJax"><mjx-math aria-hidden="true"><mjx-mi>x</mjx-mi></mjx-math><mjx-assistive-mml>'
        "<math><msub><mi>x</mi><mn>1</mn></msub></math></mjx-assistive-mml></mjx-container> end.</p>",
        "M $x_{1}$ end.",
        1,
    ),
    "KaTeX": (f"<p>K {KATEX.format(source='x_{1} &lt; 2')} end.</p>", "K $x_{1} < 2$ end.", 1),
    "KaTeX displayed": (
        f'<p>K <span class="katex-display">{KATEX.format(source="x_{1}")}</span> end.</p>',
        "K\n$$x_{1}$$\nend.",
        1,
    ),
    "MathML": (
        "<p>M <math><mfrac><mi>a</mi><msup><mi>b</mi><mn>2</mn></msup></mfrac></math> end.</p>",
        r"M $\frac{a}{b^{2}}$ end.",
        1,
    ),
    "MathML displayed": (
        '<p>M</p><math display="block"><mi>a</mi><mo>=</mo><mn>1</mn></math><p>end.</p>',
        "M\n\n$$a=1$$\n\nend.",
        1,
    ),
    "MathML with alttext": (r'<p>A <math alttext="\alpha+1"><mi>&beta;</mi></math> end.</p>', r"A $\alpha+1$ end.", 1),
    "MathML with an alttext in words": (
        '<p>A <math alttext="alpha plus one"><mi>&alpha;</mi><mo>+</mo><mn>1</mn></math> end.</p>',
        r"A $\alpha +1$ end.",
        1,
    ),
    "MathML with a prefix": ("<p>M <m:math><m:mi>a</m:mi></m:math> end.</p>", "M $a$ end.", 1),
    "inline, raw": (r"<p>inline \(a_{ij} &lt; b\) tail.</p>", r"inline \(a_{ij} < b\) tail.", 1),
    "displayed, raw": (r"<p>and \[ c = \{x\} \] tail.</p>", "and\n\\[ c = \\{x\\} \\]\ntail.", 1),
    "two dollars": (r"<p>and $$ \int_0^1 f $$ tail.</p>", "and\n$$ \\int_0^1 f $$\ntail.", 1),
    "one dollar": ("<p>where $x^2$ is.</p>", "where $x^2$ is.", 1),
    "prices are no formulae": ("<p>from $5 to $6, or $7.</p>", "from $5 to $6, or $7.", 0),
    "an environment, its lines kept": (
        "<p>\\begin{align}\n  a &amp;= b \\\\\n  c &amp;= d\n\\end{align}</p>",
        "\\begin{align}\na &= b \\\\\nc &= d\n\\end{align}",
        1,
    ),
    "nested environments": (
        r"<p>\begin{equation}\begin{cases}1\end{cases}\end{equation}</p>",
        r"\begin{equation}\begin{cases}1\end{cases}\end{equation}",
        1,
    ),
    "Wikipedia: once, not as MathML and as image": (
        f"<p>W {WIKIPEDIA.format('E=mc^{2}')} end.</p>",
        r"W ${\displaystyle E=mc^{2}}$ end.",
        1,
    ),
    "Wikipedia, old": (r'<p>O <img src="x.png" class="tex" alt="\sqrt{2}"> end.</p>', r"O $\sqrt{2}$ end.", 1),
    "WordPress": (
        '<p>P <img src="https://s0.wp.com/latex.php?latex=x%5E2%2B1&bg=ffffff" alt="x^2+1" class="latex" /> end.</p>',
        "P $x^2+1$ end.",
        1,
    ),
    "WordPress without alt": (
        '<p>P <img src="https://s0.wp.com/latex.php?latex=%5Calpha+%2B+1&bg=ffffff"> end.</p>',
        r"P $\alpha + 1$ end.",
        1,
    ),
    "CodeCogs": (
        r'<p>C <img src="https://latex.codecogs.com/gif.latex?%5Cfrac%7Ba%7D%7Bb%7D"> end.</p>',
        r"C $\frac{a}{b}$ end.",
        1,
    ),
    "LaTeX2HTML": (r'<p>L <img src="img1.png" alt="$x \leq y$"> end.</p>', r"L $x \leq y$ end.", 1),
    "a picture is none": ('<p>P <img src="cat.png" alt="a cat"> end.</p>', "P end.", 0),
    "a class that says LaTeX": (r'<p>T <span class="math">\sin x</span> end.</p>', r"T $\sin x$ end.", 1),
    "a class that says math around text": ('<p>T <span class="math">the proof</span> end.</p>', "T the proof end.", 0),
    "Pandoc": (r'<p>T <span class="math inline">\(x^2\)</span> end.</p>', r"T \(x^2\) end.", 1),
    "sup and sub": ("<p>x<sup>2</sup> + y<sub>i</sub> = 10<sup>-3</sup></p>", "x^{2} + y_{i} = 10^{-3}", 0),
    "notes and ordinals are no powers": (
        '<p>the 2<sup>nd</sup> note<sup><a href="#1">[1]</a></sup> Word<sup>3</sup></p>',
        "the 2nd note[1] Word3",
        0,
    ),
    "braces are never escaped": (r"<p>Sets {a, b}, \frac{1}{2} and a_b * c.</p>", r"Sets {a, b}, \frac{1}{2} and a_b * c.", 0),
    "a formula in a table cell": (r"<table><tr><td>a</td><td>$$x^2$$</td></tr></table>", "a | $$x^2$$", 1),
    "a formula in a heading": (r"<h2>On \(x\)</h2><p>Text.</p>", "## On \\(x\\)\n\nText.", 1),
    "delimiters inside code are code": (r"<p>Write <code>\(x\)</code> or <code>$$</code>.</p>", r"Write `\(x\)` or `$$`.", 0),
}


@pytest.mark.parametrize("name", FIXTURES)
def test_formulas(name: str) -> None:
    html, text, formulas = FIXTURES[name]
    assert text_of(html) == text + "\n"
    assert formulas_of(html) == formulas


# MathML -> LaTeX
CONVERSIONS = {
    "<msqrt><mi>x</mi><mo>+</mo><mn>1</mn></msqrt>": r"\sqrt{x+1}",
    "<mroot><mi>x</mi><mn>3</mn></mroot>": r"\sqrt[3]{x}",
    "<msubsup><mo>&int;</mo><mn>0</mn><mi>&infin;</mi></msubsup>": r"\int_{0}^{\infty}",
    "<msup><mrow><mo>(</mo><mi>a</mi><mo>)</mo></mrow><mn>2</mn></msup>": "{(a)}^{2}",
    "<mover><mi>x</mi><mo>&macr;</mo></mover>": r"\bar{x}",
    "<mover accent='true'><mi>x</mi><mo>→</mo></mover>": r"\vec{x}",
    "<munder><mi>lim</mi><mrow><mi>n</mi><mo>→</mo><mi>∞</mi></mrow></munder>": r"\lim_{n\rightarrow \infty}",
    "<munderover><mo>∑</mo><mrow><mi>i</mi><mo>=</mo><mn>1</mn></mrow><mi>n</mi></munderover>": r"\sum_{i=1}^{n}",
    "<mover><mo>=</mo><mi>def</mi></mover>": r"\overset{\mathrm{def}}=",
    "<mi>sin</mi><mi>x</mi>": r"\sin x",
    "<mi>speed</mi>": r"\mathrm{speed}",
    "<mi mathvariant='bold'>v</mi>": r"\mathbf{v}",
    "<mi mathvariant='double-struck'>R</mi>": r"\mathbb{R}",
    "<mi>ℝ</mi><mo>∈</mo><mi>𝒜</mi>": r"\mathbb{R}\in \mathcal{A}",
    "<mtext>if  x</mtext>": r"\text{if x}",
    "<mfenced><mi>a</mi><mi>b</mi></mfenced>": "(a,b)",
    "<mfenced open='[' close=']' separators=';'><mi>a</mi><mi>b</mi></mfenced>": "[a;b]",
    "<mtable><mtr><mtd><mn>1</mn></mtd><mtd><mn>2</mn></mtd></mtr><mtr><mtd><mn>3</mn></mtd></mtr></mtable>": (
        r"\begin{matrix}1 & 2 \\ 3\end{matrix}"
    ),
    "<mo>{</mo><mi>x</mi><mo>}</mo><mo>%</mo>": r"\{x\}\%",
    "<mi>a</mi><mo>&InvisibleTimes;</mo><mi>b</mi>": "ab",
    "<mi>a</mi><mo>&lt;</mo><mi>b</mi>": "a<b",
    "<mphantom><mi>x</mi></mphantom><mi>y</mi>": r"\phantom{x}y",
    "<mi>x</mi><annotation-xml><ci>no</ci></annotation-xml>": "x",
    "<mfrac><mi>a</mi></mfrac>": r"\frac{a}{}",  # the second child is missing
    "<mi>x</mi><foo>y</foo>": "xy",  # an element MathML does not know
    "</mfrac><mi>x</mi></mrow>": "x",  # closed and never opened
}


@pytest.mark.parametrize("markup", CONVERSIONS)
def test_mathml_becomes_latex(markup: str) -> None:
    assert text_of(f"<p>a <math>{markup}</math> b</p>") == f"a ${CONVERSIONS[markup]}$ b\n"


def test_a_formula_that_never_closes_ends_where_html_begins_again() -> None:
    assert text_of("<p>a <math><mi>x</mi><mo>+</p><p>the rest of the page</p>") == "a $x+$\n\nthe rest of the page\n"


def test_an_annotation_never_closed_does_not_eat_the_page() -> None:
    text = text_of('<p>a <math><annotation encoding="application/x-tex">x^2</p><p>the rest of the page</p>')
    assert "x^2" in text and "the rest of the page" in text


@pytest.mark.parametrize("empty", ["<math></math>", '<script type="math/tex"></script>', '<img class="latex" alt="">'])
def test_an_empty_formula_is_nothing(empty: str) -> None:
    assert text_of(f"<p>a {empty} b</p>") == "a b\n"
    assert formulas_of(f"<p>a {empty} b</p>") == 0
