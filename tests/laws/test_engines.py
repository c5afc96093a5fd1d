"""Laws of the engine: local = Ray, any worker count; a run killed anywhere, or its workers, ends in the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corpus.engine import LocalEngine
from corpus.engine_ray import RayEngine
from corpus.errors import ConservationError, TaskError
from corpus.runner import run
from corpus.step import Step
from tests.toys import sift, source
from tests.toys.recipe import recipe, slow
from tests.toys.tree import contents

HERE = Path(__file__).resolve().parents[2]


def children(process: int) -> Iterator[int]:
    """Descendant process ids, by /proc."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended while we looked
        if int(fields[1]) == process:
            yield int(path.parent.name)
            yield from children(int(path.parent.name))


def ray_workers(process: int) -> list[int]:
    found = []
    for child in children(process):
        try:
            # Not the node's own agents (ray::DashboardAgent …): a node without them is dead, which is another test.
            if Path(f"/proc/{child}/cmdline").read_bytes().startswith((b"ray::IDLE", b"ray::call")):
                found.append(child)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("local")
    run(recipe(), LocalEngine(root))
    return contents(root)


@pytest.fixture(scope="module")
def expected_slow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("slow")
    run(slow(), LocalEngine(root))
    return contents(root)


@pytest.mark.parametrize("workers", [1, 2])
def test_ray_leaves_the_same_bytes(tmp_path: Path, workers: int, expected: dict[str, bytes]) -> None:
    engine = RayEngine(tmp_path, workers=workers)
    try:
        reports = run(recipe(), engine)
        with pytest.raises(TaskError, match="a bug in the stage"):
            run(Step("sift", sift.Config(files=Step("source", source.Config()), fail=True)), engine)
        with pytest.raises(ConservationError):
            run(Step("sift", sift.Config(files=Step("source", source.Config()), lose=True)), engine)
    finally:
        engine.close()
    assert reports["sift"].read == 60
    assert {k: v for k, v in contents(tmp_path).items() if k in expected} == expected


def command(root: Path, workers: int) -> list[str]:
    verb = ["run", "tests.toys.recipe:slow", "--root", str(root), "--workers", str(workers)]
    return [sys.executable, "-m", "corpus", *verb]


def test_a_run_killed_again_and_again_ends_in_the_same_bytes(tmp_path: Path, expected_slow: dict[str, bytes]) -> None:
    """kill -9 of the whole run, in process, at ten random moments; then once to the end."""
    rng = random.Random(7)
    killed = 0
    for _ in range(10):
        process = subprocess.Popen(command(tmp_path, 0), cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            process.wait(0.6 + rng.random() * 0.8)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.communicate()
    last = subprocess.run(command(tmp_path, 0), cwd=HERE, capture_output=True, text=True, timeout=60)
    assert last.returncode == 0, last.stderr
    assert killed >= 3
    assert contents(tmp_path) == expected_slow
    assert not list(tmp_path.rglob(".tmp-*"))


def test_killed_workers_are_replaced(tmp_path: Path, expected_slow: dict[str, bytes]) -> None:
    """kill -9 of four Ray workers during one run, two of them the moment they appear: Ray is still waiting for them then."""
    rng = random.Random(3)
    log = tmp_path.with_suffix(".log")  # not a pipe: nobody reads it before the end, and a full one would stop the run
    process = subprocess.Popen(command(tmp_path, 2), cwd=HERE, stdout=subprocess.DEVNULL, stderr=log.open("w"))
    killed: set[int] = set()
    try:
        while process.poll() is None:
            workers = [worker for worker in ray_workers(process.pid) if worker not in killed]
            if workers and len(killed) < 4:
                try:
                    worker = rng.choice(workers)
                    os.kill(worker, signal.SIGKILL)
                    killed.add(worker)
                except ProcessLookupError:
                    pass  # it ended by itself between the look and the shot
            time.sleep(0.002 if len(killed) < 2 else 0.2 + 0.3 * rng.random())
    finally:
        process.kill()  # where the test fails: a run that hangs would disturb those after it
    assert process.returncode == 0, log.read_text()
    assert len(killed) >= 3
    assert contents(tmp_path) == expected_slow
    assert not list(tmp_path.rglob(".tmp-*"))


def heed_ctrl_c() -> None:
    """A shell's background job ignores SIGINT, and so would what we start when the tests themselves run as one."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_ctrl_c_stops_cleanly_and_the_next_run_continues(tmp_path: Path, expected_slow: dict[str, bytes]) -> None:
    process = subprocess.Popen(
        command(tmp_path, 0), cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c
    )
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob("*/done/*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "run the same command again" in errors
    assert not list(tmp_path.rglob(".tmp-*"))
    assert 0 < len(contents(tmp_path)) < len(expected_slow)
    subprocess.run(command(tmp_path, 0), cwd=HERE, check=True, capture_output=True, timeout=60)
    assert contents(tmp_path) == expected_slow
