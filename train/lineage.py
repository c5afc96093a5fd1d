"""Which documents a step reads, with the names the corpus gave them: the way from a loss that jumps to the text behind it.

`corpus explain` goes the other way, from a document to its steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from corpus.errors import ConfigError
from corpus.tokens import decode_document, token_bytes
from train.config import TrainConfig
from train.data import Reader
from train.schedule import samples_before
from train.sources import open_data, streams

__all__ = ["step_documents"]

_IDS, _LETTERS = 40, 60  # of a part's beginning, to show


def step_documents(config: TrainConfig, root: Path, step: int) -> Iterator[str]:
    """A line for every sample of a step (1, 2, …, as in the log) and for every document in it: id, shard, ids, first words.

    It needs the shards only: the run may be at any step, or not have begun.
    """
    if not 1 <= step <= config.steps:
        raise ConfigError(f"--step {step}: 1 to {config.steps} expected, the steps of this run")
    data = open_data(config, root)
    stream, _ = streams(config, data)
    first, stop = samples_before(step - 1, config), samples_before(step, config)
    found = list(stream.parts(first, stop - first))
    names, tables = {}, {}
    for reader in stream.readers:
        numbers = {part.document for other, parts in found for part in parts if other is reader}
        names[reader.name] = reader.shards.document_ids(numbers)
        tables[reader.name] = _table(reader)
    yield f"step {step} of {config.steps}: samples {first}-{stop}, each {config.seq_len} tokens and the label of the last"
    for sample, (reader, parts) in enumerate(found, first):
        epoch = "" if config.order == "megatron" else f", epoch {parts[0].epoch}"
        yield f"sample {sample}  {reader.name}{epoch}"
        for part in parts:
            shard, begin, _ = reader.shards.place(part.document)
            spans = ", ".join(f"{begin + a}-{begin + b}" for a, b in reader.origins(part)) or "none"
            name = names[reader.name].get(part.document, f"document {part.document}")
            words = _words(reader.read(part)[:_IDS], tables[reader.name])
            yield f"  {name}  shard {shard}, positions {spans}{' after FIM' if part.fim else ''}  {words}"


def _table(reader: Reader) -> pa.LargeBinaryArray | None:
    path = reader.shards.tokenizer_path
    return token_bytes(path) if path.exists() else None


def _words(ids: np.ndarray, table: pa.LargeBinaryArray | None) -> str:
    """The beginning of a text on one line; ids where no tokenizer lies beside the shards."""
    if table is None:
        return " ".join(map(str, ids[:8].tolist()))
    text = decode_document(ids, table, {}).decode("utf-8", "replace")[:_LETTERS]
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
