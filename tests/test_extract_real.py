"""Real pages: what the measure of bench/extract_text.py finds in them must be in the text."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.extract_text import boilerplate, by_us, kept_code, kept_formulas, real_pages


@pytest.mark.timeout(300)
def test_real_pages_keep_formulae_and_code_and_lose_navigation(corpus_data: Path) -> None:
    pages = real_pages()[::3]
    texts = by_us([page["html"] for page in pages])
    formulas, marked = kept_formulas(pages, texts)
    assert marked > 5_000
    assert formulas / marked >= 0.98
    lines, written = kept_code(pages, texts)
    assert written > 10_000
    assert lines / written >= 0.98
    wanted, unwanted, f1 = boilerplate(pages, texts)
    assert wanted >= 0.93 and unwanted <= 0.27 and f1 >= 0.85
