"""Encode documents to ids and write them as Megatron .bin/.idx pairs, with a map from document to tokens.

1. A document is transformed for fill-in-the-middle with probability `fim_rate`, before any packing: its text is cut at two
   character positions drawn uniformly, and becomes  begin PREFIX hole SUFFIX end MIDDLE  (PSM), or with probability
   `fim_spm_rate` of those  begin hole SUFFIX end PREFIX MIDDLE  (SPM, which is PSM with an empty prefix and the middle being
   both). The draw and the cuts come from hash(seed, id), so they do not depend on workers, shards or what else is encoded. What
   lies between two marks is encoded by itself.
2. The end-of-text id follows (`append_eos`): one sequence per document.
3. A text that spells out a special token gets the ids of its letters.

Writes tokens/NAME.bin and .idx per input shard that has documents (an empty .bin cannot be mapped), documents/NAME.parquet
(corpus.tokens.MAP), all of them again as documents.parquet, tokens.json, and tokenizer.json, so that the folder needs
nothing beside it. All documents are kept.

The trade: FIM at character positions cuts words, so a transformed document takes a few more ids than a plain one.

Reference: DeepSeek-Coder-V2 (arXiv 2406.11931), section 3.1: PSM, rate 0.5, per document before packing; the 236B model
trains without (fim_rate=0). Uniform cuts: Bavarian et al. (arXiv 2207.14255), section 3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numba import njit

from corpus.document import text_buffers
from corpus.draw import draw_keys, spread
from corpus.engine import Engine
from corpus.errors import ConfigError
from corpus.report import Report
from corpus.shards import FileRecord, StepShards, atomic, parquet_writer, read_json, write_table
from corpus.step import Step
from corpus.tokenizer import Encoder, content_of, load_encoder, path_of
from corpus.tokens import MAP, TokenWriter, token_dtype, write_tokens_json

REVISION = 1
REASONS: tuple[str, ...] = ()  # nothing is dropped

_SENTINELS = ("fim_begin", "fim_hole", "fim_end")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    files: Step
    tokenizer: Step | str  # a train_tokenizer step, or the path of any Hugging Face tokenizer.json
    fim_rate: float = 0.5  # DeepSeek-Coder-V2 3.1
    fim_spm_rate: float = 0.0  # DeepSeek's is PSM alone
    append_eos: bool = True
    seed: int = 0
    tokenizer_xxh3: str = dataclasses.field(default="", init=False)  # a path's content, so that it is in the fingerprint

    def __post_init__(self) -> None:
        if not 0 <= self.fim_rate <= 1:
            raise ConfigError(f"fim_rate is {self.fim_rate}; a share of the documents, 0 to 1, expected")
        if not 0 <= self.fim_spm_rate <= 1:
            raise ConfigError(f"fim_spm_rate is {self.fim_spm_rate}; a share of what fim_rate transforms, 0 to 1, expected")
        object.__setattr__(self, "tokenizer_xxh3", content_of(self.tokenizer))


def check(config: Config) -> None:
    """ConfigError, before anything runs, for a tokenizer given by path that lacks the ids the Config asks for."""
    if isinstance(config.tokenizer, str):
        _require(config, load_encoder(config.tokenizer))


def _require(config: Config, encoder: Encoder) -> None:
    needed = [*(_SENTINELS if config.fim_rate else ()), *(("eos",) if config.append_eos else ())]
    if missing := [name for name in needed if name not in encoder.special]:
        raise ConfigError(
            f"the tokenizer has no {', '.join(missing)} token (it has {', '.join(encoder.special) or 'none'}); set "
            "fim_rate=0 to do without FIM, append_eos=false to do without an end, or name them in tokenizer_config.json"
        )


class Encoded(NamedTuple):
    """Documents as ids. ids_T: of all, one after another; lengths_N: ids of each; cuts_N2: bytes, -1 where there is no FIM."""

    ids_T: np.ndarray
    lengths_N: np.ndarray
    cuts_N2: np.ndarray


def encode(batch: pa.RecordBatch, config: Config, encoder: Encoder) -> Encoded:
    """Rules 1 to 3 on a batch."""
    offsets_N1, data_B = text_buffers(batch.column("text"))
    keys_N = draw_keys(batch.column("id"), config.seed, "fim")
    cuts_N2 = cut(offsets_N1, data_B, keys_N, config.fim_rate, config.fim_spm_rate)
    pieces_P1, first_N1 = _pieces(offsets_N1, cuts_N2)
    ids, ends_P1 = encoder.encode(pieces_P1, data_B)
    marks = np.array([encoder.special.get(name, -1) for name in (*_SENTINELS, "eos")], np.int64)
    if not config.append_eos:
        marks[3] = -1
    dtype = token_dtype(encoder.vocab_size)
    lengths_N = np.diff(ends_P1[first_N1]) + 3 * (cuts_N2[:, 0] >= 0) + int(config.append_eos)
    ids_T = np.empty(int(lengths_N.sum()), dtype)
    _assemble(ids, ends_P1, first_N1, marks, ids_T)
    return Encoded(ids_T, lengths_N, cuts_N2)


def cut(offsets_N1: np.ndarray, data_B: np.ndarray, key_N: np.ndarray, rate: float, spm_rate: float = 0.0) -> np.ndarray:
    """Where each document is cut: (start, stop) of its middle as byte offsets in its text, int64 [N, 2]; -1 where it is not.

    A document is drawn with probability `rate`; two character positions, 0 and the end included, are drawn with
    replacement and put in order, with probability `spm_rate` the first of them is 0. A text without a character stays as it is.
    """
    cuts_N2 = np.full((len(offsets_N1) - 1, 2), -1, np.int64)
    _cut(offsets_N1, data_B, key_N, rate, spm_rate, cuts_N2)
    return cuts_N2


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _share(key):  # type: ignore[no-untyped-def]
    """53 bits make a float64 in [0, 1) exactly, so rate 0 draws none and rate 1 all."""
    return (key >> np.uint64(11)) * (1.0 / (1 << 53))


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _cut(offsets_N1, data_B, key_N, rate, spm_rate, cuts_N2):  # type: ignore[no-untyped-def]
    for i in range(len(key_N)):
        if _share(key_N[i]) >= rate:
            continue
        start, stop = offsets_N1[i], offsets_N1[i + 1]
        chars = 0
        for j in range(start, stop):
            chars += (data_B[j] & 0xC0) != 0x80  # every byte but a UTF-8 continuation begins a character
        if chars == 0:
            continue
        one = spread(key_N[i])
        two = spread(one)
        a = np.int64(one % np.uint64(chars + 1))  # the modulo favours small positions by less than 2^-32
        b = np.int64(two % np.uint64(chars + 1))
        if a > b:
            a, b = b, a
        if _share(spread(two)) < spm_rate:
            a = np.int64(0)
        cuts_N2[i, 0] = cuts_N2[i, 1] = stop - start
        seen = 0
        for j in range(start, stop):
            if (data_B[j] & 0xC0) != 0x80:
                if seen == a:
                    cuts_N2[i, 0] = j - start
                if seen == b:
                    cuts_N2[i, 1] = j - start
                    break
                seen += 1


def _pieces(offsets_N1: np.ndarray, cuts_N2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(offsets of the pieces in order of the text, index of each document's first piece and the end): 1 or 3 a document."""
    fim_N = cuts_N2[:, 0] >= 0
    first_N1 = np.concatenate([np.zeros(1, np.int64), np.cumsum(1 + 2 * fim_N)])
    pieces_P1 = np.empty(first_N1[-1] + 1, np.int64)
    pieces_P1[first_N1] = offsets_N1
    for k in (0, 1):
        pieces_P1[first_N1[:-1][fim_N] + 1 + k] = offsets_N1[:-1][fim_N] + cuts_N2[fim_N, k]
    return pieces_P1, first_N1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _assemble(ids, ends_P1, first_N1, marks, out_T):  # type: ignore[no-untyped-def]
    """Pieces to sequences. marks: begin, hole, end, eos; eos -1 = none."""
    at = 0
    for i in range(len(first_N1) - 1):
        p = first_N1[i]
        if first_N1[i + 1] - p == 1:
            for j in range(ends_P1[p], ends_P1[p + 1]):
                out_T[at] = ids[j]
                at += 1
        else:
            for k in range(3):  # begin prefix, hole suffix, end middle
                out_T[at] = marks[k]
                at += 1
                piece = p + (0, 2, 1)[k]
                for j in range(ends_P1[piece], ends_P1[piece + 1]):
                    out_T[at] = ids[j]
                    at += 1
        if marks[3] >= 0:
            out_T[at] = marks[3]
            at += 1


def convert(
    batches: Iterator[pa.RecordBatch], name: str, out: Path, config: Config, state: Encoder
) -> tuple[list[tuple[Path, int]], dict[str, Any]]:
    """One input shard to its .bin/.idx pair and its part of the document map."""
    tables, tokens, changed = [], 0, 0
    with TokenWriter(out / "tokens" / name, state.vocab_size) as writer:
        for batch in batches:
            ids_T, lengths_N, cuts_N2 = encode(batch, config, state)
            writer.add(ids_T, lengths_N)
            fim_N = cuts_N2[:, 0] >= 0
            first_N = tokens + np.cumsum(lengths_N) - lengths_N
            shard = pa.repeat(name, len(lengths_N))
            starts, stops = (pa.array(cuts_N2[:, k], mask=~fim_N) for k in (0, 1))
            columns = [batch.column("id").cast(pa.string()), shard, first_N, lengths_N, fim_N, starts, stops]
            tables.append(pa.table([pa.array(c) if isinstance(c, np.ndarray) else c for c in columns], schema=MAP))
            tokens += len(ids_T)
            changed += int(fim_N.sum())
    table = pa.concat_tables([MAP.empty_table(), *tables])
    path = out / "documents" / f"{name}.parquet"
    write_table(out, path, table)
    files = [(written, table.num_rows) for written in (*writer.paths, path)]
    return files, {"tokens": tokens, "fim_documents": changed}


def merge(batches: Iterator[pa.RecordBatch], out: Path) -> None:
    """The parts of the document map as one file, in order of shard."""
    with atomic(out / "documents.parquet") as temporary, parquet_writer(temporary, MAP) as writer:
        for batch in batches:
            writer.write_batch(batch)


def run(config: Config, out: Path, engine: Engine) -> Report:
    path = path_of(engine, config.tokenizer)
    encoder = load_encoder(path)
    _require(config, encoder)
    work = partial(convert, config=config)
    columns = ["id", "text"]
    report = engine.map_files(work, config.files, out, setup=partial(load_encoder, path), columns=columns)
    parts = [
        FileRecord(**file)
        for name in engine.shards(config.files).names
        for file in (read_json(out / "done" / f"{name}.json") or {"files": []})["files"]
        if file["path"].startswith("documents/")
    ]
    engine.reduce(merge, StepShards(out, tuple(parts)), out, name="documents")
    with atomic(out / "tokenizer.json") as temporary:
        temporary.write_bytes(path.read_bytes())
    write_tokens_json(out, encoder.vocab_size, encoder.special)
    report.notes.update({"encoder": encoder.library, "vocab_size": encoder.vocab_size})
    if encoder.why:
        report.notes["encoder_why"] = encoder.why
    return report
