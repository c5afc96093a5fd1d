"""Building: every .cu compiles without a warning and within its budget, libraries are named by their sources, and what is
missing is said."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kernels import build
from kernels.build import SOURCES, BuildError, built, compile_cuda


def test_cuda_compiles_within_its_budget(tmp_path: Path) -> None:
    nvcc = build.compiler("cuda")
    if nvcc is None:
        pytest.skip("no nvcc")
    budget = json.loads((SOURCES / "budget.json").read_text())
    compiled = compile_cuda(nvcc, ["sm_90a"], tmp_path)
    assert {path.stem for path, _ in compiled} == {path.stem for path in SOURCES.glob("*.cu")} == budget.keys() - {"about"}
    for path, said in compiled:
        registers = [int(n) for n in re.findall(r"Used (\d+) registers", said)]
        spilled = [int(n) for n in re.findall(r"(\d+) bytes spill stores", said)]
        assert len(registers) == len(spilled) >= 1
        most = budget[path.stem]
        assert max(registers) <= most["registers"] and max(spilled) <= most["spilled"], (
            path.stem,
            max(registers),
            max(spilled),
        )
    # V2's gate, plain, 8 lanes of 20 experts: 512 threads, and two such blocks share an SM's 65,536 registers.
    gate = next(said for path, said in compiled if path.stem == "gate")
    assert int(re.findall(r"choose_kernelILi8ELi20ELi1ELb1E.*?Used (\d+) registers", gate, re.DOTALL)[0]) <= 64


def test_a_library_is_named_by_its_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was built from other sources is not loaded, and goes when the next is built."""
    if build.compiler("cpu") is None:
        pytest.skip("no C++ compiler")
    sources = tmp_path / "csrc"
    sources.mkdir()
    for path in SOURCES.iterdir():
        (sources / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(build, "SOURCES", sources)
    monkeypatch.setattr(build, "BUILT", tmp_path / "built")
    first = build.build("cpu")
    assert first == built("cpu") and first.exists()
    stamp = first.stat().st_mtime_ns
    assert build.build("cpu") == first and first.stat().st_mtime_ns == stamp
    (sources / "cpu.cpp").write_text((sources / "cpu.cpp").read_text() + "\n// another\n")
    assert built("cpu") != first and not built("cpu").exists()
    second = build.build("cpu")
    assert second is not None and second.exists() and [path.name for path in second.parent.iterdir()] == [second.name]
    (sources / "cpu.cpp").write_text("int f() { return }")
    with pytest.raises(BuildError, match=r"(?s)ended with 1:.*cpu.cpp:1:"):
        build.build("cpu")


def test_missing_compilers_are_said_and_are_no_error(tmp_path: Path) -> None:
    code = "import sys; from kernels import build; build.BUILT = build.Path(sys.argv[1]); sys.exit(build.main([]))"
    environment = {"PATH": str(tmp_path), "CXX": "no-such-compiler"}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "cpu not built, no C++ compiler (c++, or $CXX): apt-get install g++" in done.stdout
    assert "cuda not built, no nvcc with gcc: install the CUDA toolkit" in done.stdout


def test_without_a_library_the_reference_computes(tmp_path: Path) -> None:
    code = (
        "import sys; from kernels import build; build.BUILT = build.Path(sys.argv[1])\n"
        "import torch; from kernels import ops\n"
        "print(ops._compiled('cpu'), ops.gate(torch.zeros(3, 8), k=2)[0].tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.strip() == "False [[0, 1], [0, 1], [0, 1]]", done.stderr


def test_the_choice_by_name() -> None:
    code = "from kernels import ops; print(ops._compiled('cpu'), ops._compiled('meta'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"CORPUS_KERNELS": "reference"})
    assert done.stdout.split() == ["False", "False"], done.stderr
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"CORPUS_KERNELS": "fast"})
    assert "CORPUS_KERNELS='fast'; compiled or reference expected" in done.stderr
