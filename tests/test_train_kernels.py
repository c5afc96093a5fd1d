"""The trainer computes the same with every implementation of the routing ops."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from recipes import moe_tiny
from tests.implementations import behind_ops
from tests.test_train_loop import quiet, toy
from train import loop
from train.config import ModelConfig

# moe_tiny as it is, and a router with everything it may have: groups, devices, a bias, capacity, all losses.
PLAIN = moe_tiny.recipe().model
WHOLE = dataclasses.replace(
    PLAIN,
    n_group=4,
    topk_group=2,
    scoring_func="sigmoid",
    group_score="top2",
    norm_topk_prob=True,
    routed_scaling_factor=2.5,
    bias_update_speed=0.01,
    capacity_factor=1.0,
    device_loss_alpha=0.05,
    comm_loss_alpha=0.02,
    z_loss_alpha=0.001,
)
FIELDS = ("loss", "grad_norm", "balance", "device", "comm", "z")


def curve(tmp_path: Path, name: str, model: ModelConfig, steps: int) -> list[dict[str, float]]:
    folder = tmp_path / name
    with behind_ops(name):
        config = toy(tmp_path, steps=6, lr=3e-3, validation=0.0, out=str(folder))
        loop.train(dataclasses.replace(config, model=model), tmp_path, steps, quiet)
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("model", [PLAIN, WHOLE], ids=["moe_tiny", "whole"])
def test_loss_curves_are_the_same(model: ModelConfig, tmp_path: Path) -> None:
    expected = curve(tmp_path, "reference", model, 6)
    for name, steps in (("twin", 6), ("emulated", 2)):  # the latter: the CUDA kernels, a fiber a thread
        seen = curve(tmp_path, name, model, steps)
        for one, other in zip(seen, expected, strict=False):
            shared = [field for field in FIELDS if isinstance(other.get(field), float)]
            assert len(shared) >= 2, other
            for field in shared:
                assert one[field] == pytest.approx(other[field], rel=2e-5, abs=1e-6), (name, one["step"], field)
