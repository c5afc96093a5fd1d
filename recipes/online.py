"""A small corpus from the network: some public repositories, and a few files of one snapshot of Common Crawl.

    python -m corpus plan recipes.online
    python -m corpus run recipes.online --set crawl_commoncrawl.count=8

It fetches about 0.3 GB of repositories, 1 GB per WARC file, and single records of the sites the seeds are on. Common Crawl
asks for few requests at a time and a user agent that says who you are: set crawl_commoncrawl.user_agent to yours.
"""

from __future__ import annotations

from corpus.step import Step
from recipes.prose import natural_language, paper_shares, unique_pages
from recipes.repositories import clean_files, samples
from recipes.sources import paper_benchmarks
from recipes.web import topic_pages
from stages import (
    crawl_commoncrawl,
    crawl_github,
    encode_tokens,
    extract_text,
    index_benchmarks,
    mix,
    train_tokenizer,
)

__all__ = ["recipe"]

SNAPSHOT = "CC-MAIN-2024-51"

REPOSITORIES = (
    "BurntSushi/ripgrep", "junegunn/fzf", "madler/zlib", "pallets/click", "pallets/flask", "psf/requests", "sharkdp/bat",
    "sympy/sympy",
)  # fmt: skip

# Of the kinds the paper names (DeepSeek-Coder-V2 2): library documentation, a forum, mathematics sites; small ones of each.
SEEDS = {
    "code": ("docs.scipy.org/doc/scipy/reference", "pytorch.org/docs/stable/generated", "click.palletsprojects.com/en"),
    "math": ("mathworld.wolfram.com", "proofwiki.org/wiki", "encyclopediaofmath.org/wiki"),
}


def recipe() -> Step:
    github = Step("crawl_github", crawl_github.Config(repositories=REPOSITORIES))
    index = Step("index_benchmarks", index_benchmarks.Config(benchmarks=paper_benchmarks()))
    clean = clean_files(github, index)
    tokenizer = Step("train_tokenizer", train_tokenizer.Config(files=clean, vocab_size=32_000))

    pages = unique_pages(Step("extract_text", extract_text.Config(files=web())))
    found = topic_pages(pages, SEEDS, tokenizer, index)
    prose = natural_language(pages, found.taken, index)

    sources = paper_shares({"github": samples(clean), "web_code": found.code}, found.math, prose)
    mixed = Step("mix", mix.Config(sources=sources, tokenizer=tokenizer))
    return Step("encode_tokens", encode_tokens.Config(files=mixed, tokenizer=tokenizer, fim_rate=0.5))


def web() -> Step:
    """Two WARC files of the snapshot, and its captures of the seeds' sites."""
    return Step(
        "crawl_commoncrawl",
        crawl_commoncrawl.Config(
            paths=f"https://data.commoncrawl.org/crawl-data/{SNAPSHOT}/warc.paths.gz",
            count=2,
            cdx=f"https://index.commoncrawl.org/{SNAPSHOT}-index",
            urls=tuple(f"{prefix}/*" for prefixes in SEEDS.values() for prefix in prefixes),
        ),
    )
