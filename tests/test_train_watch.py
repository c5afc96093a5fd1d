"""Bad steps: stopped at, left out, or gone back from; and what a run shows."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from corpus.errors import ConfigError, TrainError
from tests.test_train_loop import log, quiet, saved_tensors, toy
from train import checkpoint, loop, step, watch
from train.config import TrainConfig


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_what_a_bad_step_is() -> None:
    recent = [2.0, 2.2] * 10
    assert watch.judge(2.5, 1.0, recent, None) is None
    assert watch.judge(2.5, 1.0, recent, 0.5) is None
    assert "loss 2.700, 0.600 above the mean of the 20 steps" in (watch.judge(2.7, 1.0, recent, 0.5) or "")
    assert watch.judge(9.0, 1.0, recent[:15], 0.5) is None  # too few to tell
    for loss, norm in ((math.nan, 1.0), (1.0, math.inf)):
        assert "finite numbers expected" in (watch.judge(loss, norm, recent, None) or "")


def spoil(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """These steps are judged bad, each time they are computed."""
    seen = watch.judge

    def judge(loss: float, norm: float, recent: Any, spike: float | None) -> str | None:
        return "spoilt" if spoil.run.step + 1 in steps else seen(loss, norm, recent, spike)

    def run_step(run: Any) -> dict[str, Any]:
        spoil.run = run
        return step.run_step(run)

    monkeypatch.setattr(watch, "judge", judge)
    monkeypatch.setattr(loop, "run_step", run_step)


def test_a_skipped_step_changes_nothing_but_the_place_in_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = toy(tmp_path, on_spike="skip", checkpoint_every=6)
    spoil(monkeypatch, {5})
    whole, parts = (dataclasses.replace(config, out=str(tmp_path / name)) for name in ("whole", "parts"))
    loop.train(whole, tmp_path, say=quiet)
    lines = log(tmp_path / "whole")
    assert [line["step"] for line in lines if "left_out" in line] == [5] and len(lines) == 12
    run = loop.open_run(dataclasses.replace(config, out=str(tmp_path / "by hand")), tmp_path)
    for number in range(1, 7):
        before = run.model.lm_head.weight.clone()
        loop.run_step(run)
        assert torch.equal(before, run.model.lm_head.weight) == (number == 5)
    assert (run.step, run.updates) == (6, 5)
    loop.train(parts, tmp_path, 8, quiet)  # AdamW's own count of updates survives a stop
    loop.train(parts, tmp_path, say=quiet)
    assert log(tmp_path / "parts") == lines


def test_going_back_leaves_out_what_led_to_the_bad_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = toy(tmp_path, on_spike="roll_back", checkpoint_every=3, out=str(tmp_path / "run"))
    spoil(monkeypatch, {8})
    said: list[str] = []
    loop.train(config, tmp_path, say=said.append)
    assert "gone back to step 6; steps 7 to 8 are left out" in said
    lines = log(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["step"] for line in lines if "left_out" in line] == [7, 8]
    assert json.loads((tmp_path / "run" / "left_out.json").read_text()) == [[6, 8, 6]]
    # The same as a run that never computed steps 7 and 8.
    other = dataclasses.replace(config, out=str(tmp_path / "other"))
    loop.train(other, tmp_path, 6, quiet)
    (tmp_path / "other" / "left_out.json").write_text("[[6, 8, 6]]")
    loop.train(other, tmp_path, say=quiet)
    assert log(tmp_path / "other") == lines
    first, second = (saved_tensors(checkpoint.newest(tmp_path / name / "checkpoints")) for name in ("run", "other"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_going_back_gives_up_where_it_does_not_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = toy(tmp_path, on_spike="roll_back", checkpoint_every=3, out=str(tmp_path / "run"))
    spoil(monkeypatch, set(range(5, 13)))
    with pytest.raises(TrainError, match=r"step \d+ is bad .*gone back 3 times to 3 updates"):
        loop.train(config, tmp_path, say=quiet)
    spoil(monkeypatch, {2})
    with pytest.raises(TrainError, match=r"no checkpoint to go back to that would help \(none yet"):
        loop.train(dataclasses.replace(config, out=str(tmp_path / "early")), tmp_path, say=quiet)


def test_the_plot_says_where_the_run_is(tmp_path: Path) -> None:
    config: TrainConfig = toy(tmp_path, out=str(tmp_path / "run"))
    loop.train(config, tmp_path, say=quiet)
    drawn = (tmp_path / "run" / "report.html").read_text()
    assert "step 12, 768 tokens, loss" in drawn and drawn.count("<circle") == 3
    lines = log(tmp_path / "run")
    points = drawn.split('polyline points="')[1].split('"')[0].split()
    heights = [float(point.split(",")[1]) for point in points]
    losses = [line["loss"] for line in lines]
    assert len(points) == 12 and heights.index(max(heights)) == losses.index(min(losses))  # y grows downwards
    assert watch.draw([{"step": 1, "loss": None, "left_out": "x"}], "empty") == ""


def test_tensorboard_is_written_or_asked_for(tmp_path: Path) -> None:
    config = toy(tmp_path, out=str(tmp_path / "run"), tensorboard=True, steps=5)
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match="pip install tensorboard"):
            loop.train(config, tmp_path, say=quiet)
    else:
        loop.train(config, tmp_path, say=quiet)
        assert list((tmp_path / "run" / "tensorboard").iterdir())
