"""The command line of evaluation.

python -m train evaluate recipes.moe_tiny                                    bits per byte of what the run held out
python -m train evaluate recipes.moe_tiny --bits --fim --against exported    two models, the same documents
python -m train evaluate exported --humaneval HumanEval.jsonl.gz --samples 20 --temperature 0.8 --k 1,10
python -m train evaluate exported --gsm8k test.jsonl --examples train.jsonl
python -m train evaluate recipes.moe_tiny --needle 1024,2048 --against earlier.jsonl
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xxhash

from corpus.errors import ConfigError, CorpusError
from train.__main__ import at_least, load_recipe, local
from train.config import TrainConfig

__all__ = ["main"]


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m train evaluate",
        description="Ask a model, or two, and print figures with 95 %% intervals. Without a task: --bits.",
    )
    top.add_argument("model", help="a training recipe, for its newest checkpoint, or the folder of a Hugging Face checkpoint")
    top.add_argument("--against", metavar="MODEL", help="a second one, or the JSON lines of an earlier evaluation")
    top.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="as in training; may be repeated")
    top.add_argument("--against-set", action="append", default=[], metavar="FIELD=VALUE", help="the same for --against")
    top.add_argument("--root", default="data", help="where corpus and runs are kept (default: data)")
    top.add_argument("--out", type=Path, metavar="FILE", help="JSON lines of the first model (default: under ROOT/evaluations)")
    documents = top.add_argument_group("on documents held out")
    documents.add_argument("--bits", action="store_true", help="bits per byte, by language and source")
    documents.add_argument(
        "--window", type=at_least(1), metavar="TOKENS", help="looked at at once (default: the model's context)"
    )
    documents.add_argument(
        "--stride", type=at_least(1), metavar="TOKENS", help="from window to window (default: half a window)"
    )
    documents.add_argument("--fim", action="store_true", help="fill in one line of each, exactly")
    documents.add_argument("--needle", type=_ints, default=(), metavar="LENGTH,…", help="find a number in so many tokens")
    documents.add_argument("--depths", type=_shares, metavar="DEPTH,…", help="where it stands, 0 to 1 (default: five of them)")
    documents.add_argument("--repeats", type=at_least(1), metavar="N", help="haystacks a length and depth (default: 5)")
    documents.add_argument("--documents", type=_count, default=1000, metavar="N|all", help="of each source (default: 1000)")
    documents.add_argument("--data", metavar="FOLDER", help="token shards to take them from (default: the run's)")
    documents.add_argument(
        "--validation", type=float, default=0.01, metavar="SHARE", help="of --data, by tokens (default: 0.01)"
    )
    files = top.add_argument_group("on files of questions")
    files.add_argument("--humaneval", type=Path, metavar="FILE", help="JSON lines of task_id, prompt, entry_point, test")
    files.add_argument("--samples", type=at_least(1), metavar="N", help="programs a task (default: 1)")
    files.add_argument("--k", dest="ks", type=_ints, metavar="K,…", help="of pass@k (default: 1)")
    files.add_argument("--temperature", type=float, help="0: the likeliest token (default)")
    files.add_argument("--top-p", dest="top_p", type=float, help="of the likeliest tokens' probability (default: 1)")
    files.add_argument("--seconds", type=float, default=10.0, help="a program may run (default: 10)")
    files.add_argument("--memory", type=int, default=1024, metavar="MB", help="a program may use (default: 1024)")
    files.add_argument("--workers", type=at_least(1), metavar="N", help="programs at a time (default: one per core)")
    files.add_argument("--unsafe", action="store_true", help="run programs even where the kernel cannot shut them in")
    files.add_argument("--gsm8k", type=Path, metavar="FILE", help="JSON lines of question, answer")
    files.add_argument("--examples", type=Path, metavar="FILE", help="where the worked examples are from (default: --gsm8k)")
    files.add_argument("--shots", type=at_least(0), metavar="N", help="worked examples (default: 8)")
    files.add_argument("--most", type=at_least(1), metavar="TOKENS", help="of an answer or a program (default: 256)")
    top.add_argument("--seed", type=int, help="of every choice (default: 0)")
    top.add_argument(
        "--context",
        type=at_least(1),
        metavar="TOKENS",
        help="of a model (default: seq_len, or config.json's; of two, the shorter)",
    )
    top.add_argument("--device", help="cpu, cuda, … (default: cuda where there is one)")
    top.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of a folder's weights")
    top.add_argument("--batch-tokens", type=at_least(1), default=8192, metavar="N", help="in a forward pass (default: 8192)")
    return top


def _ints(text: str) -> tuple[int, ...]:
    return tuple(map(at_least(1), text.split(",")))


def _shares(text: str) -> tuple[float, ...]:
    with contextlib.suppress(ValueError):
        found = tuple(map(float, text.split(",")))
        if all(0 <= share <= 1 for share in found):
            return found
    raise argparse.ArgumentTypeError(f"{text!r} seen, numbers from 0 to 1 with commas between expected")


def _count(text: str) -> int | None:
    return None if text == "all" else at_least(1)(text)


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded, as in training
    try:
        _evaluate(options)
    except CorpusError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _say(text: str) -> None:
    print(text, flush=True)


def _evaluate(options: argparse.Namespace) -> None:
    import torch

    from train.evaluate import answer, check_writable, comparison, figures, read_items, ready, write_items

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))
    tasks = _tasks(options)
    root, device = local(options.root), _device(options.device)
    earlier = None
    if options.against is not None and options.against.endswith(".jsonl"):
        earlier = read_items(Path(options.against))  # before an hour of work
    models = [(options.model, _config(options.model, options.set))]
    if options.against is not None and earlier is None:
        models.append((options.against, _config(options.against, options.against_set)))
    contexts = {_context(which, config) for which, config in models}
    context = options.context or min(contexts)
    if len(contexts) > 1 and options.context is None:
        _say(f"both are asked with the shorter of their contexts, {context:,} tokens; --context to change")
    files = ready(tasks, context, options.unsafe)
    folder = root / "evaluations"
    if options.out is not None:
        check_writable(options.out)
    if options.out is None or len(models) > 1:
        check_writable(folder / "results.jsonl")
    documents, settings = _documents(options, tasks, models, root)
    settings["context"] = context
    runs: list[Any] = []
    for which, config in models:
        subject = dataclasses.replace(_open(options, which, config, root, device), context=context)
        items = answer(
            subject,
            tasks,
            documents,
            files,
            say=_say,
            workers=options.workers or len(os.sched_getaffinity(0)),
            unsafe=options.unsafe,
            batch_tokens=options.batch_tokens,
        )
        mark = xxhash.xxh3_64_hexdigest(json.dumps([settings, str(which)], sort_keys=True))[:8]
        path = folder / f"{subject.name.replace(' ', '-')}-{mark}.jsonl"
        path = options.out if options.out is not None and not runs else path
        write_items(path, subject.name, settings, items)
        _say(f"{subject.name}: {len(items):,} items in {path}")
        _print(figures(items), ("value", "low", "high", "items"))
        runs.append((subject.name, items))
    if earlier is not None:
        name, before, items = earlier
        if differ := sorted(key for key in settings.keys() | before.keys() if settings.get(key) != before.get(key)):
            _say(f"{options.against} was made with other settings: {', '.join(differ)}")
        runs.append((name, items))
    if len(runs) == 2:
        _say(f"{runs[0][0]} against {runs[1][0]}, difference with its 95 % interval:")
        _print(comparison(runs[0][1], runs[1][1], _say), ("value", "against", "difference", "low", "high", "p", "items"))


def _tasks(options: argparse.Namespace) -> Any:
    from train.evaluate import Tasks
    from train.sandbox import Limits

    given = {field.name: getattr(options, field.name, None) for field in dataclasses.fields(Tasks)}
    given["limits"] = Limits(options.seconds, options.memory << 20)
    asked = options.bits or options.fim or options.needle or options.humaneval or options.gsm8k
    tasks = Tasks(**{name: value for name, value in given.items() if value is not None})
    return tasks if asked else dataclasses.replace(tasks, bits=True)


def _config(which: str, settings: list[str]) -> TrainConfig | None:
    """The recipe `which` names; None where it is a folder."""
    if not which or not Path(which).is_dir():  # Path("") is this folder
        return load_recipe(which, settings)
    if settings:
        raise ConfigError(f"--set {settings[0]}: {which} is a folder, a recipe expected")
    return None


def _context(which: str, config: TrainConfig | None) -> int:
    """Tokens a model is asked to look at: what a run was trained with, what config.json says."""
    from train.hf import read_config

    return read_config(Path(which)).max_position_embeddings if config is None else config.seq_len


def _documents(
    options: argparse.Namespace, tasks: Any, models: list[tuple[str, TrainConfig | None]], root: Path
) -> tuple[Sequence[Any], dict[str, Any]]:
    """(documents, what decides the answers, for the record)."""
    from train.evaluate import needs_documents
    from train.held_documents import read_documents
    from train.subject import held_by, held_in, not_held

    settings = json.loads(json.dumps(dataclasses.asdict(tasks), default=str))
    if not needs_documents(tasks):
        return [], settings
    mine = models[0][1]
    if options.data is not None:
        held = held_in(local(options.data, "--data"), options.validation)
    elif mine is not None:
        held = held_by(mine, root)
    else:
        raise ConfigError(f"{options.model} is a folder: --data, the token shards to take documents from, expected")
    settings |= {"documents": options.documents, "shards": [str(h.shards.folder) for h in held]}
    asked = sum(len(h.numbers) for h in held)
    for which, config in models:
        if config is None or (config is mine and options.data is None):  # which holds out what is asked
            continue
        trained, other = not_held(config, root, held)
        if trained:
            _say(f"{which} did not hold out {trained:,} of the {asked:,} documents: it may have been trained on them")
        if other:
            _say(f"{which} does not read the shards of {other:,} of the {asked:,} documents; its own may have their texts")
    return read_documents(held, options.documents, _say), settings


def _device(asked: str | None) -> str:
    """ConfigError for a device that torch does not know, or has not got: now, not after documents are read."""
    import torch

    device = asked or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:  # the first is what a build without CUDA raises
        said = str(error).partition("\n")[0].partition(". ")[0]
        raise ConfigError(f"--device {device}: {said}; cpu, or cuda where torch finds one, expected") from error
    return device


def _open(options: argparse.Namespace, which: str, config: TrainConfig | None, root: Path, device: str) -> Any:
    import torch

    from train.subject import open_folder, open_trained

    if config is not None:
        return open_trained(config, root, device, _say)
    return open_folder(Path(which), device, getattr(torch, options.dtype))


def _print(rows: Sequence[dict[str, Any]], columns: tuple[str, ...]) -> None:
    """A table: a line per task, its groups indented under it."""
    from train.bootstrap import shown

    labels = [f"  {row['group']}" if row["group"] else row["task"] for row in rows]
    width = max(len(label) for label in labels)
    _say(f"{'':{width}}" + "".join(f"  {name:>10}" for name in columns))
    for label, row in zip(labels, rows):
        cells = [f"{row[name]:,}" if name == "items" else shown(row[name]) for name in columns]
        _say(f"{label:<{width}}" + "".join(f"  {cell:>10}" for cell in cells))


if __name__ == "__main__":
    sys.exit(main())
