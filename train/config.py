"""What a training run is: ModelConfig (the field names of Hugging Face's config.json) and TrainConfig.

A training recipe is a function that returns a TrainConfig. Its fingerprint names the run's folder, the way a Step's does:
everything that decides the parameters is in it, and nothing else is.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import re
from pathlib import Path

import xxhash

from corpus.errors import ConfigError
from corpus.step import Step, canonical, file_seen

__all__ = [
    "REVISION",
    "Layout",
    "ModelConfig",
    "Source",
    "TrainConfig",
    "check_layout",
    "fingerprint",
    "init_seen",
    "run_folder",
]

REVISION = 2  # raise when the same config would train to other parameters

# Fields that change when a run saves or where it lives, not what it computes.
_NOT_IN_FINGERPRINT = (
    "out",
    "checkpoint_every",
    "checkpoints_kept",
    "init",
    "layout",
    "recompute",
    "deterministic",
    "tensorboard",
)
# What is watched, and what becomes of a bad step. An undisturbed run computes the same with any of them, and one that a bad
# step stopped is to go on with another, as its error says, not to begin anew: the log and RUN/left_out.json say which steps
# were left out. They once were part of the fingerprint, so it is taken with their defaults: runs begun then keep their folders.
_AS_DEFAULT = ("validation_sequences", "spike", "on_spike")

_NAME = re.compile(r"[A-Za-z0-9_-]+$")
MAX_EXPERTS, MAX_K = 512, 16  # as in kernels.ops, which needs torch
_END = 1 << 20  # bytes of each end of a file of weights that a fingerprint sees
_ALPHAS = ("aux_loss_alpha", "device_loss_alpha", "comm_loss_alpha", "z_loss_alpha")
_MAY_BE_ZERO = ("n_shared_experts", "first_k_dense_replace", "rope_mscale", "rope_mscale_all_dim", *_ALPHAS)
_CHOICES = {"scoring_func": ("softmax", "sigmoid"), "group_score": ("max", "top2"), "balance_over": ("sequence", "document")}


def _require(ok: bool, field: str, value: object, expected: str) -> None:
    if not ok:
        raise ConfigError(f"{field}={value}: {expected} expected")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of the model. Defaults are DeepSeek-V2-Lite's (V2 appendix B and its config.json)."""

    vocab_size: int | None = None  # None: the shards' vocabulary, rounded up to a multiple of 64
    hidden_size: int = 2048
    num_hidden_layers: int = 27
    num_attention_heads: int = 16
    intermediate_size: int = 10944  # of the dense first layers
    moe_intermediate_size: int = 1408  # of one expert
    n_routed_experts: int = 64
    n_shared_experts: int = 2  # one MLP of that many times moe_intermediate_size
    num_experts_per_tok: int = 6
    n_group: int = 1
    topk_group: int = 1
    first_k_dense_replace: int = 1  # leading layers with a dense MLP
    q_lora_rank: int | None = None  # None: queries are projected directly, as in Lite
    kv_lora_rank: int = 512
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    rope_theta: float = 10000.0
    rope_factor: float = 1.0  # YaRN: how many times rope_original_length; 1: no YaRN, the five below say nothing
    rope_original_length: int = 4096  # tokens that the frequencies were trained for
    rope_beta_fast: float = 32.0  # pairs that turn more often than this within the original length keep their frequency
    rope_beta_slow: float = 1.0  # pairs that turn less often are slowed down by rope_factor; YaRN's alpha
    rope_mscale: float = 0.707
    rope_mscale_all_dim: float = 0.707
    max_position_embeddings: int = 163840  # for the exported config.json; nothing here is cut by it
    rms_norm_eps: float = 1e-6
    routed_scaling_factor: float = 1.0
    scoring_func: str = "softmax"  # or "sigmoid", DeepSeek-V3's
    norm_topk_prob: bool = False  # True: the weights of a token's experts are divided by their sum
    group_score: str = "max"  # of a group's scores, V2; or "top2", the sum of its two best, V3
    bias_update_speed: float | None = None  # V3's balance without a loss: a bias per expert, moved this much per step
    aux_loss_alpha: float = 0.001  # of the sequence-wise balance over experts; V2 section 2.2.3, alpha 1
    device_loss_alpha: float = 0.0  # of the balance over groups of experts, alpha 2
    comm_loss_alpha: float = 0.0  # of the balance of what groups receive, alpha 3
    z_loss_alpha: float = 0.0  # of the mean squared logsumexp of the router's logits (ST-MoE, arXiv 2202.08906)
    balance_over: str = "sequence"  # or "document", with document_mask: what the balances are computed over
    capacity_factor: float | None = None  # of an even load of a group; what is above it is dropped (V2 section 2.2.4)
    initializer_range: float = 0.006  # the released configs say 0.02; training used 0.006 (V2 section 3.1.2)

    @property
    def alphas(self) -> tuple[float, ...]:
        """Weights of the four losses in the order of ops.gate: balance over experts, over groups, of what groups receive, z."""
        return tuple(getattr(self, name) for name in _ALPHAS)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in _CHOICES:
                _require(value in _CHOICES[field.name], field.name, value, " or ".join(_CHOICES[field.name]))
            elif field.name in _MAY_BE_ZERO or isinstance(value, bool):
                _require(value >= 0, field.name, value, "0 or more")
            elif value is not None:
                _require(value > 0, field.name, value, "more than 0")
        _require(self.qk_rope_head_dim % 2 == 0, "qk_rope_head_dim", self.qk_rope_head_dim, "an even number")
        _require(self.rope_factor >= 1, "rope_factor", self.rope_factor, "1 or more")
        _require(self.rope_beta_slow < self.rope_beta_fast, "rope_beta_slow", self.rope_beta_slow, "below rope_beta_fast")
        experts = self.n_routed_experts
        _require(experts % self.n_group == 0, "n_group", self.n_group, f"a divisor of n_routed_experts={experts}")
        _require(self.topk_group <= self.n_group, "topk_group", self.topk_group, f"at most n_group={self.n_group}")
        eligible = experts // self.n_group * self.topk_group
        _require(self.num_experts_per_tok <= eligible, "num_experts_per_tok", self.num_experts_per_tok, f"at most {eligible}")
        _require(experts <= MAX_EXPERTS, "n_routed_experts", experts, f"at most {MAX_EXPERTS}")
        _require(self.num_experts_per_tok <= MAX_K, "num_experts_per_tok", self.num_experts_per_tok, f"at most {MAX_K}")
        _require(self.rope_theta > 1, "rope_theta", self.rope_theta, "more than 1")
        self._check_groups()

    def _check_groups(self) -> None:
        """Settings that would do nothing: what is balanced between groups of experts, where there is one group."""
        for name in ("device_loss_alpha", "comm_loss_alpha"):
            alpha, without = getattr(self, name), "0 with n_group=1 (it balances groups of experts; n_group sets how many)"
            _require(alpha == 0 or self.n_group > 1, name, alpha, without)
        factor, most = self.capacity_factor, self.n_group
        without = f"below n_group={most}, as all of a sequence fits into a group with room for {most} even loads; or none"
        _require(factor is None or factor < most, "capacity_factor", factor, without)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How a run is spread over ranks: pp · dp · ep · tp of them. A step's batch is divided over the dp · ep data ranks.

    Parameters outside the experts are held alike by all dp · ep ranks of a stage; an expert by the dp ranks it belongs to.
    What is computed does not depend on any of it (up to rounding), so it is not part of the fingerprint.
    """

    dp: int = 1  # data ranks per share of the experts
    ep: int = 1  # shares of the experts; consecutive experts, so a group of the router lies on as few ranks as can be
    tp: int = 1  # shares of every head, MLP and expert
    pp: int = 1  # stages of consecutive layers
    sequence: bool = False  # between their shares, tensor ranks hold a share of the positions each instead of all
    zero1: bool = True  # data ranks share the optimizer's state instead of each keeping all of it
    fsdp: bool = False  # and the parameters and gradients, by torch's FSDP2
    micro_batch: int | None = None  # sequences a data rank computes at once; None: its share of the batch, over pp

    def __post_init__(self) -> None:
        for name in ("dp", "ep", "tp", "pp"):
            _require(getattr(self, name) > 0, f"layout.{name}", getattr(self, name), "1 or more")
        _require(self.micro_batch is None or self.micro_batch > 0, "layout.micro_batch", self.micro_batch, "1 or more, or none")

    @property
    def ranks(self) -> int:
        return self.pp * self.dp * self.ep * self.tp

    @property
    def data_ranks(self) -> int:
        return self.dp * self.ep

    def micro(self, batch: int) -> int:
        """Sequences of a micro-batch, of a step of `batch` sequences."""
        return self.micro_batch or max(1, batch // self.data_ranks // self.pp)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """One of several corpora that a run reads. Samples are drawn from them in proportion to their weights."""

    name: str  # in what is printed; the order of its documents hangs on it, not on what other sources there are
    data: Step | str  # as TrainConfig.data
    weight: float  # any positive numbers; they need not sum to 1

    def __post_init__(self) -> None:
        _require(0 < self.weight < math.inf, f"data.{self.name}.weight", self.weight, "a finite number above 0")
        _require(bool(_NAME.match(self.name)), "name of a source", repr(self.name), "letters, digits, - and _")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole run. Optimizer defaults are Coder-V2's (section 3.2): AdamW, cosine to a tenth."""

    name: str  # of the run's folder, with the fingerprint
    model: ModelConfig
    data: Step | str | tuple[Source, ...]  # a step that wrote token shards, a folder or prefix of .bin/.idx files, or a blend
    steps: int
    batch: int  # sequences per step
    batch_start: int | None = None  # of the first steps; from there it grows to `batch`. None: `batch` from the start
    batch_ramp: int = 0  # tokens over which it grows
    batch_multiple: int = 1  # sequences it grows by at a time
    seq_len: int  # tokens per sequence
    lr: float
    warmup: int = 2000
    schedule: str = "cosine"  # after warm-up: to min_lr_ratio; or "steps", see decay_at; or "constant"
    min_lr_ratio: float = 0.1  # of lr, at the end of the cosine
    decay_at: tuple[float, ...] = ()  # shares of the run's tokens after which the rate of "steps" is multiplied by decay_by
    decay_by: float = 0.316  # V2 section 3.1.2: the square root of a tenth
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1  # on matrices only
    clip: float = 1.0  # global gradient norm
    seed: int = 0
    init: str | None = None  # folder of a Hugging Face checkpoint to start from; None: fresh parameters, drawn by `seed`
    layout: Layout = Layout()
    # Of parameters and activations; master weights and moments are fp32 ("float64": all of it). With "bfloat16" masters begin
    # as the rounded parameters, with layout.fsdp as what was drawn or read.
    dtype: str = "float32"
    deterministic: bool = True  # False: faster attention on CUDA, and two runs differ in their last bits
    recompute: bool = False  # True: keep only each layer's input for the backward pass and compute the rest again
    document_mask: bool = False  # True: attention does not cross documents, nor does a label
    order: str = "keyed"  # "megatron": that of megatron-core's GPTDataset; another number of steps is then another order
    fim_rate: float = 0.0  # share of the documents transformed as they are read; 0 where encode_tokens has done it
    fim_spm_rate: float = 0.0  # share of those that has its suffix first (SPM); DeepSeek's have their prefix first (PSM)
    validation: float = 0.01  # share of the tokens held out, whole documents
    validation_sequences: int = 64  # at most this many of them are evaluated
    checkpoint_every: int = 100
    checkpoints_kept: int = 2
    spike: float | None = None  # nats above the mean loss of up to 64 steps that make a step bad; NaN and infinity always do
    on_spike: str = "stop"  # "skip": leave a bad step out; "roll_back": and all steps since the newest checkpoint
    tensorboard: bool = False  # True: also write RUN/tensorboard
    out: str | None = None  # None: ROOT/train/NAME-FINGERPRINT

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "seq_len", "lr", "eps", "clip", "checkpoint_every", "checkpoints_kept"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "more than 0")
        for name in ("warmup", "weight_decay", "seed", "validation_sequences"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("beta1", "beta2", "validation"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "from 0 to below 1")
        _require(0 <= self.min_lr_ratio <= 1, "min_lr_ratio", self.min_lr_ratio, "from 0 to 1")
        _require(self.warmup < self.steps, "warmup", self.warmup, f"below steps={self.steps}")
        self._check_schedule()
        _require(self.spike is None or self.spike > 0, "spike", self.spike, "more than 0, or none")
        choices = ("stop", "skip", "roll_back")
        _require(self.on_spike in choices, "on_spike", self.on_spike, ", ".join(choices))
        over, masked = self.model.balance_over, self.document_mask
        without = "sequence with document_mask=false (with document_mask=true documents are told apart)"
        _require(over == "sequence" or masked, "model.balance_over", over, without)
        _require(self.dtype in ("float32", "bfloat16", "float64"), "dtype", self.dtype, "float32, bfloat16 or float64")
        self._check_data()

    def _check_schedule(self) -> None:
        schedules = ("cosine", "steps", "constant")
        _require(self.schedule in schedules, "schedule", self.schedule, ", ".join(schedules))
        shares = (0.0, *self.decay_at, 1.0)
        rising = all(a < b for a, b in itertools.pairwise(shares))
        _require(rising, "decay_at", self.decay_at, "rising numbers between 0 and 1")
        fits = (len(self.decay_at) > 0) == (self.schedule == "steps")
        _require(fits, "decay_at", self.decay_at, "shares of the tokens with schedule=steps, and none with another schedule")
        _require(0 < self.decay_by < 1, "decay_by", self.decay_by, "between 0 and 1")
        start, multiple = self.batch_start, self.batch_multiple
        _require(multiple > 0, "batch_multiple", multiple, "1 or more")
        if start is None:
            _require(self.batch_ramp == 0, "batch_ramp", self.batch_ramp, "0 without a batch_start")
            return
        _require(0 < start < self.batch, "batch_start", start, f"1 or more and below batch={self.batch}")
        _require(self.batch_ramp > 0, "batch_ramp", self.batch_ramp, "1 token or more with a batch_start")
        growth = self.batch - start
        _require(growth % multiple == 0, "batch_multiple", multiple, f"a divisor of batch − batch_start = {growth}")

    @property
    def batches(self) -> range:
        """The sizes of batch that the run's steps may have, in order."""
        return range(self.batch if self.batch_start is None else self.batch_start, self.batch + 1, self.batch_multiple)

    def _check_data(self) -> None:
        _require(self.order in ("keyed", "megatron"), "order", self.order, "keyed or megatron")
        _require(0 <= self.fim_rate <= 1, "fim_rate", self.fim_rate, "from 0 to 1")
        most = "from 0 to 1" if self.fim_rate else "0 with fim_rate=0 (it is a share of what that transforms)"
        _require(0 <= self.fim_spm_rate <= (self.fim_rate > 0), "fim_spm_rate", self.fim_spm_rate, most)
        if self.order == "megatron":
            alone = "is the order of one GPTDataset: one source"
            _require(not isinstance(self.data, tuple), "order", self.order, f"{alone}; order=keyed for a blend")
            _require(
                self.fim_rate == 0, "fim_rate", self.fim_rate, "0 with order=megatron; order=keyed, or FIM in encode_tokens"
            )
            _require(self.seed < 1 << 32, "seed", self.seed, "below 2^32 with order=megatron")
        if isinstance(self.data, tuple):
            names = [source.name for source in self.data]
            _require(
                0 < len(set(names)) == len(names), "data", ", ".join(names), "sources with names of their own, one or more"
            )


def init_seen(config: TrainConfig) -> list[str]:
    """What a fingerprint sees of the checkpoint a run begins with, nothing where it begins with none.

    Its config, and of each file of weights name, size and a checksum of both ends: another training of the same model has the
    same names and sizes, and reading all of 30 GB to name a run would take a minute.
    """
    if config.init is None:
        return []
    folder = Path(config.init)
    if not (folder / "config.json").is_file():
        raise ConfigError(f"init={folder}: the folder of a Hugging Face checkpoint expected, with its config.json")
    files = sorted(folder.glob("*.safetensors"))
    seen = [_seen(path, (status := path.stat()).st_size, status.st_mtime_ns) for path in files]
    return [*seen, xxhash.xxh3_64_hexdigest((folder / "config.json").read_bytes())]


@functools.cache
def _seen(path: Path, size: int, mtime_ns: int) -> str:
    """Once in a process: a run is named several times as it begins."""
    return file_seen(path, _END)


def check_layout(config: TrainConfig) -> None:
    """ConfigError where the layout does not divide what it has to; says what would."""
    model, layout = config.model, config.layout
    for name, size, axis in (
        ("n_routed_experts", model.n_routed_experts, "ep"),
        ("num_attention_heads", model.num_attention_heads, "tp"),
        ("intermediate_size", model.intermediate_size, "tp"),
        ("moe_intermediate_size", model.moe_intermediate_size, "tp"),
        ("vocab_size", model.vocab_size or 64, "tp"),
    ):
        parts = getattr(layout, axis)
        fits = ", ".join(str(n) for n in range(1, size + 1) if size % n == 0)
        _require(size % parts == 0, f"layout.{axis}", parts, f"a divisor of model.{name}={size} ({fits})")
    if layout.sequence:
        _require(
            config.seq_len % layout.tp == 0, "layout.sequence", True, f"false, or tp a divisor of seq_len={config.seq_len}"
        )
    shared = f"false with dp={layout.dp}: ranks that hold the same parameters, dp of 2 or more, expected"
    _require(not layout.fsdp or layout.dp > 1, "layout.fsdp", layout.fsdp, shared)
    whole = f"false with pp={layout.pp}: torch's pipeline stages do not take its FSDP2 (zero1 goes with them); pp=1"
    _require(not layout.fsdp or layout.pp == 1, "layout.fsdp", layout.fsdp, whole)
    _require(layout.pp <= model.num_hidden_layers, "layout.pp", layout.pp, f"at most {model.num_hidden_layers} layers")
    ranks = layout.data_ranks
    for batch in config.batches:
        full = batch == config.batch
        name, where = ("batch", "") if full else ("a batch of the ramp", f", in the ramp's batch of {batch}")
        also = "" if full else "; batch_start and batch_multiple have to be multiples of it as well"
        _require(batch % ranks == 0, name, batch, f"a multiple of dp · ep = {ranks} data ranks{also}")
        local, micro = batch // ranks, layout.micro(batch)
        _require(local % micro == 0, "layout.micro_batch", micro, f"a divisor of the {local} sequences of a data rank{where}")
        count = local // micro
        _require(count >= layout.pp, "layout.pp", layout.pp, f"at most the {count} micro-batches of a data rank{where}")


def fingerprint(config: TrainConfig) -> str:
    """32 hexadecimal digits over everything that decides the parameters; of `init` what is in the folder."""
    fields = {
        field.name: canonical(field.default if field.name in _AS_DEFAULT else getattr(config, field.name), field.name)
        for field in dataclasses.fields(config)
        if field.name not in _NOT_IN_FINGERPRINT
    }
    fields["init_seen"] = init_seen(config)
    text = json.dumps([REVISION, fields], sort_keys=True, separators=(",", ":"))
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))


def run_folder(config: TrainConfig, root: Path) -> Path:
    if config.out is not None:
        return Path(config.out)
    return root / "train" / f"{config.name}-{fingerprint(config)[:12]}"
