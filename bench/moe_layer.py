"""One mixture layer on one GPU, gate to combine, forward and backward, bf16: `python -m bench.moe_layer [--tokens 16384]`.

In both papers' shapes: with our kernels, with plain torch under torch.compile (what runs where no kernels were built), with
plain torch as it is, and transformers' own layer with its grouped product, as it is and under torch.compile. Medians of 20; the
same tokens for all; each step makes its gradients anew, and steps are queued without a wait, as in training.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable
from typing import Any

from bench.train_step import transformers_model

SHAPES = {
    "Lite": {"hidden_size": 2048, "moe_intermediate_size": 1408, "n_routed_experts": 64},
    "V2": {
        "hidden_size": 5120, "moe_intermediate_size": 1536, "n_routed_experts": 160, "n_group": 8, "topk_group": 3,
        "routed_scaling_factor": 16.0,
    },
}  # fmt: skip
REPEATS, WARM = 20, 5


def milliseconds(step: Callable[[], object], leaves: list[Any]) -> float:
    """Median of the steps' times on the device; gradients of `leaves` are dropped before each."""
    import torch

    marks = [torch.cuda.Event(enable_timing=True) for _ in range(WARM + REPEATS + 1)]
    marks[0].record()
    for mark in marks[1:]:
        for leaf in leaves:
            leaf.grad = None
        step()
        mark.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in itertools.pairwise(marks[WARM:]))


def ours(config: Any, tokens: int) -> dict[str, float]:
    import torch

    from kernels import ops
    from train.model import Model
    from train.moe import Segments
    from train.parallel import Ranks

    with torch.device("cuda"):
        layer = Model(config, Ranks(device=torch.device("cuda"))).to(torch.bfloat16).model.layers["1"].mlp
        for p in layer.parameters():
            torch.nn.init.normal_(p, std=0.02)
        x = torch.randn(4, tokens // 4, config.hidden_size, dtype=torch.bfloat16).requires_grad_()
    up = torch.randn_like(x)
    segments = Segments.of(config, 4, None, None)

    def step() -> None:
        out, losses, *_ = layer(x, segments)
        torch.autograd.backward([out, losses], [up, torch.full_like(losses, 0.01)])

    leaves = [x, *layer.parameters()]
    decide = ops._compiled
    found = {"ours": milliseconds(step, leaves)} if decide("cuda") else {}
    ops._compiled = lambda device: False  # type: ignore[assignment]
    found["torch.compile"] = milliseconds(step, leaves)
    with torch.compiler.set_stance("force_eager"):
        found["torch eager"] = milliseconds(step, leaves)
    ops._compiled = decide
    return found


def transformers(config: Any, tokens: int) -> dict[str, float]:
    import torch

    layer = transformers_model(config, torch.bfloat16).model.layers[1].mlp
    x = torch.randn(4, tokens // 4, config.hidden_size, dtype=torch.bfloat16, device="cuda").requires_grad_()
    up = torch.randn_like(x)
    leaves, compiled = [x, *layer.parameters()], torch.compile(layer)
    return {
        "transformers": milliseconds(lambda: layer(x).backward(up), leaves),
        "transformers, compiled": milliseconds(lambda: compiled(x).backward(up), leaves),
    }


def main() -> int:
    import torch

    from train.config import ModelConfig

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=16_384)
    options = parser.parse_args()
    for name in SHAPES:
        config = ModelConfig(vocab_size=512, num_hidden_layers=2, **SHAPES[name])  # type: ignore[arg-type]
        found = ours(config, options.tokens)
        torch.cuda.empty_cache()
        found |= transformers(config, options.tokens)
        best = min(time for variant, time in found.items() if variant != "ours")
        times = ", ".join(f"{variant} {time:.2f} ms" for variant, time in found.items())
        print(f"{name}: {times}" + (f"; {best / found['ours']:.2f}x the best other" if "ours" in found else ""), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
