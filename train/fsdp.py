"""Parameters shared over data ranks, too: torch's FSDP2, gathered layer by layer when they are needed (ZeRO-3).

A rank keeps its rows of every parameter, in fp32, with their moments; a layer's rows are gathered (in bf16, for a bf16 run)
before it computes and dropped after, and its gradients are summed straight into the rows (Zhao et al., arXiv 2304.11277).
Experts are shared over the dp ranks that hold the same ones, everything else over all data ranks. The sums are those of
parallel.py: FSDP's own division by the number of ranks is switched off.
"""

from __future__ import annotations

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from train.config import TrainConfig
from train.model import Model
from train.moe import MoE
from train.parallel import Ranks

__all__ = ["share_parameters"]


def share_parameters(model: Model, config: TrainConfig, ranks: Ranks) -> None:
    """Turn the parameters of `model`, in fp32 or fp64, into rows of DTensors, in place."""
    assert ranks.data is not None
    kind = ranks.device.type
    data = DeviceMesh.from_group(ranks.data, kind)
    policy = MixedPrecisionPolicy()
    if config.dtype == "bfloat16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in model.model.layers.values():
        if isinstance(layer.mlp, MoE):
            replicas = data
            if ranks.experts is not None:
                assert ranks.replicas is not None
                replicas = DeviceMesh.from_group(ranks.replicas, kind)
            fully_shard(layer.mlp.experts, mesh=replicas, mp_policy=policy)
        fully_shard(layer, mesh=data, mp_policy=policy)
    fully_shard(model, mesh=data, mp_policy=policy)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # else fp32 is summed by an operation that gloo does not have
    register_fsdp_forward_method(model, "hidden")  # gathers embedding, norm and output for the loss as well
