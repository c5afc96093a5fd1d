"""Training steps of a V2-Lite-shaped model on one GPU: ours beside transformers with its grouped matrix product.

python -m bench.train_step                          a table: tokens/s, share of the peak rate (MFU), peak memory
python -m bench.train_step --layers 3 --lengths 4096 32768 --tokens 32768

Real hidden size, experts and k; fewer layers, because a layer with its optimizer state is 10 GB. A step is forward, backward,
clipping and AdamW over `--tokens` random tokens in sequences of each length. The peer twice: fp32 weights under autocast, which
is what its Trainer's bf16=True does, and bf16 weights with bf16 moments, which needs less memory and loses small updates. Each
variant runs in a process of its own. MFU counts 6 operations per active parameter and token, and attention over half the keys.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

VARIANTS = ("ours", "ours, recompute", "ours, not deterministic", "transformers, fp32 + autocast", "transformers, bf16")
REPEATS, WARM = 5, 3


def config(layers: int) -> Any:
    from train.config import ModelConfig

    return ModelConfig(vocab_size=102400, num_hidden_layers=layers)


def ours(c: Any, batch: int, length: int, recompute: bool, deterministic: bool = True) -> Callable[[], float]:
    import torch

    from train.config import TrainConfig
    from train.microbatches import run_microbatches
    from train.model import Model
    from train.optim import Optimizer
    from train.parallel import Ranks

    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False
    ranks = Ranks(device=torch.device("cuda"))
    with torch.device("meta"):
        model = Model(c, ranks, recompute)
    model = model.to_empty(device="cuda").to(torch.bfloat16)
    for p in model.parameters():
        torch.nn.init.ones_(p) if p.dim() == 1 else torch.nn.init.normal_(p, std=c.initializer_range)
    run = TrainConfig(
        name="bench", model=c, data="", steps=10, batch=batch, seq_len=length, lr=1e-4, warmup=1, dtype="bfloat16"
    )
    optimizer = Optimizer(model, run, ranks)

    def step() -> float:
        tokens = torch.randint(0, c.vocab_size, (batch, length + 1), device="cuda")
        optimizer.zero_grad()
        sums = run_microbatches(model, tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), batch * length, batch)
        optimizer.reduce()
        optimizer.clip(1.0)
        optimizer.step(1e-4)
        assert sums.losses_BL is not None
        return float(sums.losses_BL.mean())

    return step


def transformers_model(c: Any, dtype: Any) -> Any:
    """transformers' model of this configuration on the GPU, with its grouped product, ready to train."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from train.hf import write_config

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(write_config(c, torch.bfloat16)))
        made = AutoConfig.from_pretrained(folder)
    made.use_cache = False
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(made, dtype=dtype, attn_implementation="sdpa")
    model.set_experts_implementation("grouped_mm")
    return model.train()


def theirs(c: Any, batch: int, length: int, autocast: bool) -> Callable[[], float]:
    import torch

    model = transformers_model(c, torch.float32 if autocast else torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step() -> float:
        tokens = torch.randint(0, c.vocab_size, (batch, length), device="cuda")
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss)

    return step


def measure(variant: str, layers: int, length: int, tokens: int, profile: str | None) -> dict[str, Any]:
    import torch

    from train.cost import operations_per_token, peak_rate

    c = config(layers)
    batch = max(1, tokens // length)
    make = {
        "ours": lambda: ours(c, batch, length, False),
        "ours, recompute": lambda: ours(c, batch, length, True),
        "ours, not deterministic": lambda: ours(c, batch, length, False, False),
        "transformers, fp32 + autocast": lambda: theirs(c, batch, length, True),
        "transformers, bf16": lambda: theirs(c, batch, length, False),
    }[variant]
    step = make()
    times = []
    for number in range(WARM + REPEATS):
        torch.cuda.synchronize()
        started = time.perf_counter()
        loss = step()
        torch.cuda.synchronize()
        if number >= WARM:
            times.append(time.perf_counter() - started)
    card = torch.cuda.get_device_name()
    peak = peak_rate(card) or float("nan")
    rate = batch * length / statistics.median(times)
    if profile:
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
        ) as p:
            step()
            torch.cuda.synchronize()
        Path(profile).write_text(p.key_averages().table(sort_by="self_cuda_time_total", row_limit=45, max_name_column_width=90))
    return {
        "variant": variant,
        "card": card,
        "torch": torch.__version__,
        "layers": layers,
        "length": length,
        "batch": batch,
        "loss": loss,
        "tokens_per_second": rate,
        "spread": (max(times) - min(times)) / statistics.median(times),
        "mfu": rate * sum(operations_per_token(c, length).values()) / peak,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=3, help="1 dense, the rest mixtures")
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 32768])
    parser.add_argument("--tokens", type=int, default=32768, help="per step")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--write", type=Path, help="append JSON lines here")
    parser.add_argument("--profile", help="file for a table of the kernels of one step")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        print(json.dumps(measure(options.one, options.layers, options.lengths[0], options.tokens, options.profile)))
        return 0
    results: dict[tuple[str, int], dict[str, Any]] = {}
    print(f"{'length':>7}  {'variant':<30} {'tokens/s':>9} {'MFU':>6} {'peak GB':>8}  against transformers")
    for length in options.lengths:
        for variant in reversed(options.variants):
            command = [sys.executable, "-m", "bench.train_step", "--one", variant, "--layers", str(options.layers)]
            command += ["--lengths", str(length), "--tokens", str(options.tokens)]
            if options.profile:
                command += ["--profile", f"{options.profile}-{variant.replace(' ', '')}-{length}"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                last = [line for line in done.stderr.splitlines() if line.strip()][-1:] or ["no message"]
                print(f"{length:>7}  {variant:<30} failed: {last[0][:200]}", flush=True)
                continue
            result = results[variant, length] = json.loads(done.stdout.splitlines()[-1])
            if options.write:
                with options.write.open("a") as file:
                    file.write(json.dumps(result) + "\n")
            peer = results.get(("transformers, fp32 + autocast", length))
            ratio = ""
            if peer and variant.startswith("ours"):
                speed = result["tokens_per_second"] / peer["tokens_per_second"]
                ratio = f"{speed:.2f}x tokens/s, {result['peak_gb'] / peer['peak_gb']:.2f}x memory"
            seen = f"{result['tokens_per_second']:>9,.0f} {result['mfu']:>6.1%} {result['peak_gb']:>8.1f}"
            print(f"{length:>7}  {variant:<30} {seen}  {ratio}", flush=True)
    return 0 if len(results) == len(options.lengths) * len(options.variants) else 1


if __name__ == "__main__":
    sys.exit(main())
