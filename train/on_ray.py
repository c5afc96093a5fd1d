"""The ranks of a run as workers of Ray Train: for clusters that Ray keeps, where torchrun would want a shell on each machine.

python -m train RECIPE --ray                  as a driver, or: ray job submit --working-dir . -- python -m train RECIPE --ray

Ray places layout.ranks workers, with a GPU each where the cluster has any, and sets the same environment torchrun does, so a
worker runs what a torchrun rank runs. ROOT is a folder that every machine sees; relative paths of a recipe (init, data, out)
begin at the driver's folder, where a machine has it. A worker that dies ends the run with its error; start it again and it goes
on from its newest checkpoint.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from corpus.engine_ray import connect, import_ray
from corpus.errors import ConfigError, CorpusError, TrainError
from train.config import TrainConfig

__all__ = ["launch"]


def launch(config: TrainConfig, root: Path, stop: int | None) -> None:
    """Train `config` on the cluster that RAY_ADDRESS names, or on this machine. ConfigError where there are too few places."""
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # else every line comes twice
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # else ranks begin in a folder of Ray's session
    ray = import_ray()
    from ray.train import RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    if address := os.environ.get("RAY_ADDRESS"):
        connect(address, ignore_reinit_error=True)
    else:
        ray.init(ignore_reinit_error=True)
    ranks, have = config.layout.ranks, ray.cluster_resources()
    gpu = have.get("GPU", 0) > 0
    places = int(have.get("GPU" if gpu else "CPU", 0))
    if places < ranks:
        kind = "GPUs" if gpu else "CPUs"
        raise ConfigError(f"the layout has {ranks} ranks and the Ray cluster {places} {kind}; lower dp, ep, tp or pp")
    trainer = TorchTrainer(
        _rank,
        train_loop_config={"config": config, "root": str(root.absolute()), "stop": stop, "folder": os.getcwd()},
        scaling_config=ScalingConfig(num_workers=ranks, use_gpu=gpu),
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpu else "gloo"),
        run_config=RunConfig(storage_path=str((root / "ray").absolute()), name=config.name),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        failures = [failure for _, failure in sorted(getattr(error, "worker_failures", {}).items())]
        if failures and all(isinstance(failure, CorpusError) for failure in failures):
            raise failures[0] from None  # what is wrong with the run, told as without Ray
        raise TrainError(f"a rank on the Ray cluster ended: {error.__cause__ or error}") from error


def _rank(job: dict[str, Any]) -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as in __main__, whose environment Ray does not hand on
    if os.path.isdir(job["folder"]):  # Ray begins where its node was started
        os.chdir(job["folder"])
    import torch

    from train.loop import train
    from train.parallel import join

    config, root = job["config"], Path(job["root"])
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 1))
    with join(config.layout) as ranks:
        train(config, root, job["stop"], lambda text: print(text, flush=True), ranks)
