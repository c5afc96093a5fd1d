"""Code: one fixture per way of marking it up, with the block that must stand in the text, every space of it."""

from __future__ import annotations

import pyarrow as pa
import pytest

from corpus.extract import extract

ROWS = '<tr><td class="blob-num" data-line-number="{}"></td><td class="blob-code">{}</td></tr>'

# name -> (markup, language, code)
FIXTURES = {
    "language in the class of <code>": (
        '<pre><code class="language-python">def f(x):\n    return {"a": x}\n\n\ty = 1 &lt; 2\n</code></pre>',
        "python",
        'def f(x):\n    return {"a": x}\n\n\ty = 1 < 2',
    ),
    "lang- of Prettify": ('<pre class="prettyprint lang-js">a;\n  b;</pre>', "js", "a;\n  b;"),
    "SyntaxHighlighter": ('<pre class="brush: java; gutter: true">class A {\n}</pre>', "java", "class A {\n}"),
    "highlight.js": (
        '<pre><code class="hljs cpp"><span class="hljs-keyword">int</span> i;\n  i++;</code></pre>',
        "cpp",
        "int i;\n  i++;",
    ),
    "Sphinx": (
        '<div class="highlight-c notranslate"><div class="highlight"><pre><span></span>'
        '<span class="k">int</span> main<span>()</span>\n'
        "{\n  return 0;\n}\n</pre></div></div>",
        "c",
        "int main()\n{\n  return 0;\n}",
    ),
    "no language": ('<div class="highlight-default notranslate"><div class="highlight"><pre>x\n</pre></div></div>', "", "x"),
    "GitHub's Markdown": ('<div class="highlight highlight-source-rust"><pre>fn f() {}</pre></div>', "rust", "fn f() {}"),
    "data-lang": ('<pre><code data-lang="Go">x := 1</code></pre>', "go", "x := 1"),
    "a table with a gutter": (
        '<table class="highlighttable"><tr><td class="linenos"><div class="linenodiv"><pre>1\n2</pre></div></td>'
        '<td class="code"><div class="highlight"><pre>a = 1\n  b = 2\n</pre></div></td></tr></table>',
        "",
        "a = 1\n  b = 2",
    ),
    "Rouge": (
        '<div class="language-ruby highlighter-rouge"><div class="highlight"><table class="rouge-table"><tbody><tr>'
        '<td class="rouge-gutter gl"><pre class="lineno">1\n2\n</pre></td><td class="rouge-code"><pre>def a\n  1\n</pre></td>'
        "</tr></tbody></table></div></div>",
        "ruby",
        "def a\n  1",
    ),
    "numbers in spans": (
        '<div class="highlight"><pre><span class="lineno">1 </span>a\n<span class="lineno">2 </span>  b\n</pre></div>',
        "",
        "a\n  b",
    ),
    "a row per line": (
        '<table class="highlight js-file-line-container"><tbody>'
        + ROWS.format(1, "def a")
        + ROWS.format(2, "  b")
        + "</tbody></table>",
        "",
        "def a\n  b",
    ),
    "<br> ends a line, no-break spaces indent": ("<pre>a<br>&nbsp;&nbsp;b\u00a0c<br/></pre>", "", "a\n  b c"),
    "an element per line": ('<pre><div class="line">one</div><div class="line">  two</div></pre>', "", "one\n  two"),
    "an element per line, with line ends": ("<pre><div>one\n</div><div>  two\n</div></pre>", "", "one\n  two"),
    "a copy button": ('<div class="highlight"><pre><button class="copybtn">Copy</button>code</pre></div>', "", "code"),
    "links inside": ('<pre><a href="#f">f</a>(<a href="#x">x</a>)</pre>', "", "f(x)"),
    "Windows and old Mac line ends": ("<pre>a\r\n  b\rc</pre>", "", "a\n  b\nc"),
    "the first line break goes, blank lines at the ends too": ("<pre>\n\n  a\n\n</pre>", "", "  a"),
    "markup as references": ("<pre>&lt;p class=&quot;x&quot;&gt;&amp;nbsp;&lt;/p&gt;</pre>", "", '<p class="x">&nbsp;</p>'),
    "a < that opens nothing": ("<pre>a < b && c << 2</pre>", "", "a < b && c << 2"),
    "a prompt is code": ("<pre>&gt;&gt;&gt; 1\n1\n$ ls</pre>", "", ">>> 1\n1\n$ ls"),
    "no white space is lost at the end of a line": ("<pre>a  \n b</pre>", "", "a  \n b"),
}


@pytest.mark.parametrize("name", FIXTURES)
def test_code_blocks(name: str) -> None:
    html, language, code = FIXTURES[name]
    found = extract(pa.array([f"<p>Before it.</p>{html}<p>After it.</p>"]))
    assert str(found.text[0]) == f"Before it.\n\n```{language}\n{code}\n```\n\nAfter it.\n"
    assert found.code_blocks_N[0] == 1
    assert found.code_chars_N[0] == len(code)


def test_a_fence_is_longer_than_the_backticks_inside() -> None:
    assert str(extract(pa.array(["<pre>```\na\n````</pre>"])).text[0]) == "`````\n```\na\n````\n`````\n"


def test_characters_of_code_are_characters() -> None:
    assert extract(pa.array(["<pre>é€𝄞</pre>"])).code_chars_N[0] == 3


def test_inline_code() -> None:
    html = "<p>Use <code>x = {1}</code>, <code>a`b</code>, <tt>t</tt> and <code> </code>.</p>"
    found = extract(pa.array([html]))
    assert str(found.text[0]) == "Use `x = {1}`, `` a`b ``, `t` and .\n"
    assert found.code_blocks_N[0] == 0


def test_the_language_of_one_block_is_not_that_of_the_next() -> None:
    html = '<pre><code class="language-c">a</code></pre><pre>b</pre><div class="language-js"><pre>c</pre></div><pre>d</pre>'
    assert [
        line for line in str(extract(pa.array([html])).text[0]).split("\n") if line.startswith("```") and line != "```"
    ] == ["```c", "```js"]


def test_code_in_a_list_item_keeps_its_indentation() -> None:
    html = "<ol><li>First:<pre>if a:\n    b</pre></li><li>Second.</li></ol>"
    assert "\nif a:\n    b\n" in str(extract(pa.array([html])).text[0])
