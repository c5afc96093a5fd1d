"""kernels.bench without a GPU: what it writes, when, and what it says where a kernel cannot be timed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from kernels import bench
from kernels.native import KernelError


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
