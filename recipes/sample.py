"""The default recipe: real files that are already on this machine, minutes on two cores, no network.

Input: this repository, the standard library of the running Python, and packages in its environment, each taken as a
repository: some 250 MB of source in dozens of languages. Among this repository's files are some that hold made-up benchmark
items (recipes/planted), so that decontamination has something to find.

    python -m corpus run recipes.sample
    python -m corpus explain recipes.sample python-stdlib/json/decoder.py
    python -m corpus explain recipes.sample crawl-to-tokens/recipes/planted/repository/src/ferries.py
"""

from __future__ import annotations

from corpus.step import Step
from recipes.repositories import clean_files, samples
from recipes.sources import PACKAGES, installed_package, own_repository, planted_benchmark, standard_library
from stages import crawl_github, encode_tokens, index_benchmarks, mix, train_tokenizer

__all__ = ["recipe"]

VOCABULARY = 16_384  # small, so that a tiny model's embeddings do not outweigh the rest of it


def recipe() -> Step:
    packages = [package for name in PACKAGES if (package := installed_package(name)) is not None]
    repositories = (own_repository(), standard_library(), *packages)
    # No cut-off date: this repository is newer than the paper's November 2023.
    crawl = Step("crawl_github", crawl_github.Config(repositories=repositories, before=None))
    index = Step("index_benchmarks", index_benchmarks.Config(benchmarks=(planted_benchmark(),)))
    clean = clean_files(crawl, index)
    tokenizer = Step("train_tokenizer", train_tokenizer.Config(files=clean, vocab_size=VOCABULARY, sample_bytes=30_000_000))
    code = mix.Source(name="code", files=samples(clean), share=1.0, max_epochs=1.0)
    mixed = Step("mix", mix.Config(sources=(code,), tokenizer=tokenizer))
    return Step("encode_tokens", encode_tokens.Config(files=mixed, tokenizer=tokenizer))
