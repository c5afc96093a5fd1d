"""The funnel, as a table and as one HTML page: documents, bytes, drops by reason, seconds and MB/s; and one step's notes."""

from __future__ import annotations

import html
import json
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from corpus.report import Report, human_bytes, human_seconds

__all__ = ["page", "print_step", "print_table"]

HEADINGS = ("step", "read", "written", "text in", "text out", "dropped, by reason (% of read)", "seconds", "MB/s", "memory")


def _cells(name: str, report: Report) -> tuple[str, ...]:
    reasons = sorted(report.dropped.items(), key=lambda item: (-item[1], item[0]))
    shares = [f"{reason} {count:,} ({100 * count / max(1, report.read):.2f} %)" for reason, count in reasons]
    if report.merged:
        shares.append(f"[{report.merged:,} merged into {report.created:,}]")
    rate = report.bytes_in / 1e6 / report.seconds if report.seconds and report.bytes_in else 0.0
    written = "artefact" if report.used and not report.written else f"{report.written:,}"
    return (
        name,
        f"{report.read:,}",
        written,
        human_bytes(report.bytes_in) if report.bytes_in else "",
        human_bytes(report.bytes_out) if report.bytes_out else "",
        "\n".join(shares),
        f"{report.seconds:.1f}",
        f"{rate:.0f}" if rate else "",
        human_bytes(report.peak_memory),
    )


def print_table(reports: dict[str, Report], console: Console | None = None) -> None:
    """The funnel on the console; a plain grid, wide enough not to fold, where it is not a terminal."""
    console = console or _console()
    console.print(_table(HEADINGS, [_cells(name, report) for name, report in reports.items()], left=(0, 5), folded=5))
    total = sum(report.seconds for report in reports.values())
    console.print(f"{len(reports)} steps, {human_seconds(total)} when they were made")


def print_step(name: str, report: Report, console: Console | None = None) -> None:
    """A step's line of the funnel, and its notes: a table for each that is made of rows, a line for each other."""
    console = console or _console()
    console.print(_table(HEADINGS, [_cells(name, report)], left=(0, 5), folded=5))
    for note, value in report.notes.items():
        rows = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
        if rows and all(isinstance(row, dict) for _, row in rows):
            keys = list(dict.fromkeys(key for _, row in rows for key in row))
            cells = [(str(first), *(_plain(row.get(key)) for key in keys)) for first, row in rows]
            words = [i for i, key in enumerate(keys, start=1) if any(isinstance(row.get(key), str) for _, row in rows)]
            console.print(_table((note, *keys), cells, left=(0, *words), folded=len(keys)))
        else:
            console.print(f"{note}: {_plain(value)}", markup=False, highlight=False)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=160)


def _table(headings: tuple[str, ...], rows: list[tuple[str, ...]], left: tuple[int, ...], folded: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, heading in enumerate(headings):
        justify: Any = "left" if i in left else "right"
        table.add_column(heading.replace("[", "\\["), justify=justify, overflow="fold", no_wrap=i != folded)
    for cells in rows:
        table.add_row(*(cell.replace("[", "\\[") for cell in cells))
    return table


def _plain(value: Any) -> str:
    """A value of a note as a reader writes it; what holds others in one line."""
    if value is None:
        return "none"
    if isinstance(value, bool) or not isinstance(value, (int, float, list, dict)):
        return str(value)
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(each)}" for key, each in value.items()) or "none"
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def page(title: str, reports: dict[str, Report], plan: list[dict[str, Any]], sections: dict[str, str]) -> str:
    """One self-contained HTML page: the funnel, three plots (inline SVG), what steps say themselves, notes and settings.

    sections: HTML fragments by step, as stages write them to report.html in their folders.
    """
    head = "".join(f"<th>{html.escape(h)}</th>" for h in HEADINGS)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(c).replace(chr(10), '<br>')}</td>" for c in _cells(name, report)) + "</tr>"
        for name, report in reports.items()
    )
    plots = (
        _bars("Text after each step, MB", {n: r.bytes_out / 1e6 for n, r in reports.items() if r.bytes_out})
        + _bars("Documents dropped, by reason", _reasons(reports))
        + _bars("Seconds", {n: r.seconds for n, r in reports.items()})
    )
    written = [(row["step"], json.dumps(row, indent=1, ensure_ascii=False)) for row in plan]
    details = "".join(
        f"<details><summary>{html.escape(step)}</summary><pre>{html.escape(text)}</pre></details>" for step, text in written
    )
    told = "".join(f"<h2>{html.escape(step)}</h2>{fragment}" for step, fragment in sections.items())
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title><style>{_CSS}</style>"
        f"<h1>{html.escape(title)}</h1><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{plots}{told}"
        f"<h2>Settings and notes</h2>{details}</html>\n"
    )


_CSS = (
    "body{font:14px/1.4 system-ui,sans-serif;margin:2em;max-width:80em;color:#222}table{border-collapse:collapse}"
    "td,th{padding:.25em .8em;border-bottom:1px solid #ddd;text-align:right;vertical-align:top}"
    "td:first-child,th:first-child,td:nth-child(6),th:nth-child(6){text-align:left}h2{margin-top:1.6em;font-size:1.1em}"
    "svg text{font:12px system-ui,sans-serif}pre{background:#f6f6f6;padding:.6em;overflow-x:auto}"
)


def _reasons(reports: dict[str, Report]) -> dict[str, float]:
    counts = {f"{step}: {why}": float(n) for step, report in reports.items() for why, n in report.dropped.items()}
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _bars(title: str, values: dict[str, float]) -> str:
    if not values:
        return ""
    top = max(values.values()) or 1.0
    rows = []
    for i, (name, value) in enumerate(values.items()):
        y, width = 18 * i, 420 * value / top
        rows.append(
            f'<text x="270" y="{y + 13}" text-anchor="end">{html.escape(name)}</text>'
            f'<rect x="280" y="{y + 2}" width="{width:.1f}" height="13" fill="#4a7fb5"/>'
            f'<text x="{286 + width:.1f}" y="{y + 13}">{value:,.1f}</text>'
        )
    return f'<h2>{html.escape(title)}</h2><svg width="820" height="{18 * len(values) + 4}">{"".join(rows)}</svg>'
