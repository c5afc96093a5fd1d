"""What a run shows: its lines, its plots, its last sentence; and when a step is too bad to be taken."""

from __future__ import annotations

import html
import json
import math
import resource
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from corpus.errors import ConfigError
from train.config import ModelConfig
from train.cost import operations_per_token, peak_rate
from train.parallel import Ranks

__all__ = [
    "add_scalars",
    "draw",
    "judge",
    "read_lines",
    "record",
    "sentence",
    "short",
    "speed",
    "tensorboard",
]


def judge(loss: float, norm: float, recent: Sequence[float], spike: float | None) -> str | None:
    """What is bad about a step, or None. recent: losses of up to 64 steps before; a spike is only seen beside 16 or more."""
    if not (math.isfinite(loss) and math.isfinite(norm)):
        return f"loss {loss}, gradient norm {norm}; finite numbers expected"
    if spike is not None and len(recent) >= 16 and loss > (mean := statistics.fmean(recent)) + spike:
        return f"loss {loss:.3f}, {loss - mean:.3f} above the mean of the {len(recent)} steps before; at most {spike} expected"
    return None


def speed(config: ModelConfig, length: int, tokens: int, seconds: float, ranks: Ranks) -> dict[str, float]:
    """Seconds, tokens/s, and this rank's peak memory so far; on a known card also MFU, the share of its rated operations."""
    line = {"seconds": round(seconds, 4), "tokens_per_second": round(tokens / seconds, 1)}
    if ranks.device.type != "cuda":
        return line | {"memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 3)}
    card = torch.cuda.get_device_name(ranks.device)
    peak = peak_rate(card)
    if peak is not None:
        mfu = tokens / seconds * sum(operations_per_token(config, length).values()) / (peak * ranks.layout.ranks)
        line["mfu"] = round(mfu, 4)
    return line | {"memory_gb": round(torch.cuda.max_memory_allocated(ranks.device) / 1e9, 3)}


def record(line: dict[str, Any]) -> str:
    """A line as JSON. It has no NaN and no infinity, which Python would write all the same: null stands for them."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(line), allow_nan=False)


def tensorboard(folder: Path, step: int) -> Any:
    """A writer of TensorBoard's files for a run after `step`: what older files say of later steps is not shown any more.

    ConfigError where the package is missing.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError("tensorboard=true wants the package tensorboard: pip install tensorboard") from error
    return SummaryWriter(str(folder), purge_step=step + 1)


def add_scalars(writer: Any, line: dict[str, Any]) -> None:
    for key, value in line.items():
        if isinstance(value, dict):  # not add_scalars: its files of their own know nothing of purge_step
            for name, inner in value.items():
                writer.add_scalar(f"{key}/{name}", inner, line["step"])
        elif isinstance(value, int | float) and key != "step":
            writer.add_scalar(key, value, line["step"])


def draw(lines: list[dict[str, Any]], name: str) -> str:
    """An HTML fragment: the loss of every step and of held-out documents, and the gradient's norm, over tokens."""
    told = [line for line in lines if line.get("loss") is not None and math.isfinite(line["loss"])]
    if not told:
        return ""
    held = [(line["tokens"], line["validation_loss"]) for line in told if line.get("validation_loss") is not None]
    losses = [(line["tokens"], line["loss"]) for line in told]
    last, left_out = told[-1], sum("left_out" in line for line in lines)
    said = f"step {last['step']}, {last['tokens']:,} tokens, loss {last['loss']:.4f}"
    said += f", held out {held[-1][1]:.4f}" if held else ""
    said += f", {left_out} steps left out" if left_out else ""
    norms = [(line["tokens"], norm) for line in told if (norm := line["grad_norm"]) is not None and math.isfinite(norm)]
    return (
        f"<p>{html.escape(name)}: {html.escape(said)}</p>"
        + _plot("Loss, nats per token; dots: held-out documents", losses, held)
        + (_plot("Gradient norm, before clipping", norms, []) if norms else "")
    )


def _plot(title: str, curve: list[tuple[float, float]], dots: list[tuple[float, float]]) -> str:
    """Inline SVG, 760 by 220: a line and dots over a common scale, with the ends of both axes written."""
    values = [y for _, y in curve + dots]
    low, high = min(values), max(values)
    left, right = curve[0][0], max(curve[-1][0], curve[0][0] + 1)

    def place(x: float, y: float) -> tuple[float, float]:
        return 60 + 680 * (x - left) / (right - left), 190 - 170 * (y - low) / ((high - low) or 1.0)

    thin = curve[:: max(1, len(curve) // 2000)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in thin))
    marks = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#c0504d"/>' for x, y in (place(*dot) for dot in dots))
    ends = (
        f'<text x="54" y="24" text-anchor="end">{high:.3g}</text><text x="54" y="194" text-anchor="end">{low:.3g}</text>'
        f'<text x="60" y="212">{left:,.0f}</text><text x="740" y="212" text-anchor="end">{right:,.0f} tokens</text>'
    )
    line = f'<polyline points="{path}" fill="none" stroke="#4a7fb5" stroke-width="1.2"/>'
    return f'<h4>{html.escape(title)}</h4><svg width="760" height="220">{line}{marks}{ends}</svg>'


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def sentence(summary: dict[str, Any]) -> str:
    loss, entropy, held = summary["final_loss"], summary["unigram_entropy"], summary["validation_loss"]
    if loss is None:
        learnt = f"None of the last 20 steps was taken; the unigram entropy is {entropy:.3f}"
    else:
        where = "below" if loss < entropy else "NOT below"
        learnt = f"Loss {loss:.3f} nats (mean of the last 20 steps), {abs(entropy - loss):.3f} {where} the unigram entropy of "
        learnt += f"{entropy:.3f}"
    outside = "no documents held out" if held is None else f"held-out documents {held:.3f}"
    return (
        f"{summary['steps']} steps, {summary['tokens']:,} tokens in {summary['seconds']:.0f} s. {learnt}; {outside}. "
        f"{summary['folder']}"
    )


def short(line: dict[str, Any], steps: int) -> str:
    held = line.get("validation_loss")
    if line["loss"] is None:
        return f"step {line['step']:>{len(str(steps))}}/{steps}  left out: {line['left_out']}"
    return (
        f"step {line['step']:>{len(str(steps))}}/{steps}  loss {line['loss']:.4f}  lr {line['lr']:.2e}  "
        f"norm {line['grad_norm']:.2f}  load {line['load_max_over_mean']:.2f}  {line['tokens_per_second']:,.0f} tokens/s"
        + ("" if held is None else f"  held out {held:.4f}")
        + (f"  LEFT OUT: {line['left_out']}" if "left_out" in line else "")
    )
