"""The command line: plan, run, report, explain.

corpus plan recipes.sample                               what would run, and why
corpus run recipes.sample --set dedup_near.threshold=0.8
corpus report recipes.sample                             the funnel, and one HTML page with plots
corpus explain recipes.sample cpython/Lib/json/decoder.py
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import io
import os
import signal
import sys
import types
from pathlib import Path
from typing import Any

from corpus.engine import Engine, LocalEngine
from corpus.errors import NO_CREDENTIALS, ConfigError, CorpusError
from corpus.progress import Lines
from corpus.report import Report
from corpus.runner import Planned, plan, read_record, run
from corpus.shards import as_path
from corpus.step import Ends, Step, ends, override, until, walk

__all__ = ["console", "load_recipe", "main", "stop_writing"]

MARKS = {True: "run ", False: "    "}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="corpus",
        description="Build a training corpus: repositories and crawls in, tokenized shards out, every document accounted for.",
        epilog="A recipe is a Python module whose function recipe() returns the last Step; module:function names another.",
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="plan|run|report|explain")

    def verb(name: str, help: str, description: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=help, description=description)
        sub.add_argument("recipe", help="module or module:function, e.g. recipes.sample")
        sub.add_argument("--root", default="data", help="where all is kept: a folder or a URL such as s3://… (default: data)")
        sub.add_argument(
            "--set", action="append", default=[], metavar="STEP.FIELD=VALUE", help="change one setting; may be repeated"
        )
        sub.add_argument(
            "--until", metavar="NAME", help="stop after this step, or after all of this stage or verb (dedup_near, dedup)"
        )
        return sub

    verb("plan", "show what would run and why", "Show every step: done or to run, and why. Runs nothing.")
    runs = verb(
        "run",
        "bring the recipe up to date",
        "Run what is not done. Interrupted at any moment, it continues from the finished shards when run again.",
    )
    runs.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="Ray workers on this machine (default: one per CPU); 0 runs everything in this process, for debugging. "
        "With RAY_ADDRESS set, that cluster is used.",
    )
    runs.add_argument(
        "--task-memory",
        type=float,
        metavar="GB",
        help="memory to set aside for each task, so that a node runs no more of them than it has room for",
    )
    runs.add_argument(
        "--time-limit",
        type=float,
        metavar="HOURS",
        help="end the run, naming the shard, when a task has not ended this long after it was handed to Ray (default: none)",
    )
    reports = verb(
        "report",
        "print the funnel, write report.html",
        "Print the funnel and write one HTML page with plots to the root; or print what one step says of itself.",
    )
    reports.add_argument("step", nargs="?", help="one step and its notes: mix (shares, epochs), select_recall_math_3, …")
    explains = verb(
        "explain",
        "follow one document through every step",
        "Follow one document: a line per step, ending in its token positions or in the reason it was dropped.",
    )
    explains.add_argument("document", help="its id, its URL, or repository/path")
    return top


def load_recipe(name: str, settings: list[str]) -> Step:
    """The last Step of a recipe, with --set applied. ConfigError says what is wrong and what there is."""
    module_name, _, function = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # the console script does not have it, `python -m` does
    module = _import(module_name)
    make = getattr(module, function or "recipe", None)
    if make is None or not callable(make):
        functions = [n for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__]
        raise ConfigError(f"{module_name} has no function {function or 'recipe'!r}; it has: {', '.join(functions) or 'none'}")
    parameters = inspect.signature(make).parameters.values()
    if needed := [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]:
        raise ConfigError(f"{name} takes {', '.join(needed)}; a function without arguments that returns the last Step expected")
    made: Any = make()
    if not isinstance(made, Step):
        raise ConfigError(f"{name} returns a {type(made).__name__}, a Step expected; python -m train runs training recipes")
    last: Step = made
    pairs = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or "." not in key:
            raise ConfigError(f"--set {text}: STEP.FIELD=VALUE expected, e.g. dedup_near.threshold=0.8")
        pairs[key] = value
    if pairs:
        last = override(last, pairs)
    return last


def _import(name: str) -> types.ModuleType:
    try:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ModuleNotFoundError(name=name)
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and not f"{name}.".startswith(f"{error.name}."):
            raise  # the recipe is there, something it imports is not
        raise ConfigError(f"no recipe module {name!r}; give a module such as recipes.sample, not a file") from error
    except SyntaxError as error:
        raise ConfigError(f"recipe {name} cannot be read: {error.filename}, line {error.lineno}: {error.msg}") from error


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit status: 0, 1 for an error of ours or a run cut off by `| head`, 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack → and …, or letters of a path
    try:
        last: Ends = load_recipe(options.recipe, options.set)
        last = until(last, options.until) if options.until else last
        root = as_path(options.root)
        if options.verb == "plan":
            _print_plan(last, root)
        elif options.verb == "run":
            _run(last, options)
        elif options.verb == "report":
            _report(last, root, options.recipe, options.step)
        else:
            from corpus.explain import explain

            for line in explain(last, root, options.document):
                print(line)
        sys.stdout.flush()  # here, where a broken pipe is understood
    except CorpusError as error:
        print(f"corpus: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ncorpus: stopped. Finished shards are kept; run the same command again to continue.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `corpus plan | head`
        stop_writing()
        return int(options.verb == "run")  # which may not have come to its end
    except Exception as error:
        if "://" not in options.root or not (isinstance(error, OSError) or type(error).__name__ in NO_CREDENTIALS):
            raise
        said = f"{type(error).__name__}: {error}"
        print(f"corpus: cannot use {options.root}: {said}. Look at it, or give another --root.", file=sys.stderr)
        return 1
    return 0


def stop_writing() -> None:
    """Standard output and error to nowhere, once nobody reads them (`| head`): else Python complains of it on its way out."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())


def _terminate(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _print_plan(last: Ends, root: Path) -> None:
    rows = plan(last, root)
    width = max(len(row.step.folder) for row in rows)
    for row in rows:
        print(f"{MARKS[row.runs]} {row.step.folder:<{width}}  {row.state:<8} {row.why}")
    print(f"{sum(row.runs for row in rows)} of {len(rows)} steps would run")


def _run(last: Ends, options: argparse.Namespace) -> None:
    if options.workers is not None and options.workers < 0:
        raise ConfigError(f"--workers {options.workers}: 0 (this process) or more expected")
    for flag, value in (("--task-memory", options.task_memory), ("--time-limit", options.time_limit)):
        if value is not None and not value > 0:
            raise ConfigError(f"{flag} {value:g}: more than 0 expected")
    progress = Lines()
    engine: Engine
    if options.workers == 0:
        engine = LocalEngine(options.root, progress)
    else:
        from corpus.engine_ray import RayEngine

        memory = None if options.task_memory is None else int(options.task_memory * 1e9)
        limit = None if options.time_limit is None else options.time_limit * 3600
        engine = RayEngine(options.root, progress, workers=options.workers, task_memory=memory, time_limit_s=limit)
    ran: list[str] = []

    def announce(row: Planned) -> None:
        progress.say(f"{MARKS[row.runs]} {row.step.folder}: {row.why}")
        if row.runs and row.step.name not in ran:  # a step runs again where damage is met
            ran.append(row.step.name)

    try:
        reports = run(last, engine, announce)
    finally:
        engine.close()
    _print_funnel(last, reports)
    names = ", ".join(ran)
    print(f"{len(ran)} of {len(walk(last))} steps ran: {names}" if ran else "nothing to do: every step was done already")
    for step in ends(last):
        print(f"output: {engine.folder(step)}")


def _print_funnel(last: Ends, reports: dict[str, Report]) -> None:
    from corpus.funnel import print_table

    print_table({step.name: reports[step.name] for step in walk(last) if step.name in reports})


def _report(last: Ends, root: Path, recipe: str, name: str | None) -> None:
    from corpus.funnel import page, print_step
    from corpus.shards import atomic

    records = {step.name: record for step in walk(last) if (record := read_record(root, step)) is not None}
    if not records:
        raise ConfigError(f"nothing of {recipe} has been made under {root}; corpus run {recipe} --root {root}")
    told = {
        kind: {s.name: text for s in walk(last) if s.name in records and (text := _said(root / s.folder / f"report.{kind}"))}
        for kind in ("html", "txt")
    }
    told["html"] |= {f"training {p.parent.name}": _said(p) for p in sorted((root / "train").glob("*/report.html"))}
    if name is not None:
        if name not in (steps := [step.name for step in walk(last)]):
            raise ConfigError(f"no step {name} in {recipe}; it has: {', '.join(steps)}")
        if name not in records:
            raise ConfigError(f"step {name} has not been made under {root}; corpus run {recipe} --until {name} --root {root}")
        if name in told["txt"]:
            print(told["txt"][name], end="")
        else:
            print_step(name, Report.from_dict(records[name]["report"]))
        return
    reports = {name: Report.from_dict(record["report"]) for name, record in records.items()}
    keys = ("step", "stage", "revision", "fingerprint", "config", "finished", "versions", "host")
    plan_rows = [{**{k: record[k] for k in keys}, "notes": record["report"]["notes"]} for record in records.values()]
    path = root / "report.html"
    with atomic(path) as temporary:
        temporary.write_text(page(recipe, reports, plan_rows, told["html"]), "utf-8")
    _print_funnel(last, reports)  # after the page: `corpus report | head` ends here
    print(f"more: corpus report {recipe} STEP" + (f", most for {', '.join(told['txt'])}" if told["txt"] else ""))
    print(f"page: {path}")


def _said(path: Path) -> str:
    return path.read_text("utf-8") if path.exists() else ""


def console() -> None:
    sys.exit(main())


if __name__ == "__main__":
    console()
