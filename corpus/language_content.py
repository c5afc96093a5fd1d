"""Which language a text looks like: a score per (document, language), from tokens and from shapes.

Tokens (corpus/language_tokens.py): corpus/language_words.txt lists by hand what each language's text looks like. Every line
there is `Language: feature feature …` (continued lines are indented; `~` after the name: letter case does not count; `< Parent,
Parent`: the language contains these). A feature is a token and where it stands:

    token     anywhere                    ^token    first on its line          a·⏎    last on its line
    a·b       next to each other          ^a·b      the first two of a line    ^a..c  first on a line whose last sign is c

W stands for any word and 0 for any number, alone or behind a run of signs (`$W`, `def·W`, `[·0`).

    score = Σ over features seen of weight(feature) · damped(times seen),   weight = 16 · log2(languages / those that list it)

So a keyword that forty languages share is cheap and one that gives a language away is dear; nothing is weighted by hand. What
a language has from a parent counts 4/5: C++ looks like C, but C looks more like C, and `template` decides.
Shapes: what tokens cannot say (columns, how a text begins) are RE2 patterns, linear in the text whatever it holds.

The trade: presence of hand-written features knows no frequencies, so it ranks well among the few languages that share an
extension and only fairly among all; the scores of all are returned and the caller asks for a lead.
Integer arithmetic throughout: the same bytes score the same everywhere.
"""

from __future__ import annotations

import collections
import functools
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

from corpus.language_shapes import SHAPES
from corpus.language_tokens import ANY_WORD, KIND, NEW_LINE, fnv, tokenize

__all__ = ["SHAPE_WEIGHT", "WORDS", "Features", "features", "score"]

WORDS = Path(__file__).with_name("language_words.txt")
SHAPE_WEIGHT = 100  # of a shape with strength 1; a feature that one language alone lists weighs 16 · log2(370) = 136

_ANYWHERE, _FIRST, _NEXT, _FIRST_TWO, _CLOSED = 0, 1, 2, 3, 4  # where a token stands
_INHERITED = 4 / 5
_DAMPED = np.array([0, 4, 6, 7, 8], np.int32)  # quarters: seen once counts 1, four times and more 2
_BLOOM_BITS = 1 << 19  # 64 KiB, stays in the second-level cache; 12,000 features × 4 spellings set 5 % of it


class Features(NamedTuple):
    """The table as arrays. Feature f gives weight_P[start_F1[f] : start_F1[f + 1]] to the languages at language_P[…]."""

    bloom: np.ndarray  # uint8, _BLOOM_BITS / 8
    slots_S: np.ndarray  # int32, feature or -1, open addressing by hash
    keys_F: np.ndarray  # uint64
    start_F1: np.ndarray  # int32
    language_P: np.ndarray  # int32
    weight_P: np.ndarray  # int32


@njit(cache=True, nogil=True)
def _join(a, b, place):  # type: ignore[no-untyped-def]
    """One hash of two tokens and where they stand."""
    h = (a ^ (np.uint64(place) * np.uint64(0x9E3779B97F4A7C15))) * np.uint64(0xFF51AFD7ED558CCD)
    h = (h ^ (h >> np.uint64(32)) ^ b) * np.uint64(0xC4CEB9FE1A85EC53)
    return h ^ (h >> np.uint64(29))


def _hash(token: str) -> np.uint64:
    return np.uint64(fnv("\n" if token == "⏎" else token))


def _feature_hash(feature: str) -> int:
    """The hash the kernel computes for a feature as written in the file."""
    first = len(feature) > 1 and feature[0] == "^" and feature[1] != "·"
    body = feature[1:] if first else feature
    if first and len(body) > 3 and body[-3:-1] == "..":
        return int(_join(_hash(body[:-3]), np.uint64(ord(body[-1])), _CLOSED))
    a, dot, b = body.partition("·")
    if dot:
        return int(_join(_hash(a), _hash(b), _FIRST_TWO if first else _NEXT))
    return int(_join(_hash(a), np.uint64(0), _FIRST if first else _ANYWHERE))


class Look(NamedTuple):
    """One entry of the file."""

    features: tuple[str, ...]
    parents: tuple[str, ...]  # languages it contains: it looks like them too, a little less


def parse_words(text: str) -> dict[str, Look]:
    """Language -> its entry, spelling variants of case-insensitive languages (`~`) written out."""
    found: dict[str, Look] = {}
    for line in text.replace("\n  ", " ").splitlines():
        head, _, rest = line.partition(": ")
        name, _, parents = head.partition(" < ")
        listed = rest.split()
        if name.endswith("~"):
            name = name[:-1]
            listed = [form for word in listed for form in _spellings(word)]
        found[name] = Look(tuple(dict.fromkeys(listed)), tuple(p for p in parents.split(", ") if p))
    return found


def _spellings(feature: str) -> tuple[str, ...]:
    title = feature.title()
    return feature, feature.lower(), feature.upper(), title, title[:2] + title[2:].lower()


def _inherited(name: str, looks: dict[str, Look]) -> dict[str, float]:
    """Feature -> share of its weight that counts for `name`: 1 for what sets it apart, _INHERITED per step up."""
    shares: dict[str, float] = {}
    for parent in looks[name].parents:
        for feature, share in _inherited(parent, looks).items():
            shares[feature] = max(share * _INHERITED, shares.get(feature, 0.0))
    return dict.fromkeys(looks[name].features, 1.0) | shares


@functools.lru_cache(maxsize=1)
def features(languages: tuple[str, ...]) -> Features:
    """The table over `languages`, whose positions are the language numbers used everywhere in this module."""
    number = {name: i for i, name in enumerate(languages)}
    looks = parse_words(WORDS.read_text("utf-8"))
    listed = collections.Counter(f for look in looks.values() for f in look.features)
    by_key: dict[int, dict[int, int]] = {}
    for name in looks:
        for feature, share in _inherited(name, looks).items():
            weight = round(share * 16 * math.log2(len(languages) / listed[feature]))
            by_key.setdefault(_feature_hash(feature), {})[number[name]] = weight
    keys_F = np.array(list(by_key), np.uint64)
    counts = [len(v) for v in by_key.values()]
    start_F1 = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    language_P = np.array([i for v in by_key.values() for i in v], np.int32)
    weight_P = np.array([w for v in by_key.values() for w in v.values()], np.int32)
    slots_S = np.full(1 << (2 * len(keys_F)).bit_length(), -1, np.int32)
    bloom = np.zeros(_BLOOM_BITS // 8, np.uint8)
    _fill(keys_F, slots_S, bloom)
    return Features(bloom, slots_S, keys_F, start_F1, language_P, weight_P)


@njit(cache=True, nogil=True)
def _fill(keys_F, slots_S, bloom):  # type: ignore[no-untyped-def]
    mask = np.uint64(len(slots_S) - 1)
    for f in range(len(keys_F)):
        bit = keys_F[f] & np.uint64(_BLOOM_BITS - 1)
        bloom[bit >> np.uint64(3)] |= np.uint8(1 << (bit & np.uint64(7)))
        s = (keys_F[f] >> np.uint64(24)) & mask
        while slots_S[s] >= 0:
            s = (s + np.uint64(1)) & mask
        slots_S[s] = f


@njit(cache=True, nogil=True)
def _count(h, bloom, slots_S, keys_F, seen_F, touched, n):  # type: ignore[no-untyped-def]
    """Count hash `h` if it is a feature; the new number of distinct features seen."""
    bit = h & np.uint64(_BLOOM_BITS - 1)
    if bloom[bit >> np.uint64(3)] >> (bit & np.uint64(7)) & 1 == 0:
        return n
    mask = np.uint64(len(slots_S) - 1)
    s = (h >> np.uint64(24)) & mask
    while slots_S[s] >= 0:
        f = slots_S[s]
        if keys_F[f] == h:
            if seen_F[f] == 0:
                touched[n] = f
                n += 1
            seen_F[f] += 1
            return n
        s = (s + np.uint64(1)) & mask
    return n


@njit(cache=True, nogil=True)
def _count_features(tokens_T4, place_T, closed_T, count, table, seen_F, touched):  # type: ignore[no-untyped-def]
    """Count the features that stand in the tokens into seen_F; how many distinct ones, listed in touched."""
    bloom, slots_S, keys_F = table[0], table[1], table[2]
    none = np.uint64(0)
    n = 0
    for t in range(count):
        token = tokens_T4[t, 0]
        if tokens_T4[t, 3] != none:
            n = _count(_join(tokens_T4[t, 3], none, _ANYWHERE), bloom, slots_S, keys_F, seen_F, touched, n)
        for form in range(3):  # the token, its class, its run
            h = tokens_T4[t, form]
            if h == none or (form > 0 and h == token):
                continue
            if not (form == 1 and h == ANY_WORD):
                n = _count(_join(h, none, _ANYWHERE), bloom, slots_S, keys_F, seen_F, touched, n)
            if place_T[t] == 0:
                n = _count(_join(h, none, _FIRST), bloom, slots_S, keys_F, seen_F, touched, n)
                continue
            before, before_class = tokens_T4[t - 1, 0], tokens_T4[t - 1, 1]
            n = _count(_join(before, h, _NEXT), bloom, slots_S, keys_F, seen_F, touched, n)
            if place_T[t] == 1:
                n = _count(_join(before, h, _FIRST_TWO), bloom, slots_S, keys_F, seen_F, touched, n)
            if before_class != before and form == 0:
                n = _count(_join(before_class, h, _NEXT), bloom, slots_S, keys_F, seen_F, touched, n)
                if place_T[t] == 1:
                    n = _count(_join(before_class, h, _FIRST_TWO), bloom, slots_S, keys_F, seen_F, touched, n)
        if place_T[t] == 0 and closed_T[t] != 0:
            n = _count(_join(token, np.uint64(closed_T[t]), _CLOSED), bloom, slots_S, keys_F, seen_F, touched, n)
        if t + 1 == count or place_T[t + 1] == 0:
            n = _count(_join(token, NEW_LINE, _NEXT), bloom, slots_S, keys_F, seen_F, touched, n)
    return n


@njit(cache=True, nogil=True)
def _score(offsets_N1, data, rows_R, prefix, kind, table, damped, scores_RL):  # type: ignore[no-untyped-def]
    start_F1, language_P, weight_P = table[3], table[4], table[5]
    seen_F = np.zeros(len(table[2]), np.int32)
    touched = np.zeros(len(table[2]), np.int32)
    tokens_T4 = np.empty((prefix, 4), np.uint64)
    place_T = np.empty(prefix, np.int32)
    closed_T = np.empty(prefix, np.uint8)
    for r in range(len(rows_R)):
        begin = offsets_N1[rows_R[r]]
        end = min(offsets_N1[rows_R[r] + 1], begin + prefix)
        count = tokenize(data, begin, end, kind, tokens_T4, place_T, closed_T)
        n = _count_features(tokens_T4, place_T, closed_T, count, table, seen_F, touched)
        for t in range(n):
            f = touched[t]
            times = damped[min(seen_F[f], len(damped) - 1)]
            seen_F[f] = 0
            for p in range(start_F1[f], start_F1[f + 1]):
                scores_RL[r, language_P[p]] += weight_P[p] * times // 4


def score(
    offsets_N1: np.ndarray,
    data: np.ndarray,
    rows_R: np.ndarray,
    languages: tuple[str, ...],
    allowed_RL: np.ndarray,
    prefix: int,
) -> np.ndarray:
    """int32 [R, L]: how much the first `prefix` bytes of document rows_R[r] look like each language.

    allowed_RL: bool, the languages in question for a row; shapes are tried for those only, and others score as they may.
    """
    scores_RL = np.zeros((len(rows_R), len(languages)), np.int32)
    _score(offsets_N1, data, rows_R.astype(np.int64), prefix, KIND, features(languages), _DAMPED, scores_RL)
    number = {name: i for i, name in enumerate(languages)}
    texts = prefixes(offsets_N1, data, rows_R, prefix)
    for language, strength, pattern in SHAPES:
        at = number[language]
        wanted = np.flatnonzero(allowed_RL[:, at])
        if len(wanted):
            hit = pc.match_substring_regex(texts.take(pa.array(wanted)), pattern).to_numpy(zero_copy_only=False)
            scores_RL[wanted[hit], at] += int(strength * SHAPE_WEIGHT)
    return scores_RL


def prefixes(offsets_N1: np.ndarray, data: np.ndarray, rows_R: np.ndarray, size: int, tail: bool = False) -> pa.Array:
    """The first (or last) `size` bytes of documents rows_R, as large_binary: a cut may fall inside a character."""
    start_R, stop_R = offsets_N1[rows_R], offsets_N1[rows_R + 1]
    if tail:
        start_R = np.maximum(start_R, stop_R - size)
    else:
        stop_R = np.minimum(stop_R, start_R + size)
    ends_R1 = np.concatenate([[0], np.cumsum(stop_R - start_R)]).astype(np.int64)
    out = np.empty(ends_R1[-1], np.uint8)
    _copy(data, start_R, stop_R, ends_R1, out)
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(rows_R), [None, pa.py_buffer(ends_R1), pa.py_buffer(out)])


@njit(cache=True, nogil=True)
def _copy(data, start_R, stop_R, ends_R1, out):  # type: ignore[no-untyped-def]
    for r in range(len(start_R)):
        out[ends_R1[r] : ends_R1[r + 1]] = data[start_R[r] : stop_R[r]]
