"""Draw sources to target shares by tokens, and shuffle all of it.

1. Tokens are counted by encoding every document (ids, and one for its end).
2. `tokens` in all: as asked, or as many as the sources hold together, less where a scarce source would pass its max_epochs.
   A source's part is its share of that.
3. A source is taken whole as often as its part allows, then once more in order of hash(seed, source, id) up to the document
   that reaches the part. A source larger than its part is only drawn from that way; the rest is dropped as `not_drawn`.
   With `long_tokens`, documents of at least that many tokens are drawn `long_factor` times as often as the others of their
   source: an epoch of it then holds each of them that many times, and its long and its other documents each get their part of
   the source's part, long ones first, so that the whole is exact to one document.
4. Documents go to partitions, and inside a partition into order, by another hash of seed, id and epoch: a global shuffle.

Where a source passes one epoch, the second and later copies of a document are new documents, document_id("id\\nepoch"), and
the lineage says so; the first copy is the document itself, kept. Columns that only some sources have are null for the others.

The trade: tokens are counted before FIM, which adds some to the documents it transforms; documents that are not drawn travel
through the exchange with the others, to be accounted for with their size. Where long documents are up-sampled, those with
enough bytes to be long are encoded a second time, to tell which they are.

Reference: DeepSeek-Coder-V2 (arXiv 2406.11931), section 2: 60 % code, 10 % math, 30 % natural language, with about three
epochs of code; its long-context stages up-sample long documents, by how much is not said. Four epochs cost little against fresh
data: Muennighoff et al. (arXiv 2305.16264).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corpus.document import Verdict, document_id, text_buffers
from corpus.draw import Weighed, draw_keys, weigh
from corpus.engine import Engine
from corpus.errors import ConfigError, InputError
from corpus.exchange import Exchanged, Together, partitions_for
from corpus.report import Report
from corpus.step import Step
from corpus.tokenizer import Encoder, content_of, load_encoder, path_of

REVISION = 2
REASONS = ("not_drawn",)

_PARTITION = 96 << 20  # of documents; below SHARD_BYTES of text, so that a partition is one shard
_ROW_BYTES = 300  # of a document's other columns: ten million of one byte are 10 MB of text, and 3 GB
_STRETCHES = 16  # of a partition with copies: two row groups each
_EPOCH, _ORDER, _WHY = "mix_epoch", "mix_order", "mix_evidence"  # columns of the exchange, removed on arrival


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A step's documents and the share of the mix's tokens they are to make; shares need not add up to 1.

    max_epochs: of the documents that are not long. long_tokens: None: no document is long.
    """

    name: str
    files: Step
    share: float
    max_epochs: float = 4.0
    long_tokens: int | None = None
    long_factor: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    sources: tuple[Source, ...]
    tokenizer: Step | str  # a train_tokenizer step, or the path of a tokenizer.json
    tokens: int | None = None
    seed: int = 0
    tokenizer_xxh3: str = dataclasses.field(default="", init=False)  # a path's content, so that it is in the fingerprint

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("sources is empty; at least one Source expected")
        for name in ("name", "files"):
            values = [getattr(source, name) for source in self.sources]
            if any(values.count(value) > 1 for value in values):
                raise ConfigError(f"two sources have the same {name}; a document belongs to one source")
        for s in self.sources:
            if not (s.share > 0 and math.isfinite(s.share)):
                raise ConfigError(f"source {s.name}: share is {s.share}; a positive number expected")
            if not (s.max_epochs > 0 and math.isfinite(s.max_epochs)):
                raise ConfigError(f"source {s.name}: max_epochs is {s.max_epochs}; a positive number expected")
            if s.long_tokens is not None and s.long_tokens < 1:
                raise ConfigError(f"source {s.name}: long_tokens is {s.long_tokens}; 1 or more expected, or None")
            if not (s.long_factor >= 1 and math.isfinite(s.long_factor)) or (s.long_tokens is None and s.long_factor != 1):
                raise ConfigError(
                    f"source {s.name}: long_factor is {s.long_factor}; a number of 1 or more expected, and with it long_tokens"
                )
        if self.tokens is not None and self.tokens < 1:
            raise ConfigError(f"tokens is {self.tokens}; at least 1, or none for as many as there are")
        object.__setattr__(self, "tokenizer_xxh3", content_of(self.tokenizer))


@dataclasses.dataclass(frozen=True)
class Draw:
    """What is taken of some documents: all of them `whole` times, and once more those up to key `last` (None: of none)."""

    tokens: int  # there are
    drawn: int
    whole: int
    last: int | None

    @property
    def epochs(self) -> float:
        return self.drawn / max(1, self.tokens)


@dataclasses.dataclass(frozen=True)
class Part:
    """What is taken of a source: of its documents, or apart of those shorter than long_tokens (draws[0]) and the long ones."""

    name: str
    share: float  # asked, of 1
    draws: tuple[Draw, ...]
    long_tokens: int | None = None

    @property
    def tokens(self) -> int:
        return sum(draw.tokens for draw in self.draws)

    @property
    def drawn(self) -> int:
        return sum(draw.drawn for draw in self.draws)

    @property
    def epochs(self) -> float:
        return self.drawn / self.tokens


def count(batch: pa.RecordBatch, state: Encoder) -> np.ndarray:
    """Ids of each document with one for its end, int64 [N]."""
    _, ends_N1 = state.encode(*text_buffers(batch.column("text")))
    return np.diff(ends_N1) + 1


def plan(config: Config, weighed: list[tuple[Weighed, ...]]) -> list[Part]:
    """Rules 2 and 3: how much of each source. weighed: of each its documents, or its shorter and its long ones."""
    asked = sum(s.share for s in config.sources)
    shares = [s.share / asked for s in config.sources]
    have = [_epoch(s, several) for s, several in zip(config.sources, weighed, strict=True)]
    for s, tokens in zip(config.sources, have, strict=True):
        if not tokens:
            raise InputError(f"source {s.name} (step {s.files.name}) has no documents; leave it out of the mix or fill it")
    most = min(tokens * s.max_epochs / share for s, tokens, share in zip(config.sources, have, shares, strict=True))
    if config.tokens is not None and config.tokens > most * (1 + 1e-9):
        raise ConfigError(
            f"tokens is {config.tokens:,}; the sources give {int(most):,} at their shares and max_epochs "
            f"({', '.join(f'{s.name} {t:,} × {s.max_epochs:g}' for s, t in zip(config.sources, have, strict=True))}). "
            "Ask for fewer, raise max_epochs, or lower the share of the scarce one."
        )
    total = min(most, sum(have)) if config.tokens is None else config.tokens
    parts = []
    for s, several, epoch, share in zip(config.sources, weighed, have, shares, strict=True):
        budget = round(total * share)
        long = [_draw(w, round(budget * s.long_factor * w.weight / epoch)) for w in several[1:]]
        draws = (_draw(several[0], budget - sum(draw.drawn for draw in long)), *long)
        parts.append(Part(s.name, share, draws, s.long_tokens))
    return parts


def _epoch(source: Source, weighed: tuple[Weighed, ...]) -> int:
    """Tokens of every document once, and of every long one long_factor times."""
    return weighed[0].weight + round(sum(source.long_factor * w.weight for w in weighed[1:]))


def _draw(weighed: Weighed, budget: int) -> Draw:
    if budget <= 0 or not weighed.weight:
        return Draw(weighed.weight, 0, 0, None)
    whole, rest = divmod(budget, weighed.weight)
    last, drawn = weighed.cut(rest)
    return Draw(weighed.weight, whole * weighed.weight + drawn, whole, last)


def divide(weighed: Weighed, source: Source, out: Path, engine: Engine, name: str) -> tuple[Weighed, ...]:
    """The documents of a source, or where some are long the shorter and the long ones."""
    if source.long_tokens is None:
        return (weighed,)
    fold = partial(_long_sums, long_tokens=source.long_tokens)
    notes = engine.reduce(fold, weighed.exchanged, out, name=name).notes
    long = Weighed(
        cast(Any, Sized(weighed.exchanged, source.long_tokens, True)),
        tuple(notes["weights"]),
        sum(notes["weights"]),
        notes["documents"],
        notes["bytes"],
    )
    shorter = Weighed(
        cast(Any, Sized(weighed.exchanged, source.long_tokens, False)),
        tuple(a - b for a, b in zip(weighed.weights, long.weights, strict=True)),
        weighed.weight - long.weight,
        weighed.documents - long.documents,
        weighed.bytes - long.bytes,
    )
    return shorter, long


def _long_sums(batches: Iterator[pa.RecordBatch], out: Path, long_tokens: int) -> dict[str, Any]:
    """One batch per partition, in order: what is in it of long documents."""
    weights, documents, size = [], 0, 0
    for batch in batches:
        long = batch.filter(pc.greater_equal(batch.column("weight"), long_tokens))
        weights.append(int(long.column("weight").to_numpy().sum()))
        documents += long.num_rows
        size += int(long.column("bytes").to_numpy().sum())
    return {"weights": weights, "documents": documents, "bytes": size}


@dataclasses.dataclass(frozen=True)
class Sized:
    """The keys of long documents, or of the others, as Weighed.cut reads them."""

    exchanged: Exchanged
    long_tokens: int
    long: bool

    def table(self, partition: int) -> pa.Table:
        table = self.exchanged.table(partition)
        long = pc.greater_equal(table.column("weight"), self.long_tokens)
        return table.filter(long if self.long else pc.invert(long))


def route(
    batch: pa.RecordBatch,
    origin: int,
    part: Part,
    schema: pa.Schema,
    seed: int,
    partitions: int,
    state: Encoder | None = None,
) -> pa.Table:
    """Every copy of every document to where its shuffle key says; a document not drawn goes once, with the evidence."""
    n = batch.num_rows
    key_N = draw_keys(batch.column("id"), seed, f"mix {part.name}")
    long_N = np.zeros(n, np.int64) if state is None else _is_long(batch, part, state)
    copies_N = np.zeros(n, np.int64)
    for i, draw in enumerate(part.draws):
        extra_N = np.zeros(n, bool) if draw.last is None else key_N <= np.uint64(draw.last)
        copies_N[long_N == i] = (draw.whole + extra_N)[long_N == i]
    rows_N = np.maximum(copies_N, 1)
    row_R = np.repeat(np.arange(n), rows_N)
    epoch_R = np.arange(len(row_R)) - np.repeat(np.cumsum(rows_N) - rows_N, rows_N)
    order_R = np.zeros(len(row_R), np.uint64)
    for epoch in range(int(epoch_R.max(initial=-1)) + 1):
        order_R[epoch_R == epoch] = draw_keys(batch.column("id"), seed, f"shuffle {epoch}")[row_R[epoch_R == epoch]]
    gone_R = copies_N[row_R] == 0
    at_R = pc.cast(pc.round(pa.array(key_N[row_R] / 2.0**64), 6), pa.string())
    of = pa.array([f"of {part.name}, {draw.epochs:.6g} of it drawn" for draw in part.draws], pa.string())
    why = pc.binary_join_element_wise(at_R, of.take(pa.array(long_N[row_R])), " ")
    table = pa.Table.from_batches([unify(batch, schema)]).take(pa.array(row_R))
    table = table.append_column(_EPOCH, pa.array(np.where(gone_R, -1, epoch_R), pa.int32()))
    table = table.append_column(_ORDER, pa.array(order_R))
    table = table.append_column(_WHY, pc.if_else(pa.array(gone_R), why, pa.scalar(None, pa.string())))
    target_R = ((order_R >> np.uint64(32)) * np.uint64(partitions)) >> np.uint64(32)
    return table.append_column("partition", pa.array(target_R.astype(np.int64)))


def _is_long(batch: pa.RecordBatch, part: Part, encoder: Encoder) -> np.ndarray:
    """int64 [N]: 1 for a long document. Only those with enough bytes are encoded: a token has at least one."""
    assert part.long_tokens is not None
    size_N = np.diff(text_buffers(batch.column("text"))[0])
    rows_M = np.flatnonzero(size_N + 1 >= part.long_tokens)
    long_N = np.zeros(batch.num_rows, np.int64)
    long_N[rows_M] = count(batch.take(pa.array(rows_M)), encoder) >= part.long_tokens
    return long_N


def unify(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch with the columns of `schema`, null where it has none."""
    if unknown := set(batch.schema.names) - set(schema.names):
        raise InputError(f"a shard has columns {', '.join(sorted(unknown))}, which the first shard of its step has not")
    names = batch.schema.names
    columns = [batch.column(f.name).cast(f.type) if f.name in names else pa.nulls(batch.num_rows, f.type) for f in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def judge(batch: pa.RecordBatch) -> Iterator[Verdict]:
    """A partition in order of its shuffle keys: what is read (kept, or not drawn), and later epochs as documents made.

    A Verdict holds one kind or the other, so the order is cut into stretches, and in a stretch the copies come last.
    """
    batch = batch.take(pa.array(np.argsort(batch.column(_ORDER).to_numpy(), kind="stable")))
    stretches = 1 if (batch.column(_EPOCH).to_numpy() <= 0).all() else _STRETCHES
    bounds = np.linspace(0, batch.num_rows, stretches + 1).astype(np.int64)
    for start, stop in itertools.pairwise(bounds.tolist()):
        part = batch.slice(start, stop - start)
        epoch_N = part.column(_EPOCH).to_numpy()
        why = part.column(_WHY)
        part = part.drop_columns([_EPOCH, _ORDER, _WHY])
        read = pa.array(epoch_N <= 0)
        reason = pc.if_else(pa.array(epoch_N < 0), "not_drawn", pa.scalar(None, pa.string()))
        yield Verdict(part.filter(read), reason.filter(read), why.filter(read))
        if (epoch_N > 0).any():
            made, lineage = _copies(part.filter(pa.array(epoch_N > 0)), epoch_N[epoch_N > 0])
            none = pa.nulls(0, pa.string())
            yield Verdict(part.slice(0, 0), none, none, made, lineage)


def _copies(batch: pa.RecordBatch, epoch_N: np.ndarray) -> tuple[pa.RecordBatch, pa.Table]:
    """Documents under the ids of their later epochs, and from which document each came."""
    old = batch.column("id")
    pairs = zip(old.to_pylist(), epoch_N.tolist(), strict=True)
    new = pa.array([document_id(f"{name}\n{epoch}") for name, epoch in pairs], pa.string())
    length = pc.cast(pc.binary_length(batch.column("text")), pa.int64())
    zero = pa.array(np.zeros(len(new), np.int64))
    lineage = pa.table({"id": old.cast(pa.string()), "into": new, "start": zero, "stop": length})
    return batch.set_column(batch.schema.get_field_index("id"), batch.schema.field("id"), new), lineage


def run(config: Config, out: Path, engine: Engine) -> Report:
    path = path_of(engine, config.tokenizer)
    setup = partial(load_encoder, path)
    weighed = [
        weigh(count, s.files, out, engine, name=f"count_{i}", seed=config.seed, salt=f"mix {s.name}", setup=setup)
        for i, s in enumerate(config.sources)
    ]
    divided = [divide(w, s, out, engine, f"long_{i}") for i, (s, w) in enumerate(zip(config.sources, weighed, strict=True))]
    parts = plan(config, divided)
    schema = _schema(config, engine)
    each = [w.bytes + _ROW_BYTES * w.documents for w in weighed]
    size = sum(math.ceil(n * max(1.0, part.epochs)) for n, part in zip(each, parts, strict=True))
    partitions = partitions_for(size, _PARTITION)
    sent = [
        engine.exchange(
            partial(route, part=part, schema=schema, seed=config.seed, partitions=partitions),
            s.files,
            out,
            name=f"shuffle_{i}",
            partitions=partitions,
            setup=setup if part.long_tokens is not None else None,
        )
        for i, (s, part) in enumerate(zip(config.sources, parts, strict=True))
    ]
    report = engine.map_shards(judge, Together(tuple(sent)), out)
    report.notes["sources"] = {part.name: _line(part, sum(p.drawn for p in parts)) for part in parts}
    return report


def _schema(config: Config, engine: Engine) -> pa.Schema:
    """The columns of all sources, from the first shard of each."""
    schemas = []
    for s in config.sources:
        shards = engine.shards(s.files)
        schemas.append(next(iter(shards.read(shards.names[0]))).schema.remove_metadata())
    united = pa.unify_schemas(schemas, promote_options="permissive")
    return pa.schema([field.with_nullable(field.name not in ("id", "text")) for field in united])


def _line(part: Part, total: int) -> dict[str, Any]:
    line = {
        "tokens": part.tokens,
        "drawn": part.drawn,
        "epochs": round(part.epochs, 4),
        "share_asked": round(part.share, 6),
        "share_reached": round(part.drawn / total, 6),
    }
    for draw in part.draws[1:]:
        line |= {"long_tokens": draw.tokens, "long_drawn": draw.drawn, "long_epochs": round(draw.epochs, 4)}
    return line
