"""Compiles csrc/ into shared libraries, with what the machine has: `python -m kernels.build [cpu] [cuda]`, `make kernels`.

    cpu    the twin, with $CXX or c++: seconds
    cuda   the kernels, with nvcc, for sm_80, sm_90a and sm_100 (A100, H100 and H200, B200), or those of them that it knows: a
           minute or two; no GPU needed

A library's name bears hashes of its sources and flags, of the CPU that the twin is made for, and of the compiler's version: one
of other sources or for another CPU is never loaded, one of another compiler is built anew. Where a compiler is missing, or does
not manage the twin, this says so and ends well: kernels.ops then computes the same with what there is, and says that.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from corpus.errors import CorpusError, say_line

__all__ = ["BuildError", "build", "built", "compile_cuda"]

SOURCES = Path(__file__).parent / "csrc"
BUILT = Path(__file__).parent / "built"
# No contraction to fused multiply-adds on the host: results would depend on the compiler.
CPU_FLAGS = ["-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-Wall", "-Wextra", "-fPIC"]
CUDA_FLAGS = ["-std=c++17", "-O3", "-Werror", "all-warnings", "-Xcompiler", "-fPIC,-Wall"]
CPU = Path("/proc/cpuinfo")
ARCHITECTURES = {"sm_80": "compute_80", "sm_90a": "compute_90a", "sm_100": "compute_100"}


class BuildError(CorpusError):
    """A compiler ended with an error."""


def built(kind: str) -> Path:
    """Where the library of these sources for this machine is, or would be. kind: cpu or cuda.

    One that is there serves whichever compiler made it: where it runs need not be where it was built.
    """
    found = list(BUILT.glob(f"{kind}-{_machine(kind)}-{_sources()}-*.so"))
    return found[0] if len(found) == 1 else _target(kind)


def _target(kind: str) -> Path:
    command = compiler(kind)
    version = _output([command, "--version"]) if command else ""
    return BUILT / f"{kind}-{_machine(kind)}-{_sources()}-{_digest(version, 8)}.so"


def _sources() -> str:
    text = [" ".join([*CPU_FLAGS, *CUDA_FLAGS, *ARCHITECTURES])]
    return _digest("\0".join([*text, *(f"{path.name}\0{path.read_text('utf-8')}" for path in sorted(SOURCES.iterdir()))]), 16)


def _machine(kind: str) -> str:
    """Of the kind of machine that code is made for: -march=native makes the twin for this CPU and no lesser one."""
    seen = {"machine": platform.machine()}
    if kind == "cpu" and CPU.exists():
        for line in CPU.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "flags", "Features", "CPU implementer", "CPU part"):
                seen.setdefault(name.strip(), value)  # of the first core
    return _digest(repr(seen), 8)


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def compiler(kind: str) -> str | None:
    if kind == "cuda":  # which needs gcc for the host's part
        return (shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")) if shutil.which("gcc") else None
    return shutil.which(os.environ.get("CXX", "c++"))


def build(kind: str) -> Path | None:
    """The library, compiled unless it is there; None where its compiler is missing. Raises BuildError."""
    command = compiler(kind)
    target = built(kind) if command is None else _target(kind)
    if target.exists():
        return target
    if command is None:
        return None
    BUILT.mkdir(exist_ok=True)
    # A folder of its own: another process may build, or load, at this moment.
    with tempfile.TemporaryDirectory(prefix=f"{kind}-", dir=BUILT) as folder:
        unfinished = Path(folder) / target.name
        if kind == "cpu":
            _run([command, *CPU_FLAGS, "-shared", "-o", str(unfinished), str(SOURCES / "cpu.cpp")])
        else:
            objects = [path for path, _ in compile_cuda(command, architectures(command), Path(folder))]
            _run([command, "-shared", "-o", str(unfinished), *map(str, objects)])
        unfinished.replace(target)
    for old in BUILT.glob(f"{kind}-{_machine(kind)}-*.so"):
        if old != target:
            old.unlink(missing_ok=True)  # another build may have been here
    return target


def architectures(nvcc: str) -> list[str]:
    """Those of ARCHITECTURES that this nvcc compiles for; what it does not know is said. Raises BuildError if none."""
    listed = set(_output([nvcc, "--list-gpu-arch"]).split())
    # It lists compute_90 for compute_90a too.
    known = [code for code, virtual in ARCHITECTURES.items() if virtual.rstrip("a") in listed]
    unknown = [code for code in ARCHITECTURES if code not in known]
    if not known:
        raise BuildError(f"{nvcc} lists {sorted(listed)}; one of {', '.join(ARCHITECTURES)} expected: install CUDA 12.8")
    if unknown:
        said = f"{nvcc} does not know {', '.join(unknown)}, which take CUDA 12.8; the library is for {', '.join(known)} only"
        say_line(f"kernels: {said}")
    return known


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


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m kernels.build", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("kind", nargs="*", choices=["cpu", "cuda", []], help="default: both")
    for kind in parser.parse_args(arguments).kind or ["cpu", "cuda"]:
        missing = {
            "cpu": "no C++ compiler (c++, or $CXX): apt-get install g++",
            "cuda": "no nvcc with gcc: install the CUDA toolkit",
        }
        try:
            library = build(kind)
        except BuildError as error:
            if kind == "cuda":  # asked for where there is an nvcc; without, a GPU would be a slow one
                raise
            say_line(f"kernels: cpu not built; plain torch (kernels/reference.py) computes there. {error}")
            continue
        print(f"kernels: {library}" if library else f"kernels: {kind} not built, {missing[kind]}", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BuildError as error:
        sys.exit(f"kernels: {error}")
