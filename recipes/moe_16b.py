"""DeepSeek-Coder-V2-Lite, 16 B parameters of which a token meets 2.4 B, and DeepSeek-V2-Lite, which it goes on from.

    python -m train plan recipes.moe_16b
    torchrun … -m train recipes.moe_16b:pretrain --steps 222_525       4.2 T tokens, on a corpus of yours
    python -m train recipes.moe_16b:pretrain --export exported/moe_16b_pretrain
    torchrun … -m train recipes.moe_16b                                6 T tokens more
    python -m train recipes.moe_16b --export exported/moe_16b
    torchrun … -m train recipes.moe_16b:long_32k                       then the same for long_128k, each from the one before

V2 = DeepSeek-V2 (appendix B is Lite's), CV2 = DeepSeek-Coder-V2, with its sections. What they leave open is decided here and
said so. The layouts are ours, for cards of 80 GB; `python -m train plan` says what they take, and layout.* changes them.
"""

from __future__ import annotations

import dataclasses

from recipes.deepseek_coder_v2 import long_documents
from recipes.deepseek_coder_v2 import recipe as corpus
from train.config import Layout, ModelConfig, TrainConfig

__all__ = ["MODEL", "long_32k", "long_128k", "pretrain", "recipe"]

# V2 appendix B. The other sizes are ModelConfig's defaults, which are Lite's: 27 layers of 2048, 16 heads, 64 + 2 experts of
# 1408 of which 6 are chosen, dense inner size 10944 (config.json), latent 512, balance over experts 0.001 and no other loss.
MODEL = ModelConfig(vocab_size=102_400)  # LLM 2.1: 100,015 ids, padded


def pretrain() -> TrainConfig:
    """DeepSeek-V2-Lite from nothing: 5.7 T tokens. Its corpus was not published: set `data` to shards of your own."""
    return TrainConfig(
        name="moe_16b_pretrain",
        model=MODEL,
        data="general",  # a folder of token shards, any tool's: --set data=FOLDER
        steps=301_997,  # V2 appendix B: 5.7 T tokens
        batch=4608,  # V2 appendix B, constant
        seq_len=4096,  # V2 appendix B
        lr=4.2e-4,  # V2 appendix B
        warmup=2000,
        schedule="steps",
        decay_at=(0.8, 0.9),  # V2 appendix B: times 0.316 at about 80 % and 90 % of the tokens
        layout=Layout(dp=16, ep=8, micro_batch=2),
        dtype="bfloat16",  # LLM 2.4, with gradients added up in fp32, as here
    )


def recipe() -> TrainConfig:
    """DeepSeek-Coder-V2-Lite: 6 T tokens of its corpus, from V2-Lite's checkpoint at 4.2 T (CV2 sections 3.1 and 3.3)."""
    return dataclasses.replace(
        pretrain(),
        name="moe_16b",
        # CV2 3.1: next token and fill-in-the-middle at a rate of 0.5. The corpus ends in encode_tokens with fim_rate=0.5.
        data=corpus(),
        steps=317_892,  # CV2 abstract: 6 T tokens
        # CV2 3.3: warm-up of 2000 steps, then a cosine to a tenth. Rate and batch are "adjusted according to" V2: at 4.2 T
        # V2-Lite was before its first decay, so both are taken as they were there.
        schedule="cosine",
        decay_at=(),
        min_lr_ratio=0.1,
        # That checkpoint was not published. The nearest that was is DeepSeek-V2-Lite after all 5.7 T.
        init="exported/moe_16b_pretrain",
    )


def long_32k() -> TrainConfig:
    """CV2 section 3.4, first stage: 1000 steps of 1152 sequences of 32 K, with YaRN from here on."""
    before = recipe()
    return dataclasses.replace(
        before,
        name="moe_16b_long_32k",
        # CV2 3.4: s = 40, alpha = 1, beta = 32, as in V2. The rest of YaRN is ModelConfig's defaults, checked with V2's config.
        model=dataclasses.replace(MODEL, rope_factor=40.0),
        init="exported/moe_16b",
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
        layout=Layout(dp=16, ep=8, micro_batch=1),
        recompute=True,
    )


def long_128k() -> TrainConfig:
    """CV2 section 3.4, second stage: 1000 steps of 288 sequences of 128 K."""
    return dataclasses.replace(
        long_32k(),
        name="moe_16b_long_128k",
        init="exported/moe_16b_long_32k",
        data=long_documents(recipe().data, 65_536, 4.0),
        batch=288,
        seq_len=131_072,
        layout=Layout(dp=4, ep=8, tp=4, sequence=True, micro_batch=1),
    )
