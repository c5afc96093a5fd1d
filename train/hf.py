"""Hugging Face checkpoints of DeepSeek-V2's kind, and V3's: import, streamed shard by shard, and export at any step.

    FOLDER/config.json                          shape of the model; read_config, write_config
    FOLDER/model.safetensors                    or model-00001-of-00004.safetensors … and model.safetensors.index.json
    FOLDER/tokenizer.json, …                    carried along by export_model where it is told where they are

Tensors have the same names and shapes here and there (disk_views in moe.py takes the experts apart), so nothing is transposed
or renamed. A config that asks for what this model does not do is refused, field by field, rather than read as something else.

transformers writes `rope_parameters` and `dtype` since version 5; the released code of DeepSeek-V2, vLLM and transformers 4
read `rope_scaling`, `rope_theta` and `torch_dtype`. write_config says both.

The router decides which of the two kinds a model is: softmax scores and groups by their best expert are V2's, sigmoid scores
with a bias and groups by their two best are V3's. There is no file format for other combinations.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from corpus.errors import ConfigError, CorruptFile
from train.config import ModelConfig
from train.model import Model, local_part
from train.moe import disk_views

__all__ = ["check_tokenizer", "export_model", "import_model", "positions_differ", "read_config", "write_config"]

_SHARD_BYTES = 5_000_000_000
_AGAIN = "Copy, download or export it again."
_INDEX = "model.safetensors.index.json"

# Fields of theirs that must say this; a field that is not there says it.
_ONLY: dict[str, tuple[Any, ...]] = {
    "moe_layer_freq": (1,),
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "tie_word_embeddings": (False,),
    "attention_dropout": (0.0, 0),
}
_V2 = {"scoring_func": ("softmax",), "norm_topk_prob": (False,), "topk_method": ("greedy", "group_limited_greedy")}
_V3 = {"scoring_func": ("sigmoid",), "norm_topk_prob": (True, False), "topk_method": ("noaux_tc",), "rope_interleave": (True,)}
_KINDS: dict[str, dict[str, tuple[Any, ...]]] = {"deepseek_v2": _V2, "deepseek_v3": _V3}
_BIAS_SPEED = 0.001  # V3 section 4.2; no config.json says it
# How a model is trained, which no config.json says.
_TRAINING = ("device_loss_alpha", "comm_loss_alpha", "z_loss_alpha", "balance_over", "capacity_factor")
# Of a checkpoint and the model it starts: these change no weight's shape or meaning.
_MAY_DIFFER = ("aux_loss_alpha", "bias_update_speed", "initializer_range", "max_position_embeddings", "rope_factor",
               "rope_original_length", "rope_beta_fast", "rope_beta_slow", "rope_mscale", "rope_mscale_all_dim",
               *_TRAINING)  # fmt: skip
_ROPE = {
    "rope_factor": "factor",
    "rope_original_length": "original_max_position_embeddings",
    "rope_beta_fast": "beta_fast",
    "rope_beta_slow": "beta_slow",
    "rope_mscale": "mscale",
    "rope_mscale_all_dim": "mscale_all_dim",
}
# What transformers takes these for where a file does not say; of the rest every field is required.
_ABSENT: dict[str, Any] = {
    "q_lora_rank": None,
    "n_group": 1,
    "topk_group": 1,
    "aux_loss_alpha": 0.001,
    "initializer_range": 0.02,
}


def read_config(folder: Path) -> ModelConfig:
    """config.json as a ModelConfig. ConfigError names what is missing or not supported."""
    path = folder / "config.json"
    try:
        said = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{folder} has no config.json; the folder of a Hugging Face checkpoint expected") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    kind: Any = said.get("model_type") if isinstance(said, dict) else type(said).__name__
    if kind not in _KINDS:
        raise ConfigError(f"{path}: model_type is {kind!r}; 'deepseek_v2' or 'deepseek_v3' expected")
    for name, fine in (_ONLY | _KINDS[kind]).items():
        if said.get(name, fine[0]) not in fine:
            raise ConfigError(f"{path}: {name} is {said[name]!r}, which this trainer does not do; {fine[0]!r} expected")
    if kind == "deepseek_v2" and said.get("topk_method", "greedy") == "greedy":  # then groups, if there are any, are not used
        said = {**said, "n_group": 1, "topk_group": 1}
    fields = _rope(said, path)
    if kind == "deepseek_v3":
        fields |= {"scoring_func": "sigmoid", "group_score": "top2", "bias_update_speed": _BIAS_SPEED}
        fields["norm_topk_prob"] = said.get("norm_topk_prob", True)
    else:
        fields |= {"scoring_func": "softmax", "group_score": "max", "bias_update_speed": None, "norm_topk_prob": False}
    for field in dataclasses.fields(ModelConfig):
        if field.name in fields or field.name in _TRAINING:
            continue
        value = said.get(field.name)
        if value is None:
            if field.name not in _ABSENT:
                raise ConfigError(f"{path} does not say {field.name}")
            value = _ABSENT[field.name]
        fields[field.name] = value
    if fields["q_lora_rank"] == 0:  # how DeepSeek's own inference code says "none"
        fields["q_lora_rank"] = None
    return ModelConfig(**fields)


def _rope(said: dict[str, Any], path: Path) -> dict[str, Any]:
    """The rotary fields of a ModelConfig, from either way of saying them."""
    given = said.get("rope_parameters") or said.get("rope_scaling") or {}
    theta = given.get("rope_theta", said.get("rope_theta", 10000.0))
    kind = given.get("rope_type", given.get("type", "default"))
    if kind == "default":
        return {"rope_theta": theta, **{ours: f.default for f in dataclasses.fields(ModelConfig) if (ours := f.name) in _ROPE}}
    if kind != "yarn":
        raise ConfigError(f"{path}: positions are scaled by {kind!r}; 'yarn' or none expected")
    unknown = given.keys() - {*_ROPE.values(), "rope_type", "type", "rope_theta", "partial_rotary_factor"}
    if unknown:
        raise ConfigError(f"{path}: YaRN with {', '.join(sorted(unknown))}, which this trainer does not do")
    defaults = {"beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 0.0}  # the released code's
    missing = [theirs for theirs in _ROPE.values() if theirs not in given and theirs not in defaults]
    if missing:
        raise ConfigError(f"{path}: YaRN without {', '.join(missing)}")
    return {"rope_theta": theta, **{ours: given.get(theirs, defaults.get(theirs)) for ours, theirs in _ROPE.items()}}


def write_config(config: ModelConfig, dtype: torch.dtype, **more: Any) -> dict[str, Any]:
    """config.json of `config`, as old and new readers want it. more: bos_token_id and so on."""
    v3 = config.scoring_func == "sigmoid"
    as_v2 = config.group_score == "max" and config.bias_update_speed is None and not config.norm_topk_prob
    if not (config.group_score == "top2" and config.bias_update_speed is not None if v3 else as_v2):
        raise ConfigError(
            "no file format is for this router: scoring_func=softmax with group_score=max, without bias_update_speed and "
            "norm_topk_prob, is DeepSeek-V2's, scoring_func=sigmoid with group_score=top2 and bias_update_speed is V3's"
        )
    name = str(dtype).removeprefix("torch.")
    ours = (*_ROPE, *_TRAINING, "group_score", "bias_update_speed")
    v2_method = "group_limited_greedy" if config.n_group > 1 else "greedy"
    said: dict[str, Any] = {
        "architectures": ["DeepseekV3ForCausalLM" if v3 else "DeepseekV2ForCausalLM"],
        "model_type": "deepseek_v3" if v3 else "deepseek_v2",
        **{f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in ours},
        **{key: fine[0] for key, fine in _ONLY.items()},
        "topk_method": "noaux_tc" if v3 else v2_method,
        "num_key_value_heads": config.num_attention_heads,
        "ep_size": 1,
        "seq_aux": True,
        "use_cache": True,
        "dtype": name,
        "torch_dtype": name,
    }
    scaling = {theirs: getattr(config, ours) for ours, theirs in _ROPE.items()}
    if config.rope_factor > 1:
        said["rope_scaling"] = {"type": "yarn", "rope_type": "yarn", **scaling}
        said["rope_parameters"] = {"rope_type": "yarn", "rope_theta": config.rope_theta, **scaling}
    else:
        said["rope_scaling"] = None
        said["rope_parameters"] = {"rope_type": "default", "rope_theta": config.rope_theta}
    return {**said, **more}


def import_model(folder: Path, model: Model) -> None:
    """Fill this rank's part of `model`, made for read_config(folder), in place, a tensor at a time; rounded to its dtype.

    The model may differ in how it is trained and how far its positions reach, as when a context is extended. ConfigError
    names any other field that differs; CorruptFile where a shard is missing or broken, or does not hold what the config says.
    """
    saved, asked = read_config(folder), model.config
    differ = [f.name for f in dataclasses.fields(saved) if getattr(saved, f.name) != getattr(asked, f.name)]
    if differ := [name for name in differ if name not in _MAY_DIFFER]:
        said = ", ".join(f"{name} {getattr(saved, name)} there, {getattr(asked, name)} here" for name in differ)
        raise ConfigError(f"{folder} is of another model: {said}")
    wanted = _tensors(model)
    with torch.device("meta"):
        everything = _tensors(Model(asked))  # this rank fills its part, but the checkpoint has to be whole
    for path, names in _shards(folder, everything).items():
        try:
            with safe_open(path, "pt") as file:
                for name in names:
                    if name in wanted:
                        _fill(wanted[name], local_part(name, file.get_tensor(name), model.ranks), name, path)
        except FileNotFoundError as error:
            raise CorruptFile(
                f"{path} is missing; {folder / _INDEX} says {names[0]} is in it. {_AGAIN}", path=str(path)
            ) from error
        except (SafetensorError, OSError) as error:
            raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> CorruptFile:
    return CorruptFile(f"{path} cannot be read, as a file cut short cannot: {error}. {_AGAIN}", path=str(path))


def positions_differ(saved: ModelConfig, asked: ModelConfig) -> str:
    """The rotary fields in which a checkpoint and the model it starts differ, with both values; "" where they do not.

    A context is extended that way on purpose, and lost that way by mistake. Without YaRN only rope_factor says anything.
    """
    yarn = min(saved.rope_factor, asked.rope_factor) > 1
    differ = [name for name in _ROPE if (yarn or name == "rope_factor") and getattr(saved, name) != getattr(asked, name)]
    return ", ".join(f"{name} {getattr(saved, name)} there, {getattr(asked, name)} here" for name in differ)


def check_tokenizer(folder: Path, ours: Path) -> None:
    """ConfigError where the tokenizer.json of a checkpoint and the one that shards were made with give ids other meanings.

    Where either is not there nothing can be said.
    """
    theirs = folder / "tokenizer.json"
    if not theirs.exists() or not ours.exists():
        return
    there, here = _vocabulary(theirs), _vocabulary(ours)
    differ = sorted(i for i in there.keys() | here.keys() if there.get(i) != here.get(i))
    if differ:
        first, seen = differ[0], [f"{of[differ[0]]!r}" if differ[0] in of else "nothing" for of in (there, here)]
        raise ConfigError(
            f"init: {theirs} has {len(there):,} ids and {ours}, which the shards were made with, {len(here):,}; "
            f"{len(differ):,} differ, as {first}, which is {seen[0]} there and {seen[1]} here. The model would read other text "
            f"than was encoded. Encode with encode_tokens.tokenizer={theirs}, or, where the difference is meant, move that "
            "file away."
        )


def _vocabulary(path: Path) -> dict[int, str]:
    """What each id of a tokenizer.json is written as, added tokens as well."""
    try:
        said = json.loads(path.read_text("utf-8"))
        listed = said["model"]["vocab"]  # an object, or, of Unigram, a list of [token, score]
        known = dict(enumerate(pair[0] for pair in listed)) if isinstance(listed, list) else {i: t for t, i in listed.items()}
        return known | {token["id"]: token["content"] for token in said.get("added_tokens") or ()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CorruptFile(f"{path} is no tokenizer.json: {type(error).__name__} {error}. {_AGAIN}", path=str(path)) from error


def _fill(tensor: Tensor, value: Tensor, name: str, path: Path) -> None:
    if value.shape != tensor.shape:
        seen, expected = list(value.shape), list(tensor.shape)
        raise CorruptFile(f"{path}: {name} is {seen}; by config.json {expected} expected", path=str(path))
    tensor.copy_(value)


def _tensors(model: Model) -> dict[str, Tensor]:
    """Views of the parameters, and of routers' biases, by their names on disk."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return dict(disk_views(parameters, model.ranks)) | dict(model.named_buffers())


def _shards(folder: Path, wanted: dict[str, Tensor]) -> dict[Path, list[str]]:
    """The names to read, by file; all of `wanted`, and there is nothing else."""
    whole = folder / "model.safetensors"
    index = folder / _INDEX
    if index.exists():
        try:
            where = dict(json.loads(index.read_text("utf-8"))["weight_map"])
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptFile(f"{index} is no index of safetensors files: {error}", path=str(index)) from error
    elif whole.exists():
        try:
            with safe_open(whole, "pt") as file:
                where = dict.fromkeys(file.keys(), whole.name)
        except (SafetensorError, OSError) as error:
            raise _unreadable(whole, error) from error
    else:
        raise CorruptFile(f"{folder} has neither {_INDEX} nor {whole.name}", path=str(folder))
    if missing := sorted(wanted.keys() - where.keys()):
        raise CorruptFile(f"{folder} lacks {len(missing)} tensors that config.json asks for, as {missing[0]}", path=str(folder))
    if extra := sorted(where.keys() - wanted.keys()):
        raise CorruptFile(f"{folder} has {len(extra)} tensors that config.json does not know, as {extra[0]}", path=str(folder))
    found: dict[Path, list[str]] = {}
    for name, file_name in where.items():
        found.setdefault(folder / file_name, []).append(name)
    return found


def export_model(
    model: Model,
    folder: Path,
    dtype: torch.dtype,
    *,
    carry: tuple[Path, ...] = (),
    eos: str | None = None,
    shard_bytes: int = _SHARD_BYTES,
    **more: Any,
) -> None:
    """A new folder that transformers, vLLM and import_model load. carry: files to copy beside it, as tokenizer.json.

    eos: the end-of-text token, for tokenizer_config.json; lm-evaluation-harness finds no token to begin a text with otherwise.
    It begins texts as well, since what stands before a document in training is the end of another.
    shard_bytes: of a file, at most, but for a tensor that is larger. more: fields of config.json.
    """
    if folder.exists():
        raise ConfigError(f"{folder} is there already; a folder that is not expected")
    temporary = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    plan = _split(_tensors(model), dtype, shard_bytes)
    sizes: dict[str, str] = {}
    total = 0
    for i, names in enumerate(plan, 1):
        file_name = "model.safetensors" if len(plan) == 1 else f"model-{i:05d}-of-{len(plan):05d}.safetensors"
        tensors = {name: tensor.to(_dtype(name, dtype)).contiguous() for name, tensor in names.items()}
        save_file(tensors, temporary / file_name, metadata={"format": "pt"})  # transformers refuses a file that says no format
        sizes |= dict.fromkeys(tensors, file_name)
        total += sum(tensor.nbytes for tensor in tensors.values())
    if len(plan) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": sizes}
        (temporary / _INDEX).write_text(json.dumps(index, indent=1), "utf-8")
    config = json.dumps(write_config(model.config, dtype, **more), indent=1)
    (temporary / "config.json").write_text(config + "\n", "utf-8")
    if eos is not None:
        about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos, "bos_token": eos, "add_bos_token": False}
        (temporary / "tokenizer_config.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")
    for file in carry:
        shutil.copy(file, temporary / file.name)
    os.replace(temporary, folder)


def _dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if name.endswith("e_score_correction_bias") else dtype  # a step of it is lost in bf16


def _split(tensors: dict[str, Tensor], dtype: torch.dtype, most: int) -> list[dict[str, Tensor]]:
    """Tensors in order, cut into files."""
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        bytes_ = tensor.numel() * dtype.itemsize
        if parts[-1] and size + bytes_ > most:
            parts.append({})
            size = 0
        parts[-1][name] = tensor
        size += bytes_
    return parts
