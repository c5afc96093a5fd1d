"""fastText on BPE ids: training it, folding it into a table, and scoring with that table.

A page is given to fastText as the ids of its tokens, written as decimal words, so that what counts as a word does not hang on
spaces (DeepSeek-Coder-V2, section 2). The model is stock: `fasttext` loads model.bin and gives the same probabilities.

Scoring does not need it. With two labels, fastText's logit is the mean over features of  input[feature] · (output[1] −
output[0]),  so a model of 2,000,000 rows of 256 numbers folds into one number a row: 8 MB, and a page costs a look-up per
feature. Hashes of words are made once, for every id.

Training runs on one thread: with more, fastText's bytes differ from run to run. `fasttext` must be the distribution
fasttext-community: fasttext 0.9.3 trains on uninitialised memory below ten threads.

Reference: Joulin et al., arXiv 1607.01759. DeepSeekMath (arXiv 2402.03300), section 2.1: dim 256, rate 0.1, runs of 3 words,
words seen 3 times, 3 epochs; what it leaves open is fastText's default (softmax, 2,000,000 buckets).
"""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np

from corpus.classifier_kernels import decimal_hashes, logits, word_hash, write_lines
from corpus.errors import InputError
from corpus.shards import read_array

__all__ = ["Scorer", "Setting", "collapse", "first_ids", "probability", "read_table", "train", "write_table", "write_training"]

_MAGIC, _VERSION = 793712314, 12
_END = b"</s>"
_LABELS = (b"__label__other ", b"__label__topic ")  # of the same width in the file: padded below
_EPSILON = 1e-5  # fastText adds it to a probability before the logarithm, so every probability it reports has it


@dataclasses.dataclass(frozen=True)
class Setting:
    """fastText's hyper-parameters; the defaults are DeepSeekMath's."""

    dim: int = 256
    rate: float = 0.1
    epochs: int = 3
    runs: int = 3  # words in the longest run that is a feature: fastText's wordNgrams
    min_count: int = 3
    buckets: int = 2_000_000
    seed: int = 0


def write_training(out: IO[bytes], ids_T: np.ndarray, ends_N1: np.ndarray, label_N: np.ndarray, limit: int) -> None:
    """Append documents to fastText's input. label_N: 1 on topic, 0 not; the first `limit` ids of each."""
    cut_T, cut_N1 = first_ids(ids_T, ends_N1, limit)
    heads = np.frombuffer(b"".join(_LABELS), np.uint8).reshape(2, -1)
    out_B = np.empty(len(label_N) * (heads.shape[1] + 1) + 11 * len(cut_T), np.uint8)
    size = write_lines(cut_T, cut_N1, label_N.astype(np.int64), heads, out_B)
    out.write(out_B[:size].data)


def first_ids(ids_T: np.ndarray, ends_N1: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Documents cut to their first `limit` ids: (ids, ends from 0)."""
    lengths_N = np.minimum(np.diff(ends_N1), limit)
    cut_N1 = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths_N)])
    at_T = np.arange(cut_N1[-1]) + np.repeat(ends_N1[:-1] - cut_N1[:-1], lengths_N)
    return ids_T[at_T], cut_N1


def train(text: Path, setting: Setting, model: Path) -> None:
    """fastText's training on a file of write_training; writes model.bin. InputError where it finds no word to learn."""
    import fasttext  # type: ignore[import-untyped]

    try:
        trained = fasttext.train_supervised(
            input=str(text),
            dim=setting.dim,
            lr=setting.rate,
            epoch=setting.epochs,
            wordNgrams=setting.runs,
            minCount=setting.min_count,
            bucket=setting.buckets,
            seed=setting.seed,
            loss="softmax",
            minn=0,
            maxn=0,
            thread=1,
            verbose=0,
        )
    except (ValueError, RuntimeError) as error:  # an empty vocabulary; numbers that grew past any bound
        raise InputError(f"fastText cannot train on {text.name} with {setting}: {error}") from error
    trained.save_model(str(model))


@dataclasses.dataclass(frozen=True)
class Scorer:
    """A model folded for ids below `len(hash_V)`; see corpus.classifier_kernels.logits. limit: ids read of a document."""

    word_V: np.ndarray
    known_V: np.ndarray
    hash_V: np.ndarray
    bucket_B: np.ndarray
    end: tuple[int, float, int]
    runs: int
    limit: int

    def logits(self, ids_T: np.ndarray, ends_N1: np.ndarray) -> np.ndarray:
        """float32 [N], positive where "on topic" is the likelier label."""
        if len(ids_T) and int(ids_T.max()) >= len(self.hash_V):
            raise InputError(f"id {ids_T.max()} is outside the classifier's {len(self.hash_V)} ids; it is of another tokenizer")
        parts = self.hash_V, self.word_V, self.known_V, self.bucket_B, self.runs, self.end
        return np.asarray(logits(ids_T, ends_N1, self.limit, *parts))


def probability(logits_N: np.ndarray) -> np.ndarray:
    """The probability fastText reports, float32: the softmax of two labels, plus the 1e-5 it adds to all, at most 1."""
    wide = logits_N.astype(np.float64)
    return np.minimum(1 / (1 + np.exp(-np.clip(wide, -700, 700))) + _EPSILON, 1).astype(np.float32)


def collapse(model: Path, vocabulary: int, limit: int) -> Scorer:
    """Fold a fastText model of decimal words and two labels, one of them "topic", for ids below `vocabulary`.

    The matrix is mapped and folded in stretches, so memory stays far below the file. InputError for any other model.
    """
    try:
        with open(model, "rb") as file:
            header, words, labels = _read_head(file, model)
            values_R = _fold(file, model, header, labels)
    except (struct.error, ValueError) as error:  # fewer bytes than the file says it has
        raise InputError(f"{model} is cut short: {error}") from error
    word_V, known_V = np.zeros(vocabulary, np.float32), np.zeros(vocabulary, np.uint8)
    end = (word_hash(_END), 0.0, 0)
    for row, word in enumerate(words):
        if word == _END:
            end = (word_hash(_END), float(values_R[row]), 1)
        elif word.isdigit() and int(word) < vocabulary:
            word_V[int(word)], known_V[int(word)] = values_R[row], 1
        else:
            raise InputError(f"{model} has the word {word!r}: it was not trained on the ids of this tokenizer")
    buckets = values_R[len(words) :].copy()
    return Scorer(word_V, known_V, decimal_hashes(vocabulary), buckets, end, header["runs"], limit)


def _read_head(file: BinaryIO, model: Path) -> tuple[dict[str, int], list[bytes], list[bytes]]:
    """fastText's file up to the matrices: settings, words, labels."""
    if file.read(8) != struct.pack("<ii", _MAGIC, _VERSION):
        raise InputError(f"{model} is not a fastText model of version {_VERSION}")
    names = ("dim", "window", "epochs", "min_count", "negatives", "runs", "loss", "kind", "buckets", "minn", "maxn", "rate")
    header: dict[str, int] = dict(zip(names, struct.unpack("<12i", file.read(48))))
    file.read(8)  # the sampling threshold
    size, words, labels, _, pruned = struct.unpack("<iiiqq", file.read(28))
    data = bytearray()
    entries: list[bytes] = []
    while len(entries) < size:
        data += file.read(1 << 16)
        stop, start = data.find(b"\0"), 0
        while stop >= 0 and stop + 9 < len(data) and len(entries) < size:
            entries.append(bytes(data[start:stop]))
            start = stop + 10  # its count and its kind
            stop = data.find(b"\0", start)
        del data[:start]
        if not start:
            raise InputError(f"{model} ends in the middle of its words")
    file.seek(-len(data), 1)
    (quantized,) = struct.unpack("<?", file.read(1))
    if quantized or pruned != -1 or header["maxn"] or labels != 2 or header["runs"] < 1:
        raise InputError(f"{model}: a model of two labels without quantization or parts of words expected")
    return header, entries[:words], entries[words:]


def _fold(file: BinaryIO, model: Path, header: dict[str, int], labels: list[bytes]) -> np.ndarray:
    """input · (output of "topic" − output of the other), float32, a number per row."""
    rows, dim = struct.unpack("<qq", file.read(16))
    at = file.tell()
    file.seek(4 * rows * dim, 1)
    file.read(1)  # whether the output is quantized: not without the input
    shape = struct.unpack("<qq", file.read(16))
    output = np.fromfile(file, np.float32, 2 * dim).reshape(2, -1).astype(np.float64)
    topic = _LABELS[1].strip()
    if shape != (2, dim) or topic not in labels or header["dim"] != dim:
        raise InputError(f"{model}: labels {labels}, one of them {topic!r}, and a softmax over both expected")
    direction = output[labels.index(topic)] - output[1 - labels.index(topic)]
    matrix = np.memmap(model, np.float32, "r", at, (rows, dim))
    values_R = np.empty(rows, np.float32)
    step = max(1, (16 << 20) // dim)
    for start in range(0, rows, step):
        values_R[start : start + step] = matrix[start : start + step].astype(np.float64) @ direction
    return values_R


def write_table(path: Path, scorer: Scorer) -> None:
    """The folded model as one .npy of float32: a value per id (NaN: not in the vocabulary), one for </s>, one per bucket."""
    words = np.where(scorer.known_V == 1, scorer.word_V, np.float32(np.nan))
    end = np.float32(scorer.end[1] if scorer.end[2] else np.nan)
    with open(path, "wb") as file:
        np.save(file, np.concatenate([words, [end], scorer.bucket_B]).astype(np.float32))


def read_table(path: Path, vocabulary: int, runs: int, limit: int) -> Scorer:
    """The Scorer that write_table wrote, of a model for `vocabulary` ids."""
    table = read_array(path)
    known_V = ~np.isnan(table[:vocabulary])
    word_V = np.where(known_V, table[:vocabulary], np.float32(0))
    in_end = not np.isnan(table[vocabulary])
    end = (word_hash(_END), float(table[vocabulary]) if in_end else 0.0, int(in_end))
    hash_V = decimal_hashes(vocabulary)
    return Scorer(word_V, known_V.astype(np.uint8), hash_V, table[vocabulary + 1 :].copy(), end, runs, limit)
