"""Byte-level BPE: training one, and turning columns of text into ids with any tokenizer.json.

Encoding has two engines that give the same ids. gigatoken walks the Arrow buffers without making a Python string and knows
the common split patterns; Hugging Face `tokenizers` takes everything else, some forty times slower. Which one a tokenizer
gets is decided when it is loaded, by encoding a probe with both, and reported.

Text is data: a document that spells out a special token, as this file does, gets the ids of its letters, never the special
id. So special tokens are taken out of the tokenizer before it sees a text; their ids are added by whoever builds a sequence.

Layout of a tokenizer trained here, as DeepSeek's: ids 0 … V-1 ordinary, then SPECIAL_TOKENS in order. Split pattern: Qwen
2's, which takes digits one by one as DeepSeek LLM does (arXiv 2401.02954, section 2.1), and which gigatoken knows.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from corpus.engine import Engine
from corpus.errors import ConfigError, InputError
from corpus.shards import as_path
from corpus.step import Step

__all__ = ["LONGEST", "SPECIAL_TOKENS", "Encoder", "content_of", "load_encoder", "train_bpe"]

# The bars are U+FF5C, the separators U+2581. Begin, end, hole, begin, end are ids V … V+4, DeepSeek's 100000 … 100004.
SPECIAL_TOKENS = {
    "bos": "<｜begin▁of▁sentence｜>",
    "eos": "<｜end▁of▁sentence｜>",
    "fim_hole": "<｜fim▁hole｜>",
    "fim_begin": "<｜fim▁begin｜>",
    "fim_end": "<｜fim▁end｜>",
}

_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

LONGEST = 1000  # characters of a word that training looks at in one piece: filter_code keeps no longer line

# How other tokenizers spell the same five: prefix, suffix and middle sentinels are begin, hole and end in PSM order.
_SPELLINGS = {
    "bos": ("<|begin_of_text|>", "<s>", "<bos>", "<|startoftext|>"),
    "eos": ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"),
    "fim_hole": ("<|fim_suffix|>", "<fim_suffix>", "<fim-suffix>", "▁<SUF>"),
    "fim_begin": ("<|fim_prefix|>", "<fim_prefix>", "<fim-prefix>", "▁<PRE>"),
    "fim_end": ("<|fim_middle|>", "<fim_middle>", "<fim-middle>", "▁<MID>"),
}

_PROBE = [
    "", " ", "def f(x):\n\treturn x[0] + 12345  # don't\r\n\r\n", "  \n \n\n   x", "a\u00a0b\u2003c\u3000d", "\x00\x07\x7f",
    "naïve Ωmega Привет שלום مرحبا हिन्दी ไทย 漢字かな한국어 e\u0301 ﬁ Ⅷ ½ ٣٤", "\U0001f469\u200d\U0001f467 \u200b\u2028\u0085",
    "I'LL THEY'VE 'tis it's", "x" * 5000, "=" * 300, "camelCase snake_case HTTPServer v2.10.3 0xFF <a href=\"/b?c=d&e=%20\">",
    "\ufeffend", "\ufffd\U0010ffff",
]  # fmt: skip


@dataclass(frozen=True)
class Encoder:
    """A loaded tokenizer. library: "gigatoken" or "tokenizers"; why: the reason when it is the slow one.

    vocab_size: one more than the largest id, special tokens included. special: name -> id, of those it has.
    """

    library: str
    why: str
    vocab_size: int
    special: dict[str, int]
    pieces: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

    def encode(self, offsets_N1: np.ndarray, data_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(ids uint32, offsets int64 [N+1] into ids) of N pieces of UTF-8; special tokens in the text stay text."""
        if len(offsets_N1) < 2:
            return np.zeros(0, np.uint32), np.zeros(1, np.int64)
        return self.pieces(offsets_N1, data_B)


def train_bpe(texts: Iterable[str], vocab_size: int) -> str:
    """A tokenizer.json: 256 bytes and at most vocab_size - 256 merges, then SPECIAL_TOKENS.

    The same text gives the same tokenizer: whatever the order of `texts` and the number of threads, counts are sums and
    ties between merges are broken by id. Fewer merges come out where the texts run out of pairs that occur twice.
    Nothing is learned across the borders of LONGEST characters: the trainer takes time quadratic in a word's length, 8 s for
    100 kB of `acgt…`, 13 minutes for 1 MB.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_SPLIT), "isolated")
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.FixedLength(length=LONGEST), letters])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, letters])
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIAL_TOKENS.values()])
    return str(tokenizer.to_str())


def content_of(tokenizer: object) -> str:
    """For a Config's fingerprint: xxh3-64 of the file when `tokenizer` is a path, nothing when it is a Step, which has its own.

    ConfigError where there is no such file.
    """
    if not isinstance(tokenizer, str):
        return ""
    path = as_path(tokenizer)
    if not path.is_file():
        raise ConfigError(f"tokenizer is {tokenizer!r}, no such file; a Step or the path of a tokenizer.json expected")
    return str(xxhash.xxh3_64_hexdigest(path.read_bytes()))


def path_of(engine: Engine, tokenizer: Step | str) -> Path:
    """Where a tokenizer.json is: a train_tokenizer step's, or a path."""
    return as_path(tokenizer) if isinstance(tokenizer, str) else engine.folder(tokenizer) / "tokenizer.json"


def load_encoder(path: Path | str) -> Encoder:
    """The Encoder of a Hugging Face tokenizer.json. A tokenizer_config.json beside it may name its eos and bos tokens."""
    path = as_path(path)
    spec = _read(path)
    added = spec.get("added_tokens") or []
    special = _special(path, added)
    hidden = {t["id"] for t in added if t["special"]} | set(special.values())
    spec |= {"post_processor": None, "truncation": None, "padding": None}  # what adds, cuts or pads is not ours
    vocab = spec["model"]["vocab"]
    ids = [*(vocab.values() if isinstance(vocab, dict) else range(len(vocab))), *(t["id"] for t in added)]
    slow = _with_tokenizers(spec, added, hidden)
    fast, why = _with_gigatoken(spec, added, hidden, slow)
    encoder = Encoder("gigatoken" if fast else "tokenizers", why, max(ids) + 1, special, fast or slow)
    _refuse_leaks(path, encoder, hidden, [t["content"] for t in added])
    return encoder


def _read(path: Path) -> dict[str, Any]:
    try:
        spec: dict[str, Any] = json.loads(path.read_text("utf-8"))
        spec["model"]["vocab"]
    except FileNotFoundError:
        raise InputError(f"no tokenizer at {path}; a Hugging Face tokenizer.json expected") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a Hugging Face tokenizer.json ({type(error).__name__}: {error})") from None
    return spec


def _special(path: Path, added: list[dict[str, Any]]) -> dict[str, int]:
    ids = {t["content"]: int(t["id"]) for t in added}
    beside = path.parent / "tokenizer_config.json"
    config = json.loads(beside.read_text("utf-8")) if beside.exists() else {}
    special = {}
    for name, ours in SPECIAL_TOKENS.items():
        said = config.get(f"{name}_token")
        said = said.get("content") if isinstance(said, dict) else said
        found = [s for s in (said, ours, *_SPELLINGS[name]) if s in ids]
        if found:
            special[name] = ids[found[0]]
    return special


def _with_tokenizers(spec: dict[str, Any], added: list[dict[str, Any]], hidden: set[int]) -> Callable[..., Any]:
    from tokenizers import Tokenizer

    # A task has one core; the pool of `tokenizers` would take all of them in every worker.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # The hidden ones stay in, as special tokens not looked for in texts: it numbers added tokens by position, so taking
    # some out would give their ids to others.
    marked = [{**t, "special": t["id"] in hidden} for t in added]
    tokenizer = Tokenizer.from_str(json.dumps({**spec, "added_tokens": marked}))
    tokenizer.encode_special_tokens = True

    def pieces(offsets_N1: np.ndarray, data_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ends = offsets_N1.tolist()
        texts = [str(data_B.data[a:b], "utf-8", "replace") for a, b in itertools.pairwise(ends)]
        rows = [np.array(e.ids, np.uint32) for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        lengths = np.array([len(row) for row in rows], np.int64)
        return np.concatenate(rows), np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])

    return pieces


def _with_gigatoken(
    spec: dict[str, Any], added: list[dict[str, Any]], hidden: set[int], slow: Callable[..., Any]
) -> tuple[Callable[..., Any] | None, str]:
    """gigatoken's way, or (None, why not)."""
    import awkward as ak  # type: ignore[import-untyped]
    import gigatoken

    visible = [t for t in added if t["id"] not in hidden]
    try:
        tokenizer = gigatoken.Tokenizer.from_json(json.dumps({**spec, "added_tokens": visible}))
    except (ValueError, RuntimeError, OSError) as error:
        return None, f"gigatoken {error}"[:300]

    def pieces(offsets_N1: np.ndarray, data_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        letters = ak.contents.NumpyArray(data_B, parameters={"__array__": "byte"})
        column = ak.contents.ListOffsetArray(ak.index.Index64(offsets_N1), letters, parameters={"__array__": "bytestring"})
        rows = tokenizer.encode_batch(ak.Array(column), parallel=False).layout
        return np.asarray(rows.content.data), np.asarray(rows.offsets.data)

    data, offsets = _joined([*_PROBE, *(f"x {t['content']}y" for t in added)])
    ours, theirs = pieces(offsets, data), slow(offsets, data)
    if not (np.array_equal(ours[0], theirs[0]) and np.array_equal(ours[1], theirs[1])):
        return None, "gigatoken gives other ids than tokenizers on the probe"
    return pieces, ""


def _joined(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    parts = [text.encode() for text in texts]
    return np.frombuffer(b"".join(parts), np.uint8), np.cumsum([0, *map(len, parts)], dtype=np.int64)


def _refuse_leaks(path: Path, encoder: Encoder, hidden: set[int], contents: list[str]) -> None:
    """ConfigError when the spelling of a special token encodes to a special id even as plain text."""
    data, offsets = _joined(contents)
    ids, _ = encoder.encode(offsets, data)
    if leaked := hidden.intersection(ids.tolist()):
        raise ConfigError(
            f"{path}: texts that spell out its special tokens get special ids {sorted(leaked)}, so a document could forge "
            "the end of a document; take those tokens out of the model's vocabulary or use another tokenizer"
        )
