"""order=megatron beside megatron-core's own GPTDataset, on the same files."""

from __future__ import annotations

import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corpus.order import MegatronOrder
from corpus.tokens import TokenShards
from tests.test_train_attention import TINY
from tests.test_train_data import write_shards
from train.config import TrainConfig
from train.data import Reader, Stream
from train.sources import open_data, streams


@pytest.fixture(scope="module")
def megatron() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gpt = pytest.importorskip("megatron.core.datasets.gpt_dataset")
        indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset")
        from megatron.core.datasets.utils import Split
    return types.SimpleNamespace(gpt=gpt, indexed=indexed, train=Split.train)


def theirs(megatron: Any, prefix: Path, documents: np.ndarray, samples: int, seed: int, seq_len: int) -> Any:
    tokenizer = types.SimpleNamespace(vocab_size=70_000, eod=0, pad=-1, special_tokens_dict={}, unique_identifiers={})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = megatron.gpt.GPTDatasetConfig(
            random_seed=seed,
            sequence_length=seq_len,
            split="1,0,0",
            path_to_cache=str(prefix.parent / f"cache-{seed}-{seq_len}-{samples}"),
            tokenizer=tokenizer,
            reset_position_ids=False,
            reset_attention_mask=False,
            eod_mask_loss=False,
            create_attention_mask=False,
        )
        low = megatron.indexed.IndexedDataset(str(prefix))
        return megatron.gpt.GPTDataset(low, str(prefix), documents.astype(np.int32), samples, megatron.train, config)


@pytest.mark.parametrize("seed", [1, 1234])
@pytest.mark.parametrize(
    ("seq_len", "epochs"),
    [(16, 0.4), (16, 1.0), (16, 2.1), (16, 2.9), (33, 1.5), (7, 5.79), (7, 5.81), (200, 3.0)],  # last epochs apart and not
)
def test_every_sample_is_megatrons(tmp_path: Path, megatron: Any, seed: int, seq_len: int, epochs: float) -> None:
    dice = np.random.default_rng(seed)
    lengths = dice.integers(0, 60, 37)
    lengths[[0, 11]] = 0, 300  # empty, and longer than a sample
    ends = np.cumsum(lengths).tolist()
    texts = [list(range(end - n, end)) for n, end in zip(lengths.tolist(), ends)]
    shards = TokenShards(write_shards(tmp_path / "s", texts, 70_000, per_shard=100))
    documents = np.setdiff1d(np.arange(37), [3, 20])  # a split leaves some out
    samples = max(1, int(lengths[documents].sum() * epochs) // seq_len)
    dataset = theirs(megatron, tmp_path / "s" / "tokens" / "00000", documents, samples, seed, seq_len)
    order = MegatronOrder(shards.lengths, documents, seed, seq_len, samples)
    assert order.samples == len(dataset) >= samples
    assert np.array_equal(order.epoch(0).documents, dataset.document_index)
    assert np.array_equal(order._shuffle, dataset.shuffle_index)
    batch = Stream([Reader("data", shards, order)]).batch(0, len(dataset))
    for i in range(len(dataset)):
        assert np.array_equal(batch.tokens_BL1[i, :-1], dataset[i]["tokens"]), i
        assert np.array_equal(batch.tokens_BL1[i, 1:], dataset[i]["labels"]), i


def test_a_run_in_megatrons_order_reads_megatrons_samples(tmp_path: Path, megatron: Any) -> None:
    shards = write_shards(tmp_path / "s", [list(range(40 * i, 40 * i + 25)) for i in range(30)], 70_000, per_shard=100)
    config = TrainConfig(
        name="m",
        model=TINY,
        data=str(shards),
        steps=50,
        batch=3,
        seq_len=11,
        lr=1.0,
        warmup=1,
        order="megatron",
        seed=7,
        validation=0.0,
    )
    train, held = streams(config, open_data(config, tmp_path))
    dataset = theirs(megatron, shards / "tokens" / "00000", np.arange(30), 150, 7, 11)
    assert held is None and np.array_equal(train.batch(0, 150).tokens_BL1[:, 1:], [dataset[i]["labels"] for i in range(150)])
    assert train.epochs(150) == {"data": 150 * 11 / 750}


def test_the_order_depends_on_the_number_of_samples() -> None:
    """Why it is not the default."""
    lengths = np.full(50, 20)
    short, long = (MegatronOrder(lengths, np.arange(50), 1, 10, samples) for samples in (90, 110))
    assert not np.array_equal(short.starts(np.arange(90))[1], long.starts(np.arange(90))[1])
