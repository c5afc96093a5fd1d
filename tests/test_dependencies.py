"""Dependencies: names lead to the right files, and the order is Algorithm 1 of the DeepSeek-Coder paper."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.dependencies import WIDE, dependency_order, resolve
from corpus.imports import Names, names_in


def edges(lang: str, files: dict[str, str]) -> dict[str, set[str]]:
    """path -> the paths it needs, of files given by their text; only those that need any."""
    paths = list(files)
    names = [names_in(text.encode(), lang) or Names((), ()) for text in files.values()]
    needs = resolve(paths, [lang] * len(paths), names)
    return {paths[i]: {paths[j] for j in found} for i, found in enumerate(needs) if found}


def test_python_absolute_relative_and_src() -> None:
    files = {
        "src/pkg/__init__.py": "from .core import run",
        "src/pkg/core.py": "from . import io, missing\nfrom .sub.deep import f\nimport pkg.sub",
        "src/pkg/io.py": "import json, os.path",
        "src/pkg/sub/__init__.py": "",
        "src/pkg/sub/deep.py": "from ..io import read\nfrom ...toofar import x\nfrom pkg.core import run",
        "tests/test_core.py": "from pkg.core import run\nimport support\nfrom pkg import anything",
        "tests/support.py": "import json",
        "json.py.txt": "",
        "other/support.py": "",
    }
    assert edges("Python", files) == {
        "src/pkg/__init__.py": {"src/pkg/core.py"},
        "src/pkg/core.py": {"src/pkg/io.py", "src/pkg/__init__.py", "src/pkg/sub/deep.py", "src/pkg/sub/__init__.py"},
        "src/pkg/sub/deep.py": {"src/pkg/io.py", "src/pkg/core.py"},
        "tests/test_core.py": {"src/pkg/core.py", "src/pkg/__init__.py", "tests/support.py"},
    }


def test_python_absolute_import_inside_a_package_is_not_its_neighbour() -> None:
    """`import json` in pkg/a.py is the standard library's, whatever pkg/json.py is; in a script it is the neighbour."""
    files = {"pkg/__init__.py": "", "pkg/a.py": "import json", "pkg/json.py": "", "run/a.py": "import b", "run/b.py": ""}
    assert edges("Python", files) == {"run/a.py": {"run/b.py"}}


def test_python_prefers_the_nearest_and_the_module_over_its_stub() -> None:
    files = {
        "one/lib/__init__.py": "", "one/lib/x.py": "", "one/lib/x.pyi": "", "one/lib/y.py": "import lib.x",
        "two/lib/__init__.py": "", "two/lib/x.py": "", "two/lib/y.py": "import lib.x",
    }  # fmt: skip
    assert edges("Python", files) == {"one/lib/y.py": {"one/lib/x.py"}, "two/lib/y.py": {"two/lib/x.py"}}


def test_a_module_of_one_name_in_every_folder() -> None:
    """Names are looked up, not searched for: this was 2,000 times 100 times 1,000 steps, more than a minute of them."""
    count = 2000
    paths = [f"d{i}/{name}.py" for i in range(count) for name in ("main", "utils")]
    wanted = Names(tuple(f"utils.f{k}" for k in range(300)), ())
    needs = resolve(paths, ["Python"] * len(paths), [wanted, Names((), ())] * count)
    assert needs[::2] == [{2 * i + 1} for i in range(count)]


def test_java_classes_packages_and_members() -> None:
    files = {
        "m/src/main/java/a/b/C.java": "package a.b; import a.d.*; import java.util.List;",
        "m/src/main/java/a/d/D.java": "package a.d;",
        "m/src/main/java/a/d/E.java": "package a.d; import static a.b.C.f; import a.d.D.Inner.Deep;",
        "n/src/main/java/a/d/D.java": "package a.d;",
    }
    assert edges("Java", files) == {
        "m/src/main/java/a/b/C.java": {
            "m/src/main/java/a/d/D.java",
            "m/src/main/java/a/d/E.java",
            "n/src/main/java/a/d/D.java",
        },
        "m/src/main/java/a/d/E.java": {"m/src/main/java/a/b/C.java", "m/src/main/java/a/d/D.java"},
    }


def test_csharp_namespaces_and_types() -> None:
    files = {
        "App/Main.cs": "using App.Models; using static App.Tools.Text; using System;",
        "Models/A.cs": "namespace App.Models { class A { } }",
        "Models/B.cs": "namespace App.Models; class B { }",
        "Tools/Text.cs": "namespace App { namespace Tools { class Text { } } }",
        "Tools/Other.cs": "namespace App.Tools { }",
    }
    assert edges("C#", files) == {"App/Main.cs": {"Models/A.cs", "Models/B.cs", "Tools/Text.cs"}}


def test_c_includes_beside_by_suffix_and_system() -> None:
    files = {
        "src/main.c": '#include "util.h"\n#include <string.h>\n#include <proj/api.h>\n'
        '#include "../include/proj/x.h"\n#include "gone.h"',
        "src/util.h": '#include "proj/x.h"',
        "other/util.h": "",
        "include/proj/api.h": '#include "x.h"',
        "include/proj/x.h": '#include "x.h"',
        "include/string.h": "",
    }
    assert edges("C", files) == {
        "src/main.c": {"src/util.h", "include/proj/api.h", "include/proj/x.h"},
        "src/util.h": {"include/proj/x.h"},
        "include/proj/api.h": {"include/proj/x.h"},
    }


def test_c_and_cpp_share_headers_and_others_do_not_mix() -> None:
    names = [Names(('"a.h',), ()), Names((), ()), Names(("a",), ())]
    assert resolve(["m.cpp", "a.h", "a.py"], ["C++", "C", "Python"], names) == [{1}, set(), set()]


def test_a_package_wider_than_the_limit_says_nothing() -> None:
    files = {f"p/F{i}.java": "package p;" for i in range(WIDE)} | {"q/G.java": "package q; import p.*;"}
    assert len(edges("Java", files)["q/G.java"]) == WIDE
    assert edges("Java", files | {"p/More.java": "package p;"}) == {}


def algorithm_1(needs: list[set[int]], ties: list[int]) -> list[list[int]]:
    """The paper's listing, line by line, with ties made definite: DeepSeek-Coder, Algorithm 1."""
    files = range(len(needs))
    graphs: list[list[int]] = [[a for a in files if b in needs[a]] for b in files]
    degree = [len(needs[a]) for a in files]
    subgraphs: list[set[int]] = []
    for f in files:
        joined = {f, *needs[f], *graphs[f]}
        for other in [s for s in subgraphs if s & joined]:
            joined |= other
            subgraphs.remove(other)
        subgraphs.append(joined)
    results = []
    for subgraph in sorted(subgraphs, key=lambda s: min(ties[f] for f in s)):
        chain: list[int] = []
        while len(chain) < len(subgraph):
            f = min((f for f in subgraph if f not in chain), key=lambda f: (degree[f], ties[f]))
            for n in graphs[f]:
                degree[n] -= 1
            chain.append(f)
        results.append(chain)
    return results


GRAPHS = st.integers(1, 14).flatmap(
    lambda n: st.lists(st.sets(st.integers(0, n - 1), max_size=4), min_size=n, max_size=n).map(
        lambda needs: [several - {i} for i, several in enumerate(needs)]
    )
)


@settings(deadline=None, max_examples=200)
@given(GRAPHS, st.randoms(use_true_random=False))
def test_order_is_algorithm_1_cycles_included(needs: list[set[int]], chance: random.Random) -> None:
    ties = chance.sample(range(100), len(needs))
    chains = dependency_order(needs, ties)
    assert chains == algorithm_1(needs, ties)
    assert sorted(f for chain in chains for f in chain) == list(range(len(needs)))


def test_a_chain_of_a_hundred_thousand_files() -> None:
    size = 100_000
    needs = [{i + 1} if i + 1 < size else set() for i in range(size)]
    assert dependency_order(needs, range(size)) == [list(range(size - 1, -1, -1))]


@pytest.mark.parametrize("lang", ["Python", "C"])
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_needed_files_come_first_in_generated_projects(lang: str, data: st.DataObject) -> None:
    """Files that import each other without cycles, in folders and by every form of import: dependencies precede dependents."""
    size = data.draw(st.integers(2, 10))
    folders = data.draw(st.lists(st.sampled_from(["p", "p/q", "p/q/r"]), min_size=size, max_size=size))
    before = [data.draw(st.sets(st.integers(0, i - 1), max_size=3)) if i else set() for i in range(size)]
    paths = [f"{folders[i]}/m{i}.{'py' if lang == 'Python' else 'h'}" for i in range(size)]

    def statement(i: int, j: int) -> str:
        if lang == "C":
            target = data.draw(st.sampled_from([paths[j], f"m{j}.h"]))
            return f'#include "{target}"' if "/" not in target else f"#include <{target}>"
        module = paths[j][:-3].replace("/", ".")
        parent, _, name = module.rpartition(".")
        up = "." * (folders[i].count("/") + 1)
        return data.draw(
            st.sampled_from(
                [
                    f"import {module} as x",
                    f"from {parent} import ({name},)",
                    f"from {module} import f",
                    f"from {up}{module[2:]} import f",
                ]
            )
        )

    texts = ["\n".join(statement(i, j) for j in sorted(before[i])) for i in range(size)]
    shuffled = data.draw(st.permutations(range(size)))
    extra = [] if lang == "C" else ["p/__init__.py", "p/q/__init__.py", "p/q/r/__init__.py"]
    names = [names_in(texts[i].encode(), lang) or Names((), ()) for i in shuffled] + [Names((), ())] * len(extra)
    files = [paths[i] for i in shuffled] + extra
    needs = resolve(files, [lang] * len(files), names)
    assert [needs[at] for at in range(size)] == [{shuffled.index(j) for j in before[i]} for i in shuffled]
    for chain in dependency_order(needs, range(len(files))):
        for at, f in enumerate(chain):
            assert needs[f] <= set(chain[:at])
