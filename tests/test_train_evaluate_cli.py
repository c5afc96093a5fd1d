"""The command line of evaluation: what it says of documents a run trained on, and mistakes found before any work is done."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.test_train_evaluate import one_thread, recipe, root, silent
from train import checkpoint, evaluate, loop, sandbox, subject
from train.evaluate import read_items
from train.evaluate_cli import main

__all__ = ["one_thread", "root"]  # fixtures, the first of them for every test here


def shards(root: Path) -> str:
    return str(next(path for path in root.glob("encode_tokens-*") if path.is_dir()))


def test_documents_a_run_was_trained_on_are_said_of_the_first_model_too(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--root", str(root), "--out", str(tmp_path / "r.jsonl"), "--window", "64"]
    assert main(["evaluated_toy", *out, "--data", shards(root), "--validation", "0.8"]) == 0
    said = re.search(
        r"^evaluated_toy did not hold out (\d+) of the (\d+) documents: it may have been trained", capsys.readouterr().out, re.M
    )
    held = sum(len(part.numbers) for part in subject.held_by(recipe(), root))
    asked = sum(len(part.numbers) for part in subject.held_in(Path(shards(root)), 0.8))
    assert said is not None and (int(said[1]), int(said[2])) == (asked - held, asked)
    # Documents of its own share, under another name of the folder: it holds all of them out.
    (tmp_path / "link").symlink_to(shards(root))
    assert main(["evaluated_toy", *out, "--data", str(tmp_path / "link"), "--validation", "0.3"]) == 0
    assert "evaluated_toy d" not in capsys.readouterr().out
    # Of a copy nothing is known.
    shutil.copytree(shards(root), tmp_path / "copy")
    assert main(["evaluated_toy", *out, "--data", str(tmp_path / "copy"), "--validation", "0.3"]) == 0
    assert f"evaluated_toy does not read the shards of {held} of the {held} documents" in capsys.readouterr().out


def test_a_run_that_holds_nothing_out_was_trained_on_all(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["evaluated_toy", "--root", str(root), "--data", shards(root), "--validation", "0.3", "--window", "64"]
    assert main([*asked, "--against", "evaluated_toy:nothing"]) == 1  # it has no checkpoint
    printed = capsys.readouterr()
    assert re.search(r"evaluated_toy:nothing did not hold out (\d+) of the \1 documents", printed.out)
    assert "has no checkpoint" in printed.err


def test_a_damaged_checkpoint_is_said_and_in_no_name(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(recipe(), checkpoint_every=2, out=str(tmp_path / "run"))
    loop.train(config, root, say=silent)
    newest = checkpoint.newest(tmp_path / "run" / "checkpoints")
    assert newest is not None
    data = bytearray((newest / "__0_0.distcp").read_bytes())
    data[len(data) // 2] ^= 1
    (newest / "__0_0.distcp").write_bytes(data)
    monkeypatch.setattr(sys.modules["evaluated_toy"], "damaged", lambda: config, raising=False)
    before = set((root / "evaluations").glob("*"))
    assert main(["evaluated_toy:damaged", "--root", str(root)]) == 0
    assert "run step 2; passed over, since damaged: " in capsys.readouterr().out
    (written,) = set((root / "evaluations").glob("*")) - before
    assert re.fullmatch(r"run-step-2-[0-9a-f]{8}\.jsonl", written.name)
    assert read_items(written)[0] == "run step 2"


ROW = {"task_id": "a", "prompt": "p", "entry_point": "f", "test": "t"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--humaneval", "nowhere"], "no file"),
        (["--humaneval", "tasks", "--samples", "3"], "samples=3 at temperature 0"),
        (["--humaneval", "tasks", "--k", "2"], "pass@2 of 1 samples"),
        (["--humaneval", "tasks", "--top-p", "7", "--most", "8"], "top_p=7.0"),
        (["--humaneval", "tasks", "--most", "500"], "500 new tokens do not fit"),
        (["--gsm8k", "nowhere"], "no file"),
        (["--gsm8k", "questions", "--examples", "nowhere"], "no file"),
        (["--gsm8k", "questions", "--shots", "3", "--most", "8"], "3 examples asked for, 2 there are"),
        (["--gsm8k", "questions", "--shots", "1", "--most", "500"], "500 new tokens do not fit"),
        (["--needle", "5000", "--fim"], "do not fit into the context of 128"),
        (["--needle", "20"], "needle and question alone are"),
        (["--stride", "500", "--fim"], "stride=500"),
        (["--out", "folder"], "is a folder; a file for the results expected"),
        (["--out", "tasks/below"], "results cannot be written to"),
        (["--out", "/proc/none/r.jsonl"], "results cannot be written to /proc/none/r.jsonl"),
        (["--device", "gpu"], "--device gpu: Expected one of cpu, cuda"),
        (["--device", "cuda:99"], "--device cuda:99: "),
        (["--data", "s3://bucket/x"], "--data s3://bucket/x: token shards are memory-mapped, a local folder expected"),
        (["--root", "s3://bucket"], "--root s3://bucket: token shards are memory-mapped, a local folder expected"),
    ],
)
def test_what_is_wrong_is_found_before_the_first_task(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "tasks").write_text(json.dumps(ROW))
    (tmp_path / "questions").write_text(
        "".join(json.dumps({"question": f"q{i}", "answer": f"#### {i}"}) + "\n" for i in range(3))
    )
    monkeypatch.chdir(tmp_path)
    for task in ("score_bits", "score_lines"):
        monkeypatch.setattr(evaluate, task, None)
    assert main(["evaluated_toy", "--root", str(root), "--bits", *arguments]) == 1
    assert says in capsys.readouterr().err


def test_a_kernel_that_cannot_shut_programs_in_is_found_before_a_model_is_opened(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tasks").write_text(json.dumps(ROW))
    monkeypatch.setattr(sandbox, "missing", lambda: "this kernel is old")
    monkeypatch.setattr(subject, "open_trained", None)
    assert main(["evaluated_toy", "--root", str(root), "--bits", "--humaneval", str(tmp_path / "tasks")]) == 1
    assert "not run here. this kernel is old" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        *((f"--{name}", "0", "'0' seen, a whole number of 1 or more") for name in ("window", "stride", "repeats", "samples")),
        *((f"--{name}", "0", "'0' seen, a whole number of 1 or more") for name in ("most", "workers", "documents", "k")),
        ("--documents", "some", "'some' seen, a whole number of 1 or more expected"),
        ("--documents", "-3", "'-3' seen"),
        ("--workers", "-1", "'-1' seen"),
        ("--shots", "-1", "'-1' seen, a whole number of 0 or more"),
        ("--context", "-4", "'-4' seen"),
        ("--batch-tokens", "0", "'0' seen"),
        ("--needle", "64,x", "'x' seen, a whole number of 1 or more"),
        ("--depths", "0,1.5", "'0,1.5' seen, numbers from 0 to 1 with commas between expected"),
        ("--depths", "", "'' seen, numbers from 0 to 1"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(capsys: pytest.CaptureFixture[str], option: str, value: str, says: str) -> None:
    with pytest.raises(SystemExit):
        main(["evaluated_toy", f"{option}={value}"])
    said = capsys.readouterr().err
    assert f"argument {option}: {says}" in said
