"""What every evaluation gives: items, each a score with a weight; and how files of questions are read."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from corpus.errors import InputError

__all__ = ["Item", "Progress", "Say", "key_of", "last_tokens", "read_rows"]

Progress = Callable[[int], None]
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Item:
    """Σ score / Σ weight over items is the figure. groups: what tables are made by; more: for the reader of the JSON lines."""

    task: str  # "bits per byte", "pass@1", …
    key: str  # of the document or question: two models' items of one key are a pair
    score: float
    weight: float = 1.0
    groups: dict[str, str] = dataclasses.field(default_factory=dict)
    more: dict[str, Any] = dataclasses.field(default_factory=dict)


def read_rows(path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file, plain or .gz. InputError names the line that is not one, or lacks one of `fields`."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
    except FileNotFoundError:
        raise InputError(f"no file {path}; JSON lines with {', '.join(fields)} expected") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number} is not JSON: {error}") from error
        lacking = [name for name in fields if not isinstance(row, dict) or not isinstance(row.get(name), str)]
        if lacking:
            raise InputError(f"{path}, line {number} has no text {', '.join(lacking)}; {', '.join(fields)} expected")
        rows.append(row)
    if not rows:
        raise InputError(f"{path} is empty; JSON lines with {', '.join(fields)} expected")
    return rows


def key_of(text: str, seed: int) -> int:
    """A 64-bit number for a text and a seed, to draw by."""
    return int(xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"), seed=seed & 0xFFFFFFFFFFFFFFFF))


def last_tokens(ids: np.ndarray, most: int) -> np.ndarray:
    """What is left of a prompt that does not fit: its end."""
    return ids[max(0, len(ids) - most) :]
