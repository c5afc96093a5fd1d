"""What a training run is named by, what --set accepts, the schedule and the optimizer."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import pytest
import torch

from corpus.errors import ConfigError
from kernels import ops
from tests.test_train_attention import TINY
from tests.toys.recipe import recipe as toy_corpus
from train import config
from train.config import Layout, TrainConfig, check_layout, fingerprint, run_folder
from train.model import make_model
from train.optim import Optimizer
from train.parallel import ALONE
from train.schedule import learning_rate
from train.settings import apply_settings

CONFIG = TrainConfig(name="toy", model=TINY, data="shards", steps=100, batch=4, seq_len=16, lr=1e-3, warmup=10)


def test_the_fingerprint_changes_with_the_work_and_only_then() -> None:
    same = dataclasses.replace(CONFIG, checkpoint_every=7, out="elsewhere")
    assert fingerprint(same) == fingerprint(CONFIG)
    wider = dataclasses.replace(TINY, hidden_size=24)
    changed = [{"seed": 1}, {"lr": 2e-3}, {"steps": 101}, {"model": wider}, {"data": "other"}]
    prints = {fingerprint(dataclasses.replace(CONFIG, **change)) for change in changed}
    assert len(prints | {fingerprint(CONFIG)}) == 6
    assert run_folder(CONFIG, Path("root")) == Path(f"root/train/toy-{fingerprint(CONFIG)[:12]}")
    assert run_folder(same, Path("root")) == Path("elsewhere")


def test_what_a_bad_step_leads_to_is_not_part_of_the_fingerprint() -> None:
    """A run that a NaN stopped goes on with on_spike=skip, in its folder. Defaults count as they did before, so names stay."""
    for change in ({"spike": 2.0}, {"on_spike": "skip"}, {"on_spike": "roll_back"}, {"validation_sequences": 5}):
        assert fingerprint(dataclasses.replace(CONFIG, **change)) == fingerprint(CONFIG), change
    for change in ({"validation": 0.02}, {"clip": 2.0}, {"document_mask": True}, {"dtype": "bfloat16"}):
        assert fingerprint(dataclasses.replace(CONFIG, **change)) != fingerprint(CONFIG), change
    # A name that changes without REVISION or a new field loses a run its folder.
    assert fingerprint(CONFIG) == "f502c1202bde3253d9f47f2236f821b8"


def test_settings_are_typed_and_reach_the_run_the_model_and_the_corpus() -> None:
    config = apply_settings(CONFIG, {"lr": "0.5", "steps": "1_000", "document_mask": "true", "model.q_lora_rank": "none"})
    assert (config.lr, config.steps, config.document_mask, config.model.q_lora_rank) == (0.5, 1000, True, None)
    with_step = dataclasses.replace(CONFIG, data=toy_corpus())
    names = {f.name: getattr(with_step.data.config, f.name) for f in dataclasses.fields(with_step.data.config)}
    field, value = next((n, v) for n, v in names.items() if type(v) in (int, float))
    changed = apply_settings(with_step, {f"{with_step.data.name}.{field}": str(value + 1)})
    assert getattr(changed.data.config, field) == value + 1
    assert fingerprint(changed) != fingerprint(with_step)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"lr": "fast"}, "--set lr=fast: a number expected"),
        ({"rate": "1"}, "--set rate: no such field"),
        ({"model": "big"}, "--set model: no such field"),
        ({"model.hidden": "1"}, "--set model.hidden: no such field; there are: vocab_size, hidden_size"),
        ({"filter_code.max_line": "5"}, "data is a folder here"),
        ({"steps": "0"}, "steps=0: more than 0 expected"),
        ({"warmup": "100"}, "warmup=100: below steps=100 expected"),
        ({"model.num_experts_per_tok": "5"}, "num_experts_per_tok=5: at most 4 expected"),
        ({"model.n_group": "3"}, "n_group=3: a divisor of n_routed_experts=4 expected"),
        ({"model.qk_rope_head_dim": "3"}, "qk_rope_head_dim=3: an even number expected"),
        ({"validation": "1"}, "validation=1.0: from 0 to below 1 expected"),
        ({"model.balance_over": "document"}, "model.balance_over=document: sequence with document_mask=false"),
        ({"model.device_loss_alpha": "0.1"}, "device_loss_alpha=0.1: 0 with n_group=1"),
        ({"model.comm_loss_alpha": "0.1"}, "comm_loss_alpha=0.1: 0 with n_group=1"),
        ({"model.capacity_factor": "1.0"}, "capacity_factor=1.0: below n_group=1"),
        ({"model.capacity_factor": "2.5", "model.n_group": "2"}, "capacity_factor=2.5: below n_group=2"),
        ({"model.n_routed_experts": "1024"}, "n_routed_experts=1024: at most 512 expected"),
        ({"model.n_routed_experts": "32", "model.num_experts_per_tok": "17"}, "num_experts_per_tok=17: at most 16 expected"),
        ({"fim_rate": "0.5", "fim_spm_rate": "1.5"}, "fim_spm_rate=1.5: from 0 to 1 expected"),
        ({"fim_spm_rate": "0.5"}, "fim_spm_rate=0.5: 0 with fim_rate=0"),
        ({"model.rope_theta": "1", "model.rope_factor": "4"}, "rope_theta=1.0: more than 1 expected"),
    ],
)
def test_bad_values_name_field_value_and_range(settings: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        apply_settings(CONFIG, settings)
    assert says in str(error.value)


def test_the_limits_are_those_of_the_kernels() -> None:
    assert (config.MAX_EXPERTS, config.MAX_K) == (ops.MAX_EXPERTS, ops.MAX_K)


def test_settings_that_act_are_accepted() -> None:
    """Documents that are told apart; groups that can be balanced; room for less than a whole sequence, also of one group."""
    groups = {"model.n_group": "2", "model.device_loss_alpha": "0.1", "model.comm_loss_alpha": "0.1"}
    apply_settings(CONFIG, {"model.balance_over": "document", "document_mask": "true"})
    apply_settings(CONFIG, {**groups, "model.capacity_factor": "1.0"})
    apply_settings(CONFIG, {"model.capacity_factor": "0.5"})


def test_schedule() -> None:
    rates = [learning_rate(step, CONFIG) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4) and rates[9] == pytest.approx(1e-3)  # linear over ten steps
    assert rates[10] == pytest.approx(1e-3) and rates[99] == pytest.approx(1e-4)  # cosine ends at a tenth, on the last step
    middle = 1e-4 + 9e-4 * 0.5 * (1 + math.cos(math.pi * 30 / 89))
    assert rates[40] == pytest.approx(middle)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert learning_rate(500, CONFIG) == pytest.approx(1e-4)
    assert learning_rate(0, dataclasses.replace(CONFIG, warmup=0)) == pytest.approx(1e-3)
    one = dataclasses.replace(CONFIG, steps=1, warmup=0)
    assert learning_rate(0, one) == pytest.approx(1e-3)


def test_adamw_is_the_formula_and_decays_matrices_only() -> None:
    model = make_model(TINY, 0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = Optimizer(model, CONFIG, ALONE)
    generator = torch.Generator().manual_seed(0)
    m, v = ({name: torch.zeros_like(p) for name, p in before.items()} for _ in range(2))
    for step in (1, 2):
        for name, parameter in model.named_parameters():
            g = torch.randn(parameter.shape, generator=generator)
            parameter.grad.copy_(g)
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.95 * v[name] + 0.05 * g * g
            decay = 0.1 if parameter.dim() > 1 else 0.0
            update = (m[name] / (1 - 0.9**step)) / ((v[name] / (1 - 0.95**step)).sqrt() + 1e-8)
            before[name] = before[name] * (1 - 1e-3 * decay) - 1e-3 * update
        optimizer.step(1e-3)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name], rtol=1e-5, atol=1e-7)


def test_bf16_parameters_have_fp32_masters_and_gradients() -> None:
    """Updates far below a bf16 step add up in the master, and so do micro-batches in the gradient."""
    config = dataclasses.replace(CONFIG, dtype="bfloat16", weight_decay=0.0)
    model = make_model(TINY, 0, torch.bfloat16)
    optimizer = Optimizer(model, config, ALONE)
    weight = model.lm_head.weight
    before = weight.detach().clone()
    for _ in range(3):  # in bf16 1 + 0.001 is 1
        (weight.sum() * 0.001 + weight.sum()).backward()
    owned = next(o for o in optimizer.owned if o.parameter is weight)
    assert owned.gradient.dtype == owned.master.dtype == torch.float32 and weight.grad is None
    assert float(owned.gradient[0, 0]) == pytest.approx(3.0, rel=0.01)
    for _ in range(200):
        optimizer.step(1e-6)
    moved = (owned.master - before.float()).mean().item()
    assert moved == pytest.approx(-200e-6, rel=0.01)
    assert torch.equal(weight, owned.master.bfloat16()) and not torch.equal(weight, before)


def test_a_layout_must_divide_what_it_shares() -> None:
    for layout, says in (
        ({"ep": 3}, r"layout\.ep=3: a divisor of model\.n_routed_experts=4 \(1, 2, 4\)"),
        ({"tp": 3}, r"layout\.tp=3: a divisor of model\.intermediate_size=16"),
        ({"dp": 3}, r"batch=4: a multiple of dp · ep = 3"),
        ({"micro_batch": 3}, r"layout\.micro_batch=3: a divisor of the 4 sequences"),
        ({"pp": 2, "micro_batch": 4}, r"layout\.pp=2: at most the 1 micro-batches"),
        ({"pp": 3}, r"layout\.pp=3: at most 2 layers"),
        ({"dp": 2, "pp": 2, "fsdp": True}, r"layout\.fsdp=True: false with pp=2"),
    ):
        with pytest.raises(ConfigError, match=says):
            check_layout(dataclasses.replace(CONFIG, layout=Layout(**layout)))
    check_layout(dataclasses.replace(CONFIG, layout=Layout(dp=2, ep=2)))


def test_clipping_scales_the_joint_norm() -> None:
    model = make_model(TINY, 0)
    optimizer = Optimizer(model, CONFIG, ALONE)
    for parameter in model.parameters():
        parameter.grad.fill_(1.0)
    size = sum(p.numel() for p in model.parameters())
    assert optimizer.clip(1.0) == pytest.approx(math.sqrt(size), rel=1e-5)
    clipped = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
    assert clipped == pytest.approx(1.0, rel=1e-5)
    assert optimizer.clip(2.0) == pytest.approx(1.0, rel=1e-5)  # below the limit nothing changes
    assert float(model.lm_head.weight.grad[0, 0]) == pytest.approx(1 / math.sqrt(size), rel=1e-5)
