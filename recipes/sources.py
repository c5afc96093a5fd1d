"""Where things come from: repositories found on this machine, the repositories the user lists, the benchmark files."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from corpus.repository import Repository
from stages.index_benchmarks import Benchmark, benchmark_at

__all__ = ["PACKAGES", "installed_package", "own_repository", "paper_benchmarks", "standard_library"]

HERE = Path(__file__).resolve().parent

# Packages our own dependencies bring: Python, C and C++ headers, Cython, CUDA, JavaScript, CMake, Fortran, YAML, …
PACKAGES = (
    "aiohttp", "awkward", "fsspec", "google.protobuf", "grpc", "huggingface_hub", "jinja2", "llvmlite", "mpmath", "networkx",
    "numba", "numpy", "pip", "pyarrow", "pydantic", "pygments", "ray", "requests", "rich", "setuptools", "sympy", "tokenizers",
    "torch", "torchgen", "yaml",
)  # fmt: skip


def own_repository() -> Repository:
    """This checkout: with its history when it is a git clone, as a plain folder when it is not (an archive, a Ray job)."""
    root = HERE.parent
    if not (root / ".git").exists():
        return Repository(path=str(root), name="crawl-to-tokens", kind="tree")
    head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return Repository(path=str(root), name="crawl-to-tokens", version=head.stdout.strip() or None)


def standard_library() -> Repository:
    """The standard library of the Python that runs this."""
    version = ".".join(map(str, sys.version_info[:3]))
    return Repository(
        path=sysconfig.get_paths()["stdlib"], name="python-stdlib", kind="tree", version=version, license="PSF-2.0"
    )


def installed_package(name: str) -> Repository | None:
    """A package of this Python's environment as a repository without history, named like it; None where it is not installed."""
    paths = sysconfig.get_paths()
    folders = [Path(paths[kind]).joinpath(*name.split(".")) for kind in ("purelib", "platlib")]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        return None
    owners = _distributions().get(name.partition(".")[0], [])
    version = ",".join(sorted({f"{owner} {importlib.metadata.version(owner)}" for owner in owners}))
    return Repository(path=str(folder), name=name, kind="tree", version=version or None)


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    """Import name -> distributions; it reads every installed one's list of files, so once is enough."""
    return importlib.metadata.packages_distributions()


def planted_benchmark() -> Benchmark:
    """The made-up items that files in recipes/planted/repository hold."""
    return benchmark_at("planted", HERE / "planted" / "benchmark.jsonl", ("question", "solution"), "id")


def paper_benchmarks(folder: Path | None = None) -> tuple[Benchmark, ...]:
    """The test sets of the papers' rule, as JSONL files: DeepSeek-Coder 2.4 and DeepSeekMath 2.1, with CRUXEval besides.

    folder: default $CORPUS_DATA/benchmarks, else ./benchmarks. Names and fields are those of the sets' own releases.
    """
    folder = folder or Path(os.environ.get("CORPUS_DATA", ".")) / "benchmarks"
    return (
        benchmark_at("humaneval", folder / "humaneval.jsonl.gz", ("prompt", "canonical_solution"), "task_id"),
        benchmark_at("mbpp", folder / "mbpp.jsonl.gz", ("text", "code"), "task_id"),
        benchmark_at("gsm8k", folder / "gsm8k_test.jsonl.gz", ("question", "answer")),
        benchmark_at("math", folder / "math_test.jsonl.gz", ("problem", "solution"), "idx"),
        benchmark_at("cmath", folder / "cmath.jsonl.gz", ("question",)),
        benchmark_at("cruxeval", folder / "cruxeval.jsonl.gz", ("code",), "id"),
    )
