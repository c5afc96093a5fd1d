"""What a run left on disk, for comparing runs byte by byte."""

from __future__ import annotations

from pathlib import Path


def contents(root: Path) -> dict[str, bytes]:
    """Every data file under a root (not records, which hold times, nor locks): relative path -> bytes."""
    kinds = ("shards", "dropped", "lineage")
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.parent.name in kinds
    }
