"""One rank of tests/test_train_layouts.py: trains under each layout it is told, and leaves what came out.

python -m tests.layout_worker CASES.json     with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from train import loop
from train.config import Layout, ModelConfig, TrainConfig
from train.loop import Run
from train.parallel import join


def config_of(case: dict[str, Any]) -> TrainConfig:
    fields = dict(case["config"])
    model, layout = ModelConfig(**fields.pop("model")), Layout(**case["layout"])
    return TrainConfig(**fields, model=model, layout=layout, out=case["out"])


def whole(run: Run, pick: str) -> dict[str, Tensor]:
    """Gradients or masters of the whole model, on every rank, by their names in checkpoints."""
    parts: dict[str, Tensor] = {}
    for o in run.optimizer.owned:
        local = o.gradient[o.rows].clone() if pick == "gradient" else o.master.detach().clone()
        halves = local.chunk(2, 1) if o.name.endswith("gate_up_proj") else (local,)
        for number, part in enumerate(halves):
            tensor = run.checkpoints._whole(f"model.{o.name}", o, part.contiguous()) if len(halves) == 1 else None
            if tensor is None:
                halved = dataclasses.replace(o, master=part, parameter=o.parameter.chunk(2, 1)[number])
                tensor = run.checkpoints._whole(f"model.{o.name}.half", halved, part.contiguous())
            parts[f"{o.name} {number}"] = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    if run.ranks.pipeline is None:
        return parts
    gathered: list[Any] = [None] * run.config.layout.ranks
    dist.all_gather_object(gathered, parts)
    return {name: tensor for some in gathered for name, tensor in some.items()}


def train(case: dict[str, Any], result: Path) -> None:
    config = config_of(case)
    with join(config.layout, minutes=1) as ranks:
        run = loop.open_run(config, Path("."), ranks)
        out: dict[str, Any] = {"gradients": [], "lines": [], "start": run.step}
        clip = run.optimizer.clip

        def spy(limit: float) -> float:
            if run.step == 0:
                out["gradients"] = whole(run, "gradient")
            return clip(limit)

        run.optimizer.clip = spy
        if ranks.rank == 0:
            result.with_suffix(".started").touch()
        while run.step < case.get("stop", config.steps):
            out["lines"].append(loop.run_step(run))
        out["validation"] = loop.validate(run)
        if case.get("save"):
            (run.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            run.checkpoints.save(loop._state(run))
            run.checkpoints.finish()
        out["weights"] = whole(run, "master")
        if ranks.rank == 0:
            torch.save(out, result)


def main() -> None:
    torch.set_num_threads(1)
    cases = json.loads(Path(sys.argv[1]).read_text())
    port = int(os.environ.get("MASTER_PORT", "0"))
    for number, case in enumerate(cases):
        os.environ["MASTER_PORT"] = str(port + number)
        train(case, Path(case["result"]))


if __name__ == "__main__":
    main()
