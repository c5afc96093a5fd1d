"""Evaluation: what is asked of a model, what came out, and how sure a difference between two models is.

tasks      bits per byte, filling in lines, needles: on documents a run held out
           pass@k, few-shot answers: on files of HumanEval's and GSM8K's format
results    JSON lines: a first line that says of which model and with which settings, then one per document or question
figures    Σ score / Σ weight, each with a 95 % interval where items are many enough; of two models the difference of the items
           both answered, paired

All that can be wrong is looked at before the first task is asked: an hour of answers is not lost to the name of a file.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from corpus.errors import ConfigError, InputError, StorageError
from corpus.shards import atomic
from train.bits import nats, sequence_of, windows
from train.bootstrap import paired_bootstrap
from train.few_shot import check_questions, read_questions, score_questions
from train.fim_lines import score_lines
from train.functional import check_programs, read_tasks, score_tasks
from train.generate import Sampling
from train.held_documents import Document
from train.items import Item, Progress, Say
from train.needle import check_needles, score_needles
from train.sandbox import Limits, require
from train.subject import Subject

__all__ = [
    "Files", "Meter", "Tasks", "answer", "check_writable", "comparison", "figures", "needs_documents", "read_items", "ready",
    "score_bits", "write_items",
]  # fmt: skip

_GROUPS = ("lang", "source", "data", "length", "depth")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tasks:
    """What is asked. Everything that decides an answer is here, the model and the documents aside."""

    bits: bool = False
    window: int | None = None  # None: the model's context
    stride: int | None = None  # None: half the window
    fim: bool = False
    needle: tuple[int, ...] = ()  # lengths in tokens
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    repeats: int = 5
    humaneval: Path | None = None
    samples: int = 1  # a task
    ks: tuple[int, ...] = (1,)
    temperature: float = 0.0
    top_p: float = 1.0
    limits: Limits = dataclasses.field(default_factory=Limits)
    gsm8k: Path | None = None
    examples: Path | None = None  # where the shots are from; None: from the same file
    shots: int = 8
    most: int = 256  # new tokens of a program or an answer
    line: int = 64  # new tokens of a line
    seed: int = 0


def needs_documents(tasks: Tasks) -> bool:
    return bool(tasks.bits or tasks.fim or tasks.needle)


class Files(NamedTuple):
    """Rows of the files that tasks name."""

    programs: list[dict[str, Any]]
    questions: list[dict[str, Any]]
    examples: list[dict[str, Any]]


def ready(tasks: Tasks, context: int, unsafe: bool) -> Files:
    """The files read. An error for all that can be seen to be wrong with them and the settings before a model is opened."""
    if tasks.bits:
        list(windows(1, *_window(tasks, context)))
    if tasks.needle:
        check_needles(tasks.needle, tasks.depths, context)
    programs, questions = [], []
    if tasks.humaneval is not None:
        require(unsafe)
        programs = read_tasks(tasks.humaneval)
        sampling = Sampling(tasks.temperature, tasks.top_p)
        check_programs(samples=tasks.samples, ks=tasks.ks, sampling=sampling, most=tasks.most, context=context)
    if tasks.gsm8k is not None:
        questions = read_questions(tasks.gsm8k)
    examples = questions if tasks.examples is None else read_questions(tasks.examples)
    if questions:
        check_questions(questions, examples, shots=tasks.shots, most=tasks.most, context=context)
    return Files(programs, questions, examples)


def answer(
    subject: Subject,
    tasks: Tasks,
    documents: Sequence[Document],
    files: Files,
    *,
    say: Say,
    workers: int,
    unsafe: bool = False,
    batch_tokens: int = 8192,
) -> list[Item]:
    """Everything in `tasks`, asked of one model."""
    shared: dict[str, Any] = {"seed": tasks.seed, "batch_tokens": batch_tokens, "say": say}
    bits, lines, needles, ran, few = [], [], [], [], []
    # What may find the documents or the tokenizer unfit comes first.
    if tasks.fim:
        lines = score_lines(subject, documents, most=tasks.line, progress=Meter("fim line", len(documents)), **shared)
    if tasks.needle:
        meter = Meter("needle", len(tasks.needle) * len(tasks.depths) * tasks.repeats)
        needles = score_needles(
            subject,
            documents,
            lengths=tasks.needle,
            depths=tasks.depths,
            repeats=tasks.repeats,
            seed=tasks.seed,
            batch_tokens=batch_tokens,
            progress=meter,
        )
    if tasks.bits:
        bits = score_bits(subject, documents, tasks, batch_tokens, Meter("bits per byte", len(documents)))
    if tasks.humaneval is not None:
        count = len(files.programs) * tasks.samples
        ran = score_tasks(
            subject,
            files.programs,
            samples=tasks.samples,
            ks=tasks.ks,
            sampling=Sampling(tasks.temperature, tasks.top_p),
            most=tasks.most,
            limits=tasks.limits,
            workers=workers,
            unsafe=unsafe,
            progress=Meter("programs written", count),
            running=Meter("programs run", count),
            **shared,
        )
    if tasks.gsm8k is not None:
        meter = Meter("few-shot", len(files.questions))
        few = score_questions(
            subject, files.questions, files.examples, shots=tasks.shots, most=tasks.most, progress=meter, **shared
        )
    return [*bits, *lines, *needles, *ran, *few]


def _window(tasks: Tasks, context: int) -> tuple[int, int]:
    """(window, stride) in tokens."""
    window = context if tasks.window is None else tasks.window
    return window, max(1, window // 2) if tasks.stride is None else tasks.stride


def score_bits(
    subject: Subject, documents: Sequence[Document], tasks: Tasks, batch_tokens: int, progress: Progress
) -> list[Item]:
    """An item of "bits per byte" a document: its bits, weighed with its bytes of UTF-8."""
    window, stride = _window(tasks, subject.context)
    sequences = [sequence_of(subject, ids) for ids in subject.codec.encode([document.text for document in documents])]
    found = nats(subject, sequences, window=window, stride=stride, batch_tokens=batch_tokens, progress=progress)
    items = []
    for document, tokens, value in zip(documents, sequences, (found / np.log(2)).tolist()):
        groups = {"lang": document.lang, "source": document.source, "data": document.data}
        more = {"tokens": len(tokens) - 1}
        size = len(document.text.encode("utf-8"))
        items.append(Item("bits per byte", document.id, value, float(size), groups, more))
    return items


class Meter:
    """How far a task is, on one line of a terminal, or a line every ten seconds elsewhere."""

    def __init__(self, what: str, total: int, stream: TextIO | None = None) -> None:
        self.what, self.total = what, total
        self.stream = sys.stderr if stream is None else stream
        self.started = self.printed = time.monotonic()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        live = self.stream.isatty()
        if done < self.total and now - self.printed < (0.2 if live else 10):
            return
        self.printed = now
        left = (now - self.started) * (self.total - done) / max(1, done)
        text = f"{self.what}: {done:,}/{self.total:,}, {now - self.started:.0f} s" + (f", {left:.0f} s left" if left else "")
        end = "\n" if done >= self.total or not live else ""
        self.stream.write(f"\r\x1b[K{text}{end}" if live else text + end)
        self.stream.flush()


# --- Results ------------------------------------------------------------------------------------------------------------


def check_writable(path: Path) -> None:
    """An error now, not after hours of answers, where write_items could not write `path`."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; a file for the results expected")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        what = f"results cannot be written to {path}: {error.strerror}; a file in a folder that can be written to expected"
        raise StorageError(what, path=str(path)) from error


def write_items(path: Path, name: str, settings: dict[str, Any], items: Sequence[Item]) -> None:
    lines = [{"model": name, "settings": settings}, *(dataclasses.asdict(item) for item in items)]
    with atomic(path) as temporary:
        temporary.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")


def read_items(path: Path) -> tuple[str, dict[str, Any], list[Item]]:
    """(model, settings, items) that write_items wrote. InputError where the file is another."""
    try:
        head, *rest = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
        return head["model"], head["settings"], [Item(**line) for line in rest]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} holds no results of an evaluation: {type(error).__name__}: {error}") from error


def figures(items: Sequence[Item]) -> list[dict[str, Any]]:
    """A row per task and per group of it: value, interval, items. Groups of which a task has only one are left out."""
    rows = []
    for task, label, part in _parts(items):
        scores, weights = _columns(part)
        found = paired_bootstrap(scores, np.zeros(len(part)), weights)
        rows.append(
            {"task": task, "group": label, "value": found.difference, "low": found.low, "high": found.high, "items": len(part)}
        )
    return rows


def comparison(a: Sequence[Item], b: Sequence[Item], say: Say) -> list[dict[str, Any]]:
    """A row per task and per group of it, over the items both have: values, their difference a − b, its interval and p.

    InputError where an item weighs differently, or none is shared: then the two were not asked the same.
    """
    theirs = {(item.task, item.key): item for item in b}
    ours = [item for item in a if (item.task, item.key) in theirs]
    if len(ours) < len(a) or len(ours) < len(b):
        alone = f"{len(a) - len(ours):,} only in the first, {len(b) - len(ours):,} only in the second"
        say(f"{len(ours):,} items are in both, {alone}")
    for item in ours:
        other = theirs[item.task, item.key]
        if item.weight != other.weight:
            raise InputError(
                f"{item.task} {item.key} weighs {item.weight:g} in one and {other.weight:g} in the other; the same documents "
                "expected"
            )
    rows = []
    for task, label, part in _parts(ours):
        scores, weights = _columns(part)
        others, _ = _columns([theirs[item.task, item.key] for item in part])
        found = paired_bootstrap(scores, others, weights)
        total = weights.sum()
        row = {"task": task, "group": label, "value": scores.sum() / total, "against": others.sum() / total}
        rows.append({**row, **found._asdict(), "items": len(part)})
    if not rows:
        raise InputError("the two evaluations share no item; ask both the same")
    return rows


def _columns(items: Sequence[Item]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([item.score for item in items]), np.array([item.weight for item in items])


def _parts(items: Sequence[Item]) -> list[tuple[str, str, list[Item]]]:
    """(task, group, items): all of a task first, then each group by falling weight."""
    parts = []
    for task in dict.fromkeys(item.task for item in items):
        of_task = [item for item in items if item.task == task]
        parts.append((task, "", of_task))
        for group in _GROUPS:
            kinds: dict[str, list[Item]] = {}
            for item in of_task:
                if group in item.groups:
                    kinds.setdefault(item.groups[group], []).append(item)
            if len(kinds) < 2:
                continue
            numbered = group in ("length", "depth")
            by_weight = sorted(kinds, key=lambda k: float(k) if numbered else -sum(item.weight for item in kinds[k]))
            parts += [(task, f"{group} {kind}", kinds[kind]) for kind in by_weight]
            if group == "depth" and len({item.groups["length"] for item in of_task}) > 1:
                cells = {(i.groups["length"], i.groups["depth"]) for i in of_task}
                for length, depth in sorted(cells, key=lambda cell: (float(cell[0]), float(cell[1]))):
                    cell = [i for i in of_task if (i.groups["length"], i.groups["depth"]) == (length, depth)]
                    parts.append((task, f"length {length} depth {depth}", cell))
    return parts
