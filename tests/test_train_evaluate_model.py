"""What evaluation asks of a model: bits counted once, generation alone = in a batch = without a cache."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.errors import ConfigError
from corpus.tokenizer import train_bpe
from tests.test_train_attention import TINY
from tests.test_train_hf import CONFIGS
from train.bits import nats, sequence_of, windows
from train.generate import Sampling, choose, generate
from train.model import make_model
from train.subject import Codec, Subject


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # what the command line goes by
    torch.set_num_threads(1)


@functools.cache
def codec() -> Codec:
    path = Path(tempfile.mkdtemp()) / "tokenizer.json"
    path.write_text(train_bpe([Path(__file__).read_text("utf-8")], 300), "utf-8")
    return Codec(path)


@functools.cache
def subject(name: str = "short", context: int = 64) -> Subject:
    """A model with fresh parameters, drawn wide enough that it has opinions."""
    shape = {"tiny": TINY, **CONFIGS}[name]
    room = 1.0 if shape.n_group > 1 else 0.5  # where it would drop tokens, so that evaluation is seen to drop none
    config = dataclasses.replace(shape, vocab_size=320, capacity_factor=room, initializer_range=0.3)
    eos = codec().special["eos"]
    return Subject(name, make_model(config, 1), codec(), context, eos, eos)


def ids(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 300, count)


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(1, 20), st.integers(1, 20))
def test_windows_count_every_label_once(labels: int, window: int, stride: int) -> None:
    if stride > window:
        with pytest.raises(ConfigError, match=f"stride={stride}"):
            list(windows(labels, window, stride))
        return
    found = list(windows(labels, window, stride))
    assert [i for w in found for i in range(w.first, w.stop)] == list(range(labels))
    for before, after in itertools.pairwise(found):
        assert after.first - after.start == window - stride and after.start - before.start == stride
    assert all(w.stop - w.start == window for w in found[:-1])


def brute(who: Subject, tokens: np.ndarray, window: int, stride: int) -> float:
    """A label at a time, each from the inputs its window begins with, alone in a forward pass."""
    total = 0.0
    for i in range(len(tokens) - 1):
        start = 0 if i < window else (i - window) // stride * stride + stride
        logits_V = who.logits(torch.from_numpy(tokens[start : i + 1])[None])[0, -1].double()
        total -= float(logits_V.log_softmax(-1)[tokens[i + 1]])
    return total


@pytest.mark.parametrize(("window", "stride"), [(64, 64), (8, 8), (8, 3), (8, 1)])
def test_nats_are_those_of_brute_force(window: int, stride: int) -> None:
    who = subject()
    sequences = [sequence_of(who, ids(n, n)) for n in (0, 1, 7, 8, 9, 30)]
    assert sequences[0].tolist() == [who.begin, who.end]
    found = nats(who, sequences, window=window, stride=stride, batch_tokens=50)
    with torch.inference_mode():
        assert found == pytest.approx([brute(who, tokens, window, stride) for tokens in sequences], rel=1e-5)


def test_nats_do_not_hang_on_the_batch() -> None:
    who = subject()
    sequences = [sequence_of(who, ids(n, n)) for n in (3, 40, 11)]
    alone = nats(who, sequences, window=16, stride=8, batch_tokens=1)
    assert nats(who, sequences, window=16, stride=8, batch_tokens=4096) == pytest.approx(alone, rel=1e-6)


def slow_greedy(who: Subject, prompt: np.ndarray, most: int) -> list[int]:
    """Without a cache, a batch or anything clever."""
    tokens = prompt.tolist()
    for _ in range(most):
        logits_V = who.logits(torch.tensor([tokens]))[0, -1, : len(who.codec.table)]
        tokens.append(int(logits_V.argmax()))
        if tokens[-1] == who.end:
            break
    return tokens[len(prompt) :]


@pytest.mark.parametrize("name", ["tiny", *CONFIGS])
def test_cached_and_batched_is_one_by_one(name: str) -> None:
    who = subject(name)
    prompts = [ids(n, n) for n in (1, 30, 5, 12, 12, 29)]
    with torch.inference_mode():
        expected = [slow_greedy(who, prompt, 20) for prompt in prompts]
    assert len({tuple(row) for row in expected}) > 3  # not one answer to everything
    for batch_tokens in (1, 120, 10_000):
        found = generate(who, prompts, most=20, batch_tokens=batch_tokens)
        assert [g.text for g in found] == [who.codec.decode([i for i in row if i != who.end]) for row in expected]
        assert [g.tokens for g in found] == [len(row) for row in expected]
        assert [g.why for g in found] == ["end" if row[-1] == who.end else "length" for row in expected]


def test_a_stop_cuts_where_it_first_stands() -> None:
    who = subject()
    whole = generate(who, [ids(3, 9)], most=30)[0].text
    stop = whole[5:8]
    found = generate(who, [ids(3, 9)], most=30, stops=[b"never there", stop])[0]
    assert found.text == whole[: whole.index(stop)] and found.why == "stop" and found.tokens < 30


def test_samples_hang_on_their_key_only() -> None:
    who = subject()
    prompts = [ids(n, n) for n in (4, 9, 20)]
    sampling = Sampling(1.0, 0.9)
    together = generate(who, prompts, most=12, sampling=sampling, keys=[5, 6, 7])
    alone = [generate(who, [p], most=12, sampling=sampling, keys=[k])[0] for p, k in zip(prompts, (5, 6, 7))]
    assert together == alone
    assert len({generate(who, prompts[:1], most=12, sampling=sampling, keys=[k])[0].text for k in range(20)}) > 10


def test_choices_have_the_asked_distribution() -> None:
    shares = torch.tensor([0.5, 0.15, 0.3, 0.05])
    logits_BV = shares.log().expand(4000, 4)
    for sampling, expected in (
        (Sampling(1.0, 1.0), shares),
        (Sampling(0.5, 1.0), shares**2 / (shares**2).sum()),
        (Sampling(1.0, 0.79), torch.tensor([0.625, 0, 0.375, 0])),
        (Sampling(1.0, 0.1), torch.tensor([1.0, 0, 0, 0])),
        (Sampling(0.0, 1.0), torch.tensor([1.0, 0, 0, 0])),
    ):
        chosen = choose(logits_BV, range(4000), 3, sampling)
        seen = torch.bincount(chosen, minlength=4) / 4000
        assert (seen - expected).abs().max() < 0.03 and (seen[expected == 0] == 0).all()


def test_what_does_not_fit_is_refused() -> None:
    who = subject()
    with pytest.raises(ConfigError, match=r"prompt 1 has 60 tokens; 1 to 54 expected, for 10 more"):
        generate(who, [ids(0, 3), ids(0, 60)], most=10)
    with pytest.raises(ConfigError, match="prompt 0 has 0 tokens"):
        generate(who, [ids(0, 0)], most=10)
    with pytest.raises(ConfigError, match=r"temperature=-1.0"):
        generate(who, [ids(0, 3)], most=1, sampling=Sampling(-1.0))
    small = make_model(dataclasses.replace(TINY, vocab_size=64), 0)
    with pytest.raises(ConfigError, match="has 305 ids, it a vocabulary of 64"):
        Subject("it", small, codec(), 64, 0, 0)


def test_a_codec_goes_there_and_back() -> None:
    texts = ["naïve €uro\n", "", "\U0001f469\u200d\U0001f467", "<｜end▁of▁sentence｜>"]
    for text, row in zip(texts, codec().encode(texts), strict=True):
        assert codec().decode(row.tolist()).decode() == text
        assert not set(row.tolist()) & set(codec().special.values())
    assert math.isfinite(sum(map(len, codec().table)))
