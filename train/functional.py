"""pass@k: programs that pass their tests (Chen et al. 2021, arXiv 2107.03374), on files of HumanEval's format.

A row is {task_id, prompt, entry_point, test}; the program is  prompt + completion + test + check(entry_point) . A completion
ends where the model begins something new at the left margin, as in the paper. n samples a task are drawn; of c that pass,
pass@k is the chance that k of the n, drawn without replacement, hold one that passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from corpus.errors import ConfigError, InputError
from train.generate import Sampling, generate
from train.items import Item, Progress, Say, key_of, last_tokens, read_rows
from train.sandbox import Limits, require, run_programs
from train.subject import Subject

__all__ = ["STOPS", "check_programs", "pass_at_k", "program_of", "read_tasks", "run_tasks", "score_tasks"]

STOPS = (b"\nclass ", b"\ndef ", b"\n#", b"\n@", b"\nif ", b"\nprint", b"\nimport ", b"\nfrom ", b"\n```", b"\nassert ")


def read_tasks(path: Path) -> list[dict[str, Any]]:
    rows = read_rows(path, ("task_id", "prompt", "entry_point", "test"))
    if len({row["task_id"] for row in rows}) < len(rows):
        raise InputError(f"{path} has two tasks of one task_id; an id each expected")
    return rows


def program_of(task: dict[str, Any], completion: str) -> str:
    return f"{task['prompt']}{completion}\n{task['test']}\ncheck({task['entry_point']})\n"


def pass_at_k(n: int, c: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k), as a product of small factors, which neither overflows nor cancels (equation 1)."""
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ConfigError(f"pass@{k} of {n} samples, {c} right: k from 1 to the number of samples expected")
    if n - c < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def check_programs(*, samples: int, ks: Sequence[int], sampling: Sampling, most: int, context: int) -> None:
    """ConfigError where settings do not go together, or a program does not fit into the context."""
    for k in ks:
        pass_at_k(samples, 0, k)
    sampling.check()
    if samples > 1 and sampling.temperature == 0:
        raise ConfigError(f"samples={samples} at temperature 0 are one sample many times; a temperature such as 0.8 expected")
    if context - most < 2:
        raise ConfigError(f"{most} new tokens do not fit into the context of {context}; fewer expected")


def score_tasks(
    subject: Subject,
    tasks: Sequence[dict[str, Any]],
    *,
    samples: int,
    ks: Sequence[int],
    sampling: Sampling,
    most: int,
    seed: int,
    limits: Limits,
    workers: int,
    unsafe: bool,
    batch_tokens: int,
    say: Say,
    progress: Progress = lambda done: None,
    running: Progress = lambda done: None,
) -> list[Item]:
    """Items of "pass@k" for every k. A prompt too long for the context keeps its end, and that is said."""
    require(unsafe)  # before an hour of writing programs
    check_programs(samples=samples, ks=ks, sampling=sampling, most=most, context=subject.context)
    prompts = subject.codec.encode([task["prompt"] for task in tasks])
    room = subject.context - most - 1
    if cut := sum(len(prompt) > room for prompt in prompts):
        say(f"{cut} of {len(prompts)} prompts are longer than {room} tokens: their beginning is left out")
    given = [np.concatenate([[subject.begin], last_tokens(prompt, room)]) for prompt in prompts for _ in range(samples)]
    keys = [key_of(f"{task['task_id']} {i}", seed) for task in tasks for i in range(samples)]
    found = generate(
        subject, given, most=most, stops=STOPS, sampling=sampling, keys=keys, batch_tokens=batch_tokens, progress=progress
    )
    texts = [generated.text.decode("utf-8", "replace") for generated in found]
    completions = [texts[i * samples : (i + 1) * samples] for i in range(len(tasks))]
    return run_tasks(tasks, completions, ks=ks, limits=limits, workers=workers, unsafe=unsafe, progress=running)


def run_tasks(
    tasks: Sequence[dict[str, Any]],
    completions: Sequence[Sequence[str]],
    *,
    ks: Sequence[int],
    limits: Limits,
    workers: int,
    unsafe: bool = False,
    progress: Progress = lambda done: None,
) -> list[Item]:
    """Runs each task's completions against its tests."""
    programs = [program_of(task, text) for task, texts in zip(tasks, completions, strict=True) for text in texts]
    outcomes = iter(run_programs(programs, limits, workers=workers, unsafe=unsafe, progress=progress))
    items = []
    for task, texts in zip(tasks, completions):
        ended = [next(outcomes) for _ in texts]
        right = sum(outcome.passed for outcome in ended)
        more = {"samples": len(texts), "passed": right, "why": [o.why for o in ended], "completions": list(texts)}
        items += [Item(f"pass@{k}", task["task_id"], pass_at_k(len(texts), right, k), more=more) for k in ks]
    return items
