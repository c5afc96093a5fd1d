"""The implementations of the routing ops that a machine can run, and a way to put one behind kernels.ops.

reference  plain torch                    twin      csrc/cpu.cpp
emulated   the CUDA kernels on a CPU      cuda      the same on a GPU
"""

from __future__ import annotations

import contextlib
import functools
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kernels import build, ops, registered
from kernels.native import Library

HERE = Path(__file__).parent


@functools.cache
def implementation(name: str) -> Library | None:
    """The library, built where need be; None is the reference. Skips the test where this machine cannot."""
    if name == "reference":
        return None
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if name == "emulated":
        return _emulated()
    path = build.build({"twin": "cpu", "cuda": "cuda"}[name])
    if path is None:
        pytest.skip(f"no compiler for the {name} implementation")
    return Library(path)


def _emulated() -> Library:
    """All .cu files as one C++ file, with tests/emulated.h in the place of CUDA."""
    compiler = build.compiler("cpu")
    if compiler is None:
        pytest.skip("no C++ compiler for the emulated implementation")
    folder = Path(tempfile.mkdtemp(prefix="emulated-"))
    one = folder / "all.cpp"
    one.write_text("".join(f'#include "{path.name}"\n' for path in sorted(build.SOURCES.glob("*.cu"))))
    command = [compiler, "-std=c++20", "-O1", "-Wno-unknown-pragmas", f"-I{build.SOURCES}", f"-I{HERE}", "-fPIC", "-shared"]
    subprocess.run([*command, "-o", str(folder / "emulated.so"), str(one)], check=True, capture_output=True)
    return Library(folder / "emulated.so")


@contextlib.contextmanager
def behind_ops(name: str) -> Iterator[str]:
    """kernels.ops computes with this implementation; yields the device that tensors have to be on."""
    library = implementation(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "_compiled", lambda device: library is not None)
        patch.setattr(registered, "library", lambda device: library)
        yield "cuda" if name == "cuda" else "cpu"


@contextlib.contextmanager
def behind_ops_in_nan(name: str) -> Iterator[str]:
    """The same, with memory filled with NaN before a kernel writes it: what it leaves out shows."""
    with pytest.MonkeyPatch.context() as patch, behind_ops(name) as device:
        patch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
        torch.use_deterministic_algorithms(True)
        try:
            assert torch.empty(3).isnan().all() and torch.zeros(3).new_empty(3).isnan().all()
            yield device
        finally:
            torch.use_deterministic_algorithms(False)
