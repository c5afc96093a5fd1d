"""The tiny model learns what is there: a document by heart, and a middle from what follows it."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from bench.learning import KneserNey
from tests.test_train_data import write_shards
from tests.test_train_loop import MODEL, quiet, toy
from train import loop

SPECIAL = {"eos": 17, "fim_begin": 18, "fim_hole": 19, "fim_end": 20}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_a_repeated_document_is_learnt_by_heart(tmp_path: Path) -> None:
    """64 random tokens: ln 61 = 4.1 nats each for whoever does not remember."""
    dice = random.Random(1)
    document = [dice.randrange(61) for _ in range(64)]
    shards = write_shards(tmp_path / "one", [document] * 40, 61)
    model = dataclasses.replace(MODEL, hidden_size=32, num_hidden_layers=2, moe_intermediate_size=16)
    # Two documents a sample: the first tokens of a cut-off document can only be guessed.
    config = toy(
        tmp_path, data=str(shards), model=model, steps=150, seq_len=128, warmup=10, validation=0.0, checkpoint_every=150
    )
    loop.train(dataclasses.replace(config, out=str(tmp_path / "run")), tmp_path, say=quiet)
    run = loop.open_run(dataclasses.replace(config, out=str(tmp_path / "run")), tmp_path)
    said = document[:8]
    with torch.no_grad():
        while len(said) < 64:
            said.append(int(run.model(torch.tensor([said])).logits_BSV[0, -1].argmax()))
    assert said == document


def test_a_middle_is_predicted_better_with_what_follows(tmp_path: Path) -> None:
    """Documents of a word and, after it, the word's partner: with the partner in the suffix the word is known."""
    dice = random.Random(2)
    documents = []
    for _ in range(600):
        word = dice.randrange(8)
        documents.append([8, word, word + 9, 8, 17])
    shards = write_shards(tmp_path / "pairs", documents, 21, special=SPECIAL)
    model = dataclasses.replace(MODEL, hidden_size=32, num_hidden_layers=2, moe_intermediate_size=16)
    config = toy(
        tmp_path, data=str(shards), model=model, steps=400, batch=16, seq_len=32, lr=1e-2, warmup=10, fim_rate=0.9,
        document_mask=True, validation=0.0, checkpoint_every=400, out=str(tmp_path / "run"),
    )  # fmt: skip
    loop.train(config, tmp_path, say=quiet)
    run = loop.open_run(config, tmp_path)
    losses = {True: 0.0, False: 0.0}
    for word in range(8):
        for shown in (True, False):
            row = [18, 8, 19, *([word + 9, 8] if shown else []), 20]
            with torch.no_grad():
                logits = run.model(torch.tensor([row])).logits_BSV[0, -1]
            losses[shown] += float(F.cross_entropy(logits, torch.tensor(word))) / 8
    assert losses[False] > 1.5 and losses[True] < 0.5, losses  # ln 8 = 2.1


def test_the_n_gram_baseline_is_kneser_neys() -> None:
    """A distribution in every context; and "francisco", frequent after one word only, is unlikely after a new one."""
    rows = torch.tensor([[0, 1, 0, 1, 0, 1, 2, 3, 4, 3, 5, 3]]).numpy()
    model = KneserNey(rows, 2, 6)
    for context in ((0,), (1,), (3,), (5,), (2, 4)):
        assert sum(model.probability(context, token) for token in range(6)) == pytest.approx(1)
    assert model.probability((0,), 1) > 0.6
    # 1 occurs three times, always after 0; 3 three times, after three words: seldom and often seen as something new.
    assert model.probability((), 1) < model.probability((), 3)
