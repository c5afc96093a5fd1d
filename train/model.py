"""A DeepSeek-V2-shaped decoder: pre-norm RMSNorm, latent attention, one or more dense layers, then mixtures of experts.

Names and shapes of parameters are Hugging Face's (see disk_views in moe.py for the experts), so weights cross over without
renaming. Embeddings are not tied; there are no biases. A process holds its own part: the layers of its pipeline stage, its
share of the experts, its slice of every projection (parallel.py).
"""

from __future__ import annotations

import dataclasses

import torch
import xxhash
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from train.attention import Attention, Documents, RMSNorm, rope_table
from train.config import ModelConfig
from train.moe import MLP, MoE, Segments, disk_views
from train.parallel import ALONE, Ranks, split_dim

__all__ = ["Model", "Output", "Routed", "count_parameters", "local_part", "make_model"]


@dataclasses.dataclass
class Routed:
    """What the mixture layers of a stage did with some tokens."""

    losses_4: Tensor  # balance over experts, over groups, of what groups receive, and z; summed over layers; carry gradients
    load_LE: Tensor  # tokens per expert, int32, one row per mixture layer
    dropped: Tensor  # share of the slots that found no room, mean over layers


@dataclasses.dataclass
class Output:
    logits_BSV: Tensor
    routed: Routed


class Layer(nn.Module):
    def __init__(self, config: ModelConfig, number: int, ranks: Ranks) -> None:
        super().__init__()
        self.self_attn = Attention(config, ranks)
        dense = number < config.first_k_dense_replace
        self.mlp = MLP(config.hidden_size, config.intermediate_size, ranks) if dense else MoE(config, ranks)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, x_BSH: Tensor, rope: tuple[Tensor, Tensor], documents: Documents | None, segments: Segments
    ) -> tuple[Tensor, ...]:
        """(output, and from a mixture: losses_4, tokens per expert, dropped share)."""
        x_BSH = x_BSH + self.self_attn(self.input_layernorm(x_BSH), rope, documents)
        y_BSH = self.post_attention_layernorm(x_BSH)
        if isinstance(self.mlp, MLP):
            return (x_BSH + self.mlp(y_BSH),)
        y_BSH, *routed = self.mlp(y_BSH, segments)
        return (x_BSH + y_BSH, *routed)


class Embedding(nn.Embedding):
    """Rows of the vocabulary in slices: each tensor rank looks up its own, the sum is the embedding."""

    def __init__(self, config: ModelConfig, ranks: Ranks) -> None:
        assert config.vocab_size is not None
        super().__init__(config.vocab_size // ranks.layout.tp, config.hidden_size)
        self.ranks = ranks

    def forward(self, tokens_BS: Tensor) -> Tensor:
        if self.ranks.tensor is None:
            return super().forward(tokens_BS)
        local_BS = tokens_BS - self.ranks.slice * self.num_embeddings
        elsewhere_BS = (local_BS < 0) | (local_BS >= self.num_embeddings)
        x_BSH = super().forward(local_BS.masked_fill(elsewhere_BS, 0))
        return self.ranks.leave(x_BSH.masked_fill(elsewhere_BS[..., None], 0))


class Decoder(nn.Module):
    def __init__(self, config: ModelConfig, ranks: Ranks) -> None:
        super().__init__()
        if ranks.first_stage:
            self.embed_tokens = Embedding(config, ranks)
        numbers = ranks.layers(config.num_hidden_layers)
        self.layers = nn.ModuleDict({str(number): Layer(config, number, ranks) for number in numbers})
        if ranks.last_stage:
            self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Model(nn.Module):
    def __init__(self, config: ModelConfig, ranks: Ranks = ALONE, recompute: bool = False) -> None:
        super().__init__()
        assert config.vocab_size is not None, "vocab_size is filled in from the shards before a model is made"
        self.config, self.ranks, self.recompute = config, ranks, recompute
        self.model = Decoder(config, ranks)
        if ranks.last_stage:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size // ranks.layout.tp, bias=False)

    def hidden(self, x: Tensor, documents_BS: Tensor | None = None, exempt_B: Tensor | None = None) -> tuple[Tensor, Routed]:
        """What this stage makes of token ids [B, S] (the first) or of the stage before's output [B, S, H]; normed by the last.

        documents: a number per token, equal within a document; given, attention stays inside documents. exempt: sequences
        none of whose tokens are dropped, where experts have a capacity.
        """
        c = self.config
        x_BSH = self.model.embed_tokens(x) if self.ranks.first_stage else x
        length = x_BSH.shape[1] * (self.ranks.layout.tp if self.ranks.layout.sequence else 1)
        cos, sin = rope_table(length, c, torch.promote_types(x_BSH.dtype, torch.float32))
        rope = (cos.to(x_BSH.device), sin.to(x_BSH.device))
        documents = None if documents_BS is None else Documents.of(documents_BS, x_BSH.dtype)
        segments = Segments.of(c, len(x_BSH), documents_BS, exempt_B)
        losses_4 = x_BSH.new_zeros(4, dtype=torch.promote_types(x_BSH.dtype, torch.float32))
        loads, dropped = [], []
        for layer in self.model.layers.values():
            arguments = (x_BSH, rope, documents, segments)
            if self.recompute and torch.is_grad_enabled():
                x_BSH, *routed = checkpoint(layer, *arguments, use_reentrant=False, preserve_rng_state=False)
            else:
                x_BSH, *routed = layer(*arguments)
            if routed:
                losses_4 = losses_4 + routed[0]
                loads.append(routed[1])
                dropped.append(routed[2])
        load_LE = torch.stack(loads) if loads else torch.zeros(0, c.n_routed_experts, dtype=torch.int32, device=x_BSH.device)
        share = torch.stack(dropped).mean() if dropped else losses_4.new_zeros(())
        if self.ranks.last_stage:
            x_BSH = self.ranks.alike(self.model.norm(x_BSH))
        return x_BSH, Routed(losses_4, load_LE, share)

    @torch.no_grad()
    def move_biases(self, load_LE: Tensor) -> None:
        """V3's balance without a loss (section 2.1.2): experts with less than the mean load become likelier, others less.

        load: of the whole step, one row per mixture layer of this stage.
        """
        speed = self.config.bias_update_speed
        if speed is None:
            return
        mixtures = [layer.mlp for layer in self.model.layers.values() if isinstance(layer.mlp, MoE)]
        for mixture, load_E in zip(mixtures, load_LE.double(), strict=True):
            mixture.gate.get_buffer("e_score_correction_bias").add_(speed * torch.sign(load_E.mean() - load_E))

    def forward(self, tokens_BS: Tensor, documents_BS: Tensor | None = None, exempt_B: Tensor | None = None) -> Output:
        """Logits of all positions: for models that one process holds whole. Training does not make them, see loss.py."""
        assert self.ranks.layout.tp == self.ranks.layout.pp == 1, "logits are for a model that one process holds whole"
        x_BSH, routed = self.hidden(tokens_BS, documents_BS, exempt_B)
        return Output(self.lm_head(x_BSH), routed)


def make_model(
    config: ModelConfig, seed: int, dtype: torch.dtype = torch.float32, ranks: Ranks = ALONE, recompute: bool = False
) -> Model:
    """This rank's part of a model with fresh parameters: normal(0, initializer_range), norms at 1.

    Every tensor on disk has a generator of its own, seeded by (seed, name): the values depend neither on the order of
    construction nor on how the model is laid out in memory or over ranks.
    """
    model = empty_model(config, dtype, ranks, recompute)
    with torch.no_grad():
        for name, tensor in disk_views(dict(model.named_parameters()), ranks):
            if tensor.dim() == 1:
                tensor.fill_(1.0)
                continue
            shape = list(tensor.shape)
            dim = split_dim(name)
            if dim is not None:
                shape[dim] *= ranks.layout.tp
            key = xxhash.xxh3_64_intdigest(f"{seed} {name}".encode()) >> 1  # manual_seed takes 63 bits
            values = torch.randn(shape, generator=torch.Generator().manual_seed(key))
            tensor.copy_(local_part(name, values, ranks) * config.initializer_range)
    return model.to(ranks.device)


def empty_model(config: ModelConfig, dtype: torch.dtype, ranks: Ranks = ALONE, recompute: bool = False) -> Model:
    """The same on the CPU with parameters still to be filled, and routers' biases at 0."""
    with torch.device("meta"):
        model = Model(config, ranks, recompute).to(dtype)
    model = model.to_empty(device="cpu")
    for name, buffer in model.named_buffers():
        model.get_submodule(name.rpartition(".")[0]).e_score_correction_bias = torch.zeros(len(buffer))  # fp32 whatever dtype
    return model


def local_part(name: str, whole: Tensor, ranks: Ranks) -> Tensor:
    """This tensor rank's slice of a tensor, by its name on disk."""
    dim = split_dim(name)
    return whole if dim is None else whole.chunk(ranks.layout.tp, dim)[ranks.slice]


def count_parameters(model: Model) -> tuple[int, int]:
    """(total, active per token) of what this process holds: active leaves out the routed experts a token does not visit."""
    total = sum(p.numel() for p in model.parameters())
    routed = sum(p.numel() for name, p in model.named_parameters() if ".mlp.experts." in name)
    idle = 1 - model.config.num_experts_per_tok / model.config.n_routed_experts
    return total, total - round(routed * idle)
