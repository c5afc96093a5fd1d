"""A run killed between any two operations on files, from nothing or in the middle of a repair, is made good by the next one."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from corpus.engine import LocalEngine
from corpus.runner import run
from corpus.step import Step, walk
from tests.toys import merge, sift, source
from tests.toys.tree import contents

OPERATIONS = ("replace", "unlink", "rmdir", "mkdir")
# A server that has imported everything and forks: a run costs no imports, and no threads of pyarrow's are forked.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.laws.test_crash"])


def small() -> Step:
    made = Step("source", source.Config(count=6, shards=2))
    return Step("merge", merge.Config(files=Step("sift", sift.Config(files=made, letters="0123456789")), partitions=2))


def run_until(root: str, left: int) -> None:
    """The small recipe, killed before its operation number `left`."""
    real = {name: getattr(os, name) for name in OPERATIONS}

    def counted(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os._exit(9)
            return real[name](*arguments, **keywords)

        return call

    for name in OPERATIONS:
        setattr(os, name, counted(name))
    run(small(), LocalEngine(root))
    os._exit(0)


def in_process(root: Path, left: int) -> int | None:
    process = FORKS.Process(target=run_until, args=(str(root), left))
    process.start()
    process.join(60)
    return process.exitcode


@pytest.mark.parametrize("start", ["nothing", "damage"])
def test_killed_anywhere_the_next_run_makes_it_good(tmp_path: Path, start: str) -> None:
    whole, begun = tmp_path / "whole", tmp_path / "begun"
    run(small(), LocalEngine(whole))
    begun.mkdir()
    if start == "damage":
        shutil.copytree(whole, begun, dirs_exist_ok=True)
        sifted = begun / [step.folder for step in walk(small())][1]
        (begun / small().folder / "step.json").unlink()  # and so the damage below is met while it is read
        for path in (sifted / "shards").iterdir():
            times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
            path.write_bytes(path.read_bytes()[::-1])
            os.utime(path, ns=times)
    for left in range(10_000):
        root = tmp_path / "root"
        shutil.copytree(begun, root)
        if in_process(root, left) == 0:
            break
        run(small(), LocalEngine(root))
        assert contents(root) == contents(whole), left
        assert not list(root.rglob(".tmp-*")) and not list(root.rglob("exchange")), left
        shutil.rmtree(root)
    assert 20 < left < 1000
