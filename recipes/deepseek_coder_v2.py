"""DeepSeek-Coder-V2's corpus, every number as published.

    python -m corpus plan recipes.deepseek_coder_v2 --set crawl_github.listing=repositories.parquet

Sections are the paper's (CV2 = DeepSeek-Coder-V2, CV1 = DeepSeek-Coder, LLM = DeepSeek LLM, MATH = DeepSeekMath). What they
leave open is decided here and said so. The seeds are the sites CV2 names; `listing` and the snapshot are yours to choose: the
paper says which repositories it took only by date, and of Common Crawl nothing.
"""

from __future__ import annotations

import dataclasses

from corpus.step import Step
from recipes.prose import natural_language, paper_shares, unique_pages
from recipes.repositories import clean_files, code_related_text, recalled_files, samples
from recipes.sources import paper_benchmarks
from recipes.web import topic_pages
from stages import crawl_commoncrawl, crawl_github, encode_tokens, extract_text, index_benchmarks, mix, train_tokenizer

__all__ = ["long_documents", "recipe"]

# CV2 2: "coding forums such as StackOverflow, library sites such as PyTorch documentation, mathematics websites such as
# StackExchange". MATH 2.1 began with OpenWebMath instead; to begin with that, make it a step and give it to recall as the seed.
SEEDS = {
    "code": ("stackoverflow.com/questions", "pytorch.org/docs"),
    "math": ("math.stackexchange.com/questions",),
}

# MATH 2.1 keeps the top 40 B tokens in its first round and ends with 120 B after four. CV2 ends with 221 B of math and 70 B
# of code after three. What each round kept is not said: here the last round is the paper's, those before are in proportion.
ROUNDS = {"math": (74_000_000_000, 147_000_000_000, 221_000_000_000), "code": (23_000_000_000, 47_000_000_000, 70_000_000_000)}


def recipe() -> Step:
    # CV1 2.4 and MATH 2.1: HumanEval, MBPP, GSM8K, MATH, CMATH. CV2 states no decontamination; the union is the safe
    # reading of "the same pipeline". CRUXEval is added because the paper reports it.
    index = Step("index_benchmarks", index_benchmarks.Config(benchmarks=paper_benchmarks()))
    # CV2 2: repositories before November 2023. `listing` is yours: a text, CSV or Parquet file of owner/name or URLs.
    crawl = Step("crawl_github", crawl_github.Config(listing="repositories.txt", before="2023-11-01"))
    # CV1 2.3: near-duplicates at repository level, so that repositories stay complete. CV2: "the same".
    clean = clean_files(crawl, index, level="repository")
    # CV2 2: of 1,170 B tokens of code 185 B are "code-related text, such as markdown and issues" of GitHub.
    text, source = code_related_text(clean)
    # LLM 2.1: byte-level BPE of 100,000 ordinary tokens; CV2 uses that tokenizer. 24 GB of text were sampled.
    tokenizer = Step("train_tokenizer", train_tokenizer.Config(files=clean, vocab_size=100_000, sample_bytes=24_000_000_000))
    # CV2 2: "the same pipeline" on GitHub, two rounds, 94 B tokens besides the 821 B.
    good, rest = recalled_files(source, tokenizer, rounds=2, tokens=(94_000_000_000,))

    # MATH 2.1: URL and near-deduplication before recall. CV2 2: three rounds, text in BPE tokens. fastText with the numbers
    # of MATH 2.1, which are the defaults of stages/train_recall.py, and text alone, without the counts of formulae and code.
    pages = unique_pages(Step("extract_text", extract_text.Config(files=web())))
    found = topic_pages(pages, SEEDS, tokenizer, index, rounds=3, tokens=ROUNDS, signals=False)
    # CV2 2 samples its natural language from DeepSeek-V2's corpus, Chinese and English, whose rules are not published.
    prose = natural_language(pages, found.taken, index, languages=("en", "zh"))

    # CV2, first author, issue 22: files of a repository in random order, no longer by dependency.
    code = {
        "github": samples(rest, order="random"),
        "github_text": text,
        "web_code": found.code,
        "github_recalled": good,
    }
    # CV2 2: 60 % code, 10 % math, 30 % natural language.
    sources = paper_shares(code, found.math, prose, max_epochs=4.0)
    mixed = Step("mix", mix.Config(sources=sources, tokenizer=tokenizer))
    # CV2 3.1: fill-in-the-middle, PSM, at a rate of 0.5, per document before packing (16B; the 236B model has none).
    return Step("encode_tokens", encode_tokens.Config(files=mixed, tokenizer=tokenizer, fim_rate=0.5))


def long_documents(encoded: Step, long_tokens: int, factor: float) -> Step:
    """The recipe with documents of `long_tokens` tokens or more drawn `factor` times as often as the others of their source."""
    mixed = encoded.config.files
    sources = tuple(dataclasses.replace(source, long_tokens=long_tokens, long_factor=factor) for source in mixed.config.sources)
    mixed = Step(mixed.name, dataclasses.replace(mixed.config, sources=sources))
    return Step(encoded.name, dataclasses.replace(encoded.config, files=mixed))


def web() -> Step:
    """A whole snapshot. For several (DeepSeek LLM deduplicated across 91), join their listings to one file, and name that."""
    paths = "https://data.commoncrawl.org/crawl-data/CC-MAIN-2023-40/warc.paths.gz"
    return Step("crawl_commoncrawl", crawl_commoncrawl.Config(paths=paths))
