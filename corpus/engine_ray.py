"""RayEngine: the tasks of an Engine on Ray workers. The only file that imports ray, with train/on_ray.py.

Plain tasks, one CPU each: no actors, no Ray Data, nothing in the object store but a task's small report. Where RAY_ADDRESS is
set (a cluster, or `ray job submit`) that cluster is used; otherwise a private one is started for this process, when the first
task is due, so that a recipe with nothing to do never pays for it.

    back-pressure   at most 2 × CPUs tasks submitted; largest first, so that the last one to finish is a small one
    retries         a lost worker or node: Ray reruns the task (tasks leave the same bytes however often they run), a few
                    times where it was killed for memory; an error raised by the task is not retried, it would be raised again
    time limit      a task that has not ended `time_limit_s` after it was submitted is killed and the run ends with its name
    memory          `task_memory` bytes are reserved per task, so that a node runs no more than it has room for
    stragglers      a task that takes five times the median, and over a minute, is named once
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corpus.engine import Engine, Progress, Task, call
from corpus.errors import ConfigError, TaskError

__all__ = ["RayEngine", "connect", "import_ray"]

LOST_WORKERS = 20  # times Ray may rerun one task whose worker died under it
MEMORY_KILLS = 3  # and one whose worker was killed because the node ran out of memory; Ray's own default is for ever
CONNECT_SECONDS = 10.0
TOKEN = Path("~/.ray/auth_token").expanduser()  # Ray's own place for it
STRAGGLER_FACTOR, STRAGGLER_SECONDS = 5.0, 60.0


class RayEngine(Engine):
    """See the module. workers: CPUs of a private cluster; ignored where RAY_ADDRESS names one."""

    def __init__(
        self,
        root: str | Path,
        progress: Progress | None = None,
        *,
        workers: int | None = None,
        task_memory: int | None = None,
        time_limit_s: float | None = None,
    ) -> None:
        super().__init__(root, progress)
        self.workers = workers or os.cpu_count() or 1
        self.task_memory = task_memory
        self.time_limit_s = time_limit_s
        self._ray: Any = None
        self._remote: Any = None

    def execute(self, tasks: list[Task]) -> Iterator[tuple[Task, Any]]:
        if not tasks:
            return
        self.open()
        ray = self._ray
        waiting = sorted(tasks, key=lambda task: (task.weight, task.name))
        slots = 2 * max(1, int(ray.cluster_resources().get("CPU", self.workers)))
        running: dict[Any, tuple[Task, float]] = {}
        finished: list[float] = []
        named: set[str] = set()
        watched = time.monotonic()
        try:
            while waiting or running:
                while waiting and len(running) < slots:
                    task = waiting.pop()
                    running[self._remote.remote(task)] = (task, time.monotonic())
                ready, _ = ray.wait(list(running), num_returns=1, timeout=1.0)
                for reference in ready:
                    task, since = running.pop(reference)
                    finished.append(time.monotonic() - since)
                    yield task, self._result(reference, task)
                if time.monotonic() - watched > 1:  # not after every task: there may be a hundred thousand
                    self._watch(running, finished, named)
                    watched = time.monotonic()
        finally:
            # Ray ends the tasks of a driver that leaves. ray.cancel(force=True) of one that has just ended ends the driver
            # instead ("Tried to complete task that was not pending", Ray 2.60).
            if running:
                self.close()

    def open(self) -> None:
        if self._ray is not None:
            return
        os.environ.setdefault("RAY_task_oom_retries", str(MEMORY_KILLS))
        ray = import_ray()
        ray._private.worker.print_to_stdstream = self._hear
        handler = signal.getsignal(signal.SIGTERM)
        if address := os.environ.get("RAY_ADDRESS"):
            if not ray.is_initialized():
                connect(address, log_to_driver=False, logging_level="ERROR")
        else:
            # Otherwise ray.init starts the workers itself and waits for each to report, for ever if one dies before it has.
            # Those that tasks ask for are started anew after a minute (RAY_worker_register_timeout_seconds).
            os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
            # Workers must import what this process can: a recipe's own stages live where it was started.
            path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
            ray.init(
                address="local",
                num_cpus=self.workers,
                include_dashboard=False,
                object_store_memory=100 * 2**20,  # it carries reports only
                log_to_driver=False,
                logging_level="ERROR",
                runtime_env={"env_vars": {"PYTHONPATH": path}},
            )
        with contextlib.suppress(ValueError, TypeError):  # not the main thread, or not Python's: then it is not ours
            signal.signal(signal.SIGTERM, handler)  # Ray puts its own there, which ends the process in the middle of things
        options: dict[str, Any] = {"num_cpus": 1, "max_retries": LOST_WORKERS}
        if self.task_memory:
            options["memory"] = self.task_memory
        self._ray, self._remote = ray, ray.remote(**options)(call)

    def _hear(self, data: dict[str, Any], ignore_prefix: bool = False) -> None:
        """What Ray says of lost workers and retries: a line each. It would print pages to stdout, in colour."""
        for text in data["lines"]:
            self.progress.say(f"ray: {text.strip().partition(chr(10))[0]:.160}")

    def _result(self, reference: Any, task: Task) -> Any:
        ray = self._ray
        try:
            return ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else error from None
        except ray.exceptions.OutOfMemoryError as error:
            advice = "give each task more room: fewer workers, or a larger --task-memory"
            seen = str(error).partition("\n")[0]  # pages follow
            raise TaskError(f"task {task.name} was killed for memory each time: {seen}; {advice}", task=task.name) from error
        except ray.exceptions.RayError as error:
            raise TaskError(
                f"task {task.name} was lost and Ray gave up on running it again: {error}", task=task.name
            ) from error

    def _watch(self, running: dict[Any, tuple[Task, float]], finished: list[float], named: set[str]) -> None:
        usual = statistics.median(finished) if finished else 0.0
        for task, since in running.values():
            took = time.monotonic() - since
            if self.time_limit_s is not None and took > self.time_limit_s:
                raise TaskError(
                    f"task {task.name} has not ended in {took:.0f} s, the limit is {self.time_limit_s:.0f} s; it reads "
                    f"{task.weight / 1e6:.1f} MB. Look at that shard, or raise --time-limit.",
                    task=task.name,
                )
            if finished and task.name not in named and took > max(STRAGGLER_SECONDS, STRAGGLER_FACTOR * usual):
                named.add(task.name)
                self.progress.say(f"slow: shard {task.name} has taken {took:.0f} s, the median is {usual:.0f} s")

    def close(self) -> None:
        if self._ray is not None:
            with contextlib.suppress(ConnectionError):  # the cluster is already gone
                self._ray.shutdown()
            self._ray = self._remote = None


def import_ray() -> Any:
    """The module ray. A token is shown where the user has one, as `ray start` then asks for it; without one ray.init would
    write one into the user's home, for which every cluster started later would ask. No reports of usage."""
    token = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")) or TOKEN.is_file()
    if not token:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    elif "ray" not in sys.modules:  # it reads this once, when it is imported; set later, only processes it starts would ask
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    return ray


def connect(address: str, **options: Any) -> None:
    """Join the cluster at RAY_ADDRESS. ConfigError where there is none; Ray by itself tries a dead address for minutes."""
    ray = import_ray()
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    try:
        if colon and port.isdigit():
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
        ray.init(address="auto", **options)
    except (OSError, ValueError, RuntimeError, OverflowError, ray.exceptions.RayError) as error:
        raise ConfigError(
            f"no Ray cluster at RAY_ADDRESS={address} ({str(error).partition(chr(10))[0]}); start one (ray start --head), "
            "correct the address (HOST:6379, not the dashboard's), or unset it to use this machine alone. One that asks for a "
            f"token wants the head node's: {TOKEN} there and here, or RAY_AUTH_TOKEN"
        ) from error
