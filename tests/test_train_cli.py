"""The command line of the trainer: options that do not go together, and mistakes that are one line, not a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_train_loop import one_thread, quiet, toy
from train import loop
from train.__main__ import main

__all__ = ["one_thread"]  # a fixture for every test here


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--export-step", "10"], "--export FOLDER expected as well"),
        (["--export", "x", "--ray"], "--export trains nothing, so --ray has nothing to run"),
        (["--steps=-1"], "argument --steps: '-1' seen, a whole number of 0 or more expected"),
        (["--steps", "many"], "argument --steps: 'many' seen, a whole number of 0 or more expected"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    with pytest.raises(SystemExit):
        main(["recipes.moe_tiny", *arguments])
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", ".moe_tiny", "recipes..moe_tiny", "recipes.", ":recipe"])
@pytest.mark.parametrize("command", [[], ["plan"], ["inspect", "--step", "1"], ["evaluate", "--gsm8k", "x"]])
def test_a_name_that_is_no_modules_is_no_recipe(capsys: pytest.CaptureFixture[str], command: list[str], name: str) -> None:
    assert main([*command[:1], name, *command[1:]]) == 1
    assert f"error: no recipe {name.partition(':')[0]!r}; a module such as recipes.moe_tiny expected" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["plan"], ["inspect", "--step", "1"], ["evaluate"]])
def test_a_root_that_is_a_url_is_refused_by_every_command(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    assert main([*command[:1], "recipes.moe_tiny", *command[1:], "--root", "s3://bucket"]) == 1
    assert "--root s3://bucket: token shards are memory-mapped, a local folder expected" in capsys.readouterr().err


def test_an_export_to_where_none_can_be_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "export_toy.py").write_text(
        "from pathlib import Path\nfrom tests.test_train_loop import toy\n"
        f"def recipe():\n    return toy(Path({str(tmp_path)!r}), steps=5)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    loop.train(toy(tmp_path, steps=5), tmp_path, say=quiet)
    for folder in ("/proc/foo/bar", str(tmp_path / "export_toy.py" / "below")):
        assert main(["export_toy", "--root", str(tmp_path), "--export", folder]) == 1
        said = capsys.readouterr().err
        assert f"error: --export {folder}: " in said and "a new folder, where there is room" in said
