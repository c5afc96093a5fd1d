"""The shape of the tree: which way imports point, how long files and functions may be, what public names are."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[1]
OURS = {"corpus", "stages", "recipes", "kernels", "train", "bench", "tests"}

# What a package may import of ours. train/ sees the corpus through its borders only.
ALLOWED = {
    "corpus": set(),
    "stages": {"corpus"},
    "recipes": {"corpus", "stages", "train"},
    "kernels": {"corpus"},
    "train": {"corpus", "kernels"},
}
BORDER_NAMES = ("blend", "engine_ray", "errors", "order", "permutation", "shards", "step", "tokenizer", "tokens", "__main__")
BORDER = {f"corpus.{name}" for name in BORDER_NAMES}
FILE_WALL, FUNCTION_WALL = 500, 80


def sources(package: str) -> list[Path]:
    return [path for path in sorted((HERE / package).rglob("*.py")) if "planted" not in path.parts]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_point_one_way(package: str) -> None:
    for path in sources(package):
        for name in imports(path):
            top = name.split(".")[0]
            where = f"{path.relative_to(HERE)} imports {name}"
            if top in OURS:
                assert top in ALLOWED[package] | {package}, where
            if package == "kernels" and top == "corpus":
                assert name == "corpus.errors", where
            if package == "train" and top == "corpus":
                assert name in BORDER, where
            if package == "stages" and top == "stages":
                pytest.fail(f"{where}: stages never import each other")
            if top == "ray":
                assert path.relative_to(HERE).as_posix() in ("corpus/engine_ray.py", "train/on_ray.py"), where
            if top == "torch":
                assert package in ("train", "kernels"), where


def test_files_and_functions_are_short() -> None:
    for package in [*ALLOWED, "bench", "tests"]:
        for path in sources(package):
            text = path.read_text("utf-8")
            where = path.relative_to(HERE)
            assert text.count("\n") <= FILE_WALL, f"{where} is past the wall of {FILE_WALL} lines"
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    length = (node.end_lineno or 0) - node.lineno
                    assert length <= FUNCTION_WALL, f"{where}: {node.name} has {length} lines, the wall is {FUNCTION_WALL}"


def test_no_file_shadows_a_module() -> None:
    """Ray puts the folder of __main__.py on its workers' path, so corpus/html.py would be `import html`."""
    installed = set(sys.stdlib_module_names) | {m.name for m in pkgutil.iter_modules() if m.name not in OURS}
    for package in ("corpus", "train"):
        for path in sources(package):
            if not path.stem.startswith("__"):
                assert path.stem not in installed, f"{path.relative_to(HERE)} has the name of an installed module"
                assert path.stem not in ("utils", "helpers", "common", "manager", "base")


def test_public_names_exist() -> None:
    for path in sources("corpus"):
        name = ".".join(path.relative_to(HERE).with_suffix("").parts)
        if path.stem in ("__init__", "__main__"):
            continue
        module = importlib.import_module(name)
        missing = [n for n in module.__all__ if not hasattr(module, n)]
        assert not missing, f"{name}.__all__ names {missing}"


def test_every_stage_keeps_the_contract() -> None:
    for path in sources("stages"):
        if path.stem == "__init__":
            continue
        module = importlib.import_module(f"stages.{path.stem}")
        assert isinstance(module.REVISION, int)
        assert isinstance(module.REASONS, tuple) and all(isinstance(reason, str) for reason in module.REASONS)
        assert module.Config.__dataclass_params__.frozen, path.stem
        kinds = {p.kind for p in inspect.signature(module.Config).parameters.values()}
        assert kinds <= {inspect.Parameter.KEYWORD_ONLY}, f"{path.stem}.Config must be keyword-only"
        assert callable(module.run)
        assert (module.__doc__ or "").strip(), path.stem
        assert (HERE / "tests" / f"test_{path.stem}.py").exists(), f"stages/{path.stem}.py has no test of its name"


def test_importing_the_command_line_is_light() -> None:
    """Neither ray nor torch is loaded to print a plan: the second run of a finished recipe must be quick."""
    code = "import sys, corpus.__main__; print([m for m in ('ray', 'torch', 'numba') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_readme_shows_the_tree_as_it_is() -> None:
    text = (HERE / "README.md").read_text("utf-8")
    for package in [*ALLOWED, "bench", "tests", "dev"]:
        assert f"\n{package}/ " in text, f"README's tree lacks {package}/"
    block = text[text.index("\nstages/ ") : text.index("\nrecipes/ ")]
    shown = set(block.split()[1:])
    assert shown == {path.stem for path in sources("stages")} - {"__init__"}
    makefile = (HERE / "Makefile").read_text("utf-8")
    for target in ("demo", "test", "check", "bench", "submit", "crawl", "filter", "dedup", "decontaminate", "mix", "tokenize"):
        assert f"\n{target}" in makefile or f" {target} " in makefile, target
    for module in ("sample", "deepseek_coder_v2", "moe_tiny"):
        assert (HERE / "recipes" / f"{module}.py").exists() and module in text
