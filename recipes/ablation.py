"""What each stage of the pipeline is worth to a model: DeepSeek-Coder-V2's Table 1 in miniature.

    python -m recipes.ablation --root data                                   the sample corpus and moe_tiny, on a CPU
    python -m recipes.ablation --root data --recipe recipes.moe_1b --set steps=2_400

The same model is trained on as many tokens of corpora that differ in one thing:

    everything           the recipe as it is
    no_filters           without rules of quality, for files and for pages
    no_near_dedup        without near-deduplication; exact copies still go
    no_recall            as many pages and files as recall collects, at random
    no_decontamination   with benchmarks left in; what that changes is their hits in the training text, which are counted
    other_seed           everything, trained from another seed: how far two runs differ that should not

and asked for bits per byte of the same held-out documents. These are set apart by id, whole families of near-duplicates, before
any arm begins (recipes/hold_out.py), and cleaned by the recipe's own filters and decontamination. All arms have the tokenizer
of `everything`. Differences are of the same documents, with a 95 % interval from drawing documents anew; that does not cover
the luck of a training run, for which other_seed is the measure. Every arm is a training recipe as well, for a cluster:

    torchrun … -m train recipes.ablation:no_filters          then run this, and it finds the arm done
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from corpus.engine import Engine, LocalEngine
from corpus.errors import ConfigError, CorpusError
from corpus.progress import Lines
from corpus.report import Report
from corpus.runner import run
from corpus.step import Step, rewrite, stage_of, walk
from recipes import draw_random, hold_out, moe_tiny
from stages import decontaminate, dedup_near
from train.__main__ import load_recipe
from train.config import TrainConfig

__all__ = ["ARMS", "Arm", "arms", "compare", "held_documents", "main", "recipe"]

ORIGINS = ("crawl_github", "extract_text")  # steps whose documents are parted; those of them that a recipe has
ARMS = ("everything", "no_filters", "no_near_dedup", "no_recall", "no_decontamination", "other_seed")

Say = Callable[[str], None]


class Arm(NamedTuple):
    config: TrainConfig  # its data: the arm's encode_tokens
    contamination: Step  # benchmarks looked for in what is trained on


def _stage(step: Step) -> str:
    return stage_of(step).__name__.rpartition(".")[2]


def arms(base: TrainConfig, origins: Sequence[str] = ORIGINS, share: float = 0.01) -> dict[str, Arm]:
    """Every arm by name. ConfigError where the recipe's data is not a step, or has none of `origins`.

    share: of the families of documents, to be held out. An arm without the stage it is to do without is left out.
    """
    if not isinstance(base.data, Step):
        raise ConfigError("an ablation derives its arms from a corpus: a recipe whose data is a step expected")
    full = rewrite(base.data, lambda step: _parted(step, "rest", share) if step.name in origins else step)
    if full == base.data:
        raise ConfigError(
            f"none of the steps {', '.join(origins)} is in the recipe; its documents cannot be parted before them"
        )
    families = tuple(f"families_{name}" for name in origins)
    graphs = {
        "everything": full,
        "no_filters": _without(full, "no_filters", _bypass("filter_code", "filter_text")),
        "no_near_dedup": _without(full, "no_near_dedup", _bypass("dedup_near", but=families)),
        "no_recall": _without(full, "no_recall", _at_random(full)),
        "no_decontamination": _without(full, "no_decontamination", _bypass("decontaminate")),
    }
    found = {name: graph for name, graph in graphs.items() if name == "everything" or graph != full}
    made = {name: _arm(base, name, graph, full) for name, graph in found.items()}
    again = dataclasses.replace(made["everything"].config, name=f"{base.name}_other_seed", seed=base.seed + 1)
    return made | {"other_seed": Arm(again, made["everything"].contamination)}


def _parted(origin: Step, keep: str, share: float) -> Step:
    families = Step(f"families_{origin.name}", dedup_near.Config(files=origin))
    name = f"held_{origin.name}" if keep == "held" else f"part_{origin.name}"
    return Step(name, hold_out.Config(files=origin, families=families, keep=keep, share=share))  # type: ignore[arg-type]


def _without(full: Step, arm: str, change: Callable[[Step], Step]) -> Step:
    """`full` with `change` applied, and with its tokenizer. What comes out different is named for the arm: the steps that made
    the tokenizer are still there under their names."""
    before = {step.name: step for step in walk(full)}

    def changed(step: Step) -> Step:
        if _stage(step) == "train_tokenizer":
            return before[step.name]
        new = change(step)
        return Step(f"{new.name}_{arm}", new.config) if new.name in before and new != before[new.name] else new

    return rewrite(full, changed)


def _bypass(*stages: str, but: tuple[str, ...] = ()) -> Callable[[Step], Step]:
    """Steps of these stages replaced by what they read."""
    return lambda step: step.config.files if _stage(step) in stages and step.name not in but else step


def _at_random(full: Step) -> Callable[[Step], Step]:
    """The last round of every recall replaced by a draw of the same share; the rounds before are then of no use to anyone."""
    rounds = {step.name for step in walk(full) if _stage(step) == "select_recall"}
    used = {
        other.name
        for step in walk(full)
        for other in (getattr(step.config, field, None) for field in ("previous", "selected"))
        if isinstance(other, Step)
    }

    def change(step: Step) -> Step:
        if step.name not in rounds - used:
            return step
        if step.config.share is None:
            raise ConfigError(
                f"step {step.name} cuts by tokens, probability or precision; for the arm no_recall a cut by share expected"
            )
        return Step(step.name, draw_random.Config(files=step.config.files, share=step.config.share, salt=step.name))

    return change


def _arm(base: TrainConfig, name: str, graph: Step, full: Step) -> Arm:
    index = next((step.config.index for step in walk(full) if _stage(step) == "decontaminate"), None)
    if index is None:
        raise ConfigError("the recipe decontaminates nothing, so there are no benchmarks to look for in the arms")
    config = dataclasses.replace(base, name=f"{base.name}_{name}", data=graph)
    return Arm(config, Step("contamination", decontaminate.Config(files=graph.config.files, index=index)))


def held_documents(base: TrainConfig, origins: Sequence[str] = ORIGINS, share: float = 0.01) -> tuple[Step, ...]:
    """A step for each origin: its documents held out, after the recipe's own filters and decontamination."""
    assert isinstance(base.data, Step)
    steps = walk(base.data)
    index = next(step.config.index for step in steps if _stage(step) == "decontaminate")
    cleaned = []
    for origin in (step for step in steps if step.name in origins):
        last = _parted(origin, "held", share)
        for step in _rules(steps, origin):
            last = Step(f"{last.name}_{step.name}", dataclasses.replace(step.config, files=last))
        cleaned.append(Step(f"clean_{origin.name}", decontaminate.Config(files=last, index=index)))
    return tuple(cleaned)


def _rules(steps: Sequence[Step], origin: Step) -> list[Step]:
    """The detection of languages and the filter that documents of `origin` pass, in order: along `files`, from the first filter
    that leads back to it."""
    for last in steps:
        chain = []
        step: Step | None = last if _stage(last) in ("filter_code", "filter_text") else None
        while step is not None and step.name != origin.name:
            chain.append(step)
            step = getattr(step.config, "files", None)
        if step is not None:
            return [s for s in reversed(chain) if _stage(s) in ("detect_language", "filter_code", "filter_text")]
    return []


class Result(NamedTuple):
    """Of an arm: documents and tokens of its corpus, passes over it, documents with benchmark text; bits per held document."""

    documents: int
    tokens: int
    epochs: float
    hits: int
    bits_N: np.ndarray


def compare(results: dict[str, Result], bytes_N: np.ndarray) -> Iterator[str]:
    """The table: an arm a line, its bits per byte, and how far that is from `everything`."""
    from train.bootstrap import paired_bootstrap

    base = results["everything"].bits_N
    yield f"{'arm':<20}{'documents':>11}{'tokens':>14}{'epochs':>8}{'with benchmarks':>17}{'bits/byte':>11}  against everything"
    for name, result in results.items():
        line = f"{name:<20}{result.documents:>11,}{result.tokens:>14,}{result.epochs:>8.2f}{result.hits:>17,}"
        line += f"{result.bits_N.sum() / bytes_N.sum():>11.4f}"
        if name != "everything":
            found = paired_bootstrap(result.bits_N, base, bytes_N)
            line += f"  {found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"
        yield line


def build(ends: tuple[Step, ...], engine: Engine, say: Say) -> dict[str, Report]:
    return run(ends, engine, lambda row: say(f"  {row.step.folder}: {row.why}") if row.runs else None)


def train_arm(arm: Arm, root: Path, say: Say) -> tuple[int, int, float]:
    """Train an arm, unless it is done; documents and tokens of its corpus, and passes over it."""
    from train.loop import train
    from train.parallel import join
    from train.schedule import samples_before
    from train.sources import open_data

    config = arm.config
    with join(config.layout) as ranks:
        train(config, root, None, say, ranks)
    data = open_data(config, root)
    return data.documents, data.tokens, samples_before(config.steps, config) * config.seq_len / data.tokens


def ask(arm: Arm, documents: Sequence[object], root: Path) -> tuple[np.ndarray, np.ndarray]:
    """(bits, bytes) of every document, by the arm's newest checkpoint."""
    from train.evaluate import Meter, Tasks, score_bits
    from train.parallel import join
    from train.subject import open_trained

    with join(arm.config.layout) as ranks:
        subject = open_trained(arm.config, root, str(ranks.device))
    items = score_bits(subject, documents, Tasks(bits=True), 8192, Meter(arm.config.name, len(documents)))  # type: ignore[arg-type]
    return np.array([item.score for item in items]), np.array([item.weight for item in items])


def read_held(steps: Sequence[Step], engine: Engine, most: int) -> list[object]:
    """At most `most` documents of each step, by a hash of their id."""
    from corpus.draw import draw_keys
    from train.held_documents import Document

    found: list[object] = []
    for step in steps:
        shards = engine.shards(step)
        rows = []
        for name in shards.names:
            for batch in shards.read(name, ["id", "text", "lang", "source"]):
                keys = draw_keys(batch.column("id"), 0, "ablation").tolist()
                rows += [(key, row) for key, row in zip(keys, batch.to_pylist(), strict=True) if row["text"]]
        rows.sort(key=lambda pair: pair[0])
        for _, row in rows[:most]:
            found.append(Document(row["id"], row["text"], row["lang"] or "none", row["source"] or "none", step.name))
    if not found:
        raise ConfigError("no document is held out; raise --share")
    return found


def study(base: TrainConfig, root: Path, engine: Engine, say: Say, *, share: float, documents: int, only: Sequence[str] = ARMS,
          origins: Sequence[str] = ORIGINS) -> tuple[dict[str, Result], np.ndarray]:  # fmt: skip
    """Build, train and ask every arm in `only`; results by arm, and bytes of the documents asked about."""
    if base.layout.ranks != 1:
        raise ConfigError(f"the layout has {base.layout.ranks} ranks; train arms with torchrun first, then run this with 1")
    chosen = {name: arm for name, arm in arms(base, origins, share).items() if name in only}
    say(f"held out: {share:.2%} of the families of near-duplicates")
    held = held_documents(base, origins, share)
    build(held, engine, say)
    hits = {}
    for number, (name, arm) in enumerate(chosen.items(), 1):
        say(f"corpus {number} of {len(chosen)}: {name}")
        assert isinstance(arm.config.data, Step)
        reports = build((arm.config.data, arm.contamination), engine, say)
        hits[name] = reports["contamination"].dropped.get("contaminated", 0)
    asked = read_held(held, engine, documents)
    engine.close()
    results: dict[str, Result] = {}
    bytes_N = np.zeros(0)
    for number, (name, arm) in enumerate(chosen.items(), 1):
        say(f"training {number} of {len(chosen)}: {name}")
        size = train_arm(arm, root, lambda text: say(f"  {text}"))
        bits_N, bytes_N = ask(arm, asked, root)
        results[name] = Result(*size, hits[name], bits_N)
    say(f"{len(asked):,} documents held out, {int(bytes_N.sum()):,} bytes; {base.steps:,} steps an arm")
    return results, bytes_N


def main(arguments: list[str] | None = None) -> int:
    top = argparse.ArgumentParser(
        prog="python -m recipes.ablation", description="Train a model on corpora that differ in one stage."
    )
    top.add_argument("--recipe", default="recipes.moe_tiny", help="the training recipe, with its corpus (default: moe_tiny)")
    top.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="as in training; may be repeated")
    top.add_argument("--root", default="data", help="where corpora and runs are kept (default: data)")
    top.add_argument("--arms", default=",".join(ARMS), help="which of them, with commas between (default: all)")
    top.add_argument("--share", type=float, default=0.01, help="of the documents, held out (default: 0.01)")
    top.add_argument(
        "--documents", type=int, default=500, help="asked about, at most, of files and of pages (default: 500 each)"
    )
    top.add_argument("--workers", type=int, help="Ray workers (default: one per CPU); 0: this process")
    options = top.parse_args(arguments)
    only = [name.strip() for name in options.arms.split(",")]
    try:
        if unknown := [name for name in only if name not in ARMS]:
            raise ConfigError(f"--arms {unknown[0]}: some of {', '.join(ARMS)} expected")
        base = load_recipe(options.recipe, options.set)
        engine = open_engine(options.root, options.workers)
        try:
            chosen = {"everything", *only}
            results, bytes_N = study(
                base, Path(options.root), engine, lambda text: print(text, flush=True),
                share=options.share, documents=options.documents, only=[name for name in ARMS if name in chosen],
            )  # fmt: skip
        finally:
            engine.close()
        for line in compare(results, bytes_N):
            print(line)
    except CorpusError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run again to go on: what is finished is kept", file=sys.stderr)
        return 130
    return 0


def open_engine(root: str, workers: int | None) -> Engine:
    if workers == 0:
        return LocalEngine(root, Lines())
    from corpus.engine_ray import RayEngine

    return RayEngine(root, Lines(), workers=workers)


def recipe() -> TrainConfig:
    return arms(moe_tiny.recipe())["everything"].config


def no_filters() -> TrainConfig:
    return arms(moe_tiny.recipe())["no_filters"].config


def no_near_dedup() -> TrainConfig:
    return arms(moe_tiny.recipe())["no_near_dedup"].config


def no_recall() -> TrainConfig:
    return arms(moe_tiny.recipe())["no_recall"].config


def no_decontamination() -> TrainConfig:
    return arms(moe_tiny.recipe())["no_decontamination"].config


def other_seed() -> TrainConfig:
    return arms(moe_tiny.recipe())["other_seed"].config


if __name__ == "__main__":
    sys.exit(main())
