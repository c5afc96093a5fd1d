"""The command line: the verbs, the closed set of flags, the messages."""

from __future__ import annotations

import argparse
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from corpus.__main__ import main, parser
from corpus.funnel import print_step
from corpus.report import Report

RECIPE = "tests.toys.recipe"


class FileExpired(OSError):  # as s3fs's is called
    pass


class NoCredentialsError(Exception):  # as botocore's is called
    pass


HERE = Path(__file__).resolve().parents[1]


def test_the_flags_are_closed() -> None:
    """A new flag is a decision: it is made here."""
    top = parser()
    verbs = next(a for a in top._actions if isinstance(a, argparse._SubParsersAction)).choices
    common = {"--help", "--root", "--set", "--until"}
    flags = {
        verb: {option for a in sub._actions for option in a.option_strings if option.startswith("--")}
        for verb, sub in verbs.items()
    }
    assert flags == {
        "plan": common,
        "run": common | {"--workers", "--task-memory", "--time-limit"},
        "report": common,
        "explain": common,
    }


def test_plan_run_plan_report_explain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = ["--root", str(tmp_path)]
    assert main(["plan", RECIPE, *root]) == 0
    assert "never run" in capsys.readouterr().out
    assert main(["run", RECIPE, *root, "--workers", "0"]) == 0
    out = capsys.readouterr().out
    assert "3 of 3 steps ran" in out and "letter" in out
    assert main(["run", RECIPE, *root, "--workers", "0"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(["run", RECIPE, *root, "--workers", "0", "--set", "sift.letters=ab", "--until", "sift"]) == 0
    assert "1 of 2 steps ran: sift" in capsys.readouterr().out
    assert main(["report", RECIPE, *root]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "<svg" in page and "letter" in page and "http" not in page.replace("http://www.w3.org", "")
    capsys.readouterr()
    fates = set()
    for i in range(12):
        assert main(["explain", RECIPE, f"r{i % 5}/file{i}.txt", *root]) == 0
        fates.add(capsys.readouterr().out.split("\n")[-2].split()[1])
    assert fates == {"dropped", "merged"}


def test_what_a_step_says_itself_is_in_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = ["--root", str(tmp_path)]
    assert main(["run", RECIPE, *root, "--workers", "0"]) == 0
    folder = next(tmp_path.glob("sift-*"))
    (folder / "report.html").write_text("<p>of letters</p>\n")
    (folder / "report.txt").write_text("letters: é\n", "utf-8")
    capsys.readouterr()
    assert main(["report", RECIPE, *root]) == 0
    assert "more: corpus report tests.toys.recipe STEP, most for sift\n" in capsys.readouterr().out
    assert "<h2>sift</h2><p>of letters</p>" in (tmp_path / "report.html").read_text()
    assert main(["report", RECIPE, "sift", *root]) == 0
    assert capsys.readouterr().out == "letters: é\n"
    assert main(["report", RECIPE, "merge", *root]) == 0
    assert "merged into" in capsys.readouterr().out
    assert main(["report", RECIPE, "nosuch", *root]) == 1
    assert "no step nosuch in tests.toys.recipe; it has: " in capsys.readouterr().err
    assert main(["report", RECIPE, "merge", *root, "--set", "sift.letters=ab"]) == 1
    assert "step merge has not been made under" in capsys.readouterr().err


def test_a_steps_notes_are_told_as_tables_and_lines() -> None:
    """Every figure of the notes is on the console, rows as rows, and text that looks like markup as it is."""
    notes = {
        "sources": {"code": {"tokens": 1234567, "share": 0.60123}, "math [old]": {"tokens": 8, "long": 5}},
        "ngrams": [{"ngram": "[b]def[/b] f", "documents": 3}],
        "cut": 0.25,
        "held": None,
        "accepted": ["a.example", "[red]b"],
        "setting": {"dim": 16, "fast": True},
        "nothing": [],
    }
    told = io.StringIO()
    print_step("mix", Report(read=5, kept=5, notes=notes), Console(width=160, file=told))
    lines = [" ".join(line.split()) for line in told.getvalue().splitlines()]
    assert {"sources tokens share long", "code 1,234,567 0.60123 none", "math [old] 8 none 5"} <= set(lines)
    assert {"ngrams ngram documents", "0 [b]def[/b] f 3"} <= set(lines)
    assert {"cut: 0.25", "held: none", "accepted: a.example, [red]b"} <= set(lines)
    assert {"setting: dim 16, fast True", "nothing: none"} <= set(lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "no.such.recipe"], "no recipe module 'no.such.recipe'"),
        (["plan", "tests.toys.recipe:nothing"], "it has: recipe, slow"),
        (["plan", RECIPE, "--set", "letters"], "STEP.FIELD=VALUE expected"),
        (["plan", RECIPE, "--until", "nowhere"], "steps: source, sift, merge; stages: merge, sift, source"),
        (["explain", RECIPE, "nothing/here"], "no document 'nothing/here'"),
        (["plan", "recipes.repositories:clean_files"], "clean_files takes crawl, index; a function without arguments"),
        (["run", RECIPE, "--time-limit", "0"], "--time-limit 0: more than 0 expected"),
        (["report", RECIPE], "nothing of tests.toys.recipe has been made"),
    ],
)
def test_errors_say_what_to_do(tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--root", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("error", [FileExpired("a listing is old"), NoCredentialsError()])
def test_an_object_store_that_fails_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("corpus.__main__.plan", fails)
    assert main(["plan", RECIPE, "--root", "memory://somewhere/root"]) == 1
    said = capsys.readouterr().err
    assert f"cannot use memory://somewhere/root: {type(error).__name__}" in said and said.count("\n") == 1
    with pytest.raises(type(error)):  # elsewhere it is a bug, whose traceback is wanted
        main(["plan", RECIPE, "--root", "data"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("broken", "def recipe(:\n", r"broken\.py, line 1: invalid syntax"),
        ("recipe_dir.py", "", "no recipe module 'recipe_dir.py'; give a module such as recipes.sample, not a file"),
        ("./recipe_dir", "", "no recipe module './recipe_dir'"),
        ("", "", "no recipe module ''"),
        (
            "refused",
            "from corpus.errors import ConfigError\nraise ConfigError('field is 3; 1 or 2 expected')",
            "field is 3; 1 or 2",
        ),
    ],
)
def test_a_recipe_that_cannot_be_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, text: str, message: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    if name.isidentifier():
        (tmp_path / f"{name}.py").write_text(text)
    assert main(["plan", name, "--root", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert re.search(message, said) and said.count("\n") == 1


def test_a_recipe_that_fails_shows_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in a recipe is not a user's mistake: its traceback is what its author needs."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "faulty.py").write_text("def recipe():\n    return 1 / 0\n")
    (tmp_path / "lacking.py").write_text("import lack\n")  # its name is not the start of the recipe's own
    with pytest.raises(ZeroDivisionError):
        main(["plan", "faulty"])
    with pytest.raises(ModuleNotFoundError, match="'lack'"):
        main(["plan", "lacking"])


def test_workers_are_counted_from_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", RECIPE, "--root", str(tmp_path), "--workers", "-1"]) == 1
    assert "--workers -1: 0 (this process) or more expected" in capsys.readouterr().err


def shell(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program, _, rest = script.partition(" ")
    command = f"{shlex.quote(sys.executable)} -m {program} {rest}"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=HERE, env={**os.environ, **environment}, capture_output=True, text=True
    )


def test_output_that_nobody_reads(tmp_path: Path) -> None:
    """`| head` is no error, except where it has cut off a run."""
    main(["run", RECIPE, "--root", str(tmp_path / "done"), "--workers", "0"])
    for command in (f"plan {RECIPE}", f"explain {RECIPE} r0/file5.txt"):
        done = shell(f"corpus {command} --root {tmp_path}/done | true")
        assert done.returncode == 0 and not done.stderr
    shell(f"corpus report {RECIPE} --root {tmp_path}/done | true")
    assert (tmp_path / "done" / "report.html").exists()
    cut = shell(f"corpus run {RECIPE} --root {tmp_path}/cut --workers 0 2>&1 | true")
    assert cut.returncode == 1 and not cut.stderr
    planned = shell("train plan recipes.moe_16b | true")
    assert planned.returncode == 0 and not planned.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_our_letters(tmp_path: Path, encoding: str) -> None:
    main(["run", RECIPE, "--root", str(tmp_path), "--workers", "0"])
    done = shell(f"corpus plan {RECIPE} --root {tmp_path} --set sift.letters=ab", PYTHONIOENCODING=encoding)
    assert done.returncode == 0 and r"changed letters: 0123 \u2192 ab" in done.stdout
    done = shell(f"corpus report {RECIPE} --root {tmp_path}", PYTHONIOENCODING=encoding)
    assert done.returncode == 0 and "letter" in done.stdout
