"""Times every kernel on a GPU: `python -m kernels.bench [--out kernels.jsonl] [--readme]`, after `make kernels`.

First the laws in small (kernels.check); a kernel that disagrees is not timed. Then each op in both papers' shapes at
T = 16,384, beside torch eager, torch.compile and plain Triton (kernels/peers.py): a CUDA graph of 24 calls or more, on one set
of buffers after another, together larger than any cache, is replayed 30 times, and the median is divided by the calls. Rates
are of the bytes that the op has to move, and beside them that rate as a share of a copy's in the same run. Each line is written
as it comes, so a run that is cut short leaves what it has. --readme rewrites the table of kernels/README.md.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import itertools
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from kernels import peers, reference
from kernels.build import build
from kernels.check import disagreements
from kernels.native import KernelError, Library, Router

__all__ = ["main"]

COLD = 256 << 20  # bytes that rotate: several times the 50 to 126 MB of second-level cache of the GPUs of now
CALLS = 24  # in a graph at least: what a replay costs by itself is divided by them
REPLAYS = 30
README = Path(__file__).parent / "README.md"


@dataclasses.dataclass(frozen=True)
class Shape:
    name: str
    hidden: int
    inner: int
    experts: int
    router: Router


LITE = Shape("Lite", 2048, 1408, 64, Router(k=6, segments=4, devices=8, top_devices=3))
V2 = Shape("V2", 5120, 1536, 160, Router(6, 4, 8, 3, scale=16.0, devices=8, top_devices=3))
# Microseconds to reach at T = 16,384 on an H200; of the others a share of the copy's rate.
AIMS = {("gate", "Lite"): 6, ("gate", "V2"): 9, ("gate backward", "Lite"): 7, ("gate backward", "V2"): 11, ("route", ""): 5}
SHARES = {"permute": 0.85, "permute backward": 0.85, "combine": 0.85, "combine backward": 0.8, "swiglu_weighted backward": 0.8}

Set = dict[str, Tensor]  # the buffers of one call


def make_set(op: Op, shape: Shape, tokens: int, library: Library, seed: int, device: str = "cuda") -> Set:
    """What the op and its peers read, and no more: all buffers of V2's largest ops together are 5 GB."""
    dice = torch.Generator(device).manual_seed(seed)
    rows, k = tokens * shape.router.k, shape.router.k

    def noise(*size: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.randn(*size, generator=dice, device=device, dtype=torch.float32).to(dtype)

    logits = noise(tokens, shape.experts, dtype=torch.float32)
    experts, weights, _, balance = library.gate(logits, None, None, shape.router)
    offs, pos, src = library.route(experts, shape.experts)
    made = {
        "logits": logits, "experts": experts, "weights": weights, "balance": balance, "offs": offs, "pos": pos, "src": src,
        "dlosses": noise(4, dtype=torch.float32),
    }  # fmt: skip
    large: dict[str, Callable[[], Tensor]] = {
        "dweights": lambda: noise(tokens, k, dtype=torch.float32),
        "x": lambda: noise(tokens, shape.hidden),
        "y": lambda: noise(rows, shape.hidden),
        "gate_up": lambda: noise(rows, 2 * shape.inner),
        "dout": lambda: noise(rows, shape.inner),
    }
    return {name: made[name] if name in made else large[name]() for name in (*op.needs, "balance", "dlosses")}


@dataclasses.dataclass(frozen=True)
class Op:
    name: str
    needs: tuple[str, ...]  # buffers that have to be cold
    moved: Callable[[int, Shape], int]  # bytes for T tokens, from the table of floors
    ours: Callable[[Library, Shape, Set], object]


OPS = [
    Op(
        "gate", ("logits",), lambda t, s: 4 * t * s.experts + 8 * t * s.router.k,
        lambda lib, s, b: lib.gate(b["logits"], None, None, s.router),
    ),
    Op(
        "gate backward", ("logits", "experts", "dweights"), lambda t, s: 8 * t * s.experts + 8 * t * s.router.k,
        lambda lib, s, b: lib.gate_backward(
            b["logits"], None, b["experts"], b["balance"], b["dweights"], b["dlosses"], s.router
        ),
    ),
    Op(
        "drop", ("experts", "weights"), lambda t, s: 16 * t * s.router.k,
        lambda lib, s, b: lib.drop(
            b["experts"], b["weights"], None, s.experts, s.router.devices, s.router.segments,
            reference.room(b["experts"].numel() // s.router.segments, s.router.devices, 1.0),
        ),
    ),
    Op("route", ("experts",), lambda t, s: 12 * t * s.router.k, lambda lib, s, b: lib.route(b["experts"], s.experts)),
    Op(
        "permute", ("x", "pos", "src"), lambda t, s: 2 * t * s.hidden * (1 + s.router.k) + 4 * t * s.router.k,
        lambda lib, s, b: lib.permute(b["x"], b["pos"], None),
    ),
    Op(
        "permute backward", ("y", "pos"), lambda t, s: 2 * t * s.hidden * (1 + s.router.k) + 4 * t * s.router.k,
        lambda lib, s, b: lib.combine(b["y"], None, None, b["pos"], None),
    ),
    Op(
        "combine", ("y", "pos", "weights"), lambda t, s: 2 * t * s.hidden * (1 + s.router.k) + 8 * t * s.router.k,
        lambda lib, s, b: lib.combine(b["y"], b["weights"], None, b["pos"], None),
    ),
    Op(
        "combine backward", ("x", "y", "pos", "weights"),
        lambda t, s: 2 * t * s.hidden * (1 + 2 * s.router.k) + 12 * t * s.router.k,
        lambda lib, s, b: lib.combine_backward(b["x"], b["y"], b["weights"], b["pos"], None),
    ),
    Op(
        "swiglu_weighted", ("gate_up", "src", "weights"), lambda t, s: t * s.router.k * (6 * s.inner + 8),
        lambda lib, s, b: lib.swiglu_weighted(b["gate_up"], b["weights"], b["src"], None),
    ),
    Op(
        "swiglu_weighted backward", ("gate_up", "dout", "src", "weights"), lambda t, s: t * s.router.k * (10 * s.inner + 12),
        lambda lib, s, b: lib.swiglu_weighted_backward(b["dout"], b["gate_up"], b["weights"], b["src"], None),
    ),
]  # fmt: skip


def microseconds(call: Callable[[Set], object], sets: list[Set]) -> float:
    """Median time of one call, on buffers that no cache holds."""
    for one in sets[:3]:
        call(one)
    torch.cuda.synchronize()
    graph, rounds = torch.cuda.CUDAGraph(), max(1, CALLS // len(sets))
    kept: collections.deque[object] = collections.deque(maxlen=len(sets))  # or every call would write the same memory
    with torch.cuda.graph(graph):
        for one in sets * rounds:
            kept.append(call(one))
    return statistics.median([elapsed(graph.replay) for _ in range(REPLAYS + 5)][5:]) / len(sets) / rounds


def copy_rate() -> float:
    """Bytes a second, read and written, of copies of 1 GiB; not in a graph, where a slower copy engine does it."""
    a = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)

    def copies() -> None:
        for _ in range(CALLS):
            b.copy_(a)

    return 2 * a.numel() * CALLS / statistics.median(elapsed(copies) for _ in range(REPLAYS)) * 1e6


def elapsed(call: Callable[[], object]) -> float:
    """Microseconds on the device."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1e3


def measure(shape: Shape, tokens: int, library: Library, copy: float) -> Iterator[dict[str, object]]:
    """One line an op, also where memory does not suffice. Raises KernelError where our own kernel cannot be timed."""
    where = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "copy GB/s": copy / 1e9}
    for op in OPS:
        line: dict[str, object] = {
            "op": op.name,
            "shape": shape.name,
            "tokens": tokens,
            "bytes": op.moved(tokens, shape),
        } | where
        contenders = {"ours": lambda b, op=op: op.ours(library, shape, b)} | peers.of(op.name, shape.experts, shape.router)
        sets: list[Set] = []
        for who, call in contenders.items():
            try:
                sets = sets or make_sets(op, shape, tokens, library)
                line[who] = microseconds(call, sets)
            except (RuntimeError, NotImplementedError, KernelError) as error:
                why = f"{type(error).__name__}: {error}".split("\n")[0]
                # After it the end of a capture may fail too.
                memory = any(isinstance(one, torch.OutOfMemoryError) for one in (error, error.__context__))
                if who == "ours" and not memory:
                    raise KernelError(
                        f"{op.name}, {shape.name}, {tokens} tokens: our own kernel cannot be timed: {why}"
                    ) from error
                line[who], line[f"{who} failed"] = None, why  # one that cannot be captured is said, not left out
            torch.cuda.empty_cache()  # of the graph's own memory
        if line["ours"] is not None:
            line["GB/s"] = op.moved(tokens, shape) / float(line["ours"]) / 1e3  # type: ignore[arg-type]
            line["share of copy"] = float(line["GB/s"]) * 1e9 / copy  # type: ignore[arg-type]
        yield line


def make_sets(op: Op, shape: Shape, tokens: int, library: Library, device: str = "cuda") -> list[Set]:
    first = make_set(op, shape, tokens, library, 0, device)
    each = sum(first[name].nbytes for name in op.needs)
    return [first, *(make_set(op, shape, tokens, library, i, device) for i in range(1, max(3, COLD // each)))]


def table(lines: list[dict[str, object]], copy: float) -> str:
    def shown(value: object, form: str = ".1f") -> str:
        return "-" if value is None else format(value, form)

    device, tokens = torch.cuda.get_device_name(), lines[0]["tokens"]
    head = f"{device}, torch {torch.__version__}, T = {tokens:,}; a copy: {copy / 1e12:.2f} TB/s."
    rows = [
        "| op | shape | ours, us | GB/s | of a copy | aim | torch eager | torch.compile | Triton |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for line in lines:
        op, shape = str(line["op"]), str(line["shape"])
        most = AIMS.get((op, shape), AIMS.get((op, "")))
        aim = f"at most {most} us" if most else f"at least {SHARES[op]:.0%}" if op in SHARES else ""
        rates = shown(line.get("GB/s"), ".0f"), shown(line.get("share of copy"), ".0%")
        theirs = [shown(line.get(who)) for who in ("torch eager", "torch.compile", "Triton")]
        rows.append(f"| {' | '.join([op, shape, shown(line['ours']), *rates, aim, *theirs])} |")
    return "\n".join([head, "", *rows])


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m kernels.bench", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--out", type=Path, help="a file for one JSON line per op")
    parser.add_argument("--readme", action="store_true", help="put the table into kernels/README.md")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("kernels.bench: needs a CUDA device, and this machine has none", file=sys.stderr)
        return 2
    path = build("cuda")
    if path is None:
        print("kernels.bench: nothing to time: no nvcc, and kernels/built has no library of these sources", file=sys.stderr)
        return 2
    try:
        library = Library(path)
    except (OSError, KernelError) as error:
        print(f"kernels.bench: cannot be loaded: {error}", file=sys.stderr)
        return 1
    wrong = disagreements(library, "cuda")
    if wrong:
        print("kernels.bench: wrong, so not timed:\n  " + "\n  ".join(wrong), file=sys.stderr)
        return 1
    copy = copy_rate()
    lines = []
    if options.out:
        options.out.write_text("")
    try:
        for line in itertools.chain.from_iterable(measure(shape, options.tokens, library, copy) for shape in (LITE, V2)):
            lines.append(line)
            print(json.dumps(line), flush=True)
            if options.out:
                with options.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
    except KernelError as error:
        print(f"kernels.bench: {error}", file=sys.stderr)
        return 1
    made = table(lines, copy)
    print(made)
    untimed = [f"{line['op']}, {line['shape']}: {line['ours failed']}" for line in lines if line["ours"] is None]
    if untimed:
        print("kernels.bench: not timed:\n  " + "\n  ".join(untimed), file=sys.stderr)
    if options.readme:
        before, _, rest = README.read_text().partition("<!-- table -->")
        README.write_text(f"{before}<!-- table -->\n{made}\n<!-- end -->{rest.partition('<!-- end -->')[2]}")
    return 1 if untimed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
