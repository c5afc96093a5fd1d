"""train/weights.py: what is evaluated and exported is the checkpoint's own weights, at any step that is kept, in any type."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from corpus.errors import ConfigError, CorruptFile, InputError
from tests.layout_worker import config_of
from tests.test_train_layouts import case, run_ranks
from tests.test_train_loop import quiet, toy
from train import checkpoint, loop, weights
from train.__main__ import main
from train.config import Layout
from train.weights import open_weights


@pytest.mark.parametrize("router", [{}, {"scoring_func": "sigmoid", "group_score": "top2", "bias_update_speed": 0.01}])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_they_are_those_of_the_run(tmp_path: Path, dtype: str, router: dict[str, object]) -> None:
    config = toy(tmp_path, out=str(tmp_path / "run"), dtype=dtype)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **router))
    loop.train(config, tmp_path, say=quiet)
    run = loop.open_run(config, tmp_path)
    expected = {**dict(run.model.named_parameters()), **dict(run.model.named_buffers())}
    found = open_weights(config, tmp_path, getattr(torch, dtype))
    assert found.step == 12
    seen = {**dict(found.model.named_parameters()), **dict(found.model.named_buffers())}
    assert seen.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) and tensor.dtype == expected[name].dtype for name, tensor in seen.items())
    if router:
        assert any(tensor.abs().max() > 0 for name, tensor in found.model.named_buffers())
    full = open_weights(config, tmp_path, torch.float32)  # the masters, though the run computes in bf16
    for owned in run.optimizer.owned:
        assert torch.equal(dict(full.model.named_parameters())[owned.name], owned.master.float())


@pytest.mark.parametrize(
    ("model", "context"),
    [
        ({}, 16),
        ({"rope_factor": 4.0, "rope_original_length": 8}, 32),
        ({"rope_factor": 4.0, "max_position_embeddings": 50}, 50),
    ],
)
def test_an_export_claims_no_longer_context_than_there_was(tmp_path: Path, model: dict[str, object], context: int) -> None:
    """That of its samples, or what YaRN stretches: vLLM, lm-eval and `evaluate` believe it."""
    config = toy(tmp_path, steps=2, warmup=1, checkpoint_every=2)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **model), out=str(tmp_path / "run"))
    loop.train(config, tmp_path, say=quiet)
    weights.export(config, tmp_path, tmp_path / "hf", torch.float32, quiet)
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["max_position_embeddings"] == context


def test_any_step_that_is_kept_can_be_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = toy(tmp_path, out=str(tmp_path / "run"), checkpoints_kept=2)
    loop.train(config, tmp_path, say=quiet)
    said: list[str] = []
    weights.export(config, tmp_path, tmp_path / "eight", torch.float32, said.append, step=8)
    weights.export(config, tmp_path, tmp_path / "newest", torch.float32, said.append)
    assert [line.partition(" of ")[0] for line in said] == ["step 8", "step 12"]
    eight, newest = (load_file(tmp_path / name / "model.safetensors") for name in ("eight", "newest"))
    assert eight.keys() == newest.keys() and any(not torch.equal(eight[key], newest[key]) for key in eight)
    loop.train(dataclasses.replace(config, out=str(tmp_path / "again")), tmp_path, 8, quiet)
    weights.export(dataclasses.replace(config, out=str(tmp_path / "again")), tmp_path, tmp_path / "then", torch.float32, quiet)
    then = load_file(tmp_path / "then" / "model.safetensors")
    assert all(torch.equal(eight[key], then[key]) for key in eight)
    with pytest.raises(InputError, match=r"no checkpoint of step 4; one of 8, 12 expected.*checkpoints_kept=2"):
        open_weights(config, tmp_path, torch.float32, step=4)
    with pytest.raises(ConfigError, match=r"trained with fingerprint .*lr 0\.01 → 0\.5"):
        open_weights(dataclasses.replace(config, lr=0.5), tmp_path, torch.float32)
    with pytest.raises(InputError, match="has no checkpoint; train first"):
        open_weights(dataclasses.replace(config, out=str(tmp_path / "none")), tmp_path, torch.float32)
    assert main(["recipes.moe_tiny", "--root", str(tmp_path), "--export", str(tmp_path / "x"), "--export-step", "3"]) == 1
    assert "error: " in capsys.readouterr().err


def test_damage_is_passed_over_unless_its_step_was_asked_for(tmp_path: Path) -> None:
    config = toy(tmp_path, out=str(tmp_path / "run"))
    loop.train(config, tmp_path, say=quiet)
    newest = checkpoint.newest(tmp_path / "run" / "checkpoints")
    assert newest is not None
    file = newest / "__0_0.distcp"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    found = open_weights(config, tmp_path, torch.float32)
    assert found.step == 8 and "step-00000012 cannot be used" in found.passed_over
    with pytest.raises(CorruptFile, match="step-00000012 cannot be used"):
        open_weights(config, tmp_path, torch.float32, step=12)


def test_whatever_layout_wrote_them(tmp_path: Path) -> None:
    layout = {"dp": 1, "ep": 2, "tp": 2}
    made = case(tmp_path, "run", layout, model={"capacity_factor": None}, save=True)
    seen = run_ranks(tmp_path, 4, [made])[0]
    config = config_of(made)
    assert config.layout == Layout(**layout)
    parameters = dict(open_weights(config, Path("."), torch.float64).model.named_parameters())
    compared = 0
    for name, expected in seen["weights"].items():
        name, _, half = name.rpartition(" ")
        mine = parameters[name]
        assert torch.equal(mine.chunk(2, 1)[int(half)] if name.endswith("gate_up_proj") else mine, expected), name
        compared += expected.numel()
    assert compared == sum(tensor.numel() for tensor in parameters.values())
