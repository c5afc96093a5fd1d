"""corpus/natural_language.py: scripts, trigrams, what pages declare; code and formulae are not prose."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.natural_language import NAMES, find_language, prose_heads

TEXTS = {
    "en": "The river runs through the old part of the town, and most of the people living there have done so all their lives. ",
    "de": "Der Fluss fließt durch den alten Teil der Stadt, und die meisten Leute, die dort wohnen, wohnen da schon immer. ",
    "fr": "La rivière traverse la vieille ville, et la plupart des gens qui habitent là y ont vécu toute leur vie entière. ",
    "ru": "Река течёт через старую часть города, и большинство людей, которые там живут, прожили там всю свою жизнь. ",
    "uk": "Річка тече через стару частину міста, і більшість людей, які там живуть, прожили там усе своє життя щасливо. ",
    "el": "Το ποτάμι περνά μέσα από την παλιά πόλη και οι περισσότεροι άνθρωποι ζουν εκεί όλη τους τη ζωή. ",
    "zh": "这条河流过老城区，住在那里的大多数人一辈子都住在那里。",
    "ja": "その川は旧市街を流れていて、そこに住む人々のほとんどは一生そこで暮らしています。",
    "ko": "그 강은 구시가지를 지나 흐르고, 그곳에 사는 사람들은 대부분 평생을 그곳에서 살았다. ",
    "th": "แม่น้ำไหลผ่านส่วนเก่าของเมือง และคนส่วนใหญ่ที่อาศัยอยู่ที่นั่นอยู่มาตลอดชีวิต ",
    "ar": "يجري النهر عبر الجزء القديم من المدينة، ومعظم الناس الذين يعيشون هناك عاشوا فيه طوال حياتهم. ",
    "he": "הנהר זורם דרך החלק הישן של העיר, ורוב האנשים שגרים שם חיו שם כל חייהם. ",
}
CODE = "```python\nfor the_item in all_of_the_items:\n    print(the_item, and_this, with_that)\n```\n"


def found(text: str, declared: str | None = None) -> tuple[str | None, float, str]:
    one = find_language(pa.array([text], pa.large_string()), pa.array([declared], pa.string()))
    return one.language[0].as_py(), one.score[0].as_py(), one.by[0].as_py()


def head_of(text: str) -> str:
    head, ends, _ = prose_heads(pa.array([text], pa.large_string()))
    return head[ends[0] : ends[1]].tobytes().decode()


@pytest.mark.parametrize("name", list(TEXTS))
def test_languages_are_told_apart_whatever_a_page_declares(name: str) -> None:
    language, score, by = found(TEXTS[name] * 4, "es")
    assert language == name and score > 0.3
    assert by == ("trigrams" if name in ("en", "de", "fr", "ru", "uk", "ar") else "script")


def test_code_and_formulae_are_not_prose() -> None:
    assert found(CODE * 20 + TEXTS["de"] * 3)[0] == "de"
    assert found(TEXTS["zh"] + CODE.replace("```", "") * 2)[0] == "en"  # nothing says that this is code
    assert found(TEXTS["zh"] * 2 + "Next 7.0+ TagCanvas\n" + CODE * 5)[0] == "zh"
    assert head_of("a\n```x\nb\n```\nc `d e` f ` g\n") == "a\n\nc  f  g\n"
    assert head_of("````\n```\nb\n````\nc") == "\nc"
    assert head_of("a $x+y$ b \\(z\\) c $$1\n2$$ d \\[3\n4\\] e") == "a  b  c  d  e"
    assert head_of("costs 5$ or\n6$ or \\n or \\( or") == "costs 5 or\n6 or n or ( or"


def test_few_letters_say_little() -> None:
    assert found("Impressum", "de")[0] == "de" and found("Impressum", "de")[2] == "declared"
    assert found("Река", "en") == found("Река")  # English is not written in Cyrillic
    assert found("12 — 34", "en") == (None, 0.0, "none")
    assert found("") == (None, 0.0, "none")
    assert found("Ja", "nb")[0] == "no" == found("Ja", "no")[0]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("`$\\([\n "), max_size=60), max_size=4))
def test_any_text_row_by_row(texts: list[str]) -> None:
    array = pa.array(texts, pa.large_string())
    head, ends, letters = prose_heads(array)
    assert letters.shape == (len(texts), len(NAMES))
    for n, text in enumerate(texts):
        assert head[ends[n] : ends[n + 1]].tobytes().decode() == head_of(text)  # whole characters, and no neighbour's
        if not set(text) & set("`$\\"):
            assert head_of(text) == text
    every = find_language(array, pa.nulls(len(texts), pa.string()))
    assert list(zip(*(column.to_pylist() for column in every), strict=True)) == [found(text) for text in texts]


def test_a_page_of_marks_is_read_in_linear_time() -> None:
    for mark in ("`", "$", "$$", "\\(", "```\n"):
        assert head_of(mark * 500_000) is not None
    assert head_of("x" * 10_000_000) == "x" * 4096


def test_real_pages(corpus_data: Path) -> None:
    """Of pages that declare a language, 96 % are found to be in it; of the rest, half declare a wrong one."""
    from corpus.extract import extract

    with open(corpus_data / "html" / "pages.jsonl.zst", "rb") as file:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
        rows = [row for line in lines if (row := json.loads(line))["lang_attr"]][::3]
    made = extract(pa.array([row["html"] for row in rows], pa.large_string()))
    language = find_language(made.text, pa.nulls(len(rows), pa.string())).language.to_pylist()
    declared = [row["lang_attr"].lower().replace("_", "-").split("-")[0] for row in rows]
    long = [n for n, text in enumerate(made.text.to_pylist()) if len(text) >= 200]
    assert len(long) > 300
    assert sum(declared[n] == language[n] for n in long) >= 0.93 * len(long)
