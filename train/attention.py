"""Multi-head latent attention (DeepSeek-V2 section 2.1) with decoupled rotary positions.

Keys and values come from one small latent per token, which is all an inference cache has to hold; the position lives in
a few extra dimensions, one key for all heads, because a rotation cannot be folded into the up-projection.

    q = W_q h                                per head: nope ∥ rope      (or through its own latent, q_lora_rank)
    c, k_rope = W_kv_a h                     c is normalised, then      k_nope ∥ v = W_kv_b c   per head
    attention over  q_nope·k_nope + q_rope·k_rope,  scaled by (nope + rope)^-1/2

Longer contexts than the frequencies were trained for come by YaRN (Peng et al., arXiv 2309.00071): pairs that turn often keep
their frequency, pairs that turn seldom are slowed down, those between are mixed, and logits are scaled up.

Parameter names and row orders are Hugging Face's. Rotation acts on interleaved pairs (2i, 2i+1) and leaves them interleaved, as
transformers does. Rotary scores depend on the distance of two positions only, so packed documents need no position reset.
Shape letters: B batch, S sequence, N heads, D dims, R rotary dims.
"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn

from kernels.fuse import fused_on_cuda
from train.config import ModelConfig
from train.parallel import ALONE, Ranks

__all__ = ["Attention", "Documents", "RMSNorm", "frequencies", "rope_table", "rotate", "softmax_scale"]


class RMSNorm(nn.Module):
    """x / rms(x) · weight; the statistics in fp32, rounded to x's dtype before the weight is applied."""

    def __init__(self, size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return _normed(x, self.weight, self.eps)


@fused_on_cuda
def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


def frequencies(c: ModelConfig) -> Tensor:
    """fp64 [R/2]: radians per position of each pair, theta^(-2i/R), or YaRN's mixture of that and the same slowed down."""
    dims = c.qk_rope_head_dim
    fast_R2 = c.rope_theta ** (-torch.arange(0, dims, 2, dtype=torch.float64) / dims)
    if c.rope_factor == 1:
        return fast_R2
    # Pair i turns original_length · theta^(-2i/R) / 2π times; solved for i, and rounded outwards, as the released code does.
    low, high = (
        dims * math.log(c.rope_original_length / (turns * 2 * math.pi)) / (2 * math.log(c.rope_theta))
        for turns in (c.rope_beta_fast, c.rope_beta_slow)
    )
    low, high = max(math.floor(low), 0), min(math.ceil(high), dims - 1)
    slow_R2 = ((torch.arange(dims // 2, dtype=torch.float64) - low) / max(high - low, 0.001)).clamp(0, 1)
    return fast_R2 * (1 - slow_R2) + fast_R2 / c.rope_factor * slow_R2


def _mscale(factor: float, weight: float) -> float:
    return 0.1 * weight * math.log(factor) + 1  # 1 without YaRN, whose factor is 1


def softmax_scale(c: ModelConfig) -> float:
    """What logits are multiplied by: (nope + rope)^-1/2, under YaRN times (0.1 · mscale_all_dim · ln factor + 1)²."""
    return (c.qk_nope_head_dim + c.qk_rope_head_dim) ** -0.5 * _mscale(c.rope_factor, c.rope_mscale_all_dim) ** 2


def rope_table(length: int, c: ModelConfig, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """(cos, sin), each [length, R/2], of position · frequency, under YaRN times the ratio of the two mscales (1 in V2).

    Angles are computed in fp64: an fp32 angle of 160,000 is off by up to 0.008.
    """
    size = _mscale(c.rope_factor, c.rope_mscale) / _mscale(c.rope_factor, c.rope_mscale_all_dim)
    angle_SR2 = torch.arange(length, dtype=torch.float64)[:, None] * frequencies(c)
    return (angle_SR2.cos() * size).to(dtype), (angle_SR2.sin() * size).to(dtype)


def rotate(x_BNSR: Tensor, cos_SR2: Tensor, sin_SR2: Tensor) -> Tensor:
    """Each pair (2i, 2i+1) of the last dimension turned by its position's angle."""
    even, odd = x_BNSR.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((even * cos_SR2 - odd * sin_SR2, even * sin_SR2 + odd * cos_SR2), dim=-1)
    return turned.flatten(-2).to(x_BNSR.dtype)


_BACKENDS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@dataclasses.dataclass(frozen=True)
class Documents:
    """Where the documents of packed rows begin and end, for attention that stays inside them.

    CUDA takes the borders: nothing of size S·S is made. The CPU, and fp32, have no such kernel and take a mask.
    """

    mask_B1SS: Tensor | None  # True where a query (row) may look at a key (column), causality included
    ends_D1: Tensor | None  # int32: 0, then where each document ends in the rows laid end to end
    longest: int

    @staticmethod
    def of(documents_BS: Tensor, dtype: torch.dtype) -> Documents:
        """From a number per token, equal within a document, for activations of `dtype`."""
        if documents_BS.is_cuda and dtype.itemsize == 2:
            batch, length = documents_BS.shape
            begins_BS = torch.ones_like(documents_BS, dtype=torch.bool)
            begins_BS[:, 1:] = documents_BS[:, 1:] != documents_BS[:, :-1]
            starts = begins_BS.flatten().nonzero().flatten()
            ends_D1 = torch.cat((starts, starts.new_tensor([batch * length]))).to(torch.int32)
            return Documents(None, ends_D1, length)
        same = documents_BS[:, None, :, None] == documents_BS[:, None, None, :]
        return Documents(same.tril(), None, documents_BS.shape[1])


@fused_on_cuda
def _heads(
    q_BSD: Tensor, k_rope_BSR: Tensor, kv_BSD: Tensor, cos_SR2: Tensor, sin_SR2: Tensor, heads: int, nope: int, pad: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v, [B, N, S, D]; with `pad`, values are filled up with zeros to the width of keys."""
    q_BNSD = q_BSD.unflatten(-1, (heads, -1)).transpose(1, 2)
    kv_BNSD = kv_BSD.unflatten(-1, (heads, -1)).transpose(1, 2)
    k_rope = rotate(k_rope_BSR[:, None], cos_SR2, sin_SR2).expand(-1, heads, -1, -1)  # one for all heads
    q = torch.cat((q_BNSD[..., :nope], rotate(q_BNSD[..., nope:], cos_SR2, sin_SR2)), dim=-1)
    k = torch.cat((kv_BNSD[..., :nope], k_rope), dim=-1)
    v = kv_BNSD[..., nope:]
    return q, k, F.pad(v, (0, k.shape[-1] - v.shape[-1])) if pad else v


def attend(q_BNSD: Tensor, k_BNSD: Tensor, v_BNSV: Tensor, scale: float, documents: Documents | None) -> Tensor:
    """Causal attention, [B, N, S, V]; with `documents` within each document only."""
    if documents is None or documents.mask_B1SS is not None:
        mask = None if documents is None else documents.mask_B1SS
        with sdpa_kernel(_BACKENDS, set_priority=True):
            return F.scaled_dot_product_attention(q_BNSD, k_BNSD, v_BNSV, attn_mask=mask, is_causal=mask is None, scale=scale)
    q_TND, k_TND, v_TNV = (x.transpose(1, 2).flatten(0, 1) for x in (q_BNSD, k_BNSD, v_BNSV))
    ends, longest = documents.ends_D1, documents.longest
    assert ends is not None
    z_TNV = varlen_attn(q_TND, k_TND, v_TNV, ends, ends, longest, longest, scale=scale, window_size=(-1, 0))
    assert isinstance(z_TNV, Tensor)
    return z_TNV.unflatten(0, (len(q_BNSD), -1)).transpose(1, 2)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, ranks: Ranks = ALONE) -> None:
        super().__init__()
        self.config = c = config
        self.ranks = ranks
        self.heads = heads = c.num_attention_heads // ranks.layout.tp  # of this tensor rank
        hidden = c.hidden_size
        q_rows = heads * (c.qk_nope_head_dim + c.qk_rope_head_dim)
        if c.q_lora_rank is None:
            self.q_proj = nn.Linear(hidden, q_rows, bias=False)
        else:
            self.q_a_proj = nn.Linear(hidden, c.q_lora_rank, bias=False)
            self.q_a_layernorm = RMSNorm(c.q_lora_rank)  # the latents' norms keep eps 1e-6 whatever rms_norm_eps is
            self.q_b_proj = nn.Linear(c.q_lora_rank, q_rows, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(hidden, c.kv_lora_rank + c.qk_rope_head_dim, bias=False)
        self.kv_a_layernorm = RMSNorm(c.kv_lora_rank)
        self.kv_b_proj = nn.Linear(c.kv_lora_rank, heads * (c.qk_nope_head_dim + c.v_head_dim), bias=False)
        self.o_proj = nn.Linear(heads * c.v_head_dim, hidden, bias=False)

    def forward(self, x_BSD: Tensor, rope: tuple[Tensor, Tensor], documents: Documents | None = None) -> Tensor:
        """The latents are computed alike on all tensor ranks, the heads in shares; hence where `enter` stands."""
        c, enter = self.config, self.ranks.enter
        if c.q_lora_rank is None:
            q_BSD = self.q_proj(enter(x_BSD))
        else:
            q_BSD = self.q_b_proj(enter(self.q_a_layernorm(self.q_a_proj(x_BSD))))
        latent_BSD, k_rope_BSR = self.kv_a_proj_with_mqa(x_BSD).split((c.kv_lora_rank, c.qk_rope_head_dim), dim=-1)
        kv_BSD = self.kv_b_proj(enter(self.kv_a_layernorm(latent_BSD)))
        # Flash attention wants values as wide as keys: a sixth more work, for a kernel several times as fast as the others.
        # cuDNN's takes them as they are; torch does not use it where two runs must give the same bits.
        flash = torch.are_deterministic_algorithms_enabled() or documents is not None
        pad = x_BSD.is_cuda and x_BSD.dtype.itemsize == 2 and flash
        q, k, v = _heads(q_BSD, enter(k_rope_BSR), kv_BSD, *rope, self.heads, c.qk_nope_head_dim, pad)
        z_BNSV = attend(q, k, v, softmax_scale(c), documents)[..., : c.v_head_dim]
        return self.ranks.leave(self.o_proj(z_BNSV.transpose(1, 2).flatten(2)))
