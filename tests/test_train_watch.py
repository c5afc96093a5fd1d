"""Bad steps: stopped at, left out, or gone back from; and what a run shows."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import time
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
    assert json.loads((tmp_path / "run" / "left_out.json").read_text()) == [[6, 8, 6, "step 8: spoilt"]]
    assert [line["left_out"] for line in lines if "left_out" in line] == ["gone back over: step 8: spoilt"] * 2
    # The same as a run that never computed steps 7 and 8.
    other = dataclasses.replace(config, out=str(tmp_path / "other"))
    loop.train(other, tmp_path, 6, quiet)
    (tmp_path / "other" / "left_out.json").write_text('[[6, 8, 6, "step 8: spoilt"]]')
    loop.train(other, tmp_path, say=quiet)
    assert log(tmp_path / "other") == lines
    first, second = (saved_tensors(checkpoint.newest(tmp_path / name / "checkpoints")) for name in ("run", "other"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_file_of_steps_left_out_that_does_not_say_why_is_read(tmp_path: Path) -> None:
    config = toy(tmp_path, checkpoint_every=3, out=str(tmp_path / "run"))
    loop.train(config, tmp_path, 6, quiet)
    (tmp_path / "run" / "left_out.json").write_text("[[6, 8, 6]]")  # as it was written once
    loop.train(config, tmp_path, say=quiet)
    assert [line.get("left_out") for line in log(tmp_path / "run")[5:9]] == [None, "gone back over", "gone back over", None]


def test_going_back_passes_over_a_damaged_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = toy(tmp_path, on_spike="roll_back", checkpoint_every=3, out=str(tmp_path / "run"))
    loop.train(config, tmp_path, 6, quiet)
    (tmp_path / "run" / "checkpoints" / "step-00000006" / "__0_0.distcp").write_bytes(b"")
    spoil(monkeypatch, {5})
    said: list[str] = []
    loop.train(config, tmp_path, say=said.append)
    assert any(line.startswith("gone back to step 3; steps 4 to 5 are left out; passed over, since damaged") for line in said)
    assert [line["step"] for line in log(tmp_path / "run") if "left_out" in line] == [4, 5]


def strict(path: Path) -> list[dict[str, Any]]:
    """Lines of a log as any reader of JSON sees them: NaN and Infinity are Python's own."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def poison(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """The gradients of these steps are not numbers, so neither is their norm, and no loss is found."""
    seen = step._pass

    def spoilt(run: Any, *arguments: Any) -> Any:
        passed = seen(run, *arguments)
        if run.step + 1 in steps and torch.is_grad_enabled():
            next(iter(run.model.parameters())).grad.fill_(math.nan)
            passed.nats[0] = math.inf
        return passed

    monkeypatch.setattr(step, "_pass", spoilt)


def test_a_step_that_is_no_number_is_null_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = toy(tmp_path, on_spike="skip", out=str(tmp_path / "run"))
    poison(monkeypatch, {5})
    said: list[str] = []
    loop.train(config, tmp_path, say=said.append)
    bad = strict(tmp_path / "run" / "train.jsonl")[4]
    assert (bad["step"], bad["loss"], bad["grad_norm"]) == (5, None, None) and "loss inf" in bad["left_out"]
    assert any("loss inf" in line and "LEFT OUT" in line for line in said)
    drawn = (tmp_path / "run" / "report.html").read_text()
    assert "1 steps left out" in drawn and len(drawn.split('polyline points="')[1].split('"')[0].split()) == 11
    line = {"step": 1, "tokens": 5, "loss": 2.0, "grad_norm": None, "by": {"a": math.nan, "b": 1.0}}
    assert json.loads(watch.record(line))["by"] == {"a": None, "b": 1.0}
    assert "loss 2.0000" in watch.draw([line], "a finite loss beside an infinite norm")


def test_a_run_whose_last_steps_were_all_left_out_still_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = toy(tmp_path, on_spike="skip", steps=5, out=str(tmp_path / "run"))
    poison(monkeypatch, set(range(1, 6)))
    said: list[str] = []
    summary = loop.train(config, tmp_path, say=said.append)
    assert summary["final_loss"] is None and "NaN" not in (tmp_path / "run" / "summary.json").read_text()
    assert "None of the last 20 steps was taken" in said[-1]


def test_skipping_ends_where_no_step_is_good_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen in a row are let pass, the next stops the run, whether or not it was stopped in between."""
    config = toy(tmp_path, on_spike="skip", steps=42, checkpoint_every=4, out=str(tmp_path / "run"))
    spoil(monkeypatch, {*range(5, 21), *range(25, 43)})
    loop.train(config, tmp_path, 36, quiet)
    with pytest.raises(TrainError, match=r"step 41: spoilt, as were the 16 steps before.*or set on_spike to roll_back"):
        loop.train(config, tmp_path, say=quiet)


@pytest.mark.parametrize("then", ["skip", "roll_back"])
def test_a_run_that_a_bad_step_stopped_goes_on_as_its_error_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """In its own folder, named by the fingerprint, not at step 0 in another; and from a checkpoint just being written."""
    config = toy(tmp_path, checkpoint_every=3)
    write = checkpoint.Checkpoints._write
    monkeypatch.setattr(checkpoint.Checkpoints, "_write", lambda *arguments: (time.sleep(0.5), write(*arguments)))
    spoil(monkeypatch, {8})
    with pytest.raises(TrainError, match="set on_spike to skip or roll_back"):
        loop.train(config, tmp_path, say=quiet)
    assert [path.name for path in tmp_path.glob("train/toy-*/checkpoints/step-*6")] == ["step-00000006"]
    said: list[str] = []
    changed = dataclasses.replace(config, on_spike=then)
    summary = loop.train(changed, tmp_path, say=said.append)
    (folder,) = (tmp_path / "train").iterdir()
    assert summary["folder"] == str(folder) and len(log(folder)) == 12
    assert any(line.startswith("start       step 6,") and "ran with spike=None, on_spike=stop" in line for line in said)
    loop.train(dataclasses.replace(changed, out=str(tmp_path / "whole")), tmp_path, say=quiet)
    assert log(folder) == log(tmp_path / "whole")  # as if it had been so from the start


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


class Board:
    """What TensorBoard shows of the events written, by the rule of purge_step."""

    shown: dict[tuple[str, int], float]

    def __init__(self, folder: Path, after: int) -> None:
        self.left = {place: value for place, value in Board.shown.items() if place[1] <= after}
        self.twice: set[tuple[str, int]] = set()
        Board.shown = self.left

    def add_scalar(self, key: str, value: float, at: int) -> None:
        assert (key, at) not in Board.shown, "shown twice"
        Board.shown[key, at] = value

    def close(self) -> None:
        pass


def test_steps_done_again_are_shown_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after its checkpoint, a run repeats steps; going back from a bad one, too."""
    config = toy(tmp_path, on_spike="roll_back", checkpoint_every=3, tensorboard=True, out=str(tmp_path / "run"))
    Board.shown = {}
    monkeypatch.setattr(watch, "tensorboard", Board)
    begun = loop.open_run(config, tmp_path)
    (tmp_path / "run").mkdir()
    checkpoints, begun.checkpoints.save = (
        begun.checkpoints.save,
        lambda state: checkpoints(state) if state["step"] == 3 else None,
    )
    loop._run_steps(begun, 5, quiet)  # no checkpoint at 5: as if killed there
    assert ("loss", 5) in Board.shown
    spoil(monkeypatch, {8})
    loop.train(config, tmp_path, say=quiet)
    lines = log(tmp_path / "run")
    assert {at: value for (key, at), value in Board.shown.items() if key == "loss"} == {
        line["step"]: line["loss"] for line in lines if line["loss"] is not None
    }
    assert [at for key, at in Board.shown if key == "lr"] == list(range(1, 13))


def test_tensorboard_is_written_or_asked_for(tmp_path: Path) -> None:
    config = toy(tmp_path, out=str(tmp_path / "run"), tensorboard=True, steps=5)
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match="pip install tensorboard"):
            loop.train(config, tmp_path, say=quiet)
    else:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        loop.train(config, tmp_path, 3, quiet)
        (tmp_path / "run" / "checkpoints" / "latest").unlink()
        shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000003")
        loop.train(config, tmp_path, say=quiet)
        board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
        board.Reload()
        assert [event.step for event in board.Scalars("loss")] == [1, 2, 3, 4, 5]
