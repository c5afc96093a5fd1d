"""Explain: what became of one document, a line per step, ending in its token positions or in why it was dropped.

Reads what the steps wrote: rows of shards/ and dropped/, lineage/ where documents merge, the document map where they become
tokens, and the order of the training runs that read those (corpus/seen.py). The text at the end is decoded from the tokens
found and compared with the text the document had before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from corpus.classifier import probability
from corpus.errors import CorruptFile, InputError
from corpus.plan import read_record
from corpus.seen import seen
from corpus.shards import FileRecord, check_file, is_local, open_checked, step_files
from corpus.step import Ends, Step, stage_of, upstream, walk

__all__ = ["Track", "explain", "follow", "token_ranges"]

_FACTS = (
    "lang",
    "lang_by",
    "language",
    "formulas",
    "code_blocks",
    "recall_score",
)  # columns worth a word, where a row has them
_AT_ONCE = 1000  # files: Arrow keeps the footers of all that it reads as one


@dataclasses.dataclass(frozen=True)
class Track:
    """Where the document is after some step: the row `id`; `start, stop`: its bytes of that row's text (None: all of it)."""

    id: str
    text: bytes
    start: int | None = None
    stop: int | None = None


def explain(last: Ends, root: Path, query: str) -> Iterator[str]:
    """Lines for every document that `query` names: an id, a URL, or repository/path.

    A document that no crawl knows, as a whole repository or a copy for another epoch, is followed from the step that made it.
    """
    done = [step for step in walk(last) if read_record(root, step) is not None]
    crawls = [step for step in done if not any(_has_documents(root, other) for other in upstream(step))]
    found = 0
    for steps in (crawls, [step for step in done if step not in crawls]):
        for step in steps:
            for row in _find(root / step.folder, _names(query)):
                found += 1
                if found > 1:
                    yield ""
                made = "" if steps is crawls else f", made by {step.name}"
                yield _printable(f"{_name(row)}  id {row['id']}{made}")
                yield from map(_printable, follow(last, root, step, row))
            if found and steps is not crawls:
                return
        if found:
            return
    if not found:
        raise InputError(
            f"no document {query!r} under {root}: give an id, a URL, or repository/path as the crawl named it "
            "(repository names are in the shards' column repo), for a recipe that has been run"
        )


def _printable(line: str) -> str:
    """One line on any terminal, whatever a path or an n-gram holds."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def _name(row: dict[str, Any]) -> str:
    return "/".join(part for part in (row.get("repo"), row.get("path")) if part) or row.get("url") or "(no path)"


def follow(last: Ends, root: Path, source: Step, row: dict[str, Any]) -> Iterator[str]:
    """The lines of one document, found as `row` in the output of `source`."""
    width = max(len(step.name) for step in walk(last))
    line = f"{{:<{width}}}  {{}}"
    where: dict[str, list[Track]] = {}
    for step in walk(last):
        if step.name == source.name:
            if row["reason"] is not None:
                yield line.format(step.name, _dropped(row))
                return
            known = ("commit", "license", "warc", "offset", "length")
            facts = ", ".join(f"{key} {row[key]}" for key in known if row.get(key) not in (None, ""))
            yield line.format(
                step.name, f"read     shard {row['shard']}, {len(row['text'])} bytes{', ' + facts if facts else ''}"
            )
            where[step.name] = [Track(row["id"], row["text"])]
            continue
        tracks = dict.fromkeys(track for other in upstream(step) for track in where.get(other.name, []))
        if not tracks:
            continue
        if read_record(root, step) is None:
            yield line.format(step.name, "not run yet")
            continue
        for track in tracks:
            fates, onward = _fate(step, root / step.folder, track)
            for fate in fates:
                yield line.format(step.name, fate)
            where.setdefault(step.name, []).extend(onward)


def _scored(row: dict[str, Any]) -> str:
    """The classifier's own score; and the rank's, where the page was trained on."""
    rank = float(probability(np.array([row["logit"]]))[0])
    other = f", ranks by {rank:.4f} with its site unseen" if abs(rank - row["score"]) > 1e-4 else ""
    return f"scored   {row['score']:.4f}{other}, {row['tokens']} tokens, of {row['group']}"


def _fate(step: Step, folder: Path, track: Track) -> tuple[list[str], list[Track]]:
    """What a step did with a track: lines to print, and the tracks in its output."""
    this = pc.field("id") == track.id
    for row in _rows(folder, "dropped", this):
        return [_dropped(row)], []
    if (folder / "documents.parquet").exists():
        return _tokens(folder, track), []
    lines = [_scored(row) for row in _rows(folder, "scores", this)]
    onward: list[Track] = []
    rewrites = getattr(stage_of(step), "REWRITES", False)  # what a stage says whose texts are not those it read
    kept = list(_rows(folder, "shards", this, text=rewrites))
    for row in _rows(folder, "lineage", this):
        begin = row["start"] + (track.start or 0)
        stop = row["start"] + track.stop if track.stop is not None else row["stop"]
        what = "copied   as  " if kept else "merged   into"
        lines.append(f"{what} {row['into']}, bytes {begin}-{stop}")
        onward.append(Track(row["into"], track.text, begin, stop))
    for row in kept:
        facts = ", ".join(f"{key} {_short(row[key])}" for key in _FACTS if row.get(key) is not None)
        lines.append(f"kept     shard {row['shard']}{', ' + facts if facts else ''}")
        if rewrites:
            text = row["text"].encode("utf-8")
            lines[-1] += f", rewritten in {len(text)} bytes"
            track = Track(row["id"], text)
        onward.append(track)
    return lines, onward


def _short(value: Any) -> Any:
    return f"{value:.4f}" if isinstance(value, float) else value


def _dropped(row: dict[str, Any]) -> str:
    return f"dropped  {row['reason']}: {_evidence(row['evidence'])}"


def _evidence(text: str | None) -> str:
    """JSON evidence as `key value` pairs; anything else as it is."""
    if text and text.startswith("{"):
        with contextlib.suppress(ValueError):  # an error message or an n-gram may begin like that
            return ", ".join(f"{key} {value}" for key, value in json.loads(text).items())
    return text or "(no evidence)"


def token_ranges(folder: Path, track: Track) -> tuple[str, list[tuple[int, int]], bytes]:
    """(shard, [(first token in the shard, count), …] in order of the text, the bytes those tokens decode to)."""
    from corpus.tokens import TokenShards, decode_document, locate, token_bytes

    rows = list(_rows(folder, "documents.parquet", pc.field("id") == track.id))
    if not rows:
        raise InputError(f"{folder} has no document {track.id} in documents.parquet")
    shards = TokenShards(folder)
    row = rows[0]
    ids = shards.ids(row["shard"], row["first"], row["count"])
    table = token_bytes(shards.tokenizer_path)
    if track.start is None or track.stop is None:
        return row["shard"], [(row["first"], row["count"])], decode_document(ids, table, shards.special)
    found = locate(ids, table, shards.special, track.start, track.stop)
    taken = [pc.take(table, pa.array(ids[first : first + count])).to_pylist() for first, count in found]
    ranges = [(row["first"] + first, count) for first, count in found]
    return row["shard"], ranges, b"".join(b"".join(part) for part in taken)


def _tokens(folder: Path, track: Track) -> list[str]:
    for kind in ("tokens", "tokens.json", "tokenizer.json"):
        for file in step_files(folder, kind) or ():
            check_file(folder, file)
    shard, ranges, decoded = token_ranges(folder, track)
    spans = ", ".join(f"{first}-{first + count}" for first, count in ranges) or "none"
    total = sum(count for _, count in ranges)
    if decoded == track.text:
        verdict = "they decode to its text"
    elif track.text in decoded:
        verdict = "they decode to its text and its neighbours' at the edges, where a token crosses the border"
    else:
        verdict = "they do NOT decode to its text"
    return [f"tokens   shard {shard}, positions {spans} ({total} tokens); {verdict}", *seen(folder, shard, ranges)]


def _names(query: str) -> Any:
    repo, path = pc.field("repo"), pc.field("path")
    whole = pc.binary_join_element_wise(repo, path, "/") == query
    half = (path.is_null() & (repo == query)) | (repo.is_null() & (path == query))
    return (pc.field("id") == query) | (pc.field("url") == query) | whole | half


def _find(folder: Path, condition: Any) -> Iterator[dict[str, Any]]:
    for row in _rows(folder, "shards", condition, text=True):
        yield {**row, "text": row["text"].encode("utf-8"), "reason": None}
    yield from _rows(folder, "dropped", condition)


def _rows(folder: Path, kind: str, condition: Any, text: bool = False) -> Iterator[dict[str, Any]]:
    """Matching rows of shards/, dropped/, lineage/ or one file, with `shard`, the name of the file they are in.

    CorruptFile for a damaged file; one that a row comes from is hashed first.
    """
    files = step_files(folder, kind) or ()
    for file in files:
        check_file(folder, file)
    for first in range(0, len(files), _AT_ONCE):
        some = files[first : first + _AT_ONCE]
        names = set(_matching(folder, some, condition, lambda _: ["__filename"]).column(0).to_pylist())
        for file in some:
            if any(name.endswith(file.path) for name in names):
                open_checked(folder, file)
                rows = _matching(folder, [file], condition, lambda names: [n for n in names if text or n != "text"])
                for row in rows.to_pylist():
                    yield {"shard": Path(file.path).stem, **row}


def _matching(folder: Path, files: Sequence[FileRecord], condition: Any, choose: Callable[[list[str]], list[str]]) -> pa.Table:
    """The rows that match, of the columns chosen."""
    paths = [folder / file.path for file in files]
    try:
        if is_local(folder):
            data = ds.dataset([str(path) for path in paths], format="parquet")
        else:
            data = ds.dataset([path.path for path in paths], filesystem=folder.fs, format="parquet")  # type: ignore[attr-defined]
        return data.to_table(columns=choose(data.schema.names), filter=condition)
    except (pa.ArrowException, OSError) as error:
        raise CorruptFile(f"{paths[0].parent} cannot be read: {error}", path=str(paths[0])) from error


def _has_documents(root: Path, step: Step) -> bool:
    record = read_record(root, step)
    return record is not None and any(f["path"].startswith("shards/") for f in record["files"])
