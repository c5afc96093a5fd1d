"""Which file of a repository needs which other, and DeepSeek-Coder v1's order: what is needed comes first.

`resolve` turns imported names into edges between files of one repository, by path and by declared package. A name that is
found in several places means the nearest one (longest common folder). An import of a package or namespace, `import a.b.*` or
`using A.B`, means all of its files, unless they are more than WIDE: it then says nothing about order, and a hostile
repository could make edges quadratic. Names that are not in the repository (standard library, third parties) have no edge.

`dependency_order` is Algorithm 1 of the DeepSeek-Coder paper (arXiv 2401.14196, section 2.2).
"""

from __future__ import annotations

import functools
import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from corpus.imports import Names

__all__ = ["dependency_order", "resolve"]

WIDE = 100
DEPTH = 16  # folders of a path that an import can name
_PYTHON_ROOTS = frozenset({"", "src", "lib", "python"})  # beside every folder above a package

Index = dict[str, list[int]]
Resolver = Callable[[int, str], Iterable[int]]


def resolve(paths: Sequence[str], langs: Sequence[str], names: Sequence[Names]) -> list[set[int]]:
    """For every file the set of files it needs; edges stay within Python, Java, C#, and C with C++."""
    needs: list[set[int]] = [set() for _ in paths]
    for family, prepare in (({"Python"}, _python), ({"Java"}, _java), ({"C#"}, _csharp), ({"C", "C++"}, _c)):
        members = [i for i in range(len(paths)) if langs[i] in family]
        if len(members) < 2:
            continue
        find = prepare(paths, names, members)
        for i in members:
            for name in names[i].needs:
                needs[i].update(find(i, name))
            needs[i].discard(i)
    return needs


def dependency_order(needs: Sequence[set[int]], ties: Sequence[int]) -> list[list[int]]:
    """The files of each weakly connected component, needed ones first; components in order of their smallest tie.

    The next file is always one with the fewest needs not yet met, not necessarily none: that is how cycles end. `ties`
    decides among equals (the authors: at random) and must be unique. O((files + edges) log files).
    """
    users: list[list[int]] = [[] for _ in needs]
    for i, several in enumerate(needs):
        for j in several:
            users[j].append(i)
    done = [False] * len(needs)
    chains = []
    for first in sorted(range(len(needs)), key=ties.__getitem__):
        if not done[first]:
            chains.append(_chain(_component(first, needs, users), needs, users, ties, done))
    return chains


def _component(first: int, needs: Sequence[set[int]], users: list[list[int]]) -> list[int]:
    """Everything reachable from `first`, along edges in both directions."""
    seen, todo = {first}, [first]
    while todo:
        here = todo.pop()
        for other in (*needs[here], *users[here]):
            if other not in seen:
                seen.add(other)
                todo.append(other)
    return list(seen)


def _chain(
    nodes: list[int], needs: Sequence[set[int]], users: list[list[int]], ties: Sequence[int], done: list[bool]
) -> list[int]:
    unmet = {i: len(needs[i]) for i in nodes}
    heap = [(unmet[i], ties[i], i) for i in nodes]
    heapq.heapify(heap)
    chain = []
    while heap:
        count, _, i = heapq.heappop(heap)
        if done[i] or count != unmet[i]:
            continue  # an older entry of a file that has moved forward since
        done[i] = True
        chain.append(i)
        for user in users[i]:
            unmet[user] -= 1
            if not done[user]:
                heapq.heappush(heap, (unmet[user], ties[user], user))
    return chain


# --- Where names lead, per language ---------------------------------------------------------------------------------------


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _nearest(found: Sequence[int], paths: Sequence[str], here: str) -> list[int]:
    """The one of `found` that shares most folders with `here`, then the shortest path, then the first by name."""
    if len(found) < 2 or len(found) > WIDE:
        return list(found[:1]) if len(found) < 2 else []
    mine = _folder(here).split("/")

    def distance(i: int) -> tuple[int, int, str]:
        theirs = _folder(paths[i]).split("/")
        common = 0
        while common < min(len(mine), len(theirs)) and mine[common] == theirs[common]:
            common += 1
        return -common, len(paths[i]), paths[i]

    return [min(found, key=distance)]


def _suffixes(keys: dict[int, str]) -> Index:
    """Every end of every key, "a/b/c", "b/c", "c" -> who has it."""
    index: Index = defaultdict(list)
    for i, key in keys.items():
        parts = key.split("/")[-DEPTH:]
        for start in range(len(parts)):
            index["/".join(parts[start:])].append(i)
    return index


def _python(paths: Sequence[str], names: Sequence[Names], members: list[int]) -> Resolver:
    """Modules under the roots a Python might have on its path: the top, src, the folder above any package, a script's own."""
    keys, exact = {}, {}
    packages = set()
    for i in sorted(members, key=lambda i: (paths[i].endswith(".pyi"), paths[i])):  # a module before its stub
        folder, _, name = paths[i].rpartition("/")
        stem = name.rpartition(".")[0] or name
        if stem == "__init__":
            packages.add(folder)
        key = folder if stem == "__init__" else f"{folder}/{stem}".lstrip("/")
        if key not in exact:
            exact[key] = i
            keys[i] = key
    roots = set(_PYTHON_ROOTS)
    for package in packages:
        while package in packages and package:
            package = _folder(package)
        roots.add(package)
    index = _suffixes(keys)

    @functools.cache  # or a repository with a utils.py in every folder would be gone through for every name imported from one
    def rooted(key: str) -> list[int]:
        return [j for j in index.get(key, ()) if keys[j][: -len(key)].rstrip("/") in roots]

    def absolute(i: int, name: str) -> list[int]:
        folder = _folder(paths[i])
        script = "" if folder in packages else folder  # a file outside packages finds its neighbours by bare name
        for key in _shorter(name.split(".")):
            beside = exact.get(f"{script}/{key}".lstrip("/"))
            if found := [*rooted(key), *(() if beside is None else (beside,))]:
                return _nearest(found, paths, paths[i])
        return []

    def find(i: int, name: str) -> list[int]:
        rest = name.lstrip(".")
        if rest == name:
            return absolute(i, name)
        base = paths[i].split("/")[:-1]
        up = len(name) - len(rest) - 1
        if up > len(base):
            return []
        base = base[: len(base) - up]
        for key in _shorter([*base, *rest.split(".")] if rest else base, len(base)):
            if key in exact:
                return [exact[key]]
        return []

    return find


def _shorter(parts: list[str], least: int = 1) -> list[str]:
    """The module the whole name would be, then the one it would be an attribute of."""
    whole = "/".join(parts)
    return [whole, "/".join(parts[:-1])] if len(parts) > least else [whole]


def _java(paths: Sequence[str], names: Sequence[Names], members: list[int]) -> Resolver:
    """Classes by package and file name, wherever the source folders are."""
    classes: Index = defaultdict(list)
    packages: Index = defaultdict(list)
    for i in sorted(members, key=paths.__getitem__):
        package = names[i].gives[0] if names[i].gives else ""
        packages[package].append(i)
        classes[f"{package}.{_stem(paths[i])}".lstrip(".")].append(i)

    def find(i: int, name: str) -> list[int]:
        if name.endswith(".*"):
            name = name[:-2]
            if name in packages:
                return packages[name] if len(packages[name]) <= WIDE else []
        while name:  # a static member or a nested class is in the file of the class around it
            if name in classes:
                return _nearest(classes[name], paths, paths[i])
            name = name.rpartition(".")[0]
        return []

    return find


def _csharp(paths: Sequence[str], names: Sequence[Names], members: list[int]) -> Resolver:
    """All files that declare the namespace; for a type, those of its namespace that are named like it."""
    spaces: Index = defaultdict(list)
    types: Index = defaultdict(list)
    for i in sorted(members, key=paths.__getitem__):
        for space in names[i].gives:
            spaces[space].append(i)
            types[f"{space}.{_stem(paths[i])}"].append(i)

    def find(i: int, name: str) -> list[int]:
        found = spaces.get(name) or types.get(name) or []
        return found if len(found) <= WIDE else []

    return find


def _c(paths: Sequence[str], names: Sequence[Names], members: list[int]) -> Resolver:
    """ "x/y.h": beside the file, then wherever a path ends so. <x/y.h>: only the latter, and only with a folder in it."""
    where = {paths[i]: i for i in members}
    index = _suffixes({i: paths[i] for i in sorted(members, key=paths.__getitem__)})

    def find(i: int, name: str) -> list[int]:
        quoted, target = name.startswith('"'), name[1:]
        beside = _normal(f"{_folder(paths[i])}/{target}")
        if quoted and beside in where:
            return [where[beside]]
        suffix = _normal(target.lstrip("./"))
        if not quoted and "/" not in suffix:
            return []  # <string.h> is the system's, whatever the repository calls its own files
        return _nearest([j for j in index.get(suffix, ())[: WIDE + 2] if j != i], paths, paths[i])

    return find


def _stem(path: str) -> str:
    return path.rpartition("/")[2].partition(".")[0]


def _normal(path: str) -> str:
    """The path without `.`, `..` and doubled slashes."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and parts:
            parts.pop()
        elif part not in ("", ".", ".."):
            parts.append(part)
    return "/".join(parts)
