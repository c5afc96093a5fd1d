"""detect_language beside Pygments' guess by name and text, and how often ours is right on files of known language.

`accuracy(path)` measures on data/langid (2,741 real files whose language the tools that ship them say): overall, by
whether the name has an extension, per language, and the confusions. The texts of 30 % of the files, by hash, were
not looked at while the rules were written: `held_out`. With CORPUS_DATA set, a run writes it all to bench/LANGUAGES.md.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash
import zstandard

from bench.measure import Row, Sample, rate
from corpus.languages import SUPPORTED, detect
from corpus.shards import atomic
from stages.detect_language import Config, judge

TABLE = Path(__file__).with_name("LANGUAGES.md")
UPSTREAM: Any = None  # judge never looks there
HELD_OUT = 30  # percent

# Names of the list that its own authors took from two vocabularies: counted equal, and nothing else is.
SAME = [
    {"Docker", "Dockerfile"}, {"Jade", "Pug"}, {"Bro", "Zeek"}, {"RHTML", "HTML ERB"}, {"COBOL", "COBOLFree"},
    {"Fortran", "Fortran Fixed Form"}, {"Assembly", "GAS", "NASM"}, {"MATLAB", "Octave"}, {"SQL", "Transact-SQL"},
    {"R", "S", "RConsole"}, {"FoxPro", "XBase"}, {"JavaScript", "JSX"},
]  # fmt: skip


@dataclass(frozen=True)
class Known:
    """A file whose language is known. truth: one of the 338, or None for a language that is not among them."""

    path: str
    text: str
    truth: str | None

    @property
    def held_out(self) -> bool:
        return xxhash.xxh3_64_intdigest(f"{self.path}\0{self.text}".encode("utf-8", "surrogatepass")) % 100 < HELD_OUT


@dataclass(frozen=True)
class Accuracy:
    """Shares of right answers; `right` counts the names in SAME as equal, `strict` does not."""

    right: float
    strict: float
    held_out: float
    developed_on: float
    with_extension: float
    without_extension: float
    per_language: dict[str, tuple[int, int]]  # files, right
    confusions: dict[tuple[str, str], int]  # (truth, said) -> files
    foreign: int  # files in languages outside the 338 ...
    foreign_taken: int  # ... that were said to be one of the 338


def same(a: str, b: str) -> bool:
    return a == b or any(a in group and b in group for group in SAME)


def known_files(samples: Path) -> list[Known]:
    """The files of data/langid/samples.jsonl.zst."""
    with open(samples, "rb") as file:
        lines = zstandard.ZstdDecompressor().stream_reader(file).read().splitlines()
    rows = [json.loads(line) for line in lines]
    return [Known(row["path"], row["text"], row["dsv2_lang"]) for row in rows]


def by_rules(files: list[Known]) -> list[str]:
    """Our answer per file."""
    texts = pa.array([f.text for f in files], pa.large_string())
    found: list[str] = detect(pa.array([f.path for f in files], pa.string()), texts).lang.to_pylist()
    return found


def accuracy(samples: Path, answer: Callable[[list[Known]], list[str]] = by_rules) -> Accuracy:
    """How often `answer` is right on the files of one of the 338 languages."""
    everything = known_files(samples)
    said = answer(everything)
    pairs = [(file, file.truth, name) for file, name in zip(everything, said, strict=True) if file.truth is not None]

    def share(wanted: Callable[[Known], bool]) -> float:
        hits = [same(truth, name) for file, truth, name in pairs if wanted(file)]
        return sum(hits) / max(1, len(hits))

    total, hits = Counter(t for _, t, _ in pairs), Counter(t for _, t, n in pairs if same(t, n))
    foreign = [name for file, name in zip(everything, said, strict=True) if file.truth is None]
    return Accuracy(
        right=share(lambda f: True),
        strict=sum(t == n for _, t, n in pairs) / max(1, len(pairs)),
        held_out=share(lambda f: f.held_out),
        developed_on=share(lambda f: not f.held_out),
        with_extension=share(lambda f: "." in f.path),
        without_extension=share(lambda f: "." not in f.path),
        per_language={language: (count, hits[language]) for language, count in sorted(total.items())},
        confusions=dict(Counter((t, n) for _, t, n in pairs if not same(t, n)).most_common()),
        foreign=len(foreign),
        foreign_taken=sum(name in SUPPORTED for name in foreign),
    )


def report(measured: Accuracy) -> str:
    """The accuracy as Markdown: figures, confusions, and the table per language."""
    files = sum(count for count, _ in measured.per_language.values())
    figures = [
        ("all", measured.right), ("held out while the rules were written", measured.held_out),
        ("developed on", measured.developed_on), ("names with an extension", measured.with_extension),
        ("names without", measured.without_extension), ("synonyms counted as different", measured.strict),
    ]  # fmt: skip
    lines = [
        "# Language detection on files of known language",
        "",
        f"{files} files, {len(measured.per_language)} languages.",
        "",
    ]
    lines += ["| files | right |", "|-|-|"] + [f"| {name} | {value:.2%} |" for name, value in figures]
    taken = f"{measured.foreign_taken} of {measured.foreign}"
    lines += ["", f"Of files in languages outside the 338, {taken} were said to be in one of them.", "", "## Confusions", ""]
    lines += ["| is | said | files |", "|-|-|-|"]
    lines += [f"| {truth} | {name} | {count} |" for (truth, name), count in measured.confusions.items()]
    lines += ["", "## Per language", "", "| language | files | right |", "|-|-|-|"]
    lines += [f"| {language} | {count} | {hits} |" for language, (count, hits) in measured.per_language.items()]
    lines += ["", "Counted equal: " + "; ".join(" = ".join(sorted(group)) for group in SAME) + "."]
    return "\n".join(lines) + "\n"


def by_pygments(paths: list[str], texts: list[str]) -> list[str]:
    """Pygments' name per file; `unknown` where it has none."""
    from pygments.lexers import guess_lexer_for_filename
    from pygments.util import ClassNotFound

    names = []
    for path, text in zip(paths, texts, strict=True):
        try:
            names.append(guess_lexer_for_filename(path, text).name)
        except ClassNotFound:
            names.append("unknown")
    return names


def bench(sample: Sample) -> list[Row]:
    config = Config(files=UPSTREAM)
    ours = rate(lambda: [judge(batch, config) for batch in sample.batches], sample.bytes)
    peers = {}
    few = sample.head(1)
    if _has_pygments():
        paths = [path for batch in few.batches for path in batch.column("path").to_pylist()]
        texts = [text for batch in few.batches for text in batch.column("text").to_pylist()]
        peers["Pygments"] = rate(lambda: by_pygments(paths, texts), few.bytes, repeats=1)
    note = ""
    if where := os.environ.get("CORPUS_DATA"):
        measured = accuracy(Path(where) / "langid" / "samples.jsonl.zst")
        with atomic(TABLE) as temporary:
            temporary.write_text(report(measured), "utf-8")
        note = f"{measured.right:.1%} of {sum(c for c, _ in measured.per_language.values())} known files right"
    headers = Sample([_nameless(batch) for batch in few.batches], few.bytes)
    bare = rate(lambda: [judge(batch, config) for batch in headers.batches], headers.bytes)
    return [
        Row("detect_language", "judge: name, then content where names leave a choice", ours, peers, note),
        Row("detect_language", "judge: content alone, among all languages", bare),
    ]


def _nameless(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.set_column(batch.schema.get_field_index("path"), "path", pa.nulls(batch.num_rows, pa.string()))


def _has_pygments() -> bool:
    try:
        import pygments  # noqa: F401
    except ImportError:
        return False
    return True
