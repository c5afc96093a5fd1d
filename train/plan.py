"""What a run will be and cost, before anything of it exists: python -m train plan RECIPE

Parameters, operations, days and bytes per rank come from the config alone (train/cost.py); the corpus is not needed, but for
the vocabulary where the recipe leaves that to it.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

from corpus.errors import ConfigError, CorpusError, InputError
from train.__main__ import load_recipe, local
from train.config import TrainConfig, check_layout
from train.cost import DEVICES, Memory, components, memory, operations_per_token
from train.schedule import samples_before

__all__ = ["main", "plan_lines"]

_MFU = 0.25  # what V2 section 3.2.3 comes to: 172.8 thousand H800 hours for a trillion tokens
_FULL = 0.92  # of a card's memory; the rest goes to CUDA's context, to communication, and to gaps


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m train plan",
        description="Show what a run is and costs: parameters, operations, days, memory per rank. Nothing is allocated.",
    )
    top.add_argument("recipe", help="module or module:function that returns a TrainConfig, e.g. recipes.moe_16b:long_32k")
    top.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="as of a run; may be repeated")
    top.add_argument("--root", default="data", help="where the corpus is kept, if there is one (default: data)")
    top.add_argument("--card", default="H100", choices=DEVICES, help="what a rank runs on (default: H100)")
    top.add_argument("--devices", type=int, metavar="N", help="how many of them (default: the layout's ranks)")
    top.add_argument("--mfu", type=float, default=_MFU, help=f"share of the rated operations reached (default: {_MFU})")
    return top


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        if not 0 < options.mfu <= 1:
            raise ConfigError(f"--mfu {options.mfu}: above 0 and at most 1 expected")
        if options.devices is not None and options.devices < 1:
            raise ConfigError(f"--devices {options.devices}: 1 or more expected")
        config = with_vocabulary(load_recipe(options.recipe, options.set), local(options.root))
        check_layout(config)
        for line in plan_lines(config, options.card, options.devices or config.layout.ranks, options.mfu):
            print(line)
    except CorpusError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def with_vocabulary(config: TrainConfig, root: Path) -> TrainConfig:
    """`config` with vocab_size filled in from its shards. ConfigError where neither it nor they are there."""
    if config.model.vocab_size is not None:
        return config
    from train.sources import open_data

    try:
        words = open_data(config, root).vocab_size
    except InputError as error:
        raise ConfigError(
            f"model.vocab_size is left to the shards, and they are not there: {error} Or, to plan without them, say it: "
            "--set model.vocab_size=102400 is DeepSeek's."
        ) from error
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=-(-words // 64) * 64))


def plan_lines(config: TrainConfig, card: str, devices: int, mfu: float) -> Iterator[str]:
    """The plan as text, for a config with its vocab_size and a layout that divides it."""
    yield from _parameters(config)
    yield from _run(config, card, devices, mfu)
    yield from _memory(config, card)


def _parameters(config: TrainConfig) -> Iterator[str]:
    counted = components(config.model)
    whole, met = (sum(pair[i] for pair in counted.values()) for i in (0, 1))
    without = met - counted["embedding"][1]
    yield f"parameters  {whole:,}; a token meets {met:,}, {without:,} without the embedding, which is looked up"
    for kind, (count, active) in counted.items():
        yield f"  {kind:<15}{count:>18,}" + (f"  of which {active:,}" if active != count else "")


def _run(config: TrainConfig, card: str, devices: int, mfu: float) -> Iterator[str]:
    parts = operations_per_token(config.model, config.seq_len)
    a_token = sum(parts.values())
    tokens = samples_before(config.steps, config) * config.seq_len
    size = f"{config.batch:,}" if config.batch_start is None else f"{config.batch_start:,} growing to {config.batch:,}"
    rate = {"cosine": f"a cosine to {config.min_lr_ratio:g} of it", "constant": "constant"}.get(
        config.schedule, f"times {config.decay_by:g} at {', '.join(f'{share:.0%}' for share in config.decay_at)} of the tokens"
    )
    seconds = a_token * tokens / (devices * DEVICES[card].rate * mfu)
    yield f"run         {config.steps:,} steps of {size} × {config.seq_len:,} tokens: {tokens:,}"
    yield f"rate        {config.lr:g} after {config.warmup:,} steps of warm-up, then {rate}"
    yield f"operations  {a_token:.3e} a token, forward and backward; {a_token * tokens:.3e} in all"
    yield "  " + ", ".join(f"{kind} {count / a_token:.1%}" for kind, count in parts.items() if count)
    yield (
        f"time        {seconds / 86400:,.1f} days on {devices:,} × {card} at {mfu:.0%} of {DEVICES[card].rate / 1e12:g} T/s: "
        f"{seconds * devices / 3600:,.0f} card hours, {tokens / seconds:,.0f} tokens/s"
        + ("; recomputing makes the cards do 4/3 of it" if config.recompute else "")
    )


def _memory(config: TrainConfig, card: str) -> Iterator[str]:
    layout = config.layout
    micro = layout.micro(config.batch)
    count = config.batch // layout.data_ranks // micro
    idle = (layout.pp - 1) / (count + layout.pp - 1)
    kinds = (("sequence", "positions shared"), ("zero1", "ZeRO-1"), ("fsdp", "FSDP"))
    named = [text for field, text in kinds if getattr(layout, field) and not (field == "zero1" and layout.fsdp)]
    yield (
        f"layout      pp={layout.pp} · dp={layout.dp} · ep={layout.ep} · tp={layout.tp} = {layout.ranks:,} ranks"
        f"{''.join(f', {text}' for text in named)}; {config.dtype}{', recompute' if config.recompute else ''}; "
        f"{count} micro-batches of {micro} a step on each of {layout.data_ranks} data ranks"
        f"{f', 1F1B idle {idle:.1%}' if layout.pp > 1 else ''}"
    )
    stages = [memory(config, stage) for stage in range(layout.pp)]
    worst = max(stages, key=lambda found: found.total)
    room = DEVICES[card].memory
    if layout.pp > 1:
        yield "stages      " + ", ".join(f"{found.total / 1e9:.1f}" for found in stages) + " GB"
    yield f"memory      of a rank of {_named(worst, layout.pp)}, in GB"
    for name in ("parameters", "gradients", "masters", "moments", "activations", "working"):
        size = getattr(worst, name)
        many = f"  of {worst.in_flight} micro-batches in flight" if name == "activations" and worst.in_flight > 1 else ""
        yield f"  {name:<15}{size / 1e9:>8.2f}{many}"
    share = worst.total / room
    fits = "fits" if share <= _FULL else f"DOES NOT FIT: at most {_FULL * room / 1e9:.1f} are left after CUDA's own"
    yield f"  {'total':<15}{worst.total / 1e9:>8.2f}  of {room / 1e9:g} on a {card}; {fits}"


def _named(found: Memory, stages: int) -> str:
    first, last = found.layers[0], found.layers[-1]
    layers = f"layers {first} to {last}" if last > first else f"layer {first}"
    return layers if stages == 1 else f"the fullest stage, {found.stage + 1} of {stages} ({layers})"


if __name__ == "__main__":
    sys.exit(main())
