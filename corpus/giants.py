"""Components too large for one task's memory: their units in survivor order, chunk by chunk, past one window of leaders.

    split    a sample of the members' places in survivor order -> what separates chunks of about GROUP_BYTES
    place    the partition of each member: its group's, or its chunk's
    stream   chunks in order through one task; per chunk a file of drops

One giant after the other, each with a window of its own. It is one task, near-linear in time (corpus/leaders.py), with one
chunk and one window in memory. What it cannot see is a survivor that has fallen out of the window; how many did is in the
report (`forgotten`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corpus import components, leaders
from corpus.components import GIANTS
from corpus.engine import Engine
from corpus.exchange import Exchanged, write_exchanged
from corpus.shards import Shards
from corpus.survivors import COLUMNS, key_columns

__all__ = ["Part", "no_leaders", "place", "senders", "split", "stream"]

SAMPLE = 1 << 20  # members whose place in survivor order decides where chunks end
NAME_BYTES = 16  # of a name that separate chunks; members equal in these and in their keys share a chunk


@dataclasses.dataclass(frozen=True)
class Part:
    """Partitions [first, stop) of an exchange, read like shards."""

    exchanged: Exchanged
    first: int
    stop: int

    @property
    def names(self) -> list[str]:
        return self.exchanged.names[self.first : self.stop]

    def read(self, name: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        return self.exchanged.read(name, columns)

    def weight(self, name: str) -> int:
        return self.exchanged.weight(name)

    def only(self, name: str) -> Part:
        return self


def no_leaders() -> pa.Table:
    """name and label of the leaders, by number, the newest last: none yet."""
    return pa.table({"name": pa.array([], pa.string()), "label": pa.array([], pa.string())})


def _places(rows: Any) -> np.ndarray:
    """Where each member stands in the stream, as bytes that compare like it: its giant, its keys, the head of its name."""
    giant = rows.column("group").to_numpy().astype(">u4").view(np.uint8).reshape(-1, 4)
    keys = key_columns(rows).astype(">u8").view(np.uint8)
    heads = pc.binary_slice(rows.column("name").cast(pa.binary()), 0, NAME_BYTES).to_numpy(zero_copy_only=False)
    name = heads.astype(f"S{NAME_BYTES}").view(np.uint8).reshape(-1, NAME_BYTES)
    both = np.ascontiguousarray(np.concatenate([giant, keys, name], axis=1))
    return both.view(f"S{both.shape[1]}").ravel()


def place(rows: Any, groups: int, splitters: tuple[str, ...]) -> np.ndarray:
    """Partition of each row of members: its group, or behind the groups the chunk it falls into, int64."""
    target: np.ndarray = rows.column("group").to_numpy().astype(np.int64)
    giant = np.flatnonzero(target >= GIANTS)
    if len(giant):
        places = _places(rows.take(pa.array(giant)))
        bounds = np.array([bytes.fromhex(text) for text in splitters], places.dtype)
        target[giant] = groups + np.searchsorted(bounds, places, side="right")
    return target


def split(
    members: Callable[..., pa.RecordBatch], files: Shards, beside: Exchanged, notes: dict[str, Any], out: Path, engine: Engine
) -> tuple[int, tuple[str, ...]]:
    """(chunks, the places that separate them as hexadecimal digits) for the giants `notes` speaks of; (0, ()) without any."""
    if not notes["giants"]:
        return 0, ()
    chunks = max(1, -(-1024 * notes["giant_load"] // components.GROUP_BYTES))
    send = partial(_sample, members=members, one_in=max(1, notes["giant_units"] // SAMPLE))
    sample = engine.exchange(send, files, out, name="sample", partitions=1, columns=COLUMNS, beside=beside)
    found = engine.reduce(partial(_splitters, chunks=chunks), sample, out, name="splitters").notes["splitters"]
    return chunks, tuple(found)


def _sample(
    batch: pa.RecordBatch, *, origin: int, members: Callable[..., pa.RecordBatch], one_in: int, beside: pa.Table
) -> pa.Table:
    rows = members(batch, origin=origin, beside=beside)
    rows = rows.filter(pc.greater_equal(rows.column("group"), GIANTS))
    places = _places(rows)
    drawn = places[_draws(rows.column("unit").to_numpy()) % np.uint64(one_in) == 0]
    width = places.dtype.itemsize
    kept = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(drawn), [None, pa.py_buffer(drawn.tobytes())])
    return pa.table({"place": kept, "partition": pa.array(np.zeros(len(drawn), np.uint16))})


def _draws(units: np.ndarray) -> np.ndarray:
    return (units * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)


def _splitters(batches: Iterator[pa.RecordBatch], out: Path, *, chunks: int) -> dict[str, Any]:
    """A fold: the sample cut into `chunks` equal parts."""
    place = next(batches).column("place")
    width = place.type.byte_width
    ordered = np.sort(np.frombuffer(b"".join(place.to_pylist()), f"S{width}"))
    cuts = ordered[np.arange(1, chunks) * len(ordered) // chunks] if len(ordered) else ordered
    return {"splitters": [bytes(cut).ljust(width, b"\0").hex() for cut in cuts]}


def senders(chunks: int) -> tuple[str, ...]:
    """Names of the files `stream` writes beside the other drops, one per chunk."""
    return tuple(f"giants-{chunk:05d}" for chunk in range(chunks))


def stream(batches: Iterator[pa.RecordBatch], out: Path, *, find: Callable[..., Any], plan: Any) -> dict[str, Any]:
    """A fold over the chunks in order. find: (batch, window, leaders) -> (DROPS with partition, leaders with the new ones)."""
    window, known, forgotten, current = None, no_leaders(), 0, -1
    for chunk, batch in enumerate(batches):
        drops = []
        for giant in np.unique(batch.column("group").to_numpy()):
            if window is None or giant != current:
                forgotten += leaders.forgotten(window) if window else 0
                window = leaders.open_window(leaders.WINDOW_LEADERS, leaders.WINDOW_BYTES, plan.values, plan.bands)
                known, current = no_leaders(), giant
            found, known = find(batch.filter(pc.equal(batch.column("group"), giant)), window, known)
            known = known.slice(max(0, known.num_rows - leaders.WINDOW_LEADERS)).combine_chunks()
            drops.append(pa.Table.from_batches([found]))
        if not drops:
            drops.append(pa.Table.from_batches([find(batch, leaders.open_window(1, 1, plan.values, plan.bands), known)[0]]))
        write_exchanged(out / "exchange" / "drops", f"giants-{chunk:05d}", drops, plan.shards)
    return {"forgotten": forgotten + (leaders.forgotten(window) if window else 0)}
