"""The order arithmetic: epochs, FIM's lengths, and the way from a document to its samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.order import (
    FIM_LEAST,
    FIM_SENTINELS,
    MegatronOrder,
    Order,
    fim_origins,
    fim_ranges,
    order_of,
    parts,
    places,
)

LENGTHS = st.lists(st.integers(0, 30), min_size=1, max_size=20).filter(lambda n: sum(n) > 12)


def read(order: Order | MegatronOrder, number: int) -> list[tuple[int, int]]:
    """(document, place in it as it is in that epoch) of every id of a sample."""
    (epoch,), (start,) = (x.tolist() for x in order.starts(np.array([number])))
    return [(p.document, k) for p in parts(order, epoch, start) for k in range(p.first, p.stop)]


@settings(deadline=None, max_examples=60)
@given(LENGTHS, st.integers(0, 9), st.floats(0, 1), st.integers(1, 12))
def test_every_id_of_an_epoch_is_read_once_sentinels_included(lengths: list[int], seed: int, rate: float, seq_len: int) -> None:
    lengths_D = np.array(lengths)
    documents = np.arange(len(lengths))[::2]
    order = Order(lengths_D, documents, seed, seq_len, rate)
    eligible = int((lengths_D[documents] >= FIM_LEAST).sum())
    assert order.tokens == lengths_D[documents].sum() + FIM_SENTINELS * round(eligible * rate)
    for epoch in (0, 3):
        inputs = [place for i in range(order.samples) for place in read(order, epoch * order.samples + i)[:-1]]
        assert len(inputs) == len(set(inputs)) == order.samples * seq_len
        in_order, _, fim = order.epoch(epoch)
        assert fim.sum() == round(eligible * rate) and (lengths_D[in_order[fim]] >= FIM_LEAST).all()
        longer = dict(zip(in_order.tolist(), (lengths_D[in_order] + FIM_SENTINELS * fim).tolist()))
        assert all(place < longer[document] for document, place in inputs)


def test_fim_is_drawn_anew_in_every_epoch_and_for_every_seed() -> None:
    lengths = np.full(1000, 50)
    drawn = [
        frozenset(order.epoch(e).documents[order.epoch(e).fim].tolist())
        for order in (Order(lengths, np.arange(1000), seed, 8, 0.5) for seed in (0, 1))
        for e in (0, 1)
    ]
    assert len(set(drawn)) == 4 and all(len(d) == 500 for d in drawn)
    assert 200 < len(drawn[0] & drawn[1]) < 300  # independent, about 250
    order = Order(lengths, np.arange(1000), 0, 8, 0.5)
    cuts = np.array([order.cuts(d, e, 49) for d in range(1000) for e in (0, 1)])
    assert (cuts[:, 0] <= cuts[:, 1]).all() and cuts.min() == 0 and cuts.max() == 49
    assert abs(cuts.mean() - 24.5) < 1.5  # two uniform positions
    assert (cuts[::2] != cuts[1::2]).any(1).mean() > 0.9


@settings(deadline=None, max_examples=100)
@given(
    st.integers(1, 30), st.booleans(), st.tuples(st.integers(0, 30), st.integers(0, 30)), st.tuples(*[st.integers(0, 31)] * 2)
)
def test_fim_ranges_follow_the_ids(content: int, eos: bool, cut: tuple[int, int], span: tuple[int, int]) -> None:
    a, b = sorted(min(x, content) for x in cut)
    n = content + eos
    first, stop = sorted(min(x, n) for x in span)
    ids = list(range(n))
    transformed = [-1, *ids[:a], -1, *ids[b:content], -1, *ids[a:b], *ids[content:]]
    found = [transformed[k] for x, y in fim_ranges([(first, stop)], content, a, b) for k in range(x, y)]
    assert sorted(found) == ids[first:stop]
    first, stop = sorted(min(x, len(transformed)) for x in span)
    back = [k for x, y in fim_origins(first, stop, content, a, b) for k in range(x, y)]
    assert back == [i for i in transformed[first:stop] if i >= 0]


def test_a_suffix_comes_first_in_its_share_of_the_documents() -> None:
    """The other cuts are those of without, and so is every length: a share moves no sample."""
    lengths = np.full(2000, 50)
    without, some, every = (Order(lengths, np.arange(2000), 3, 8, 0.5, spm_rate) for spm_rate in (0.0, 0.25, 1.0))
    assert (some.epoch(1).ends == without.epoch(1).ends).all() and some.samples == without.samples
    for epoch in (0, 1):
        cuts = [[order.cuts(d, epoch, 49) for d in range(2000)] for order in (without, some, every)]
        first = [two[0] != one[0] for one, two in zip(*cuts[:2])]
        assert 420 < sum(first) < 560  # 490 of 2000: a fiftieth of those drawn had 0 before
        assert all(two == ((0, one[1]) if moved else one) for one, two, moved in zip(*cuts[:2], first))
        assert cuts[2] == [(0, b) for _, b in cuts[0]]


@settings(deadline=None, max_examples=60)
@given(LENGTHS, st.integers(0, 9), st.sampled_from([0.0, 0.6]), st.sampled_from([0.0, 0.5]), st.integers(1, 12), st.booleans())
def test_places_find_the_samples_that_hold_a_document(
    lengths: list[int], seed: int, rate: float, spm_rate: float, seq_len: int, megatron: bool
) -> None:
    """Against reading every sample; for Megatron's order over three epochs in one."""
    lengths_D, everything = np.array(lengths), np.arange(len(lengths))
    order: Order | MegatronOrder = Order(lengths_D, everything, seed, seq_len, rate, spm_rate)
    if megatron:
        order = MegatronOrder(lengths_D, everything, seed, seq_len, 3 * int(order.samples) - 1)
    for epoch in (0,) if megatron else (0, 2):
        numbers = np.arange(order.samples) + epoch * order.samples
        held = {int(i): read(order, int(i)) for i in numbers}
        _, _, fim = order.epoch(epoch)
        for document in everything.tolist():
            n = lengths[document]
            span = (n // 3, n)
            transformed = bool(fim[order.epoch(epoch).documents == document].any())
            at = fim_ranges([span], n - 1, *order.cuts(document, epoch, n - 1)) if transformed else [span]
            wanted = {(document, k) for x, y in at for k in range(x, y)}
            expected = [i for i, ids in held.items() if wanted.intersection(ids)]
            assert places(order, epoch, document, n - 1, [span]).tolist() == expected


def test_a_longer_run_reads_the_same_before() -> None:
    plan = {"order": "keyed", "seq_len": 9, "fim_rate": 0.5, "fim_spm_rate": 0.5, "validation": 0.1, "samples": 10}
    lengths = np.random.default_rng(0).integers(0, 50, 60)
    short, out = order_of(plan, {"seed": 5}, lengths)
    long, _ = order_of({**plan, "samples": 10_000}, {"seed": 5}, lengths)
    assert len(out) and [read(short, i) for i in range(400)] == [read(long, i) for i in range(400)]
    assert not {document for i in range(400) for document, _ in read(short, i)} & set(out.tolist())


def test_too_little_to_hold_out_is_not_held_out() -> None:
    plan = {"order": "keyed", "seq_len": 9, "fim_rate": 0.0, "validation": 0.1, "samples": 10}
    order, out = order_of(plan, {"seed": 5}, np.array([4, 60, 5, 5]))
    assert len(out) == 0 and order.tokens == 74


def test_megatron_has_no_samples_beyond_those_laid_out() -> None:
    order = MegatronOrder(np.array([10, 11]), np.arange(2), 0, 4, 5)
    assert order.samples == 5
    with pytest.raises(IndexError, match="laid out for 5"):
        order.starts(np.array([5]))
