"""Laws of shingles, signatures and bands, against plain Python words and sets."""

from __future__ import annotations

import itertools
import random
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.minhash import (
    EMPTY,
    band_keys,
    choose_bands,
    collision_curve,
    document_keys,
    estimate,
    sign,
    signatures,
)
from corpus.shingles import BLOCK, shingles

ALONE = [(0x0E00, 0x0EFF), (0x1000, 0x10BF), (0x1780, 0x17FF), (0x3040, 0x9FFF), (0x10000, 0x10FFFF)]
APART = [(0x80, 0xBF), (0x2000, 0x2FFF), (0x3000, 0x303F), (0xE000, 0xFFFF)]
MIXED = st.text(st.sampled_from("ab_Z09 .\n\0éßжЯ中文の、。ไท한국☃😀 ﬀ"), max_size=60)


def words_of(text: str) -> list[str]:
    """The rule of corpus/shingles.py, by code point."""
    words, current = [], ""
    for c in text:
        if any(a <= ord(c) <= b for a, b in ALONE):
            words += [current, c]
            current = ""
        elif (c.isascii() and re.match("[A-Za-z0-9_]", c)) or (ord(c) > 0xBF and not any(a <= ord(c) <= b for a, b in APART)):
            current += c
        else:
            words.append(current)
            current = ""
    return [word for word in [*words, current] if word]


def grams(text: str) -> list[tuple[str, ...]]:
    words = words_of(text)
    return [tuple(words[i : i + 5]) for i in range(len(words) - 4)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from([b"a", b" ", b"\xf0", b"\xe4", b"\x80", b"\xc2", b"\xff", "漢".encode(), "😀".encode()]), max_size=40
    )
)
def test_bytes_hold_no_more_words_than_is_made_room_for(parts: list[bytes]) -> None:
    """Whatever they are: near-deduplication makes room for len / 2 + 1 shingles."""
    data = b"".join(parts) * 9
    raw = pa.array([data], pa.large_binary())
    (found,) = shingles(pa.Array.from_buffers(pa.large_string(), 1, raw.buffers()))
    assert len(found) <= max(0, len(data) // 2 + 1 - 4)


def text_array(texts: list[str]) -> pa.Array:
    return pa.array(texts, pa.large_string())


def signed(elements: np.ndarray, values: int = 256) -> np.ndarray:
    signature = np.empty(values, np.uint64)
    sign(elements, len(elements), signature)
    return signature


def random_sets(rng: np.random.Generator, n: int, similarity: float) -> tuple[np.ndarray, np.ndarray]:
    """Two sets with a union of n and about this Jaccard similarity."""
    union = rng.integers(1, 1 << 64, n, np.uint64)
    common = round(similarity * n)
    half = (n - common) // 2
    return union[: common + half], np.concatenate([union[:common], union[common + half :]])


# --- Shingles ------------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.lists(MIXED, max_size=6))
def test_shingles_are_equal_where_five_words_are(texts: list[str]) -> None:
    hashes = shingles(text_array(texts))
    oracle = [grams(text) for text in texts]
    assert [len(h) for h in hashes] == [len(g) for g in oracle]
    pairs = set(zip(np.concatenate([*hashes, np.empty(0, np.uint64)]).tolist(), itertools.chain(*oracle), strict=True))
    assert len({h for h, _ in pairs}) == len(pairs) == len({g for _, g in pairs})


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(max_codepoint=127), max_size=80))
def test_ascii_words_are_those_of_starcoder(text: str) -> None:
    assert words_of(text) == [word for word in re.split("[^A-Za-z_0-9]", text) if word]


@pytest.mark.parametrize("alphabet", ["ab _", "aéж中ไ한😀 、", "中、", "a"])
def test_where_a_text_lies_in_its_blocks_changes_nothing(alphabet: str) -> None:
    """Spaces in front move every block border, through words and through characters of several bytes."""
    rng = random.Random(alphabet)
    text = "".join(rng.choice(alphabet) * rng.randint(1, 3) for _ in range(BLOCK)) if len(alphabet) > 1 else "a " * BLOCK
    expected = shingles(text_array([text]))[0]
    assert len(expected) == len(grams(text))
    for shift in (1, 2, 3, 4, 5, 7, 8, 63, BLOCK - 1, BLOCK, BLOCK + 1):
        assert np.array_equal(shingles(text_array([" " * shift + text]))[0], expected), shift


def test_a_run_without_separators_is_cut_and_not_lost() -> None:
    one = "x" * (6 * BLOCK) + " y"
    assert len(shingles(text_array([one]))[0]) == 7 - 4
    assert not np.array_equal(shingles(text_array([one]))[0], shingles(text_array(["z" + one[1:]]))[0])


def test_a_run_is_cut_within_a_character_too() -> None:
    """Hangul letters take three bytes and a block is no multiple of three: 32,769 bytes are two blocks and a byte."""
    assert BLOCK == 16384
    assert len(shingles(text_array(["한" * 10_923 + " a b c d"]))[0]) == 3 + 4 - 4


def test_long_words_differ_wherever_they_differ() -> None:
    words = ["w" * n for n in range(1, 40)] + ["w" * i + "v" + "w" * (20 - i) for i in range(21)]
    found = shingles(text_array([f"a b c d {word}" for word in words]))
    assert len({int(h[0]) for h in found}) == len(words)


# --- Signatures ----------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=80), st.randoms())
def test_a_signature_is_of_a_set(elements: list[int], rng: random.Random) -> None:
    """Neither order nor repetition of shingles matters."""
    hashes = np.random.default_rng(0).integers(1, 1 << 64, 41, np.uint64)
    shuffled = elements + elements[: len(elements) // 2]
    rng.shuffle(shuffled)
    assert np.array_equal(signed(hashes[sorted(set(elements))]), signed(hashes[shuffled]))


@pytest.mark.parametrize("sizes", [(1, 1), (3, 500), (40, 4000), (1, 100_000)])
def test_the_signature_of_a_union_is_the_minimum(sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(sizes)
    a, b = (rng.integers(1, 1 << 64, n, np.uint64) for n in sizes)
    assert np.array_equal(np.minimum(signed(a), signed(b)), signed(np.concatenate([a, b])))


@pytest.mark.parametrize("different", [1, 7, 300, 30_000])
def test_a_text_is_signed_as_its_shingles_are(different: int) -> None:
    """Also one that repeats few shingles more often than fit into memory at once."""
    rng = random.Random(different)
    words = [str(rng.random()) for _ in range(different)]
    text = " ".join(words * (1 + 80_000 // different))
    signature, count = signatures(text_array([text]), 128)
    found = shingles(text_array([text]))[0]
    assert count[0] == len(found)
    assert np.array_equal(signature[0], signed(found, 128))


def test_every_block_of_a_text_is_in_its_signature() -> None:
    """Few shingles, far apart: most values come from rounds after the first, over all of them."""
    text = (" " * BLOCK).join(f"a{i} b{i} c{i} d{i} e{i} f{i}" for i in range(5))
    assert np.array_equal(signatures(text_array([text]), 256)[0][0], signed(shingles(text_array([text]))[0]))


@pytest.mark.parametrize("n", [6, 40, 300, 3000])
@pytest.mark.parametrize("similarity", [0.3, 0.7, 0.9])
def test_the_estimate_tracks_the_similarity(n: int, similarity: float) -> None:
    """Mean over 60 pairs within 4 standard deviations of the truth, each within 5; signatures of 256 values."""
    rng = np.random.default_rng([n, round(similarity * 100)])
    errors = []
    for _ in range(60):
        a, b = random_sets(rng, n, similarity)
        errors.append(estimate(signed(a), signed(b)) - round(similarity * n) / n)
    sigma = np.sqrt(similarity * (1 - similarity) / 256)
    assert abs(np.mean(errors)) < 4 * sigma / np.sqrt(60)
    assert np.abs(errors).max() < 5 * sigma


@pytest.mark.parametrize("similarity", [0.5, 0.62, 0.7])
def test_bands_collide_as_the_curve_says(similarity: float) -> None:
    rng = np.random.default_rng(round(similarity * 100))
    bands, rows = choose_bands(0.7, 256)
    n, trials = 400, 800
    pairs = [random_sets(rng, n, similarity) for _ in range(trials)]
    keys = [band_keys(np.stack([signed(s[i]) for s in pairs]), bands, rows) for i in (0, 1)]
    met = (keys[0] == keys[1]).any(axis=1).mean()
    expected = collision_curve(round(similarity * n) / n, bands, rows)
    assert abs(met - expected) < 4 * np.sqrt(expected * (1 - expected) / trials) + 0.01  # values are slightly dependent


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
@pytest.mark.parametrize("values", [16, 128, 256, 1000])
def test_bands_fit_and_favour_recall(threshold: float, values: int) -> None:
    bands, rows = choose_bands(threshold, values)
    assert 1 <= bands * rows <= values
    if values >= 128:
        assert collision_curve(threshold, bands, rows) > 0.85
    assert threshold < 1 or rows == values


def test_keys_are_of_documents_with_five_words() -> None:
    texts = ["", "one two three four", "a b c d e", "\0" * 50, "слово " * 5, "中文有五个", "a b c d e", "....... ,,,"]
    array = pa.concat_arrays([text_array(["dropped by the slice"]), text_array(texts)])[1:]
    documents, keys = document_keys(array, 64, 8, 8)
    assert documents.tolist() == [2, 4, 5, 6]
    signature, count = signatures(array, 64)
    assert count.tolist() == [0, 0, 1, 0, 1, 1, 1, 0]
    assert (signature[0] == EMPTY).all()
    assert np.array_equal(keys, band_keys(signature[documents], 8, 8))
    assert np.array_equal(keys[0], keys[3])
    assert len(set(keys[0].tolist())) == 8  # a key tells which band it is of
