"""corpus/groups.py: which site a page is of, where in it, and what lies under a place a person wrote."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.groups import group_keys, groups, places, prefixes, under

NAMES = st.text("ab.é-%", min_size=1, max_size=4)


def urls(*values: str | None) -> pa.Table:
    return pa.table({"url": pa.array(values, pa.string())})


@pytest.mark.parametrize(
    ("url", "domain", "place"),
    [
        ("https://example.org/a/b.html?q=1#x", "example.org", "example.org/a/b.html"),
        ("http://WWW.Example.ORG", "example.org", "example.org/"),
        ("https://user:secret@example.org:8080/x", "example.org", "example.org/x"),
        ("//example.org./x", "example.org", "example.org/x"),
        ("https://[::1]:80/x", "[::1]", "[::1]/x"),
        ("https://example.org?next=/y", "example.org", "example.org/"),
        ("https://bücher.example/ü", "bücher.example", "bücher.example/ü"),
        ("example.org/no-scheme", "", ""),
        ("mailto:someone@example.org", "", ""),
        ("", "", ""),
        (None, "", ""),
    ],
)
def test_host_and_place_of_a_url(url: str | None, domain: str, place: str) -> None:
    assert groups(urls(url), "domain").to_pylist() == [domain]
    assert places(urls(url)).to_pylist() == [place]


def test_repositories_are_the_column() -> None:
    table = pa.table({"repo": pa.array(["a/b", None], pa.string())})
    assert groups(table, "repository").to_pylist() == ["a/b", ""]
    assert groups(table, "domain").to_pylist() == ["", ""]  # no column url
    assert places(table).to_pylist() == ["", ""]


def test_what_is_in_no_group_is_not_one_group() -> None:
    keys = group_keys(pa.array(["", "", "a.org", "a.org"]), pa.array(["1", "2", "3", "4"]))
    assert keys[0] != keys[1] and keys[2] == keys[3] and len(np.unique(keys)) == 3


def test_prefixes_are_the_first_folders() -> None:
    place = pa.array(["a.org/", "a.org/x", "a.org/x/", "a.org/x/y/z/page", "a.org/x/page", ""])
    one, two = prefixes(place)
    assert one.to_pylist() == ["", "", "a.org/x/", "a.org/x/", "a.org/x/", ""]
    assert two.to_pylist() == ["", "", "", "a.org/x/y/", "", ""]


@settings(max_examples=100, deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=4), st.lists(NAMES, max_size=3), st.booleans())
def test_under_is_at_or_below(path: list[str], wanted: list[str], slash: bool) -> None:
    place = "a.org/" + "/".join(path)
    name = "/".join(["a.org", *wanted]) + "/" * slash
    below = path[: len(wanted)] == wanted
    assert under(pa.array([place, "other.org/"]), (name,)).tolist() == [below, False]
    assert under(pa.array([place]), ("https://www." + name,)).tolist() == [below]
    assert under(pa.array([place]), ("b.org", name)).tolist() == [below]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=5))
def test_any_text_for_a_url(values: list[str]) -> None:
    table = urls(*values)
    domain, place = groups(table, "domain").to_pylist(), places(table).to_pylist()
    assert all(p.startswith(d + "/") if d else p == "" for d, p in zip(domain, place, strict=True))
    assert len(under(pa.array(place, pa.string()), ("a.org",))) == len(values)


def test_nothing_is_under_nothing() -> None:
    assert under(pa.array(["a.org/x"]), ()).tolist() == [False]
    assert under(pa.array([], pa.string()), ("a.org",)).tolist() == []
