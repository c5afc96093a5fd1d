"""Report: what a step read, kept, dropped and why, in how long and with how much memory.

    read = kept + dropped + merged + used        written = kept + created

merged: documents that live on inside new ones (see document.LINEAGE); created: those new ones; used: documents read to make
an artefact (an index, a tokenizer) and not passed on.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from corpus.errors import ConservationError

__all__ = ["Report", "human_bytes", "human_seconds"]


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


@dataclasses.dataclass
class Report:
    read: int = 0
    kept: int = 0
    merged: int = 0
    used: int = 0
    created: int = 0
    bytes_in: int = 0  # UTF-8 bytes of text
    bytes_out: int = 0
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)
    dropped_bytes: dict[str, int] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0  # wall clock of the step
    task_seconds: float = 0.0  # summed over tasks: what the step would take on one core
    peak_memory: int = 0  # bytes, largest worker
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)  # what else a reader wants to know

    @property
    def written(self) -> int:
        return self.kept + self.created

    def add(self, other: Report) -> None:
        """Sum `other` in; seconds of the wall are the caller's to set."""
        for name in ("read", "kept", "merged", "used", "created", "bytes_in", "bytes_out"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for counts, more in ((self.dropped, other.dropped), (self.dropped_bytes, other.dropped_bytes)):
            for reason, count in more.items():
                counts[reason] = counts.get(reason, 0) + count
        self.task_seconds += other.task_seconds
        self.peak_memory = max(self.peak_memory, other.peak_memory)
        for name, value in other.notes.items():  # counts add up; anything else is the same from every task
            mine = self.notes.get(name)
            adds_up = isinstance(value, (int, float, list)) and not isinstance(value, bool) and mine is not None
            self.notes[name] = mine + value if adds_up else value

    def check(self, step: str, expected: int | None = None) -> None:
        """ConservationError unless every document read is accounted for (and `expected` of them were read)."""
        fates = self.kept + self.merged + self.used + sum(self.dropped.values())
        if self.read != fates:
            raise ConservationError(
                f"step {step} read {self.read} documents but accounts for {fates} "
                f"({self.kept} kept, {self.merged} merged, {self.used} used, dropped {self.dropped or 'none'})"
            )
        if expected is not None and self.read != expected:
            raise ConservationError(
                f"step {step} accounts for {self.read} documents, its upstream steps wrote {expected}; "
                "every document read must be kept, dropped with a reason, merged or used"
            )

    def line(self) -> str:
        """The report in one line: documents, bytes of text, drops, seconds, MB/s."""
        parts = [f"{self.read:,} documents"] if self.read else []
        if self.bytes_in:
            parts.append(human_bytes(self.bytes_in))
        if self.dropped:
            parts.append(f"{sum(self.dropped.values()):,} dropped")
        if self.merged:
            parts.append(f"{self.merged:,} merged into {self.created:,}")
        parts.append(human_seconds(self.seconds))
        if self.bytes_in and self.seconds:
            parts.append(f"{self.bytes_in / 1e6 / self.seconds:.0f} MB/s")
        return ", ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Report:
        return cls(**value)
