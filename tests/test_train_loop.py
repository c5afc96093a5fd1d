"""A run resumed, stopped or killed is the run undisturbed, bit for bit; it learns; and it says what is wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp

from corpus.errors import ConfigError, CorruptFile, InputError, RootBusy, StorageError, TrainError
from tests.test_train_attention import TINY
from tests.test_train_data import write_shards
from tests.toys.recipe import recipe as toy_corpus
from train import checkpoint, loop, weights
from train.__main__ import load_recipe, main
from train.config import Source, TrainConfig

MODEL = dataclasses.replace(TINY, vocab_size=None, initializer_range=0.1, aux_loss_alpha=0.01, q_lora_rank=8)
TIMES = ("seconds", "tokens_per_second", "memory_gb")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def toy(tmp_path: Path, **changes: object) -> TrainConfig:
    """Texts of a small grammar: after token a comes 2a or 2a + 1 (mod 61), so there is much to learn."""
    shards = tmp_path / "shards"
    if not shards.exists():
        dice = random.Random(0)
        documents = []
        for _ in range(60):
            document = [dice.randrange(61)]
            while len(document) < 80:
                document.append((2 * document[-1] + dice.randrange(2)) % 61)
            documents.append(document)
        write_shards(shards, documents, 61)
    fields = {"steps": 12, "batch": 4, "seq_len": 16, "lr": 1e-2, "warmup": 4, "checkpoint_every": 4, "validation": 0.1}
    return TrainConfig(**{"name": "toy", "model": MODEL, "data": str(shards), **fields, **changes})


def log(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def quiet(text: str) -> None:
    pass


def same_run(a: Path, b: Path) -> None:
    """Same log, and in the newest checkpoint the same tensors to the bit: parameters and optimizer."""
    assert log(a) == log(b)
    newest = [checkpoint.newest(folder / "checkpoints") for folder in (a, b)]
    assert newest[0].name == newest[1].name
    one, other = (saved_tensors(path) for path in newest)
    assert one.keys() == other.keys() and len(one) > 30
    for key, tensor in one.items():
        assert torch.equal(tensor, other[key]), key


def saved_tensors(path: Path) -> dict[str, torch.Tensor]:
    """What a checkpoint holds, whole, read without any of ours."""
    reader = dcp.FileSystemReader(path)
    known = reader.read_metadata().state_dict_metadata
    tensors = {key: torch.empty(meta.size, dtype=meta.properties.dtype) for key, meta in known.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(tensors, storage_reader=reader, no_dist=True)
    return tensors


def test_stopping_and_going_on_is_not_stopping(tmp_path: Path) -> None:
    config = toy(tmp_path)
    whole, parts = (dataclasses.replace(config, out=str(tmp_path / name)) for name in ("whole", "parts"))
    summary = loop.train(whole, tmp_path, say=quiet)
    for stop in (1, 7, 8):
        assert loop.train(parts, tmp_path, stop, quiet) is None
    again = loop.train(parts, tmp_path, say=quiet)
    same_run(tmp_path / "whole", tmp_path / "parts")
    for key in ("final_loss", "validation_loss"):
        assert summary[key] == again[key]


def test_two_runs_are_equal_and_a_finished_one_is_left_alone(tmp_path: Path) -> None:
    config = toy(tmp_path, document_mask=True)
    said: list[str] = []
    first, second = (dataclasses.replace(config, out=str(tmp_path / name)) for name in "ab")
    loop.train(first, tmp_path, say=said.append)
    loop.train(second, tmp_path, say=quiet)
    same_run(tmp_path / "a", tmp_path / "b")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*") if path.is_file() and path.name != "lock"}
    said_again: list[str] = []
    assert loop.train(first, tmp_path, say=said_again.append)["steps"] == 12
    assert said_again == said[-1:]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_killed_process_goes_on_where_it_was(tmp_path: Path) -> None:
    """kill -9 of the real command, at three moments, against a run left alone."""
    config = toy(tmp_path, steps=40, checkpoint_every=5)
    changes = f"steps=40, checkpoint_every=5, out={str(tmp_path / 'killed')!r}"
    (tmp_path / "killed_toy.py").write_text(
        "from pathlib import Path\nfrom tests.test_train_loop import toy\n"
        f"def recipe():\n    return toy(Path({str(tmp_path)!r}), {changes})\n"
    )
    repository = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{repository}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "train", "killed_toy"]
    log_file = tmp_path / "killed" / "train.jsonl"
    for lines in (3, 17, 31):
        process = subprocess.Popen(command, cwd=repository, env=environment, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not log_file.exists() or len(log_file.read_bytes().splitlines()) < lines:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "start       step " in done.stdout and "below the unigram entropy" in done.stdout
    loop.train(dataclasses.replace(config, out=str(tmp_path / "whole")), tmp_path, say=quiet)
    same_run(tmp_path / "whole", tmp_path / "killed")


def test_it_learns_what_there_is_to_learn(tmp_path: Path) -> None:
    """The grammar leaves ln 2 = 0.69 nats per token to chance; unigrams know ln 61 = 4.1."""
    summary = loop.train(toy(tmp_path, steps=150, batch=8, checkpoint_every=150), tmp_path, say=quiet)
    assert summary["unigram_entropy"] == pytest.approx(np.log(61), abs=0.1)
    assert summary["final_loss"] < 1.2
    assert summary["validation_loss"] < 1.4


def test_the_log_has_what_a_reader_asks_for(tmp_path: Path) -> None:
    said: list[str] = []
    config = toy(tmp_path, out=str(tmp_path / "run"))
    loop.train(config, tmp_path, say=said.append)
    lines = log(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["tokens"] for line in lines] == [64 * n for n in range(1, 13)]
    assert [line["step"] for line in lines if "validation_loss" in line] == [4, 8, 12]
    first = lines[0]
    assert abs(first["loss"] - np.log(64)) < 1 and first["grad_norm"] > 0
    assert 1 <= first["load_max_over_mean"] <= 2  # 4 experts, top 2
    assert first["balance_loss"] == pytest.approx(0.01 * first["balance"])  # one mixture layer
    plan = "\n".join(said)
    for words in ("60 documents, 4,800 tokens", "61 ids, padded to 64", "parameters", "4 × 16 = 64 tokens", "unigram entropy"):
        assert words in plan


def test_checkpoints_are_in_the_published_names_and_only_two_stay(tmp_path: Path) -> None:
    loop.train(toy(tmp_path, out=str(tmp_path / "run"), checkpoint_every=2), tmp_path, say=quiet)
    folder = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["latest", "step-00000010", "step-00000012"]
    tensors = saved_tensors(folder / "step-00000012")
    assert tensors["model.model.layers.1.mlp.experts.up_proj"].shape == (4, 8, 12)
    assert tensors["exp_avg.lm_head.weight"].shape == (64, 12)


def test_a_checkpoint_that_was_half_deleted_is_cleared_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while it deletes an old one, a run must not leave gigabytes that no later run knows for a checkpoint's."""

    def first_file_only(path: Path, ignore_errors: bool = False) -> None:
        if path.exists():
            next(
                file for file in sorted(path.iterdir(), reverse=True)
            ).unlink()  # state.json goes first: it is the last by name

    config = toy(tmp_path, out=str(tmp_path / "run"), checkpoint_every=2)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "rmtree", first_file_only)
        loop.train(config, tmp_path, 8, quiet)
    loop.train(config, tmp_path, say=quiet)
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == [
        "latest",
        "step-00000010",
        "step-00000012",
    ]


def test_a_damaged_checkpoint_is_named_and_the_one_before_serves(tmp_path: Path) -> None:
    config = toy(tmp_path, out=str(tmp_path / "run"))
    loop.train(config, tmp_path, 8, quiet)
    last = tmp_path / "run" / "checkpoints" / "step-00000008"
    data = bytearray((last / "__0_0.distcp").read_bytes())
    data[-5] ^= 1
    (last / "__0_0.distcp").write_bytes(data)
    shutil.copytree(tmp_path / "run", tmp_path / "both")
    said: list[str] = []
    loop.train(config, tmp_path, say=said.append)
    (start,) = (line for line in said if line.startswith("start "))
    assert start.startswith("start       step 4,")
    assert f"passed over, since damaged: checkpoint {last} cannot be used: the bytes of __0_0.distcp" in start
    loop.train(dataclasses.replace(config, out=str(tmp_path / "whole")), tmp_path, say=quiet)
    same_run(tmp_path / "whole", tmp_path / "run")
    both = dataclasses.replace(config, out=str(tmp_path / "both"))
    (tmp_path / "both" / "checkpoints" / "step-00000004" / "__0_0.distcp").unlink()  # gone altogether
    with pytest.raises(CorruptFile, match=r"step-00000008 cannot be used: the bytes.*nor can the 1 before it.*starts again"):
        loop.train(both, tmp_path, say=quiet)
    assert len(log(tmp_path / "both")) == 8


@pytest.mark.parametrize("damage", ["metadata", "state", "tensors gone"])
def test_whatever_is_damaged_the_checkpoint_before_serves_until_there_is_another(tmp_path: Path, damage: str) -> None:
    """Also after stopping again before the next one, to export, and with checkpoints at other steps than the damaged one's."""
    config = toy(tmp_path, out=str(tmp_path / "run"))
    loop.train(config, tmp_path, 8, quiet)
    folder = tmp_path / "run" / "checkpoints"
    file = folder / "step-00000008" / {"metadata": ".metadata", "state": "state.json", "tensors gone": "__0_0.distcp"}[damage]
    data = file.read_bytes()
    file.unlink()
    if damage != "tensors gone":
        file.write_bytes(data[: len(data) // 2])
    exported: list[str] = []
    weights.export(config, tmp_path, tmp_path / "hf", torch.float32, exported.append)
    assert exported[0].startswith("step 4 of ") and "step-00000008 cannot be used" in exported[0]
    other = dataclasses.replace(config, checkpoint_every=3, checkpoints_kept=1)
    loop.train(other, tmp_path, 6, quiet)
    assert sorted(path.name for path in folder.glob("step-*")) == ["step-00000006", "step-00000008"]
    said: list[str] = []
    loop.train(other, tmp_path, say=said.append)
    assert any(line.startswith("start       step 6,") and "damaged" not in line for line in said)
    assert [path.name for path in folder.glob("step-*")] == ["step-00000012"]
    loop.train(dataclasses.replace(config, out=str(tmp_path / "whole")), tmp_path, say=quiet)
    assert [line["loss"] for line in log(tmp_path / "run")] == [line["loss"] for line in log(tmp_path / "whole")]
    one, whole = (saved_tensors(checkpoint.newest(tmp_path / name / "checkpoints")) for name in ("run", "whole"))
    assert all(torch.equal(one[key], whole[key]) for key in whole)


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path: Path) -> None:
    run = loop.open_run(toy(tmp_path), tmp_path)
    loop.run_step(run)
    with torch.no_grad():
        run.model.model.norm.weight[0] = float("nan")
    before = run.model.lm_head.weight.clone()
    with pytest.raises(TrainError, match=r"step 2: loss nan.*those of step 1\. Lower lr"):
        loop.run_step(run)
    assert torch.equal(before, run.model.lm_head.weight) and run.step == 1


def test_a_folder_belongs_to_one_process_and_one_config(tmp_path: Path) -> None:
    config = toy(tmp_path, out=str(tmp_path / "run"))
    with loop.hold(tmp_path / "run"), pytest.raises(RootBusy, match="another process is training"):
        loop.train(config, tmp_path, say=quiet)
    loop.train(config, tmp_path, 4, quiet)
    with pytest.raises(ConfigError, match=r"trained with fingerprint .*\(seed 0 → 1\).* delete .* to start again"):
        loop.train(dataclasses.replace(config, seed=1), tmp_path, say=quiet)


def test_a_blend_of_other_weights_is_told_by_its_weights(tmp_path: Path) -> None:
    config = toy(tmp_path, out=str(tmp_path / "run"))
    blend = [dataclasses.replace(config, data=(Source(name="a", data=config.data, weight=w),)) for w in (1.0, 3.0)]
    loop.train(blend[0], tmp_path, 4, quiet)
    with pytest.raises(ConfigError, match=r"trained with fingerprint .*\(sources \[\['a', 1\.0\]\] → \[\['a', 3\.0\]\]\)"):
        loop.train(blend[1], tmp_path, say=quiet)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot make /proc/x: .*Give another --root or `out`"):
        loop.train(toy(tmp_path, out="/proc/x"), tmp_path, say=quiet)


def test_missing_empty_and_foreign_shards(tmp_path: Path) -> None:
    config = toy(tmp_path)
    with pytest.raises(InputError, match=r"merge of the corpus is not finished.*python -m corpus run"):
        loop.train(dataclasses.replace(config, data=toy_corpus()), tmp_path, say=quiet)
    with pytest.raises(InputError, match=r"tokens\.json"):
        loop.train(dataclasses.replace(config, data=str(tmp_path / "nowhere")), tmp_path, say=quiet)
    empty = write_shards(tmp_path / "empty", [[], []], 61)
    with pytest.raises(InputError, match="2 documents and no tokens"):
        loop.train(dataclasses.replace(config, data=str(empty)), tmp_path, say=quiet)
    with pytest.raises(ConfigError, match="vocab_size=32: at least the 61 ids"):
        loop.train(dataclasses.replace(config, model=dataclasses.replace(MODEL, vocab_size=32)), tmp_path, say=quiet)


def test_a_full_disk_is_named_and_leaves_no_half_checkpoint(tmp_path: Path) -> None:
    config = toy(tmp_path, out=str(tmp_path / "run"))
    loop.train(config, tmp_path, 4, quiet)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # no file may be larger: fails as a full disk does
    try:
        with pytest.raises(StorageError, match=r"cannot write .*/run/checkpoints: File too large"):
            loop.train(config, tmp_path, say=quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["latest", "step-00000004"]
    loop.train(config, tmp_path, say=quiet)
    loop.train(dataclasses.replace(config, out=str(tmp_path / "whole")), tmp_path, say=quiet)
    same_run(tmp_path / "whole", tmp_path / "run")


def test_a_corpus_of_one_document_trains_without_holding_any_out(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "one", [[i % 61 for i in range(400)]], 61)
    summary = loop.train(toy(tmp_path, data=str(shards)), tmp_path, say=quiet)
    assert summary["validation_loss"] is None


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [(TrainError("out of luck"), 1, "error: out of luck\n"), (KeyboardInterrupt(), 130, "interrupted; run again ")],
)
def test_what_ended_a_run_is_said_in_one_write(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All ranks say it at once, into one terminal: between two writes of a line another rank's text may come."""

    def fail(words: list[str]) -> None:
        raise error

    writes: list[str] = []
    monkeypatch.setattr("train.__main__._train", fail)
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(write=writes.append))
    assert main(["moe_tiny"]) == code
    assert len(writes) == 1 and writes[0].startswith(said) and writes[0].endswith("\n")


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cli_toy.py").write_text(
        "from pathlib import Path\nfrom tests.test_train_loop import toy\n"
        f"def recipe():\n    return toy(Path({str(tmp_path)!r}))\ndef seven():\n    return 7\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert load_recipe("cli_toy", ["lr=0.5"]).lr == 0.5
    root = ["--root", str(tmp_path / "root")]
    assert main(["cli_toy", *root, "--steps", "2"]) == 0
    assert "stopped after step 2 of 12" in capsys.readouterr().out
    assert main(["cli_toy", *root]) == 0
    assert len(list((tmp_path / "root" / "train").glob("toy-*"))) == 1
    for arguments, says in (
        (["nothing_here"], "no recipe 'nothing_here'"),
        (["cli_toy:none"], "no function none()"),
        (["cli_toy:seven"], "returns a int"),
        (["cli_toy", "--set", "lr"], "FIELD=VALUE expected"),
        (["cli_toy", "--root", "s3://bucket"], "a local folder expected"),
    ):
        assert main(arguments) == 1
        assert says in capsys.readouterr().err


@pytest.mark.parametrize("groups", [1, 2])
def test_validation_loses_no_token_to_the_capacity(tmp_path: Path, groups: int) -> None:
    """As `evaluate` does it: the held-out loss is that of the same parameters without a capacity; a training step's is not."""
    shape = dataclasses.replace(MODEL, n_group=groups, topk_group=1, num_experts_per_tok=2)
    tight = dataclasses.replace(shape, capacity_factor=0.5)
    runs = [loop.open_run(toy(tmp_path, model=model, out=str(tmp_path / "run")), tmp_path) for model in (shape, tight)]
    assert loop.validate(runs[0]) == loop.validate(runs[1])
    lines = [loop.run_step(run) for run in runs]
    assert lines[0]["loss"] != lines[1]["loss"] and lines[1]["dropped"] > 0.2
