"""What a model costs, from the config alone: parameters, operations per token, bytes per rank. Nothing is allocated.

A stage's model is made on torch's meta device, as the rank would make it, so what is counted cannot drift from the trainer's.
Parameters, gradients, masters and moments are exact. Activations are the tensors that autograd keeps, written down layer by
layer; with routing as even as the balance losses want it. Element-wise chains count as they are fused on CUDA.

Letters: H hidden, I inner, T tokens of a micro-batch, S sequence.
"""

from __future__ import annotations

import dataclasses
import functools

import torch

from corpus.errors import ConfigError
from train.config import ModelConfig, TrainConfig
from train.loss import CHUNK
from train.model import Model
from train.optim import owned_rows
from train.parallel import Ranks

__all__ = ["DEVICES", "Card", "Memory", "components", "memory", "operations_per_token", "peak_rate"]


@dataclasses.dataclass(frozen=True)
class Card:
    rate: float  # dense bf16 operations per second, per the maker's data sheet
    memory: float  # bytes


DEVICES = {
    "A100": Card(312e12, 80e9),
    "H100": Card(989e12, 80e9),
    "H800": Card(989e12, 80e9),
    "H200": Card(989e12, 141e9),
    "B200": Card(2250e12, 180e9),
}

_PARTS = (  # of a parameter's name, in this order; norms are the vectors
    ("embedding", "embed_tokens."),
    ("attention", ".self_attn."),
    ("routers", ".mlp.gate."),
    ("routed experts", ".mlp.experts."),
    ("shared experts", ".mlp.shared_experts."),
    ("dense MLPs", ".mlp."),
    ("output", "lm_head."),
)


def peak_rate(card: str) -> float | None:
    """Rated dense bf16 operations per second of a card by its name; None for one that is not known."""
    return next((known.rate for name, known in DEVICES.items() if name in card), None)


def meta_model(config: ModelConfig, ranks: Ranks | None = None) -> Model:
    """A rank's part of a model, without memory for it."""
    if config.vocab_size is None:
        raise ConfigError("model.vocab_size is not set; a number expected, such as 102400")
    with torch.device("meta"):
        return Model(config, ranks or Ranks())


@functools.lru_cache(maxsize=8)
def components(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """(parameters, those of them that a token meets) of the whole model, by kind."""
    counts = dict.fromkeys((*(name for name, _ in _PARTS), "norms"), 0)
    for name, p in meta_model(config).named_parameters():
        counts["norms" if p.dim() == 1 else next(kind for kind, part in _PARTS if part in name)] += p.numel()
    met = config.num_experts_per_tok
    return {
        kind: (count, count * met // config.n_routed_experts if kind == "routed experts" else count)
        for kind, count in counts.items()
    }


def operations_per_token(config: ModelConfig, length: int) -> dict[str, float]:
    """Of forward and backward, by kind; every multiplication and every addition counts. Recomputing is not counted.

    A matrix is 2 operations per entry forward and 4 backward. "keys": products of queries with keys and of their shares with
    values, over half the keys, which is what causal attention has to do.
    """
    matrices = {kind: 6.0 * met for kind, (_, met) in components(config).items() if kind not in ("embedding", "norms")}
    widths = config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim
    return matrices | {"keys": 6.0 * config.num_hidden_layers * config.num_attention_heads * widths * length / 2}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on the rank of a stage that has most of them, at the moment of a step that needs most."""

    stage: int
    layers: range
    parameters: int  # with FSDP this rank's rows, in fp32
    gradients: int  # fp32; whole, with FSDP this rank's rows
    masters: int  # fp32 copies of this rank's rows; 0 where the parameters are fp32
    moments: int  # two of them, of this rank's rows
    activations: int  # kept for the backward pass, of all micro-batches in flight
    working: int  # for the moment: gradients of activations, logits; or rows on their way to other ranks
    in_flight: int  # micro-batches

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.masters + self.moments + self.activations + self.working


def memory(config: TrainConfig, stage: int) -> Memory:
    """Of the first rank of a pipeline stage: with ZeRO-1 its rows are the longest. For the largest batch of the run."""
    c, layout = config.model, config.layout
    ranks = Ranks(layout, rank=stage * layout.tp * layout.data_ranks)
    model = meta_model(c, ranks)
    narrow = getattr(torch, config.dtype).itemsize
    wide = max(narrow, 4)
    held = {False: 0, True: 0}
    owned = largest = 0
    for name, p in model.named_parameters():
        expert = ".experts." in name
        share = layout.dp if expert else layout.data_ranks
        held[expert] += p.numel()
        owned += owned_rows(len(p), share if layout.zero1 or layout.fsdp else 1) * p[0].numel()
        largest = max(largest, p.numel())
    parameters = sum(held.values())
    tokens = layout.micro(config.batch) * config.seq_len
    micros = config.batch // layout.data_ranks // layout.micro(config.batch)
    in_flight = min(layout.pp - stage, micros)
    kept, working = _pass(config, ranks, tokens, in_flight, largest * narrow if narrow < wide else 0)
    if layout.fsdp:
        working += _gathered_layers(model, narrow, wide)
    elif layout.zero1:
        # The update comes after the backward pass: each kind's rows are gathered flat, from all ranks that share them.
        sharing = {False: layout.data_ranks, True: layout.dp}
        working = max(working, max(held[e] * narrow if sharing[e] > 1 else 0 for e in held) - kept)
    here = owned if layout.fsdp else parameters
    return Memory(
        stage=stage,
        layers=ranks.layers(c.num_hidden_layers),
        parameters=here * (wide if layout.fsdp else narrow),
        gradients=here * wide,
        masters=owned * wide if narrow < wide and not layout.fsdp else 0,
        moments=2 * owned * wide,
        activations=kept,
        working=working,
        in_flight=in_flight,
    )


def _gathered_layers(model: Model, narrow: int, wide: int) -> int:
    """With FSDP, of whole parameters at a time: what is outside the layers, a layer and the next, and a layer's gradients."""
    layers = [sum(p.numel() for p in layer.parameters()) for layer in model.model.layers.values()]
    outside = sum(p.numel() for p in model.parameters()) - sum(layers)
    return outside * narrow + max(layers, default=0) * (2 * narrow + narrow + wide)


def _pass(config: TrainConfig, ranks: Ranks, tokens: int, in_flight: int, weight_gradient: int) -> tuple[int, int]:
    """(bytes kept for the backward pass, bytes for the moment on top of them).

    weight_gradient: the largest that is made in the parameters' dtype before it is added to the fp32 one.
    """
    c, layout = config.model, config.layout
    narrow = getattr(torch, config.dtype).itemsize
    whole = tokens * c.hidden_size * narrow
    hidden = whole // (layout.tp if layout.sequence else 1)  # of what lies between layers
    numbers = ranks.layers(c.num_hidden_layers)
    layers = [tokens * kept_by_layer(config, number) for number in numbers]
    kept = in_flight * (len(layers) * hidden if config.recompute else sum(layers))
    if ranks.first_stage:
        kept += in_flight * tokens * 8  # ids
    # Backward through a layer: the gradients of what goes in and out, and of the experts' rows before the rows are let go;
    # after that, of a matrix and its operands.
    slots = c.num_experts_per_tok
    backward = whole * 2 + max(whole * slots, weight_gradient + tokens * slots * c.moe_intermediate_size * narrow)
    if config.recompute:
        backward += max(layers, default=hidden) - hidden  # its input is kept already
    if not ranks.last_stage:
        return kept + in_flight * hidden, backward  # the output that was sent on
    kept += hidden + tokens * max(narrow, 4) * hidden // whole  # the last norm's input, and a number per token
    words = (c.vocab_size or 0) // layout.tp
    weight = words * c.hidden_size
    rows = min(tokens, CHUNK // (4 * words))
    # cross_entropy: logits of a chunk and their gradient; the weight's gradient, old and new. Its input and that one's gradient
    # stay until the next micro-batch.
    loss = 2 * rows * words * narrow + 2 * weight * max(narrow, 4)
    return kept, 2 * whole + max(loss, weight * narrow + backward)


def kept_by_layer(config: TrainConfig, number: int) -> int:
    """Bytes per token that autograd keeps of a layer for the backward pass.

    With layout.sequence a rank norms a share of the positions, and gathers all of them where the shares of a product begin.
    """
    c, tp = config.model, config.layout.tp
    narrow = getattr(torch, config.dtype).itemsize
    wide = max(narrow, 4)
    parts = tp if config.layout.sequence else 1
    hidden = c.hidden_size * narrow

    def normed(width: int) -> int:  # what a norm keeps: its input and a number
        return (width * narrow + wide) // parts

    heads, keys = c.num_attention_heads // tp, c.qk_nope_head_dim + c.qk_rope_head_dim
    padded = narrow == 2 and (config.deterministic or config.document_mask)  # see Attention.forward
    values = keys if padded else c.qk_nope_head_dim + c.v_head_dim  # a view into the product they come from
    out = keys if padded else c.v_head_dim
    kept = normed(c.hidden_size) + hidden // parts
    if c.q_lora_rank is not None:
        kept += normed(c.q_lora_rank) + c.q_lora_rank * narrow
    elif parts > 1:
        kept += hidden  # all positions, for the queries; the share is for the latent
    kept += normed(c.kv_lora_rank + c.qk_rope_head_dim) + c.kv_lora_rank * narrow  # the norm sees a part of a wider tensor
    kept += heads * (2 * keys + values + out + c.v_head_dim) * narrow + heads * 4
    kept += normed(c.hidden_size) + hidden
    if number < c.first_k_dense_replace:
        return kept + 3 * c.intermediate_size // tp * narrow
    slots, inner = c.num_experts_per_tok, c.moe_intermediate_size // tp
    if parts > 1 and c.n_shared_experts:
        kept += hidden  # gathered once for the router and once for the experts
    # By the compiled routing kernels; where there are none, plain torch keeps scores beside logits, and more of SwiGLU.
    scores = c.n_routed_experts * wide
    places = slots * (4 + 4 + 4 + wide)  # chosen, rows, slots, weights
    routed = slots * (c.hidden_size + 3 * inner) * narrow
    shared = 3 * c.n_shared_experts * inner * narrow
    return kept + scores + places + routed + shared
