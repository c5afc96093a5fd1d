"""DeepSeek-Coder-V2, 236 B parameters of which a token meets 21 B, and DeepSeek-V2, which it goes on from.

    python -m train plan recipes.moe_236b
    torchrun … -m train recipes.moe_236b:pretrain --steps 116_659      4.2 T tokens, on a corpus of yours
    python -m train recipes.moe_236b:pretrain --export exported/moe_236b_pretrain
    torchrun … -m train recipes.moe_236b                               6 T tokens more
    python -m train recipes.moe_236b --export exported/moe_236b
    torchrun … -m train recipes.moe_236b:long_32k                      then the same for long_128k, each from the one before

V2 = DeepSeek-V2, CV2 = DeepSeek-Coder-V2, with their sections. What they leave open is decided here and said so. V2 ran on 16
pipeline stages and 8 shares of the experts, ZeRO-1, no tensor ranks (section 3.1.3); how wide it does not say. Here it is 1024
cards of 80 GB, in the long stages with tensor ranks. `python -m train plan` says what they take, and layout.* changes them.
"""

from __future__ import annotations

import dataclasses

from corpus.step import Step
from recipes.deepseek_coder_v2 import long_documents
from recipes.deepseek_coder_v2 import recipe as corpus
from train.config import Layout, ModelConfig, TrainConfig

__all__ = ["MODEL", "long_32k", "long_128k", "pretrain", "recipe"]

MODEL = ModelConfig(
    vocab_size=102_400,  # LLM 2.1: 100,015 ids, padded
    # V2 section 3.1.2
    num_hidden_layers=60,
    hidden_size=5120,
    num_attention_heads=128,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    kv_lora_rank=512,
    q_lora_rank=1536,
    first_k_dense_replace=1,
    intermediate_size=12_288,  # config.json
    n_routed_experts=160,
    n_shared_experts=2,
    num_experts_per_tok=6,
    moe_intermediate_size=1536,
    n_group=8,  # D = 8 devices,
    topk_group=3,  # of which a token reaches M = 3
    routed_scaling_factor=16.0,  # config.json
    aux_loss_alpha=0.003,
    device_loss_alpha=0.05,
    comm_loss_alpha=0.02,
    capacity_factor=1.0,  # section 2.2.4; a tenth of the sequences loses nothing
    initializer_range=0.006,
)


def pretrain() -> TrainConfig:
    """DeepSeek-V2 from nothing: 8.1 T tokens (V2 3.1). Its corpus was not published: set `data` to shards of your own."""
    return TrainConfig(
        name="moe_236b_pretrain",
        model=MODEL,
        data="general",  # a folder of token shards, any tool's: --set data=FOLDER
        # V2 section 3.1.2, all of it, but for the size of a growth of the batch, which is not stated: 27 of 256.
        steps=219_974,  # 8.1 T tokens
        batch=9216,
        batch_start=2304,
        batch_ramp=225_000_000_000,
        batch_multiple=256,
        seq_len=4096,
        lr=2.4e-4,
        warmup=2000,
        schedule="steps",
        decay_at=(0.6, 0.9),  # times 0.316 at about 60 % and 90 % of the tokens
        layout=Layout(pp=16, dp=8, ep=8, micro_batch=1),
        dtype="bfloat16",  # LLM 2.4, with gradients added up in fp32, as here
        recompute=True,
    )


def recipe() -> TrainConfig:
    """DeepSeek-Coder-V2: 6 T tokens of its corpus, from V2's checkpoint at 4.2 T (CV2 sections 3.1 and 3.3)."""
    return dataclasses.replace(
        pretrain(),
        name="moe_236b",
        data=_left_to_right(corpus()),
        steps=158_946,  # CV2 abstract: 6 T tokens
        # At 4.2 T the batch has long been whole and the rate not decayed yet: both are taken as they were there. CV2 3.3: a
        # warm-up of 2000 steps, then a cosine to a tenth.
        batch_start=None,
        batch_ramp=0,
        batch_multiple=1,
        schedule="cosine",
        decay_at=(),
        min_lr_ratio=0.1,
        # That checkpoint was not published. The nearest that was is DeepSeek-V2 after all 8.1 T.
        init="exported/moe_236b_pretrain",
    )


def _left_to_right(encoded: Step) -> Step:
    """CV2 3.1: the 236 B model has next-token prediction only, no fill-in-the-middle."""
    return Step(encoded.name, dataclasses.replace(encoded.config, fim_rate=0.0))


def long_32k() -> TrainConfig:
    """CV2 section 3.4, first stage: 1000 steps of 1152 sequences of 32 K, with YaRN from here on."""
    before = recipe()
    return dataclasses.replace(
        before,
        name="moe_236b_long_32k",
        # CV2 3.4: s = 40, alpha = 1, beta = 32, as in V2. The rest of YaRN is ModelConfig's defaults, checked with V2's config.
        model=dataclasses.replace(MODEL, rope_factor=40.0),
        init="exported/moe_236b",
        steps=1000,
        batch=1152,
        seq_len=32_768,
        # CV2 3.4 up-samples long documents; neither from what length nor how often is stated. Half a sequence, and four times.
        data=long_documents(before.data, 16_384, 4.0),
        # The rate is not stated. DeepSeek-Coder (CV1 3.6) kept that of the last phase; here it is where the cosine ended.
        # The moments of Adam begin anew, hence a short warm-up.
        schedule="constant",
        lr=before.lr * before.min_lr_ratio,
        warmup=20,
        layout=Layout(pp=2, dp=8, ep=8, tp=8, sequence=True, micro_batch=1),
    )


def long_128k() -> TrainConfig:
    """CV2 section 3.4, second stage: 1000 steps of 288 sequences of 128 K.

    The inputs of 60 layers are 80 GB for one sequence, hence layout.sequence: a tensor rank keeps an eighth of each.
    """
    return dataclasses.replace(
        long_32k(),
        name="moe_236b_long_128k",
        init="exported/moe_236b_long_32k",
        data=long_documents(recipe().data, 65_536, 4.0),
        batch=288,
        seq_len=131_072,
        layout=Layout(pp=4, dp=4, ep=8, tp=8, sequence=True, micro_batch=1),
    )
