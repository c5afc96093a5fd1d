"""A tiny DeepSeek-V2 on the sample corpus: minutes on two cores, every part of the large model in small.

python -m train recipes.moe_tiny
"""

from __future__ import annotations

from recipes.sample import recipe as corpus
from train.config import ModelConfig, TrainConfig

__all__ = ["recipe"]


def recipe() -> TrainConfig:
    model = ModelConfig(
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=384,
        moe_intermediate_size=96,
        n_routed_experts=8,
        n_shared_experts=1,
        num_experts_per_tok=2,
        q_lora_rank=64,
        kv_lora_rank=48,
        qk_nope_head_dim=32,
        qk_rope_head_dim=16,
        v_head_dim=32,
        aux_loss_alpha=0.01,  # few tokens per sequence and few steps: the paper's 0.001 acts too slowly to be seen
        initializer_range=0.02,  # 0.006 suits a hidden size of 2048 and above
    )
    return TrainConfig(
        name="moe_tiny",
        model=model,
        data=corpus(),
        steps=300,
        batch=8,
        seq_len=256,
        lr=3e-3,
        warmup=40,
    )
