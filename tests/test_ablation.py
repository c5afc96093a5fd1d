"""Ablation: arms differ in one stage, what is held out is in none of them, and the whole study runs on a toy corpus."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from corpus.engine import LocalEngine
from corpus.errors import ConfigError
from corpus.runner import run
from corpus.step import Step, override, rewrite, stage_of, walk
from recipes import ablation, draw_random, hold_out, moe_1b, moe_tiny
from recipes.ablation import Result, compare, study
from recipes.ablation_arms import ARMS, arms, held_documents
from recipes.sources import planted_benchmark
from stages import decontaminate, dedup_near, encode_tokens, filter_code, index_benchmarks, mix, train_tokenizer
from tests.test_train_attention import TINY
from tests.toys import pages
from train.config import Layout, ModelConfig, TrainConfig
from train.held_documents import Document

ORIGIN = ("source",)
WORDS = [
    f"{a}{b}"
    for a in ("load", "save", "find", "sort", "join", "list", "read", "mark")
    for b in ("er", "ed", "ing", "s", "able")
]


def texts() -> list[tuple[str, str]]:
    """Plain files; one in six is a near-duplicate of the one before; some have a long line, some an exercise."""
    benchmark = Path(ablation.__file__).parent / "planted" / "benchmark.jsonl"
    exercise = json.loads(benchmark.read_text().splitlines()[0])["question"]
    rows: list[tuple[str, str]] = []
    for i in range(180):
        dice = random.Random(i - (i % 6 == 5))
        words = [dice.choice(WORDS) for _ in range(90)]
        if i % 6 == 5:
            words[40] = f"other{i}"
        if i % 15 == 1:
            words.append("x" * 1200)
        lines = "\n".join(" ".join(words[n : n + 6]) for n in range(0, len(words), 6))
        rows.append((f"r{i % 7}/f{i}.py", lines + (f"\n# {exercise}" if i % 30 == 2 else "")))
    return rows


def corpus() -> Step:
    rows = texts()
    made = Step("source", pages.Config(shards=tuple(tuple(rows[n : n + 45]) for n in range(0, 180, 45)), web=False))
    index = Step("index_benchmarks", index_benchmarks.Config(benchmarks=(planted_benchmark(),)))
    rules = Step("filter_code", filter_code.Config(files=made))
    near = Step("dedup_near", dedup_near.Config(files=rules))
    clean = Step("decontaminate", decontaminate.Config(files=near, index=index))
    tokenizer = Step("train_tokenizer", train_tokenizer.Config(files=clean, vocab_size=320, sample_bytes=1_000_000))
    mixed = Step("mix", mix.Config(sources=(mix.Source(name="code", files=clean, share=1.0),), tokenizer=tokenizer))
    return Step("encode_tokens", encode_tokens.Config(files=mixed, tokenizer=tokenizer, fim_rate=0.0))


def toy_run(**changes: object) -> TrainConfig:
    model: ModelConfig = dataclasses.replace(TINY, vocab_size=None, initializer_range=0.1)
    fields = {"steps": 6, "batch": 4, "seq_len": 32, "lr": 1e-2, "warmup": 2, "validation": 0.0}
    return TrainConfig(**{"name": "toy", "model": model, "data": corpus(), **fields, **changes})


def names(step: Step) -> dict[str, Step]:
    return {s.name: s for s in walk(step)}


def test_an_arm_differs_in_its_stage_and_in_what_follows() -> None:
    made = {name: arm.config for name, arm in arms(moe_tiny.recipe()).items()}
    assert tuple(made) == ARMS
    full = made["everything"].data
    for name, stages in (
        ("no_filters", {"filter_code", "filter_text"}),
        ("no_near_dedup", {"dedup_near"}),
        ("no_decontamination", {"decontaminate"}),
    ):
        arm = names(made[name].data)
        own = {n: s for n, s in arm.items() if n.endswith(name)}
        assert own and all(s == names(full)[n] for n, s in arm.items() if n not in own)
        # Between the parted documents and the mix there is no step of the stage, though the tokenizer's past has some.
        assert not {s for s in trained_on(made[name].data) if stage(s) in stages}
        assert {s for s in trained_on(full) if stage(s) in stages}
        assert arm["train_tokenizer"] == names(full)["train_tokenizer"]
    assert made["other_seed"].data == full and made["other_seed"].seed == moe_tiny.recipe().seed + 1
    assert all(dataclasses.replace(c, name="", data="", seed=0) == dataclasses.replace(made["everything"], name="", data="")
               for c in made.values())  # fmt: skip


def stage(step: Step) -> str:
    return stage_of(step).__name__.rpartition(".")[2]


def trained_on(encoded: Step) -> set[Step]:
    """Steps whose documents may come to be trained on: not the past of the tokenizer or of recall, nor families."""
    found: list[Step] = []

    def visit(step: Step) -> None:
        if step in found:
            return
        found.append(step)
        for field in ("files", "taken"):
            value = getattr(step.config, field, ())
            for other in value if isinstance(value, tuple) else (value,):
                visit(other)
        for source in getattr(step.config, "sources", ()):
            if isinstance(source, mix.Source):
                visit(source.files)

    visit(encoded)
    return set(found)


def test_without_recall_as_much_is_drawn_at_random() -> None:
    made = arms(moe_tiny.recipe())
    full, arm = names(made["everything"].config.data), names(made["no_recall"].config.data)
    drawn = {n: s for n, s in arm.items() if stage(s) == "draw_random"}
    assert set(drawn) == {f"select_recall_{topic}_no_recall" for topic in ("code_3", "math_3", "github_2")}
    for name, step in drawn.items():
        assert step.config.share == full[name.removesuffix("_no_recall")].config.share
    assert len({step.config.salt for step in drawn.values()}) == 3
    assert not any("recall" in stage(s) for s in arm.values())


def test_a_recall_that_cuts_by_tokens_is_replaced_by_as_many_bytes() -> None:
    by_tokens = rewrite(
        moe_tiny.recipe().data,
        lambda s: Step(s.name, dataclasses.replace(s.config, share=None, tokens=9)) if s.name == "select_recall_math_3" else s,
    )
    made = arms(dataclasses.replace(moe_tiny.recipe(), data=by_tokens))
    full, arm = names(made["everything"].config.data), names(made["no_recall"].config.data)
    drawn = arm["select_recall_math_3_no_recall"].config
    assert drawn.share is None and drawn.like == full["select_recall_math_3"] and drawn.like.config.tokens == 9
    assert arm["select_recall_code_3_no_recall"].config.like is None
    paper = arms(moe_1b.recipe())  # every recall of it cuts by tokens
    assert tuple(paper) == ARMS and paper["no_recall"].config.model == moe_1b.MODEL


def test_as_many_bytes_are_drawn_as_another_step_kept(tmp_path: Path) -> None:
    engine = LocalEngine(tmp_path)
    made = {step.name: step for step in walk(corpus())}
    step = Step("drawn", draw_random.Config(files=made["source"], like=made["filter_code"], salt="x"))
    report = run(step, engine)["drawn"]
    sizes = {where: len(text) for where, text in texts()}
    least = sum(sizes[where] for where in rows(engine, made["filter_code"]))
    kept = [sizes[where] for where in rows(engine, step)]
    assert least <= sum(kept) < least + max(kept) and report.kept < 180
    report.check("drawn")
    for wrong in ({}, {"share": 0.5, "like": made["source"]}):
        with pytest.raises(ConfigError, match="one of share and like expected"):
            draw_random.Config(files=made["source"], salt="x", **wrong)


def test_arms_of_another_recipe_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ablation.no_recall() == arms(moe_tiny.recipe())["no_recall"].config
    monkeypatch.setenv("ABLATION_OF", "recipes.moe_1b")
    assert ablation.no_recall() == arms(moe_1b.recipe())["no_recall"].config


def test_bad_ablations_say_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match="a recipe whose data is a step expected"):
        arms(toy_run(data="shards"))
    with pytest.raises(ConfigError, match="none of the steps crawl_github, extract_text is in the recipe"):
        arms(toy_run())
    assert set(arms(toy_run(), ORIGIN)) == set(ARMS) - {"no_recall"}  # it has none to do without
    with pytest.raises(ConfigError, match="2 ranks; train arms with torchrun first"):
        study(toy_run(layout=Layout(dp=2)), Path("x"), LocalEngine("x"), print, share=0.1, documents=5, origins=ORIGIN)


def test_rewrite_gives_steps_that_read_what_is_new() -> None:
    data = corpus()
    assert rewrite(data, lambda step: step) == data
    seen: list[str] = []
    changed = rewrite(data, lambda step: (seen.append(step.name), step)[1])
    assert seen == [step.name for step in walk(changed)]  # each once, upstream first
    assert override(data, {"filter_code.max_line": "500"}) != data


def test_families_are_held_out_whole(tmp_path: Path) -> None:
    engine = LocalEngine(tmp_path)
    origin = next(step for step in walk(corpus()) if step.name == "source")
    families = Step("families", dedup_near.Config(files=origin))
    parts = {
        keep: Step(keep, hold_out.Config(files=origin, families=families, keep=keep, share=0.3)) for keep in ("held", "rest")
    }
    reports = run((parts["held"], parts["rest"]), engine)
    kept = {keep: rows(engine, step) for keep, step in parts.items()}
    held, rest = (set(kept[keep]) for keep in ("held", "rest"))
    everything = {where: where for where, _ in texts()}
    relatives = set(everything) - held - rest
    assert 20 < len(held) < 80 and not held & rest and len(relatives) == reports["held"].dropped["relative"]
    assert reports["rest"].dropped == {"held_out": len(held) + len(relatives)}
    for i in range(5, 180, 6):  # a near-duplicate and the text it is of: both in the rest, or one held and the other in neither
        pair = {f"r{j % 7}/f{j}.py" for j in (i - 1, i)}
        assert pair <= rest or (len(pair & held) == 1 and len(pair & relatives) == 1)


def rows(engine: LocalEngine, step: Step) -> list[str]:
    shards = sorted((engine.folder(step) / "shards").glob("*.parquet"))
    found = [row for path in shards for row in pq.read_table(path, columns=["repo", "path"]).to_pylist()]
    return [f"{row['repo']}/{row['path']}" for row in found]


def test_families_of_other_documents_are_refused() -> None:
    steps = names(corpus())
    with pytest.raises(ConfigError, match="a dedup_near step over source expected"):
        hold_out.Config(files=steps["source"], families=steps["dedup_near"], keep="held")
    whole = Step("whole", dedup_near.Config(files=steps["source"], level="repository"))
    with pytest.raises(ConfigError, match="by file expected"):
        hold_out.Config(files=steps["source"], families=whole, keep="held")


def test_a_random_draw_is_of_the_share_asked(tmp_path: Path) -> None:
    engine = LocalEngine(tmp_path)
    origin = next(step for step in walk(corpus()) if step.name == "source")
    draws = [Step(f"draw_{salt}", draw_random.Config(files=origin, share=0.25, salt=salt)) for salt in "ab"]
    reports = run(tuple(draws), engine)
    sizes = {where: len(text.encode()) for where, text in texts()}
    found = [set(rows(engine, step)) for step in draws]
    for step, kept in zip(draws, found):
        size = sum(sizes[where] for where in kept)
        assert 0.25 * sum(sizes.values()) <= size < 0.25 * sum(sizes.values()) + max(sizes.values())
        assert reports[step.name].notes["drawn"] == size
    assert 0 < len(found[0] & found[1]) < len(found[0])  # independent, a quarter of a quarter


def test_the_whole_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, said = toy_run(), []
    engine = LocalEngine(tmp_path)
    results, documents = study(base, tmp_path, engine, said.append, share=0.1, documents=50, origins=ORIGIN)
    assert set(results) == set(ARMS) - {"no_recall"} and "no_recall: left out, the recipe has no such stage" in said
    # What is asked about is in no arm, nor is a near-duplicate of it; it is clean.
    held = held_documents(base, ORIGIN, 0.1)
    asked = set(rows(engine, held[0]))
    bytes_N = np.array([len(document.text.encode()) for document in documents])
    assert len(asked) == len(documents) > 5 and not asked & {where for where, text in texts() if "x" * 1200 in text}
    for name, arm in arms(base, ORIGIN, 0.1).items():
        trained = set(rows(engine, arm.config.data.config.files))
        assert not trained & asked and trained, name
    full, filters, dedup, contaminated = (
        results[name] for name in ("everything", "no_filters", "no_near_dedup", "no_decontamination")
    )
    assert full.hits == filters.hits == dedup.hits == 0 < contaminated.hits <= 6
    assert min(filters.documents, dedup.documents, contaminated.documents) > full.documents
    assert contaminated.documents == full.documents + contaminated.hits
    # Bits are of the same documents in the same order: an untrained byte of a 320-word vocabulary costs some bits, all alike.
    assert all(np.isfinite(r.bits_N).all() and 0.5 < r.bits_N.sum() / bytes_N.sum() < 8 for r in results.values())
    assert not np.array_equal(full.bits_N, results["other_seed"].bits_N)
    table = list(compare(results, documents))
    assert len(table) == 1 + 5 + 2 + 5 and [" [" in line for line in table[8:]] == [False, True, True, True, True]
    # Again: everything is done, and the figures are the same.
    again, _ = study(base, tmp_path, engine, said.append, share=0.1, documents=50, origins=ORIGIN, only=["everything"])
    assert np.array_equal(again["everything"].bits_N, full.bits_N)


def test_the_table_shows_differences_with_their_sign_and_each_origin_alone() -> None:
    documents = [Document(str(i), "é" * 50, "none", "none", "files" if i < 40 else "pages") for i in range(50)]
    noise = np.random.default_rng(0).normal(0, 5, 50)
    worse = np.where(np.arange(50) < 40, 10.0, -20.0)
    results = {
        "everything": Result(10, 1000, 1.5, 0, 200 + noise),
        "no_filters": Result(12, 1200, 1.2, 3, 200 + worse + noise),
    }
    lines = list(compare(results, documents))
    assert lines[2].split() == ["no_filters", "12", "1,200", "1.20", "3"]
    assert lines[4] == "bits per byte of all documents held out: 50, of 5,000 bytes"
    assert lines[6].split()[:3] == ["no_filters", f"{(200 + worse + noise).sum() / 5000:.4f}", "+0.0400"]
    assert lines[8] == "bits per byte of files held out: 40, of 4,000 bytes" and lines[10].endswith(
        "+0.1000 [+0.1000, +0.1000]"
    )
    assert lines[12] == "bits per byte of pages held out: 10, of 1,000 bytes" and lines[14].endswith(
        "-0.2000 [-0.2000, -0.2000]"
    )
    some = {name: result._replace(bits_N=result.bits_N[32:]) for name, result in results.items()}
    few = list(compare(some, documents[32:]))  # 8 files and 10 pages
    assert few[10].endswith("+0.1000 [too few]") and few[14] == lines[14]


def test_the_command_refuses_unknown_arms(capsys: pytest.CaptureFixture[str]) -> None:
    assert ablation.main(["--arms", "no_filter"]) == 1
    assert "--arms no_filter: some of everything, no_filters" in capsys.readouterr().err
    assert ablation.main(["--root", "s3://bucket"]) == 1
    assert "--root s3://bucket: token shards are memory-mapped, a local folder expected" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        ablation.main(["--documents", "0"])
    assert "argument --documents: '0' seen, a whole number of 1 or more expected" in capsys.readouterr().err
