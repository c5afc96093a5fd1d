"""Laws of components, groups and verified clusters, against plain Python graphs and sets."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus import components, leaders
from corpus.components import EDGES, GIANTS, group, join, size_class, weigh
from corpus.exchange import Exchanged
from corpus.leaders import find_duplicates, forgotten, open_window
from corpus.minhash import choose_bands, document_keys, signatures
from tests.test_minhash import grams, text_array

ROWS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 30)), max_size=60)  # (key, unit)


def connected(pairs: list[tuple[int, int]]) -> set[frozenset[int]]:
    """Components of a graph given by its edges."""
    found: list[set[int]] = []
    for a, b in pairs:
        touched = [part for part in found if a in part or b in part]
        found = [part for part in found if part not in touched] + [{a, b}.union(*touched)]
    return {frozenset(part) for part in found}


def joined(rows: list[tuple[int, int]]) -> pa.RecordBatch:
    keys, units = np.array([k for k, _ in rows], np.uint64), np.array([u for _, u in rows], np.uint32)
    return join(keys, units, size_class(weigh(units.astype(np.int64))))


def pairs_of(batch: pa.RecordBatch) -> list[tuple[int, int]]:
    return list(zip(batch.column("a").to_pylist(), batch.column("b").to_pylist(), strict=True))


@settings(max_examples=200, deadline=None)
@given(ROWS)
def test_join_connects_what_shares_a_key_in_few_edges(rows: list[tuple[int, int]]) -> None:
    wanted = [(a, b) for key, a in rows for other, b in rows if key == other and a < b]
    edges = joined(rows)
    assert connected(pairs_of(edges)) == connected(wanted)
    assert edges.num_rows == sum(len(part) - 1 for part in connected(wanted))
    for name, size in (("a", "size_a"), ("b", "size_b")):
        assert edges.column(size).to_pylist() == size_class(weigh(edges.column(name).to_numpy().astype(np.int64))).tolist()


def groups_of(tmp_path: Path, parts: list[list[tuple[int, int]]], homes: tuple[int, ...]) -> tuple[dict[int, int], dict]:
    """(unit -> group, notes) of what `group` writes."""
    batches = [joined(part) for part in parts]
    notes = group(iter(batches * 2), tmp_path, partitions=len(parts), homes=homes)
    written = Exchanged(tmp_path / "exchange" / "groups", ("groups",), len(homes))
    placed: dict[int, int] = {}
    for home in range(len(homes)):
        table = written.table(home)
        assert table.column("row").to_pylist() == sorted(table.column("row").to_pylist())
        for row, where in zip(table.column("row").to_pylist(), table.column("group").to_pylist(), strict=True):
            placed[sum(homes[:home]) + row] = where
    return placed, notes


@settings(max_examples=60, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=4), st.integers(0, 31), st.integers(1, 12))
def test_groups_are_whole_components(tmp_path_factory: pytest.TempPathFactory, parts: list, cut: int, load: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(components, "GROUP_BYTES", load << 10)
        patch.setattr(components, "GIANT_BYTES", load << 11)
        placed, notes = groups_of(tmp_path_factory.mktemp("groups"), parts, (cut, 31 - cut, 64))
    parts_of = connected([edge for part in parts for edge in pairs_of(joined(part))])
    assert set(placed) == set().union(*parts_of)
    giants = [part for part in parts_of if placed[min(part)] >= GIANTS]
    assert notes["components"] == len(parts_of)
    assert notes["largest"] == max(map(len, parts_of), default=0)
    assert {placed[min(part)] - GIANTS for part in giants} == set(range(len(giants)))
    assert (notes["giants"], notes["giant_units"]) == (len(giants), sum(map(len, giants)))
    assert {where for where in placed.values() if where < GIANTS} == set(range(notes["groups"]))
    loads: dict[int, int] = {}
    for part in parts_of:
        assert len({placed[unit] for unit in part}) == 1
        weight = sum(int(2 ** (int(c) / 4) / 1024) + 1 for c in size_class(weigh(np.array(sorted(part)))))
        assert (placed[min(part)] >= GIANTS) == (weight > 2 * load)
        loads[placed[min(part)]] = loads.get(placed[min(part)], 0) + weight
    assert all(weight <= 2 * load for where, weight in loads.items() if where < GIANTS)


def test_a_large_bucket_and_a_long_chain(tmp_path: Path) -> None:
    """Neither a clique of edges nor a stack of calls: 200,000 units in one bucket, and as many in a row."""
    n = 200_000
    assert joined([(1, u) for u in range(1000)]).num_rows == 999
    units = np.arange(n, dtype=np.uint32)
    bucket = join(np.ones(n, np.uint64), units, np.ones(n, np.uint8))
    chain = join(np.repeat(np.arange(n, dtype=np.uint64), 2)[1:-1], np.repeat(units, 2)[2:] + n, np.ones(2 * n - 2, np.uint8))
    assert bucket.num_rows == n - 1
    notes = group(iter([bucket, chain] * 2), tmp_path, partitions=2, homes=(3 * n,))
    assert notes["largest"] == n
    assert bucket.schema == EDGES


def test_a_weight_survives_its_byte() -> None:
    weights = np.array([1500, 10_000, 1 << 20, 3 << 30, 1 << 45])
    assert np.abs(2.0 ** (size_class(weights) / 4.0) / weights - 1).max() < 0.1


# --- Verified clusters ---------------------------------------------------------------------------------------------------


def family(rng: random.Random, members: int, words: int = 60, edits: int = 12) -> Iterator[str]:
    """Texts made from one another by edits, so that similarities lie on both sides of any threshold."""
    text = [f"w{rng.randrange(10_000)}" for _ in range(words)]
    for _ in range(members):
        yield " ".join(text)
        for _ in range(rng.randint(0, edits)):
            text[rng.randrange(words)] = f"w{rng.randrange(10_000)}"


def similarity(a: set, b: set) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


def expected(texts: list[str], threshold: float, values: int) -> list[tuple[int, float]]:
    """The rule of corpus/leaders.py in plain Python: (index of the survivor, score); (-1, -1) for the kept."""
    bands, rows = choose_bands(threshold, values)
    documents, keys = document_keys(text_array(texts), values, bands, rows)
    keys_of = {int(d): set(k.tolist()) for d, k in zip(documents, keys, strict=True)}
    signed = signatures(text_array(texts), values)[0] & np.uint64(255)
    sets, kept, found = [set(grams(text)) for text in texts], [], []
    for i in range(len(texts)):
        candidates = [j for j in kept if keys_of.get(i, set()) & keys_of.get(j, set())]
        candidates.sort(key=lambda j: (-int((signed[i] == signed[j]).sum()), j))
        survivor = next((j for j in candidates if similarity(sets[i], sets[j]) >= threshold), -1)
        found.append((survivor, similarity(sets[i], sets[survivor]) if survivor >= 0 else -1.0))
        if survivor < 0:
            kept.append(i)
    return found


def verified(texts: list[str], threshold: float, values: int, window: leaders.Window | None = None) -> list[tuple[int, float]]:
    bands, rows = choose_bands(threshold, values)
    array = text_array(texts)
    window = window or open_window(len(texts), sum(len(t.encode()) for t in texts), values, bands)
    leader, score = find_duplicates(array, np.arange(len(texts)), np.arange(len(texts) + 1), threshold, rows, window)
    entered = np.flatnonzero((score < 0) & (leader >= 0))
    assert leader[entered].tolist() == list(range(len(entered)))  # leaders are numbered as they enter
    return [(int(entered[k]) if s >= 0 else -1, float(s)) for k, s in zip(leader, score, strict=True)]


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from([0.3, 0.5, 0.7, 0.8, 0.95, 1.0]), st.sampled_from([64, 256]))
def test_clusters_are_those_of_the_rule(rng: random.Random, threshold: float, values: int) -> None:
    texts = [text for _ in range(3) for text in family(rng, rng.randint(1, 8))] + ["", "too short", "\0", "a b c d e"]
    rng.shuffle(texts)
    assert verified(texts, threshold, values) == expected(texts, threshold, values)


def test_a_chain_keeps_its_ends() -> None:
    """A ~ B ~ C with A unlike C: B goes, A and C stay."""
    words = [f"w{i}" for i in range(104)]
    more, other = [f"b{i}" for i in range(16)], [f"c{i}" for i in range(16)]
    texts = [" ".join(t) for t in (words, [*words[:88], *more], [*other, *words[16:88], *more])]
    sets = [set(grams(t)) for t in texts]
    assert similarity(sets[0], sets[1]) >= 0.7 and similarity(sets[1], sets[2]) >= 0.7 > similarity(sets[0], sets[2])
    assert [s for s, _ in verified(texts, 0.7, 256)] == [-1, 0, -1]


def test_a_unit_of_several_texts_is_the_union_of_their_shingles() -> None:
    """Shingles do not cross from one text to the next, and the order of texts is not part of the unit."""
    rng = random.Random(1)
    texts = [text for _ in range(4) for text in family(rng, 1, words=40)]
    array = text_array([*texts, texts[3], texts[0], texts[2], texts[1], " ".join(texts)])
    bands, rows = choose_bands(0.7, 256)
    window = open_window(9, 10_000, 256, bands)
    leader, score = find_duplicates(array, np.arange(9), np.array([0, 4, 8, 9]), 0.7, rows, window)
    union = set().union(*(grams(text) for text in texts))
    assert leader.tolist() == [0, 0, 0]
    assert score.tolist() == [-1.0, 1.0, similarity(union, set(grams(" ".join(texts))))]


def test_chunks_of_a_stream_share_one_window() -> None:
    """Cut anywhere, the stream decides as if it were whole; with a small window it forgets, and is still right."""
    rng = random.Random(2)
    texts = [text for _ in range(40) for text in family(rng, 4)]
    rng.shuffle(texts)
    bands, rows = choose_bands(0.7, 256)

    def streamed(units: int, size: int) -> tuple[list[int], list[float], int]:
        window = open_window(units, size, 256, bands)
        found: tuple[list[int], list[float]] = ([], [])
        for start in range(0, len(texts), 37):
            chunk = text_array(texts[start : start + 37])
            leader, score = find_duplicates(chunk, np.arange(len(chunk)), np.arange(len(chunk) + 1), 0.7, rows, window)
            found[0].extend(leader.tolist())
            found[1].extend(score.tolist())
        return *found, forgotten(window)

    whole = [s for _, s in expected(texts, 0.7, 256)]
    assert streamed(len(texts), 200_000)[1:] == (whole, 0)
    for units, size in ((20, 200_000), (160, 6_000)):
        leader, score, lost = streamed(units, size)
        assert lost > 0
        entered = [i for i, s in enumerate(score) if s < 0]
        for i, (number, s) in enumerate(zip(leader, score, strict=True)):
            if s >= 0:
                assert s == similarity(set(grams(texts[i])), set(grams(texts[entered[number]]))) >= 0.7
        assert sum(s < 0 for s in score) >= sum(s < 0 for s in whole)


def test_a_crowd_of_look_alikes_costs_time_in_proportion() -> None:
    """Ten thousand copies and as many that only share half: bounded chains, and all copies still found."""
    rng = random.Random(3)
    shared = " ".join(f"s{i}" for i in range(60))
    texts = [shared + " " + " ".join(f"x{rng.randrange(10**9)}" for _ in range(40)) for _ in range(3000)]
    copies = [texts[rng.randrange(50)] for _ in range(3000)]
    found = verified([*texts, *copies], 0.7, 256)
    assert all(s == -1 for s, _ in found[:3000])
    assert all(texts[s] == copy for (s, _), copy in zip(found[3000:], copies, strict=True) if s >= 0)
    assert sum(s >= 0 for s, _ in found[3000:]) > 2900
