"""Progress of a run: one live line per step on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any

from corpus.report import Report, human_bytes, human_seconds

__all__ = ["Lines"]

EVERY = 10.0  # seconds between plain lines of one step


class Lines:
    """A corpus.engine.Progress that writes to `stream`: documents, bytes, MB/s, drops and time left."""

    def __init__(self, stream: Any = None) -> None:
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.phase = ""
        self.open = False

    def begin(self, phase: str, tasks: int, weight: int) -> None:
        self.phase, self.tasks, self.weight = phase, tasks, max(1, weight)
        self.total, self.done, self.seen = Report(), 0, 0
        self.started = self.printed = time.monotonic()
        if self.live and tasks:
            self._write("starting")

    def advance(self, report: Report, weight: int) -> None:
        self.total.add(report)
        self.done += 1
        self.seen += weight
        if self.live or time.monotonic() - self.printed > EVERY:
            self.printed = time.monotonic()
            self._write(self._state())

    def end(self) -> None:
        if self.live and self.open:
            self.stream.write("\r\x1b[K")
            self.stream.flush()
        self.open = False

    def say(self, line: str) -> None:
        """A line that stays."""
        self.stream.write(("\r\x1b[K" if self.live and self.open else "") + line + "\n")
        self.stream.flush()
        self.open = False

    def _state(self) -> str:
        seconds = time.monotonic() - self.started
        left = seconds * (self.weight - self.seen) / max(1, self.seen)
        total = self.total
        parts = [f"{self.done}/{self.tasks} shards", f"{total.read:,} documents", human_bytes(total.bytes_in)]
        if total.bytes_in and seconds > 0:
            parts.append(f"{total.bytes_in / 1e6 / seconds:.0f} MB/s")
        parts.append(f"{sum(total.dropped.values()):,} dropped")
        if self.done < self.tasks:
            parts.append(f"{human_seconds(left)} left")
        return ", ".join(parts)

    def _write(self, text: str) -> None:
        line = f"  {self.phase}: {text}"
        width = shutil.get_terminal_size().columns - 1  # a line that wraps cannot be taken back
        self.stream.write(f"\r\x1b[K{line[:width]}" if self.live else line + "\n")
        self.stream.flush()
        self.open = self.live
