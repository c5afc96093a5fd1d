"""Laws of exact deduplication as a stage, against grouping in plain Python."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.errors import ConfigError
from corpus.licenses import is_permissive
from corpus.step import Step
from corpus.survivors import ORDERS, order_keys, sort_units
from stages import dedup_exact
from tests.dedup_source import fates, rows_of, source

LICENSES = [None, "MIT", "GPL-3.0-only", "Apache-2.0 AND MIT", "GPL-2.0-only OR MIT", "", "((", "NOASSERTION"]


def step(rows: list[dict[str, Any]], shards: int = 3, order: int = 0, **settings: Any) -> Step:
    return Step("dedup_exact", dedup_exact.Config(files=source(rows, shards, order), **settings))


def better(row: dict[str, Any]) -> tuple[float, bool, float, str]:
    """The default survivor order in plain Python; the smallest survives."""
    stars, created = row.get("stars"), row.get("created")
    stars = float("-inf") if stars is None else stars
    return -stars, not is_permissive(row.get("license")), float("inf") if created is None else created, row["id"]


def made(seed: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    texts = ["", "\0", "a", "a\n", "中", "x" * 100_000, *(str(i) for i in range(20))]
    return [
        {
            "id": f"{i:032x}",
            "text": rng.choice(texts),
            "repo": rng.choice([None, "a/b", "c"]),
            "path": rng.choice([None, f"p {i}\n"]),
            "url": rng.choice([None, "http://u"]),
            "stars": rng.choice([None, None, 0, 3, 3]),
            "license": rng.choice(LICENSES),
            "created": rng.choice([None, -5, 10**12]),
        }
        for i in range(120)
    ]


@pytest.mark.parametrize("shards", [1, 3, 30])
def test_one_of_each_content_stays_and_is_named(tmp_path: Path, shards: int) -> None:
    rows = made(1)
    expected_kept, expected_dropped = set(), {}
    for text in {row["text"] for row in rows}:
        first, *others = sorted((row for row in rows if row["text"] == text), key=better)
        expected_kept.add(first["id"])
        repo, path = first["repo"], first["path"]
        where = f"{repo}/{path}" if repo is not None and path is not None else path if path is not None else first["url"]
        told = f"survivor {first['id']}" + (f" at {where}" if where else "")
        expected_dropped |= {row["id"]: told for row in others}
    assert fates(tmp_path, step(rows, shards, shards)) == (expected_kept, expected_dropped)


@pytest.mark.parametrize("age", ["created", "newest"])
@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "id": st.text("ab0", max_size=3),
                "stars": st.none() | st.integers(-(2**63), 2**63 - 1),
                "license": st.sampled_from(LICENSES),
                "created": st.none() | st.integers(-(2**63), 2**63 - 1),
            }
        ),
        max_size=12,
    )
)
def test_the_survivor_order_is_that_of_the_values(age: str, rows: list[dict[str, Any]]) -> None:
    kinds = {"id": pa.string(), "stars": pa.int64(), "license": pa.string(), "created": pa.timestamp("ms", tz="UTC")}
    batch = pa.record_batch({name: pa.array([row[name] for row in rows], kind) for name, kind in kinds.items()})
    order = sort_units(order_keys(batch, ("stars", "license", age)), batch.column("id"))
    sign = 1 if age == "created" else -1

    def exact(i: int) -> tuple[Any, ...]:
        stars, created = rows[i]["stars"], rows[i]["created"]
        return (
            stars is None,
            -(stars or 0),
            not is_permissive(rows[i]["license"]),
            created is None,
            sign * (created or 0),
            rows[i]["id"],
        )

    # The largest number and "unknown" share a key: 2^64 - 1.
    assert [exact(i) for i in order] == sorted(exact(i) for i in range(len(rows))) or any(
        row["stars"] == -(2**63) or row["created"] in (2**63 - 1, -(2**63)) for row in rows
    )


def test_columns_that_are_not_there_are_unknown() -> None:
    batch = pa.record_batch({"id": ["a", "b"]})
    assert (order_keys(batch, ORDERS) == 2**64 - 1).all()
    assert order_keys(batch.slice(0, 0), ORDERS).shape == (0, 4)


def test_repositories_go_when_all_of_them_is_equal(tmp_path: Path) -> None:
    """The whole set of (path, content): order, repetition and shards do not matter; one more file, path or letter does."""
    files = [("a.py", "one"), ("b.py", "two"), ("d/c.py", ""), (None, "x")]
    variants = {
        "full": files,
        "fork": files[::-1],
        "twice": [*files, files[0]],
        "more": [*files, ("e.py", "one")],
        "less": files[:3],
        "moved": [("z.py", "one"), *files[1:]],
        "swapped": [("a.py", "two"), ("b.py", "one"), *files[2:]],
        "edited": [("a.py", "One"), *files[1:]],
    }
    rows = [{"repo": name, "path": p, "text": t, "stars": 9 * (name == "fork")} for name in variants for p, t in variants[name]]
    rows += [{"path": "a.py", "text": "one"}, {"path": "a.py", "text": "one"}, {"path": "b.py", "text": "one"}]
    for shards, order in ((1, 0), (3, 1), (len(rows), 2)):
        kept, dropped = fates(tmp_path, step(rows, shards, order, level="repository"))
        named = [{**row, "id": f"{i:032x}"} for i, row in enumerate(rows)]
        assert {row["id"] for row in named if row.get("repo") in ("full", "twice")} | {named[-2]["id"]} == set(dropped)
        assert set(dropped.values()) == {"survivor fork", f"survivor {named[-3]['id']}"}
        assert len(kept) == len(rows) - len(dropped)


def test_two_documents_of_one_id_and_content_leave_one(tmp_path: Path) -> None:
    exact = step([{"id": "same", "text": "t"}] * 3)
    assert fates(tmp_path, exact)[0] == {"same"}
    assert (len(rows_of(tmp_path, exact, "shards")), len(rows_of(tmp_path, exact, "dropped"))) == (1, 2)


PAGES = [  # url, created, text
    ("http://e.com/a", 1, "old"),
    ("https://www.e.com/a/index.html?utm_source=x", 3, "new"),
    ("HTTP://E.com:80/./a#part", 2, "newer"),
    ("http://e.com/A", 1, "old"),
    ("http://e.com/a?x=1", 1, "old"),
    ("http://e.com/a?x=2", None, "old"),
    ("https://e.com/a?x=2#", 5, "x"),
    ("mailto:a@e.com", 1, "old"),
    ("mailto:a@e.com", 1, "old"),
    (None, 1, "old"),
    (None, 1, "old"),
]


@pytest.mark.parametrize("shards", [1, 3, 11])
@pytest.mark.parametrize(("age", "kept"), [("newest", (1, 6)), ("created", (0, 6))])
def test_by_url_one_crawl_of_a_page_stays(tmp_path: Path, age: str, kept: tuple[int, int], shards: int) -> None:
    rows = [{"url": url, "created": created, "text": text} for url, created, text in PAGES]
    ids, dropped = fates(tmp_path, by_url := step(rows, shards, shards, by="url", survivors=(age,)))
    gone = {0: kept[0], 1: kept[0], 2: kept[0], 5: kept[1]}
    gone.pop(kept[0])
    assert dropped == {f"{i:032x}": f"survivor {into:032x} at {PAGES[into][0]}" for i, into in gone.items()}
    assert ids == {f"{i:032x}" for i in range(len(PAGES))} - set(dropped)
    assert {row["reason"] for row in rows_of(tmp_path, by_url, "dropped")} == {"same_url"}


def test_by_url_no_url_is_no_duplicate(tmp_path: Path) -> None:
    for rows in ([], [{"text": "a"}] * 3):
        assert fates(tmp_path / str(len(rows)), step(rows, by="url"))[1] == {}
    with pytest.raises(ConfigError, match=r"dedup_exact\.level"):
        step([], by="url", level="repository")
    batch = pa.record_batch({"id": ["a"], "text": pa.array(["t"], pa.large_string())})
    config = dedup_exact.Config(files=source([]), by="url")
    assert dedup_exact.route_urls(batch, origin=0, config=config, partitions=1).num_rows == 0


def test_again_drops_nothing(tmp_path: Path) -> None:
    once = step(made(2))
    fates(tmp_path, once)
    kept, dropped = fates(tmp_path, Step("again", dedup_exact.Config(files=once)))
    assert not dropped and kept == {row["id"] for row in rows_of(tmp_path, once, "shards")}


def test_no_documents(tmp_path: Path) -> None:
    for level in ("file", "repository"):
        assert fates(tmp_path, step([], shards=0, level=level)) == (set(), {})
        assert fates(tmp_path, step([{"text": ""}], shards=4, level=level)) == ({f"{0:032x}"}, {})


def test_nonsense_is_refused() -> None:
    contradiction = {"survivors": ("created", "newest")}
    for bad in ({"level": "line"}, {"survivors": ("stars", "stars")}, {"survivors": ("id",)}, {"by": "host"}, contradiction):
        with pytest.raises(ConfigError, match=rf"dedup_exact\.{next(iter(bad))} = "):
            step([], **bad)
