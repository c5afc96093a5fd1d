"""DeepSeek-Coder-V2's corpus, every number as published, as far as stages exist: the GitHub track.

    python -m corpus plan recipes.deepseek_coder_v2 --set crawl_github.listing=repositories.parquet

Sections are the paper's (CV2 = DeepSeek-Coder-V2, CV1 = DeepSeek-Coder, LLM = DeepSeek LLM). What they leave open is decided
here and said so. To come: the Common Crawl tracks (70 B code and 221 B math tokens), the recall over GitHub (94 B), and with
them the mix of 60 % code, 10 % math, 30 % natural language.
"""

from __future__ import annotations

from corpus.step import Step
from recipes.repositories import clean_files, samples
from recipes.sources import paper_benchmarks
from stages import crawl_github, encode_tokens, index_benchmarks, mix, train_tokenizer

__all__ = ["recipe"]


def recipe() -> Step:
    # CV2 2: repositories before November 2023. `listing` is yours: a text, CSV or Parquet file of owner/name or URLs.
    crawl = Step("crawl_github", crawl_github.Config(listing="repositories.txt", before="2023-11-01"))
    # CV1 2.4 and DeepSeekMath 2.1: HumanEval, MBPP, GSM8K, MATH, CMATH. CV2 states no decontamination; the union is the safe
    # reading of "the same pipeline". CRUXEval is added because the paper reports it.
    index = Step("index_benchmarks", index_benchmarks.Config(benchmarks=paper_benchmarks()))
    # CV1 2.3: near-duplicates at repository level, so that repositories stay complete. CV2: "the same".
    clean = clean_files(crawl, index, level="repository")
    # LLM 2.1: byte-level BPE of 100,000 ordinary tokens; CV2 uses that tokenizer. 24 GB of text were sampled.
    tokenizer = Step("train_tokenizer", train_tokenizer.Config(files=clean, vocab_size=100_000, sample_bytes=24_000_000_000))
    # CV2, first author, issue 22: files of a repository in random order, no longer by dependency.
    code = mix.Source(name="code", files=samples(clean, order="random"), share=1.0, max_epochs=4.0)
    mixed = Step("mix", mix.Config(sources=(code,), tokenizer=tokenizer))
    # CV2 3.1: fill-in-the-middle, PSM, at a rate of 0.5, per document before packing (16B; the 236B model has none).
    return Step("encode_tokens", encode_tokens.Config(files=mixed, tokenizer=tokenizer, fim_rate=0.5))
