"""`make submit` and RAY_ADDRESS: a recipe on a running cluster, its progress in the job's log, its bytes those of a local run.

`ray start` asks for a token where the user has one, and for none where there is none.
"""

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
VENV = Path(sys.executable).parents[1]
RAY = VENV / "bin" / "ray"
TOKEN = "0123456789abcdef" * 4


def free_port() -> int:
    """Below 10002: from there on Ray takes ports for its workers."""
    for port in range(9000 + os.getpid() % 500, 10000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port")


@pytest.fixture(scope="module", params=["a token", "no token"])
def cluster(request: pytest.FixtureRequest) -> Iterator[tuple[dict[str, str], int]]:
    """A user's environment, whose home may have a token, and the port of a one-node cluster, which ends with the test; its
    dashboard's is 20 above."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # short: sockets lie under it, and their paths are limited
        gcs = free_port()
        dashboard, agent = gcs + 20, gcs + 40
        command = [str(RAY), "start", "--head", "--block", f"--port={gcs}", f"--dashboard-port={dashboard}", "--num-cpus=2"]
        command += [
            f"--dashboard-agent-listen-port={agent}",  # jobs go through it; the default may be another cluster's
            "--disable-usage-stats",
            "--include-log-monitor=false",
            f"--temp-dir={folder}/session",
            "--object-store-memory=100000000",
        ]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
        environment["HOME"] = folder
        if request.param == "a token":
            Path(folder, ".ray").mkdir()
            Path(folder, ".ray", "auth_token").write_text(TOKEN)
        head = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        url = f"http://127.0.0.1:{dashboard}/api/version"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
        try:
            deadline = time.monotonic() + 90
            while time.monotonic() < deadline:
                try:
                    urllib.request.urlopen(request, timeout=2)
                    break
                except (urllib.error.URLError, TimeoutError, ConnectionError):
                    assert head.poll() is None, "ray start --head ended early"
                    time.sleep(0.5)
            yield environment, gcs
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(head.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                head.wait(3)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(head.pid, signal.SIGKILL)


def test_a_submitted_job_leaves_the_bytes_of_a_local_run(cluster: tuple[dict[str, str], int], tmp_path: Path) -> None:
    environment, port = cluster
    submit = ["make", "-o", f"{VENV}/.train", "submit", f"VENV={VENV}", "RECIPE=tests.toys.recipe", f"ROOT={tmp_path / 'job'}"]
    submit += [f"RAY_ADDRESS=http://127.0.0.1:{port + 20}"]
    for _ in range(60):  # the dashboard answers before the agent that runs jobs is there
        done = subprocess.run(submit, cwd=HERE, env=environment, capture_output=True, text=True, timeout=240)
        if "No available agent to submit job" not in done.stderr:
            break
        time.sleep(1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "done sift-" in done.stdout and "60 documents" in done.stdout
    run(recipe(), LocalEngine(tmp_path / "local"))
    assert contents(tmp_path / "job") == contents(tmp_path / "local")


def test_a_run_joins_the_cluster_at_the_address(cluster: tuple[dict[str, str], int], tmp_path: Path) -> None:
    environment, port = cluster
    command = [sys.executable, "-m", "corpus", "run", "tests.toys.recipe", "--root", str(tmp_path / "joined")]
    joining = environment | {"RAY_ADDRESS": f"127.0.0.1:{port}"}
    if asks := Path(environment["HOME"], ".ray").exists():
        without = joining | {"HOME": str(tmp_path)}
        stranger = subprocess.run(command, cwd=HERE, env=without, capture_output=True, text=True, timeout=120)
        assert stranger.returncode == 1 and "Traceback" not in stranger.stderr
        assert "wants the head node's: " in stranger.stderr.splitlines()[-1]
    done = subprocess.run(command, cwd=HERE, env=joining, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    run(recipe(), LocalEngine(tmp_path / "local"))
    assert contents(tmp_path / "joined") == contents(tmp_path / "local")
    assert Path(environment["HOME"], ".ray").exists() == asks and not (tmp_path / ".ray").exists()  # no token was made


@pytest.mark.parametrize(("root", "left"), [("inside/corpus", "/inside/corpus"), ("/elsewhere/corpus", "/elsewhere/corpus")])
def test_a_corpus_inside_the_checkout_does_not_travel_with_a_job(root: str, left: str) -> None:
    """Ray uploads the folder a job is submitted from, up to 100 MB; patterns begin at that folder."""
    done = subprocess.run(
        ["make", "-n", "submit", f"ROOT={root}"], cwd=HERE, capture_output=True, text=True, check=True, timeout=60
    )
    assert f"""--runtime-env-json '{{"excludes": ["{left}"]}}'""" in done.stdout
