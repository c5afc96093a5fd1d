"""corpus/remote.py: files through servers that refuse, stall, hang up, ignore ranges and change their mind."""

from __future__ import annotations

import email.utils
import errno
import io
import itertools
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import botocore.exceptions
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.errors import InputError, StorageError
from corpus.remote import Access, Remote
from tests.archive_servers import every_third, free_port, serving

DATA = random.Random(7).randbytes(3_000_000)
FAST = Access(user_agent="test/1", first_wait_s=0.01, stall_s=0.2, budget_s=30)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "file").write_bytes(DATA)
    return tmp_path / "root"


def whole(remote: Remote, where: str, step: int = 700_000) -> bytes:
    body = remote.open(where)
    try:
        return b"".join(iter(lambda: body.read(step), b""))
    finally:
        body.close()


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)

    def time(self) -> float:
        return self.now


def test_a_file_is_whole_through_every_failure_and_read_in_one_request_without(root: Path) -> None:
    with serving(root) as server:
        assert whole(Remote(FAST), server.url + "file") == DATA
        assert [(path, asked) for path, asked, _ in server.requests] == [("/file", "")]
        assert server.agents == {"test/1"}
    for first in range(1, 4):
        with serving(root, lambda n, first=first: every_third(n + first)) as server:  # type: ignore[misc]
            assert whole(Remote(FAST), server.url + "file") == DATA


@pytest.mark.parametrize("failure", ["stall", "close"])
def test_what_came_is_kept_and_only_the_rest_is_asked_again(root: Path, failure: str) -> None:
    with serving(root, lambda n: failure if n <= 2 else "") as server:
        assert whole(Remote(FAST), server.url + "file") == DATA
        starts = [int(asked[6:-1]) if asked else 0 for _, asked, _ in server.requests]
    assert len(starts) == 3 and 0 == starts[0] < starts[1] < starts[2]  # aiohttp drops what it has not yet handed over
    assert starts[1] == len(DATA) // 2 or failure == "close"


def test_a_server_without_ranges_is_read_past_what_is_known(root: Path) -> None:
    with serving(root, lambda n: {1: "close"}.get(n, "ignore")) as server:
        assert whole(Remote(FAST), server.url + "file") == DATA
        assert Remote(FAST).read(server.url + "file", 1000, 5000) == DATA[1000:5000]


@pytest.mark.parametrize("refusal", ["503", "403", "429"])
def test_a_server_that_refuses_for_a_minute_is_waited_for(root: Path, refusal: str) -> None:
    clock = Clock()
    with serving(root, lambda n: refusal if clock.now < 60 else "") as server:
        remote = Remote(Access(), clock.sleep, clock.time)
        assert whole(remote, server.url + "file") == DATA
        assert len(server.requests) <= 8  # 1 + 2 + 4 + … s between them
        assert sorted(clock.slept) == clock.slept and 60 <= clock.now < 130
        before = clock.now
        for _ in range(12):  # and it is asked faster again with each answer
            remote.read(server.url + "file", 0, 10)
        assert clock.slept[-1] < 1 and clock.now - before < 130


def test_a_server_that_refuses_for_an_hour_costs_the_budget(root: Path) -> None:
    clock = Clock()
    with (
        serving(root, lambda n: "503") as server,
        pytest.raises(InputError, match=r"HTTP 503, after \d+ s of waiting, 120 allowed"),
    ):
        Remote(Access(budget_s=120), clock.sleep, clock.time).read(server.url + "file")
    assert 60 < clock.now <= 120


def test_retry_after_is_obeyed_as_seconds_and_as_a_date(root: Path) -> None:
    for value in ("17", email.utils.formatdate(time.time() + 17, usegmt=True), "nonsense"):
        clock = Clock()
        with serving(root, lambda n, value=value: f"after:{value}" if n == 1 else "") as server:  # type: ignore[misc]
            assert Remote(Access(), clock.sleep, clock.time).read(server.url + "file", 0, 5) == DATA[:5]
        assert clock.slept[0] == (1.0 if value == "nonsense" else pytest.approx(17, abs=1.5))
    with serving(root, lambda n: "after:86400") as server, pytest.raises(InputError):
        Remote(Access(), clock.sleep, clock.time).read(server.url + "file", 0, 5)  # longer than anybody waits


def test_a_server_that_closes_for_a_day_is_not_asked_before_the_day_is_over(root: Path) -> None:
    clock = Clock()
    remote = Remote(Access(), clock.sleep, clock.time)
    with serving(root, lambda n: "after:86400" if n == 1 else "") as server:
        for path in ("file", "file", "other"):
            with pytest.raises(InputError, match=r"HTTP 503|86400 s more"):
                remote.read(server.url + path, 0, 5)
        assert len(server.requests) == 1 and not clock.slept
        clock.now += 86400
        assert remote.read(server.url + "file", 0, 5) == DATA[:5]


def test_a_host_that_is_slow_by_now_is_asked_once_for_each_file_whatever_the_budget(root: Path) -> None:
    clock = Clock()
    remote = Remote(Access(budget_s=0), clock.sleep, clock.time)
    with serving(root, lambda n: "503" if n == 1 else "") as server:
        with pytest.raises(InputError):
            remote.read(server.url + "file", 0, 5)
        assert remote.read(server.url + "file", 0, 5) == DATA[:5] and not clock.slept


def test_a_host_that_answers_nothing_costs_one_budget_however_many_files_are_asked_for(root: Path) -> None:
    clock = Clock()
    remote = Remote(Access(budget_s=600), clock.sleep, clock.time)
    spans = [(i * 150_000, i * 150_000 + 10) for i in range(20)]
    with serving(root, lambda n: "403" if clock.now < 5000 else "") as server:
        for said in remote.ranges(server.url + "file", spans):
            assert isinstance(said, InputError)
        assert clock.now <= 600 and len(server.requests) < 20  # it was 3 hours and 20 minutes
        assert "has answered nothing for" in str(said)
        tries = len(server.requests)
        for minute in range(1, 5):  # one file a minute is tried whether it is back
            clock.now += 61
            found = list(remote.ranges(server.url + "file", spans[:5]))
            assert all(isinstance(said, InputError) for said in found) and len(server.requests) == tries + minute
        clock.now = 5000
        assert list(remote.ranges(server.url + "file", spans)) == [DATA[a:b] for a, b in spans]


def test_stalls_are_paid_from_the_budget(root: Path) -> None:
    impatient = Access(first_wait_s=0.001, stall_s=0.1, budget_s=0.35)
    with serving(root, lambda n: "hush") as server, pytest.raises(InputError, match="after 0 s of waiting"):
        Remote(impatient).read(server.url + "file")
    assert 2 <= len(server.requests) <= 4  # without that, as many as there are milliseconds


def test_a_server_that_answers_and_sends_nothing_is_asked_ever_more_slowly(root: Path) -> None:
    clock = Clock()
    with serving(root, lambda n: "mute") as server, pytest.raises(InputError, match="ClientPayloadError"):
        Remote(Access(budget_s=130), clock.sleep, clock.time).read(server.url + "file")
    assert clock.slept == [1, 2, 4, 8, 16, 32, 60] and len(server.requests) == 8


@pytest.mark.parametrize(
    ("path", "start", "match"), [("none", 0, "FileNotFoundError"), ("file", 3_000_001, "416"), ("file", 3_000_000, "416")]
)
def test_what_waiting_cannot_mend_fails_at_once(root: Path, path: str, start: int, match: str) -> None:
    clock = Clock()
    with serving(root) as server, pytest.raises(InputError, match=match) as caught:
        Remote(Access(), clock.sleep, clock.time).read(server.url + path, start, start + 10)
    assert not clock.slept and caught.value.details["reason"] == "fetch_failed"


@pytest.mark.parametrize(("lie", "match"), [("shifted", "sent bytes 8-"), ("bare", "sent nothing"), ("204", "HTTP 204")])
def test_an_answer_to_another_question_is_no_data(root: Path, lie: str, match: str) -> None:
    clock = Clock()
    with serving(root, lambda n: lie) as server, pytest.raises(InputError, match=match):
        Remote(Access(), clock.sleep, clock.time).read(server.url + "file", 7, 99)
    assert not clock.slept


def test_an_empty_file_is_empty(root: Path) -> None:
    clock = Clock()
    (root / "empty").touch()
    with serving(root) as server:
        assert whole(Remote(Access(), clock.sleep, clock.time), server.url + "empty") == b""
    assert not clock.slept


def test_addresses_that_nobody_answers(tmp_path: Path) -> None:
    clock = Clock()
    remote = Remote(Access(budget_s=10), clock.sleep, clock.time)
    for where in (f"http://127.0.0.1:{free_port()}/x", "nonsense://x/y", "http://", str(tmp_path / "none"), str(tmp_path)):
        with pytest.raises(InputError):
            remote.read(where)


def test_a_file_that_changes_while_it_is_read_is_not_put_together(root: Path) -> None:
    def fails(n: int) -> str:
        if n == 2:
            (root / "file").write_bytes(DATA + b"more")
        return "close" if n == 1 else ""

    with serving(root, fails) as server, pytest.raises(InputError, match="the file has 3000004 bytes now, it had 3000000"):
        whole(Remote(FAST), server.url + "file")


def test_what_came_before_the_end_of_the_budget_is_given_first(root: Path) -> None:
    with serving(root, lambda n: "stall" if n == 1 else "503") as server:
        body = Remote(FAST, Clock().sleep).open(server.url + "file")
        first = body.read(10_000_000)
        assert first == DATA[: len(DATA) // 2]
        for _ in range(2):
            with pytest.raises(InputError, match="503"):
                body.read(1)
        body.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2_900_000), st.integers(1, 90_000)), max_size=8))
def test_ranges_come_in_their_order_whatever_was_joined(
    tmp_path_factory: pytest.TempPathFactory, spans: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "ranges"
    if not path.exists():
        path.write_bytes(DATA)
    asked = [(start, start + size) for start, size in spans]
    for order in (asked, sorted(asked)):
        assert list(Remote(FAST).ranges(str(path), order)) == [DATA[a:b] for a, b in order]


def test_neighbours_share_a_request_and_strangers_do_not(root: Path) -> None:
    spans = [(0, 1000), (1000, 2000), (50_000, 51_000), (2_000_000, 2_000_100), (2_999_000, 3_100_000)]
    with serving(root, every_third) as server:
        assert list(Remote(FAST).ranges(server.url + "file", spans)) == [DATA[a:b] for a, b in spans]
        asked = list(dict.fromkeys(asked for _, asked, what in server.requests if not what))
    assert asked[0] == "bytes=0-50999" and len(asked) >= 3


def test_a_range_that_cannot_be_had_takes_no_other_along(root: Path) -> None:
    with serving(root) as server:
        found = list(Remote(FAST).ranges(server.url + "file", [(10, 20), (5_000_000, 5_000_010), (30, 40)]))
    assert found[0] == DATA[10:20] and isinstance(found[1], InputError) and found[2] == DATA[30:40]


def test_neighbours_that_came_before_a_failure_are_given(root: Path) -> None:
    spans = [(0, 1000), (1000, 900_000), (900_000, 2_900_000), (2_900_000, 2_900_010)]
    with serving(root, lambda n: "stall" if n == 1 else "503") as server:
        found = list(Remote(FAST, Clock().sleep).ranges(server.url + "file", spans))
    assert found[:2] == [DATA[a:b] for a, b in spans[:2]]
    assert all(isinstance(said, InputError) for said in found[2:])


def test_the_cache_holds_whole_files_and_ranges_and_nothing_half(root: Path, tmp_path: Path) -> None:
    cached = Access(first_wait_s=0.01, stall_s=0.2, budget_s=0.05, cache=str(tmp_path / "cache"))
    with serving(root) as server:
        url = server.url + "file"
        body = Remote(cached).open(url)
        body.read(100)
        body.close()
        assert list((tmp_path / "cache").iterdir()) == []  # not read to its end
        assert Remote(cached).read(url, 5, 50) == DATA[5:50]
        assert whole(Remote(cached), url) == DATA
        seen = len(server.requests)
        assert whole(Remote(cached), url) == DATA and Remote(cached).read(url, 5, 50) == DATA[5:50]
        assert Remote(cached).read(url, 7, 70) == DATA[7:70]  # of the whole file
        assert len(server.requests) == seen


@pytest.mark.parametrize(("framing", "kept"), [("", True), ("chunked", True), ("unframed", False)])
def test_a_file_whose_end_is_not_marked_is_not_kept(root: Path, tmp_path: Path, framing: str, kept: bool) -> None:
    remote = Remote(Access(cache=str(tmp_path / "cache")))
    with serving(root, lambda n: framing if n == 1 else "") as server:
        first = remote.read(server.url + "file")
        assert first == (DATA if kept else DATA[: len(DATA) // 2])  # nothing says that there is more
        assert remote.read(server.url + "file") == DATA
        assert len(server.requests) == (1 if kept else 2)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_cache_that_cannot_be_written_stops_the_run_and_keeps_no_half(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            if self.tell() > 1_000_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    remote = Remote(Access(cache=str(tmp_path / "cache")))
    with serving(root) as server:
        with monkeypatch.context() as patch:
            patch.setattr("corpus.remote_body.os.fdopen", lambda descriptor, mode: os.close(descriptor) or Full())
            with pytest.raises(StorageError, match="No space left"):
                whole(remote, server.url + "file")
        assert list((tmp_path / "cache").iterdir()) == []
        assert whole(remote, server.url + "file") == DATA
        (tmp_path / "file").touch()
        for read in (lambda r: r.read(server.url + "file", 0, 5), lambda r: whole(r, server.url + "file")):
            with pytest.raises(StorageError, match="cannot write to the cache"):
                read(Remote(Access(cache=str(tmp_path / "file"))))


def test_size(root: Path) -> None:
    with serving(root, every_third) as server:
        assert [Remote(FAST).size(server.url + "file") for _ in range(4)] == [len(DATA)] * 4
    assert Remote(FAST).size(str(root / "file")) == len(DATA)


class Weak:
    """A file system as object stores are: errors of its own kind, short answers."""

    def __init__(self, fails: Callable[[int], Any]) -> None:
        self.calls = itertools.count(1)
        self.fails = fails

    def info(self, path: str) -> dict[str, Any]:
        return {"size": len(DATA)}

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        failure = self.fails(next(self.calls))
        if isinstance(failure, Exception):
            raise failure
        return DATA[start : end - (1 if failure else 0)]


def test_other_file_systems_are_read_in_blocks_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    failures: dict[int, Any] = {1: OSError("SlowDown"), 2: True, 4: PermissionError("Forbidden"), 5: TimeoutError()}
    weak = Weak(lambda n: failures.get(n))
    monkeypatch.setattr("corpus.remote_body._BLOCK", 500_000)
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda where: (weak, "x"))
    clock = Clock()
    assert whole(Remote(FAST, clock.sleep, clock.time), "weak://x") == DATA
    assert len(clock.slept) >= 4
    assert Remote(FAST, clock.sleep, clock.time).read("weak://x", 400_000, 1_100_000) == DATA[400_000:1_100_000]


@pytest.mark.parametrize(
    "hopeless", [botocore.exceptions.NoCredentialsError(), TypeError("no such setting"), FileNotFoundError()]
)
def test_what_no_other_try_can_mend_is_not_tried_again(monkeypatch: pytest.MonkeyPatch, hopeless: Exception) -> None:
    calls = []
    weak = Weak(lambda n: calls.append(n) or hopeless)
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda where: (weak, "x"))
    clock = Clock()
    with pytest.raises(InputError, match=type(hopeless).__name__):
        Remote(FAST, clock.sleep, clock.time).read("weak://x")
    assert len(calls) == 1 and not clock.slept
