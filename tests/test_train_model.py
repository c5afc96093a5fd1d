"""The model: names and shapes as Hugging Face's, sizes as published, the mixture layer against a plain one."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from tests.test_train_attention import TINY
from train.config import ModelConfig
from train.loss import IGNORED, cross_entropy
from train.microbatches import run_microbatches
from train.model import Model, count_parameters, make_model
from train.moe import MoE, Segments, disk_views


def published_names(c: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The files' names and shapes, written down from the format, not from the code."""
    hidden, heads, inner = c.hidden_size, c.num_attention_heads, c.moe_intermediate_size
    qk = c.qk_nope_head_dim + c.qk_rope_head_dim
    names: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (c.vocab_size, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (c.vocab_size, hidden),
    }

    def mlp(stem: str, width: int) -> None:
        names.update({f"{stem}.{n}_proj.weight": (width, hidden) for n in ("gate", "up")})
        names[f"{stem}.down_proj.weight"] = (hidden, width)

    for i in range(c.num_hidden_layers):
        layer, attn = f"model.layers.{i}", f"model.layers.{i}.self_attn"
        names |= {f"{layer}.input_layernorm.weight": (hidden,), f"{layer}.post_attention_layernorm.weight": (hidden,)}
        if c.q_lora_rank is None:
            names[f"{attn}.q_proj.weight"] = (heads * qk, hidden)
        else:
            names[f"{attn}.q_a_proj.weight"] = (c.q_lora_rank, hidden)
            names[f"{attn}.q_a_layernorm.weight"] = (c.q_lora_rank,)
            names[f"{attn}.q_b_proj.weight"] = (heads * qk, c.q_lora_rank)
        names[f"{attn}.kv_a_proj_with_mqa.weight"] = (c.kv_lora_rank + c.qk_rope_head_dim, hidden)
        names[f"{attn}.kv_a_layernorm.weight"] = (c.kv_lora_rank,)
        names[f"{attn}.kv_b_proj.weight"] = (heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank)
        names[f"{attn}.o_proj.weight"] = (hidden, heads * c.v_head_dim)
        if i < c.first_k_dense_replace:
            mlp(f"{layer}.mlp", c.intermediate_size)
            continue
        names[f"{layer}.mlp.gate.weight"] = (c.n_routed_experts, hidden)
        mlp(f"{layer}.mlp.shared_experts", c.n_shared_experts * inner)
        for e in range(c.n_routed_experts):
            mlp(f"{layer}.mlp.experts.{e}", inner)
    return names


@pytest.mark.parametrize("q_lora_rank", [None, 9])
def test_names_and_shapes_on_disk(q_lora_rank: int | None) -> None:
    config = dataclasses.replace(TINY, q_lora_rank=q_lora_rank, num_hidden_layers=3, n_shared_experts=2)
    views = dict(disk_views(dict(make_model(config, 0).named_parameters())))
    assert {name: tuple(view.shape) for name, view in views.items()} == published_names(config)


def test_sizes_are_the_published_ones() -> None:
    lite = ModelConfig(vocab_size=102400)
    full = ModelConfig(
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
    with torch.device("meta"):
        sizes = [count_parameters(Model(config)) for config in (lite, full)]
    assert [total for total, _ in sizes] == [15_706_484_224, 235_741_434_880]
    assert [round(active / 1e9, 2) for _, active in sizes] == [2.66, 21.38]


def test_a_mixture_layer_is_shared_plus_weighted_experts() -> None:
    config = dataclasses.replace(TINY, routed_scaling_factor=2.5, initializer_range=0.5)
    layer = make_model(config, 3, torch.float64).model.layers["1"].mlp
    assert isinstance(layer, MoE)
    x = torch.randn(2, 5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    out, losses_4, load, dropped = layer(x, Segments(None, 2, None))
    w = dict(disk_views({f"mlp.{name}": p for name, p in layer.named_parameters()}))

    def mlp(stem: str, h: torch.Tensor) -> torch.Tensor:
        gate, up, down = (w[f"mlp.{stem}.{n}_proj.weight"] for n in ("gate", "up", "down"))
        return down @ (F.silu(gate @ h) * (up @ h))

    counts = [0] * 4
    for b in range(2):
        for t in range(5):
            h = x[b, t]
            scores = (w["mlp.gate.weight"] @ h).softmax(0)
            expected = mlp("shared_experts", h)
            for e in scores.topk(2).indices.tolist():
                expected = expected + 2.5 * scores[e] * mlp(f"experts.{e}", h)
                counts[e] += 1
            torch.testing.assert_close(out[b, t], expected)
    assert load.tolist() == counts
    assert losses_4[0].item() > 0 and dropped == 0


def test_no_output_depends_on_a_later_token() -> None:
    model = make_model(dataclasses.replace(TINY, initializer_range=0.3), 0, torch.float64)
    tokens = torch.arange(20).view(2, 10)
    changed = tokens.clone()
    changed[0, 6] = 63
    difference = (model(tokens).logits_BSV - model(changed).logits_BSV).abs().amax(-1)
    # Not exactly 0: an expert's rows are one product, and how many of them there are decides its order of summation.
    assert (difference[0, :6] < 1e-12).all() and (difference[1] < 1e-12).all()
    assert (difference[0, 6:] > 1e-9).all()


def test_initial_values_follow_seed_and_name_alone() -> None:
    first, again, other = (dict(disk_views(dict(make_model(TINY, seed).named_parameters()))) for seed in (0, 0, 1))
    more = dict(disk_views(dict(make_model(dataclasses.replace(TINY, num_hidden_layers=3), 0).named_parameters())))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(first[name], more[name]) for name in first)  # a deeper model begins with the same layers
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])
    everything = torch.cat([v.flatten() for v in first.values() if v.dim() > 1])
    assert everything.std().item() == pytest.approx(0.006, rel=0.05)
    experts = [first[f"model.layers.1.mlp.experts.{e}.up_proj.weight"] for e in range(4)]
    assert not torch.equal(experts[0], experts[1])


def mean_loss(model: Model, tokens: torch.Tensor, documents: torch.Tensor | None = None, micro: int = 1) -> float:
    labels = tokens[:, 1:].clone()
    if documents is not None:
        labels[documents[:, 1:] != documents[:, :-1]] = IGNORED
        documents = documents[:, :-1].contiguous()
    counted = int((labels != IGNORED).sum())
    sums = run_microbatches(model, tokens[:, :-1].contiguous(), labels, counted, micro, documents)
    return float(sums.losses_BL.sum()) / counted


def test_labels_and_attention_stay_in_their_document_when_asked() -> None:
    model = make_model(dataclasses.replace(TINY, initializer_range=0.3), 0, torch.float64)
    tokens = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
    both = mean_loss(model, tokens, torch.tensor([[0, 0, 0, 0, 1, 1, 1]]))
    assert both == pytest.approx((3 * mean_loss(model, tokens[:, :4]) + 2 * mean_loss(model, tokens[:, 4:])) / 5)


def test_the_balance_losses_reach_the_routers_of_every_layer() -> None:
    """The gradient of the whole step, losses attached to activations, is that of the one sum written down plainly."""
    alphas = {"aux_loss_alpha": 0.5, "device_loss_alpha": 0.3, "comm_loss_alpha": 0.2, "z_loss_alpha": 0.1}
    config = dataclasses.replace(TINY, num_hidden_layers=3, initializer_range=0.3, n_group=2, topk_group=1, **alphas)
    tokens = torch.arange(34).view(2, 17) % 64
    plain = make_model(config, 0, torch.float64)
    output = plain(tokens[:, :-1])
    assert output.routed.load_LE.shape == (2, 4) and output.routed.load_LE.sum(1).tolist() == [64, 64]
    loss = F.cross_entropy(output.logits_BSV.flatten(0, 1), tokens[:, 1:].flatten())
    (loss + sum(a * value for a, value in zip(alphas.values(), output.routed.losses_4, strict=True))).backward()
    for recompute in (False, True):
        model = make_model(config, 0, torch.float64, recompute=recompute)
        assert mean_loss(model, tokens) == pytest.approx(loss.item(), rel=1e-12)
        for (name, p), q in zip(model.named_parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-12, msg=name)
            assert q.grad.abs().max() > 0, name


def test_cross_entropy_in_chunks_is_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.loss.CHUNK", 3 * 4 * 11)  # three rows at a time
    dice = torch.Generator().manual_seed(0)
    x = torch.randn(10, 5, dtype=torch.float64, generator=dice, requires_grad=True)
    w = torch.randn(11, 5, dtype=torch.float64, generator=dice, requires_grad=True)
    labels = torch.tensor([0, 10, IGNORED, 3, 3, 7, IGNORED, 1, 2, 9])
    expected = F.cross_entropy(x @ w.t(), labels, ignore_index=IGNORED, reduction="none")
    seen, losses = cross_entropy(x, w, labels)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(seen, expected.sum())
    wanted = torch.autograd.grad(expected.sum() * 3, (x, w))
    for got, want in zip(torch.autograd.grad(seen * 3, (x, w)), wanted, strict=True):
        torch.testing.assert_close(got, want)
    with torch.no_grad():
        torch.testing.assert_close(cross_entropy(x, w, labels)[0], expected.sum())


def test_the_gradient_of_bf16_parameters_is_scaled_in_fp32() -> None:
    """By 1/9999: a factor that bf16 rounds by 0.13 %, and all of the gradient with it."""
    dice = torch.Generator().manual_seed(0)
    x, w = (torch.randn(n, 32, generator=dice).bfloat16().requires_grad_() for n in (64, 50))
    labels = torch.randint(50, (64,), generator=dice)
    whole = torch.autograd.grad(cross_entropy(x, w, labels)[0], (x, w))
    scaled = torch.autograd.grad(cross_entropy(x, w, labels)[0] / 9999, (x, w))
    for one, other in zip(whole, scaled, strict=True):
        ratio = (other.double() * one.double()).sum() / (one.double() ** 2).sum() * 9999
        assert abs(float(ratio) - 1) < 2e-4, ratio


def test_biases_move_towards_the_experts_with_less_than_the_mean() -> None:
    config = dataclasses.replace(TINY, num_hidden_layers=3, scoring_func="sigmoid", bias_update_speed=0.25)
    model = make_model(config, 0)
    model.move_biases(torch.tensor([[10, 20, 30, 20], [5, 5, 5, 5]], dtype=torch.int32))
    model.move_biases(torch.tensor([[10, 20, 30, 20], [0, 8, 6, 6]], dtype=torch.int32))
    biases = [layer.mlp.gate.e_score_correction_bias.tolist() for layer in list(model.model.layers.values())[1:]]
    assert biases == [[0.5, 0.0, -0.5, 0.0], [0.25, -0.25, -0.25, -0.25]]
