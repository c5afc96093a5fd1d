"""Compiled kernels: what is run is what the sources say, whichever file was changed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import corpus

CALLED = "from numba import njit\n\n@njit(cache=True)\ndef called():\n    return {}\n"
CALLS = "from numba import njit\nfrom corpus.called import called\n\n@njit(cache=True)\ndef calls():\n    return called()\n"


def run(folder: Path, first: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"} | {"PYTHONPATH": str(folder)}
    script = f"{first}; from corpus.calls import calls; print(calls())"
    return subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_kernel_in_another_file_that_changed_is_compiled_again(tmp_path: Path) -> None:
    package = tmp_path / "corpus"
    package.mkdir()
    (package / "__init__.py").write_bytes(Path(corpus.__file__).read_bytes())
    (package / "calls.py").write_text(CALLS)
    for value, first in ((1, "import corpus"), (2, "import corpus"), (1, "import corpus"), (3, "import numba")):
        (package / "called.py").write_text(CALLED.format(value))
        assert run(tmp_path, first) == str(value)
    assert not list(package.glob("__pycache__/*.nbi"))
    assert len(list(package.glob("__pycache__/kernels-*"))) == 3
