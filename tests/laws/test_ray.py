"""Ray at its edges: no cluster at the address, a run told to end, a recipe in the current folder, a lost worker, many tasks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from corpus.engine import Task
from corpus.engine_ray import RayEngine

HERE = Path(__file__).resolve().parents[2]
CORPUS = Path(sys.executable).with_name("corpus")

MINE = '''
"""A user's recipe, its stage in the same file. The second step's first task kills its worker, once."""
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from corpus.document import batch_of, keep_all
from corpus.shards import Items
from corpus.step import Step

REVISION, REASONS = 1, ()


@dataclass(frozen=True, kw_only=True)
class Config:
    files: Step | None = None


def make(item):
    yield keep_all(batch_of([{"id": f"{item}-{i}", "text": "some text"} for i in range(9)]))


def judge(batch, marker):
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), 9)
    return keep_all(batch)


def run(config, out, engine):
    if config.files is None:
        return engine.map_shards(make, Items((0, 1, 2)), out)
    return engine.map_shards(partial(judge, marker=out.parent / "killed"), config.files, out)


def recipe():
    return Step("second", Config(files=Step("first", Config())))
'''


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "http://127.0.0.1:1", "nowhere", "no host:6379"])
def test_no_cluster_at_the_address_is_told_at_once(tmp_path: Path, address: str) -> None:
    command = [sys.executable, "-m", "corpus", "run", "tests.toys.recipe", "--root", str(tmp_path)]
    environment = {**os.environ, "RAY_ADDRESS": address}
    done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"corpus: no Ray cluster at RAY_ADDRESS={address} (")


def test_a_recipe_in_the_current_folder_a_lost_worker_and_damage(tmp_path: Path) -> None:
    """Workers import the recipe's own stage; what Ray says of the lost one is a plain line on stderr; bit rot is mended."""
    (tmp_path / "mine.py").write_text(MINE)
    run = [str(CORPUS), "run", "mine", "--root", "kept"]
    subprocess.run([*run, "--workers", "0", "--until", "first"], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    shard = next(tmp_path.glob("kept/first-*/shards/00001*"))
    times, data = shard.stat(), bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    done = subprocess.run([*run, "--workers", "1"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 steps ran: second, first" in done.stdout and f"damaged: {shard} has checksum" in done.stderr
    assert "ray: " in done.stderr and "ray: " not in done.stdout
    assert all(line.isprintable() for line in (done.stdout + done.stderr).split("\n"))


def test_a_run_told_to_end_stops_as_after_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "corpus", "run", "tests.toys.recipe:slow", "--root", str(tmp_path), "--workers", "1"]
    process = subprocess.Popen(command, cwd=HERE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/done/*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors.splitlines()[-1].startswith("corpus: stopped. Finished shards are kept"), errors
    deadline = time.monotonic() + 20
    while (left := in_session(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


def in_session(session: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended while we looked
        if int(its_session) == session and state != "Z":
            found.append(int(path.parent.name))
    return found


def test_watching_does_not_grow_with_the_number_of_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A median over all that is finished, after each of 20,000 tasks, took a third of the run."""
    watched = []

    class Ray:
        def cluster_resources(self) -> dict[str, float]:
            return {"CPU": 2}

        def wait(self, references: list[str], **_: object) -> tuple[list[str], list[str]]:
            return references[:1], []

        def remote(self, task: Task) -> str:
            return task.name

    engine = RayEngine("unused", workers=2)
    engine._ray = engine._remote = Ray()
    monkeypatch.setattr(engine, "_result", lambda reference, task: None)
    monkeypatch.setattr(engine, "_watch", lambda *state: watched.append(1))
    tasks = [Task(f"{i}", print, (), 1) for i in range(2000)]
    assert len(list(engine.execute(tasks))) == 2000
    assert len(watched) < 100
