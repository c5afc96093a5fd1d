"""What a benchmark is made of: the sample (real files of this machine), a rate, and a Row of the table.

    def bench(sample: Sample) -> list[Row]:                       # in bench/<stage>.py
        ours = rate(lambda: [judge(b, config) for b in sample.batches], sample.bytes)
        few = sample.head(5)                                      # for a peer too slow for the whole
        theirs = rate(lambda: peer(few), few.bytes, repeats=1)
        return [Row("stage", "what it does", ours, {"peer": theirs}, "verdicts equal on every file")]

Rates are decimal megabytes of UTF-8 text per second, on one core. The floor is the Parquet reading and writing that
every stage pays: a stage far below it is slow, a stage near it is done.
"""

from __future__ import annotations

import functools
import os
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from corpus.document import SCHEMA, batch_of, document_id, text_bytes
from corpus.errors import InputError
from corpus.shards import BATCH_BYTES, parquet_writer, read_batches

__all__ = ["FLOOR", "Row", "Sample", "build_sample", "floor", "rate", "rates"]

FLOOR = "floor"  # the stage name of the floor's rows
FILE_BYTES = 1 << 20

# Language -> extensions, for the files a benchmark reads and nothing else: the project's own table is
# corpus/languages.py, and a benchmark's input must not change when that is improved. Same names as there.
_EXTENSIONS = {
    "AWK": "awk", "C": "c h", "CMake": "cmake", "C++": "cc cpp cxx hpp hh", "CSS": "css", "CUDA": "cu cuh",
    "Emacs Lisp": "el", "Fortran": "f90", "Go": "go", "HTML": "html htm", "Java": "java", "JavaScript": "js mjs",
    "JSON": "json", "Julia": "jl", "Lua": "lua", "M4": "m4", "Markdown": "md", "Perl": "pl pm", "Protocol Buffer": "proto",
    "Python": "py pyi", "R": "r", "reStructuredText": "rst", "Ruby": "rb", "Rust": "rs", "Shell": "sh bash", "SQL": "sql",
    "Tcl": "tcl", "TeX": "tex", "TOML": "toml", "TypeScript": "ts tsx", "VimL": "vim", "XML": "xml", "YAML": "yaml yml",
    "Cython": "pyx pxd", "C#": "cs",
}  # fmt: skip
_LANGUAGES = {extension: lang for lang, several in _EXTENSIONS.items() for extension in several.split()}


@dataclass(frozen=True)
class Row:
    """A line of the table. ours, peers: MB/s. note: what was checked equal, or what the peer does not do."""

    stage: str
    what: str
    ours: float
    peers: dict[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Sample:
    """Documents (corpus.document.SCHEMA, `lang` filled) in batches of about 16 MB of text; `bytes` of text in all."""

    batches: list[pa.RecordBatch]
    bytes: int

    @functools.cached_property
    def documents(self) -> int:
        return sum(batch.num_rows for batch in self.batches)

    def head(self, mb: float) -> Sample:
        """About `mb` decimal MB: every k-th document, so that a slow peer meets the same mix of files as we do."""
        step = max(1, round(self.bytes / (mb * 1e6)))
        if step == 1:
            return self
        table = pa.Table.from_batches(self.batches)
        return _sample(table.take(pa.array(range(0, table.num_rows, step))))


def _sample(table: pa.Table) -> Sample:
    """`table` cut into batches at the row where 16 MB of text are reached."""
    lengths = pc.binary_length(table.column("text")).to_numpy()
    ends = lengths.cumsum()
    batches, start = [], 0
    while start < table.num_rows:
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(ends.searchsorted(done + BATCH_BYTES, side="right")))
        batches += table.slice(start, stop - start).combine_chunks().to_batches()
        start = stop
    return Sample(batches, int(lengths.sum()))


def rate(function: Callable[[], object], bytes: int, repeats: int = 3) -> float:
    """The best of `repeats` calls, in MB/s over `bytes`. The first also compiles kernels; repeats=1 is for slow peers."""
    return rates({"": function}, bytes, repeats)[""]


def rates(functions: dict[str, Callable[[], object]], bytes: int, repeats: int) -> dict[str, float]:
    """`rate` of each, called in turn: what else the machine does meanwhile slows all of them, and not one."""
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(repeats):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            best[name] = min(best[name], time.perf_counter() - started)
    return {name: bytes / 1e6 / max(seconds, 1e-9) for name, seconds in best.items()}


def roots() -> dict[str, Path]:
    """Where real source files are on this machine: label -> folder."""
    paths = sysconfig.get_paths()
    found = {"stdlib": paths["stdlib"], "site-packages": paths["purelib"], "platlib": paths["platlib"]}
    found |= {"include": "/usr/include", "share": "/usr/share"}
    folders: dict[str, Path] = {}
    for label, path in found.items():
        if Path(path).is_dir() and Path(path).resolve() not in [p.resolve() for p in folders.values()]:
            folders[label] = Path(path)
    return folders


def build_sample(mb: float, folders: dict[str, Path] | None = None) -> Sample:
    """At least `mb` decimal MB of source files: UTF-8 without NUL, at most 1 MiB each, exact duplicates once, sorted.

    Whole folders are drawn by the hash of their name until there is enough: neighbours stay together, so repositories
    and near-duplicates look as they do in life, and all of the machine is drawn from. InputError when there is less.
    """
    folders = roots() if folders is None else folders
    names = sorted(_files(folders), key=_draw)
    rows: list[dict[str, object]] = []
    seen: set[bytes] = set()
    total, drawn = 0, ("", "")
    for label, folder, name in names:
        if total >= mb * 1e6 and (label, folder) != drawn:
            break
        drawn = (label, folder)
        text = _text(folders[label] / folder / name)
        if text is None or (digest := xxhash.xxh3_128_digest(text)) in seen:
            continue
        seen.add(digest)
        total += len(text)
        rows.append(_row(label, folder, name, text))
    if total < mb * 1e6:
        where = ", ".join(map(str, folders.values())) or "no folder"
        raise InputError(
            f"the benchmark's sample has {total / 1e6:.1f} MB in {len(rows)} files, {mb:g} MB expected, from {where}. "
            "Install more packages into the virtual environment, or ask for less with --mb."
        )
    rows.sort(key=lambda row: (str(row["repo"]), str(row["path"])))
    return _sample(pa.Table.from_batches([batch_of(rows)]))


def _files(folders: dict[str, Path]) -> Iterator[tuple[str, str, str]]:
    """(label, folder under it, file name) of every file with a known extension."""
    for label, root in folders.items():
        for folder, inner, names in os.walk(root):
            inner[:] = [d for d in inner if d not in ("__pycache__", "site-packages", "doc")]  # /usr/share/doc is prose
            under = os.path.relpath(folder, root)
            for name in names:
                if name.rpartition(".")[2].lower() in _LANGUAGES:
                    yield label, under, name


def _draw(file: tuple[str, str, str]) -> tuple[int, tuple[str, str, str]]:
    """The order in which folders are drawn."""
    return xxhash.xxh3_64_intdigest("/".join(file[:2]).encode("utf-8", "replace")), file


def _text(path: Path) -> bytes | None:
    """The file's bytes; None where it is not a text a benchmark should read."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > FILE_BYTES:
            return None
        data = path.read_bytes()
        data.decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return None if b"\0" in data else data


def _row(label: str, folder: str, name: str, text: bytes) -> dict[str, object]:
    """A document; its repository is the folder directly under the root, e.g. site-packages/numpy."""
    path = name if folder == "." else f"{folder}/{name}"
    first, _, rest = path.partition("/")
    repo, inside = (f"{label}/{first}", rest) if rest else (label, first)
    repo, inside = repo.encode("utf-8", "replace").decode(), inside.encode("utf-8", "replace").decode()
    return {
        "id": document_id(f"bench/{repo}/{inside}"),
        "text": text.decode("utf-8"),
        "source": "bench",
        "repo": repo,
        "path": inside,
        "lang": _LANGUAGES[name.rpartition(".")[2].lower()],
    }


def floor(sample: Sample) -> list[Row]:
    """Parquet reading, writing and both, of the sample, as every stage does them. The last Row is *the* floor."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "floor.parquet"

        def write() -> None:
            with parquet_writer(path, SCHEMA) as writer:
                for batch in sample.batches:
                    writer.write_batch(batch)

        def read() -> None:
            with pa.memory_map(str(path)) as file:
                if sum(map(text_bytes, read_batches(file.read_buffer(), None))) != sample.bytes:
                    raise InputError(f"{path}: the floor read other bytes than it wrote; the disk may be full")

        writing, reading = rate(write, sample.bytes), rate(read, sample.bytes)
    both = 1 / (1 / writing + 1 / reading)
    names = {"Parquet read": reading, "Parquet write (zstd 1)": writing, "Parquet read + write": both}
    return [Row(FLOOR, what, ours) for what, ours in names.items()]
