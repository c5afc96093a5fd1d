"""A DeepSeek-V2-shaped decoder: pre-norm RMSNorm, latent attention, one or more dense layers, then mixtures of experts.

Names and shapes of parameters are Hugging Face's (see disk_views in moe.py for the experts), so weights cross over without
renaming. Embeddings are not tied; there are no biases.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
import xxhash
from torch import Tensor, nn

from train.attention import Attention, RMSNorm, rope_table
from train.config import ModelConfig
from train.moe import MLP, MoE, disk_views

__all__ = ["Model", "Output", "count_parameters", "make_model", "next_token_loss"]


@dataclasses.dataclass
class Output:
    logits_BSV: Tensor
    balance: Tensor  # summed over the mixture layers, each 1 when even; times aux_loss_alpha it is the balance loss
    load_LE: Tensor  # tokens per expert, int32, one row per mixture layer


class Layer(nn.Module):
    def __init__(self, config: ModelConfig, number: int) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        dense = number < config.first_k_dense_replace
        self.mlp = MLP(config.hidden_size, config.intermediate_size) if dense else MoE(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Decoder(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.vocab_size is not None
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, number) for number in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Model(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.vocab_size is not None, "vocab_size is filled in from the shards before a model is made"
        self.config = config
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, tokens_BS: Tensor, documents_BS: Tensor | None = None) -> Output:
        """documents: a number per token, equal within a document; given, attention stays inside documents."""
        c = self.config
        x_BSH = self.model.embed_tokens(tokens_BS)
        cos, sin = rope_table(tokens_BS.shape[1], c, x_BSH.dtype)
        rope = (cos.to(x_BSH.device), sin.to(x_BSH.device))
        mask_B1SS = None if documents_BS is None else _document_mask(documents_BS)
        balance, loads = x_BSH.new_zeros(()), []
        for layer in self.model.layers:
            x_BSH = x_BSH + layer.self_attn(layer.input_layernorm(x_BSH), rope, mask_B1SS)
            y_BSH = layer.post_attention_layernorm(x_BSH)
            if isinstance(layer.mlp, MoE):
                y_BSH, uneven, load_E = layer.mlp(y_BSH)
                balance = balance + uneven
                loads.append(load_E)
            else:
                y_BSH = layer.mlp(y_BSH)
            x_BSH = x_BSH + y_BSH
        load_LE = torch.stack(loads) if loads else torch.zeros(0, c.n_routed_experts, dtype=torch.int32)
        return Output(self.lm_head(self.model.norm(x_BSH)), balance, load_LE)


def _document_mask(documents_BS: Tensor) -> Tensor:
    same = documents_BS[:, None, :, None] == documents_BS[:, None, None, :]
    return same.tril()


def next_token_loss(model: Model, tokens_BL1: Tensor, documents_BL1: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(mean cross-entropy in nats per label, Output.balance, Output.load_LE) of predicting tokens[:, 1:] from tokens[:, :-1].

    documents: given, neither attention nor a label crosses from one document into the next.
    """
    labels_BL = tokens_BL1[:, 1:]
    output = model(tokens_BL1[:, :-1], None if documents_BL1 is None else documents_BL1[:, :-1])
    if documents_BL1 is not None:
        labels_BL = labels_BL.masked_fill(documents_BL1[:, 1:] != documents_BL1[:, :-1], -100)
    total = F.cross_entropy(output.logits_BSV.flatten(0, 1), labels_BL.flatten(), ignore_index=-100, reduction="sum")
    return total / (labels_BL != -100).sum().clamp(min=1), output.balance, output.load_LE


def make_model(config: ModelConfig, seed: int, dtype: torch.dtype = torch.float32) -> Model:
    """A model with fresh parameters: normal(0, initializer_range), norms at 1.

    Every tensor on disk has a generator of its own, seeded by (seed, name): the values depend neither on the order of
    construction nor on how experts are laid out in memory or over ranks.
    """
    with torch.device("meta"):
        model = Model(config)
    model = model.to_empty(device="cpu").to(dtype)
    with torch.no_grad():
        for name, tensor in disk_views(dict(model.named_parameters())):
            if tensor.dim() == 1:
                tensor.fill_(1.0)
                continue
            key = xxhash.xxh3_64_intdigest(f"{seed} {name}".encode()) >> 1  # manual_seed takes 63 bits
            values = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(key))
            tensor.copy_(values * config.initializer_range)
    return model


def count_parameters(model: Model) -> tuple[int, int]:
    """(total, active per token): active leaves out the routed experts a token does not visit."""
    total = sum(p.numel() for p in model.parameters())
    routed = sum(p.numel() for name, p in model.named_parameters() if ".mlp.experts." in name)
    idle = 1 - model.config.num_experts_per_tok / model.config.n_routed_experts
    return total, total - round(routed * idle)
