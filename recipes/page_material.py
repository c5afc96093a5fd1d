"""What the sample pages say: documentation found on this machine, read as text. Nothing is imported or run.

Docstrings come from the syntax trees of the packages' files; prose from the descriptions and licences that installed
distributions carry, from Debian's copyright files, from service descriptions in JSON, and from example sentences in some
fifty languages. What cannot be read is left out.
"""

from __future__ import annotations

import ast
import contextlib
import email
import gc
import gzip
import json
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

__all__ = ["Entry", "Text", "copyrights", "descriptions", "entries", "licences", "order", "sentences", "services", "topics"]

_SKIP = {"tests", "test", "testing", "__pycache__", "site-packages", "_vendor", "vendor", "thirdparty_files", "benchmarks"}
_FILE_BYTES = 1 << 20
_DOC_SHARE = 0.15  # of a file's bytes between triple quotes, below which parsing it is not worth its time


class Entry(NamedTuple):
    """A module (name ""), class or function and what its documentation says. members: (signature, doc) of a class."""

    module: str
    name: str
    signature: str
    doc: str
    members: tuple[tuple[str, str], ...] = ()


class Text(NamedTuple):
    """A prose text: where it would lie on a site, its title, itself; html: it is HTML already; lang: ISO 639-1."""

    path: str
    title: str
    text: str
    html: bool = False
    lang: str = "en"


def order(name: str) -> int:
    """A fixed pseudo-random number for a name: 0 … 2^64 - 1."""
    value: int = xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass"))
    return value


# --- Docstrings --------------------------------------------------------------------------------------------------------------


def entries(root: Path, package: str, folders: tuple[str, ...] = ()) -> Iterator[Entry]:
    """All that is documented in a package, in order of file. folders: only files directly in the root and under these."""
    for path in _modules(root, folders):
        source = _read(path)
        triple = sum(len(part) for part in source.split('"""')[1::2])
        if triple < _DOC_SHARE * len(source):
            continue
        parts = [package, *path.relative_to(root).with_suffix("").parts]
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        with _no_collection():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # invalid escapes in what we only look at
                    found = list(_entries(ast.parse(source), module))
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                continue
        yield from found


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Python's cycle collector off: a syntax tree is a million objects without a cycle, and looking through them again and
    again takes longer than parsing (15 s against 6)."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _modules(root: Path, folders: tuple[str, ...]) -> Iterator[Path]:
    for folder, inner, names in os.walk(root):
        inner[:] = sorted(d for d in inner if d not in _SKIP)
        if folders and Path(folder) == root:
            inner[:] = [d for d in inner if d in folders]
        yield from (Path(folder) / name for name in sorted(names) if name.endswith(".py"))


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _FILE_BYTES:
            return ""
        return path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""


def _entries(tree: ast.Module, module: str) -> Iterator[Entry]:
    if doc := ast.get_docstring(tree, clean=False):
        yield Entry(module, "", module, doc)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            members = tuple(
                (_signature(inner), text)
                for inner in node.body
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_")
                if (text := ast.get_docstring(inner, clean=False))
            )
            doc = ast.get_docstring(node, clean=False) or ""
            if doc or members:
                yield Entry(module, node.name, f"class {node.name}", doc, members)
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            if doc := ast.get_docstring(node, clean=False):
                yield Entry(module, node.name, _signature(node), doc)
        elif (told := _told_elsewhere(node, module)) is not None:
            yield told


def _signature(node: ast.FunctionDef) -> str:
    return f"{node.name}({ast.unparse(node.args)})"


def _told_elsewhere(node: ast.stmt, module: str) -> Entry | None:
    """Documentation kept apart from the code: `name = "…"` in mpmath, `add_docstr(torch.name, "…")` in torch."""
    if isinstance(node, ast.Assign) and module.endswith("_docs") and isinstance(node.targets[0], ast.Name):
        name, value = node.targets[0].id, node.value
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and len(node.value.args) == 2:
        target, value = node.value.args
        if not isinstance(target, ast.Attribute):
            return None
        name = target.attr
    else:
        return None
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):  # """…""".format(**common)
        value = value.func.value
    if not (isinstance(value, ast.Constant) and isinstance(value.value, str)) or name.startswith("_"):
        return None
    return Entry(module.removesuffix("_docs").rstrip("._"), name, name, value.value.replace("{{", "{").replace("}}", "}"))


# --- Prose -------------------------------------------------------------------------------------------------------------------


def descriptions(site_packages: Path) -> Iterator[Text]:
    """The long description of every installed distribution."""
    for folder in sorted(site_packages.glob("*.dist-info")):
        message = email.message_from_string(_read(folder / "METADATA"))
        body = message.get_payload()
        if isinstance(body, str) and len(body) > 400:
            name = message.get("Name") or folder.name
            yield Text(f"project/{name}/", f"{name}: {message.get('Summary') or 'description'}", body)


def licences(site_packages: Path) -> Iterator[Text]:
    """The licence texts that installed distributions carry."""
    for folder in sorted(site_packages.glob("*.dist-info")):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and re.match(r"(?i)(licen[cs]e|copying|notice|authors|third)", path.name):
                text = _read(path)
                if 400 < len(text) < 60_000:
                    name = folder.name.split("-")[0]
                    yield Text(f"{name}/{path.name}", f"{path.name} of {name}", text)


def copyrights(folder: Path, most: int) -> Iterator[Text]:
    """Debian's copyright files of this system's packages, about `most` bytes of them."""
    files = sorted(folder.glob("*/copyright"), key=lambda path: order(path.parent.name))
    seen = 0
    for path in files:
        text = _read(path)
        if seen < most and 400 < len(text) < 60_000:
            seen += len(text)
            yield Text(f"{path.parent.name}/copyright", f"Copyright of {path.parent.name}", text)


def services(root: Path, most: int) -> Iterator[Text]:
    """The documentation of web services in botocore's JSON, HTML fragments: a page per operation, about `most` bytes."""
    files = sorted(root.glob("data/*/*/service-2.json.gz"), key=lambda path: order(path.parts[-3]))
    seen, names = 0, set()
    for path in files:
        service = path.parts[-3]
        if seen >= most or service in names:
            continue
        names.add(service)
        try:
            model = json.loads(gzip.decompress(path.read_bytes()))
        except (OSError, ValueError):
            continue
        for name, operation in sorted(model.get("operations", {}).items()):
            text = operation.get("documentation", "") + _members(model, operation.get("input", {}).get("shape", ""))
            text = re.sub("</?code>", "", text)  # every other word of it is a name
            if len(text) > 1500 and seen < most:
                seen += len(text)
                yield Text(
                    f"{service}/{name}", f"{name} — {model['metadata'].get('serviceFullName', service)}", text, html=True
                )


def _members(model: dict[str, Any], shape: str) -> str:
    members = model["shapes"].get(shape, {}).get("members", {})
    rows = [f"<dt>{name}</dt><dd>{member.get('documentation', '')}</dd>" for name, member in members.items()]
    return f"<h2>Request parameters</h2><dl>{''.join(rows)}</dl>" if rows else ""


def topics(stdlib: Path) -> Iterator[Text]:
    """The chapters of Python's language reference that `help()` shows."""
    for name, text in _assigned(stdlib / "pydoc_data" / "topics.py", "topics").items():
        if isinstance(text, str) and len(text) > 400:
            title, _, rest = text.strip().partition("\n")
            examples = re.sub(r":\n\n(?= {3})", "::\n\n", rest)  # a block set off below a colon is code
            yield Text(f"reference/{name}.html", title.strip('" '), examples)


def sentences(root: Path) -> Iterator[Text]:
    """Example sentences that spaCy's languages come with, a page per language."""
    for path in sorted(root.glob("lang/*/examples.py")):
        said = _assigned(path, "sentences")
        lines = [line for line in said if isinstance(line, str)] if isinstance(said, list) else []
        if sum(map(len, lines)) > 150:
            lang = path.parent.name
            yield Text(f"{lang}/", lines[0][:60], "\n\n".join(lines), lang=lang)


def _assigned(path: Path, name: str) -> Any:
    """The literal that a module assigns to a name; {} where there is none."""
    try:
        tree = ast.parse(_read(path))
        values = [n.value for n in tree.body if isinstance(n, (ast.Assign, ast.AnnAssign)) and name in _targets(n)]
        return ast.literal_eval(values[0]) if values and values[0] is not None else {}
    except (SyntaxError, ValueError):
        return {}


def _targets(node: ast.stmt) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]
