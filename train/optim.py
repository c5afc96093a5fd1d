"""AdamW (decoupled weight decay, Loshchilov & Hutter) and the clipping of the global gradient norm.

Decay applies to matrices, fused experts included, and not to norm weights: those are 1-D.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from train.config import TrainConfig

__all__ = ["clip_gradients", "make_optimizer", "moments"]


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)
    # The state exists from the start, so that a checkpoint of step 0 and of step n have the same contents.
    for parameter in model.parameters():
        optimizer.state[parameter] = {
            "step": torch.zeros(()),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer


def moments(model: nn.Module, optimizer: torch.optim.AdamW, which: str) -> dict[str, Tensor]:
    """State tensors "exp_avg" or "exp_avg_sq" by parameter name; the tensors themselves, to save or to fill."""
    return {name: optimizer.state[parameter][which] for name, parameter in model.named_parameters()}


@torch.no_grad()
def clip_gradients(model: nn.Module, limit: float) -> float:
    """Scale all gradients so that their joint L2 norm is at most `limit`; the norm before that.

    A parameter that took no part (an expert nobody chose has a zero gradient; an unused one has none) counts as zero.
    """
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients])))
    if norm > limit:
        for gradient in gradients:
            gradient.mul_(limit / norm)
    return norm
