"""From a document to the steps that read it, and from a step to its documents: both against reading the batches."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from corpus.engine import LocalEngine
from corpus.errors import ConfigError
from corpus.explain import explain
from corpus.runner import run
from corpus.seen import _steps, seen
from corpus.shards import read_json, write_json
from corpus.step import Step
from corpus.tokens import TokenShards
from stages import encode_tokens, train_tokenizer
from tests.test_train_sources import MODEL, shards
from tests.toys import texts
from train.__main__ import main
from train.config import Source, TrainConfig, run_folder
from train.lineage import step_documents
from train.sources import open_data, order_plan, streams

WORDS = ["the", "order", "of", "samples", "is", "arithmetic", "on", "numbers", "and", "so", "are", "its", "inverses"]
ROWS = tuple((f"d{i:02d}", " ".join(WORDS[(i * k) % 13] for k in range(1, 3 + 5 * (i % 7)))) for i in range(40))


def corpus(root: Path) -> Step:
    files = Step("texts", texts.Config(shards=(ROWS[:23], ROWS[23:])))
    tokenizer = Step("train_tokenizer", train_tokenizer.Config(files=files, vocab_size=280))
    last = Step("encode_tokens", encode_tokens.Config(files=files, tokenizer=tokenizer, fim_rate=0.0))
    run(last, LocalEngine(root))
    return last


def config(data: object, **changes: object) -> TrainConfig:
    fields = {"steps": 60, "batch": 3, "seq_len": 11, "lr": 1e-2, "warmup": 1, "validation": 0.1, "model": MODEL}
    return TrainConfig(**{"name": "toy", "data": data, **fields, **changes})  # type: ignore[arg-type]


def write_run(c: TrainConfig, root: Path, done: int) -> Path:
    """The two files of a run that has finished `done` steps."""
    folder = run_folder(c, root)
    folder.mkdir(parents=True)
    write_json(folder / "order.json", order_plan(c, open_data(c, root)))
    (folder / "train.jsonl").write_text("".join(json.dumps({"step": n + 1}) + "\n" for n in range(done)))
    return folder


def by_reading(c: TrainConfig, root: Path) -> dict[int, list[int]]:
    """The steps that read a token of each document, by its number; a sentinel of FIM is none."""
    data = open_data(c, root)
    stream, _ = streams(c, data)
    marks = [i for name, i in data.special.items() if name.startswith("fim_")]
    steps = defaultdict(list)
    for step in range(c.steps):
        batch = stream.batch(step * c.batch, c.batch)
        for number in np.unique(batch.documents_BL1[~np.isin(batch.tokens_BL1, marks)]).tolist():
            steps[number].append(step + 1)
    return steps


def told_steps(line: str) -> list[int]:
    """All steps a line of explain names; it must name every one."""
    line = re.sub(r"its tokens [-0-9, ]*\d( after FIM)?", "", line)
    assert "more" not in line
    return [int(n) for n in re.findall(r"\d+", line.partition(": ")[2])]


@pytest.mark.parametrize("kind", ["keyed", "fim", "spm", "megatron", "blend"])
def test_explain_names_the_steps_that_read_a_document(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corpus.seen._LISTED", 1000)
    last = corpus(tmp_path)
    data: object = last
    if kind == "blend":
        vocab = TokenShards(tmp_path / last.folder).vocab_size
        other = Source(name="other", data=shards(tmp_path / "a", 0, length=10, vocab=vocab), weight=2)
        monkeypatch.setattr("train.sources._tokenizer", lambda shards: 0)  # the other has none
        data = (other, Source(name="texts", data=last, weight=1))
    extra = {"fim": {"fim_rate": 0.6}, "spm": {"fim_rate": 0.6, "fim_spm_rate": 0.5}, "megatron": {"order": "megatron"}}.get(
        kind, {}
    )
    c = config(data, **extra)
    folder = write_run(c, tmp_path, done=c.steps)
    read = by_reading(c, tmp_path)
    ours = TokenShards(tmp_path / last.folder)
    base = 20 if kind == "blend" else 0
    held = 0
    for number in range(ours.documents):
        shard, first, count = ours.place(number)
        (line,) = seen(tmp_path / last.folder, shard, [(first, count)])
        assert line.startswith(f"trained  {folder.name}: ")
        if line.endswith("held out for validation"):
            held += 1
            assert base + number not in read
        elif line.endswith("not read in its 60 steps"):
            assert base + number not in read
        else:
            assert told_steps(line) == read[base + number]
    assert 0 < held < 10


def test_explain_says_how_far_the_run_is(tmp_path: Path) -> None:
    last = corpus(tmp_path)
    c = config(last)
    write_run(c, tmp_path, done=20)
    read = by_reading(c, tmp_path)
    ours = TokenShards(tmp_path / last.folder)
    names = ours.document_ids(range(ours.documents))
    assert sorted(names.values()) == [name for name, _ in ROWS]
    told = {number: list(explain(last, tmp_path, names[number]))[-1] for number in read}
    assert all("trained  toy-" in line for line in told.values())
    for number, steps in read.items():
        past = [step for step in steps if step <= 20]
        says = (
            f"first seen at step {past[0]}, its tokens " if past else f"not seen yet: step {steps[0]} of 60 reads its tokens "
        )
        assert says in told[number]
        if past and past != steps:
            assert "after step 20, where the run is, at " in told[number]
    assert any(" more" in line for line in told.values())
    other = dataclasses.replace(c, data=str(tmp_path / "elsewhere"), out=None)
    assert run_folder(other, tmp_path) != run_folder(c, tmp_path)


def test_a_step_that_was_left_out_is_not_where_a_document_was_seen(tmp_path: Path) -> None:
    """Bad steps by the log, also a skipped one; steps gone back over by left_out.json, also before they come again."""
    last = corpus(tmp_path)
    c = config(last, steps=24, batch=1)
    folder = write_run(c, tmp_path, done=10)
    read = by_reading(c, tmp_path)
    gone = {3, 6, 7, 8, 11, 12}
    lines = [{"step": n, **({"loss": None, "left_out": "spoilt"} if n in {3, 6} else {})} for n in range(1, 11)]
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 1')  # being written
    (folder / "left_out.json").write_text('[[5, 8, 4], [10, 12, 6, "step 12: loss nan"]]')
    ours = TokenShards(tmp_path / last.folder)
    kinds = set()
    for number, steps in read.items():
        shard, first, count = ours.place(number)
        (line,) = seen(tmp_path / last.folder, shard, [(first, count)])
        told = line.partition(": ")[2]
        left, missed = [step for step in steps if step not in gone], [step for step in steps if step in gone]
        if not left:
            assert (
                told == f"not trained on: only what was left out of its 24 steps reads it, step {', '.join(map(str, missed))}"
            )
        elif left[0] <= 10:
            assert told.startswith(f"first seen at step {left[0]}, its tokens ")
        else:
            assert told.startswith(f"not seen yet: step {left[0]} of 24 reads its tokens ") and "the run is at step 10" in told
        if left and missed:
            assert told.endswith(f"; left out: step {', '.join(map(str, missed))}")
        elif not missed:
            assert "left out" not in told
        kinds.add((bool(left), bool(missed), bool(steps[0] in gone)))
    assert kinds == {(True, False, False), (True, True, True), (True, True, False), (False, True, True)}


def test_the_tokens_named_are_those_of_the_first_step(tmp_path: Path) -> None:
    last = corpus(tmp_path)
    c = config(last, seq_len=4, batch=2, steps=1000)
    write_run(c, tmp_path, done=1000)
    ours = TokenShards(tmp_path / last.folder)
    number = int(ours.lengths.argmax())
    shard, first, count = ours.place(number)
    for offset in (0, count // 2, count - 1):  # a token in the middle has a first step of its own
        (line,) = seen(tmp_path / last.folder, shard, [(first + offset, 1)])
        step, a, b = map(int, re.search(r"first seen at step (\d+), its tokens (\d+)-(\d+)", line).groups())  # type: ignore[union-attr]
        assert a <= offset < b
        batch = streams(c, open_data(c, tmp_path))[0].batch((step - 1) * 2, 2)
        rows = [t[d == number].tolist() for t, d in zip(batch.tokens_BL1, batch.documents_BL1)]
        assert ours.document(number)[a:b].tolist() in rows


def test_a_ramp_of_batches() -> None:
    batches = [[0, 2], [3, 5], [5, 7]]  # samples 0-5, 6-15, 16-…
    before = np.cumsum([0, 2, 2, 2, 5, 5, 7, 7])
    by_hand = [int(before.searchsorted(i, side="right")) for i in range(30)]
    assert _steps(np.arange(30), batches).tolist() == by_hand


def test_shards_made_anew_are_not_taken_for_those_trained_on(tmp_path: Path) -> None:
    last = corpus(tmp_path)
    folder = write_run(config(last), tmp_path, done=3)
    plan = read_json(folder / "order.json")
    plan["sources"][0]["tokens"] += 1
    write_json(folder / "order.json", plan)
    ours = TokenShards(tmp_path / last.folder)
    (line,) = seen(tmp_path / last.folder, *[ours.place(0)[0], [ours.place(0)[1:]]])
    assert "its order is of other shards, of 40 documents" in line


@pytest.mark.parametrize(("rate", "order"), [(0.0, "keyed"), (1.0, "keyed"), (0.0, "megatron")])
def test_inspect_lists_what_a_step_reads(tmp_path: Path, rate: float, order: str) -> None:
    last = corpus(tmp_path)
    c = config(last, fim_rate=rate, order=order)
    data = open_data(c, tmp_path)
    ours = data.shards[0]
    names = ours.document_ids(range(ours.documents))
    text = dict(ROWS)
    for step in (1, 2, 37):
        batch = streams(c, data)[0].batch((step - 1) * 3, 3)
        lines = list(step_documents(c, tmp_path, step))
        assert lines[0].startswith(f"step {step} of 60: samples {step * 3 - 3}-{step * 3},")
        assert [line.split("  ")[0] for line in lines if line.startswith("sample ")] == [
            f"sample {i}" for i in range(step * 3 - 3, step * 3)
        ]
        listed = [line.split("  ")[1:] for line in lines if line.startswith("  ")]
        runs = [[d for k, d in enumerate(row) if not k or row[k - 1] != d] for row in batch.documents_BL1.tolist()]
        assert [row[0] for row in listed] == [names[d] for row in runs for d in row]
        shown = 0
        for name, where, *words in listed:
            shard = where.split(",")[0].removeprefix("shard ")
            spans = [(int(a), int(b)) for a, b in re.findall(r"(\d+)-(\d+)", where.partition("positions ")[2])]
            for a, b in spans:
                assert names[ours.number(shard, a)] == names[ours.number(shard, b - 1)] == name
            shown += sum(b - a for a, b in spans)
            assert ("after FIM" in where) <= (rate == 1)
            if rate == 0 and words:
                assert "  ".join(words) in text[name]
        sentinels = np.isin(batch.tokens_BL1, [ours.special[f"fim_{k}"] for k in ("begin", "hole", "end")]).sum()
        assert shown + sentinels == batch.tokens_BL1.size and (rate == 0 or sentinels)
    with pytest.raises(ConfigError, match="--step 61: 1 to 60 expected"):
        list(step_documents(c, tmp_path, 61))


def test_fim_twice_is_refused(tmp_path: Path) -> None:
    last = corpus(tmp_path)
    twice = Step("encode_twice", dataclasses.replace(last.config, fim_rate=1.0))
    run(twice, LocalEngine(tmp_path))
    with pytest.raises(ConfigError, match=r"4\d|3\d of 40 documents of .* are transformed for FIM already"):
        open_data(config(twice, fim_rate=0.5), tmp_path)


def test_the_command_inspects_and_still_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shards(tmp_path / "shards", 0)
    (tmp_path / "inspect_toy.py").write_text(
        f"from tests.test_seen import config\ndef recipe():\n    return config({folder!r}, seq_len=8)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    root = ["--root", str(tmp_path)]
    assert main(["inspect", "inspect_toy", "--step", "2", *root, "--set", "batch=5"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("step 2 of 60: samples 5-10,") and out[1].startswith("sample 5  data, epoch 0")
    assert re.match(r"  document \d+  shard 0000\d, positions \d+-\d+  \d+ \d+", out[2])
    assert main(["inspect", "inspect_toy", "--step", "0", *root]) == 1
    assert "--step 0: 1 to 60 expected" in capsys.readouterr().err
    assert main(["inspect", "nowhere", "--step", "1"]) == 1
    with pytest.raises(SystemExit):
        main(["inspect", "inspect_toy"])
    assert main(["inspect_toy", "--steps", "1", *root]) == 0
    assert "stopped after step 1 of 60" in capsys.readouterr().out
    assert len(list((tmp_path / "train").glob("toy-*/order.json"))) == 1
