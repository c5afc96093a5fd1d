"""What each stage of the pipeline is worth to a model: DeepSeek-Coder-V2's Table 1 in miniature.

    python -m recipes.ablation --root data                                   the sample corpus and moe_tiny, on a CPU

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

of moe_tiny, or of the recipe that the environment variable ABLATION_OF names:

    ABLATION_OF=recipes.moe_1b torchrun --nproc-per-node 8 -m train recipes.ablation:no_filters --set steps=2_400
    python -m recipes.ablation --root data --recipe recipes.moe_1b --set steps=2_400 --set layout.ep=1
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from corpus.draw import draw_keys
from corpus.engine import Engine, LocalEngine
from corpus.errors import ConfigError, CorpusError, InputError
from corpus.progress import Lines
from corpus.report import Report
from corpus.runner import run
from corpus.step import Step
from recipes.ablation_arms import ARMS, ORIGINS, Arm, arms, held_documents
from train.__main__ import at_least, load_recipe, local
from train.config import TrainConfig

if TYPE_CHECKING:
    from train.held_documents import Document  # which loads torch

__all__ = ["compare", "main", "no_decontamination", "no_filters", "no_near_dedup", "no_recall", "other_seed", "recipe", "study"]

Say = Callable[[str], None]


class Result(NamedTuple):
    """Of an arm: documents and tokens of its corpus, passes over it, documents with benchmark text; bits per held document."""

    documents: int
    tokens: int
    epochs: float
    hits: int
    bits_N: np.ndarray


def compare(results: dict[str, Result], asked: Sequence[Document]) -> Iterator[str]:
    """A table of all documents, then one of those of each origin: an arm a line, its bits per byte, and how far that is from
    `everything`, with its interval where paired_bootstrap gives one."""
    from train.bootstrap import paired_bootstrap

    bytes_N = np.array([len(document.text.encode("utf-8")) for document in asked], np.float64)
    kinds = np.array([document.data for document in asked])
    yield f"{'arm':<20}{'documents':>11}{'tokens':>14}{'epochs':>8}{'with benchmarks':>17}"
    for name, result in results.items():
        yield f"{name:<20}{result.documents:>11,}{result.tokens:>14,}{result.epochs:>8.2f}{result.hits:>17,}"
    names = list(dict.fromkeys(kinds.tolist()))
    for kind in ["all documents", *(names if len(names) > 1 else [])]:
        of_N = np.ones(len(kinds), bool) if kind == "all documents" else kinds == kind
        yield ""
        yield f"bits per byte of {kind} held out: {of_N.sum():,}, of {int(bytes_N[of_N].sum()):,} bytes"
        base = results["everything"].bits_N[of_N]
        for name, result in results.items():
            line = f"{name:<20}{result.bits_N[of_N].sum() / bytes_N[of_N].sum():>11.4f}"
            if name != "everything":
                found = paired_bootstrap(result.bits_N[of_N], base, bytes_N[of_N])
                interval = "too few" if found.low is None else f"{found.low:+.4f}, {found.high:+.4f}"
                line += f"  {found.difference:+.4f} [{interval}]"
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


def ask(arm: Arm, documents: Sequence[Document], root: Path, say: Say) -> np.ndarray:
    """Bits of every document, by the arm's newest checkpoint."""
    from train.evaluate import Meter, Tasks, score_bits
    from train.parallel import join
    from train.subject import open_trained

    with join(arm.config.layout) as ranks:
        subject = open_trained(arm.config, root, str(ranks.device), say)
        items = score_bits(subject, documents, Tasks(bits=True), 8192, Meter(arm.config.name, len(documents)))
    return np.array([item.score for item in items])


def read_held(steps: Sequence[Step], engine: Engine, most: int) -> list[Document]:
    """At most `most` documents of each step, by a hash of their id. InputError where there are none."""
    from train.held_documents import Document

    found: list[Document] = []
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
        raise InputError("no document is held out; raise --share")
    return found


def study(base: TrainConfig, root: Path, engine: Engine, say: Say, *, share: float, documents: int, only: Sequence[str] = ARMS,
          origins: Sequence[str] = ORIGINS) -> tuple[dict[str, Result], list[Document]]:  # fmt: skip
    """Build, train and ask every arm in `only`; results by arm, and the documents asked about."""
    if base.layout.ranks != 1:
        raise ConfigError(f"the layout has {base.layout.ranks} ranks; train arms with torchrun first, then run this with 1")
    made = arms(base, origins, share)
    chosen = {name: arm for name, arm in made.items() if name in only}
    for name in only:
        if name not in made:
            say(f"{name}: left out, the recipe has no such stage")
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
    for number, (name, arm) in enumerate(chosen.items(), 1):
        say(f"training {number} of {len(chosen)}: {name}")
        size = train_arm(arm, root, lambda text: say(f"  {text}"))
        results[name] = Result(*size, hits[name], ask(arm, asked, root, say))
    return results, asked


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
        "--documents", type=at_least(1), default=500, help="asked about, at most, of files and of pages (default: 500 each)"
    )
    top.add_argument("--workers", type=at_least(0), help="Ray workers (default: one per CPU); 0: this process")
    options = top.parse_args(arguments)
    only = [name.strip() for name in options.arms.split(",")]
    try:
        if unknown := [name for name in only if name not in ARMS]:
            raise ConfigError(f"--arms {unknown[0]}: some of {', '.join(ARMS)} expected")
        base = load_recipe(options.recipe, options.set)
        root = local(options.root)  # before a corpus is built where no run could read it
        engine = open_engine(options.root, options.workers)
        try:
            chosen = {"everything", *only}
            results, asked = study(
                base, root, engine, lambda text: print(text, flush=True),
                share=options.share, documents=options.documents, only=[name for name in ARMS if name in chosen],
            )  # fmt: skip
        finally:
            engine.close()
        for line in compare(results, asked):
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


def _named(arm: str) -> TrainConfig:
    made = arms(load_recipe(os.environ.get("ABLATION_OF", "recipes.moe_tiny"), []))
    if arm not in made:
        raise ConfigError(f"the recipe has no stage that the arm {arm} could do without; its arms are {', '.join(made)}")
    return made[arm].config


def recipe() -> TrainConfig:
    return _named("everything")


def no_filters() -> TrainConfig:
    return _named("no_filters")


def no_near_dedup() -> TrainConfig:
    return _named("no_near_dedup")


def no_recall() -> TrainConfig:
    return _named("no_recall")


def no_decontamination() -> TrainConfig:
    return _named("no_decontamination")


def other_seed() -> TrainConfig:
    return _named("other_seed")


if __name__ == "__main__":
    sys.exit(main())
