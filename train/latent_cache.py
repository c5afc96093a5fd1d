"""Decoding with a cache of latents: what multi-head latent attention is for (DeepSeek-V2 section 2.1.2).

A token's keys and values, of all heads, are made from one small latent, so the latent is kept: kv_lora_rank + rope dimensions a
token and layer instead of heads · (keys + values). W_kv_b is folded into the query and the output, so that a step attends to
the latents as they are:

    q_nope · W_k c = (W_kᵀ q_nope) · c            Σ p W_v c = W_v Σ p c

Prompts are filled up on the right, and each row has its own length: new tokens overwrite the filling before anything looks at
it, positions begin at 0 as in training, and no mask is needed but "not after me".
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from train.attention import Attention, rope_table, rotate, softmax_scale
from train.model import Layer, Model
from train.moe import MLP, Segments

__all__ = ["LatentCache"]


class LatentCache:
    """Latents of B rows of at most `most` tokens in every layer, and the model that makes them."""

    def __init__(self, model: Model, tokens_BS: Tensor, lengths_B: Tensor, most: int) -> None:
        """Takes in prompts, filled up on the right. Sets `logits_BV`: of the token after each prompt."""
        self.model, self.lengths_B = model, lengths_B.clone()
        rows, length = tokens_BS.shape
        c = model.config
        weight = model.lm_head.weight
        cos, sin = rope_table(most, c, torch.promote_types(weight.dtype, torch.float32))
        self._cos, self._sin = cos.to(weight.device), sin.to(weight.device)
        self._exempt_B = torch.ones(rows, dtype=torch.bool, device=weight.device)
        raw = {}
        layers = [(name, cast(Layer, layer)) for name, layer in model.model.layers.items()]
        hooks = [
            layer.self_attn.kv_a_proj_with_mqa.register_forward_hook(lambda _, __, out, name=name: raw.update({name: out}))
            for name, layer in layers
        ]
        try:
            x_BSH, _ = model.hidden(tokens_BS, exempt_B=self._exempt_B)
        finally:
            for hook in hooks:
                hook.remove()
        self._cache = {}
        for name, layer in layers:
            cache = weight.new_zeros(rows, most, c.kv_lora_rank + c.qk_rope_head_dim)
            cache[:, :length] = self._entry(layer.self_attn, raw[name], self._cos[:length], self._sin[:length])
            self._cache[name] = cache
        last_B1H = x_BSH.gather(1, (self.lengths_B - 1)[:, None, None].expand(-1, 1, x_BSH.shape[-1]))
        self.logits_BV = model.lm_head(last_B1H)[:, 0]

    def _entry(self, attention: Attention, raw_BSD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        c = self.model.config
        latent_BSC, rope_BSR = raw_BSD.split((c.kv_lora_rank, c.qk_rope_head_dim), dim=-1)
        return torch.cat((attention.kv_a_layernorm(latent_BSC), rotate(rope_BSR, cos, sin)), dim=-1)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.lengths_B, self._exempt_B = self.lengths_B[rows], self._exempt_B[rows]
        self._cache = {name: cache[rows] for name, cache in self._cache.items()}

    def append(self, tokens_B: Tensor) -> Tensor:
        """One more token in every row; logits [B, V] of the token after it."""
        model, at_B = self.model, self.lengths_B
        x_B1H = model.model.embed_tokens(tokens_B[:, None])
        reach = int(at_B.max()) + 1
        mask_B11T = (torch.arange(reach, device=at_B.device) <= at_B[:, None])[:, None, None]
        segments = Segments.of(model.config, len(x_B1H), None, self._exempt_B)
        for name, module in model.model.layers.items():
            layer = cast(Layer, module)
            x_B1H = x_B1H + self._attend(layer.self_attn, layer.input_layernorm(x_B1H), self._cache[name], mask_B11T)
            y_B1H = layer.post_attention_layernorm(x_B1H)
            y_B1H = layer.mlp(y_B1H) if isinstance(layer.mlp, MLP) else layer.mlp(y_B1H, segments)[0]
            x_B1H = x_B1H + y_B1H
        self.lengths_B = at_B + 1
        return model.lm_head(model.model.norm(x_B1H))[:, 0]

    def _attend(self, attention: Attention, x_B1H: Tensor, cache_BTD: Tensor, mask_B11T: Tensor) -> Tensor:
        c, at_B = self.model.config, self.lengths_B
        cos_B1R2, sin_B1R2 = self._cos[at_B][:, None], self._sin[at_B][:, None]
        entry_B1D = self._entry(attention, attention.kv_a_proj_with_mqa(x_B1H), cos_B1R2, sin_B1R2)
        cache_BTD[torch.arange(len(at_B), device=at_B.device), at_B] = entry_B1D[:, 0]
        if c.q_lora_rank is None:
            q_B1D = attention.q_proj(x_B1H)
        else:
            q_B1D = attention.q_b_proj(attention.q_a_layernorm(attention.q_a_proj(x_B1H)))
        q_BN1D = q_B1D.unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        nope_BN1D, rope_BN1R = q_BN1D.split((c.qk_nope_head_dim, c.qk_rope_head_dim), dim=-1)
        up_NDC = attention.kv_b_proj.weight.unflatten(0, (attention.heads, -1))
        key_NDC, value_NVC = up_NDC.split((c.qk_nope_head_dim, c.v_head_dim), dim=1)
        rope_BN1R = rotate(rope_BN1R, cos_B1R2[:, None], sin_B1R2[:, None])
        q_BN1D = torch.cat((torch.einsum("bnsd,ndc->bnsc", nope_BN1D, key_NDC), rope_BN1R), dim=-1)
        seen_B1TD = cache_BTD[:, None, : mask_B11T.shape[-1]]
        z_BN1C = F.scaled_dot_product_attention(
            q_BN1D,
            seen_B1TD.expand(-1, attention.heads, -1, -1),
            seen_B1TD[..., : c.kv_lora_rank].expand(-1, attention.heads, -1, -1),
            attn_mask=mask_B11T,
            scale=softmax_scale(c),
        )
        z_BN1V = torch.einsum("bnsc,nvc->bnsv", z_BN1C, value_NVC)
        return attention.o_proj(z_BN1V.transpose(1, 2).flatten(2))
