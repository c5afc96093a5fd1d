"""Excluding what other steps have, against sets in plain Python."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.errors import ConfigError
from corpus.step import Step
from stages import exclude
from tests.dedup_source import fates
from tests.toys import texts


def holder(name: str, ids: list[int], shards: int) -> Step:
    dealt = tuple(tuple((f"{i:032x}", f"text {i}") for i in ids[k::shards]) for k in range(shards))
    return Step(name, texts.Config(shards=dealt))


SOME = st.lists(st.integers(0, 30), unique=True, max_size=20)


@settings(max_examples=25, deadline=None)
@given(SOME, st.integers(1, 4), st.lists(st.tuples(SOME, st.integers(1, 3)), min_size=1, max_size=3))
def test_what_others_hold_goes_and_the_first_holder_is_named(
    tmp_path_factory: pytest.TempPathFactory, ids: list[int], shards: int, others: list[tuple[list[int], int]]
) -> None:
    taken = tuple(holder(f"track_{k}", held, n) for k, (held, n) in enumerate(others))
    step = Step("exclude", exclude.Config(files=holder("pages", ids, shards), taken=taken))
    kept, dropped = fates(tmp_path_factory.mktemp("root"), step)
    expected = {f"{i:032x}": next((f"track_{k}" for k, (held, _) in enumerate(others) if i in held), None) for i in ids}
    assert kept == {name for name, track in expected.items() if track is None}
    assert dropped == {name: track for name, track in expected.items() if track}


def test_a_config_that_leaves_nothing_or_does_nothing_is_refused(tmp_path: Path) -> None:
    files = holder("pages", [1], 1)
    for taken in ((), (files,)):
        with pytest.raises(ConfigError, match=r"exclude\.taken"):
            exclude.Config(files=files, taken=taken)
