"""Which natural language a page is in: by its script where one language uses it, by resiliparse's trigrams where several do.

What is judged is the beginning of the page's prose: code blocks, inline code and formulae are left out, since a page about C++
in German is German. Letters are counted by script first. A Han character says as much as a word of three letters does, so it
counts three: a Chinese page full of Latin names is Chinese. Japanese is Han with kana.

    script      one language uses the script (Thai, Hangul, …); the score is the script's share of the letters
    trigrams    Latin, Cyrillic, Arabic, Devanagari: the nearest profile among the languages of that script; 1 − distance/1200,
                1200 being where resiliparse calls its own answer unreliable
    declared    what the page says of itself, if it is of the script and trigrams tell little: of fewer than 200 letters, or
                with a score under 0.3. Elsewhere it is not believed: of 1,038 real pages 20 declared another language than
                they were written in, mostly the English of a template
    none        no letters, or nothing near: null

Names are ISO 639-1 where there is one. Bokmål and Nynorsk are "no".

Reference: resiliparse's fast language detection (Bevendorff et al., ECIR 2018), whose profiles come with the package.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numba import njit
from resiliparse.parse.lang import detect_fast, supported_langs

from corpus.document import text_buffers

__all__ = ["Found", "find_language", "prose_heads"]

HEAD = 4096  # bytes of prose that are looked at; twice as many decide 0.1 % of pages otherwise
_FEW = 200  # letters
_UNSURE = 0.3
_LONGEST = 4096  # bytes of a formula, so that a page of unclosed marks is read in linear time
_FAR = 1200
_SAME = {"nb": "no", "nn": "no", "iw": "he", "in": "id"}

# First and last code point, script. Several languages: None.
_SCRIPTS: tuple[tuple[int, int, str], ...] = (
    (0x41, 0x5A, "latin"), (0x61, 0x7A, "latin"), (0xC0, 0x24F, "latin"), (0x1E00, 0x1EFF, "latin"),
    (0x370, 0x3FF, "el"), (0x1F00, 0x1FFF, "el"), (0x400, 0x52F, "cyrillic"), (0x531, 0x58F, "hy"), (0x591, 0x5F4, "he"),
    (0x600, 0x6FF, "arabic"), (0x750, 0x77F, "arabic"), (0x900, 0x97F, "devanagari"), (0x980, 0x9FF, "bn"),
    (0xA00, 0xA7F, "pa"), (0xA80, 0xAFF, "gu"), (0xB00, 0xB7F, "or"), (0xB80, 0xBFF, "ta"), (0xC00, 0xC7F, "te"),
    (0xC80, 0xCFF, "kn"), (0xD00, 0xD7F, "ml"), (0xD80, 0xDFF, "si"), (0xE00, 0xE7F, "th"), (0xE80, 0xEFF, "lo"),
    (0xF00, 0xFFF, "bo"), (0x1000, 0x109F, "my"), (0x10A0, 0x10FF, "ka"), (0x1100, 0x11FF, "ko"), (0x1200, 0x137F, "am"),
    (0x1780, 0x17FF, "km"), (0x3041, 0x30FF, "ja"), (0x3400, 0x4DBF, "zh"), (0x4E00, 0x9FFF, "zh"), (0xAC00, 0xD7AF, "ko"),
    (0x20000, 0x3FFFF, "zh"),
)  # fmt: skip
NAMES = tuple(dict.fromkeys(name for _, _, name in _SCRIPTS))
_FIRST = np.array([first for first, _, _ in _SCRIPTS], np.int64)
_LAST = np.array([last for _, last, _ in _SCRIPTS], np.int64)
_SCRIPT = np.array([NAMES.index(name) for _, _, name in _SCRIPTS], np.int64)
_HAN, _KANA = NAMES.index("zh"), NAMES.index("ja")
_WEIGHT = np.array([3 if name in ("zh", "ja", "ko") else 1 for name in NAMES], np.int64)

_CYRILLIC = {"ba", "be", "bg", "ce", "cv", "kk", "ky", "mk", "mn", "ru", "sr", "tg", "tt", "uk"}
_ARABIC = {"ar", "ckb", "fa", "ps", "sd", "ug", "ur"}
_DEVANAGARI = {"hi", "mr", "ne", "sa"}
_OTHERS = set(NAMES) | _CYRILLIC | _ARABIC | _DEVANAGARI | {"dv", "yi"}
_SEVERAL = {
    "latin": sorted(set(supported_langs()) - _OTHERS),
    "cyrillic": sorted(set(supported_langs()) & _CYRILLIC),
    "arabic": sorted(set(supported_langs()) & _ARABIC),
    "devanagari": sorted(set(supported_langs()) & _DEVANAGARI),
}


class Found(NamedTuple):
    """language: string [N], null where there is none. score: float32 [N], 0 to 1. by: string [N]."""

    language: pa.Array
    score: pa.Array
    by: pa.Array


def find_language(text: pa.Array, declared: pa.Array) -> Found:
    """Of each text (large_string, as corpus/extract.py writes it); declared: its primary language tag, or null."""
    head_B, ends_N1, letters_NS = prose_heads(text)
    most_N = letters_NS.argmax(axis=1)
    # Japanese is written with kana between the Han; a few of them in a Chinese text are names.
    kana, han = letters_NS[:, _KANA], letters_NS[:, _HAN]
    cjk = (most_N == _HAN) | (most_N == _KANA)
    most_N[cjk] = np.where(10 * kana > han, _KANA, _HAN)[cjk]
    total_N = letters_NS.sum(axis=1)
    told: list[tuple[str | None, float, str]] = []
    for n, said in enumerate(declared.to_pylist()):  # a page is 70 kB of HTML; this loop takes microseconds of it
        script = NAMES[most_N[n]]
        if not total_N[n]:
            told.append((None, 0.0, "none"))
        elif script not in _SEVERAL:
            share = letters_NS[n, [_HAN, _KANA]].sum() if cjk[n] else letters_NS[n, most_N[n]]
            told.append((script, float(share / total_N[n]), "script"))
        else:
            head = head_B[ends_N1[n] : ends_N1[n + 1]].tobytes().decode("utf-8", "ignore")
            told.append(_several(head, script, said, int(total_N[n])))
    names, scores, by = zip(*told, strict=True) if told else ((), (), ())
    return Found(pa.array(names, pa.string()), pa.array(scores, pa.float32()), pa.array(by, pa.string()))


def _several(head: str, script: str, said: str | None, letters: int) -> tuple[str | None, float, str]:
    """(language, score, by) of a text in a script of several languages."""
    name, distance = detect_fast(head, _FAR, langs=_SEVERAL[script])
    score = max(0.0, 1 - distance / _FAR)
    said = _SAME.get(said, said) if said is not None else None
    if said in _SEVERAL[script] and (letters < _FEW or score < _UNSURE):
        return said, score, "declared"
    return (_SAME.get(name, name), score, "trigrams") if name != "unknown" else (None, 0.0, "none")


def prose_heads(text: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(bytes, ends [N+1], letters [N, len(NAMES)]): the beginning of each text without its code, and its letters by script."""
    offsets_N1, data_B = text_buffers(text)
    sizes = np.minimum(np.diff(offsets_N1), HEAD + 4)
    out_B = np.empty(int(sizes.sum()), np.uint8)
    ends_N1 = np.zeros(len(offsets_N1), np.int64)
    letters_NS = np.zeros((len(sizes), len(NAMES)), np.int64)
    _heads(offsets_N1, data_B, out_B, ends_N1, letters_NS, _FIRST, _LAST, _SCRIPT)
    return out_B, ends_N1, letters_NS * _WEIGHT


@njit(cache=True, nogil=True)
def _heads(
    offsets_N1: np.ndarray, data_B: np.ndarray, out_B: np.ndarray, ends_N1: np.ndarray, letters_NS: np.ndarray,
    first: np.ndarray, last: np.ndarray, script: np.ndarray,
) -> None:  # fmt: skip
    o = 0
    for n in range(len(ends_N1) - 1):
        i, stop, begin = offsets_N1[n], offsets_N1[n + 1], o
        fence, new_line = 0, True  # fence: back-ticks of the code block that is open
        while i < stop and o - begin < HEAD:
            byte = data_B[i]
            if new_line and byte == 96:
                ticks = _ticks(data_B, i, stop)
                if ticks >= 3 and (fence == 0 or ticks >= fence):
                    fence = ticks if fence == 0 else 0
                    i = _line_end(data_B, i, stop)
                    continue
            new_line = byte == 10
            if fence:
                i = _line_end(data_B, i, stop)
                if i < stop:
                    i += 1
                new_line = True
                continue
            if byte == 96 or byte == 36 or byte == 92:
                i = _past_inline(data_B, i, stop)
                continue
            size = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            point = np.int64(byte) if size == 1 else np.int64(byte & (0x7F >> size))
            for k in range(1, size):
                point = point << 6 | np.int64(data_B[i + k] & 0x3F)
            at = np.searchsorted(first, point, side="right") - 1
            if at >= 0 and point <= last[at]:
                letters_NS[n, script[at]] += 1
            for k in range(size):
                out_B[o + k] = data_B[i + k]
            i += size
            o += size
        ends_N1[n + 1] = o


@njit(cache=True, nogil=True)
def _past_inline(data_B: np.ndarray, i: int, stop: int) -> int:
    """Behind the code or the formula that begins at a ` or $ or \\; behind that byte where none does or none ends nearby."""
    byte, second = data_B[i], data_B[i + 1] if i + 1 < stop else np.uint8(0)
    display = (byte == 36 and second == 36) or (byte == 92 and second == 91)
    if byte == 92 and second != 40 and second != 91:
        return i + 1
    close = i + 2 if display or byte == 92 else i + 1
    last = min(stop, i + _LONGEST)
    while close < last and (display or data_B[close] != 10):
        after = data_B[close + 1] if close + 1 < stop else np.uint8(0)
        if byte == 92:
            if data_B[close] == 92 and after == second + (1 if second == 40 else 2):  # \\( ends in \\), \\[ in \\]
                return int(close + 2)
        elif data_B[close] == byte and (not display or after == 36):
            return int(close + 1 + display)
        close += 1
    return i + 1


@njit(cache=True, nogil=True)
def _ticks(data_B: np.ndarray, i: int, stop: int) -> int:
    count = 0
    while i + count < stop and data_B[i + count] == 96:
        count += 1
    return count


@njit(cache=True, nogil=True)
def _line_end(data_B: np.ndarray, i: int, stop: int) -> int:
    """The line feed at or after `i`, or the end."""
    while i < stop and data_B[i] != 10:
        i += 1
    return i
