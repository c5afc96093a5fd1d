"""Latent attention against one written out token by token, and the laws of rotary positions and masks."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from train.attention import Attention, Documents, RMSNorm, frequencies, rope_table, rotate, softmax_scale
from train.config import ModelConfig

TINY = ModelConfig(
    vocab_size=64,
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=16,
    moe_intermediate_size=8,
    n_routed_experts=4,
    n_shared_experts=1,
    num_experts_per_tok=2,
    kv_lora_rank=7,
    qk_nope_head_dim=5,
    qk_rope_head_dim=4,
    v_head_dim=6,
)


def attention(config: ModelConfig) -> Attention:
    torch.manual_seed(0)
    made = Attention(config).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)  # norm weights too: at 1 they would hide a norm applied to the wrong part
    return made


def normalised(x: Tensor, weight: Tensor) -> Tensor:
    return x / math.sqrt(sum(float(v) ** 2 for v in x) / len(x) + 1e-6) * weight


def turned(x: Tensor, position: int, theta: float) -> Tensor:
    """Pairs (2i, 2i+1) as complex numbers, each multiplied by e^(i·position·theta^(-2i/d))."""
    z = torch.view_as_complex(x.reshape(-1, 2).clone())
    angles = torch.tensor([position * theta ** (-2 * i / len(x)) for i in range(len(z))], dtype=torch.float64)
    return torch.view_as_real(z * torch.polar(torch.ones_like(angles), angles)).flatten()


def naive(layer: Attention, x_SH: Tensor) -> Tensor:
    """V2 equations 9-19, one token and one head at a time, the weights read by the row layout of the files."""
    c, w = layer.config, {name: p.detach() for name, p in layer.named_parameters()}
    nope, rot, v = c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim
    q, k, values, out = [], [], [], []
    for t, h in enumerate(x_SH):
        query_input, query = h, w.get("q_proj.weight")
        if query is None:
            query_input, query = normalised(w["q_a_proj.weight"] @ h, w["q_a_layernorm.weight"]), w["q_b_proj.weight"]
        down = w["kv_a_proj_with_mqa.weight"] @ h
        latent = normalised(down[: c.kv_lora_rank], w["kv_a_layernorm.weight"])
        k_rope = turned(down[c.kv_lora_rank :], t, c.rope_theta)
        q.append([]), k.append([]), values.append([])
        for head in range(c.num_attention_heads):
            rows = query[head * (nope + rot) : (head + 1) * (nope + rot)] @ query_input
            up = w["kv_b_proj.weight"][head * (nope + v) : (head + 1) * (nope + v)] @ latent
            q[t].append(torch.cat((rows[:nope], turned(rows[nope:], t, c.rope_theta))))
            k[t].append(torch.cat((up[:nope], k_rope)))
            values[t].append(up[nope:])
        heads = []
        for head in range(c.num_attention_heads):
            scores = torch.stack([q[t][head] @ k[s][head] / math.sqrt(nope + rot) for s in range(t + 1)]).softmax(0)
            heads.append(sum(scores[s] * values[s][head] for s in range(t + 1)))
        out.append(w["o_proj.weight"] @ torch.cat(heads))
    return torch.stack(out)


@pytest.mark.parametrize("q_lora_rank", [None, 9])
def test_attention_is_the_naive_one(q_lora_rank: int | None) -> None:
    layer = attention(dataclasses.replace(TINY, q_lora_rank=q_lora_rank))
    x = torch.randn(2, 6, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours = layer(x, rope_table(6, TINY, torch.float64), None)
    torch.testing.assert_close(ours, torch.stack([naive(layer, row) for row in x]))


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    cos, sin = rope_table(300, dataclasses.replace(TINY, qk_rope_head_dim=16), torch.float64)
    q, k = torch.randn(2, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    score = rotate(q.expand(300, -1), cos, sin) @ rotate(k.expand(300, -1), cos, sin).T
    for distance in (-7, 0, 1, 100):
        along = score.diagonal(distance)
        torch.testing.assert_close(along, along[0].expand_as(along))
    assert score[0].std() > 0.1  # and it does depend on it


def test_yarn_by_its_definition() -> None:
    """V2's numbers: pairs 0 to 10 keep their frequency, those from 23 are 40 times slower; logits grow by 1.2608²."""
    plain = dataclasses.replace(TINY, qk_rope_head_dim=64, qk_nope_head_dim=128)
    long = dataclasses.replace(plain, rope_factor=40.0)
    ratio = (frequencies(long) / frequencies(plain)).tolist()
    assert ratio[:11] == [1.0] * 11
    assert ratio[23:] == pytest.approx([1 / 40] * 9)
    for i in range(11, 23):
        mixed = (i - 10) / 13
        assert ratio[i] == pytest.approx(1 - mixed + mixed / 40)
    assert softmax_scale(plain) == pytest.approx(192**-0.5)
    assert softmax_scale(long) == pytest.approx(0.114721, abs=1e-6)
    torch.testing.assert_close(rope_table(5, long)[0][0], torch.ones(32))  # the two mscales are equal: no factor on cos and sin
    other = rope_table(5, dataclasses.replace(long, rope_mscale_all_dim=0.0))[0][0]
    torch.testing.assert_close(other, torch.full((32,), 0.0707 * math.log(40) + 1))


def test_rotation_keeps_pairs_interleaved_and_lengths() -> None:
    x = torch.zeros(3, 4, dtype=torch.float64)
    x[:, 2] = 2.0  # only the second pair
    out = rotate(x, *rope_table(3, TINY, torch.float64))
    torch.testing.assert_close(out[2], torch.tensor([0, 0, 2 * math.cos(0.02), 2 * math.sin(0.02)], dtype=torch.float64))


def test_rms_norm_rounds_before_the_weight() -> None:
    norm = RMSNorm(8, 1e-6)
    norm.weight.data.fill_(1.01)
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    rounded = (x.float() / (x.float().square().mean(-1, keepdim=True) + 1e-6).sqrt()).bfloat16()
    torch.testing.assert_close(norm.bfloat16()(x), rounded * norm.weight, rtol=0, atol=0)


def test_no_token_sees_a_later_one_or_another_document() -> None:
    layer = attention(TINY)
    rope = rope_table(8, TINY, torch.float64)
    x = torch.randn(1, 8, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    changed = x.clone()
    changed[0, 5] += 1
    difference = (layer(x, rope, None) - layer(changed, rope, None)).abs().amax(-1)[0]
    assert (difference[:5] == 0).all() and (difference[5:] > 0).all()
    documents = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2])
    mask = Documents.of(documents[None], x.dtype)
    difference = (layer(x, rope, mask) - layer(changed, rope, mask)).abs().amax(-1)[0]
    assert difference.nonzero().flatten().tolist() == [5]
    # A document in the middle of a sequence is what it would be alone at its start.
    torch.testing.assert_close(layer(x, rope, mask)[:, 3:6], layer(x[:, 3:6], tuple(t[:3] for t in rope), None))
