"""A recall round for people: a table of the rounds so far, plots, pages at the top and at the cut; a classifier's card."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from corpus.classifier import probability
from corpus.recall import Scored, ranks
from corpus.signals import WORDS

__all__ = ["card", "draw_round", "sample_pages", "tell_round"]

SAMPLED = (("top", "Best"), ("kept", "Last collected"), ("missed", "First not collected"))

_EACH = 10  # pages sampled at the top, just before the cut, just after it
_CHARACTERS = 120


def sample_pages(batches: Iterator[Any], out: Path, pool: Scored, cut: int | None) -> dict[str, Any]:
    """The pages of the best ranks, of the last ones collected and of the first ones not: where, score, first characters."""
    best: dict[str, list[tuple[int, str, int]]] = {"top": [], "kept": [], "missed": []}
    assert pool.scores is not None
    for name in pool.scores.names:
        row = 0
        for batch in pool.scores.read(name, ["id", "logit"]):
            rank = ranks(batch.column("id"), batch.column("logit").to_numpy())
            inside = np.zeros(len(rank), bool) if cut is None else rank <= np.uint64(cut)
            for kind, here, order in (("top", inside, rank), ("kept", inside, ~rank), ("missed", ~inside, rank)):
                rows = np.flatnonzero(here)
                rows = rows[np.argsort(order[rows])[:_EACH]]
                best[kind] += [(int(order[r]), name, row + int(r)) for r in rows]
                best[kind] = sorted(best[kind])[:_EACH]
            row += batch.num_rows
    texts = _look_up(pool, sorted({(name, row) for found in best.values() for _, name, row in found}))
    pages = {kind: [texts[name, row] for _, name, row in found] for kind, found in best.items()}
    pages["kept"].reverse()
    return {"sampled": pages}


def _look_up(pool: Scored, wanted: list[tuple[str, int]]) -> dict[tuple[str, int], dict[str, Any]]:
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for name in dict.fromkeys(name for name, _ in wanted):
        rows = np.array([row for other, row in wanted if other == name])
        first = 0
        for batch in pool.read(name, ["id", "url", "repo", "path", "text"]):
            here = rows[(rows >= first) & (rows < first + batch.num_rows)]
            for row, page in zip(here.tolist(), batch.take(pa.array(here - first)).to_pylist(), strict=True):
                where = page.get("url") or "/".join(p for p in (page.get("repo"), page.get("path")) if p) or page["id"]
                start = " ".join(page["text"][: 4 * _CHARACTERS].split())[:_CHARACTERS]
                found[name, row] = {"where": where, "score": round(page["recall_score"], 6), "text": start}
            first += batch.num_rows
    return found


def draw_round(record: dict[str, Any]) -> str:
    """An HTML fragment for the report of the run."""
    rounds = record["rounds"]
    parts = [
        *(f"<p>{html.escape(line)}</p>" for line in record["remarks"]),
        _table([{key: _show(value) for key, value in row.items()} for row in rounds]),
        _plot("Pages collected, by round", [(str(row["round"]), float(row["pages"])) for row in rounds]),
        _plot(
            "Average precision held back, by round", [(str(row["round"]), row["average precision held back"]) for row in rounds]
        ),
        _plot("Pages of the pool by logit (log scale)", _bars(record["histogram"])),
        _plot("Precision by recall, held back", [(f"{row['recall']:.2f}", row["precision"]) for row in record["curve"]]),
        "<h4>Groups with most pages collected</h4>",
        _table([{key: _show(value) for key, value in row.items()} for row in record["top_groups"]]),
    ]
    for kind, title in SAMPLED:
        parts += [f"<h4>{title}</h4>", _table([{k: _show(v) for k, v in page.items()} for page in record["sampled"][kind]])]
    return "\n".join(parts) + "\n"


def tell_round(record: dict[str, Any]) -> str:
    """The same as plain text, for the terminal: the rounds, and pages from the top and from both sides of the cut."""
    rounds = [{key: _show(value) for key, value in row.items()} for row in record["rounds"]]
    widths = {key: max(len(key), *(len(row[key]) for row in rounds)) for key in rounds[0]}
    lines = [*record["remarks"], "", "  ".join(key.rjust(width) for key, width in widths.items())]
    lines += ["  ".join(row[key].rjust(width) for key, width in widths.items()) for row in rounds]
    for kind, title in SAMPLED:
        told = [f"  {page['score']:.4f}  {page['where']}" for page in record["sampled"][kind]]
        lines += ["", title, *(told or ["  none"])]
    return "\n".join(lines).lstrip("\n") + "\n"


def card(name: str, record: dict[str, Any]) -> str:
    """What somebody needs who is handed a train_recall step's model.bin and tokenizer.json."""
    limit, rows = record["max_tokens"], record["curve"]
    scores = probability(np.array([row["logit"] for row in rows])).tolist()
    setting = ", ".join(f"{key} {value}" for key, value in record["setting"].items())
    own = (
        f"2. Before them come the words of four signals, {WORDS} ids after the tokenizer's, each once for every 32 ids of "
        f"the first {limit:,}: counts of formulae and code that extract_text made, see corpus/signals.py."
        if record["signals"]
        else "2. Nothing comes before them: this classifier reads text alone."
    )
    lines = [
        f"# {name}",
        "",
        "A fastText classifier (supervised; labels `__label__topic` and `__label__other`) of a round of recall.",
        "",
        "1. Encode a text with `tokenizer.json`, without special tokens; a word is an id in decimal.",
        own,
        f"3. The first {limit:,} words, joined by spaces, are the line that `predict(line, k=2)` of stock fastText scores.",
        "",
        f"Trained on {record['positives']:,} pages of the topic and {record['negatives']:,} others ({setting}).",
        f"Held back: average precision {record['average_precision']:.4f}; precision as if both labels were equally many,",
        "which a pool with few pages of the topic has not:",
        "",
        *(
            f"- recall {row['recall']:.2f}: precision {row['precision']:.4f} at score {score:.4g}"
            for row, score in zip(rows, scores, strict=True)
        ),
    ]
    return "\n".join(lines) + "\n"


def _bars(histogram: dict[str, Any]) -> list[tuple[str, float]]:
    edges, pages = histogram["logits"], histogram["pages"]
    return [(f"{edge:g}", float(np.log10(1 + n))) for edge, n in zip(edges, pages, strict=False)]


def _show(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _table(rows: list[dict[str, str]]) -> str:
    if not rows:
        return "<p>none</p>"
    head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(v)}</td>" for v in row.values()) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _plot(title: str, values: list[tuple[str, float]]) -> str:
    """Upright bars as inline SVG."""
    if not values:
        return ""
    top = max(value for _, value in values) or 1.0
    bars = []
    for i, (name, value) in enumerate(values):
        height = 100 * max(0.0, value) / top
        x = 10 + 34 * i
        bars.append(
            f'<rect x="{x}" y="{115 - height:.1f}" width="28" height="{height:.1f}" fill="#4a7fb5"/>'
            f'<text x="{x + 14}" y="{110 - height:.1f}" text-anchor="middle">{value:.3g}</text>'
            f'<text x="{x + 14}" y="130" text-anchor="middle">{html.escape(name)}</text>'
        )
    return f'<h4>{html.escape(title)}</h4><svg width="{34 * len(values) + 20}" height="136">{"".join(bars)}</svg>'
