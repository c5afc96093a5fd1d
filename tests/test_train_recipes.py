"""Training recipes beside the papers: parameters, tokens, what a stage goes on from, and layouts that divide and fit."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

from corpus.errors import ConfigError
from corpus.step import walk
from recipes import moe_1b, moe_16b, moe_236b, moe_tiny
from train.__main__ import load_recipe
from train.config import TrainConfig, check_layout, fingerprint
from train.cost import DEVICES, components, memory
from train.schedule import batch_of, learning_rate, samples_before

# recipe, parameters, tokens in units of 10^12, steps, batch, length, peak rate
PAPERS = [
    ("moe_1b", 7_203_371_008, 1.0, None, 1024, 4096, 5.3e-4),
    ("moe_1b:dense", 1_561_442_304, 1.0, None, 1024, 4096, 5.3e-4),
    ("moe_16b:pretrain", 15_706_484_224, 5.7, None, 4608, 4096, 4.2e-4),
    ("moe_16b", 15_706_484_224, 6.0, None, 4608, 4096, 4.2e-4),
    ("moe_16b:long_32k", 15_706_484_224, None, 1000, 1152, 32_768, 4.2e-5),
    ("moe_16b:long_128k", 15_706_484_224, None, 1000, 288, 131_072, 4.2e-5),
    ("moe_236b:pretrain", 235_741_434_880, 8.1, None, 9216, 4096, 2.4e-4),
    ("moe_236b", 235_741_434_880, 6.0, None, 9216, 4096, 2.4e-4),
    ("moe_236b:long_32k", 235_741_434_880, None, 1000, 1152, 32_768, 2.4e-5),
    ("moe_236b:long_128k", 235_741_434_880, None, 1000, 288, 131_072, 2.4e-5),
]  # fmt: skip


@pytest.mark.parametrize(("name", "whole", "trillions", "steps", "batch", "length", "peak"), PAPERS)
def test_a_recipe_is_the_papers_and_fits(
    name: str, whole: int, trillions: float | None, steps: int | None, batch: int, length: int, peak: float
) -> None:
    config = load_recipe(f"recipes.{name}", [])
    assert sum(count for count, _ in components(config.model).values()) == whole
    assert (config.batch, config.seq_len) == (batch, length)
    if trillions is not None:  # the first step at which they are reached
        tokens = [samples_before(n, config) * length for n in (config.steps - 1, config.steps)]
        assert tokens[0] < round(trillions * 10**12) <= tokens[1]
    else:
        assert config.steps == steps
    assert max(learning_rate(step, config) for step in range(0, 3000, 10)) == pytest.approx(peak, rel=1e-3)
    assert (config.beta1, config.beta2, config.weight_decay, config.clip) == (0.9, 0.95, 0.1, 1.0)
    check_layout(config)
    worst = max(memory(config, stage).total for stage in {0, config.layout.pp // 2, config.layout.pp - 1})
    assert 0.2 * DEVICES["H100"].memory < worst < 0.92 * DEVICES["H100"].memory


def test_v2_begins_with_a_quarter_of_its_batch() -> None:
    config = moe_236b.pretrain()
    assert batch_of(0, config) == 2304 and batch_of(config.steps - 1, config) == 9216
    whole = next(step for step in range(config.steps) if batch_of(step, config) == 9216)
    assert samples_before(whole, config) * 4096 == pytest.approx(225e9, rel=1e-3)


def test_rates_at_the_ends() -> None:
    for config, last in (
        (moe_16b.pretrain(), 4.2e-4 * 0.316**2),
        (moe_236b.pretrain(), 2.4e-4 * 0.316**2),
        (moe_16b.recipe(), 4.2e-5),
        (moe_236b.recipe(), 2.4e-5),
    ):
        assert learning_rate(1999, config) == pytest.approx(config.lr)
        assert learning_rate(config.steps - 1, config) == pytest.approx(last)


def test_losses_and_routing_of_v2() -> None:
    full, lite = moe_236b.recipe().model, moe_16b.recipe().model
    assert full.alphas == (0.003, 0.05, 0.02, 0.0) and full.capacity_factor == 1.0
    assert (full.n_group, full.topk_group, full.routed_scaling_factor) == (8, 3, 16.0)
    assert lite.alphas == (0.001, 0.0, 0.0, 0.0) and lite.capacity_factor is None and lite.n_group == 1
    assert full.initializer_range == lite.initializer_range == 0.006


@pytest.mark.parametrize("size", [moe_16b, moe_236b])
def test_long_stages_change_positions_and_nothing_else_of_the_model(size: object) -> None:
    first, second, third = (getattr(size, name)() for name in ("recipe", "long_32k", "long_128k"))
    assert second.model == third.model == dataclasses.replace(first.model, rope_factor=40.0)
    assert second.model.rope_factor * second.model.rope_original_length == 163_840
    assert [c.init for c in (second, third)] == [f"exported/{c.name}" for c in (first, second)]


@pytest.mark.parametrize("size", [moe_16b, moe_236b])
def test_long_documents_are_drawn_more_often_and_the_rest_of_the_corpus_is_the_same(size: object) -> None:
    first, second, third = (getattr(size, name)().data for name in ("recipe", "long_32k", "long_128k"))
    steps = [{step.name: step for step in walk(data)} for data in (first, second, third)]
    for long, tokens in ((steps[1], 16_384), (steps[2], 65_536)):
        assert {name for name in long if long[name] != steps[0][name]} == {"mix", "encode_tokens"}
        assert {(s.long_tokens, s.long_factor) for s in long["mix"].config.sources} == {(tokens, 4.0)}


def test_fill_in_the_middle_is_the_small_models_alone() -> None:
    for config, rate in ((moe_16b.recipe(), 0.5), (moe_236b.recipe(), 0.0), (moe_236b.long_128k(), 0.0)):
        encode = next(step for step in walk(config.data) if step.name == "encode_tokens")
        assert encode.config.fim_rate == rate and config.fim_rate == 0.0  # once, not twice


def test_the_mixture_meets_what_the_dense_model_has() -> None:
    mixture, dense = (components(config.model) for config in (moe_1b.recipe(), moe_1b.dense()))
    met = {kind: active for kind, (_, active) in mixture.items()}
    layers = met["dense MLPs"] + met["routed experts"] + met["shared experts"]
    assert layers == dense["dense MLPs"][0] == 24 * 3 * 2048 * 5504


def test_a_stage_does_not_begin_without_the_one_before() -> None:
    config: TrainConfig = moe_16b.long_32k()  # may be planned, and looked at
    with pytest.raises(ConfigError, match="init=exported/moe_16b: the folder of a Hugging Face checkpoint expected"):
        fingerprint(config)
    assert moe_tiny.recipe().init is None


@pytest.mark.parametrize("target", ["train", "demo"])
def test_make_passes_settings_to_every_command(target: str) -> None:
    """A field of a corpus step names other shards: what trains on them, and what reports on them, has to be told as well."""
    settings = ["dedup_near.threshold=0.8", "encode_tokens.fim_rate=0.25"]
    said = subprocess.run(
        ["make", "--dry-run", target, f"SET={' '.join(settings)}", "ROOT=elsewhere"],
        cwd=Path(__file__).resolve().parents[1], capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    commands = [line.split() for line in said.splitlines() if " -m corpus " in line or " -m train " in line]
    assert len(commands) == {"train": 1, "demo": 3}[target]
    for words in commands:
        assert [words[i + 1] for i, word in enumerate(words) if word == "--set"] == settings, words
        assert words[words.index("--root") + 1] == "elsewhere"
