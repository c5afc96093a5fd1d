"""The command line: the verbs, the closed set of flags, the messages."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from corpus.__main__ import main, parser

RECIPE = "tests.toys.recipe"


def test_the_flags_are_closed() -> None:
    """A new flag is a decision: it is made here."""
    top = parser()
    verbs = next(a for a in top._actions if isinstance(a, argparse._SubParsersAction)).choices
    common = {"--help", "--root", "--set", "--until"}
    flags = {
        verb: {option for a in sub._actions for option in a.option_strings if option.startswith("--")}
        for verb, sub in verbs.items()
    }
    assert flags == {"plan": common, "run": common | {"--workers"}, "report": common, "explain": common}


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "no.such.recipe"], "no recipe module 'no.such.recipe'"),
        (["plan", "tests.toys.recipe:nothing"], "it has: recipe, slow"),
        (["plan", RECIPE, "--set", "letters"], "STEP.FIELD=VALUE expected"),
        (["plan", RECIPE, "--until", "nowhere"], "there are: source, sift, merge"),
        (["explain", RECIPE, "nothing/here"], "no document 'nothing/here'"),
        (["report", RECIPE], "nothing of tests.toys.recipe has been made"),
    ],
)
def test_errors_say_what_to_do(tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--root", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err
