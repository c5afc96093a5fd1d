"""corpus/text.py beside plain Python on str."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.text import TextStats, _alphabetic, head_contains, text_stats

# Any code point, and often those where bytes, characters, lines and letters part ways.
CHARACTERS = st.one_of(
    st.characters(exclude_categories=["Cs"]),
    st.sampled_from("\n\n\r\0 azAZ@[`{09/:\x7f\x80éªßΩж中の한\u0301\u2028\x85ⅷ²𝒳𠀀🙂\U0010ffff"),
)
TEXTS = st.text(CHARACTERS, max_size=60)
# Texts of many blocks: few distinct lines, repeated, so that Hypothesis need not draw every byte.
LONG_TEXTS = st.lists(st.tuples(st.text(CHARACTERS, max_size=8), st.integers(0, 300)), max_size=8).map(
    lambda parts: "".join(part * count for part, count in parts)
)


def plain(text: str) -> tuple[int, ...]:
    """In the order of TextStats."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return (
        len(text.encode()),
        len(text),
        len(lines),
        max(map(len, lines), default=0),
        text.count("\n"),
        sum(map(str.isalpha, text)),
        sum(text.count(digit) for digit in "0123456789"),
        text.count("\0"),
    )


def measured(text: pa.Array) -> list[tuple[int, ...]]:
    return list(zip(*(column.tolist() for column in text_stats(text)), strict=True))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(TEXTS, LONG_TEXTS), max_size=6))
def test_equals_plain_python(texts: list[str]) -> None:
    for kind in (pa.large_string(), pa.string()):
        assert measured(pa.array(texts, kind)) == [plain(text) for text in texts]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 400), max_size=60), st.booleans(), st.sampled_from("x中𝒳"))
def test_longest_line_in_any_order_of_lengths(lengths: list[int], ends: bool, character: str) -> None:
    text = "\n".join(character * n for n in lengths) + "\n" * ends
    assert measured(pa.array([text]))[0] == plain(text)


@settings(max_examples=50, deadline=None)
@given(st.lists(TEXTS, min_size=2, max_size=8), st.data())
def test_slice_is_the_slice_of_the_whole(texts: list[str], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(texts)))
    stop = data.draw(st.integers(start, len(texts)))
    whole = pa.array(texts, pa.large_string())
    assert measured(whole[start:stop]) == measured(whole)[start:stop]


def test_every_code_point_is_alphabetic_as_python_says() -> None:
    expected = np.array([chr(point).isalpha() for point in range(0x110000)])
    assert np.array_equal(_alphabetic(), expected)


def test_no_texts_and_nulls() -> None:
    assert measured(pa.array([], pa.large_string())) == []
    assert measured(pa.array([None, "a"], pa.string())) == [plain(""), plain("a")]


def test_a_line_of_many_megabytes() -> None:
    text = "a\n" + "é" * 10_000_000 + "\nb"
    assert measured(pa.array([text], pa.large_string()))[0] == plain(text)


@pytest.mark.parametrize(
    "broken",
    [b"\xc3", b"a\xe4\xb8", b"\xf0\x9d\x92", b"\xff\xfe", b"\x80\x80", b"\xed\xa0\x80", b"\xf7\xbf\xbf\xbf", b"\xe9t\xe9"],
)
def test_broken_utf8_stays_inside_its_document(broken: bytes) -> None:
    """A sequence cut short must not be completed from the next document, nor read past the buffer, nor index past the table."""
    after = b"\xa9\xad\xb3"
    joined = pa.py_buffer(broken + after)
    offsets = pa.py_buffer(np.array([0, len(broken), len(broken) + len(after)], np.int64))
    stats: TextStats = text_stats(pa.LargeStringArray.from_buffers(2, offsets, joined))
    alone = pa.LargeStringArray.from_buffers(1, pa.py_buffer(np.array([0, len(broken)], np.int64)), pa.py_buffer(broken))
    assert [column[0] for column in stats] == [column[0] for column in text_stats(alone)]
    assert stats.characters_N.tolist() == [sum(byte & 0xC0 != 0x80 for byte in broken), 0]
    assert stats.alphabetic_N[0] <= stats.characters_N[0]


@settings(max_examples=150, deadline=None)
@given(st.text("<?x é中", max_size=30), st.sampled_from(["<?x", "é", "?中", "", "x"]), st.integers(0, 12))
def test_head_contains_equals_in(text: str, needle: str, characters: int) -> None:
    found = head_contains(pa.array(["<?x", text, "é"], pa.large_string())[1:2], needle, characters)
    assert found.tolist() == [needle in text[:characters]]
