"""Drop documents (or whole repositories) equal to one that is kept, each with its survivor.

    exact_duplicate   the same content_id, the xxh3-128 of the text, as the document named in the evidence
    same_url          by="url": the same canonical URL (corpus/urls.py) as the document named in the evidence, with its URL

Equal contents meet in one exchange: the hash and 150 bytes to choose by, never the text. The first in survivor order stays.
Among 10^10 documents, two different texts are taken for equal with probability 10^-19. The copies of one content meet in one
task: 200 bytes each, ten million in 2 GB.

Level "repository" drops a repository only when its whole set of (path, content) equals another's: forks and mirrors without a
change of their own. Its identity is the 128-bit sum of a hash per member, so order and repetition do not matter.

By URL, a page crawled several times stays once, whatever it said each time: survivors=("newest",) keeps its last state,
("created",) the first. A document without a URL, or with one that cannot be read as one, is never a duplicate.

The trade: cheap enough to come before anything else that is per document, and every later stage is spared what it removes.
The deduplication of the papers is near-deduplication, which subsumes this one; of web pages, DeepSeekMath (section 2.1) takes
URL and near-duplicates. What a canonical URL takes for equal is more than the same page now and then; see corpus/urls.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corpus.document import Verdict, content_ids
from corpus.draw import draw_keys
from corpus.engine import Engine
from corpus.errors import ConfigError
from corpus.exchange import Exchanged, partitions_for
from corpus.report import Report
from corpus.shards import StepShards
from corpus.step import Step
from corpus.survivors import (
    COLUMNS,
    check_order,
    describe,
    drop_rows,
    key_columns,
    labels,
    order_keys,
    route_rows,
    sort_units,
)
from corpus.units import encode, least, unit_names
from corpus.urls import canonical_urls

REVISION = 1

REASONS = ("exact_duplicate", "same_url")

_BYTES = 200  # per document in the exchange


@dataclass(frozen=True, kw_only=True)
class Config:
    files: Step
    by: Literal["content", "url"] = "content"
    level: Literal["file", "repository"] = "file"
    survivors: tuple[str, ...] = ("stars", "license", "created")  # who survives, then by id; see corpus/survivors.py

    def __post_init__(self) -> None:
        if self.level not in ("file", "repository"):
            raise ConfigError(f"dedup_exact.level = {self.level!r}: 'file' or 'repository' expected")
        if self.by not in ("content", "url"):
            raise ConfigError(f"dedup_exact.by = {self.by!r}: 'content' or 'url' expected")
        if self.by == "url" and self.level != "file":
            raise ConfigError(f"dedup_exact.level = {self.level!r}: 'file' expected with by = 'url'; pages have no repository")
        check_order("dedup_exact.survivors", self.survivors)


def judge(batch: pa.RecordBatch, config: Config, beside: pa.Table, first: int) -> Verdict:
    """beside: corpus.survivors.DROPS of this shard; first: the row in it that the batch begins with."""
    return drop_rows(batch, beside, first, "same_url" if config.by == "url" else "exact_duplicate")


def run(config: Config, out: Path, engine: Engine) -> Report:
    files = engine.shards(config.files)
    assert isinstance(files, StepShards)
    drops = _drops(config, files, out, engine) if files.names else None
    return engine.map_shards(partial(judge, config=config), files, out, beside=drops)


def _drops(config: Config, files: StepShards, out: Path, engine: Engine) -> Exchanged:
    """DROPS of every input shard."""
    partitions = partitions_for(files.rows * _BYTES)
    send = partial(route_urls if config.by == "url" else route_contents, config=config, partitions=partitions)
    columns = COLUMNS if config.by == "url" else ["text", *COLUMNS]
    met = engine.exchange(send, files, out, name="contents", partitions=partitions, columns=columns)
    if config.level == "repository":
        send = partial(route_repositories, config=config, partitions=partitions)
        met = engine.exchange(send, met, out, name="repositories", partitions=partitions)
    shards = len(files.names)
    return engine.exchange(partial(route_drops, config=config), met, out, name="drops", partitions=shards)


def route_contents(batch: pa.RecordBatch, *, origin: int, config: Config, partitions: int) -> pa.RecordBatch:
    """A row per document, sent to where its equals are, or at repository level to where its repository is."""
    content = content_ids(batch.column("text"))
    unit = np.arange(origin, origin + batch.num_rows, dtype=np.uint64)
    columns: dict[str, Any] = {"content": content, "unit": pa.array(unit), "ordinal": pa.array(unit)}
    columns |= {f"key_{f}": pa.array(key) for f, key in enumerate(order_keys(batch, config.survivors).T)}
    meet = _halves(content)[:, 0]
    if config.level == "repository":
        names = unit_names(batch)
        meet = draw_keys(names, 0, "repositories")
        columns["member"] = _whole(_members(batch, content))
        columns |= {"name": names, "label": pa.array([""] * batch.num_rows, pa.string())}
    else:
        columns |= {"name": batch.column("id"), "label": labels(batch)}
    columns["partition"] = pa.array((meet % np.uint64(partitions)).astype(np.uint16))
    return pa.record_batch(columns)


def route_urls(batch: pa.RecordBatch, *, origin: int, config: Config, partitions: int) -> pa.RecordBatch:
    """A row per document that has a URL, sent to where the same canonical URL is; the URL's hash travels as its content."""
    urls = batch.column("url") if "url" in batch.schema.names else pa.nulls(batch.num_rows, pa.string())
    canonical = canonical_urls(urls)
    known = pc.is_valid(canonical)
    content = content_ids(canonical.filter(known))
    unit = pa.array(np.arange(origin, origin + batch.num_rows, dtype=np.uint64)).filter(known)
    columns: dict[str, Any] = {"content": content, "unit": unit, "ordinal": unit}
    columns |= {f"key_{f}": pa.array(key).filter(known) for f, key in enumerate(order_keys(batch, config.survivors).T)}
    columns |= {"name": batch.column("id").filter(known), "label": urls.filter(known)}
    columns["partition"] = pa.array((_halves(content)[:, 0] % np.uint64(partitions)).astype(np.uint16))
    return pa.record_batch(columns)


def route_repositories(batch: pa.RecordBatch, *, origin: int, config: Config, partitions: int) -> pa.RecordBatch:
    """Every document of some repositories, with its repository's identity as content, to where equal ones are."""
    codes, names = encode(batch.column("name"))
    if len(names) == 0:
        return batch.drop_columns(["member"]).append_column("partition", pa.array([], pa.uint16()))
    member_N2 = _halves(batch.column("member"))
    order = np.lexsort((member_N2[:, 1], member_N2[:, 0], codes))
    fresh = np.diff(codes[order], prepend=-1) != 0
    fresh[1:] |= (member_N2[order[1:]] != member_N2[order[:-1]]).any(axis=1)  # a member twice counts once
    order = order[fresh]
    content_U2 = np.add.reduceat(member_N2[order], np.searchsorted(codes[order], np.arange(len(names))), axis=0)
    ordinal = batch.column("ordinal").to_numpy()
    columns: dict[str, Any] = {"content": _whole(content_U2[codes]), "ordinal": batch.column("ordinal")}
    columns["unit"] = pa.array(least(codes, ordinal[:, None], len(names))[codes, 0])
    best = least(codes, key_columns(batch), len(names))[codes]
    columns |= {f"key_{f}": pa.array(key) for f, key in enumerate(best.T)}
    columns |= {"name": pc.utf8_slice_codeunits(batch.column("name"), 1), "label": batch.column("label")}
    columns["partition"] = pa.array((content_U2[codes, 0] % np.uint64(partitions)).astype(np.uint16))
    return pa.record_batch(columns)


def route_drops(batch: pa.RecordBatch, *, origin: int, config: Config) -> pa.RecordBatch:
    """Documents of which equals are here: all but the first unit of each content, as DROPS, to the shards they are in."""
    content_N2 = _halves(batch.column("content"))
    by_content = np.lexsort((content_N2[:, 1], content_N2[:, 0]))
    new = np.ones(len(by_content) + 1, bool)
    new[1:-1] = (content_N2[by_content[1:]] != content_N2[by_content[:-1]]).any(axis=1)
    several = ~(new[:-1] & new[1:])  # the others are alone, and most are
    group = (np.cumsum(new[:-1]) - 1)[several]
    batch = batch.take(pa.array(by_content[several]))
    unit, ordinal = batch.column("unit").to_numpy(), batch.column("ordinal").to_numpy()
    keys = np.concatenate([group[:, None].astype(np.uint64), key_columns(batch)], axis=1)
    order = sort_units(keys, batch.column("name"), unit, ordinal)
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    survivor = order[np.repeat(starts, np.diff(np.append(starts, len(order))))]
    gone = unit[order] != unit[survivor]
    documents, survivor = order[gone], pa.array(survivor[gone])
    evidence = describe(batch.column("name").take(survivor), batch.column("label").take(survivor))
    return route_rows(ordinal[documents], evidence)


def _members(batch: pa.RecordBatch, content: Any) -> np.ndarray:
    """A 128-bit hash of (path, content) per document, uint64 [N, 2]."""
    path = batch.column("path") if "path" in batch.schema.names else pa.nulls(batch.num_rows, pa.string())
    return _mix(_mix(_halves(content_ids(pc.fill_null(path, "")))) + _halves(content))


def _mix(x: np.ndarray) -> np.ndarray:
    """A bijection of uint64 that spreads sums: equal sums of what it gives mean equal sets."""
    for _ in range(2):
        x = (x ^ (x >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    mixed: np.ndarray = x ^ (x >> np.uint64(32))
    return mixed


def _halves(hashes: Any) -> np.ndarray:
    """fixed_size_binary(16) as uint64 [N, 2]."""
    if isinstance(hashes, pa.ChunkedArray):
        hashes = hashes.combine_chunks()
    halves: np.ndarray = np.frombuffer(hashes.buffers()[1] or b"", np.uint64).reshape(-1, 2)
    return halves[hashes.offset : hashes.offset + len(hashes)]


def _whole(halves_N2: np.ndarray) -> Any:
    """The inverse of _halves."""
    data = pa.py_buffer(np.ascontiguousarray(halves_N2).tobytes())
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(halves_N2), [None, data])
