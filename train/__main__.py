"""The command line of the trainer.

python -m train recipes.moe_tiny
python -m train recipes.moe_tiny --set lr=1e-3 --set model.n_routed_experts=16 --steps 100
python -m train recipes.moe_tiny --export exported
torchrun --nproc-per-node 4 -m train recipes.moe_tiny --set layout.dp=2 --set layout.ep=2
python -m train plan recipes.moe_16b
python -m train inspect recipes.moe_tiny --step 17
python -m train evaluate recipes.moe_tiny --bits --fim
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from corpus.errors import ConfigError, CorpusError, StorageError, say_line
from train.config import TrainConfig
from train.settings import apply_settings

__all__ = ["at_least", "load_recipe", "local", "main"]


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m train",
        description="Train a mixture-of-experts model on token shards. Run again, it goes on from its newest checkpoint.",
        epilog=f"Other commands, python -m train COMMAND --help: {', '.join(COMMANDS)}.",
    )
    _common(top)
    top.add_argument(
        "--steps", type=at_least(0), metavar="N", help="stop after step N; the schedule stays that of the whole run"
    )
    top.add_argument(
        "--ray", action="store_true", help="run the ranks as workers of Ray Train, on the cluster RAY_ADDRESS names"
    )
    top.add_argument("--export", metavar="FOLDER", help="write the newest checkpoint for transformers, train nothing")
    top.add_argument("--export-step", type=int, metavar="N", help="write the checkpoint of step N instead")
    top.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"], help="of --export's weights")
    return top


def _common(parser: argparse.ArgumentParser) -> None:
    """The arguments of every command."""
    parser.add_argument("recipe", help="module or module:function that returns a TrainConfig, e.g. recipes.moe_tiny")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of the run, of the model (model.FIELD), a source's weight (data.SOURCE.weight) or a field of a "
        "corpus step (STEP.FIELD); may be repeated",
    )
    parser.add_argument("--root", default="data", help="where corpus and runs are kept (default: data)")


def at_least(least: int) -> Callable[[str], int]:
    """An argparse type: a whole number that is not below `least`."""

    def read(text: str) -> int:
        with contextlib.suppress(ValueError):
            if (value := int(text)) >= least:
                return value
        raise argparse.ArgumentTypeError(f"{text!r} seen, a whole number of {least} or more expected")

    return read


def load_recipe(name: str, settings: list[str]) -> TrainConfig:
    """The TrainConfig of a recipe, with --set applied. ConfigError says what is wrong."""
    module_name, _, function = name.partition(":")
    unknown = ConfigError(f"no recipe {module_name!r}; a module such as recipes.moe_tiny expected")
    if not all(module_name.split(".")):  # "" and ".moe_tiny" are no names that import_module takes
        raise unknown
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise unknown from None
        raise
    make = getattr(module, function or "recipe", None)
    if not callable(make):
        raise ConfigError(f"{module_name} has no function {function or 'recipe'}()")
    config = make()
    if not isinstance(config, TrainConfig):
        raise ConfigError(f"{name} returns a {type(config).__name__}; a training recipe returns a TrainConfig")
    pairs = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}: FIELD=VALUE expected")
        pairs[key.strip()] = value.strip()
    return apply_settings(config, pairs)


def _keep_memory() -> None:
    """Tell glibc to keep freed memory instead of giving it back.

    A step on the CPU frees and takes the same tensors of 16 MB and more again; returned to the kernel, each comes back as page
    faults: 3,800 tokens/s became 5,200 without them, at the same loss to the last bit. Other C libraries are left alone.
    """
    m_trim_threshold, m_mmap_threshold = -1, -3
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, (1 << 31) - 1)


def local(folder: str, option: str = "--root") -> Path:
    """The folder an option names. ConfigError for a URL."""
    if "://" in folder:
        raise ConfigError(f"{option} {folder}: token shards are memory-mapped, a local folder expected")
    return Path(folder)


def _train(arguments: list[str]) -> None:
    top = parser()
    options = top.parse_args(arguments)
    if options.export is None and options.export_step is not None:
        top.error("--export-step says which checkpoint --export writes: --export FOLDER expected as well")
    if options.export is not None and options.ray:
        top.error("--export trains nothing, so --ray has nothing to run; one of the two expected")
    # Read when torch is loaded, hence the imports below. OpenMP's threads otherwise spin while they wait; when another
    # program has the other core, that made a step 4 to 7 times slower here.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may give other bits on every run
    _keep_memory()
    root = local(options.root)
    config = load_recipe(options.recipe, options.set)
    import torch

    from train.loop import train
    from train.parallel import join

    # OMP_NUM_THREADS wins, as everywhere in torch; without it, every core this process may use.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))
    if options.ray:
        from train.on_ray import launch

        launch(config, root, options.steps)
    elif options.export is not None:
        from train.weights import export

        try:
            export(config, root, Path(options.export), getattr(torch, options.dtype), step=options.export_step)
        except OSError as error:
            what = f"--export {options.export}: {error}; a new folder, where there is room and it may be written, expected"
            raise StorageError(what, path=options.export) from error
    else:
        with join(config.layout) as ranks:
            train(config, root, options.steps, lambda text: print(text, flush=True), ranks)


def _inspect(arguments: list[str]) -> None:
    from train.lineage import step_documents

    inspect = argparse.ArgumentParser(
        prog="python -m train inspect", description="List the documents that one step of a run reads. Needs the shards only."
    )
    _common(inspect)
    inspect.add_argument("--step", type=int, required=True, metavar="N", help="the step, as the log counts: 1 is the first")
    options = inspect.parse_args(arguments)
    for line in step_documents(load_recipe(options.recipe, options.set), local(options.root), options.step):
        print(line)


def _evaluate(arguments: list[str]) -> int:
    from train.evaluate_cli import main as evaluate

    return evaluate(arguments)


def _plan(arguments: list[str]) -> int:
    from train.plan import main as plan

    return plan(arguments)


# What may stand first instead of a recipe. A recipe of that name is reached as NAME:recipe.
COMMANDS: dict[str, Callable[[list[str]], int | None]] = {"evaluate": _evaluate, "inspect": _inspect, "plan": _plan}


def main(arguments: list[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    code = 0
    try:
        if words and words[0] in COMMANDS:
            code = COMMANDS[words[0]](words[1:]) or 0
        else:
            _train(words)
        sys.stdout.flush()  # here, where a broken pipe is understood
    except CorpusError as error:
        say_line(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say_line("interrupted; run again to go on from the newest checkpoint")
        return 130
    except BrokenPipeError:  # `python -m train plan … | head`
        from corpus.__main__ import stop_writing

        stop_writing()
        return int(not words or words[0] not in ("inspect", "plan"))  # which may not have come to its end
    return code


if __name__ == "__main__":
    sys.exit(main())
