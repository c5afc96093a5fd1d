"""`ray job submit`: a recipe as a job of a running cluster, its progress in the job's log, its bytes those of a local run."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from corpus.engine import LocalEngine
from corpus.runner import run
from tests.toys.recipe import recipe
from tests.toys.tree import contents

HERE = Path(__file__).resolve().parents[2]
RAY = Path(sys.executable).with_name("ray")


def free_port() -> int:
    """Below 10002: from there on Ray takes ports for its workers."""
    for port in range(9000 + os.getpid() % 500, 10000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port")


@pytest.fixture
def cluster() -> Iterator[str]:
    """The dashboard's address of a one-node cluster, which ends with the test."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # short: sockets lie under it, and their paths are limited
        gcs = free_port()
        dashboard, agent = gcs + 20, gcs + 40
        command = [str(RAY), "start", "--head", "--block", f"--port={gcs}", f"--dashboard-port={dashboard}", "--num-cpus=2"]
        command += [
            f"--dashboard-agent-listen-port={agent}",  # jobs go through it; the default may be another cluster's
            "--disable-usage-stats",
            "--include-log-monitor=false",
            f"--temp-dir={folder}",
            "--object-store-memory=100000000",
        ]
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
        head = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        address = f"http://127.0.0.1:{dashboard}"
        try:
            deadline = time.monotonic() + 90
            while time.monotonic() < deadline:
                try:
                    urllib.request.urlopen(f"{address}/api/version", timeout=2)
                    break
                except (urllib.error.URLError, TimeoutError, ConnectionError):
                    assert head.poll() is None, "ray start --head ended early"
                    time.sleep(0.5)
            yield address
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(head.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                head.wait(3)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(head.pid, signal.SIGKILL)


def test_a_submitted_job_leaves_the_bytes_of_a_local_run(cluster: str, tmp_path: Path) -> None:
    environment = {**os.environ, "RAY_ADDRESS": cluster, "RAY_AUTH_MODE": "disabled"}
    job = [sys.executable, "-m", "corpus", "run", "tests.toys.recipe", "--root", str(tmp_path / "job")]
    submit = [str(RAY), "job", "submit", "--working-dir", str(HERE), "--", *job]
    for _ in range(60):  # the dashboard answers before the agent that runs jobs is there
        done = subprocess.run(submit, env=environment, capture_output=True, text=True, timeout=240)
        if "No available agent to submit job" not in done.stderr:
            break
        time.sleep(1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "done sift-" in done.stdout and "60 documents" in done.stdout
    run(recipe(), LocalEngine(tmp_path / "local"))
    assert contents(tmp_path / "job") == contents(tmp_path / "local")
