"""Token shards: Megatron's .bin/.idx pairs, read by memory map, and the way back from tokens to bytes of text.

The border between the corpus and train/: imports neither torch nor ray. A finished encode_tokens step holds

    tokens/NAME.bin, NAME.idx   one pair per input shard with documents; one sequence per document (Megatron's MMIDIDX)
    tokens.json                 vocabulary size, element type, special ids by name
    tokenizer.json              the tokenizer that made them
    documents.parquet           id -> shard, first token in it, count, FIM cuts (MAP)

.idx, little-endian: magic, version u64, type code u8, sequences u64, documents + 1 u64, int32 lengths, int64 byte pointers
into .bin, int64 document bounds. Type codes are Megatron's (6 and 7 are swapped against fairseq's; there is no u32), and so
is the choice between them: uint16 below 65,500 ids, else int32. The .bin/.idx pairs of other tools
are read as well: a folder of them, or the prefix of one; the vocabulary is then for the caller to say.
"""

from __future__ import annotations

import contextlib
import functools
import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from corpus.errors import CorruptFile, InputError
from corpus.shards import FileRecord, as_path, atomic, is_local, read_json, step_files, write_json

__all__ = [
    "MAP",
    "TokenFile",
    "TokenShards",
    "TokenWriter",
    "decode_document",
    "locate",
    "token_bytes",
    "token_dtype",
    "write_tokens_json",
]

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")  # magic, version, type code, sequences, document bounds: 34 bytes
_CODES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f8", 7: "<f4", 8: "<u2"}
_OPEN_FILES = 128  # each map keeps a descriptor, and 1,024 of them is a common limit

# The document map. Cuts are byte offsets in the document's UTF-8 text: prefix [0, start), middle [start, stop), suffix.
MAP = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("first", pa.int64(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
        pa.field("fim", pa.bool_(), nullable=False),
        pa.field("cut_start", pa.int64()),
        pa.field("cut_stop", pa.int64()),
    ]
)


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Megatron's rule: uint16 below 65,500 ids, else int32."""
    return np.dtype("<u2" if vocab_size < 65_500 else "<i4")


class TokenWriter:
    """Writes `<prefix>.bin` and `<prefix>.idx`; both appear at the end of the `with` block, or neither.

    `add` appends documents: ids go to disk as they come, 4 bytes a document stay in memory. Without documents no file is
    written, as an empty .bin cannot be mapped (Megatron's loader stops at one). paths: the files written.
    """

    def __init__(self, prefix: Path, vocab_size: int) -> None:
        self.prefix, self.dtype = prefix, token_dtype(vocab_size)
        self.paths: list[Path] = []
        self._lengths: list[np.ndarray] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> TokenWriter:
        return self

    def add(self, ids: np.ndarray, lengths: np.ndarray) -> None:
        """Documents: their ids one after another, and how many belong to each."""
        if len(ids) != lengths.sum():
            raise ValueError(f"{len(ids)} ids for documents of {lengths.sum()} ids in all")
        if not len(lengths):
            return
        if lengths.max() > np.iinfo(np.int32).max:
            raise InputError(f"{self.prefix}: a document of {lengths.max()} ids; Megatron's index holds 2^31 - 1 at most")
        if not self.paths:
            self._open()
        self._lengths.append(lengths.astype("<i4"))
        self._sink.write(np.ascontiguousarray(ids, self.dtype).data)

    def _open(self) -> None:
        self.paths = [self.prefix.with_name(self.prefix.name + suffix) for suffix in (".bin", ".idx")]
        self._index = self._stack.enter_context(atomic(self.paths[1]))
        temporary = self._stack.enter_context(atomic(self.paths[0]))
        self._sink = self._stack.enter_context(temporary.open("wb"))

    def __exit__(self, *error: Any) -> None:
        if error[0] is None and self.paths:
            self._write_index()
        self._stack.__exit__(*error)

    def _write_index(self) -> None:
        lengths = np.concatenate(self._lengths)
        pointers = np.zeros(len(lengths), "<i8")
        np.cumsum(lengths[:-1], out=pointers[1:])
        code = next(c for c, name in _CODES.items() if np.dtype(name) == self.dtype)
        with self._index.open("wb") as file:
            file.write(_HEADER.pack(_MAGIC, 1, code, len(lengths), len(lengths) + 1))
            file.write(lengths.tobytes())
            file.write((pointers * self.dtype.itemsize).tobytes())
            file.write(np.arange(len(lengths) + 1, dtype="<i8").tobytes())


class TokenFile:
    """One .bin/.idx pair, anyone's. `lengths` and `starts` (elements, not bytes) per sequence; `data` maps the .bin."""

    def __init__(self, prefix: Path) -> None:
        self.bin = prefix.with_name(prefix.name + ".bin")
        path = prefix.with_name(prefix.name + ".idx")
        try:
            raw, size = path.read_bytes(), self.bin.stat().st_size
        except FileNotFoundError as error:
            raise InputError(f"{error.filename} is missing; {path.name} and {self.bin.name} belong together") from None
        if len(raw) < _HEADER.size:
            raise _bad(path, f"has {len(raw)} bytes, at least {_HEADER.size} expected")
        magic, version, code, sequences, bounds = _HEADER.unpack_from(raw)
        if magic != _MAGIC or version != 1 or code not in _CODES:
            raise _bad(path, f"starts with {magic!r} version {version} type {code}, {_MAGIC!r} version 1 type 1-8 expected")
        if len(raw) < _HEADER.size + 12 * sequences + 8 * bounds:
            raise _bad(path, f"has {len(raw)} bytes, too few for {sequences} sequences and {bounds} document bounds")
        last = np.frombuffer(raw, "<i8", bounds, _HEADER.size + 12 * sequences)[-1:].tolist()
        if last != [sequences]:
            raise _bad(path, f"has document bounds that end with {last}, [{sequences}] expected")
        self.dtype = np.dtype(_CODES[code])
        if self.dtype.kind == "f":
            raise InputError(f"{path} says its ids are of type {self.dtype}, whole numbers expected")
        self.lengths = np.frombuffer(raw, "<i4", sequences, _HEADER.size)
        pointers = np.frombuffer(raw, "<i8", sequences, _HEADER.size + 4 * sequences)
        self.starts = pointers // self.dtype.itemsize
        if sequences and min(int(self.lengths.min()), int(self.starts.min())) < 0:
            raise _bad(path, "has negative lengths or positions")
        if sequences and int((self.starts + self.lengths).max()) * self.dtype.itemsize > size:
            raise _bad(self.bin, f"has {size} bytes, fewer than its index points at")

    def data(self) -> np.ndarray:
        """All ids, a read-only view of the mapped file."""
        if not is_local(self.bin):
            return np.frombuffer(self.bin.read_bytes(), self.dtype)
        if self.bin.stat().st_size == 0:
            return np.zeros(0, self.dtype)  # an empty file cannot be mapped
        return np.memmap(self.bin, self.dtype, "r").view(np.ndarray)


def _bad(path: Path, seen: str) -> CorruptFile:
    return CorruptFile(
        f"{path} {seen}. Write it again: a step of ours by deleting its folder and running it.", path=str(path), file=path.name
    )


class TokenShards:
    """Every document of a finished encode_tokens step, in order of shard name. `folder` is the step's folder.

    Or of .bin/.idx pairs that another tool wrote: `folder` has them, itself or in tokens/, or is the path of one pair without
    .bin; `vocab_size` is then required (InputError). A sequence there counts as a document, as in Megatron's GPTDataset.

    documents, tokens: totals. dtype: of the ids. lengths: int64 [documents]. special: name -> id ("eos", "bos",
    "fim_begin", "fim_hole", "fim_end"; those the tokenizer has). ours: whether encode_tokens wrote them. Lengths are in
    memory, 12 bytes a document; ids are mapped.
    """

    def __init__(self, folder: Path | str, vocab_size: int | None = None) -> None:
        self.folder = as_path(folder)
        meta = read_json(self.folder / "tokens.json")
        self.ours = meta is not None
        self.tokenizer_path = self.folder / "tokenizer.json"
        prefixes = self._prefixes()
        if meta is None:
            meta = {"vocab_size": vocab_size, "special": {}}
            if not prefixes:
                raise InputError(
                    f"{self.folder} has no tokens.json; the folder of a finished encode_tokens step expected, or a folder or "
                    "path prefix of Megatron's .bin/.idx files, of which there are none either"
                )
            if vocab_size is None:
                raise InputError(
                    f"{self.folder} has .bin/.idx files and no tokens.json, so nothing says how many ids its tokenizer has; "
                    "set model.vocab_size"
                )
        self.vocab_size: int = meta["vocab_size"]
        self.special: dict[str, int] = meta["special"]
        self.names = [prefix.name for prefix in prefixes]
        self.files = [TokenFile(prefix) for prefix in prefixes]
        kinds = [meta["dtype"]] if "dtype" in meta else [f.dtype for f in self.files]
        self.dtype: np.dtype[Any] = np.result_type(*kinds)
        self.lengths = np.concatenate([np.zeros(0, np.int64), *(f.lengths for f in self.files)]).astype(np.int64)
        self.documents = len(self.lengths)
        self.tokens = int(self.lengths.sum())
        self._ends = np.cumsum([len(f.lengths) for f in self.files], dtype=np.int64)
        self._data = functools.lru_cache(maxsize=_OPEN_FILES)(self._map)

    def _prefixes(self) -> list[Path]:
        """Paths of the pairs without their .idx, in order of name."""
        if not self.ours and self.folder.name and self.folder.with_name(self.folder.name + ".idx").exists():
            return [self.folder]
        for place in (self.folder / "tokens",) if self.ours else (self.folder, self.folder / "tokens"):
            if names := sorted(path.name[: -len(".idx")] for path in place.glob("*.idx")):
                return [place / name for name in names]
        return []

    def _map(self, shard: int) -> np.ndarray:
        return self.files[shard].data()

    @functools.cached_property
    def records(self) -> tuple[FileRecord, ...]:
        """What encode_tokens recorded of its token files; none for files of other tools, which have no checksum."""
        return (step_files(self.folder, "tokens") if self.ours else None) or ()

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenShards, (self.folder, self.vocab_size)

    def document(self, i: int) -> np.ndarray:
        """Ids of document i (0 <= i < documents), a read-only view."""
        shard, start, count = self._place(i)
        return self._data(shard)[start : start + count]

    def _place(self, i: int) -> tuple[int, int, int]:
        if not 0 <= i < self.documents:
            raise IndexError(f"document {i} of {self.documents}")
        shard = int(self._ends.searchsorted(i, side="right"))
        file = self.files[shard]
        row = i - (int(self._ends[shard - 1]) if shard else 0)
        return shard, int(file.starts[row]), int(file.lengths[row])

    def place(self, i: int) -> tuple[str, int, int]:
        """(shard, first id in it, count) of document i: how the document map names it."""
        shard, start, count = self._place(i)
        return self.names[shard], start, count

    def number(self, shard: str, position: int) -> int:
        """The document whose ids include the one at `position` of a shard."""
        index = self.names.index(shard)
        starts = self.files[index].starts
        row = int(np.flatnonzero((starts <= position) & (position < starts + self.files[index].lengths))[0])
        return row + (int(self._ends[index - 1]) if index else 0)

    def fim_documents(self) -> int:
        """How many documents encode_tokens transformed, as far as there is a document map."""
        path = self.folder / "documents.parquet"
        return int(pc.sum(pq.read_table(path, columns=["fim"]).column(0)).as_py() or 0) if path.exists() else 0

    def document_ids(self, numbers: Iterable[int]) -> dict[int, str]:
        """The id, as in the corpus, of each of some documents that have tokens; none for those no document map names."""
        where = {self.place(i)[:2]: i for i in numbers}
        if not where or not (self.folder / "documents.parquet").exists():
            return {}
        first = pa.array([place[1] for place in where], pa.int64())
        rows = pq.read_table(
            self.folder / "documents.parquet",
            columns=["id", "shard", "first"],
            filters=pc.field("first").isin(first) & (pc.field("count") > 0),
        )
        named = {(row["shard"], row["first"]): row["id"] for row in rows.to_pylist()}
        return {i: named[place] for place, i in where.items() if place in named}

    def ids(self, shard: str, first: int, count: int) -> np.ndarray:
        """`count` ids from position `first` of a shard: what a row of the document map names."""
        return self._data(self.names.index(shard))[first : first + count]


def write_tokens_json(folder: Path, vocab_size: int, special: dict[str, int]) -> None:
    """The record TokenShards reads first."""
    write_json(folder / "tokens.json", {"vocab_size": vocab_size, "dtype": token_dtype(vocab_size).str, "special": special})


# --- From tokens back to text ------------------------------------------------------------------------------------------


def token_bytes(tokenizer: Path | str) -> pa.LargeBinaryArray:
    """The bytes of every id of a byte-level BPE tokenizer.json; special tokens and unused ids stand for none.

    InputError for a tokenizer that is not byte-level: its tokens are not bytes of the text.
    """
    path = as_path(tokenizer)
    spec = json.loads(path.read_text("utf-8"))
    byte_of = {char: byte for byte, char in enumerate(_byte_letters())}
    added = spec.get("added_tokens") or []
    table = {t["id"]: b"" if t["special"] else t["content"].encode("utf-8") for t in added}
    for token, i in spec["model"]["vocab"].items():
        if i in table:
            continue  # an added token may stand in the vocabulary too, spelled plainly
        try:
            table[i] = bytes([byte_of[char] for char in token])
        except KeyError as error:
            raise InputError(f"{path} is not byte-level: token {token!r} has {error.args[0]!r}, no letter of a byte") from None
    return pa.array([table.get(i, b"") for i in range(max(table, default=-1) + 1)], pa.large_binary())


def _byte_letters() -> list[str]:
    """GPT-2's letter for each byte: itself where printable, else the next unused code point from 256 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    unused = iter(range(256, 512))
    return [chr(byte if byte in printable else next(unused)) for byte in range(256)]


def decode_document(ids: np.ndarray, table: pa.LargeBinaryArray, special: dict[str, int]) -> bytes:
    """The text a document was made from: FIM undone, special tokens left out. `table` from token_bytes."""
    return b"".join(_decode(ids[a : a + n], table) for a, n in _in_order(ids, special))


def _decode(ids: np.ndarray, table: pa.LargeBinaryArray) -> bytes:
    taken = table.take(pa.array(ids))
    _, offsets, data = taken.buffers()
    end = np.frombuffer(offsets, np.int64)[len(taken)] if len(taken) else 0
    return bytes(memoryview(data)[:end]) if data is not None else b""


def _in_order(ids: np.ndarray, special: dict[str, int]) -> list[tuple[int, int]]:
    """(first, count) of the stretches of `ids` that, one after another, are the text."""
    stop = len(ids) - 1 if len(ids) and ids[-1] == special.get("eos") else len(ids)
    begin, hole, end = (special.get(name) for name in ("fim_begin", "fim_hole", "fim_end"))
    if begin is None or not stop or ids[0] != begin:
        return [(0, stop)]
    h = int(np.flatnonzero(ids == hole)[0])
    e = int(np.flatnonzero(ids == end)[0])
    return [(1, h - 1), (e + 1, stop - e - 1), (h + 1, e - h - 1)]  # prefix, middle, suffix


def locate(
    ids: np.ndarray, table: pa.LargeBinaryArray, special: dict[str, int], start: int, stop: int
) -> list[tuple[int, int]]:
    """(first, count) of the tokens covering bytes [start, stop) of the document's text, in order of the text.

    Decoded one after another they contain the bytes, and are exactly them where token boundaries fall on start and stop.
    Under FIM one stretch of text may lie in up to three places.
    """
    lengths = pc.binary_length(table).to_numpy()
    found = []
    at = 0  # bytes of the text before the next token
    for first, count in _in_order(ids, special):
        bounds = at + np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths[ids[first : first + count]])])
        at = int(bounds[-1])
        a = int(bounds[1:].searchsorted(start, side="right"))  # the first token that ends past start
        b = int(bounds[:-1].searchsorted(stop, side="left"))  # the first that begins at stop or later
        if start < stop and a < b:
            found.append((first + a, b - a))
    return found
