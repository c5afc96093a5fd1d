"""Compiles csrc/ into shared libraries, with what the machine has: `python -m kernels.build [cpu] [cuda]`, `make kernels`.

    cpu    the twin, with $CXX or c++: seconds
    cuda   the kernels, with nvcc, for sm_80, sm_90a and sm_100 (A100, H100 and H200, B200): a minute or two; no GPU needed

A library's name bears a hash of its sources and flags, so one that was built from others is never loaded. Where a compiler is
missing this says so and ends well: kernels.ops then computes the same with what there is, and says that.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from corpus.errors import CorpusError

__all__ = ["BuildError", "build", "built", "compile_cuda"]

SOURCES = Path(__file__).parent / "csrc"
BUILT = Path(__file__).parent / "built"
# No contraction to fused multiply-adds on the host: results would depend on the compiler.
CPU_FLAGS = ["-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-Wall", "-Wextra", "-fPIC"]
CUDA_FLAGS = ["-std=c++17", "-O3", "-Werror", "all-warnings", "-Xcompiler", "-fPIC,-Wall"]
ARCHITECTURES = {"sm_80": "compute_80", "sm_90a": "compute_90a", "sm_100": "compute_100"}


class BuildError(CorpusError):
    """A compiler ended with an error."""


def built(kind: str) -> Path:
    """Where the library of these sources is, or would be. kind: cpu or cuda."""
    digest = hashlib.sha256(" ".join([*CPU_FLAGS, *CUDA_FLAGS, *ARCHITECTURES]).encode())
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return BUILT / f"{kind}-{digest.hexdigest()[:16]}.so"


def compiler(kind: str) -> str | None:
    if kind == "cuda":  # which needs gcc for the host's part
        return (shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")) if shutil.which("gcc") else None
    return shutil.which(os.environ.get("CXX", "c++"))


def build(kind: str) -> Path | None:
    """The library, compiled unless it is there; None where its compiler is missing. Raises BuildError."""
    target = built(kind)
    if target.exists():
        return target
    command = compiler(kind)
    if command is None:
        return None
    BUILT.mkdir(exist_ok=True)
    unfinished = target.with_suffix(f".{os.getpid()}")  # another process may build, or load, at this moment
    if kind == "cpu":
        _run([command, *CPU_FLAGS, "-shared", "-o", str(unfinished), str(SOURCES / "cpu.cpp")])
    else:
        objects = [path for path, _ in compile_cuda(command, list(ARCHITECTURES), unfinished.with_suffix(".parts"))]
        _run([command, "-shared", "-o", str(unfinished), *map(str, objects)])
        shutil.rmtree(objects[0].parent)
    unfinished.replace(target)
    for old in BUILT.glob(f"{kind}-*.so"):
        if old != target:
            old.unlink()
    return target


def compile_cuda(nvcc: str, architectures: list[str], folder: Path) -> list[tuple[Path, str]]:
    """(object file, what ptxas said about registers and spills) of every .cu file."""
    folder.mkdir(parents=True, exist_ok=True)
    targets = [f"-gencode=arch={ARCHITECTURES[code]},code={code}" for code in architectures]

    def one(source: Path) -> tuple[Path, str]:
        out = folder / f"{source.stem}.o"
        return out, _run([nvcc, *CUDA_FLAGS, *targets, "-Xptxas", "-v", "-c", "-o", str(out), str(source)])

    # The longest first.
    sources = sorted(SOURCES.glob("*.cu"), key=lambda path: (not path.stem.startswith("gate"), path.stem))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(one, sources))


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stderr or done.stdout}")
    return done.stderr


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m kernels.build", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("kind", nargs="*", choices=["cpu", "cuda", []], help="default: both")
    for kind in parser.parse_args(arguments).kind or ["cpu", "cuda"]:
        missing = {
            "cpu": "no C++ compiler (c++, or $CXX): apt-get install g++",
            "cuda": "no nvcc with gcc: install the CUDA toolkit",
        }
        library = build(kind)
        print(f"kernels: {library}" if library else f"kernels: {kind} not built, {missing[kind]}", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BuildError as error:
        sys.exit(f"kernels: {error}")
