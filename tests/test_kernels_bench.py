"""kernels.bench without a GPU: what it writes, when, and what it says where a kernel cannot be timed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

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
    monkeypatch.setattr(bench, "COLD", 1 << 10)


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
    monkeypatch.setattr(bench, "microseconds", timed(error, after=4))
    out = tmp_path / "kernels.jsonl"
    assert bench.main(["--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert re.search(r"permute, Lite, 16384 tokens: our own kernel cannot be timed: \w+Error: ", said)
    assert str(error).split("\n")[0] in said
    assert [json.loads(line)["op"] for line in out.read_text().splitlines()] == ["gate", "gate backward", "drop", "route"]


def test_an_op_that_runs_out_of_memory_does_not_cost_the_table(
    on_a_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether its buffers do not fit, or what it makes of them."""

    def make_set(op: Op, *_: object) -> dict[str, Tensor]:
        if op.name == "combine backward":
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried")
        return {name: torch.zeros(8) for name in op.needs}

    monkeypatch.setattr(bench, "make_set", make_set)
    clock = timed(torch.OutOfMemoryError("CUDA out of memory."), after=2 * len(bench.OPS) - 3)
    monkeypatch.setattr(bench, "microseconds", clock)
    monkeypatch.setattr(bench, "README", tmp_path / "README.md")
    bench.README.write_text("before\n<!-- table -->\nold\n<!-- end -->\nafter\n")
    assert bench.main(["--readme"]) == 1
    rows = [line for line in bench.README.read_text().splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 2 * len(bench.OPS)
    failed = [row for row in rows if row.split(" | ")[2] == "-"]
    assert [row.split(" | ")[:2] for row in failed] == [
        ["| combine backward", "Lite"], ["| combine backward", "V2"], ["| swiglu_weighted backward", "V2"],
    ]  # fmt: skip
    assert capsys.readouterr().err.count("OutOfMemoryError: CUDA out of memory.\n") == 3


@pytest.mark.parametrize("count", [3, 40])
def test_calls_in_a_graph_read_and_write_other_memory(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And are as many as it takes for the replay's own cost not to show."""
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=None))
    captured: list[tuple[int, int]] = []

    @contextlib.contextmanager
    def graph(_: object) -> Iterator[None]:
        captured.clear()
        yield

    def call(one: dict[str, Tensor]) -> Tensor:
        out = one["x"] + 1
        captured.append((one["x"].data_ptr(), out.data_ptr()))
        return out

    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(bench, "elapsed", lambda _: 240.0)
    sets = [{"x": torch.zeros(1000)} for _ in range(count)]
    calls = max(24, count)
    assert bench.microseconds(call, sets) == pytest.approx(240 / calls)
    assert len(captured) == calls
    for n in range(0, calls, count):
        read, written = zip(*captured[n : n + count], strict=True)
        assert len(set(read)) == len(set(written)) == count


def test_sets_hold_what_the_op_reads_and_are_larger_than_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    path = build("cpu")
    if path is None:
        pytest.skip("no compiler")
    library = Library(path)
    monkeypatch.setattr(bench, "COLD", 1 << 17)
    for op in bench.OPS:
        sets = bench.make_sets(op, bench.LITE, 8, library, "cpu")
        assert {*sets[0]} == {*op.needs, "balance", "dlosses"}
        needed = [one[name].nbytes for one in sets for name in op.needs]
        assert len(sets) == 3 or bench.COLD * 0.9 <= sum(needed) <= bench.COLD
        assert op.name != "route" or len(sets) > 64


GPU_SH = Path(bench.__file__).parent / "gpu.sh"


def test_gpu_shs_limits_are_below_ten_minutes() -> None:
    limits = [int(seconds) for seconds in re.findall(r"^ *part \w+ (\d+) ", GPU_SH.read_text(), re.MULTILINE)]
    assert len(limits) == 9 and sum(limits) < 600


@pytest.mark.parametrize("there", [False, True])
def test_gpu_sh_counts_what_failed_and_leaves_few_files(there: bool, tmp_path: Path) -> None:
    """With a python that runs nothing, and with and without a compute-sanitizer; a missing one is two parts that failed."""
    if not there and Path("/usr/local/cuda/bin/compute-sanitizer").exists():
        pytest.skip("this machine has one where gpu.sh looks")
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "compute-sanitizer").write_text("#!/bin/sh\necho caching: $PYTORCH_NO_CUDA_MEMORY_CACHING, $@\n")
    (tools / "compute-sanitizer").chmod(0o755 if there else 0o644)
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "PYTHON": "true"}
    done = subprocess.run([GPU_SH, tmp_path / "out"], env=environment, capture_output=True, text=True)
    assert done.returncode == (0 if there else 2), done.stdout
    assert done.stdout.splitlines()[-1] == f"{done.returncode} failed"
    assert re.search(r"memcheck: passed" if there else r"memcheck: FAILED \(12\d\)", done.stdout)
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"gpu.log", "kernels.jsonl", "README.md"}
    log = (tmp_path / "out" / "gpu.log").read_text()
    assert log.count("== ") == 9
    if there:
        assert "caching: 1, --error-exitcode 3 true -m kernels.check" in log and "caching: , --tool racecheck" in log


SMALL = [
    Shape("Lite", 64, 48, 64, Router(k=6, segments=4, devices=8, top_devices=3)),
    Shape("V2", 128, 24, 160, Router(6, 4, 8, 3, scale=16.0, devices=8, top_devices=3)),
]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("shape", SMALL, ids=lambda shape: shape.name)
@pytest.mark.parametrize("op", bench.OPS, ids=lambda op: op.name)
@pytest.mark.parametrize("peer", ["torch eager", "Triton"])
def test_peers_compute_what_they_are_timed_for(op: Op, peer: str, shape: Shape) -> None:
    """Of the gate's losses they have the first alone. Triton, where it is there, is compiled on a GPU, interpreted on a CPU."""
    path, found = build(DEVICE), bench.peers.of(op.name, shape.experts, shape.router)
    if path is None or peer not in found:
        pytest.skip("no compiler" if path is None else "no triton")
    if peer == "Triton" and DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("triton on a CPU needs TRITON_INTERPRET=1")
    library = Library(path)
    buffers = bench.make_set(op, shape, 4 * 96, library, 0, DEVICE)
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
