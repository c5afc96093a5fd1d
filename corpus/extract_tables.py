"""What the extraction kernels look things up in: element names, attributes, class words, character references, LaTeX symbols.

Names are found by a 64-bit hash of their lower-case bytes, salted by kind, in one open-addressed table. The name itself is not
kept, so two names of one hash would be one; the builder refuses that among the names known here.
"""

from __future__ import annotations

import functools
import html.entities
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from corpus.latex_symbols import FUNCTIONS, SYMBOLS

__all__ = ["Tables", "byte_kinds", "hash_name", "tables"]

_MASK = (1 << 64) - 1
START, PRIME = 0xCBF29CE484222325, 0x100000001B3  # FNV-1a
SALT = 0x9E3779B97F4A7C15

# ---- elements: number and what they do -----------------------------------------------------------------------------------
# fmt: off
(T_OTHER, T_A, T_SPAN, T_P, T_DIV, T_LI, T_UL, T_OL, T_DL, T_DT, T_DD, T_TABLE, T_TR, T_TD, T_TH, T_CAPTION, T_PRE, T_CODE,
 T_SUP, T_SUB, T_BR, T_HR, T_IMG, T_MATH, T_SCRIPT, T_STYLE, T_TITLE, T_TEXTAREA, T_H, T_QUOTE, T_NAV, T_FOOTER, T_HEADER,
 T_ASIDE, T_MAIN, T_ARTICLE, T_SECTION, T_FORM, T_BUTTON, T_SELECT, T_OPTION, T_SKIP, T_MJX, T_BODY, T_NOSCRIPT, T_BLOCK,
 T_FIGURE, T_SUMMARY, T_RAW, T_TBODY, T_VOID, T_INPUT, T_TEXMATH, T_Q, T_HEAD) = range(55)
# fmt: on

_ELEMENTS: dict[int, str] = {
    T_A: "a",
    T_SPAN: "span font nobr mjx-assistive-mml",
    T_P: "p",
    T_DIV: "div",
    T_LI: "li",
    T_UL: "ul menu dir",
    T_OL: "ol",
    T_DL: "dl",
    T_DT: "dt",
    T_DD: "dd",
    T_TABLE: "table",
    T_TR: "tr",
    T_TD: "td",
    T_TH: "th",
    T_CAPTION: "caption",
    T_PRE: "pre listing",
    T_CODE: "code tt kbd samp",
    T_SUP: "sup",
    T_SUB: "sub",
    T_BR: "br",
    T_HR: "hr",
    T_IMG: "img",
    T_MATH: "math",
    T_SCRIPT: "script",
    T_STYLE: "style",
    T_TITLE: "title",
    T_TEXTAREA: "textarea",
    T_QUOTE: "blockquote",
    T_NAV: "nav",
    T_FOOTER: "footer",
    T_HEADER: "header",
    T_ASIDE: "aside",
    T_MAIN: "main",
    T_ARTICLE: "article",
    T_SECTION: "section",
    T_FORM: "form",
    T_BUTTON: "button",
    T_SELECT: "select datalist",
    T_OPTION: "option optgroup",
    T_SKIP: "svg template object audio video canvas map dialog applet",
    T_MJX: "mjx-container",
    T_BODY: "body html",
    T_NOSCRIPT: "noscript",
    T_BLOCK: "address center details fieldset hgroup legend figcaption search noframes",
    T_FIGURE: "figure",
    T_SUMMARY: "summary",
    T_RAW: "xmp iframe noembed",
    T_TBODY: "tbody thead tfoot",
    T_VOID: "link meta base area col colgroup embed param source track wbr frame keygen basefont bgsound",
    T_INPUT: "input",
    T_TEXMATH: "tex-math",
    T_Q: "q",
    T_HEAD: "head",
}  # h1 to h6 are T_H + level << 8
_BLOCKS = (
    T_P, T_DIV, T_LI, T_UL, T_OL, T_DL, T_DT, T_DD, T_TABLE, T_TR, T_TD, T_TH, T_CAPTION, T_PRE, T_HR, T_H, T_QUOTE, T_NAV,
    T_FOOTER, T_HEADER, T_ASIDE, T_MAIN, T_ARTICLE, T_SECTION, T_FORM, T_OPTION, T_BODY, T_BLOCK, T_FIGURE, T_SUMMARY, T_TBODY,
    T_SELECT, T_HEAD,
)  # fmt: skip
BLOCK, VOID = 1 << 12, 1 << 13  # beside an element's number
_VOIDS = (T_BR, T_HR, T_IMG, T_VOID, T_INPUT)

# ---- attributes: slot of (start, stop) in the attribute array ------------------------------------------------------------
# fmt: off
(A_NONE, A_CLASS, A_ID, A_STYLE, A_TYPE, A_ALT, A_SRC, A_HREF, A_ROLE, A_HIDDEN, A_ARIA_HIDDEN, A_ALTTEXT, A_DISPLAY,
 A_ENCODING, A_LANG, A_MATHML, A_OPEN, A_CLOSE, A_SEPARATORS, A_START, A_VARIANT, A_MODE, A_ITEMPROP, A_LINE,
 A_DECLARED) = range(25)
# fmt: on
A_SLOTS = 25
_ATTRIBUTES = {
    "class": A_CLASS, "id": A_ID, "style": A_STYLE, "type": A_TYPE, "alt": A_ALT, "src": A_SRC, "href": A_HREF, "role": A_ROLE,
    "hidden": A_HIDDEN, "aria-hidden": A_ARIA_HIDDEN, "alttext": A_ALTTEXT, "display": A_DISPLAY, "encoding": A_ENCODING,
    "data-lang": A_LANG, "data-language": A_LANG, "data-mathml": A_MATHML, "open": A_OPEN, "close": A_CLOSE,
    "separators": A_SEPARATORS, "start": A_START, "mathvariant": A_VARIANT, "mode": A_MODE, "itemprop": A_ITEMPROP,
    "data-src": A_SRC, "data-lazy-src": A_SRC, "data-line-number": A_LINE,
    "lang": A_DECLARED, "xml:lang": A_DECLARED,
}  # fmt: skip

# ---- class and id words ---------------------------------------------------------------------------------------------------
W_SKIP = 1  # a rendering or a marker beside what it stands for
W_RENDERED = 2  # a rendering of a formula whose source is inside or follows
W_DISPLAY = 4  # what is inside is a displayed formula
W_TEX = 8  # the text or the alt is LaTeX
W_GUTTER = 16  # line numbers
W_REGION = 32  # holds code without being a <pre>
W_SOURCE = 64  # holds the source of a formula though hidden
W_LANGUAGE = 128  # the name of a programming language
W_NAV = 256  # navigation and the like
W_SOFT = 512  # often beside the point: decides only together with shortness or links
W_COMMENT = 1024
W_MAIN = 2048  # the words for the body of an article
W_HIDDEN = 4096
W_CODE = 8192  # highlighters: not boilerplate, whatever other words say
W_VOID = 16384  # a token that speaks of another element: has-sidebar, no-footer
W_LANG = 32768  # a language may be named here
W_NONE = 65536  # names no language: language-none

# Whole tokens of a class or id.
_TOKENS: dict[int, str] = {
    W_SKIP: "mathjax_preview katex-html headerlink anchor-link anchorjs-link header-anchor heading-anchor mw-editsection "
    "mw-jump-link mw-headline-anchor noprint hash-link direct-link toclevel-anchor copybtn copy-btn clipboard-copy "
    "copy-button btn-clipboard sr-only screen-reader-text visually-hidden visuallyhidden screen-reader skip-link "
    "skip-to-content mathjax_error mjx-assistive mwe-math-fallback-png jp-inputprompt jp-outputprompt toolbar-item "
    "material-icons material-symbols-outlined rouge-copy codehilite-filename-button zeroclipboard-container",
    W_RENDERED: "mathjax mathjax_svg mathjax_chtml mathjax_phtml mjx-chtml mathjax_display mathjax_svg_display mathjax_mathml "
    "mjx-svg mathjax_nativemml",
    W_DISPLAY: "katex-display mathjax_display mathjax_svg_display mjxc-display mwe-math-mathml-display "
    "mwe-math-fallback-image-display",
    W_TEX: "latex tex math math-tex texmath tex-math mathtex mwe-math-fallback-image-inline mwe-math-fallback-image-display "
    "ql-img-inline-formula ql-img-displayed-equation ql-img-picture-none formulainl formuladsp math-inline "
    "math-display js-render-math wirisformula mathimg mimetex equation_image katex-source latex-formula",
    W_GUTTER: "gutter lineno linenos linenodiv line-numbers-rows line-number line_number line-numbers-gutter rouge-gutter gl "
    "blob-num js-line-number codemirror-linenumber codemirror-gutter codemirror-gutter-wrapper codemirror-gutters "
    "crayon-nums crayon-num react-syntax-highlighter-line-number hljs-ln-numbers hljs-ln-n line_numbers linenumbers "
    "linenumber lnum lntd-gutter chroma-ln lnt ln-num hl-ln diff-line-num code-line-number line-num "
    "wp-block-code-line-number",
    W_REGION: "syntaxhighlighter blob-wrapper codemirror-code crayon-code highlighttable-code js-file-line-container "
    "ace_text-layer view-lines react-code-lines dp-highlighter",
    W_SOURCE: "mwe-math-mathml-inline mwe-math-mathml-display mwe-math-mathml-a11y katex-mathml mjx_assistive_mathml "
    "mjx-assistive-mml mathml katex-source",
    W_LANGUAGE: "ada apl applescript asm assembly awk bash basic c clojure cmake cobol coffeescript coq cpp c++ csharp c# css "
    "cuda d dart delphi diff dockerfile elisp elixir elm erlang fortran fsharp gherkin glsl go golang graphql groovy "
    "haskell hcl html http idris ini ipython ipython3 java javascript js json jsx julia kotlin latex lean lisp llvm "
    "lua makefile markdown matlab mathematica nginx nim nix objc objectivec ocaml octave pascal perl php powershell "
    "prolog protobuf puppet purescript py pycon python python3 r racket rb ruby rust rs scala scheme scss sh shell "
    "solidity sql swift tcl terraform toml ts tsx typescript vb vbnet verilog vhdl vim vue wasm xml yaml yml zig zsh "
    "console",
    W_HIDDEN: "d-none display-none is-hidden",
    W_NONE: "default none plain notranslate nohighlight text plaintext txt wrap wrapper switcher selector block table inline "
    "toolbar no-highlight highlight output",
    W_CODE: "highlight codehilite sourcecode highlighttable rouge-table lntable hljs prettyprint syntaxhighlighter code-block "
    "codeblock viewcode-block wp_syntax crayon-syntax literal-block programlisting code-snippet code_block "
    "code-sample",
    W_MAIN: "mw-parser-output mw-content-text articlebody article-body post-body post-content entry-content post_content "
    "article__body article-content story-body markdown-body storytext post-entry postbody blog-post-body article_body "
    "entry__content s-prose bodytext artikeltext article-text md-content article__content story-content main-content",
    W_COMMENT: "disqus_thread respond commentform comment-form comment-respond",
    W_NAV: "md-nav wy-nav-side wy-nav-top sphinxsidebar toc-entry vector-menu mw-navigation bd-toc bd-sidebar book-summary "
    "navfooter navheader mw-panel catlinks printfooter siteSub jump-to-nav vector-header-container cookie-notice "
    "nav-wrapper related-posts wp-block-latest-posts post-navigation site-header site-footer global-header "
    "global-footer page-footer page-header-links ez-toc-container toc_container tag-cloud tagcloud table-of-contents "
    "td-toc",
}  # fmt: skip
# Parts of a token, between - and _ and where an upper-case letter follows a lower-case one.
_WORDS: dict[int, str] = {
    W_NAV: "nav navbar navigation navi menu menubar submenu breadcrumb breadcrumbs breadcrum crumbs footer sidebar cookie "
    "cookies consent gdpr pagination pager paginator masthead topbar skiplink sitemap sitenav subnav navlinks metanav "
    "footnav sidenav topnav mainnav advert adverts advertisement advertising advertorial adsense adslot sponsored "
    "sponsor social sharing share sharebar sharethis addthis addtoany newsletter subscribe subscription signup login "
    "signin popup modal overlay lightbox rss widget widgets sidebars rail offcanvas hamburger dropdown toolbar "
    "related recommended recommendations outbrain taboola promo promos promotion teaser teasers megamenu blogroll "
    "banner banners trending morelinks tabbar werbung anzeige anzeigen marginalspalte servicenav flyout bookmarks "
    "bookmark socialmedia paywall ticker copyright colophon imprint impressum carousel",
    W_SOFT: "header head meta info byline author tags tag categories category date time byline caption credit toc contents "
    "links link search form tools options print user profile avatar rating vote votes poll more read views counter "
    "next prev previous button buttons btn list archive bio about side column secondary bottom extra misc box",
    W_COMMENT: "comment comments commentlist kommentar kommentare disqus reply replies respond discussion comentarios "
    "commentaires",
    W_VOID: "has no with without hide show is",
    W_LANG: "language lang highlight hl brush src source sourcecode",
    W_MAIN: "article content post entry story main body text hentry artikel articlebody",
}  # fmt: skip

# ---- MathML ---------------------------------------------------------------------------------------------------------------
# fmt: off
(M_ROW, M_FRAC, M_SUP, M_SUB, M_SUBSUP, M_OVER, M_UNDER, M_UNDEROVER, M_SQRT, M_ROOT, M_TABLE, M_TR, M_TD, M_FENCED, M_FIRST,
 M_PHANTOM, M_MULTI, M_LEAF_I, M_LEAF_N, M_LEAF_O, M_TEXT, M_SPACE, M_ANNOTATION, M_DROP, M_MATH, M_NONE, M_BOX) = range(1, 28)
# fmt: on
_MATHML = {
    M_ROW: "mrow mstyle mpadded merror",
    M_FRAC: "mfrac",
    M_SUP: "msup",
    M_SUB: "msub",
    M_SUBSUP: "msubsup",
    M_OVER: "mover",
    M_UNDER: "munder",
    M_UNDEROVER: "munderover",
    M_SQRT: "msqrt",
    M_ROOT: "mroot",
    M_TABLE: "mtable",
    M_TR: "mtr mlabeledtr",
    M_TD: "mtd",
    M_FENCED: "mfenced",
    M_FIRST: "semantics maction",
    M_PHANTOM: "mphantom",
    M_MULTI: "mmultiscripts",
    M_LEAF_I: "mi ci",
    M_LEAF_N: "mn cn",
    M_LEAF_O: "mo",
    M_TEXT: "mtext ms",
    M_SPACE: "mspace",
    M_ANNOTATION: "annotation",
    M_DROP: "annotation-xml mglyph maligngroup malignmark",
    M_MATH: "math",
    M_NONE: "none mprescripts",
    M_BOX: "menclose",
}  # fmt: skip


# The kinds of names. Typed, as is every constant that kernels pass on: numba compiles a callee for each plain int it is given.
N_TAG, N_ATTRIBUTE, N_TOKEN, N_WORD, N_MATHML, N_REFERENCE, N_FUNCTION, N_SYMBOL = (np.uint64(kind) for kind in range(1, 9))


class Tables(NamedTuple):
    """Everything the kernels look up; two arrays, since each is seven arguments of every call. Nobody writes to them."""

    names_H2: np.ndarray  # uint64: key, value; open-addressed, key 0 is an empty slot
    pool_b: np.ndarray  # uint8: the texts of references and symbols, a value being start << 8 | length


def hash_name(name: str) -> int:
    """FNV-1a, 64 bits, over the bytes; the kernels compute the same."""
    value = START
    for byte in name.encode():
        value = ((value ^ byte) * PRIME) & _MASK
    return value


def _key(name: str | int, kind: int) -> int:
    """The key of a name, or code point, of one kind: all kinds share a table."""
    return ((hash_name(name) if isinstance(name, str) else name * SALT) ^ (kind * SALT)) & _MASK


def _table(kinds: Mapping[np.uint64, Mapping[Any, int]]) -> np.ndarray:
    size = 1 << (4 * sum(map(len, kinds.values()))).bit_length()
    names_H2 = np.zeros((size, 2), np.uint64)
    for kind, values in kinds.items():
        for name, value in values.items():
            key = _key(name, int(kind))
            at = (key >> 32) & (size - 1)
            while names_H2[at, 0]:
                assert int(names_H2[at, 0]) != key, f"{name} has the hash of another name"
                at = (at + 1) & (size - 1)
            names_H2[at] = key, value
    return names_H2


def _pooled(texts: Mapping[Any, str], pool: bytearray) -> dict[Any, int]:
    """Add the texts to the pool: name -> start << 8 | length."""
    out = {}
    for name, text in texts.items():
        out[name] = len(pool) << 8 | len(text.encode())
        pool += text.encode()
    return out


def _split(lists: Mapping[int, str]) -> dict[str, int]:
    """Name -> all its values or-ed; for numbers that are no bits, a name stands in one list only."""
    out: dict[str, int] = {}
    for value, names in lists.items():
        for name in names.lower().split():
            out[name] = out.get(name, 0) | value
    return out


@functools.cache
def tables() -> Tables:
    """Built once per process, 10 ms."""
    tags = _split(_ELEMENTS) | {f"h{level}": T_H | level << 8 for level in range(1, 7)}
    for name, tag in tags.items():
        tags[name] |= BLOCK * (tag & 255 in _BLOCKS) | VOID * (tag in _VOIDS)
    pool = bytearray(b"\0")  # so that no value is 0
    names = {
        N_TAG: tags,
        N_ATTRIBUTE: _ATTRIBUTES,
        N_TOKEN: _split(_TOKENS),
        N_WORD: _split(_WORDS),
        N_MATHML: _split(_MATHML),
        N_REFERENCE: _pooled(html.entities.html5, pool),
        N_FUNCTION: dict.fromkeys(FUNCTIONS, 1),
        N_SYMBOL: _pooled(SYMBOLS, pool),
    }
    return Tables(_table(names), np.frombuffer(pool, np.uint8))


B_PLAIN, B_SPACE, B_TAG, B_REFERENCE, B_WIDE, B_MATH, B_DROP = range(7)


def byte_kinds() -> np.ndarray:
    """uint8 [256]: what prose does at this byte."""
    kinds = np.zeros(256, np.uint8)
    kinds[:32] = B_DROP
    kinds[127] = B_DROP
    kinds[[9, 10, 12, 13, 32]] = B_SPACE
    kinds[ord("<")] = B_TAG
    kinds[ord("&")] = B_REFERENCE
    kinds[[0xC2, 0xE2, 0xEF]] = B_WIDE  # U+00A0, U+00AD, U+2009, U+200B, U+FEFF begin with these
    kinds[[ord("\\"), ord("$")]] = B_MATH
    return kinds
