"""One pass of a step's sequences through the model, forward and backward, in micro-batches; 1F1B over pipeline stages.

Every rank computes with the sums of the whole step: a micro-batch's loss is Σ nats / (labels of the step), its balance losses
count by its share of the step's tokens. So gradients only have to be added, over micro-batches and over ranks, and no
number depends on how the step was cut.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from train.loss import cross_entropy
from train.model import Model, Routed

__all__ = ["Sums", "run_microbatches"]


@dataclasses.dataclass
class Sums:
    """What a rank saw in one pass; sums over ranks are the step's."""

    losses_BL: Tensor | None  # nats per label, of the last stage; 0 where nothing is predicted
    losses_4: Tensor  # of this stage's layers, weighted by share of the step's tokens
    load_LE: Tensor  # tokens per expert and layer of this stage
    dropped: Tensor  # share of slots, mean over this stage's layers, weighted likewise


class _Stage(nn.Module):
    """This rank's layers as a pipeline wants them: tensor in, tensor out. What was routed is noted on the side, and the
    balance losses reach the gradient through the output (`_Attach`), which works alike in every stage."""

    def __init__(self, model: Model, share: float) -> None:
        super().__init__()
        self.model, self.share = model, share
        self.seen: list[Routed] = []

    def forward(self, x: Tensor, documents_BS: Tensor | None = None, exempt_B: Tensor | None = None) -> Tensor:
        out, routed = self.model.hidden(x, documents_BS, exempt_B)
        alphas = self.model.config.alphas
        if out.requires_grad and len(routed.load_LE):
            out = _Attach.apply(out, routed.losses_4 @ routed.losses_4.new_tensor(alphas) * self.share)
        self.seen.append(Routed(routed.losses_4.detach() * self.share, routed.load_LE, routed.dropped.detach() * self.share))
        return out


class _Attach(torch.autograd.Function):
    """x, and `loss` gets the gradient 1 when x gets one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor) -> Tensor:
        ctx.one = torch.ones_like(loss)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> tuple[Tensor, Tensor]:
        return dx, ctx.one


def run_microbatches(
    model: Model,
    inputs_BL: Tensor,
    labels_BL: Tensor,
    labels: int,
    micro: int,
    documents_BL: Tensor | None = None,
    exempt_B: Tensor | None = None,
) -> Sums:
    """Add the gradients of this rank's sequences to `grad`; without gradients where torch has them switched off.

    labels: how many the whole step predicts, on all ranks. micro: sequences at a time, a divisor of B.
    """
    ranks = model.ranks
    stage = _Stage(model, micro / (len(inputs_BL) * ranks.layout.data_ranks))
    losses: list[Tensor] = []

    def loss_of(x_BSH: Tensor, labels_BS: Tensor) -> Tensor:
        first = ranks.slice * len(model.lm_head.weight)
        loss, losses_T = cross_entropy(x_BSH.flatten(0, 1), model.lm_head.weight, labels_BS.flatten(), ranks.tensor, first)
        losses.append(losses_T.view_as(labels_BS))
        return loss / max(1, labels)

    given = {"documents_BS": documents_BL, "exempt_B": exempt_B}
    extras = {key: value for key, value in given.items() if value is not None}
    if ranks.pipeline is None:
        for start in range(0, len(inputs_BL), micro):
            part = slice(start, start + micro)
            out = stage(inputs_BL[part], **{key: value[part] for key, value in extras.items()})
            loss = loss_of(out, labels_BL[part])
            if torch.is_grad_enabled():
                loss.backward()
    else:
        _pipeline(stage, inputs_BL, labels_BL, micro, extras, loss_of)
    return Sums(
        torch.cat(losses) if ranks.last_stage else None,
        torch.stack([r.losses_4 for r in stage.seen]).sum(0),
        torch.stack([r.load_LE for r in stage.seen]).sum(0, dtype=torch.int32),
        torch.stack([r.dropped for r in stage.seen]).sum(0),
    )


def _pipeline(stage: _Stage, inputs_BL: Tensor, labels_BL: Tensor, micro: int, extras: dict[str, Tensor], loss_of: Any) -> None:
    """torch's 1F1B. Shapes between stages are known, so nothing has to be found out by running the model."""
    ranks, model = stage.model.ranks, stage.model
    group = ranks.pipeline
    assert group is not None
    weight = next(model.parameters())
    positions = inputs_BL.shape[1] // (ranks.layout.tp if ranks.layout.sequence else 1)
    between = weight.new_empty(micro, positions, model.config.hidden_size).requires_grad_()
    first, last = ranks.first_stage, ranks.last_stage
    pipe = PipelineStage(
        stage,
        ranks.stage,
        ranks.layout.pp,
        ranks.device,
        input_args=inputs_BL[:micro] if first else between,
        output_args=between,
        group=group,
    )
    schedule = Schedule1F1B(pipe, len(inputs_BL) // micro, loss_fn=loss_of, scale_grads=False)
    run: Any = schedule.step if torch.is_grad_enabled() else schedule.eval
    arguments = (inputs_BL,) if first else ()
    run(*arguments, target=labels_BL if last else None, return_outputs=False, **extras)
    dist.barrier(group)
