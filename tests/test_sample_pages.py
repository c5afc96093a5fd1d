"""The offline web sample: whole WARC files, the same bytes every time, formulae and code that can be found again."""

from __future__ import annotations

import html
from collections import Counter
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from hypothesis import given, settings
from hypothesis import strategies as st
from warcio.archiveiterator import ArchiveIterator

from corpus.engine import LocalEngine
from corpus.errors import ConfigError, InputError
from corpus.repository import Repository
from corpus.runner import run
from corpus.step import Step
from recipes import page_material
from recipes.page_markup import STYLES, Markup, formula, formulas_in, rendered
from recipes.page_sites import SITES, domains, pages_of
from recipes.sample_pages import Config, sources
from stages.index_benchmarks import benchmark_at

LONG = "This sentence is long enough to be told, and there are several of them in a row. " * 6

MODULE = f'''
"""About sums. {LONG}"""

import does_not_exist

class Sum:
    r"""
    Sums `a_k` over :math:`k \\le n`.

    .. math::
        \\sum_{{k=1}}^n k = \\frac{{n(n+1)}}2

    {LONG}

    >>> for k in Sum(3):
    ...     print(k < 2)
    True
    """

    def doit(self, **hints):
        """Add up."""


def short(x):
    """Too little for a page."""


raise SystemExit("imported")
'''


@pytest.fixture
def machine(tmp_path: Path) -> tuple[Repository, ...]:
    """Two packages, one of them with files that cannot be parsed, and a folder of distributions."""
    for name in ("sympy", "pip"):
        (tmp_path / name / "inner").mkdir(parents=True)
        for i in range(40):
            (tmp_path / name / "inner" / f"m{i}.py").write_text(MODULE.replace("About", f"About {i} {name}"), "utf-8")
        (tmp_path / name / "broken.py").write_bytes(b'"""' + b"\xff doc \0" * 99 + b'"""\ndef (')
    site = tmp_path / "site-packages"
    (site / "tool-1.0.dist-info" / "licenses").mkdir(parents=True)
    (site / "tool-1.0.dist-info" / "METADATA").write_text(
        f"Name: tool\nSummary: A tool\n\n# Tool\n\n```sh\nmake <it>\n```\n{LONG}"
    )
    (site / "tool-1.0.dist-info" / "licenses" / "LICENSE").write_text(LONG)
    (site / "spacy" / "lang" / "ru").mkdir(parents=True)
    (site / "spacy" / "lang" / "ru" / "examples.py").write_text(
        f"sentences = {['Привет, мир, как дела сегодня?' * 4] * 3!r}", "utf-8"
    )
    return tuple(Repository(path=str(tmp_path / n), name=n, kind="tree") for n in ("sympy", "pip", "site-packages"))


def made(machine: tuple[Repository, ...], root: Path, **fields: object) -> Path:
    step = Step("sample_pages", Config(sources=machine, **fields))  # type: ignore[arg-type]
    engine = LocalEngine(root)
    run(step, engine)
    return engine.folder(step) / "warc"


def planted(folder: Path) -> Path:
    path = folder / "items.jsonl"
    path.write_text('{"q": "How many stairs < 138?", "a": "There are 138 of them."}\n')
    return path


def test_the_files_are_whole_and_the_same_every_time(machine: tuple[Repository, ...], tmp_path: Path) -> None:
    benchmark = benchmark_at("planted", planted(tmp_path), ("q", "a"))
    one, two = (made(machine, tmp_path / name, planted=benchmark) for name in ("a", "b"))
    names = [path.name for path in sorted(one.iterdir())]
    assert names == ["00000-sympy.warc.gz", "00001-pip.warc.gz", "00002-site-packages.warc.gz"]
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)
    kinds: Counter[str] = Counter()
    urls: Counter[str] = Counter()
    bodies = []
    ids = set()
    for name in names:
        with (one / name).open("rb") as file:
            for record in ArchiveIterator(file, check_digests="raise"):
                url, status = record.rec_headers["WARC-Target-URI"], record.http_headers.get_statuscode()
                ids.add(record.rec_headers["WARC-Record-ID"])
                kinds[f"{record.rec_type} {status}"] += 1
                if record.rec_type == "response" and status == "200":
                    urls[url] += 1
                    bodies.append(record.content_stream().read())
    assert len(ids) == sum(kinds.values())  # no record id twice
    assert kinds["response 200"] >= 80 and kinds["request GET"] + kinds["response 404"] + kinds["response 301"] > 0, kinds
    assert {url.split("/")[2].lower().removesuffix(":443").rpartition(".")[2] for url in urls} == {"example"}
    assert sum(b"How many stairs &lt; 138?</p>" in body for body in bodies) == 1
    assert sum("Привет".encode("windows-1251") in body and b'charset="windows-1251"' in body for body in bodies) == 1


def test_pages_say_what_the_source_says(machine: tuple[Repository, ...]) -> None:
    pages = {page.url: page for page in pages_of(machine[0])}
    page = pages["https://docs.sympy.example/sympy/inner/m7/Sum.html"]
    soup = BeautifulSoup(page.body, "html.parser")
    code = soup.find("code", class_="language-python")
    assert code is not None
    assert code.get_text() == ">>> for k in Sum(3):\n...     print(k < 2)\nTrue"
    assert formulas_in(page.body) == 3 and html.escape(r"\sum_{k=1}^n k = \frac{n(n+1)}2") in page.body
    assert "doit(self, **hints)" in soup.get_text() and "Add up." in soup.get_text()
    index = pages["https://docs.sympy.example/sympy/inner/m7/index.html"]
    assert "About 7 sympy" in index.body and "short(x)" in index.body
    assert len(pages) == 80  # two a module, none of the broken file
    articles = list(pages_of(machine[1]))
    assert len(articles) == 40 and {page.topic for page in articles} == {"prose"}
    assert all("&gt;&gt;&gt;" not in page.body and "math" not in page.body for page in articles)
    readme = next(page for page in pages_of(machine[2]) if page.at == "project/tool/")
    assert '<code class="language-sh">make &lt;it&gt;</code>' in readme.body and "<h2>Tool</h2>" in readme.body


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("display", [False, True])
def test_a_formula_can_be_read_back(style: str, display: bool) -> None:
    tex = r'\frac{a<b}{c & "d"} \to 12'
    made = formula(tex, style, display)
    soup = BeautifulSoup(made, "html.parser")
    found = [
        soup.get_text(),
        *(tag.get("alt", "") for tag in soup("img")),
        *(tag.get_text() for tag in soup(["annotation", "script"])),
    ]
    assert any(tex in str(text) for text in found)
    assert formulas_in(made) == 1


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ab <&`*$:>=-#.\n \t|\\{}()[]_1é中\x00"), max_size=120), st.sampled_from(STYLES))
def test_any_text_becomes_html_that_is_closed(text: str, style: str) -> None:
    made = rendered(text, Markup(style, math=True))
    assert str(BeautifulSoup(made, "html.parser")).count("</p>") == made.count("<p>") + made.count('<p class="')
    words = BeautifulSoup(made.replace("<script", "<span").replace("</script", "</span"), "html.parser")
    if style == "mathjax" and ".. " not in text and "#" not in text and "`" not in text and "[" not in text:
        # Letters are never lost: only marks of the markup are.
        assert [c for c in words.get_text() if c in "abé中"] == [c for c in text if c in "abé中"]


def test_every_topic_has_domains_enough() -> None:
    assert all(len(domains(topic)) >= 6 for topic in ("math", "code", "prose"))
    assert len({name for topic in ("math", "code", "prose") for name in domains(topic)}) == sum(
        len(domains(topic)) for topic in ("math", "code", "prose")
    )
    assert len({site.prefix for site in SITES}) == len(SITES)
    assert {"python-stdlib", "site-packages", "sympy", "mpmath"} <= {source.name for source in sources()}


def test_real_documentation_is_found() -> None:
    numpy = next(source for source in sources() if source.name == "numpy")
    names = {f"{e.module}.{e.name}" for e in page_material.entries(Path(str(numpy.path)) / "linalg", "numpy.linalg")}
    assert {"numpy.linalg._linalg.solve", "numpy.linalg._linalg.svd"} <= names


def test_bad_settings_and_a_missing_benchmark(machine: tuple[Repository, ...], tmp_path: Path) -> None:
    for bad in ((), (machine[0], machine[0]), (Repository(path="x"),)):
        with pytest.raises(ConfigError, match="sources"):
            Config(sources=bad)
    with pytest.raises(InputError, match="gone"):
        made(machine, tmp_path / "root", planted=benchmark_at("gone", tmp_path / "gone.jsonl", ("q",)))
    empty = tmp_path / "nothing"
    empty.mkdir()
    assert list(made((Repository(path=str(empty), name="numpy"),), tmp_path / "none").iterdir())
