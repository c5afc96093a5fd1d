"""`python -m bench [stage …] [--mb 100]`: run the benchmarks on one core, print the table, keep it in bench/RESULTS.md.

A run of all stages replaces RESULTS.md; a run of some only prints, since rates of different runs do not compare.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.metadata
import os
import platform
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.measure import Row, Sample

HERE = Path(__file__).parent
HEADER = ("stage", "what", "ours MB/s", "peers MB/s (ratio)", "of the floor", "note")
NO_STAGES = ("learning", "measure", "moe_layer", "recall_pages", "snapshot", "train_step")  # commands of their own, or parts
PACKAGES = ("pyarrow", "numpy", "numba", "gigatoken", "tokenizers", "tree-sitter", "datatrove", "datasketch", "ray", "torch")


def main(arguments: list[str] | None = None, folder: Path = HERE, package: str = "bench") -> int:
    """0 when every benchmark ran. `folder` and `package` are where the modules and RESULTS.md are."""
    parser = argparse.ArgumentParser("python -m bench", description="Each stage beside its peers and its floor.")
    parser.add_argument("stages", nargs="*", metavar="stage", help="all when none is named")
    parser.add_argument("--mb", type=float, default=100, help="decimal megabytes of real files to read (100)")
    asked = parser.parse_args(arguments)
    known = stages(folder)
    if unknown := sorted(set(asked.stages) - set(known)):
        parser.error(f"no benchmark named {', '.join(unknown)}; there are: {', '.join(known)}")

    core = one_core()  # before pyarrow, numba and torch start their threads
    from bench.measure import build_sample, floor
    from corpus.errors import CorpusError

    try:
        sample = build_sample(asked.mb)
    except CorpusError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{sample.bytes / 1e6:.1f} MB in {sample.documents:,} files, core {core}", file=sys.stderr)
    rows: list[Row] = floor(sample)
    failures: dict[str, str] = {}
    for stage in asked.stages or known:
        print(f"{stage} …", file=sys.stderr, flush=True)
        try:
            rows += importlib.import_module(f"{package}.{stage}").bench(sample)
        except Exception as error:  # noqa: BLE001 - whatever fails, the others still run
            traceback.print_exc()
            failures[stage] = f"{type(error).__name__}: {error}"
    from bench.snapshot import core_hours

    cells = [cells_of(row, rows) for row in rows]
    show(cells)
    if (cost := core_hours(rows)) is not None:
        print(cost)
    if not asked.stages:
        (folder / "RESULTS.md").write_text(render(cells, failures, sample, cost), "utf-8")
    for stage, message in failures.items():
        print(f"failed: {stage}: {message}", file=sys.stderr)
    return 1 if failures else 0


def stages(folder: Path = HERE) -> list[str]:
    """The modules that have a benchmark of a stage, `bench(sample)`."""
    return sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_") and p.stem not in NO_STAGES)


def one_core() -> str:
    """Pin this process to one core and every library to one thread; the core, or why there is none."""
    for name in ("OMP", "NUMBA", "MKL", "OPENBLAS", "RAYON"):
        os.environ[f"{name}_NUM_THREADS"] = "1"
    os.environ |= {"ARROW_IO_THREADS": "1", "POLARS_MAX_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    core = "not pinned on this system"
    if hasattr(os, "sched_setaffinity"):
        last = max(os.sched_getaffinity(0))  # the first core takes most interrupts
        os.sched_setaffinity(0, {last})
        core = str(last)
    import pyarrow as pa

    pa.set_cpu_count(1)
    return core


def cells_of(row: Row, rows: list[Row]) -> tuple[str, ...]:
    """The row's cells; the floor is the last of the floor's rows."""
    from bench.measure import FLOOR

    base = [r.ours for r in rows if r.stage == FLOOR][-1]
    peers = ", ".join(f"{name} {number(mbs)} ({number(row.ours / mbs)}×)" for name, mbs in row.peers.items())
    return row.stage, row.what, number(row.ours), peers, f"{row.ours / base:.2f}×", row.note


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def show(cells: list[tuple[str, ...]]) -> None:
    if not sys.stdout.isatty():
        print(markdown(cells))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*HEADER)
    for row in cells:
        table.add_row(*row)
    Console().print(table)


def markdown(cells: list[tuple[str, ...]]) -> str:
    """A Markdown table; a | inside a cell is escaped."""
    rule = tuple("---:" if name in ("ours MB/s", "of the floor") else "---" for name in HEADER)
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in (HEADER, rule, *cells)]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def render(cells: list[tuple[str, ...]], failures: dict[str, str], sample: Sample, cost: str | None = None) -> str:
    """RESULTS.md. cost: of a snapshot of Common Crawl."""
    parts = [
        "# Benchmarks",
        "Written by `make bench`. Decimal megabytes of text per second on one core; a ratio over 1 means ours is "
        "faster. The floor is Parquet read + write of the same data in the same run.",
        *(f"- {line}" for line in machine(sample)),
        markdown(cells),
        *([cost] if cost is not None else []),
        *(f"- **{stage} failed**: {message}" for stage, message in failures.items()),
    ]
    joined = "\n\n".join(parts) + "\n"
    return joined.replace("\n\n- ", "\n- ").replace(".\n- ", ".\n\n- ", 1)


def machine(sample: Sample) -> list[str]:
    """What the numbers depend on."""
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue  # the benchmark that needs it says so itself
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return [
        f"Date: {datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        f"Sample: {sample.bytes / 1e6:.1f} MB in {sample.documents:,} real files of this machine",
        f"Machine: {processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}",
        f"Python {platform.python_version()}, {', '.join(versions)}",
    ]


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown processor"


if __name__ == "__main__":
    sys.exit(main())
