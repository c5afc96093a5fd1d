"""The documents a model is asked about: held out from training, as plain text, with their language and source.

Shards know a document as ids and, in documents.parquet, by its id in the corpus. Text comes from the ids: FIM is undone, the
end of text left out. Language and source come from the step that encode_tokens read, found through the step records, so that a
folder of shards is enough; where that step has been deleted to save space they are "unknown", and the caller is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from corpus.errors import CorruptFile, InputError
from corpus.order import permuted
from corpus.shards import read_json
from corpus.tokens import TokenShards, decode_document, token_bytes
from train.subject import Held

__all__ = ["Document", "read_documents"]

_KEY = 0x6576616C75617465  # of the order in which documents are taken, the same for every model
_UNKNOWN = "unknown"  # the step that was encoded is gone
_NONE = "none"  # it names none


class Document(NamedTuple):
    id: str
    text: str  # never empty
    lang: str
    source: str  # as the corpus calls it
    data: str  # the source of the run's blend


def read_documents(held: Sequence[Held], most: int | None, say: Callable[[str], None]) -> list[Document]:
    """Documents of every source; of more than `most`, the first in a keyed order, and that is said."""
    found: list[Document] = []
    for source in held:
        numbers = source.numbers
        if most is not None and len(numbers) > most:
            say(f"{most:,} of the {len(numbers):,} documents held out of {source.name}, by key; --documents to change")
            numbers = np.sort(numbers[permuted(np.arange(most), len(numbers), _KEY)])
        found.extend(_read(source, numbers, say))
    if not found:
        raise InputError("no document with text is held out; raise the run's validation, or name other shards with --data")
    return found


def _read(held: Held, numbers: np.ndarray, say: Callable[[str], None]) -> list[Document]:
    shards = held.shards
    if not shards.ours:
        raise InputError(
            f"{shards.folder} was not written by encode_tokens: without its tokenizer.json the bytes of its documents are not "
            "known. Evaluate on shards of ours with --data."
        )
    table = token_bytes(shards.tokenizer_path)
    where = _map_rows(shards, numbers)
    ids = where.column("id").to_pylist()
    kinds = _kinds(shards, where, say)
    found, empty = [], 0
    for number, name in zip(numbers.tolist(), ids):
        text = decode_document(shards.document(number), table, shards.special).decode("utf-8")
        empty += not text
        if text:
            found.append(Document(name, text, *kinds.get(name, (_UNKNOWN, _UNKNOWN)), held.name))
    if empty:
        say(f"{empty:,} documents held out of {held.name} have no text and are not asked about")
    return found


def _map_rows(shards: TokenShards, numbers: np.ndarray) -> pa.Table:
    """Rows (id, shard) of the document map, which has one per document in the order of the shards."""
    path = shards.folder / "documents.parquet"
    if not path.exists():
        raise InputError(f"{path} is missing; the folder of a finished encode_tokens step expected")
    rows = pq.read_table(path, columns=["id", "shard", "count"])
    if not np.array_equal(rows.column("count").to_numpy(), shards.lengths):
        raise CorruptFile(f"{path} does not say the lengths that the .idx files say. Run encode_tokens again.", path=str(path))
    return rows.select(["id", "shard"]).take(pa.array(numbers))


def _kinds(shards: TokenShards, where: pa.Table, say: Callable[[str], None]) -> dict[str, tuple[str, str]]:
    """(lang, source) by document id, from the step that was encoded: its shard of a name became ours of that name."""
    record = read_json(shards.folder / "step.json")
    upstream = record["config"]["fields"]["files"] if record is not None else None
    folder = None if upstream is None else shards.folder.parent / f"{upstream['step']}-{upstream['fingerprint'][:12]}"
    names = sorted(set(where.column("shard").to_pylist()))
    paths = [] if folder is None else [folder / "shards" / f"{name}.parquet" for name in names]
    missing: list[Path] = [path for path in paths if not path.exists()]
    if folder is None or missing:
        seen = f"{missing[0]} is not there" if missing else f"{shards.folder} has no step.json"
        say(f"languages and sources of documents are not known: {seen}")
        return {}
    wanted = where.column("id").combine_chunks()
    kinds: dict[str, tuple[str, str]] = {}
    for path in paths:
        table = pq.read_table(path, columns=["id", "lang", "source"])
        table = table.filter(pc.is_in(table.column("id"), wanted))
        columns = (table.column(name).to_pylist() for name in ("id", "lang", "source"))
        kinds.update((name, (lang or _NONE, source or _NONE)) for name, lang, source in zip(*columns))
    return kinds
