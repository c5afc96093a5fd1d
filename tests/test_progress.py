"""Progress lines: plain where there is no terminal; on one, a single line that fits."""

from __future__ import annotations

import io
import os

import pytest

from corpus import progress
from corpus.progress import Lines
from corpus.report import Report


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work(lines: Lines) -> None:
    lines.begin("a_step_with_a_long_name-0123456789ab", 4, 4)
    for _ in range(4):
        lines.advance(Report(read=1_000_000, bytes_in=10**9, kept=1_000_000), 1)
    lines.say("damaged: something")
    lines.end()


def test_no_control_characters_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    stream = io.StringIO()
    work(Lines(stream))
    assert "1/4 shards, 1,000,000 documents, 1.0 GB" in stream.getvalue()
    assert all(line.isprintable() for line in stream.getvalue().split("\n"))


def test_a_line_that_is_rewritten_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((60, 24)))
    stream = Terminal()
    work(Lines(stream))
    live = [line for line in stream.getvalue().split("\r\x1b[K") if "a_step" in line]
    assert live and all(len(line) < 60 for line in live)
