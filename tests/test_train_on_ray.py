"""Ray Train launches the ranks that torchrun would, and they compute the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from corpus.errors import ConfigError, InputError, TrainError
from tests.test_train_loop import log, quiet, toy
from train import loop
from train.config import Layout
from train.on_ray import launch


def command(tmp_path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "ray_toy.py").write_text(
        "from pathlib import Path\nfrom tests.test_train_loop import toy\n"
        f"def recipe():\n    return toy(Path({str(tmp_path)!r}), dtype='float64', data='shards', out='run')\n"
    )
    repository = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{repository}", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    environment |= {"RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0"}
    words = [sys.executable, "-m", "train", "ray_toy", "--ray", "--root", str(tmp_path / "root"), *more]
    return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)


@pytest.mark.extra
def test_two_ranks_of_ray_train_are_the_run_of_one(tmp_path: Path) -> None:
    toy(tmp_path)  # the shards
    done = command(tmp_path, "--set", "layout.dp=2")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "below the unigram entropy" in done.stdout + done.stderr
    loop.train(toy(tmp_path, dtype="float64", out=str(tmp_path / "one")), tmp_path, say=quiet)
    seen, expected = log(tmp_path / "run"), log(tmp_path / "one")
    assert [line["loss"] for line in seen] == pytest.approx([line["loss"] for line in expected], rel=1e-9)


def test_relative_paths_are_those_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray begins a rank in a folder of its session, in an environment of its own."""
    home, session = tmp_path / "home", tmp_path / "session"
    toy(home)  # the shards
    session.mkdir()
    monkeypatch.setattr("ray.init", lambda **options: None)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 1.0})
    seen = {}

    class Trainer:
        def __init__(self, work: Callable[[dict[str, Any]], None], train_loop_config: dict[str, Any], **more: object) -> None:
            self.work, self.job = work, train_loop_config

        def fit(self) -> None:
            seen["stays"] = os.environ["RAY_CHDIR_TO_TRIAL_DIR"] == "0"
            os.chdir(session)
            os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
            self.work(self.job)
            seen["cublas"] = os.environ["CUBLAS_WORKSPACE_CONFIG"]

    monkeypatch.setattr("ray.train.torch.TorchTrainer", Trainer)
    for name in ("RAY_CHDIR_TO_TRIAL_DIR", "RAY_TRAIN_ENABLE_PRINT_PATCH", "CUBLAS_WORKSPACE_CONFIG"):
        monkeypatch.setenv(name, "x")  # put back afterwards
        monkeypatch.delenv(name)
    monkeypatch.chdir(home)
    config = toy(home, data="shards", out="run")
    launch(config, Path("root"), 2)
    assert seen == {"stays": True, "cublas": ":4096:8"}
    assert len(log(home / "run")) == 2 and not list(session.iterdir())
    assert json.loads((home / "run" / "config.json").read_text())["data"] == "shards"


def test_a_cluster_that_is_too_small_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.init", lambda **options: None)
    for have, seen in (({"CPU": 2.0}, "2 CPUs"), ({"CPU": 64.0, "GPU": 3.0}, "3 GPUs")):
        monkeypatch.setattr("ray.cluster_resources", lambda have=have: have)
        with pytest.raises(ConfigError, match=rf"the layout has 4 ranks and the Ray cluster {seen}; lower dp"):
            launch(toy(tmp_path, layout=Layout(dp=4)), tmp_path, None)


def test_what_is_wrong_with_a_run_is_told_as_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the rank that met it, where Ray would give its traceback; a bug or a lost rank is told by Ray's whole text."""
    from ray.train import WorkerGroupError

    monkeypatch.setattr("ray.init", lambda **options: None)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0})
    failures: dict[int, Exception] = {}

    class Trainer:
        def __init__(self, *_: object, **more: object) -> None:
            pass

        def fit(self) -> None:
            raise WorkerGroupError("Traceback of some rank", failures)

    monkeypatch.setattr("ray.train.torch.TorchTrainer", Trainer)
    failures |= {1: InputError("no token shards at there"), 0: InputError("no token shards at here")}
    with pytest.raises(InputError, match=r"^no token shards at here$"):
        launch(toy(tmp_path), tmp_path, None)
    failures[1] = ZeroDivisionError("a bug")
    with pytest.raises(TrainError, match=r"a rank on the Ray cluster ended: (?s:.*)Traceback of some rank"):
        launch(toy(tmp_path), tmp_path, None)
