"""What a model costs by its config beside what torch counts: parameters, optimizer, saved tensors, operations, a GPU's peak."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.implementations import behind_ops
from tests.test_train_attention import TINY
from train import attention, moe, parallel
from train import model as model_module
from train.config import Layout, ModelConfig, TrainConfig
from train.cost import components, kept_by_layer, memory, operations_per_token
from train.loss import cross_entropy
from train.microbatches import run_microbatches
from train.model import count_parameters, make_model
from train.optim import Optimizer
from train.parallel import ALONE, Ranks

LITE = ModelConfig(vocab_size=102400)
V2 = ModelConfig(
    vocab_size=102400,
    hidden_size=5120,
    num_hidden_layers=60,
    num_attention_heads=128,
    intermediate_size=12288,
    moe_intermediate_size=1536,
    n_routed_experts=160,
    n_group=8,
    topk_group=3,
    q_lora_rank=1536,
)
SMALL = dataclasses.replace(
    TINY, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=88, moe_intermediate_size=40,
    n_routed_experts=8, n_shared_experts=2, q_lora_rank=24, kv_lora_rank=20,
    qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=24,
)  # fmt: skip


def run_of(model: ModelConfig, **changes: Any) -> TrainConfig:
    fields = {"steps": 10, "batch": 4, "seq_len": 32, "lr": 1e-3, "warmup": 1}
    return TrainConfig(**{"name": "cost", "model": model, "data": "shards", **fields, **changes})


def test_parameters_are_the_published_ones() -> None:
    for config, whole, met, experts in (
        (LITE, 15_706_484_224, 2.66, 26 * 64 * 3 * 2048 * 1408),
        (V2, 235_741_434_880, 21.38, 59 * 160 * 3 * 5120 * 1536),
    ):
        counted = components(config)
        assert sum(count for count, _ in counted.values()) == whole
        assert round(sum(active for _, active in counted.values()) / 1e9, 2) == met
        assert counted["routed experts"][0] == experts
        assert counted["embedding"] == counted["output"] == (102400 * config.hidden_size,) * 2


def test_components_are_those_of_a_real_model() -> None:
    model = make_model(SMALL, 0)
    counted = components(SMALL)
    assert (sum(n for n, _ in counted.values()), sum(n for _, n in counted.values())) == count_parameters(model)
    assert counted["routers"][0] == 2 * 8 * 48 and counted["dense MLPs"][0] == 3 * 48 * 88
    assert counted["norms"][0] == sum(p.numel() for p in model.parameters() if p.dim() == 1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_what_an_optimizer_holds(dtype: str) -> None:
    config = run_of(SMALL, dtype=dtype)
    model = make_model(SMALL, 0, getattr(torch, dtype))
    optimizer = Optimizer(model, config, ALONE)
    found = memory(config, 0)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    masters = sum(o.master.nbytes for o in optimizer.owned if o.master.untyped_storage().data_ptr() not in own)
    assert found.parameters == sum(p.nbytes for p in model.parameters())
    assert found.gradients == sum(buffer.nbytes for buffer in optimizer.buffers.values())
    assert found.masters == masters
    assert found.moments == sum(m.nbytes for which in ("exp_avg", "exp_avg_sq") for m in optimizer.moments(which).values())


def test_a_layout_divides_parameters_and_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rank's model and optimizer as it would make them, the groups' sizes told instead of joined."""
    layout = Layout(dp=2, ep=2, tp=2, pp=2)
    config = run_of(dataclasses.replace(SMALL, num_hidden_layers=4), dtype="bfloat16", layout=layout, batch=8)
    monkeypatch.setattr("train.optim.dist.get_world_size", lambda group: group)
    totals = []
    for rank in range(layout.ranks):
        ranks = Ranks(layout, rank, groups={"dp": 2, "data": 4})  # type: ignore[dict-item]
        place = {2: ranks.replica, 4: ranks.data_rank}
        monkeypatch.setattr("train.optim.dist.get_rank", lambda group, place=place: place[group])
        model = make_model(config.model, 0, torch.bfloat16, ranks)
        optimizer = Optimizer(model, config, ranks)
        found = memory(config, ranks.stage)
        assert found.parameters == sum(p.nbytes for p in model.parameters())
        assert found.gradients == sum(buffer.nbytes for buffer in optimizer.buffers.values())
        masters = sum(o.master.nbytes for o in optimizer.owned)
        assert masters <= found.masters
        if ranks.data_rank == 0:
            assert masters == found.masters == found.moments // 2
        totals.append(masters)
    # All that is shared is held once per tensor rank: norms, latents, routers; experts and projections once in all.
    whole = 4 * sum(count for count, _ in components(config.model).values())
    assert whole < sum(totals) < 1.2 * whole


def test_without_zero1_every_rank_keeps_all() -> None:
    layouts = [Layout(dp=2, ep=2, zero1=zero1) for zero1 in (True, False)]
    shared, alone = (memory(run_of(SMALL, layout=layout), 0) for layout in layouts)
    assert alone.moments == 2 * alone.parameters > 2 * shared.moments
    assert alone.parameters == shared.parameters


def test_fsdp_keeps_rows_of_everything_in_fp32() -> None:
    layout = Layout(dp=4, ep=2, zero1=False)
    shared, rows = (memory(run_of(SMALL, dtype="bfloat16", batch=8, layout=dataclasses.replace(layout, fsdp=fsdp)), 0)
                    for fsdp in (False, True))  # fmt: skip
    experts = 2 * 3 * 8 * 48 * 40 // 2 // 4  # of two layers, a half of them, a quarter of that
    counted = components(SMALL)
    others = (sum(n for n, _ in counted.values()) - counted["routed experts"][0]) / 8
    assert rows.masters == 0 and rows.moments == 2 * rows.parameters == 2 * rows.gradients
    assert experts + others <= rows.parameters / 4 < experts + 1.05 * others  # rows that do not divide evenly are rounded up
    assert shared.parameters * 2 == shared.gradients > rows.gradients and rows.working > shared.working


def saved_bytes(forward: Callable[[], Any], model: torch.nn.Module) -> int:
    """Bytes of the storages that autograd keeps, each once, without the parameters."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        kept.setdefault(t.untyped_storage().data_ptr(), t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = forward()
    size = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in own)
    assert result is not None
    return size


def as_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The element-wise chains cut as torch.compile cuts them on CUDA, without the compiler that makes kernels of them."""
    for module, name in ((attention, "_normed"), (attention, "_heads"), (moe, "_swiglu")):
        function = torch.compile(getattr(module, name).__wrapped__, backend="aot_eager_decomp_partition", dynamic=None)
        monkeypatch.setattr(module, name, functools.wraps(function)(lambda *a, function=function: function(*a)))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch looks, and means to hide it
@pytest.mark.parametrize("model", [SMALL, dataclasses.replace(SMALL, q_lora_rank=None)])
@pytest.mark.parametrize("layout", [Layout(), Layout(tp=2), Layout(tp=2, sequence=True)])
@pytest.mark.parametrize("recompute", [False, True])
def test_activations_are_what_autograd_keeps(
    monkeypatch: pytest.MonkeyPatch, recompute: bool, layout: Layout, model: ModelConfig
) -> None:
    """Within 2 %: small things such as counts per expert are left out of the estimate. fp32, as on a CPU.

    One of two tensor ranks computes alone: what the other would send has the right size, which is all that counts here.
    """
    torch._dynamo.reset()
    as_fused(monkeypatch)
    monkeypatch.setattr(parallel, "gathered", lambda x, group: torch.cat([x, x], 1))
    monkeypatch.setattr(parallel, "scattered", lambda x, group: x.chunk(2, 1)[0].clone())
    monkeypatch.setattr(parallel, "total", lambda x, group: x)
    monkeypatch.setattr(
        model_module.Embedding, "forward", lambda self, x: torch.nn.functional.embedding(x, self.weight)[:, ::positions].clone()
    )
    positions = 2 if layout.sequence else 1
    config = run_of(model, recompute=recompute, layout=layout)
    ranks = Ranks(layout, groups={"tp": object()})  # type: ignore[dict-item]
    made = make_model(model, 0, ranks=ranks, recompute=recompute)
    tokens = torch.arange(4 * 32).view(4, 32) % 32
    with behind_ops("twin"):
        measured = saved_bytes(lambda: made.hidden(tokens), made)
    stated = memory(config, 0).activations
    assert stated == pytest.approx(measured, rel=0.02)


def test_a_dense_layer_keeps_less_than_a_mixture_and_tensor_ranks_share() -> None:
    config = run_of(LITE, dtype="bfloat16")
    dense, mixture = (kept_by_layer(config, number) for number in (0, 1))
    halves = kept_by_layer(run_of(LITE, dtype="bfloat16", layout=Layout(tp=2)), 1)
    assert dense < mixture and mixture / 2 < halves < mixture  # rows of experts are as wide on every tensor rank


def test_1f1b_keeps_a_micro_batch_for_every_stage_that_follows() -> None:
    found = [memory(run_of(SMALL, layout=Layout(pp=3, micro_batch=1)), stage) for stage in range(3)]
    assert [m.in_flight for m in found] == [3, 2, 1]
    few = run_of(SMALL, layout=Layout(pp=3, micro_batch=2))
    assert memory(few, 0).in_flight == 2  # there are no more
    assert [m.layers for m in found] == [range(0, 1), range(1, 2), range(2, 3)]


def test_operations_are_those_torch_counts() -> None:
    """torch counts attention over all keys; causal attention needs half, which is what is stated here."""
    config = dataclasses.replace(SMALL, v_head_dim=12)  # widths that differ take the kernel torch counts
    model = make_model(config, 0)
    tokens = torch.arange(2 * 32).view(2, 32) % 64
    with FlopCounterMode(display=False) as counter:
        run_microbatches(model, tokens, tokens, 64, 2)
    stated = operations_per_token(config, 32)
    assert counter.get_total_flops() == 64 * (sum(stated.values()) + stated["keys"])


def test_recomputing_is_not_counted_and_longer_sequences_are() -> None:
    short, long = operations_per_token(LITE, 4096), operations_per_token(LITE, 8192)
    assert {key: long[key] / short[key] for key in short} == {key: 2.0 if key == "keys" else 1.0 for key in short}


def test_cross_entropy_keeps_what_is_stated() -> None:
    x, w = torch.randn(64, 16, requires_grad=True), torch.randn(40, 16, requires_grad=True)
    layer = torch.nn.ParameterList([w])
    assert saved_bytes(lambda: cross_entropy(x, w, torch.arange(64) % 40), layer) == (64 * 16 + 40 * 16) * 4


@pytest.mark.parametrize(("recompute", "batch", "length", "measured"), [(False, 8, 4096, 49.13e9), (True, 1, 32768, 36.66e9)])
def test_the_peak_of_a_gpu(recompute: bool, batch: int, length: int, measured: float) -> None:
    """torch.cuda.max_memory_allocated of bench.train_step on an H100 (three layers of V2-Lite, torch 2.11), within 5 %."""
    model = dataclasses.replace(LITE, num_hidden_layers=3)
    config = run_of(model, batch=batch, seq_len=length, dtype="bfloat16", recompute=recompute)
    assert memory(config, 0).total == pytest.approx(measured, rel=0.05)


def test_v2_took_a_quarter_of_the_rated_operations() -> None:
    """172.8 thousand H800 hours for a trillion tokens (V2 section 3.2.3)."""
    operations = sum(operations_per_token(V2, 4096).values())
    assert operations * 1e12 / (172.8e3 * 3600 * 989e12) == pytest.approx(0.25, abs=0.01)
