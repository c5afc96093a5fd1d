"""The natural-language part, and the shares of the whole mix. Pieces of recipes."""

from __future__ import annotations

from collections.abc import Mapping

from corpus.errors import ConfigError
from corpus.step import Step
from stages import decontaminate, dedup_exact, dedup_near, exclude, filter_text, mix

__all__ = ["CODE_TOKENS", "natural_language", "paper_shares", "unique_pages"]

# DeepSeek-Coder-V2 section 2, billions of tokens: the four parts of 1,170 B of code.
CODE_TOKENS: Mapping[str, int] = {
    "github": 821,  # source code after file rules and near-deduplication
    "github_text": 185,  # Markdown and issues
    "web_code": 70,  # Common Crawl, three rounds of recall
    "github_recalled": 94,  # GitHub, two rounds of recall, besides the 821 B
}


def unique_pages(extracted: Step) -> Step:
    """One crawl of every address, the newest, then no near-duplicates (DeepSeekMath 2.1: URL and near-deduplication)."""
    urls = Step("dedup_urls", dedup_exact.Config(files=extracted, by="url", survivors=("newest",)))
    return Step("dedup_pages", dedup_near.Config(files=urls, survivors=("newest",)))


def natural_language(
    pages: Step, recalled: tuple[Step, ...], index: Step, languages: tuple[str, ...] = ("en", "zh"), **rules: object
) -> Step:
    """Pages that no recall took → quality rules → decontamination.

    languages: DeepSeek-V2's natural language, of which the paper samples, is Chinese and English. rules: of filter_text.
    """
    rest = Step("exclude_recalled", exclude.Config(files=pages, taken=recalled)) if recalled else pages
    good = Step("filter_text", filter_text.Config(files=rest, languages=languages, **rules))  # type: ignore[arg-type]
    return Step("decontaminate_prose", decontaminate.Config(files=good, index=index))


def paper_shares(
    code: Mapping[str, Step],
    math: Step,
    prose: Step,
    *,
    max_epochs: float = 4.0,
    long_tokens: int | None = None,
    long_factor: float = 1.0,
) -> tuple[mix.Source, ...]:
    """60 % code, 10 % math, 30 % natural language by tokens (DeepSeek-Coder-V2 section 2).

    code: steps by the names of CODE_TOKENS. Inside the 60 % the paper gives no shares; here they are in proportion to its
    tokens, so that every part is seen as often. A part that is left out leaves its share to the others.
    max_epochs: the paper's own, by its token counts: 3.1 of code, 2.7 of math. long_tokens, long_factor: see stages/mix.py.
    """
    given = {name: CODE_TOKENS[name] for name in CODE_TOKENS if name in code}
    if not given or set(given) != set(code):
        raise ConfigError(f"paper_shares: code has {', '.join(code) or 'no parts'}; some of {', '.join(CODE_TOKENS)} expected")
    shares = {name: (code[name], 0.6 * tokens / sum(given.values())) for name, tokens in given.items()}
    shares |= {"math": (math, 0.1), "prose": (prose, 0.3)}
    return tuple(
        mix.Source(name=name, files=files, share=share, max_epochs=max_epochs, long_tokens=long_tokens, long_factor=long_factor)
        for name, (files, share) in shares.items()
    )
