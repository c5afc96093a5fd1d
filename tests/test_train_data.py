"""The laws of the data order: a sample is a function of its number, whatever the run around it."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.errors import InputError
from corpus.order import FIM_SENTINELS, Order, held_out
from corpus.tokens import TokenShards, TokenWriter, write_tokens_json
from train.data import Reader, Stream, exempt, fim_slice


def write_shards(
    folder: Path, documents: list[list[int]], vocab: int, per_shard: int = 7, special: dict[str, int] | None = None
) -> Path:
    """Token shards as encode_tokens leaves them, `per_shard` documents in each."""
    (folder / "tokens").mkdir(parents=True)
    for i in range(0, len(documents), per_shard):
        with TokenWriter(folder / "tokens" / f"{i:05d}", vocab) as writer:
            for document in documents[i : i + per_shard]:
                writer.add(np.array(document, np.int64), np.array([len(document)]))
    write_tokens_json(folder, vocab, special or {"eos": 0})
    return folder


def distinct(tmp_path: Path, lengths: list[int], vocab: int = 70_000) -> TokenShards:
    """Documents whose tokens count up from one to the next, so that every token says where it is from."""
    ends = np.cumsum(lengths)
    documents = [list(range(end - n, end)) for n, end in zip(lengths, ends.tolist())]
    return TokenShards(write_shards(tmp_path / "shards", documents, vocab))


LENGTHS = [5, 1, 0, 40, 3, 17, 0, 2, 90, 8, 1, 1, 33]  # empty, tiny, longer than a sample; 201 tokens


def everything(shards: TokenShards) -> np.ndarray:
    return np.arange(shards.documents)


def stream_of(
    shards: TokenShards, documents: np.ndarray, seed: int, seq_len: int, fim_rate: float = 0.0, spm_rate: float = 0.0
) -> Stream:
    return Stream([Reader("data", shards, Order(shards.lengths, documents, seed, seq_len, fim_rate, spm_rate))])


@pytest.mark.parametrize("vocab", [300, 70_000])  # uint16 and int32 shards
def test_an_epoch_reads_its_stream_once_in_overlapping_samples(tmp_path: Path, vocab: int) -> None:
    shards = distinct(tmp_path, LENGTHS, vocab)
    assert shards.dtype == ("<u2" if vocab == 300 else "<i4")
    stream = stream_of(shards, everything(shards), 3, 9)
    assert stream.samples == 200 // 9
    for epoch in (0, 1):
        rows = stream.batch(epoch * stream.samples, stream.samples).tokens_BL1
        assert rows.dtype == np.int64
        inputs = rows[:, :-1].flatten()
        assert len(set(inputs.tolist())) == len(inputs) == 22 * 9  # nothing twice; 3 of 201 tokens left over
        followers = {int(a): int(b) for row in rows for a, b in itertools.pairwise(row)}
        starts = set(np.cumsum([0, *LENGTHS]).tolist())
        assert all(b == a + 1 or b in starts for a, b in followers.items())  # documents run on, and end where they end


def test_samples_do_not_depend_on_the_batch_or_on_what_was_read_before(tmp_path: Path) -> None:
    shards = distinct(tmp_path, LENGTHS)
    reference = stream_of(shards, everything(shards), 3, 9).batch(0, 60)
    for start in range(0, 60, 7):  # a restored run starts anywhere, with another batch size
        fresh = stream_of(TokenShards(shards.folder), everything(shards), 3, 9).batch(start, 5)
        count = min(5, 60 - start)
        assert np.array_equal(fresh.tokens_BL1[:count], reference.tokens_BL1[start : start + count])
        assert np.array_equal(fresh.documents_BL1[:count], reference.documents_BL1[start : start + count])


def test_epochs_and_seeds_have_orders_of_their_own(tmp_path: Path) -> None:
    shards = distinct(tmp_path, LENGTHS)
    stream, other = (stream_of(shards, everything(shards), seed, 9) for seed in (3, 4))
    first, second = (stream.batch(epoch * 22, 22).tokens_BL1 for epoch in (0, 1))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other.batch(0, 22).tokens_BL1)


def test_documents_name_the_document_of_every_token(tmp_path: Path) -> None:
    shards = distinct(tmp_path, LENGTHS)
    batch = stream_of(shards, everything(shards), 0, 9).batch(0, 30)
    owner = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    assert np.array_equal(batch.documents_BL1, owner[batch.tokens_BL1])


def test_held_out_documents_are_whole_few_and_never_trained_on(tmp_path: Path) -> None:
    lengths = np.array([50] * 100 + [10_000, 0])
    out = held_out(lengths, 0.05)
    assert 100 not in out and 101 not in out  # the giant would be two thirds of everything
    assert 0.04 * lengths.sum() < lengths[out].sum() <= 0.05 * lengths.sum()
    assert len(held_out(lengths, 0.0)) == 0
    assert len(held_out(np.array([70]), 0.5)) == 0  # a single document stays for training
    shards = distinct(tmp_path, LENGTHS)
    out = held_out(shards.lengths, 0.2)
    kept = np.setdiff1d(everything(shards), out)
    read = stream_of(shards, kept, 0, 9).batch(0, 50).documents_BL1
    assert len(out) and not set(read.flatten().tolist()) & set(out.tolist())


def test_a_token_outside_the_vocabulary_is_named(tmp_path: Path) -> None:
    shards = TokenShards(write_shards(tmp_path / "a", [[1, 2, 3], [4, 250, 5]], 100))
    with pytest.raises(InputError, match="document 1 has token 250"):
        stream_of(shards, everything(shards), 0, 5).batch(0, 1)


def test_too_few_tokens_for_one_sample(tmp_path: Path) -> None:
    shards = distinct(tmp_path, [3, 4])
    with pytest.raises(InputError, match=r"7 tokens to read, at least seq_len \+ 1 = 8"):
        stream_of(shards, everything(shards), 0, 7)
    assert stream_of(shards, everything(shards), 0, 6).samples == 1


def test_the_order_is_that_of_revision_1(tmp_path: Path) -> None:
    """Another order is another run: train.config.REVISION would have to be raised."""
    shards = distinct(tmp_path, LENGTHS)
    tokens = stream_of(shards, everything(shards), 3, 9).batch(0, 60).tokens_BL1
    assert xxhash.xxh3_64_hexdigest(tokens.astype("<i8").tobytes()) == "de72f9e3b5c0ab20"


SPECIAL = {"eos": 0, "fim_hole": 900, "fim_begin": 901, "fim_end": 902}
DOCUMENTS = st.lists(st.lists(st.integers(1, 899), max_size=25), min_size=1, max_size=12)


def fim_shards(folder: Path, documents: list[list[int]], eos: bool) -> TokenShards:
    write_shards(folder, [[*d, 0] if eos else d for d in documents], 1000)
    write_tokens_json(folder, 1000, SPECIAL)
    return TokenShards(folder)


def undone(ids: list[int]) -> list[int]:
    """A transformed document as it was: sentinels out, middle back in between."""
    assert ids[0] == 901 and all(ids.count(mark) == 1 for mark in (900, 901, 902))
    hole, end = ids.index(900), ids.index(902)
    assert hole < end  # PSM: begin prefix hole suffix end middle
    tail = [0] if ids[-1] == 0 else []
    return ids[1:hole] + ids[end + 1 : len(ids) - len(tail)] + ids[hole + 1 : end] + tail


@settings(deadline=None, max_examples=60)
@given(DOCUMENTS, st.booleans(), st.sampled_from([0.3, 1.0]), st.sampled_from([0.0, 0.5]), st.integers(0, 3), st.integers(1, 7))
def test_fim_undone_is_the_document(
    documents: list[list[int]], eos: bool, rate: float, spm_rate: float, seed: int, seq_len: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        shards = fim_shards(Path(name) / "s", documents, eos)
        if shards.tokens <= seq_len:
            return
        stream = stream_of(shards, everything(shards), seed, seq_len, rate, spm_rate)
        order = stream.readers[0].order
        batch = stream.batch(2 * order.samples, order.samples)
        starts = np.argsort(order.starts(np.arange(2 * order.samples, 3 * order.samples))[1])
        in_order, ends, fim = order.epoch(2)
        ids = np.concatenate([batch.tokens_BL1[r, :-1] for r in starts] + [batch.tokens_BL1[starts[-1], -1:]])
        owners = np.concatenate([batch.documents_BL1[r, :-1] for r in starts] + [batch.documents_BL1[starts[-1], -1:]])
        for document, end, changed in zip(in_order.tolist(), ends.tolist(), fim.tolist()):
            original = shards.document(document).tolist()
            found = ids[end - len(original) - FIM_SENTINELS * changed : end].tolist()
            if end > len(ids):
                continue  # the end of the epoch is not read
            assert set(owners[end - len(found) : end].tolist()) <= {document}
            assert (undone(found) if changed else found) == original


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.data())
def test_a_slice_of_a_transformed_document_is_the_slice(ids: list[int], data: st.DataObject) -> None:
    content = len(ids) - data.draw(st.integers(0, 1))
    a, b = sorted(data.draw(st.tuples(st.integers(0, content), st.integers(0, content))))
    first, count = data.draw(st.integers(0, len(ids) + 3)), data.draw(st.integers(0, len(ids) + 3))
    whole = [90, *ids[:a], 91, *ids[b:content], 92, *ids[a:b], *ids[content:]]
    sliced = fim_slice(np.array(ids, np.uint16), content, a, b, np.array([90, 91, 92]), first, first + count)
    assert sliced.dtype == np.int64 and sliced.tolist() == whole[first : first + count]


def test_a_document_transformed_already_is_not_transformed_again(tmp_path: Path) -> None:
    shards = fim_shards(tmp_path / "s", [[901, 5, 900, 6, 7, 902, 8]], True)
    with pytest.raises(InputError, match=r"document 0 is transformed for FIM already; set fim_rate=0"):
        stream_of(shards, everything(shards), 0, 4, 1.0).batch(0, 1)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_ranks_read_their_part_of_the_batch_whatever_they_read_before(tmp_path: Path, ranks: int) -> None:
    shards = fim_shards(tmp_path / "s", [list(range(1 + 40 * i, 30 + 40 * i)) for i in range(20)], True)

    def fresh() -> Stream:
        orders = [Order(shards.lengths, np.arange(20)[k::2], k, 9, 0.5) for k in (0, 1)]
        return Stream([Reader(f"s{k}", shards, order, 1 + k, k, 100 * k) for k, order in enumerate(orders)])

    local = 12 // ranks
    for first in (0, 84, 12 * 10**6):
        whole = fresh().batch(first, 12)
        each = []
        for rank in reversed(range(ranks)):
            stream = fresh()
            if rank % 2:
                stream.batch(7 * rank, 5)
            each.insert(0, stream.batch(first + rank * local, local))
        for field in ("tokens_BL1", "documents_BL1", "sources_B"):
            assert np.array_equal(np.concatenate([getattr(b, field) for b in each]), getattr(whole, field))
        assert set(whole.sources_B.tolist()) == {0, 1} and (whole.documents_BL1 // 100 == whole.sources_B[:, None]).all()


def test_a_tenth_of_the_samples_loses_no_token_the_same_for_any_run() -> None:
    """V2 section 2.2.4. Keyed by the sample's number alone: batches, ranks and a resume see the same tenth."""
    assert np.flatnonzero(exempt(0, 60).numpy()).tolist() == [1, 5, 12, 13, 14, 16, 17, 26, 27, 37, 46, 53]
    whole = exempt(0, 100_000).numpy()
    assert abs(whole.mean() - 0.1) < 0.003  # three standard deviations
    for first, count in ((0, 1), (37, 5), (99_990, 10)):
        assert np.array_equal(exempt(first, count).numpy(), whole[first : first + count])
    gaps = np.diff(np.flatnonzero(whole))
    assert gaps.min() == 1 and gaps.max() > 50  # scattered, not every tenth
