"""Train the classifier of a recall round: pages of the seed against pages of the pool, by fastText on BPE ids.

1. Positives: up to `positives` pages of the seed (all the steps in `seed`), drawn by hash(draw, id), of one group at most
   `max_share` of them, or 50, or twice what each would give if all gave the same, whatever is most. A group is a domain or
   a repository.
2. Negatives: as many pages of the pool, of one group at most `negatives_per_group`; more of each only where that makes fewer
   than there are positives, and at most `least_negatives` where there are few positives. Never a page of the seed; from
   round 2 on (`previous`) neither a page collected in the round before nor a page of a group it found to be on topic. Where one
   side has fewer pages, they are repeated: both weigh the same.
3. Some pages of the pool are on topic. Up to 20,000 positives, a first training finds them: three folds of groups are held
   back in turn, and a negative is doubted that a model which has not seen it ranks above the last `doubt` of the seed's
   held-back pages. It is not trained on again: the two-step method for unlabelled pages (Liu et al., ICDM 2003). Above
   20,000 positives the pool is the web, of which few pages are on any topic, and none is doubted.
4. setting "fixed": fastText with the numbers of the Config, those of DeepSeekMath.
   setting "auto": the same at half a million positives. Below, 3 epochs at rate 0.1 underfit badly, so each of a small fixed
   grid of rates and epochs (0.5 and 10, 0.5 and 5) is tried, and the one that ranks pages of groups held back best is used;
   dim and buckets shrink with the text, since a line through two labels needs few of either. Up to 20,000 positives, three
   folds of groups are held back in turn and the model is then trained on everything; above, a tenth stays held back.
5. With `signals`, where all pages have been through extract_text, the classifier also reads what that counted of formulae and
   code, as words before the text (corpus/signals.py). Text alone is the paper's.
6. What was held back gives the table of precision and recall, as if both labels were equally many: in a pool of which one
   page in fifty is on topic, 0.90 is 0.15. Doubted pages count as "not on topic" there; in the calibration (Platt: monotone,
   so ranks stay) they do not count.
7. A page that was trained on is known by heart. So up to 20,000 positives it ranks by the model of rule 4 that was trained
   without its site, on the scale of the model trained on all: a site that joined the seed by mistake is found out, and
   pages of the topic that were taken for negatives are found. Above, three epochs over so much leave little by heart.
8. When the round before collected nothing new (its record says converged), its model is copied and nothing is trained.

Writes model.bin (stock fastText loads it), with tokenizer.json and README.md what its reader needs, table.npy (folded for
scoring, see corpus/classifier.py), held.npy (rule 7), seed.npy (hashes of the ids of the seed) and recall.json (setting,
counts, calibration, table). All documents count as used.

The trade: one thread trains, since fastText's bytes are the same from run to run only then; that is hours at 500,000 pages
a side. Doubting costs three short trainings, and hard negatives that were none of the topic.

Reference: DeepSeekMath (arXiv 2402.03300), section 2.1; DeepSeek-Coder-V2 (arXiv 2406.11931), section 2.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from corpus.classifier import Setting, first_ids, write_table
from corpus.document import text_buffers
from corpus.engine import Engine
from corpus.errors import ConfigError, InputError
from corpus.groups import GROUPINGS, group_keys, groups
from corpus.recall import HELD, HELD_ROW, RECORD, TOPIC_GROUPS, collected, id_keys, read_record, sample_keys, scored
from corpus.recall_report import card
from corpus.recall_training import (
    Chosen,
    Samples,
    average_precision,
    cap_groups,
    curve,
    describe,
    fit,
    held_logits,
    logits_of,
    platt,
    split_groups,
)
from corpus.report import Report
from corpus.shards import Items, StepShards, atomic, read_array, scratch_of, write_array, write_json
from corpus.signals import COLUMNS as SIGNALS
from corpus.signals import WORDS, with_signals
from corpus.step import Step
from corpus.tokenizer import Encoder, content_of, load_encoder, path_of

REVISION = 5
REASONS: tuple[str, ...] = ()  # nothing is dropped

_GRID = ((0.5, 10), (0.5, 5))  # rate, epochs; the first is what doubts
_FOLDS = 3
_TENTH = 10  # folds of which one is held back
_SMALL = 20_000  # positives up to which folds take turns; above, one fold is held back
_FLOOR = 50  # pages a group of the seed may give, however small the seed is
_SPARE = 4  # candidates drawn for each page wanted, since caps and the seed take some away
_PART = 4 << 20  # ids of a partition of candidates: 16 MB
_RECALLS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_COLUMNS = ["id", "url", "repo", "text", *SIGNALS]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    pool: Step
    seed: tuple[Step, ...]
    tokenizer: Step | str  # a train_tokenizer step, or the path of a tokenizer.json
    previous: Step | None = None  # select_recall of the round before, over the same pool
    group_by: Literal["domain", "repository"] = "domain"
    setting: Literal["auto", "fixed"] = "auto"
    positives: int = 500_000  # DeepSeekMath 2.1, like the five below
    dim: int = 256
    rate: float = 0.1
    epochs: int = 3
    runs: int = 3
    min_count: int = 3
    buckets: int = 2_000_000  # fastText's default
    max_tokens: int = 4096  # of a page, in training and in scoring
    max_share: float = 0.02
    negatives_per_group: int = 3
    least_negatives: int = 2_000
    doubt: float = 0.2  # share of the seed's pages that a doubted negative ranks above; 0: none is
    signals: bool = True  # read them, too, where all pages have them; False: the text alone
    draw: int = 0  # the seed of every draw
    tokenizer_xxh3: str = dataclasses.field(default="", init=False)  # a path's content, so that it is in the fingerprint

    def __post_init__(self) -> None:
        if not self.seed:
            raise ConfigError("train_recall.seed is empty; at least one step with pages on topic expected")
        if self.group_by not in GROUPINGS:
            raise ConfigError(f"train_recall.group_by = {self.group_by!r}: one of {', '.join(GROUPINGS)} expected")
        if self.setting not in ("auto", "fixed"):
            raise ConfigError(f"train_recall.setting = {self.setting!r}: 'auto' or 'fixed' expected")
        for name in ("positives", "dim", "epochs", "runs", "min_count", "max_tokens", "negatives_per_group"):
            if getattr(self, name) < 1:
                raise ConfigError(f"train_recall.{name} = {getattr(self, name)}: 1 or more expected")
        if not 1 <= self.buckets < 1 << 31 or self.least_negatives < 0:
            raise ConfigError(f"train_recall.buckets = {self.buckets}: 1 or more, and least_negatives 0 or more, expected")
        if not 0 < self.rate <= 10:
            raise ConfigError(f"train_recall.rate = {self.rate}: more than 0 and at most 10 expected")
        if not 0 <= self.doubt < 1:
            raise ConfigError(f"train_recall.doubt = {self.doubt}: 0 or more and under 1 expected")
        if not 0 < self.max_share <= 1:
            raise ConfigError(f"train_recall.max_share = {self.max_share}: a share over 0 and up to 1 expected")
        object.__setattr__(self, "tokenizer_xxh3", content_of(self.tokenizer))

    @property
    def given(self) -> Setting:
        """The Config's own numbers."""
        return Setting(self.dim, self.rate, self.epochs, self.runs, self.min_count, self.buckets, self.draw)


@dataclasses.dataclass(frozen=True)
class Aside:
    """What a task needs beside its documents. seed: sorted hashes of ids; topic: sorted hashes of groups; cut: a rank."""

    encoder: Encoder
    seed: np.ndarray
    topic: np.ndarray
    cut: int | None


def load(tokenizer: Path, seed: Path | None, topic: Path | None, cut: int | None) -> Aside:
    none = np.zeros(0, np.uint64)
    seeds, topics = (none if path is None else read_array(path) for path in (seed, topic))
    return Aside(load_encoder(tokenizer), seeds, topics, cut)


def sample(
    batch: pa.RecordBatch, origin: int, state: Aside, config: Config, signals: bool, fraction: float, partitions: int
) -> pa.Table:
    """The candidates of a batch with their ids, to the partition of their key."""
    key = sample_keys(batch.column("id"), config.draw)
    fine = (key >> np.uint64(11)) * (1.0 / (1 << 53)) < fraction
    group = group_keys(groups(batch, config.group_by), batch.column("id"))
    fine &= ~np.isin(id_keys(batch.column("id")), state.seed) & ~np.isin(group, state.topic)
    if state.cut is not None:
        fine &= ~collected(batch, state.cut)
    rows = np.flatnonzero(fine)
    taken = batch.take(pa.array(rows))
    ids, ends = state.encoder.encode(*text_buffers(taken.column("text")))
    if signals:
        ids, ends = with_signals(taken, ids, ends, state.encoder.vocab_size, config.max_tokens)
    ids, ends = first_ids(ids, ends, config.max_tokens)
    target = ((key[rows] >> np.uint64(32)) * np.uint64(partitions)) >> np.uint64(32)
    lists = pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), pa.array(ids, pa.uint32()))
    columns = {"key": key[rows], "group": group[rows], "ids": lists, "partition": target.astype(np.int64)}
    return pa.table(columns)


def seed_keys(batches: Iterator[pa.RecordBatch], out: Path) -> dict[str, Any]:
    """seed.npy: the sorted hashes of the ids of the seed."""
    parts = [id_keys(batch.column("id")) for batch in batches]
    keys = np.unique(np.concatenate([np.zeros(0, np.uint64), *parts]))
    write_array(out / "seed.npy", keys)
    return {"seed": len(keys)}


def choose(samples: Samples, config: Config) -> Chosen:
    """Rules 1 and 2, and the folds."""
    key, group, label = samples.facts()
    topic, other = np.flatnonzero(label == 1), np.flatnonzero(label == 0)
    wanted = min(config.positives, len(topic))
    fair = -(-2 * wanted // max(1, len(np.unique(group[topic]))))
    topic = topic[cap_groups(group[topic], max(_FLOOR, int(config.max_share * wanted), fair), config.positives)]
    most = min(config.positives, max(len(topic), config.least_negatives))
    other = other[cap_groups(group[other], config.negatives_per_group, most, least=len(topic))]
    rows = np.sort(np.concatenate([topic, other]))
    folds = _FOLDS if len(topic) <= _SMALL else _TENTH
    fold = np.full(len(rows), -1, np.int64)
    for n in (0, 1):
        mine = label[rows] == n
        names = group[rows][mine]
        # A seed of one site cannot be split by site; by page is then better than not at all.
        units = names if len(np.unique(names)) >= 2 else key[rows][mine]
        if (several := len(np.unique(units))) >= 2:
            fold[mine] = split_groups(units, min(folds, several))
    return Chosen(key[rows], group[rows], label[rows], fold, np.zeros(len(rows), bool))


def is_auto(config: Config, positives: int) -> bool:
    """Whether rate and epochs are chosen: the paper's suit the paper's half a million."""
    return config.setting == "auto" and positives < 500_000


def settings_for(config: Config, chosen: Chosen) -> list[Setting]:
    """What to choose from; one: nothing to choose."""
    given = config.given
    if not is_auto(config, chosen.topic):
        return [given]
    dim, buckets = min(config.dim, 16), min(config.buckets, 200_000)
    if chosen.topic > _SMALL:
        dim, buckets = min(config.dim, 64), config.buckets
    small = dataclasses.replace(given, dim=dim, buckets=buckets)
    updates = 2 * config.epochs * 500_000  # no grid point may take much longer than the paper's setting would
    grid = [(rate, epochs) for rate, epochs in _GRID if epochs * chosen.topic <= updates]
    return [dataclasses.replace(small, rate=rate, epochs=epochs) for rate, epochs in grid or [(config.rate, config.epochs)]]


def train_model(batches: Iterator[Any], out: Path, config: Config, samples: Samples, words: int) -> dict[str, Any]:
    """Rules 3 to 7: doubt, choose, train, calibrate; the record."""
    with samples.nearby() as near:
        return _train_model(out, config, near, words)


def _train_model(out: Path, config: Config, samples: Samples, words: int) -> dict[str, Any]:
    chosen = choose(samples, config)
    _refuse_nothing(config, chosen)
    chosen = doubt(out, config, samples, chosen, words)
    tried, folds = _try(out, config, samples, chosen, words)
    setting = max(tried, key=lambda item: item[1])[0]
    small = chosen.topic <= _SMALL
    with atomic(out / "model.bin") as temporary:
        scorer = fit(samples, chosen, None if small else 0, setting, words, config.max_tokens, temporary)
    with atomic(out / "table.npy") as temporary:
        write_table(temporary, scorer)
    own = logits_of(samples, chosen, np.full(len(chosen.key_N), True), scorer) if small else None
    held = held_logits(chosen, folds, own)
    tested, sure = ~np.isnan(held), ~np.isnan(held) & ~chosen.doubt_N
    seen = np.zeros(int(sure.sum()), HELD_ROW)
    seen["key"], seen["logit"] = chosen.key_N[sure], held[sure]
    write_array(out / HELD, seen)
    logit, label = held[tested], chosen.label_N[tested]
    a, b = platt(held[sure], chosen.label_N[sure])
    return {
        "positives": chosen.topic,
        "negatives": chosen.other,
        "doubted": int(chosen.doubt_N.sum()),
        "positive_groups": len(np.unique(chosen.group_N[chosen.label_N == 1])),
        "negative_groups": len(np.unique(chosen.group_N[chosen.label_N == 0])),
        "setting": describe(setting),
        "tried": [{**describe(s), "held_back_average_precision": round(score, 6)} for s, score in tried],
        "held_back": {"positives": int(label.sum()), "negatives": int((1 - label).sum())},
        "average_precision": round(average_precision(logit, label), 6),
        "curve": curve(logit, label, _RECALLS),
        "calibration": [a, b],
        "words": words,
        "runs": config.runs,
        "max_tokens": config.max_tokens,
        "remarks": _remarks(config, chosen),
    }


def doubt(out: Path, config: Config, samples: Samples, chosen: Chosen, words: int) -> Chosen:
    """Rule 3: the negatives that a model which has not seen them takes for pages of the topic."""
    tested = (chosen.label_N == 1) & (chosen.fold_N >= 0)
    if not config.doubt or chosen.topic > _SMALL or not tested.any():
        return chosen
    folds = _held(out, config, samples, chosen, settings_for(config, chosen)[0], words)
    logit_N = np.nan_to_num(held_logits(chosen, folds, None), nan=-np.inf)
    bar = np.quantile(logit_N[tested], config.doubt)
    doubted = (chosen.label_N == 0) & (logit_N >= bar)
    if doubted.sum() * 2 > chosen.other:  # then the model knows nothing yet
        return chosen
    return dataclasses.replace(chosen, doubt_N=doubted)


def _held(out: Path, config: Config, samples: Samples, chosen: Chosen, setting: Setting, words: int) -> list[np.ndarray]:
    """Per fold, logits_of the model trained without it: of all rows, or where there are many of the fold's own."""
    small = chosen.topic <= _SMALL
    folds = []
    for fold in range(min(int(chosen.fold_N.max()) + 1, _FOLDS) if small else 1):
        with tempfile.NamedTemporaryFile(dir=scratch_of(out), prefix=".tmp-", suffix="-trial.bin") as model:
            scorer = fit(samples, chosen, fold, setting, words, config.max_tokens, Path(model.name))
        folds.append(logits_of(samples, chosen, (chosen.fold_N == fold) | small, scorer))
    return folds


def _try(
    out: Path, config: Config, samples: Samples, chosen: Chosen, words: int
) -> tuple[list[tuple[Setting, float]], list[np.ndarray]]:
    """Every setting with its score on the folds it did not see, and the best one's _held."""
    tried: list[tuple[Setting, float]] = []
    best: list[np.ndarray] = []
    for setting in settings_for(config, chosen):
        folds = _held(out, config, samples, chosen, setting, words)
        score = _score(chosen, folds)
        if not tried or score > max(s for _, s in tried):
            best = folds
        tried.append((setting, score))
    return tried, best


def _score(chosen: Chosen, folds: list[np.ndarray]) -> float:
    """Mean over folds of the average precision without the doubted, each with as many positives as it holds."""
    rows = [(chosen.fold_N == fold) & ~chosen.doubt_N for fold in range(len(folds))]
    counts = [int(chosen.label_N[mine].sum()) for mine in rows]
    scores = [average_precision(said[mine], chosen.label_N[mine]) for said, mine in zip(folds, rows, strict=True)]
    return float(np.dot(scores, counts)) / max(1, sum(counts))


def _refuse_nothing(config: Config, chosen: Chosen) -> None:
    seeds = ", ".join(step.name for step in config.seed)
    if not chosen.topic:
        raise InputError(f"the seed ({seeds}) has no page; name sites or files that are in the pool, or another seed")
    if not chosen.other:
        raise InputError(
            f"the pool ({config.pool.name}) has no page left to be a negative: every one is in the seed or was collected "
            "in the round before; take a larger pool, fewer rounds or a stricter cut"
        )


def _remarks(config: Config, chosen: Chosen) -> list[str]:
    said = []
    if chosen.topic < config.positives:
        said.append(f"{chosen.topic:,} positives, {config.positives:,} asked: the seed has no more (under the cap per group)")
    if chosen.topic < 100:
        said.append("fewer than 100 positives: what is held back says little, look at the pages at the cut")
    for n, side in ((1, "positives"), (0, "negatives")):
        _, sizes = np.unique(chosen.group_N[chosen.label_N == n], return_counts=True)
        if sizes.max() * 2 > sizes.sum() and sizes.sum() > 1:
            said.append(f"one {config.group_by} has {sizes.max():,} of the {sizes.sum():,} {side}")
    if not (chosen.fold_N[chosen.label_N == 1] >= 0).any():
        said.append("a seed of one page has nothing to hold back: precision and probabilities are not known")
    if is_auto(config, chosen.topic):
        said.append("fewer positives than the paper's 500,000: rate and epochs were chosen on pages of groups held back")
    return said


def run(config: Config, out: Path, engine: Engine) -> Report:
    before = None if config.previous is None else read_record(engine, config.previous)
    pool = engine.shards(config.pool)
    assert isinstance(pool, StepShards)
    if not pool.rows:
        raise InputError(f"the pool ({config.pool.name}) has no pages")
    counted = engine.reduce(seed_keys, config.seed, out, name="seed", columns=["id"])
    seeds: int = counted.notes["seed"]
    if before is not None and before["converged"]:
        record = _copy(config, out, engine, before)
    else:
        record = _train(config, out, engine, pool, seeds, before)
    write_json(out / RECORD, record)
    with atomic(out / "tokenizer.json") as temporary:
        temporary.write_bytes(path_of(engine, config.tokenizer).read_bytes())
    with atomic(out / "README.md") as temporary:
        temporary.write_text(card(out.name, record), "utf-8")
    rows = sum(engine.rows(step) for step in config.seed)
    rows += engine.rows(config.previous) if config.previous is not None else 0
    keys = ("positives", "negatives", "signals", "average_precision", "setting", "remarks", "copied")
    report = Report(read=pool.rows + rows, used=pool.rows + rows)
    report.notes.update({"seed": seeds, **{key: record[key] for key in keys if key in record}})
    return report


def _train(
    config: Config, out: Path, engine: Engine, pool: StepShards, seeds: int, before: dict[str, Any] | None
) -> dict[str, Any]:
    tokenizer = path_of(engine, config.tokenizer)
    need = min(config.positives, max(seeds, config.least_negatives))
    partitions = max(1, -(-2 * need * _SPARE * config.max_tokens // _PART))
    signals = config.signals and all(_has_signals(engine, step) for step in (config.pool, *config.seed))
    take = functools.partial(sample, config=config, signals=signals, partitions=partitions)
    topic = []
    for i, step in enumerate(config.seed):
        fraction = min(1.0, _SPARE * config.positives / max(1, seeds))
        setup = partial(load, tokenizer, None, None, None)
        route = partial(take, fraction=fraction)
        topic.append(engine.exchange(route, step, out, name=f"seed_{i}", partitions=partitions, setup=setup, columns=_COLUMNS))
    inputs, aside = pool, None
    if config.previous is not None and before is not None:
        inputs = scored(engine, config.pool, config.previous.config.scores)
        aside = engine.folder(config.previous) / TOPIC_GROUPS
    fraction = min(1.0, _SPARE * need / pool.rows)
    setup = partial(load, tokenizer, out / "seed.npy", aside, before["cut"] if before is not None else None)
    route = partial(take, fraction=fraction)
    other = engine.exchange(route, inputs, out, name="pool", partitions=partitions, setup=setup, columns=_COLUMNS)
    samples = Samples(tuple(topic), other)
    words = load_encoder(tokenizer).vocab_size + (WORDS if signals else 0)
    fold = partial(train_model, config=config, samples=samples, words=words)
    record = engine.reduce(fold, Items(()), out, name="train").notes
    return {"converged": False, "signals": signals, **record}


def _has_signals(engine: Engine, step: Step) -> bool:
    """Whether extract_text made a step's documents. Both sides' or neither's must be so: else having signals is the label."""
    shards = engine.shards(step)
    first = next((batch for name in shards.names[:1] for batch in shards.read(name, list(SIGNALS))), None)
    return first is None or set(SIGNALS) <= set(first.schema.names)


def _copy(config: Config, out: Path, engine: Engine, before: dict[str, Any]) -> dict[str, Any]:
    """Rule 8."""
    assert config.previous is not None
    source = config.previous.config.scores.config.model
    for name in ("model.bin", "table.npy", HELD):
        with atomic(out / name) as temporary, (engine.folder(source) / name).open("rb") as old, temporary.open("wb") as new:
            shutil.copyfileobj(old, new)
    record = read_record(engine, source)
    return {**record, "copied": source.name, "remarks": [f"converged in round {before['round']}: the model of {source.name}"]}
