"""Which made-up site shows which documentation, and the pages of it. All domains are under `.example`, reserved by RFC 2606.

A page a class or function, as generated documentation has it, a page a module for its own text and for members with little
to say. Sites of topic "prose" show the narrative of a package's documentation alone: its sentences, no code. A site's way of
writing formulae is drawn by its name.
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from corpus.repository import Repository
from recipes import page_material
from recipes.page_markup import STYLES, Markup, page_of, rendered
from recipes.page_material import Entry, Text, order

__all__ = ["FOLDERS", "PACKAGES", "Page", "Site", "domains", "pages_of"]

_LEAST = 400  # characters of documentation for a page of its own
_ARTICLE = 800  # characters of narrative for an article
_ROLE = re.compile(r"(?::[\w:]+:)?`+~?([^`]*)`+_*")
_MARKS = re.compile(r"[^\w\s,.;'\"()`!?-]|_")
_SERVICES, _COPYRIGHTS = 7 << 20, 2 << 20  # bytes taken of each


class Site(NamedTuple):
    """Modules whose name begins with `prefix`, the longest such prefix counts."""

    prefix: str
    domain: str
    topic: str  # math, code or prose
    look: str = "reference"


class Page(NamedTuple):
    """title: plain text; body: HTML; at: the path under the domain."""

    domain: str
    at: str
    topic: str
    title: str
    body: str
    look: str
    lang: str = "en"

    @property
    def url(self) -> str:
        return f"https://{self.domain}/{self.at}"


SITES = (
    Site("sympy", "docs.sympy.example", "math"),
    Site("sympy.ntheory", "numbertheory.example", "math", "blog"),
    Site("sympy.combinatorics", "groups.algebra.example", "math"),
    Site("sympy.polys", "polynomials.algebra.example", "math", "application"),
    Site("sympy.functions", "functions.encyclopedia.example", "math", "application"),
    Site("sympy.physics", "physics.lectures.example", "math", "blog"),
    Site("sympy.integrals", "ask.calculus.example", "math", "forum"),
    Site("sympy.series", "ask.calculus.example", "math", "forum"),
    Site("sympy.solvers", "equations.example", "math"),
    Site("sympy.stats", "probability.example", "math", "blog"),
    Site("sympy.matrices", "linear.algebra.example", "math"),
    Site("sympy.tensor", "tensors.example", "math", "application"),
    Site("sympy.geometry", "geometry.example", "math", "forum"),
    Site("sympy.diffgeom", "geometry.example", "math", "forum"),
    Site("sympy.sets", "logic.example", "math"),
    Site("sympy.logic", "logic.example", "math"),
    Site("sympy.printing", "printing.sympy.example", "code"),
    Site("sympy.parsing", "printing.sympy.example", "code"),
    Site("sympy.codegen", "printing.sympy.example", "code"),
    Site("sympy.utilities", "printing.sympy.example", "code"),
    Site("sympy.plotting", "printing.sympy.example", "code"),
    Site("mpmath", "mpmath.example", "math"),
    Site("scipy", "docs.scipy.example", "code"),
    Site("scipy.special", "specialfunctions.example", "math"),
    Site("scipy.stats", "statistics.example", "math", "application"),
    Site("scipy.linalg", "numerics.university.example", "math"),
    Site("scipy.integrate", "numerics.university.example", "math"),
    Site("scipy.optimize", "optimization.example", "math", "blog"),
    Site("numpy", "numpy.example", "code"),
    Site("numpy.random", "random.numpy.example", "math"),
    Site("numpy.polynomial", "approximation.example", "math", "blog"),
    Site("networkx", "networkx.example", "code"),
    Site("networkx.algorithms", "graphs.networkx.example", "code", "application"),
    Site("torch", "docs.torch.example", "code"),
    Site("torch._dynamo", "diary.compilers.example", "prose", "blog"),
    Site("torch._inductor", "diary.compilers.example", "prose", "blog"),
    Site("torch.ao", "columns.learning.example", "prose", "blog"),
    Site("torch.distributed", "columns.learning.example", "prose", "blog"),
    Site("torch.fx", "columns.learning.example", "prose", "blog"),
    Site("torch.onnx", "columns.learning.example", "prose", "blog"),
    Site("torch.distributions", "distributions.example", "math", "application"),
    Site("torch.special", "distributions.example", "math", "application"),
    Site("torch.nn", "learn.torch.example", "code", "application"),
    Site("torch.utils", "tutorials.torch.example", "code", "blog"),
    Site("ray", "weblog.clusters.example", "prose", "blog"),
    Site("ray.data", "docs.ray.example", "code", "application"),
    Site("ray.serve", "docs.ray.example", "code", "application"),
    Site("ray.tune", "docs.ray.example", "code", "application"),
    Site("stdlib", "docs.python.example", "code"),
    Site("aiohttp", "aiohttp.example", "code"),
    Site("awkward", "awkward.example", "code", "application"),
    Site("jinja2", "jinja.example", "code"),
    Site("pygments", "pygments.example", "code"),
    Site("requests", "ask.programming.example", "code", "forum"),
    Site("rich", "ask.programming.example", "code", "forum"),
    Site("fsspec", "ask.programming.example", "code", "forum"),
    Site("huggingface_hub", "notes.machines.example", "prose", "blog"),
    Site("google", "weblog.cloud.example", "prose", "blog"),
    Site("hypothesis", "essays.testing.example", "prose", "blog"),
    Site("numba", "diary.compilers.example", "prose", "blog"),
    Site("pip", "journal.packaging.example", "prose", "blog"),
    Site("pydantic", "essays.testing.example", "prose", "blog"),
    Site("setuptools", "journal.packaging.example", "prose", "blog"),
)

# What is read of packages too large to read whole; the others are read whole.
FOLDERS = {
    "python-stdlib": (
        "asyncio",
        "collections",
        "concurrent",
        "email",
        "html",
        "http",
        "importlib",
        "json",
        "logging",
        "unittest",
    ),
    "ray": ("data", "rllib", "serve", "train", "tune"),
    "scipy": ("integrate", "linalg", "optimize", "signal", "special", "stats"),
    "torch": (
        "_dynamo",
        "_inductor",
        "ao",
        "distributed",
        "distributions",
        "fx",
        "linalg",
        "nn",
        "onnx",
        "optim",
        "special",
        "utils",
    ),
}
PACKAGES = tuple(sorted({site.prefix for site in SITES if "." not in site.prefix} - {"stdlib"}))

_TEXTS = {  # where prose lies that is no docstring: domains it is dealt to, topic, look
    "descriptions": (("packages.example", "index.packages.example", "projects.example"), "prose", "application"),
    "licences": (("licences.example", "legal.example"), "prose", "blog"),
    "copyrights": (("copyright.distribution.example",), "prose", "reference"),
    "services": (("guide.cloud.example", "handbook.hosting.example", "manuals.example"), "prose", "application"),
    "sentences": (("phrases.example",), "prose", "blog"),
    "topics": (("reference.python.example",), "code", "reference"),
}


_DOMAINS = sorted({site.domain for site in SITES} | {domain for names, _, _ in _TEXTS.values() for domain in names})


def domains(topic: str) -> tuple[str, ...]:
    """The domains of a topic, sorted."""
    told = {domain for names, t, _ in _TEXTS.values() if t == topic for domain in names}
    return tuple(sorted(told | {site.domain for site in SITES if site.topic == topic}))


def pages_of(repository: Repository) -> Iterator[Page]:
    """All pages that what lies at a Repository's path gives: a package by its name, else one of the kinds of _TEXTS."""
    root, name = Path(repository.path or ""), repository.name or ""
    if name == "site-packages":
        yield from _texts("descriptions", page_material.descriptions(root))
        yield from _texts("licences", page_material.licences(root))
        yield from _texts("services", page_material.services(root / "botocore", _SERVICES))
        yield from _texts("sentences", page_material.sentences(root / "spacy"))
    elif name == "copyrights":
        yield from _texts("copyrights", page_material.copyrights(root, _COPYRIGHTS))
    else:
        if name == "python-stdlib":
            yield from _texts("topics", page_material.topics(root))
        package = "stdlib" if name == "python-stdlib" else name
        entries = page_material.entries(root, package, FOLDERS.get(name, ()))
        for module, group in itertools.groupby(entries, key=lambda entry: entry.module):
            site = max((s for s in SITES if _under(module, s.prefix)), key=lambda s: len(s.prefix), default=None)
            if site is not None:
                told = list(group)
                yield from _articles(site, told) if site.topic == "prose" else _reference(site, told, module)


def _under(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def _markup(domain: str, math: bool = False) -> Markup:
    return Markup(STYLES[_DOMAINS.index(domain) % len(STYLES)], math)


def _reference(site: Site, entries: list[Entry], module: str) -> Iterator[Page]:
    """Pages of a module: each class and function with something to say, then the module with the rest."""
    markup = _markup(site.domain, site.prefix.startswith(("sympy", "mpmath")))
    module = module.removeprefix("stdlib.")
    rest: list[str] = []
    for entry in entries:
        members = "".join(
            f'<dl class="py method"><dt><code>{_plain(signature)}</code></dt><dd>{rendered(doc, markup)}</dd></dl>'
            for signature, doc in entry.members
        )
        head = f'<dl class="py"><dt class="sig"><code class="sig-name">{_plain(entry.signature)}</code></dt></dl>'
        if not entry.name:
            rest.insert(0, rendered(entry.doc, markup))
        elif len(entry.doc) + sum(len(doc) for _, doc in entry.members) < _LEAST:
            rest.append(f"<h2>{_plain(entry.name)}</h2>{head}{rendered(entry.doc, markup)}{members}")
        else:
            body = f"{head}\n{rendered(entry.doc, markup)}\n{members}"
            title = f"{module}.{entry.name}" if site.look != "forum" else _question(entry)
            yield Page(site.domain, f"{module.replace('.', '/')}/{entry.name}.html", site.topic, title, body, site.look)
    if sum(map(len, rest)) > _LEAST:
        yield Page(site.domain, f"{module.replace('.', '/')}/index.html", site.topic, module, "\n".join(rest), site.look)


def _question(entry: Entry) -> str:
    first = inspect.cleandoc(entry.doc or entry.name).split("\n\n")[0].replace("\n", " ")
    return f"{entry.name}: {first[:90].rstrip('. ')}?"


def _plain(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _articles(site: Site, entries: list[Entry]) -> Iterator[Page]:
    """The sentences of a module's documentation as one article."""
    told: dict[str, None] = {}
    for doc in itertools.chain.from_iterable((entry.doc, *(doc for _, doc in entry.members)) for entry in entries):
        told |= dict.fromkeys(filter(_is_prose, re.split(r"\n\s*\n", inspect.cleandoc(doc))))
    if sum(map(len, told)) >= _ARTICLE:
        module = entries[0].module
        title = f"On {module.rpartition('.')[2].strip('_').replace('_', ' ')} in {module.split('.')[0]}"
        plain = (_ROLE.sub(r"\1", " ".join(part.split())) for part in told)  # an essay has no code in it, not in a line either
        body = rendered("\n\n".join(plain), _markup(site.domain))
        yield Page(site.domain, f"{module.replace('.', '/')}/", site.topic, title, body, site.look)


def _is_prose(paragraph: str) -> bool:
    """Sentences: long enough, ending like one, next to no marks of code."""
    if len(paragraph) < 80 or paragraph.rstrip()[-1] not in ".!?":
        return False
    return len(_MARKS.findall(paragraph)) <= 0.03 * len(paragraph)


def _texts(kind: str, texts: Iterator[Text]) -> Iterator[Page]:
    names, topic, look = _TEXTS[kind]
    for text in texts:
        domain = names[order(text.path) % len(names)]
        body = text.text if text.html else rendered(text.text, _markup(domain))
        yield Page(domain, text.path, topic, text.title, body, look, text.lang)


def html_of(page: Page, nav: list[str], charset: str) -> str:
    """The page as its site serves it."""
    return page_of(page.look, page.domain, page.title, page.body, nav, page.lang, charset)
