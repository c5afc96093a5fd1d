"""Learning rate, batch and place in the data by step: the papers' forms, against schedules counted step by step."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.errors import ConfigError
from tests.test_train_attention import TINY
from tests.test_train_loop import log, quiet, same_run, toy
from train import loop
from train.config import Layout, TrainConfig, check_layout, fingerprint
from train.schedule import batch_of, learning_rate, samples_before, step_of
from train.settings import apply_settings

CONFIG = TrainConfig(name="toy", model=TINY, data="shards", steps=100, batch=8, seq_len=16, lr=1.0, warmup=10)


def ramped(**changes: object) -> TrainConfig:
    return dataclasses.replace(CONFIG, **{"batch_start": 2, "batch_multiple": 2, "batch_ramp": 16 * 30, **changes})


def counted(config: TrainConfig) -> list[tuple[int, int]]:
    """(samples before, batch) of every step, by adding up: the ramp in equal parts, one a size, by where a step begins."""
    out, before = [], 0
    sizes = (
        [config.batch] if config.batch_start is None else list(range(config.batch_start, config.batch, config.batch_multiple))
    )
    ramp = -(-config.batch_ramp // config.seq_len)
    for _ in range(config.steps + 1):
        part = next((n for n in range(len(sizes)) if before < -(-ramp * (n + 1) // len(sizes))), None)
        size = config.batch if part is None else sizes[part]
        out.append((before, size))
        before += size
    return out


@given(
    start=st.integers(1, 40), growths=st.integers(1, 12), multiple=st.integers(1, 9), ramp=st.integers(1, 5000),
    length=st.integers(1, 20),
)  # fmt: skip
def test_the_ramp_is_the_one_counted(start: int, growths: int, multiple: int, ramp: int, length: int) -> None:
    config = ramped(
        batch_start=start, batch=start + growths * multiple, batch_multiple=multiple, batch_ramp=ramp, seq_len=length
    )
    expected = counted(config)
    assert [(samples_before(step, config), batch_of(step, config)) for step in range(config.steps + 1)] == expected
    assert all((size - start) % multiple == 0 for _, size in expected)
    for step, (before, size) in enumerate(expected):
        assert step_of(before, config) == step_of(before + size - 1, config) == step


def test_a_constant_batch_is_step_times_batch() -> None:
    assert [samples_before(step, CONFIG) for step in (0, 1, 99, 1_000_000)] == [0, 8, 792, 8_000_000]
    assert batch_of(77, CONFIG) == 8 and step_of(15, CONFIG) == 1


def test_a_ramp_shorter_than_a_step_passes_sizes_over() -> None:
    config = ramped(batch_ramp=1)
    assert [batch_of(step, config) for step in range(3)] == [2, 8, 8]


def test_steps_decay_by_share_of_the_tokens() -> None:
    config = dataclasses.replace(CONFIG, schedule="steps", decay_at=(0.6, 0.9))
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[9] == rates[10] == rates[59] == 1.0
    assert rates[60] == rates[89] == pytest.approx(0.316)
    assert rates[90] == rates[99] == pytest.approx(0.316**2)
    # With a ramp the first steps are smaller, so 60 % of the tokens come after 60 % of the steps.
    config = dataclasses.replace(config, batch_start=2, batch_multiple=2, batch_ramp=16 * 200)
    whole = counted(config)[100][0]
    decays = next(step for step in range(100) if learning_rate(step, config) < 0.99 and step >= 10)
    assert counted(config)[decays - 1][0] < 0.6 * whole <= counted(config)[decays][0] and decays > 60


def test_constant_after_warm_up() -> None:
    config = dataclasses.replace(CONFIG, schedule="constant")
    assert learning_rate(0, config) == pytest.approx(0.1)
    assert {learning_rate(step, config) for step in range(10, 100)} == {1.0}


def test_every_batch_of_the_ramp_divides_over_the_ranks() -> None:
    config = ramped(layout=Layout(dp=2, micro_batch=1))
    check_layout(config)
    assert all(size % 2 == 0 for size in config.batches)
    for changes, says in (
        ({"batch_multiple": 3}, r"a batch of the ramp=5: a multiple of dp · ep = 2 .*batch_multiple have to be multiples"),
        ({"batch_start": 3, "batch": 9}, r"a batch of the ramp=3: a multiple"),
        ({"layout": Layout(dp=2, micro_batch=2)}, r"micro_batch=2: a divisor of the 1 sequences .*ramp's batch of 2"),
        ({"layout": Layout(pp=2, dp=2, micro_batch=1)}, r"layout\.pp=2: at most the 1 micro-batches .*ramp's batch of 2"),
    ):
        with pytest.raises(ConfigError, match=says):
            check_layout(dataclasses.replace(config, **changes))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"schedule": "linear"}, "schedule=linear: cosine, steps, constant expected"),
        ({"schedule": "steps"}, "decay_at=(): shares of the tokens with schedule=steps"),
        ({"decay_at": "0.6,0.9"}, "and none with another schedule"),
        ({"schedule": "steps", "decay_at": "0.9,0.6"}, "decay_at=(0.9, 0.6): rising numbers between 0 and 1"),
        ({"schedule": "steps", "decay_at": "0.6,1"}, "rising numbers between 0 and 1"),
        ({"decay_by": "1"}, "decay_by=1.0: between 0 and 1"),
        ({"batch_ramp": "5"}, "batch_ramp=5: 0 without a batch_start"),
        ({"batch_start": "2"}, "batch_ramp=0: 1 token or more with a batch_start"),
        ({"batch_start": "8", "batch_ramp": "5"}, "batch_start=8: 1 or more and below batch=8"),
        ({"batch_start": "3", "batch_ramp": "5", "batch_multiple": "2"}, "batch_multiple=2: a divisor of batch − batch_start"),
    ],
)  # fmt: skip
def test_bad_schedules_name_field_value_and_range(settings: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        apply_settings(CONFIG, settings)
    assert says in str(error.value)


def test_the_schedule_is_part_of_the_fingerprint() -> None:
    steps = dataclasses.replace(CONFIG, schedule="steps", decay_at=(0.6, 0.9))
    all_of_them = [CONFIG, steps, dataclasses.replace(steps, decay_at=(0.8, 0.9)), ramped(), ramped(batch_ramp=16 * 31)]
    assert len({fingerprint(config) for config in all_of_them}) == 5


def test_a_ramp_resumes_where_it_was(tmp_path: Path) -> None:
    config = toy(tmp_path, batch_start=2, batch_multiple=1, batch_ramp=16 * 18)
    whole, parts = (dataclasses.replace(config, out=str(tmp_path / name)) for name in ("whole", "parts"))
    loop.train(whole, tmp_path, say=quiet)
    for stop in (3, 8):
        assert loop.train(parts, tmp_path, stop, quiet) is None
    loop.train(parts, tmp_path, say=quiet)
    same_run(tmp_path / "whole", tmp_path / "parts")
    tokens = [line["tokens"] for line in log(tmp_path / "whole")]
    sizes = [b // 16 - a // 16 for a, b in itertools.pairwise([0, *tokens])]
    assert sizes == [2] * 5 + [3] * 3 + [4] * 4  # 9 samples of 2 a step, which is 10; then to 18, which is 19
