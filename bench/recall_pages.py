"""The recall loop on real pages.

    python -m bench.recall_pages [--topics math code] [--first 0] [--draws 5] [--inputs bpe words] [--write]

CORPUS_DATA/html holds pages with labels. Wrapped as WARC, each in its own charset, they go through crawl_commoncrawl and
extract_text. The seed is the pages of a fifth of a topic's domains, drawn at random; the pool every other page that has text,
unlabelled. After each of three rounds the pool is ranked, less the pages, of any label, of the
seed's domains. What a round added to the seed by itself stays in: nobody told it the labels. Measured are average precision and
the largest recall at a precision of 90 %, against all other pages, and against pages of neither topic ("other"): the labels are
rules, and on many sites they call one page mathematics and the next, with the same menu, code.

Input "words" is the same split at white space. Chinese: average precision of the pages on topic in Chinese among all that
are not on topic. German: share of the German pages, none on topic, that rank among the best nine tenths of the topic.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import zstandard
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from corpus.engine import Engine, LocalEngine
from corpus.recall import scores_of
from corpus.recall_training import average_precision
from corpus.runner import run
from corpus.step import Step, walk
from corpus.tokenizer import train_bpe
from recipes.web import recall
from stages import crawl_commoncrawl, extract_text

ROUNDS, VOCABULARY, LEAST = 3, 16_384, 50  # LEAST: characters of text that a page must have
NAMES = ("AP", "R@P90", "AP, other", "R@P90, other", "Chinese AP", "German above")


def load(path: Path) -> list[dict[str, Any]]:
    """The pages, whose URLs are all different."""
    with path.open("rb") as file:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
        rows = [json.loads(line) for line in lines]
    for row in rows:
        row["url"] = row["url"].strip().replace(" ", "%20")
    return rows


def wrap(rows: list[dict[str, Any]], path: Path) -> Step:
    """The pages of an archive made of `rows`, as text."""
    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        for row in rows:
            head = [("Content-Type", f"text/html; charset={row['charset']}")]
            record = writer.create_warc_record(
                row["url"],
                "response",
                payload=io.BytesIO(row["html"].encode(row["charset"])),
                http_headers=StatusAndHeaders("200 OK", head, protocol="HTTP/1.1"),
                warc_headers_dict={"WARC-Date": "2026-01-01T00:00:00Z"},  # a page's id hangs on it, and the draws on ids
            )
            writer.write_record(record)
    name = path.name.split(".")[0]
    crawled = Step(f"crawl_{name}", crawl_commoncrawl.Config(warcs=(str(path),)))
    return Step(f"extract_{name}", extract_text.Config(files=crawled, least_bytes=LEAST))


def table(engine: Engine, step: Step, columns: list[str]) -> pa.Table:
    found = engine.shards(step)
    return pa.concat_tables([pa.Table.from_batches(list(found.read(name, columns))) for name in found.names])


def by_words(texts: list[str]) -> str:
    """A tokenizer.json whose tokens are what stands between white space."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = sorted({word for text in texts for word in text.split()})
    tokenizer = Tokenizer(models.WordLevel({"\ue000": 0, **{word: i for i, word in enumerate(words, 1)}}, unk_token="\ue000"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return str(tokenizer.to_str())


def draw(rows: list[dict[str, Any]], topic: str, number: int) -> set[str]:
    """A fifth of the topic's domains."""
    domains = sorted({row["domain"] for row in rows if row["label"] == topic})
    return set(random.Random(number).sample(domains, round(0.2 * len(domains))))


def rounds(rows: list[dict[str, Any]], topic: str, domains: set[str], tokenizer: str) -> tuple[list[list[float]], list[int]]:
    """(NAMES per round, positives per round)."""
    chosen = [row["label"] == topic and row["domain"] in domains for row in rows]
    of = {row["url"]: row for row in rows}
    measured, positives = [], []
    with tempfile.TemporaryDirectory() as root:
        seed = wrap([row for row, mine in zip(rows, chosen, strict=True) if mine], Path(root) / "seed.warc.gz")
        pool = wrap([row for row, mine in zip(rows, chosen, strict=True) if not mine], Path(root) / "pool.warc.gz")
        last = recall(topic, pool, seed, tokenizer, ROUNDS)
        engine = LocalEngine(root)
        reports = run(last, engine)
        steps = {step.name: step for step in walk(last)}
        urls = table(engine, pool, ["url"]).column("url").to_pylist()
        for r in range(1, ROUNDS + 1):
            found = scores_of(engine, steps[f"score_recall_{topic}_{r}"])  # row for row as the pool
            logits = [v for name in found.names for batch in found.read(name) for v in batch.column("logit").to_pylist()]
            scored = [(of[url], value) for url, value in zip(urls, logits, strict=True)]
            measured.append(measure([(row, value) for row, value in scored if row["domain"] not in domains], topic))
            positives.append(reports[f"train_recall_{topic}_{r}"].notes["positives"])
    return measured, positives


def measure(scored: list[tuple[dict[str, Any], float]], topic: str) -> list[float]:
    label = np.array([row["label"] for row, _ in scored])
    lang = np.array([(row["lang_attr"] or "")[:2].lower() for row, _ in scored])
    logit = np.array([value for _, value in scored], np.float32)
    on = label == topic
    bar = float(np.quantile(logit[on], 0.1))
    return [
        *both(logit, on),
        *both(logit[on | (label == "other")], on[on | (label == "other")]),
        average_precision(logit[~on | (lang == "zh")], on[~on | (lang == "zh")].astype(np.int64)),
        float((logit[~on & (lang == "de")] >= bar).mean()),
    ]


def both(logit: np.ndarray, on: np.ndarray) -> tuple[float, float]:
    """(average precision, the largest recall at a precision of 90 %)."""
    ranked = on[np.argsort(-logit, kind="stable")]
    hits = np.cumsum(ranked)
    fine = np.flatnonzero(hits >= 0.9 * np.arange(1, len(hits) + 1))
    return average_precision(logit, on.astype(np.int64)), float(hits[fine[-1]] / hits[-1]) if len(fine) else 0.0


def with_table(page: str, lines: list[str]) -> str:
    """The page with its first table of this head replaced; what people wrote around it stays."""
    before, head, rest = page.partition(lines[0] + "\n")
    if not head:
        return page.rstrip("\n") + "\n\n" + "\n".join(lines) + "\n"
    after = rest.splitlines(keepends=True)
    while after and after[0].startswith("|"):
        after.pop(0)
    return before + "\n".join(lines) + "\n" + "".join(after)


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.recall_pages", description="The recall loop on real pages with labels.")
    parser.add_argument("--topics", nargs="+", default=["math", "code"])
    parser.add_argument("--first", type=int, default=0, help="number of the first draw (default: 0)")
    parser.add_argument("--draws", type=int, default=5, help="how many (default: 5)")
    parser.add_argument("--inputs", nargs="+", default=["bpe", "words"], choices=["bpe", "words"])
    parser.add_argument("--write", action="store_true", help="put the table into bench/RECALL.md, in place of the one there")
    asked = parser.parse_args()
    rows = load(Path(os.environ["CORPUS_DATA"]) / "html" / "pages.jsonl.zst")
    with tempfile.TemporaryDirectory() as root:
        every_page = wrap(rows, Path(root) / "all.warc.gz")
        engine = LocalEngine(root)
        run(every_page, engine)
        texts = table(engine, every_page, ["text"]).column("text").to_pylist()
    lines = [
        f"| topic | input | draw | seed | round | positives | {' | '.join(NAMES)} |",
        "|---|---|---|---|---|---|" + "---|" * len(NAMES),
    ]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for source in asked.inputs:
            tokenizer = Path(folder) / f"{source}.json"
            tokenizer.write_text(train_bpe(texts, VOCABULARY) if source == "bpe" else by_words(texts), "utf-8")
            for topic in asked.topics:
                every = []
                for number in range(asked.first, asked.first + asked.draws):
                    start, domains = time.perf_counter(), draw(rows, topic, number)
                    measured, positives = rounds(rows, topic, domains, str(tokenizer))
                    every.append(measured)
                    head = f"| {topic} | {source} | {number} | {len(domains)} domains"
                    for r, values in enumerate(measured):
                        lines.append(f"{head} | {r + 1} | {positives[r]} | {' | '.join(f'{v:.4f}' for v in values)} |")
                    print("\n".join(lines[-ROUNDS:]), f"  {time.perf_counter() - start:.0f} s", flush=True)
                for r in range(ROUNDS):
                    mean = [statistics.mean(run_[r][k] for run_ in every) for k in range(len(NAMES))]
                    lines.append(f"| {topic} | {source} | **mean** | | {r + 1} | | {' | '.join(f'{v:.4f}' for v in mean)} |")
                print("\n".join(lines[-ROUNDS:]), flush=True)
    if asked.write:
        page = Path(__file__).parent / "RECALL.md"
        page.write_text(with_table(page.read_text("utf-8"), lines), "utf-8")


if __name__ == "__main__":
    main()
