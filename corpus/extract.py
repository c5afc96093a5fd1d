"""HTML to text that keeps formulae as LaTeX and code with its indentation: a batch of pages at once.

The text is prose in paragraphs, with # headings, - and 1. items, > quotations, rows of cells between bars, code between fences
named by its language, `inline code`, and formulae between the delimiters of their page or $ and $$. Nothing is escaped.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numba import njit

from corpus.document import text_buffers
from corpus.extract_blocks import choose, lay_out
from corpus.extract_kernels import walk
from corpus.extract_prose import gap, prose
from corpus.extract_scan import S_O, S_OVER, S_SLOTS, put
from corpus.extract_state import (
    BLOCK_FIELDS,
    MOST_BLOCKS,
    S_ASPECTS,
    S_BLOCKS,
    S_DECLARED0,
    S_DECLARED1,
    S_TITLE0,
    S_TITLE1,
    STACK,
)
from corpus.extract_tables import A_SLOTS, Tables, tables
from corpus.latex_mathml import FRAMES

__all__ = ["Extracted", "extract"]

_LANGUAGE = re.compile(rb"\s*([A-Za-z]{2,3})(?:[-_]|\s*$)")  # the primary subtag of a language tag


class Extracted(NamedTuple):
    """What was found in N pages.

    text: large_string, empty where nothing is left.
    title: string, null where the page has none.
    declared: string, the language of <html lang=…> without its region, such as en, zh; null where none is declared.
    formulas, code_blocks, code_chars: int32 [N], of what is in the text; inline code is not counted.
    """

    text: pa.Array
    title: pa.Array
    formulas_N: np.ndarray
    code_blocks_N: np.ndarray
    code_chars_N: np.ndarray
    declared: pa.Array


def extract(html: pa.Array) -> Extracted:
    """Text and signals of each page (string or large_string, may be a slice; null = empty)."""
    offsets_N1, data_B = text_buffers(html)
    pages = len(offsets_N1) - 1
    signals_3N = np.zeros((3, pages), np.int32)
    T = tables()
    texts: list[bytes] = []
    titles: list[bytes | None] = []
    declared: list[str | None] = []
    work = _Work(0, 0)
    # A loop per page: a page is 70 kB and takes 0.5 ms; what Python does for it takes some microseconds.
    for n in range(pages):
        page_b = data_B[offsets_N1[n] : offsets_N1[n + 1]]
        room, most = 2 * len(page_b) + 4096, len(page_b) // 64 + 1024
        while True:
            work = work.at_least(room, most)
            copy_b = work.page_b[: len(page_b)]
            copy_b[:] = page_b
            walk(copy_b, work.raw_b, work.S, work.K, work.B, work.F, work.A, T)
            declared0, declared1, over = work.S[[S_DECLARED0, S_DECLARED1, S_OVER]]
            if not over:
                title, stop, *signals = _finish(copy_b, work.raw_b, work.out_b, work.S, work.B, T)
                if not work.S[S_OVER]:
                    break
            room, most = 2 * room, min(4 * most, MOST_BLOCKS)
        signals_3N[:, n] = signals
        titles.append(work.out_b[:title].tobytes() if title else None)
        texts.append(work.out_b[title:stop].tobytes())
        tag = _LANGUAGE.match(page_b[declared0:declared1].tobytes())
        declared.append(tag[1].decode().lower() if tag else None)
    text = pa.array(texts, pa.large_binary()).cast(pa.large_string())
    return Extracted(
        text=text,
        title=pa.array(titles, pa.binary()).cast(pa.string()),
        formulas_N=signals_3N[0],
        code_blocks_N=signals_3N[1],
        code_chars_N=signals_3N[2],
        declared=pa.array(declared, pa.string()),
    )


class _Work:
    """The kernels' arrays, kept from page to page; not cleared, since every byte read was written for the same page."""

    def __init__(self, room: int, most: int) -> None:
        # The page too: numba compiles code twice for bytes that may be written and bytes that may not.
        self.page_b = np.empty(room, np.uint8)
        self.raw_b, self.out_b = np.empty(room, np.uint8), np.empty(room, np.uint8)
        self.B = np.empty((most, BLOCK_FIELDS), np.int64)
        self.S, self.K = np.zeros(S_SLOTS, np.int64), np.zeros(STACK, np.int64)
        self.F, self.A = np.zeros(FRAMES, np.int64), np.zeros(2 * A_SLOTS + 1, np.int64)

    def at_least(self, room: int, most: int) -> _Work:
        most = min(most, MOST_BLOCKS)
        if len(self.raw_b) >= room and len(self.B) >= most:
            return self
        return _Work(max(room, len(self.raw_b)), max(most, len(self.B)))


@njit(cache=True, nogil=True)
def _finish(
    page_b: np.ndarray, raw_b: np.ndarray, out_b: np.ndarray, S: np.ndarray, B: np.ndarray, T: Tables
) -> tuple[int, int, int, int, int]:
    """Title and text into out_b: (end of the title, end of the text, formulae, code blocks, characters in them)."""
    count, i, title1 = S[S_BLOCKS], S[S_TITLE0], S[S_TITLE1]
    choose(raw_b, B, count, S[S_ASPECTS])
    S[:] = 0
    while i < title1:  # a < in a title is text
        i = prose(page_b[:title1], i, out_b, S, T)
        if i < title1:
            gap(out_b, S)
            put(out_b, S, page_b[i])
            i += 1
    title = S[S_O]
    formulas, blocks, characters = lay_out(page_b, raw_b, B, count, out_b, S)
    return title, S[S_O], formulas, blocks, characters
