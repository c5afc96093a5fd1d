"""On a GPU: the step is that of the CPU in float64, documents stay apart, and two runs give the same bits."""

from __future__ import annotations

import dataclasses
import os

import pytest
import torch

from train.config import ModelConfig, TrainConfig
from train.loss import IGNORED
from train.microbatches import run_microbatches
from train.model import Model, make_model
from train.optim import Optimizer
from train.parallel import ALONE, Ranks

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

SMALL = ModelConfig(
    vocab_size=640,
    hidden_size=256,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=512,
    moe_intermediate_size=128,
    n_routed_experts=16,
    num_experts_per_tok=4,
    kv_lora_rank=64,
    n_group=4,
    topk_group=2,
    device_loss_alpha=0.01,
    comm_loss_alpha=0.01,
    initializer_range=0.05,
)


def step(config: ModelConfig, dtype: torch.dtype, ranks: Ranks, documents: bool) -> tuple[float, dict[str, torch.Tensor]]:
    """(loss, gradients on the CPU in float64)."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    model = make_model(config, 0, dtype, ranks)
    run = TrainConfig(name="x", model=config, data="", steps=2, warmup=1, batch=4, seq_len=192, lr=1e-3, dtype=str(dtype)[6:])
    optimizer = Optimizer(model, run, ranks)
    dice = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 640, (4, 193), generator=dice)
    labels, of = tokens[:, 1:].clone(), (torch.arange(192) // 50).expand(4, -1)
    if documents:
        labels[:, 49::50] = IGNORED
    counted = int((labels != IGNORED).sum())
    inputs = [t.contiguous().to(ranks.device) for t in (tokens[:, :-1], labels)]
    sums = run_microbatches(model, *inputs, counted, 2, of.contiguous().to(ranks.device) if documents else None)
    optimizer.reduce()
    assert sums.losses_BL is not None
    return float(sums.losses_BL.double().sum()) / counted, {o.name: o.gradient.double().cpu() for o in optimizer.owned}


def cuda() -> Ranks:
    return Ranks(device=torch.device("cuda"))


@pytest.mark.parametrize("documents", [False, True])
def test_fp32_is_the_cpu_in_float64(documents: bool) -> None:
    expected, wanted = step(SMALL, torch.float64, ALONE, documents)
    loss, gradients = step(SMALL, torch.float32, cuda(), documents)
    assert loss == pytest.approx(expected, rel=1e-5)
    for name, gradient in gradients.items():
        assert (gradient - wanted[name]).norm() <= 1e-3 * wanted[name].norm(), name


@pytest.mark.parametrize("documents", [False, True])
def test_bf16_is_near(documents: bool) -> None:
    """All experts chosen, so that no rounding changes a route."""
    config = dataclasses.replace(SMALL, n_routed_experts=4, n_group=1, topk_group=1)
    expected, wanted = step(config, torch.float64, ALONE, documents)
    loss, gradients = step(config, torch.bfloat16, cuda(), documents)
    assert loss == pytest.approx(expected, rel=5e-3)
    for name, gradient in gradients.items():
        if not name.endswith("gate.weight"):  # its gradient is what is left of terms that cancel
            assert (gradient - wanted[name]).norm() <= 0.08 * wanted[name].norm(), name


def test_two_runs_give_the_same_bits() -> None:
    (one, first), (other, second) = (step(SMALL, torch.bfloat16, cuda(), True) for _ in range(2))
    assert one == other
    for name, gradient in first.items():
        assert torch.equal(gradient, second[name]), name


def test_a_model_fits_where_its_logits_would_not() -> None:
    """Cross-entropy makes logits in chunks: the peak stays below what all of them would take."""
    config = dataclasses.replace(SMALL, vocab_size=102400, num_hidden_layers=1)
    model: Model = make_model(config, 0, torch.bfloat16, cuda())
    tokens = torch.randint(0, 102400, (8, 4097), device="cuda")
    torch.cuda.reset_peak_memory_stats()
    run_microbatches(model, tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), 8 * 4096, 8)
    assert torch.cuda.max_memory_allocated() < 8 * 4096 * 102400 * 2
