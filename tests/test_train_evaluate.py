"""Evaluation end to end: a run on a toy corpus, its export, the two compared; figures that add up; mistakes that are named."""

from __future__ import annotations

import dataclasses
import io
import json
import random
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from corpus.engine import LocalEngine
from corpus.errors import InputError
from corpus.runner import run
from corpus.step import Step
from stages import encode_tokens
from tests.test_train_evaluate_model import codec, one_thread
from tests.test_train_loop import MODEL
from tests.toys import texts
from train import functional, loop, sandbox
from train.__main__ import main as train_main
from train.config import TrainConfig
from train.evaluate import Meter, comparison, figures, read_items, write_items
from train.evaluate_cli import main
from train.held_documents import read_documents
from train.items import Item
from train.subject import held_by, open_folder, open_trained

__all__ = ["one_thread", "root"]  # fixtures, the first of them for every test here

LANGS = ("Python", "C", "Rust")


def silent(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of two shards, half of its documents transformed for FIM, and a run of four steps on it, exported."""
    folder = tmp_path_factory.mktemp("root")
    config = recipe()
    assert isinstance(config.data, Step)
    run(config.data, LocalEngine(folder))
    loop.train(config, folder, say=silent)
    module = types.ModuleType("evaluated_toy")
    module.recipe = recipe  # type: ignore[attr-defined]
    module.other = lambda: dataclasses.replace(recipe(), validation=0.1)  # type: ignore[attr-defined]
    module.nothing = lambda: dataclasses.replace(recipe(), validation=0.0)  # type: ignore[attr-defined]
    sys.modules["evaluated_toy"] = module
    assert train_main(["evaluated_toy", "--root", str(folder), "--export", str(folder / "exported"), "--dtype", "float32"]) == 0
    path = folder / "exported" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_position_embeddings": 512}))  # longer than the run's
    return folder


def recipe() -> TrainConfig:
    dice = random.Random(0)
    lines = [line for line in Path(__file__).read_text("utf-8").splitlines() if line.strip()]
    shards = tuple(
        tuple((f"s{s} d{d}", "\n".join(dice.choices(lines, k=dice.randrange(2, 9))) + "\né") for d in range(40))
        for s in range(2)
    )
    source = Step("texts", texts.Config(shards=shards, langs=LANGS))
    data = Step("encode_tokens", encode_tokens.Config(files=source, tokenizer=str(codec().path)))
    fields = {"steps": 4, "batch": 2, "seq_len": 128, "lr": 1e-2, "warmup": 1, "validation": 0.3}
    return TrainConfig(name="toy", model=MODEL, data=data, **fields)  # type: ignore[arg-type]


def test_documents_are_the_corpus_documents(root: Path) -> None:
    config = recipe()
    held = held_by(config, root)
    documents = read_documents(held, None, silent)
    assert isinstance(config.data, Step)
    originals = {name: (text, LANGS[i % 3]) for shard in config.data.config.files.config.shards for i, (name, text) in
                 enumerate(shard)}  # fmt: skip
    assert 15 < len(documents) < 40 and len({d.id for d in documents}) == len(documents)
    assert {d.id[:2] for d in documents} == {"s0", "s1"}
    for document in documents:  # FIM undone, the end left out
        assert (document.text, document.lang) == originals[document.id] and document.source == "toy"
    told: list[str] = []
    some = read_documents(held, 5, told.append)
    assert len(some) == 5 and set(some) < set(documents) and f"5 of the {len(documents)} documents held out" in told[0]


def test_a_run_and_its_export_are_the_same_model(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needles = ["--needle", "100", "--depths", "0,1", "--repeats", "2"]
    arguments = ["evaluated_toy", "--root", str(root), "--bits", "--fim", "--documents", "20", *needles]
    assert main([*arguments, "--against", str(root / "exported"), "--out", str(root / "first.jsonl")]) == 0
    printed = capsys.readouterr().out
    assert "shorter of their contexts, 128 tokens" in printed
    compared = printed.partition(" against exported")[2]
    for row in ("bits per byte", "  lang Python", "  lang C", "  lang Rust", "fim line", "needle", "  depth 1"):
        line = next(line for line in compared.splitlines() if line.startswith(row))
        assert abs(float(line[len("  lang Python") :].split()[2])) < 1e-4, line
    name, settings, items = read_items(root / "first.jsonl")
    assert re.fullmatch(r"toy-[0-9a-f]{12} step 4", name)
    assert (settings["bits"], settings["documents"], settings["context"]) == (True, 20, 128)
    assert {item.task for item in items} == {"bits per byte", "fim line", "needle"}
    again = [*arguments, "--against", str(root / "first.jsonl"), "--seed", "1"]
    assert main(again) == 0
    assert "made with other settings: seed" in capsys.readouterr().out


def test_languages_add_up_to_the_whole_and_bits_to_brute_force(root: Path) -> None:
    assert main(["evaluated_toy", "--root", str(root), "--window", "40", "--stride", "40", "--out", str(root / "b.jsonl")]) == 0
    items = read_items(root / "b.jsonl")[2]
    rows = {row["group"]: row for row in figures(items)}
    sums = {lang: [i for i in items if i.groups["lang"] == lang] for lang in LANGS}
    assert set(rows) == {"", *(f"lang {lang}" for lang in LANGS)}
    total = sum(rows[f"lang {lang}"]["value"] * sum(i.weight for i in part) for lang, part in sums.items())
    assert rows[""]["value"] == pytest.approx(total / sum(i.weight for i in items), rel=1e-12)
    assert sum(rows[f"lang {lang}"]["items"] for lang in LANGS) == rows[""]["items"] == len(items)
    who = open_trained(recipe(), root, "cpu")
    documents = {d.id: d for d in read_documents(held_by(recipe(), root), None, silent)}
    for item in items[:2]:
        data = documents[item.key].text.encode()
        ids = [who.begin, *codec().encode([documents[item.key].text])[0].tolist(), who.end]
        bits = 0.0
        for i in range(len(ids) - 1):  # a label at a time, from the beginning of its window
            with torch.inference_mode():
                logits = who.logits(torch.tensor([ids[i // 40 * 40 : i + 1]]))[0, -1].double()
            bits -= float(logits.log_softmax(-1)[ids[i + 1]]) / np.log(2)
        assert item.weight == len(data) and item.more["tokens"] == len(ids) - 1
        assert item.score / item.weight == pytest.approx(bits / len(data), rel=1e-5)


def test_programs_and_questions_from_the_command_line(root: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    task = {"task_id": "a", "prompt": "def f():\n    pass\n", "entry_point": "f", "test": "def check(c): assert c() is None"}
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps({**task, "task_id": name}) + "\n" for name in "ab"))
    (tmp_path / "q.jsonl").write_text(
        "".join(json.dumps({"question": f"q{i}", "answer": f"#### {i}"}) + "\n" for i in range(3))
    )
    options = ["--root", str(root), "--context", "200", "--most", "8", "--out", str(tmp_path / "out.jsonl")]
    questions = ["--gsm8k", str(tmp_path / "q.jsonl"), "--shots", "2"]
    programs = ["--humaneval", str(tmp_path / "tasks.jsonl"), "--samples", "3", "--k", "1,2", "--temperature", "0.8"]
    assert main([str(root / "exported"), *options, *questions, *programs]) == 0
    items = read_items(tmp_path / "out.jsonl")[2]
    assert [item.task for item in items] == ["pass@1", "pass@2"] * 2 + ["few-shot"] * 3
    assert all(len(item.more["completions"]) == item.more["samples"] == 3 for item in items[:4])
    assert "pass@2" in capsys.readouterr().out


def test_a_machine_that_cannot_shut_programs_in_writes_none(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "tasks.jsonl").write_text(json.dumps({"task_id": "a", "prompt": "p", "entry_point": "f", "test": "t"}))
    monkeypatch.setattr(sandbox, "missing", lambda: "this kernel is old")
    monkeypatch.setattr(functional, "generate", None)
    assert main([str(root / "exported"), "--root", str(root), "--humaneval", str(tmp_path / "tasks.jsonl")]) == 1
    assert "not run here. this kernel is old" in capsys.readouterr().err


def test_mistakes_are_named(root: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    at = ["--root", str(root)]
    tasks = tmp_path / "tasks.jsonl"
    row = {"task_id": "a", "prompt": "p", "entry_point": "f", "test": "t"}
    tasks.write_text(json.dumps(row) + "\n" + json.dumps(row))
    for arguments, says in (
        ([str(root / "exported"), *at], "is a folder: --data"),
        ([str(root / "exported"), *at, "--set", "lr=1"], "is a folder, a recipe expected"),
        ([str(root), *at, "--gsm8k", str(tasks)], "no config.json"),
        (["nothing_here", *at], "no recipe 'nothing_here'"),
        (["evaluated_toy", "--root", str(tmp_path)], "not finished"),
        (["evaluated_toy", *at, "--set", "seed=3"], "has no checkpoint; train first"),
        (["evaluated_toy", *at, "--set", "validation=0"], "holds no documents out"),
        (["evaluated_toy", *at, "--stride", "500"], "stride=500: from 1 to the window of 128"),
        (["evaluated_toy", *at, "--against", "nowhere.jsonl"], "nowhere.jsonl holds no results"),
        (["evaluated_toy", *at, "--needle", "5000"], "do not fit into the context of 128"),
        (["evaluated_toy", *at, "--humaneval", str(tasks)], "two tasks of one task_id"),
        (["evaluated_toy", *at, "--humaneval", str(tmp_path / "no")], "no file"),
    ):
        assert main(arguments) == 1, arguments
        assert says in capsys.readouterr().err, arguments


def test_documents_the_other_was_trained_on_are_said(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluated_toy", "--root", str(root), "--against", "evaluated_toy:other"]) == 1  # which was never trained
    printed = capsys.readouterr()
    assert re.search(
        r"evaluated_toy:other did not hold out \d+ of the \d+ documents: it may have been trained on them", printed.out
    )
    assert "has no checkpoint" in printed.err


def test_a_folder_begins_documents_as_its_tokenizer_config_says(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in (root / "exported").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    special = codec().special
    assert open_folder(folder, "cpu", torch.float32).begin == special["eos"]
    (folder / "tokenizer_config.json").write_text('{"add_bos_token": true}')
    assert open_folder(folder, "cpu", torch.float32).begin == special["bos"]
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="no tokenizer at"):
        open_folder(folder, "cpu", torch.float32)


# --- Results --------------------------------------------------------------------------------------------------------------


def test_results_come_back_as_written(tmp_path: Path) -> None:
    items = [Item("needle", "é", 0.1, 3.0, {"length": "9"}, {"said": "\n"}), Item("fim line", "b", 1.0)]
    write_items(tmp_path / "r.jsonl", "model", {"a": 1}, items)
    assert read_items(tmp_path / "r.jsonl") == ("model", {"a": 1}, items)
    for text in ("", "{}", "[1]", "nonsense"):
        (tmp_path / "other.jsonl").write_text(text)
        with pytest.raises(InputError, match="holds no results"):
            read_items(tmp_path / "other.jsonl")


def test_only_what_both_answered_is_compared() -> None:
    a = [Item("bits per byte", key, score, weight, {"lang": lang}) for key, score, weight, lang in
         (("x", 10, 5, "C"), ("y", 2, 10, "C++"), ("z", 100, 1, "C"))]  # fmt: skip
    b = [dataclasses.replace(a[1], score=4.0), dataclasses.replace(a[0], score=5.0), Item("needle", "n", 1.0)]
    told: list[str] = []
    rows = comparison(a, b, told.append)
    assert told == ["2 items are in both, 1 only in the first, 1 only in the second"]
    assert [(row["group"], row["items"]) for row in rows] == [("", 2), ("lang C++", 1), ("lang C", 1)]
    assert rows[0]["value"] == pytest.approx(12 / 15) and rows[0]["against"] == pytest.approx(9 / 15)
    assert rows[0]["difference"] == pytest.approx(3 / 15)
    many = [dataclasses.replace(item, key=f"{item.key} {n}") for item in a[:2] for n in range(5)]
    row = comparison(many, [dataclasses.replace(item, score=item.score - 1) for item in many], told.append)[0]
    assert row["low"] <= row["difference"] <= row["high"] and row["difference"] == pytest.approx(2 / 15)
    with pytest.raises(InputError, match="bits per byte x weighs 5 in one and 6 in the other"):
        comparison(a, [dataclasses.replace(a[0], weight=6)], told.append)
    with pytest.raises(InputError, match="share no item"):
        comparison(a[:1], b[:1], told.append)


def test_a_needle_table_has_lengths_depths_and_cells() -> None:
    items = [Item("needle", f"{n} {d} {r}", float(n == "1000"), 1.0, {"length": n, "depth": d})
             for n in ("20000", "1000") for d in ("0", "0.5") for r in range(2)]  # fmt: skip
    rows = figures(items)
    assert [row["group"] for row in rows] == [
        "", "length 1000", "length 20000", "depth 0", "depth 0.5", "length 1000 depth 0", "length 1000 depth 0.5",
        "length 20000 depth 0", "length 20000 depth 0.5",
    ]  # fmt: skip
    assert [row["value"] for row in rows] == [0.5, 1, 0, 0.5, 0.5, 1, 1, 0, 0]
    assert {(row["low"], row["high"]) for row in rows} == {(None, None)}  # eight items


def test_of_few_items_tables_give_no_interval(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = ["evaluated_toy", "--root", str(root), "--against", str(root / "exported"), "--context", "128"]
    for documents, few in ((9, True), (10, False)):
        assert main([*at, "--documents", str(documents)]) == 0
        tables = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("bits per byte  ")]
        assert [line.count("few") for line in tables] == ([2, 2, 3] if few else [0, 0, 0]), tables
        assert all(line[-1] == str(documents) for line in tables)


def test_progress_is_shown_and_ends_in_a_line() -> None:
    stream = io.StringIO()
    meter = Meter("needle", 4, stream)
    for done in range(5):
        meter(done)
    assert stream.getvalue() == "needle: 4/4, 0 s\n"
