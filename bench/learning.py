"""What a few CPU minutes teach the tiny model: beside n-grams on held-out documents, and what a suffix is worth to a middle.

python -m bench.learning --data data/encode_tokens-…            about six minutes on two cores

    baselines   unigram, and interpolated Kneser-Ney 4-gram (Kneser & Ney 1995; Chen & Goodman 1999, one discount of 0.75), both
                counted on exactly the tokens the model was trained on, scored on the same held-out tokens
    middles     held-out documents cut in three; the middle's loss after <begin> prefix <hole> suffix <end>, and after the same
                with the suffix left out
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from corpus.permutation import mix64

DISCOUNT = 0.75


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


@torch.no_grad()
def middles(run: Any, count: int) -> tuple[float, float, int]:
    """(nats per middle token with the suffix, without it, how many tokens) over held-out documents."""
    shards, special = run.shards.shards[0], run.shards.special
    begin, hole, end = (special[name] for name in ("fim_begin", "fim_hole", "fim_end"))
    reader = run.validation.readers[0]
    with_suffix = without = 0.0
    tokens = documents = 0
    for number in reader.order.documents.tolist():
        ids = shards.document(number).astype(np.int64)
        ids = ids[~np.isin(ids, list(special.values()))]  # of a document that encode_tokens transformed, its parts as they are
        if len(ids) < 96:
            continue
        at = 32 + int(mix64(np.array([number]), 1)[0] % np.uint64(len(ids) - 88))
        prefix, middle, suffix = ids[max(0, at - 96) : at], ids[at : at + 16], ids[at + 16 : at + 112]
        for shown in (suffix, suffix[:0]):
            row = np.concatenate(([begin], prefix, [hole], shown, [end], middle))
            logits = run.model(torch.from_numpy(row[None, :-1])).logits_BSV[0, -len(middle) :]
            nats = float(F.cross_entropy(logits, torch.from_numpy(middle), reduction="sum"))
            if len(shown):
                with_suffix += nats
            else:
                without += nats
        tokens += len(middle)
        documents += 1
        if documents == count:
            break
    return with_suffix / tokens, without / tokens, tokens


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of token shards, as encode_tokens leaves it")
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    from recipes.moe_tiny import recipe
    from train import loop

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))
    config = dataclasses.replace(
        recipe(), data=options.data, steps=options.steps, checkpoint_every=options.steps, out=tempfile.mkdtemp()
    )
    loop.train(config, Path("."))
    run = loop.open_run(config, Path("."))
    trained = run.stream.batch(0, config.steps * config.batch).tokens_BL1
    assert run.validation is not None
    held = run.validation.batch(0, config.validation_sequences).tokens_BL1
    model = loop.validate(run)
    print(f"{trained[:, 1:].size:,} tokens seen in training; held out: {held[:, 1:].size:,} tokens")
    print(f"{'unigram':<28} {KneserNey(trained, 1, run.shards.vocab_size).nats(held):.3f} nats")
    print(f"{'4-gram, Kneser-Ney':<28} {KneserNey(trained, 4, run.shards.vocab_size).nats(held):.3f} nats")
    print(f"{'this model':<28} {model:.3f} nats")
    shown, hidden, tokens = middles(run, 400)
    print(f"middles of held-out documents, {tokens:,} tokens: {shown:.3f} nats with the suffix, {hidden:.3f} without")
    return 0


if __name__ == "__main__":
    sys.exit(main())
