"""The laws of the data order: a sample is a function of its number, whatever the run around it."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.errors import InputError
from corpus.tokens import TokenShards, TokenWriter, write_tokens_json
from train.data import Stream, held_out, permuted, unigram_entropy


def write_shards(folder: Path, documents: list[list[int]], vocab: int, per_shard: int = 7) -> Path:
    """Token shards as encode_tokens leaves them, `per_shard` documents in each."""
    (folder / "tokens").mkdir(parents=True)
    for i in range(0, len(documents), per_shard):
        with TokenWriter(folder / "tokens" / f"{i:05d}", vocab) as writer:
            for document in documents[i : i + per_shard]:
                writer.add(np.array(document, np.int64), np.array([len(document)]))
    write_tokens_json(folder, vocab, {"eos": 0})
    return folder


def distinct(tmp_path: Path, lengths: list[int], vocab: int = 70_000) -> TokenShards:
    """Documents whose tokens count up from one to the next, so that every token says where it is from."""
    ends = np.cumsum(lengths)
    documents = [list(range(end - n, end)) for n, end in zip(lengths, ends.tolist())]
    return TokenShards(write_shards(tmp_path / "shards", documents, vocab))


LENGTHS = [5, 1, 0, 40, 3, 17, 0, 2, 90, 8, 1, 1, 33]  # empty, tiny, longer than a sample; 201 tokens


def everything(shards: TokenShards) -> np.ndarray:
    return np.arange(shards.documents)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_permuted_is_a_permutation_at_any_place(count: int, key: int) -> None:
    whole = permuted(np.arange(count), count, key)
    assert np.array_equal(np.sort(whole), np.arange(count))
    assert permuted(np.array([count - 1]), count, key)[0] == whole[-1]


def test_permuted_mixes() -> None:
    a, b = (permuted(np.arange(1000), 1000, key) for key in (1, 2))
    assert (a == b).sum() < 10 and (a == np.arange(1000)).sum() < 10
    assert abs(np.corrcoef(a, np.arange(1000))[0, 1]) < 0.1
    assert (np.diff(a) == 1).sum() < 10


@pytest.mark.parametrize("vocab", [300, 70_000])  # uint16 and int32 shards
def test_an_epoch_reads_its_stream_once_in_overlapping_samples(tmp_path: Path, vocab: int) -> None:
    shards = distinct(tmp_path, LENGTHS, vocab)
    assert shards.dtype == ("<u2" if vocab == 300 else "<i4")
    stream = Stream(shards, everything(shards), seed=3, seq_len=9)
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
    reference = Stream(shards, everything(shards), 3, 9).batch(0, 60)
    for start in range(0, 60, 7):  # a restored run starts anywhere, with another batch size
        fresh = Stream(TokenShards(shards.folder), everything(shards), 3, 9).batch(start, 5)
        count = min(5, 60 - start)
        assert np.array_equal(fresh.tokens_BL1[:count], reference.tokens_BL1[start : start + count])
        assert np.array_equal(fresh.documents_BL1[:count], reference.documents_BL1[start : start + count])


def test_epochs_and_seeds_have_orders_of_their_own(tmp_path: Path) -> None:
    shards = distinct(tmp_path, LENGTHS)
    stream, other = (Stream(shards, everything(shards), seed, 9) for seed in (3, 4))
    first, second = (stream.batch(epoch * 22, 22).tokens_BL1 for epoch in (0, 1))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other.batch(0, 22).tokens_BL1)


def test_documents_name_the_document_of_every_token(tmp_path: Path) -> None:
    shards = distinct(tmp_path, LENGTHS)
    batch = Stream(shards, everything(shards), 0, 9).batch(0, 30)
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
    read = Stream(shards, kept, 0, 9).batch(0, 50).documents_BL1
    assert len(out) and not set(read.flatten().tolist()) & set(out.tolist())


def test_unigram_entropy_by_hand(tmp_path: Path) -> None:
    shards = TokenShards(write_shards(tmp_path / "a", [[1, 1, 2], [], [3]], 10))
    assert unigram_entropy(shards) == pytest.approx(1.5 * np.log(2))  # shares 1/2, 1/4, 1/4


def test_a_token_outside_the_vocabulary_is_named(tmp_path: Path) -> None:
    shards = TokenShards(write_shards(tmp_path / "a", [[1, 2, 3], [4, 250, 5]], 100))
    with pytest.raises(InputError, match="token 250, outside the vocabulary of 100"):
        unigram_entropy(shards)
    with pytest.raises(InputError, match="document 1 has token 250"):
        Stream(shards, everything(shards), 0, 5).batch(0, 1)


def test_too_few_tokens_for_one_sample(tmp_path: Path) -> None:
    shards = distinct(tmp_path, [3, 4])
    with pytest.raises(InputError, match=r"7 tokens in 2 documents, at least seq_len \+ 1 = 8"):
        Stream(shards, everything(shards), 0, 7)
    assert Stream(shards, everything(shards), 0, 6).samples == 1
