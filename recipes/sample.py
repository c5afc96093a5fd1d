"""The default recipe: real files that are already on this machine, minutes on two cores, no network.

Repositories: this one, the standard library of the running Python, and packages in its environment, each taken as a
repository: some 250 MB of source in dozens of languages. Among this repository's files are some that hold made-up benchmark
items (recipes/planted), so that decontamination has something to find.

Pages: the documentation of those packages, their licences and descriptions, rendered as the sites of a small web and wrapped
as WARC (recipes/sample_pages.py). Three rounds of recall find its pages on code and on mathematics from a few seed sites, as
they would in Common Crawl; what is neither and reads well is the natural language. Two rounds over the repositories' files
find the well-explained ones. The mix is the paper's: 60 % code, 10 % math, 30 % natural language.

    python -m corpus run recipes.sample
    python -m corpus explain recipes.sample python-stdlib/json/decoder.py
    python -m corpus explain recipes.sample crawl-to-tokens/recipes/planted/repository/src/ferries.py
    python -m corpus explain recipes.sample https://docs.sympy.example/sympy/calculus/finite_diff/finite_diff_weights.html
"""

from __future__ import annotations

from corpus.step import Step
from recipes import sample_pages
from recipes.prose import natural_language, paper_shares, unique_pages
from recipes.repositories import clean_files, recalled_files, samples
from recipes.sources import PACKAGES, installed_package, own_repository, planted_benchmark, standard_library
from recipes.web import topic_pages
from stages import crawl_commoncrawl, crawl_github, encode_tokens, extract_text, index_benchmarks, mix, train_tokenizer

__all__ = ["recipe"]

VOCABULARY = 16_384  # small, so that a tiny model's embeddings do not outweigh the rest of it
POSITIVES = 500  # so that a round takes seconds

# A forum and two sites of documentation for each topic: a fifth of its sites.
SEEDS = {
    "code": ("ask.programming.example", "docs.torch.example", "docs.python.example"),
    "math": ("ask.calculus.example", "mpmath.example", "probability.example"),
}


def recipe() -> Step:
    index = Step("index_benchmarks", index_benchmarks.Config(benchmarks=(planted_benchmark(),)))
    clean = clean_files(repositories(), index)
    tokenizer = Step("train_tokenizer", train_tokenizer.Config(files=clean, vocab_size=VOCABULARY, sample_bytes=30_000_000))
    good, rest = recalled_files(clean, tokenizer, positives=POSITIVES)

    pages = unique_pages(Step("extract_text", extract_text.Config(files=web())))
    found = topic_pages(pages, SEEDS, tokenizer, index, positives=POSITIVES)
    # Gopher's 80 % of words with a letter counts marks as words, and documentation of software is full of marks.
    prose = natural_language(pages, found.taken, index, min_letters=0.7)

    code = {"github": samples(rest), "github_recalled": good, "web_code": found.code}
    mixed = Step("mix", mix.Config(sources=paper_shares(code, found.math, prose), tokenizer=tokenizer))
    return Step("encode_tokens", encode_tokens.Config(files=mixed, tokenizer=tokenizer))


def repositories() -> Step:
    packages = [package for name in PACKAGES if (package := installed_package(name)) is not None]
    # No cut-off date: this repository is newer than the paper's November 2023.
    config = crawl_github.Config(repositories=(own_repository(), standard_library(), *packages), before=None)
    return Step("crawl_github", config)


def web() -> Step:
    pages = Step("sample_pages", sample_pages.Config(sources=sample_pages.sources(), planted=planted_benchmark()))
    return Step("crawl_commoncrawl", crawl_commoncrawl.Config(warcs=(pages,)))
