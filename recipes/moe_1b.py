"""The size at which the papers try out a corpus, for ablations on one machine of 8 cards.

    python -m train plan recipes.moe_1b
    torchrun --nproc-per-node 8 -m train recipes.moe_1b --set steps=2_400      10 B tokens instead of 1 T
    torchrun --nproc-per-node 8 -m train recipes.moe_1b:dense

DeepSeek-Coder-V2 compares its corpus with DeepSeek-Coder's by "1B" models trained on 1 T and 2 T tokens (CV2 Table 1) and says
nothing more about them. Known is DeepSeek-Coder 1.3B, a dense model (CV1 Table 2), and how DeepSeekMath trains the same size on
150 B tokens (MATH section 2.2). So, of what is below:

    known     hidden 2048, 24 layers, 16 heads, inner size 5504, batch 1024, warm-up 2000, peak 5.3e-4 (CV1 Table 2); 0.316 of
              the peak after 80 % of the tokens and 0.1 after 90 % (MATH 2.2); 1 T tokens, V2's tokenizer (CV2)
    chosen    latent attention, as everywhere here, in place of CV1's plain heads; V2-Lite's latent, head widths and experts: 64
              routed and 2 shared, 6 chosen, with 5504 / 8 = 688 inner dimensions each, so that a token meets the dense model's
              5504
"""

from __future__ import annotations

import dataclasses

from recipes.deepseek_coder_v2 import recipe as corpus
from train.config import Layout, ModelConfig, TrainConfig

__all__ = ["MODEL", "dense", "recipe"]

MODEL = ModelConfig(
    vocab_size=102_400,
    hidden_size=2048,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=5504,
    moe_intermediate_size=688,
    aux_loss_alpha=0.001,  # V2-Lite's
)


def recipe() -> TrainConfig:
    """A mixture: 7.2 B parameters, of which a token meets 1.6 B with both embeddings."""
    return TrainConfig(
        name="moe_1b",
        model=MODEL,
        data=corpus(),
        steps=238_419,  # 1 T tokens
        batch=1024,
        seq_len=4096,  # MATH 2.2; CV1 does not say
        lr=5.3e-4,
        warmup=2000,
        schedule="steps",
        decay_at=(0.8, 0.9),
        layout=Layout(ep=8, micro_batch=2),
        dtype="bfloat16",
    )


def dense() -> TrainConfig:
    """The same without experts, which is Table 1's model but for the attention: 1.6 B parameters with both embeddings."""
    shape = dataclasses.replace(MODEL, first_k_dense_replace=MODEL.num_hidden_layers)
    return dataclasses.replace(recipe(), name="moe_1b_dense", model=shape, layout=Layout(dp=8, micro_batch=4))
