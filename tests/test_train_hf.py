"""train/hf.py beside transformers: the same logits and gradients, and checkpoints that go there and back unchanged."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from corpus.errors import ConfigError, CorruptFile, InputError
from tests.test_train_loop import toy
from train import loop, weights
from train.config import ModelConfig, fingerprint
from train.hf import export_model, import_model, read_config, write_config
from train.model import Model, make_model
from train.moe import disk_views

TINY = ModelConfig(
    vocab_size=96,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=48,
    moe_intermediate_size=16,
    n_routed_experts=16,
    n_shared_experts=2,
    num_experts_per_tok=3,
    kv_lora_rank=16,
    qk_nope_head_dim=8,
    qk_rope_head_dim=16,
    v_head_dim=8,
    initializer_range=0.12,  # so that routes, norms and positions matter
)
LITE = dataclasses.replace(TINY, rope_factor=40.0, rope_original_length=32, rope_beta_fast=4.0)
V2 = dataclasses.replace(LITE, q_lora_rank=24, n_group=4, topk_group=2, routed_scaling_factor=16.0, num_experts_per_tok=4)
V25 = dataclasses.replace(V2, rope_mscale=1.0, rope_mscale_all_dim=1.0)
SIGMOID = {"scoring_func": "sigmoid", "group_score": "top2", "bias_update_speed": 0.001, "norm_topk_prob": True}
V3 = dataclasses.replace(V25, routed_scaling_factor=2.5, **SIGMOID)
CONFIGS = {"short": TINY, "lite": LITE, "v2": V2, "v2.5": V25, "v3": V3}


def theirs(folder: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def loss_of(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_and_gradients_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model = make_model(CONFIGS[name], seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # at 1 they would hide a norm that is left out
                parameter.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(len(parameter)))
        for bias in model.buffers():
            bias.uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(7))
    export_model(model, tmp_path / "hf", torch.float32)
    other = theirs(tmp_path / "hf")
    tokens = torch.randint(0, 96, (2, 70), generator=torch.Generator().manual_seed(1))
    ours, reference = model(tokens).logits_BSV, other(tokens).logits
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)
    loss_of(ours, tokens).backward()
    loss_of(reference, tokens).backward()
    mine = gradients(model)
    for key, gradient in split_experts(other).items():
        assert (mine[key] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-12, key
    assert mine.keys() == split_experts(other).keys()


def gradients(model: Model) -> dict[str, torch.Tensor]:
    return dict(disk_views({name: p.grad for name, p in model.named_parameters() if p.grad is not None}))


def split_experts(other: Any) -> dict[str, torch.Tensor]:
    """Gradients of transformers' model by the names of its files."""
    return dict(disk_views({name: p.grad for name, p in other.named_parameters()}))


@pytest.mark.parametrize("name", CONFIGS)
def test_there_and_back_is_identical(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    model = make_model(config, seed=5)
    export_model(model, tmp_path / "ours", torch.float32, shard_bytes=20_000)
    assert len(list((tmp_path / "ours").glob("model-*.safetensors"))) > 3
    theirs(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    for folder in ("ours", "theirs"):
        assert read_config(tmp_path / folder) == config
        back = make_model(config, seed=6)
        import_model(tmp_path / folder, back)
        for (key, a), (_, b) in zip(model.named_parameters(), back.named_parameters(), strict=True):
            assert torch.equal(a, b), key


def test_released_configs_are_understood(tmp_path: Path) -> None:
    """As DeepSeek wrote them in 2024: rope_scaling beside rope_theta, and groups that greedy does not use."""
    lite = {
        "model_type": "deepseek_v2", "vocab_size": 102400, "hidden_size": 2048, "num_hidden_layers": 27,
        "num_attention_heads": 16, "num_key_value_heads": 16,
        "intermediate_size": 10944, "moe_intermediate_size": 1408, "n_routed_experts": 64,
        "n_shared_experts": 2, "num_experts_per_tok": 6,
        "first_k_dense_replace": 1, "moe_layer_freq": 1, "q_lora_rank": None,
        "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "topk_method": "greedy",
        "n_group": 1, "topk_group": 1, "scoring_func": "softmax", "norm_topk_prob": False, "routed_scaling_factor": 1.0,
        "aux_loss_alpha": 0.001, "seq_aux": True, "rms_norm_eps": 1e-6, "rope_theta": 10000, "hidden_act": "silu",
        "attention_bias": False, "initializer_range": 0.02, "max_position_embeddings": 163840, "torch_dtype": "bfloat16",
        "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32,
                         "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(lite))
    assert read_config(tmp_path) == ModelConfig(vocab_size=102400, rope_factor=40, initializer_range=0.02)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'; 'deepseek_v2' or 'deepseek_v3' expected"),
        ({"scoring_func": "sigmoid"}, "scoring_func is 'sigmoid'"),
        ({"norm_topk_prob": True}, "norm_topk_prob is True"),
        ({"hidden_size": None}, "does not say hidden_size"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "scaled by 'llama3'"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "YaRN without factor"),
        ({"n_routed_experts": 15}, "n_group"),
    ],
)
def test_a_config_of_something_else_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**write_config(V2, torch.float32), **change}))
    with pytest.raises(ConfigError, match=said):
        read_config(tmp_path)


def test_broken_checkpoints_are_named(tmp_path: Path) -> None:
    model = make_model(TINY, seed=1)
    export_model(model, tmp_path / "whole", torch.float32, shard_bytes=20_000)
    with pytest.raises(ConfigError, match="is there already"):
        export_model(model, tmp_path / "whole", torch.float32)
    with pytest.raises(CorruptFile, match=r"has neither model\.safetensors\.index\.json nor"):
        shutil.copy(tmp_path / "whole" / "config.json", tmp_path)
        import_model(tmp_path, model)
    first = sorted(path.name for path in (tmp_path / "whole").glob("model-*"))[0]

    def copy(name: str) -> Path:
        return shutil.copytree(tmp_path / "whole", tmp_path / name)

    (copy("gone") / first).unlink()
    with pytest.raises(CorruptFile, match=f"{first} is missing"):
        import_model(tmp_path / "gone", model)
    data = (copy("short") / first).read_bytes()
    (tmp_path / "short" / first).write_bytes(data[:-100])
    with pytest.raises(CorruptFile, match=f"{first} cannot be read"):
        import_model(tmp_path / "short", model)
    with pytest.raises(ConfigError, match="num_experts_per_tok 3 there, 2 here, routed_scaling_factor"):
        other = dataclasses.replace(TINY, num_experts_per_tok=2, routed_scaling_factor=2.0, rope_factor=40.0)
        import_model(tmp_path / "whole", make_model(other, seed=1))
    for change, said in (
        ({"n_routed_experts": 24}, r"lacks \d+ tensors that config\.json asks for"),
        ({"num_hidden_layers": 2}, r"has \d+ tensors that config\.json does not know"),
        ({"vocab_size": 97}, r"\[96, 32\]; by config\.json \[97, 32\] expected"),
    ):
        wrong = dataclasses.replace(TINY, **change)
        folder = copy(next(iter(change)))
        (folder / "config.json").write_text(json.dumps(write_config(wrong, torch.float32)))
        with pytest.raises(CorruptFile, match=said):
            import_model(folder, make_model(wrong, seed=1))


@pytest.mark.parametrize("damage", ["empty", "cut in the header", "cut in the tensors", "another header"])
def test_a_broken_single_file_is_named_with_what_to_do(tmp_path: Path, damage: str) -> None:
    model = make_model(TINY, seed=1)
    export_model(model, tmp_path / "hf", torch.float32)
    file = tmp_path / "hf" / "model.safetensors"
    data = file.read_bytes()
    broken = {"empty": b"", "cut in the header": data[:100], "cut in the tensors": data[:-9], "another header": data[:8] * 9}
    file.write_bytes(broken[damage])
    with pytest.raises(CorruptFile, match=r"hf/model\.safetensors cannot be read.*Copy, download or export it again") as error:
        import_model(tmp_path / "hf", model)
    assert error.value.details["path"] == str(file)


def tokenizer_json(folder: Path, tokens: list[str], added: tuple[str, ...] = (), *, listed: bool = False) -> None:
    numbers = {token: i for i, token in enumerate(tokens)}
    vocab: Any = [[token, -1.0] for token in tokens] if listed else numbers
    more = [{"id": len(tokens) + i, "content": token, "special": True} for i, token in enumerate(added)]
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab, "merges": []}, "added_tokens": more}))


def test_a_checkpoint_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    config = toy(tmp_path, init=str(tmp_path / "hf"), out=str(tmp_path / "run"))
    hf, shards = tmp_path / "hf", tmp_path / "shards"
    export_model(make_model(dataclasses.replace(config.model, vocab_size=64), 3), hf, torch.float32)
    tokens = [f"t{i}" for i in range(60)]
    tokenizer_json(hf, tokens, ("end",))
    loop.open_run(config, tmp_path)  # nothing is known of what the shards were made with
    tokenizer_json(shards, [*tokens, "end"], listed=True)
    loop.open_run(config, tmp_path)  # the same ids, written another way
    swapped = [*tokens[:5], "other", *tokens[6:]]
    for theirs, ours, said in (
        (tokens, swapped, r"has 61 ids .* 61; 1 differ, as 5, which is 't5' there and 'other' here"),
        (tokens, [*tokens[:-1]], r"has 61 ids .* 60; 2 differ, as 59, which is 't59' there and 'end' here"),
        (tokens[:30], tokens, r"has 31 ids .* 61; 31 differ"),
    ):
        tokenizer_json(hf, theirs, ("end",))
        tokenizer_json(shards, ours, ("end",))
        with pytest.raises(ConfigError, match=said) as error:
            loop.train(config, tmp_path, say=lambda _: None)
        assert str(hf / "tokenizer.json") in str(error.value) and str(shards / "tokenizer.json") in str(error.value)
        assert f"encode_tokens.tokenizer={hf}" in str(error.value)
    (hf / "tokenizer.json").write_text("[]")
    with pytest.raises(CorruptFile, match=r"hf/tokenizer\.json is no tokenizer\.json"):
        loop.open_run(config, tmp_path)


def test_positions_that_differ_from_the_checkpoint_are_said(tmp_path: Path) -> None:
    config = toy(tmp_path, init=str(tmp_path / "hf"))

    def said(there: dict[str, float], here: dict[str, float]) -> str:
        for folder in ("hf", "run"):
            shutil.rmtree(tmp_path / folder, ignore_errors=True)
        model = dataclasses.replace(config.model, vocab_size=64)
        export_model(make_model(dataclasses.replace(model, **there), 3), tmp_path / "hf", torch.float32)
        lines: list[str] = []
        changed = dataclasses.replace(config, model=dataclasses.replace(config.model, **here), out=str(tmp_path / "run"))
        loop.train(changed, tmp_path, 1, lines.append)
        (line,) = (line for line in lines if line.startswith("start "))
        return line.partition(f"parameters of {tmp_path / 'hf'}")[2]

    assert said({}, {}) == ""
    assert said({}, {"rope_factor": 40.0}) == "; rope_factor 1.0 there, 40.0 here"
    yarn = {"rope_factor": 4.0, "rope_mscale": 1.0}
    assert said(yarn, {"rope_factor": 40.0}) == "; rope_factor 4.0 there, 40.0 here, rope_mscale 1.0 there, 0.707 here"
    assert said({}, {"rope_mscale": 1.0}) == ""  # without YaRN it says nothing


def test_a_run_exports_and_the_next_starts_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(1)
    first = toy(tmp_path / "run", steps=6, out=str(tmp_path / "first"))
    with pytest.raises(InputError, match="has no checkpoint; train first"):
        weights.export(first, tmp_path, tmp_path / "hf", torch.float32)
    done = loop.train(first, tmp_path, say=lambda _: None)
    weights.export(first, tmp_path, tmp_path / "hf", torch.float32)
    assert f"step 6 of {tmp_path / 'first'} is in {tmp_path / 'hf'}, as float32" in capsys.readouterr().out
    assert theirs(tmp_path / "hf").config.vocab_size == 64
    second = toy(tmp_path / "run", steps=6, out=str(tmp_path / "second"), init=str(tmp_path / "hf"), seed=9)
    run = loop.open_run(second, tmp_path)
    at = loop.open_run(first, tmp_path)
    for a, b in zip(run.model.parameters(), at.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert run.step == 0 and loop.validate(run) == done["validation_loss"]
    changed = toy(tmp_path / "run", steps=6, seed=9)
    named = fingerprint(second)
    assert named != fingerprint(changed)
    shutil.move(tmp_path / "hf", tmp_path / "moved")
    assert fingerprint(dataclasses.replace(second, init=str(tmp_path / "moved"))) == named
    file = tmp_path / "moved" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert fingerprint(dataclasses.replace(second, init=str(tmp_path / "moved"))) != named  # same name, size and config
    with pytest.raises(ConfigError, match=r"nowhere: the folder of a Hugging Face checkpoint expected"):
        loop.train(toy(tmp_path / "run", init=str(tmp_path / "nowhere")), tmp_path)
    with pytest.raises(ConfigError, match="n_group 1 there, 2 here"):
        grouped = dataclasses.replace(second.model, n_group=2, topk_group=1)
        loop.open_run(toy(tmp_path / "run", init=str(tmp_path / "moved"), model=grouped, out=str(tmp_path / "t")), tmp_path)
