"""What a few CPU minutes teach the tiny model of real code: beside n-grams on held-out files, and what a suffix tells a middle.

python -m bench.learning --documents data/decontaminate-…      half an hour on two cores, after `make demo`

Of a finished step of documents, its Python files, every tenth held out, in pieces of whole lines. Two models from nothing:

    baselines   unigram, and interpolated Kneser-Ney 4-gram (Kneser & Ney 1995; Chen & Goodman 1999, one discount of 0.75), both
                counted on exactly the documents the model was trained on (2 MB, several epochs), scored on the same held-out
                tokens. A vocabulary of 2,048, since most of 16,384 tokens would be seen a few times only
    middles     a model trained with FIM, half of it PSM and half SPM, is shown held-out pieces in both layouts, with their own
                suffix, with none, and with another piece's; the loss of the three tokens of the middle, and of the end of text
                after them. Pieces of a line or two in 300 tokens, little more than bytes: every piece then asks once in some
                twenty tokens what stands around a hole, and a word cut in two is told by its other half. Of 14 MB, if there is
                so much, read once: what is read seven times is learnt by heart
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import math
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
import xxhash

from corpus.permutation import mix64
from corpus.shards import StepShards, step_files
from corpus.tokenizer import load_encoder, train_bpe
from corpus.tokens import TokenShards, TokenWriter, write_tokens_json

if TYPE_CHECKING:
    from train.loop import Run

DISCOUNT = 0.75
TRAINED, HELD = 2_000_000, 200_000  # characters of pieces
FOR_MIDDLES = 14_000_000
MIDDLE, AROUND = 3, 3  # tokens of a middle, and before and after it at least
ASKED = 3_000  # pieces that are asked for their middle


class KneserNey:
    """Interpolated Kneser-Ney of one order; the highest order counts occurrences, the lower ones distinct continuations."""

    def __init__(self, rows: np.ndarray, order: int, vocabulary: int) -> None:
        self.order, self.vocabulary = order, vocabulary
        self.counts: list[dict[tuple[int, ...], collections.Counter[int]]] = [{} for _ in range(order)]
        for row in rows.tolist():
            for i in range(order - 1, len(row)):
                self.counts[-1].setdefault(tuple(row[i - order + 1 : i]), collections.Counter())[row[i]] += 1
        for n in range(order - 1, 0, -1):  # below, a word counts once for every context it was seen in
            for context, words in self.counts[n].items():
                self.counts[n - 1].setdefault(context[1:], collections.Counter()).update(words.keys())
        self.totals = [{c: (w.total(), len(w)) for c, w in level.items()} for level in self.counts]

    def probability(self, context: tuple[int, ...], token: int) -> float:
        p = 1 / self.vocabulary
        for n in range(min(self.order - 1, len(context)) + 1):
            key = context[len(context) - n :]
            total, kinds = self.totals[n].get(key, (0, 0))
            if total:
                seen = self.counts[n][key].get(token, 0)
                p = max(seen - DISCOUNT, 0) / total + DISCOUNT * kinds / total * p
        return p

    def nats(self, rows: np.ndarray) -> float:
        """Mean over all tokens of all rows but each row's first."""
        losses = [
            -math.log(self.probability(tuple(row[max(0, i - self.order + 1) : i]), row[i]))
            for row in rows.tolist()
            for i in range(1, len(row))
        ]
        return sum(losses) / len(losses)


def pieces(documents: Path, most: int, enough: int) -> tuple[list[str], list[str]]:
    """(to train on, held out): a step's Python files in a keyed order, in pieces of whole lines, at most `most` characters."""
    found = step_files(documents, "shards")
    if found is None:
        raise SystemExit(
            f"{documents} has no step.json; the folder of a finished step of documents expected, as decontaminate's"
        )
    shards = StepShards(documents, found)
    files = []
    for name in shards.names:
        for batch in shards.read(name, ["id", "text", "lang"]):
            files += [(row["id"], row["text"]) for row in batch.to_pylist() if row["lang"] == "Python"]
    ordered = sorted((xxhash.xxh3_64_intdigest(key), text) for key, text in files)
    train = first_pieces((text for number, text in ordered if number % 10), most, enough)
    return train, first_pieces((text for number, text in ordered if number % 10 == 0), most, HELD)


def first_pieces(texts: Iterable[str], most: int, enough: int) -> list[str]:
    """The pieces of as many texts as give `enough` characters."""
    found: list[str] = []
    size = 0
    for text in texts:
        if size >= enough:
            break
        some = list(cut(text, most))
        found += some
        size += sum(map(len, some))
    return found


def cut(text: str, most: int) -> Iterator[str]:
    """Whole lines, as many at a time as `most` characters hold; what is shorter than a quarter of that is left out."""
    piece = ""
    for line in text.splitlines(keepends=True):
        if len(piece) + len(line) > most:
            if most // 4 < len(piece) <= most:
                yield piece
            piece = ""
        piece += line
    if most // 4 < len(piece) <= most:
        yield piece


def encode(texts: list[str], tokenizer: Path, folder: Path) -> TokenShards:
    encoder = load_encoder(tokenizer)
    raw = [text.encode() for text in texts]
    ids, ends = encoder.encode(np.cumsum([0, *map(len, raw)]), np.frombuffer(b"".join(raw), np.uint8))
    with TokenWriter(folder / "tokens" / "00000", encoder.vocab_size) as writer:
        ids = np.insert(ids, ends[1:], encoder.special["eos"])
        writer.add(ids, np.diff(ends) + 1)
    write_tokens_json(folder, encoder.vocab_size, encoder.special)
    return TokenShards(folder)


def learn(folder: Path, steps: int, fim_rate: float = 0.0, fim_spm_rate: float = 0.0) -> Run:
    """moe_tiny after `steps` steps on FOLDER/train, its validation being on FOLDER/held."""
    from recipes.moe_tiny import recipe
    from train import loop
    from train.sources import open_data, streams

    model = dataclasses.replace(recipe().model, aux_loss_alpha=0.001)
    config = dataclasses.replace(
        recipe(), model=model, data=str(folder / "train"), out=str(folder / "run"), steps=steps, checkpoint_every=steps,
        batch=4, warmup=80, fim_rate=fim_rate, fim_spm_rate=fim_spm_rate, document_mask=True, validation=0.0,
    )  # fmt: skip
    loop.train(config, folder)
    run = loop.open_run(config, folder)
    held = dataclasses.replace(config, data=str(folder / "held"), fim_rate=0.0, fim_spm_rate=0.0)
    run.validation = streams(held, open_data(held, folder))[0]
    return run


@torch.no_grad()
def middles(run: Run, held: TokenShards) -> dict[str, np.ndarray]:
    """By layout and suffix shown: nats of each token of each middle, and of the end of text after it, [middles, MIDDLE + 1]."""
    begin, hole, end, eos = ([held.special[name]] for name in ("fim_begin", "fim_hole", "fim_end", "eos"))
    found: dict[str, list[np.ndarray]] = {}
    other = np.zeros(0, np.int64)
    for number in range(min(held.documents, ASKED)):
        ids = held.document(number).astype(np.int64)[:-1]
        if len(ids) <= MIDDLE + 2 * AROUND:
            continue
        at = AROUND + int(mix64(np.array([number]), 1)[0] % np.uint64(len(ids) - MIDDLE - 2 * AROUND))
        prefix, middle, suffix = np.split(ids, [at, at + MIDDLE])
        asked = {"plain text, none": (eos, prefix)}
        for name, shown in (("its own", suffix), ("none", suffix[:0]), ("another piece's", other)):
            asked |= {f"PSM, {name}": (begin, prefix, hole, shown, end), f"SPM, {name}": (begin, hole, shown, end, prefix)}
        for name, before in asked.items():
            row_L = np.concatenate((*before, middle, eos))
            logits_SV = run.model(torch.from_numpy(row_L[None, :-1])).logits_BSV[0, -MIDDLE - 1 :]
            losses_S = F.cross_entropy(logits_SV, torch.from_numpy(row_L[-MIDDLE - 1 :]), reduction="none").numpy()
            found.setdefault(name, []).append(losses_S)
        other = suffix
    return {name: np.stack(losses) for name, losses in found.items()}


def prepared(documents: Path, most: int, enough: int, vocabulary: int, folder: Path) -> tuple[TokenShards, TokenShards]:
    """The pieces as token shards, FOLDER/train and FOLDER/held, under a tokenizer trained on the former.

    A piece that is in both is not held out: short lines are written alike in many files.
    """
    train, held = pieces(documents, most, enough)
    known = set(train)
    held = [piece for piece in held if piece not in known]
    folder.mkdir()
    (folder / "tokenizer.json").write_text(train_bpe(train, vocabulary), "utf-8")
    return encode(train, folder / "tokenizer.json", folder / "train"), encode(held, folder / "tokenizer.json", folder / "held")


def beside_n_grams(documents: Path, folder: Path, steps: int) -> None:
    from train import loop

    train, _ = prepared(documents, 640, TRAINED, 2048, folder)
    run = learn(folder, steps)
    assert run.validation is not None
    epoch_BL1 = run.stream.batch(0, run.stream.samples).tokens_BL1
    held_BL1 = run.validation.batch(0, run.config.validation_sequences).tokens_BL1
    epochs, tokens = steps * run.config.batch / run.stream.samples, held_BL1[:, 1:].size
    print(f"trained on {train.documents:,} pieces of {train.tokens:,} tokens, {epochs:.1f} times; held out: {tokens:,} tokens")
    for name, order in (("unigram", 1), ("4-gram, Kneser-Ney", 4)):
        print(f"{name:<28} {KneserNey(epoch_BL1, order, train.vocab_size).nats(held_BL1):.3f} nats")
    print(f"{'this model':<28} {loop.validate(run):.3f} nats")


def with_and_without_suffix(documents: Path, folder: Path, steps: int) -> None:
    train, held = prepared(documents, 32, FOR_MIDDLES, 300, folder)
    run = learn(folder, steps, fim_rate=0.9, fim_spm_rate=0.5)
    found = middles(run, held)
    print(f"trained on {train.tokens:,} tokens, {steps * run.config.batch / run.stream.samples:.1f} times")
    print(f"{'layout, suffix shown':<28} {'middle':>8} {'its end':>8}   nats per token, of {len(found['SPM, none']):,} middles")
    for name, losses_NS in sorted(found.items()):
        print(f"{name:<28} {losses_NS[:, :-1].mean():8.3f} {losses_NS[:, -1].mean():8.3f}")
    for layout in ("PSM", "SPM"):
        gain_N = (found[f"{layout}, none"] - found[f"{layout}, its own"])[:, :-1].mean(1)
        error = 1.96 * gain_N.std() / math.sqrt(len(gain_N))
        print(f"{layout}: a middle's own suffix gains {gain_N.mean():.3f} ± {error:.3f} nats a token")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", required=True, type=Path, help="folder of a finished step with Python files")
    parser.add_argument("--steps", type=int, default=2400, help="of 1,024 tokens, beside the n-grams (default: 2400)")
    parser.add_argument("--fim-steps", type=int, default=9000, help="the same, for the middles (default: 9000)")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))
    with tempfile.TemporaryDirectory() as folder:
        beside_n_grams(options.documents, Path(folder) / "plain", options.steps)
        with_and_without_suffix(options.documents, Path(folder) / "fim", options.fim_steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
