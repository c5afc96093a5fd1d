"""Licences: judged against the texts and declarations of the packages that are installed."""

from __future__ import annotations

import functools
import importlib.metadata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.licenses import PERMISSIVE, header_license, identify, is_license_file, is_permissive, repository_license

# What the packaging says of these differs from their texts: they declare parts that are in no licence file of the root.
OTHERWISE = {"torch", "numpy", "llvmlite", "aiohttp", "awkward-cpp", "prometheus-client", "tree-sitter-language-pack", "orjson"}
MORE = {"grpcio", "lxml", "mypy", "librt", "pyarrow", "sympy", "scipy"}  # and these leave out parts that are in it


@functools.cache
def declared() -> dict[str, tuple[str, dict[str, str]]]:
    """{package: (the SPDX expression it declares, its licence files)}."""
    found = {}
    for package in importlib.metadata.distributions():
        expression = package.metadata.get("License-Expression")
        name = package.metadata["Name"].lower().replace("_", "-")
        texts = {}
        for file in package.files or []:
            inside = [part for part in file.parts if part not in ("license_files", "licenses")]
            if len(inside) == 2 and inside[0].endswith(".dist-info") and is_license_file(inside[1]):
                texts[inside[1]] = Path(str(file.locate())).read_text("utf-8", "replace")
        if expression and texts and name not in OTHERWISE | MORE:
            found[name] = (expression, texts)
    return found


def text_of(package: str) -> str:
    return next(iter(declared()[package][1].values()))


def test_installed_packages_are_what_they_declare() -> None:
    packages = declared()
    wrong = {name: (want, got) for name, (want, texts) in packages.items() if (got := repository_license(texts)) != want}
    # PSF-2.0 is declared for the whole stack of texts that SPDX calls Python-2.0.
    wrong = {name: pair for name, pair in wrong.items() if pair != ("PSF-2.0", "Python-2.0")}
    assert len(packages) >= 20
    assert len(wrong) <= 0.05 * len(packages), wrong


@pytest.mark.parametrize(
    ("name", "spdx"),
    [
        ("Apache-2.0", "Apache-2.0"),
        ("BSD", "BSD-3-Clause"),
        ("CC0-1.0", "CC0-1.0"),
        ("GPL-2", "GPL-2.0-only"),
        ("GPL-3", "GPL-3.0-only"),
        ("LGPL-2", "LGPL-2.0-only"),
        ("LGPL-2.1", "LGPL-2.1-only"),
        ("LGPL-3", "LGPL-3.0-only"),
        ("MPL-1.1", "MPL-1.1"),
        ("MPL-2.0", "MPL-2.0"),
        ("GFDL-1.3", "NOASSERTION"),
    ],
)
def test_debians_common_licenses(name: str, spdx: str) -> None:
    path = Path("/usr/share/common-licenses") / name
    if not path.exists():
        pytest.skip("this system has no /usr/share/common-licenses")
    assert identify(path.read_text("utf-8", "replace")) == spdx


def test_layout_does_not_matter_and_content_does() -> None:
    mit = text_of("pytest")
    assert identify(mit.upper().replace("\n", "\r\n  * ")) == "MIT"
    assert identify(mit + "\nThe Commons Clause applies.") == "NOASSERTION"
    assert identify(mit.replace("shall be included", "may be left out")) != "MIT"
    assert identify(mit + "all other rights are kept by someone " * 200) == "NOASSERTION"
    assert identify(mit + text_of("click")) == "BSD-3-Clause AND MIT"
    assert identify("") == identify("All rights reserved.") == "NOASSERTION"


def test_root_files_decide_together() -> None:
    mit, bsd = text_of("pytest"), text_of("click")
    assert repository_license({}) is None
    assert repository_license({"LICENSE": "ask me"}) == "NOASSERTION"
    assert repository_license({"LICENSE-MIT": mit, "LICENSE-BSD": bsd}) == "BSD-3-Clause OR MIT"
    assert repository_license({"LICENSE": mit, "LICENSE-BSD": bsd}) == "MIT"
    assert repository_license({"LICENSE": mit, "COPYING": bsd}) == "BSD-3-Clause AND MIT"
    assert (
        repository_license({"LICENSE": "Under either of the two.", "LICENSE.A": mit, "LICENSE.B": bsd}) == "BSD-3-Clause OR MIT"
    )


@pytest.mark.parametrize(
    "name", ["LICENSE", "licence.md", "COPYING", "COPYING.LESSER", "LICENSE-MIT", "UNLICENSE", "MIT-LICENSE.txt"]
)
def test_names_of_licence_files(name: str) -> None:
    assert is_license_file(name)


@pytest.mark.parametrize("name", ["license.py", "licenses.json", "LICENSE.rs", "relicense", "copying_files", "NOTICE"])
def test_names_of_other_files(name: str) -> None:
    assert not is_license_file(name)


@pytest.mark.parametrize(
    ("line", "expression"),
    [
        (b"// SPDX-License-Identifier: MIT\n", "MIT"),
        (b"/* SPDX-License-Identifier: gpl-2.0-only with Linux-syscall-note */", "GPL-2.0-only WITH Linux-syscall-note"),
        (b"# SPDX-License-Identifier: (apache-2.0 OR mit) AND bsd-3-clause\n", "(Apache-2.0 OR MIT) AND BSD-3-Clause"),
        (b"<!-- SPDX-License-Identifier: CC-BY-4.0 -->", "CC-BY-4.0"),
        (b"# SPDX-License-Identifier: [% license %]\n", None),
        (b"# SPDX-License-Identifier: MIT OR\n", None),
        (b"# SPDX-License-Identifier: " + b"(" * 5000, None),
        (b" " * 5000 + b"SPDX-License-Identifier: MIT", None),
        (b"", None),
    ],
)
def test_headers(line: bytes, expression: str | None) -> None:
    assert header_license(line) == expression


@pytest.mark.parametrize(
    ("expression", "permissive"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("GPL-3.0-only OR MIT", True),
        ("GPL-3.0-only AND MIT", False),
        ("(GPL-2.0-only OR Apache-2.0) AND BSD-2-Clause", True),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("MIT OR GPL-2.0-only AND GPL-3.0-only", True),
        ("NOASSERTION", False),
        ("", False),
        (None, False),
    ],
)
def test_permissive(expression: str | None, permissive: bool) -> None:
    assert is_permissive(expression) is permissive


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_hostile_headers_give_a_valid_expression_or_none(tail: bytes) -> None:
    found = header_license(b"SPDX-License-Identifier: " + tail)
    assert found is None or header_license(f"SPDX-License-Identifier: {found}".encode()) == found


def test_every_permissive_name_reads_as_permissive() -> None:
    assert all(is_permissive(name) for name in PERMISSIVE)
