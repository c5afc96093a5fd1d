"""Real trouble with the root: every command ends with one line that names path and free space, and nothing half-made counts."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from corpus.engine import LocalEngine
from corpus.runner import run
from corpus.step import override
from tests.toys.recipe import recipe
from tests.toys.tree import contents

HERE = Path(__file__).resolve().parents[2]
COUNT = 10_000
COMMAND = f"{shlex.quote(sys.executable)} -m corpus"
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c"]  # mounts in it are gone with it


def corpus(root: Path, verb: str = "run", *more: str) -> list[str]:
    workers = ["--workers", "0"] if verb == "run" else []
    return [sys.executable, "-m", "corpus", verb, "tests.toys.recipe", "--root", str(root), *workers, *more]


def in_namespace(script: str) -> subprocess.CompletedProcess[str]:
    if subprocess.run([*NAMESPACE, "mount -t tmpfs none /mnt"], capture_output=True).returncode:
        pytest.skip("no user namespaces here, so no file system of our own")
    return subprocess.run([*NAMESPACE, script], cwd=HERE, capture_output=True, text=True, timeout=240)


def says_so(done: subprocess.CompletedProcess[str], root: Path, what: str) -> None:
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("corpus: cannot ") and str(root) in last and what in last and "GB free" in last
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("size", ["0", "600k", "900k", "1700k"])
def test_a_disk_that_fills_up(tmp_path: Path, size: str) -> None:
    """Full from the start, in the middle of shards, of an exchange, of the last step; then there is room, and it goes on."""
    root, keep = tmp_path / "root", tmp_path / "keep"
    root.mkdir()
    fill = f"dd if=/dev/zero of={root}/fill bs=1k status=none; " if size == "0" else ""
    done = in_namespace(
        f"mount -t tmpfs -o size={'64k' if size == '0' else size} none {root} && {{ {fill} "
        f"{COMMAND} run tests.toys.recipe --set source.count={COUNT} --root {root} --workers 0; "
        f"status=$?; cp -a {root} {keep}; exit $status; }}"
    )
    says_so(done, root, "No space left on device")
    assert not list(keep.rglob(".tmp-*"))
    last = override(recipe(), {"source.count": str(COUNT)})
    run(last, LocalEngine(keep))
    run(last, LocalEngine(tmp_path / "whole"))
    assert contents(keep) == contents(tmp_path / "whole")


def test_a_disk_that_fills_up_under_ray(tmp_path: Path) -> None:
    done = in_namespace(
        f"mount -t tmpfs -o size=500k none {tmp_path} && "
        f"{COMMAND} run tests.toys.recipe --set source.count={COUNT} --root {tmp_path} --workers 2"
    )
    says_so(done, tmp_path, "No space left on device")


def test_a_disk_that_is_only_read(tmp_path: Path) -> None:
    mounted = f"mount -t tmpfs none {tmp_path} && "
    fresh = in_namespace(
        f"{mounted} mount -o remount,ro {tmp_path} && {COMMAND} run tests.toys.recipe --root {tmp_path} --workers 0"
    )
    says_so(fresh, tmp_path, "Read-only file system")
    both = f"{COMMAND} run tests.toys.recipe --root {tmp_path} --workers 0"
    made = in_namespace(f"{mounted} {both} && mkdir {tmp_path}/merge-x && mount -o remount,ro {tmp_path} && {both}")
    assert made.returncode == 0 and "nothing to do" in made.stdout


@pytest.mark.parametrize("verb", ["run", "plan", "report"])
def test_a_root_that_is_no_folder(tmp_path: Path, verb: str) -> None:
    (tmp_path / "file").write_text("")
    done = subprocess.run(corpus(tmp_path / "file" / "root", verb), cwd=HERE, capture_output=True, text=True, timeout=60)
    says_so(done, tmp_path, "Not a directory")


def test_a_root_that_cannot_be_made() -> None:
    done = subprocess.run(corpus(Path("/proc/nowhere")), cwd=HERE, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("corpus: cannot make the folder /proc/nowhere")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_root_without_permission(tmp_path: Path) -> None:
    for mode, verb in ((0o500, "run"), (0o000, "plan")):
        tmp_path.chmod(mode)
        done = subprocess.run(corpus(tmp_path, verb), cwd=HERE, capture_output=True, text=True, timeout=60)
        tmp_path.chmod(0o700)
        says_so(done, tmp_path, "Permission denied")
