"""kernels.bench without a GPU: what it writes, when, and what it says where a kernel cannot be timed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kernels import bench
from kernels.bench import Op, Shape
from kernels.build import build
from kernels.native import KernelError, Library, Router


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but the clock, and that runs nothing."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "GeForce 256")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(bench, "build", lambda kind: Path("cuda-some.so"))
    monkeypatch.setattr(bench, "Library", lambda path: path)
    monkeypatch.setattr(bench, "disagreements", lambda library, device: [])
    monkeypatch.setattr(bench, "copy_rate", lambda: 4e12)
    monkeypatch.setattr(bench.peers, "of", lambda *_: {"Triton": "Triton"})
    needed = {name: torch.zeros(8) for op in bench.OPS for name in (*op.needs, "balance", "dlosses")}
    monkeypatch.setattr(bench, "make_set", lambda *_: needed)


def timed(ours: object, after: int = 0) -> object:
    """A clock that shows 10 us; of our own kernels after the first few it raises."""
    calls = []

    def microseconds(call: object, sets: object) -> float:
        if call == "Triton":
            raise RuntimeError("cannot be captured\nat all")
        calls.append(call)
        if isinstance(ours, Exception) and len(calls) > after:
            raise ours
        return 10.0

    return microseconds


def test_lines_say_where_they_were_measured(
    on_a_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "microseconds", timed(None))
    out = tmp_path / "kernels.jsonl"
    assert bench.main(["--out", str(out)]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == 2 * len(bench.OPS)
    for line in lines:
        assert line["device"] == "GeForce 256" and line["copy GB/s"] == 4000 and line["ours"] == 10
        assert line["Triton"] is None and line["Triton failed"] == "RuntimeError: cannot be captured"
    assert "GeForce 256" in capsys.readouterr().out


@pytest.mark.parametrize("error", [RuntimeError("out of memory\nmore"), KernelError("permute ended with CUDA error 2")])
def test_our_own_kernel_that_cannot_be_timed_is_named(
    error: Exception, on_a_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "microseconds", timed(error, after=3))
    out = tmp_path / "kernels.jsonl"
    assert bench.main(["--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert re.search(r"permute, Lite, 16384 tokens: our own kernel cannot be timed: \w+Error: ", said)
    assert str(error).split("\n")[0] in said
    assert [json.loads(line)["op"] for line in out.read_text().splitlines()] == ["gate", "gate backward", "route"]


def test_gpu_shs_limits_are_below_ten_minutes() -> None:
    text = (Path(bench.__file__).parent / "gpu.sh").read_text()
    limits = [int(seconds) for seconds in re.findall(r"^ *part \w+ (\d+) ", text, re.MULTILINE)]
    assert len(limits) == 8 and sum(limits) < 600


SMALL = [
    Shape("Lite", 64, 48, 64, Router(k=6, segments=4, devices=8, top_devices=3)),
    Shape("V2", 128, 24, 160, Router(6, 4, 8, 3, scale=16.0, devices=8, top_devices=3)),
]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("shape", SMALL, ids=lambda shape: shape.name)
@pytest.mark.parametrize("op", bench.OPS, ids=lambda op: op.name)
@pytest.mark.parametrize("peer", ["torch eager", "Triton"])
def test_peers_compute_what_they_are_timed_for(op: Op, peer: str, shape: Shape) -> None:
    """Of the gate's losses they have the first alone. Triton: where it is there, on a CPU with TRITON_INTERPRET=1."""
    path, found = build(DEVICE), bench.peers.of(op.name, shape.experts, shape.router)
    if path is None or peer not in found:
        pytest.skip("no compiler" if path is None else "no triton")
    library = Library(path)
    buffers = bench.make_set(shape, 4 * 96, library, 0, DEVICE)
    buffers["dlosses"][1:] = 0
    ours, theirs = op.ours(library, shape, buffers), found[peer](buffers)
    if isinstance(ours, Tensor):
        ours, theirs = (ours,), (theirs,)
    if op.name == "gate":
        ours = ours[0], ours[1], ours[2][:1]
    if op.name == "route":
        ours = ours[2], ours[1], ours[0][1:]
    for mine, other in zip(ours, theirs, strict=(op.name, peer) != ("gate", "Triton")):  # which has no losses at all
        near = {"rtol": 0.01, "atol": 1e-3} if mine.dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
        assert torch.allclose(other.flatten().double(), mine.flatten().double(), **near)
