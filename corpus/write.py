"""Turning Verdicts into a task's files: shards of what is kept, rows of what is dropped, lineage of what is merged."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from corpus.document import DROPPED, LINEAGE, Verdict, text_bytes
from corpus.errors import ConservationError
from corpus.report import Report
from corpus.shards import BATCH_BYTES, SHARD_BYTES, FileRecord, atomic, parquet_writer, record_file, write_table

__all__ = ["ShardWriter", "absorb", "by_bytes", "clear_peak", "peak_memory"]


def clear_peak() -> None:
    """Let peak_memory begin anew, where the system can (Linux): a worker runs many tasks, and its peak is not all of theirs."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """High-water mark of this process in bytes, mapped files included; since clear_peak, where there is one."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def by_bytes(batch: pa.RecordBatch, limit: int = BATCH_BYTES) -> Iterator[pa.RecordBatch]:
    """Slices of at most about `limit` bytes of text, at least one row each."""
    if batch.num_rows <= 1 or text_bytes(batch) <= limit:
        yield batch
        return
    ends = pc.cumulative_sum(pc.cast(pc.binary_length(batch.column("text")), pa.int64())).to_numpy()
    start = 0
    while start < batch.num_rows:
        base = ends[start - 1] if start else 0
        stop = max(start + 1, int(ends.searchsorted(base + limit, side="right")))
        yield batch.slice(start, stop - start)
        start = stop


class ShardWriter:
    """The open files of one task. Nothing is visible until `close`; an exception leaves nothing behind."""

    def __init__(self, out: Path, name: str, roll: bool) -> None:
        self.out, self.name, self.roll = out, name, roll
        self.files: list[FileRecord] = []
        self.dropped: list[pa.Table] = []
        self.lineage: list[pa.Table] = []
        self.bytes = self.rows = 0
        self.part = -1
        self._atomic: Any = None
        self._writer: pq.ParquetWriter | None = None
        self._path = out
        self._schema: pa.Schema | None = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._atomic is not None and error[0] is not None:
            writer, self._writer = self._writer, None
            context, self._atomic = self._atomic, None
            if writer is not None:
                with contextlib.suppress(OSError, pa.ArrowException):  # on a full disk its last bytes do not fit either:
                    writer.close()  # the error on its way says so, and the file must still go
            context.__exit__(*error)

    def keep(self, batch: pa.RecordBatch) -> None:
        """Documents to the current shard; the next shard begins when this one has SHARD_BYTES (only with roll)."""
        if self._writer is None:
            self._open(batch.schema)
        assert self._writer is not None
        if batch.num_rows:
            self._writer.write_batch(batch.cast(self._schema) if batch.schema != self._schema else batch)
        self.rows += batch.num_rows
        self.bytes += text_bytes(batch)
        if self.roll and self.bytes >= SHARD_BYTES:
            self._finish()

    def _open(self, schema: pa.Schema) -> None:
        self.part += 1
        name = f"{self.name}-{self.part:03d}" if self.roll else self.name
        self._path = self.out / "shards" / f"{name}.parquet"
        self._schema = self._schema or schema.remove_metadata()
        self._atomic = atomic(self._path)
        self._writer = parquet_writer(self._atomic.__enter__(), self._schema)
        self.rows = self.bytes = 0

    def _finish(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self._atomic.__exit__(None, None, None)
        self._writer = self._atomic = None
        self.files.append(record_file(self.out, self._path, self.rows))

    def close(self) -> list[FileRecord]:
        """Publish everything; the records of the files, shards first."""
        self._finish()
        for kind, tables in (("dropped", self.dropped), ("lineage", self.lineage)):
            if tables:
                path = self.out / kind / f"{self.name}.parquet"
                self.files.append(write_table(self.out, path, pa.concat_tables(tables)))
        return self.files


def absorb(batch: Any, judged: Any, writer: ShardWriter, report: Report, strict: bool, where: str) -> None:
    """Write the Verdict (or Verdicts) on `batch` and count it.

    strict: `batch` is documents and `judged` must be about exactly those, in order; otherwise (a source) the Verdicts
    themselves say what was read.
    """
    whole = isinstance(judged, Verdict)
    seen = 0
    for verdict in [judged] if whole else judged:
        if strict and whole and not verdict.batch.column("id").equals(batch.column("id")):
            raise ConservationError(f"{where}: the Verdict is about other documents than the batch it was given")
        seen += verdict.batch.num_rows
        _write(verdict, writer, report, where)
    if strict and seen != batch.num_rows:
        raise ConservationError(f"{where}: {batch.num_rows} documents went in, Verdicts on {seen} came out")


def _write(verdict: Verdict, writer: ShardWriter, report: Report, where: str) -> None:
    batch = verdict.batch
    size = text_bytes(batch)
    report.read += batch.num_rows
    report.bytes_in += size
    for name, count in verdict.notes.items():
        report.notes[name] = report.notes.get(name, 0) + count
    keep = pc.is_null(verdict.reason)
    kept = batch.filter(keep) if verdict.reason.null_count < batch.num_rows else batch
    if verdict.reason.null_count < batch.num_rows:
        _drop(verdict, writer, report)
    if verdict.made is None:
        report.kept += kept.num_rows
        report.bytes_out += text_bytes(kept)
        for part in by_bytes(kept):
            writer.keep(part)
        return
    assert verdict.lineage is not None
    orphans = pc.sum(pc.invert(pc.is_in(kept.column("id"), verdict.lineage.column("id").combine_chunks()))).as_py() or 0
    if orphans:
        raise ConservationError(f"{where}: {orphans} documents are in no new document and were not dropped")
    report.merged += kept.num_rows
    report.created += verdict.made.num_rows
    report.bytes_out += text_bytes(verdict.made)
    writer.lineage.append(verdict.lineage.cast(LINEAGE))
    for part in by_bytes(verdict.made):
        writer.keep(part)


def _drop(verdict: Verdict, writer: ShardWriter, report: Report) -> None:
    gone = pc.is_valid(verdict.reason)
    batch = verdict.batch.filter(gone)
    reason, evidence = verdict.reason.filter(gone), verdict.evidence.filter(gone)
    length = pc.cast(pc.binary_length(batch.column("text")), pa.int64())
    nothing = pa.nulls(batch.num_rows, pa.string())
    names = batch.schema.names
    columns = [batch.column(n) if n in names else nothing for n in ("id", "repo", "path", "url")]
    table = pa.Table.from_arrays([*columns, length, reason.cast(pa.string()), evidence.cast(pa.string())], schema=DROPPED)
    writer.dropped.append(table)
    sums = pa.table({"reason": reason, "bytes": length}).group_by("reason").aggregate([("bytes", "sum"), ("bytes", "count")])
    for row in sums.to_pylist():
        report.dropped[row["reason"]] = report.dropped.get(row["reason"], 0) + row["bytes_count"]
        report.dropped_bytes[row["reason"]] = report.dropped_bytes.get(row["reason"], 0) + row["bytes_sum"]
