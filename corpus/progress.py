"""Progress of a run: one live line per step on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from corpus.report import Report

__all__ = ["Lines", "human_bytes", "human_seconds"]

EVERY = 10.0  # seconds between plain lines of one step


def human_bytes(n: float) -> str:
    """1.5 GB; decimal, as disks and networks are sold."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(n) < 1000 or unit == "TB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return ""


def human_seconds(s: float) -> str:
    """8.5 s, 3 min 20 s, 2 h 5 min."""
    if s < 60:
        return f"{s:.1f} s"
    if s < 3600:
        return f"{s // 60:.0f} min {s % 60:.0f} s"
    return f"{s // 3600:.0f} h {s % 3600 // 60:.0f} min"


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
        self.stream.write(f"\r\x1b[K{line[:150]}" if self.live else line + "\n")
        self.stream.flush()
        self.open = self.live
