"""Repository-level samples: the files of one repository joined into texts that are as long as the longest context trained.

    random      (DeepSeek-Coder-V2) the repository's files in random order, cut into samples at file borders
    dependency  (DeepSeek-Coder v1) for Python, Java, C#, C and C++ every weakly connected component of the import graph is
                one sequence, what is needed first; the repository's other files follow in random order

A file is its path as a comment (a setting), then its text; a newline is added to a text that does not end with one and is
followed by another, so that a border between files is one between tokens: every split pattern of a BPE breaks between a
newline and a character that is not white space. The lineage holds the bytes of each file's own text in its sample.

Documents without a repository, or in a language that is not in `languages`, are kept as they are, id included. A sample is
a new document: `path` and `url` only where it is one file, `source`, `commit`, `license` and `lang` where all files agree
(`lang` also where more than half of the bytes do), `created` of the newest file. Score columns describe files and end here.

The order is a hash of (seed, repository, id), so neither shards nor workers matter. All of a repository meets in one task:
memory is about three times its text, hence a 10 GB repository needs a worker of 30 GB. Filter such repositories upstream.

Reference: DeepSeek-Coder (arXiv 2401.14196), section 2.2 and Algorithm 1; for v2 its first author, issue 22 of the repository
deepseek-ai/DeepSeek-Coder-V2 (the paper is silent).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

from corpus.comments import comment_lines
from corpus.dependencies import dependency_order, resolve
from corpus.document import LINEAGE, SCHEMA, Verdict, document_id, keep_all, text_buffers
from corpus.draw import draw_keys
from corpus.engine import Engine
from corpus.errors import ConfigError
from corpus.exchange import partitions_for
from corpus.imports import IMPORT_LANGUAGES, Names, names_in
from corpus.languages import check_language
from corpus.report import Report
from corpus.shards import BATCH_BYTES
from corpus.step import Step

REVISION = 2
REASONS: tuple[str, ...] = ()  # nothing is dropped here

TEXT_PER_DISK = 5  # source code under zstd 1 shrinks 4 to 5 times; it decides only how many partitions there are
ROWS = 1 << 16  # most files in one Verdict: a million one-byte files are 1 MB of text and still a million rows


@dataclass(frozen=True, kw_only=True)
class Config:
    files: Step
    order: Literal["random", "dependency"] = "random"  # v2: random, as 300 languages have no dependency parser (issue 22)
    # v1 has it (section 2.2); for v2 it is not known. Kept, since imports name paths: without them a sample of many files says
    # `from pkg.mod import f` and never which of its texts that is, and the released models are prompted this way.
    path_comments: bool = True
    max_bytes: int = 512 << 10  # 128 K tokens, the longest context trained (DeepSeek-Coder-V2 3.4), at 4 bytes a token
    languages: tuple[str, ...] = ()  # which are joined; none named: all
    separator: str = ""  # between two files of a sample; the authors never said whether there is one
    seed: int = 0

    def __post_init__(self) -> None:
        if self.order not in ("random", "dependency"):
            raise ConfigError(f"order is {self.order!r}; 'random' or 'dependency' expected")
        if self.max_bytes < 1:
            raise ConfigError(f"max_bytes is {self.max_bytes}; at least 1 expected, e.g. {512 << 10}")
        if not 0 <= self.seed < 1 << 64:
            raise ConfigError(f"seed is {self.seed}; 0 to 2**64 - 1 expected")
        for name in self.languages:
            check_language(name, "concatenate_repos.languages")


def judge(batch: pa.RecordBatch, config: Config) -> Iterator[Verdict]:
    """Verdicts on all of `batch`, which holds whole repositories; about 16 MB of text each."""
    batch = batch.select(SCHEMA.names).cast(SCHEMA)
    if batch.num_rows == 0:
        yield keep_all(batch)
        return
    joined = _joined(batch, config)
    order_N = _random_order(batch, config.seed)
    alone_M = order_N[~joined[order_N]]
    for part in _parts(alone_M, _lengths(batch)[alone_M], np.arange(len(alone_M))):
        yield keep_all(batch.take(pa.array(part)))
    order_N = order_N[joined[order_N]]
    if len(order_N) == 0:
        return
    group_N = _codes(batch.column("repo"))[0][order_N]
    unread = np.zeros(batch.num_rows, bool)
    if config.order == "dependency":
        order_N, group_N, unread = _dependency_groups(batch, order_N, group_N)
    heads = _heads(batch, config)
    size_N = _lengths(batch)[order_N] + pc.binary_length(heads).to_numpy()[order_N] + len(config.separator.encode()) + 1
    sample_N = _cut(size_N, group_N, config.max_bytes)
    for part in _parts(np.arange(len(order_N)), size_N, sample_N):
        rows = pa.array(order_N[part])
        yield _merge(batch.take(rows), heads.take(rows), sample_N[part], unread[order_N[part]], config.separator)


def route(batch: pa.RecordBatch, origin: int, *, config: Config, partitions: int) -> pa.RecordBatch:
    """Files that are joined go where their repository goes, others where their id goes."""
    batch = batch.select(SCHEMA.names)
    key = pc.if_else(pa.array(_joined(batch, config)), batch.column("repo"), batch.column("id"))
    partition = draw_keys(key, 0, "repos") % np.uint64(partitions)
    return batch.append_column("partition", pa.array(partition.astype(np.int64)))


def run(config: Config, out: Path, engine: Engine) -> Report:
    files = engine.shards(config.files)
    partitions = partitions_for(TEXT_PER_DISK * sum(files.weight(name) for name in files.names))
    send = partial(route, config=config, partitions=partitions)
    met = engine.exchange(send, files, out, name="repos", partitions=partitions, columns=SCHEMA.names)
    return engine.map_shards(partial(judge, config=config), met, out)


# --- Which, and in what order -----------------------------------------------------------------------------------------


def _joined(batch: pa.RecordBatch, config: Config) -> np.ndarray:
    """bool per row: is it joined with its repository?"""
    joined = pc.is_valid(batch.column("repo"))
    if config.languages:
        wanted = pa.array([check_language(name, "languages") for name in config.languages], pa.string())
        joined = pc.and_(joined, pc.is_in(batch.column("lang"), wanted))
    joined_N: np.ndarray = joined.to_numpy(zero_copy_only=False)
    return joined_N


def _lengths(batch: pa.RecordBatch) -> np.ndarray:
    length_N: np.ndarray = pc.binary_length(batch.column("text")).to_numpy()
    return length_N


def _large(text: str) -> pa.Scalar:
    return pa.scalar(text, pa.large_string())  # Arrow joins large strings with large strings only


def _codes(column: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """An int64 per row, equal where values are, -1 for null; and the values."""
    coded = column.dictionary_encode()
    return coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64), coded.dictionary


def _random_order(batch: pa.RecordBatch, seed: int) -> np.ndarray:
    """Rows by repository (by name, none last), inside it by the hash of (seed, repository, id)."""
    named = [batch.column(name).cast(pa.large_string()).fill_null("") for name in ("repo", "id")]
    key_N = draw_keys(pc.binary_join_element_wise(*named, _large("\n")), seed, "order")
    codes, names = _codes(batch.column("repo"))
    rank = np.full(len(names) + 1, len(names), np.int64)  # the last entry is null's, code -1
    rank[pc.sort_indices(names).to_numpy()] = np.arange(len(names))
    return np.lexsort((key_N, rank[codes]))


def _dependency_groups(
    batch: pa.RecordBatch, order_N: np.ndarray, group_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(order, group, unread by row of the batch): a group per component, and one per repository for other files."""
    unread = np.zeros(batch.num_rows, bool)
    parsed = pc.is_in(batch.column("lang"), pa.array(list(IMPORT_LANGUAGES)))
    parsed_B = pc.and_(parsed, pc.is_valid(batch.column("path"))).to_numpy(zero_copy_only=False)
    chains: list[np.ndarray] = []
    for rows in np.split(order_N, np.flatnonzero(np.diff(group_N)) + 1):
        known = rows[parsed_B[rows]]
        if len(known):
            names = _names(batch, known, unread)
            paths, langs = (batch.column(c).take(pa.array(known)).to_pylist() for c in ("path", "lang"))
            needs = resolve(paths, langs, names)
            chains += [known[chain] for chain in dependency_order(needs, range(len(known)))]
        others = rows[~parsed_B[rows]]
        if len(others):
            chains.append(others)
    return np.concatenate(chains), np.repeat(np.arange(len(chains)), [len(c) for c in chains]), unread


def _names(batch: pa.RecordBatch, rows: np.ndarray, unread: np.ndarray) -> list[Names]:
    offsets, data = text_buffers(batch.column("text"))
    langs = batch.column("lang")
    names = []
    for row in rows.tolist():
        found = names_in(data[offsets[row] : offsets[row + 1]].tobytes(), langs[row].as_py())
        unread[row] = found is None
        names.append(found or Names((), ()))
    return names


@njit(cache=True, nogil=True)
def _cut(size_N: np.ndarray, group_N: np.ndarray, limit: int) -> np.ndarray:
    """The sample of each file: a new one where the group ends or the next file would pass `limit` bytes."""
    sample_N = np.empty(len(size_N), np.int64)
    sample, filled = -1, np.int64(0)
    for i in range(len(size_N)):
        if i == 0 or group_N[i] != group_N[i - 1] or filled + size_N[i] > limit:
            sample += 1
            filled = np.int64(0)
        filled += size_N[i]
        sample_N[i] = sample
    return sample_N


def _parts(rows: np.ndarray, size_N: np.ndarray, sample_N: np.ndarray) -> Iterator[np.ndarray]:
    """`rows` in pieces of whole samples, each of about BATCH_BYTES, or ROWS files."""
    if len(rows) == 0:
        return
    firsts = np.flatnonzero(np.diff(sample_N, prepend=-1))
    ends = np.append(firsts[1:], len(rows))
    filled = size_N.cumsum()
    start = 0
    while start < len(rows):
        done = filled[start - 1] if start else 0
        stop = min(int(filled.searchsorted(done + BATCH_BYTES, side="right")), start + ROWS)
        last = int(ends.searchsorted(stop, side="right")) - 1
        end = int(ends[last]) if last >= 0 and ends[last] > start else int(ends[ends.searchsorted(start, side="right")])
        yield rows[start:end]
        start = end


# --- Making the samples ---------------------------------------------------------------------------------------------------


def _heads(batch: pa.RecordBatch, config: Config) -> pa.Array:
    """The comment line with the path above each file, or nothing."""
    if config.path_comments:
        return comment_lines(batch.column("path"), batch.column("lang"))
    return pa.repeat(_large(""), batch.num_rows)


def _merge(files: pa.RecordBatch, heads: pa.Array, sample_N: np.ndarray, unread_N: np.ndarray, separator: str) -> Verdict:
    """Files in order -> the samples `sample_N` says. The text of all samples is one buffer: head, text, head, text, …"""
    first_N = np.diff(sample_N, prepend=-1) != 0
    last_N = np.append(first_N[1:], True)
    starts_S = np.flatnonzero(first_N)
    text = files.column("text")
    open_N = ~last_N & ~pc.ends_with(text, "\n").to_numpy(zero_copy_only=False) & (_lengths(files) > 0)
    closes = pa.array(["", "\n"], pa.large_string()).take(pa.array(open_N.astype(np.int64)))
    gaps = pa.array(["", separator], pa.large_string()).take(pa.array((~first_N).astype(np.int64)))
    heads = pc.binary_join_element_wise(gaps, heads, _large(""))
    whole = pc.binary_join_element_wise(heads, text, closes, _large(""))
    offsets_N1, data = text_buffers(whole)
    offsets_S1 = np.append(offsets_N1[starts_S], offsets_N1[-1]) - offsets_N1[0]
    texts = pa.LargeStringArray.from_buffers(len(starts_S), pa.py_buffer(offsets_S1), pa.py_buffer(data[offsets_N1[0] :]))
    made = _made(files, texts, starts_S, unread_N)
    sample_N = sample_N - sample_N[0]
    start_N = offsets_N1[:-1] - offsets_N1[starts_S][sample_N] + pc.binary_length(heads).to_numpy()
    into = made.column("id").take(pa.array(sample_N))
    columns = [files.column("id"), into, pa.array(start_N), pa.array(start_N + _lengths(files))]
    none = pa.nulls(files.num_rows, pa.string())
    notes = {"unparsed": int(unread_N.sum())} if unread_N.any() else {}
    return Verdict(files, none, none, made, pa.Table.from_arrays(columns, schema=LINEAGE), notes)


def _made(files: pa.RecordBatch, texts: pa.Array, starts_S: np.ndarray, unread_N: np.ndarray) -> pa.RecordBatch:
    """The new documents: a row per sample, whose files are rows starts_S[s] to starts_S[s + 1]."""
    count_S = np.diff(np.append(starts_S, files.num_rows))
    single_S = pa.array(count_S == 1)
    members = pa.LargeListArray.from_arrays(np.append(starts_S, files.num_rows), files.column("id").cast(pa.large_string()))
    ids = [document_id(f"sample\n{joined}") for joined in pc.binary_join(members, _large("\n")).to_pylist()]
    facts = zip(count_S.tolist(), np.add.reduceat(unread_N, starts_S, dtype=np.int64).tolist(), strict=True)
    columns = {
        "id": pa.array(ids, pa.string()),
        "text": texts,
        "lang": _majority(files, starts_S),
        "created": _newest(files.column("created"), starts_S),
        "meta": pa.array([f'{{"files": {n}, "unparsed": {k}}}' if k else f'{{"files": {n}}}' for n, k in facts], pa.string()),
    }
    nothing = pa.nulls(len(starts_S), pa.string())
    for name in ("source", "repo", "commit", "license"):
        columns[name] = _agreed(files.column(name), starts_S)
    for name in ("url", "path"):
        columns[name] = pc.if_else(single_S, files.column(name).take(pa.array(starts_S)), nothing)
    columns["parent"] = nothing
    return pa.RecordBatch.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def _agreed(column: pa.Array, starts_S: np.ndarray) -> pa.Array:
    """The value all rows of a sample share; null where they differ."""
    codes, _ = _codes(column)
    same = np.minimum.reduceat(codes, starts_S) == np.maximum.reduceat(codes, starts_S)
    return pc.if_else(pa.array(same), column.take(pa.array(starts_S)), pa.scalar(None, column.type))


def _majority(files: pa.RecordBatch, starts_S: np.ndarray) -> pa.Array:
    """The language of more than half of a sample's bytes; null where none has that. An empty text weighs one byte."""
    codes, names = _codes(files.column("lang"))
    langs = len(names) + 1
    sample_N = np.repeat(np.arange(len(starts_S)), np.diff(np.append(starts_S, files.num_rows)))
    pair, where = np.unique(sample_N * langs + codes % langs, return_inverse=True)  # null is the last language
    weight_N = np.maximum(_lengths(files), 1)
    weight_P = np.bincount(where, weight_N).astype(np.int64)
    total_S = np.add.reduceat(weight_N, starts_S)
    wins = 2 * weight_P > total_S[pair // langs]
    best_S = np.full(len(starts_S), langs - 1)
    best_S[pair[wins] // langs] = pair[wins] % langs
    return pa.concat_arrays([names.cast(pa.string()), pa.nulls(1, pa.string())]).take(pa.array(best_S))


def _newest(created: pa.Array, starts_S: np.ndarray) -> pa.Array:
    least = np.iinfo(np.int64).min
    times = created.cast(pa.int64()).fill_null(least).to_numpy(zero_copy_only=False)
    newest = np.maximum.reduceat(times, starts_S)
    return pa.array(newest, mask=newest == least).cast(created.type)
