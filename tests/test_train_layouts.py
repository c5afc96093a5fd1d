"""What is computed does not depend on the layout of ranks: loss, gradients, norm, weights, checkpoints; float64, gloo."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed._functional_collectives import all_reduce

from corpus.errors import ConfigError
from tests.layout_worker import config_of
from tests.test_train_data import write_shards
from train import loop
from train.config import Layout
from train.dead_ranks import is_broken_collective
from train.parallel import join

REPOSITORY = Path(__file__).resolve().parents[1]

MODEL = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "moe_intermediate_size": 12,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "q_lora_rank": 10,
    "kv_lora_rank": 6,
    "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "routed_scaling_factor": 2.5,
    "initializer_range": 0.2,
    "aux_loss_alpha": 0.03,
    "device_loss_alpha": 0.02,
    "comm_loss_alpha": 0.01,
    "z_loss_alpha": 0.003,
    "capacity_factor": 1.0,
}
CONFIG = {
    "name": "layouts",
    "steps": 5,
    "batch": 8,
    "seq_len": 12,
    "lr": 1e-2,
    "warmup": 2,
    "dtype": "float64",
    "clip": 0.5,  # below the norm, so that it acts
    "document_mask": True,
    "validation": 0.1,
    "validation_sequences": 11,  # not a multiple of anything
}


def free_ports(count: int) -> int:
    """A port below which and `count` above it nothing listens; a guess, since nobody can reserve one."""
    while True:
        start = random.randrange(20000, 32000)
        sockets = []
        try:
            for port in range(start, start + count):
                sockets.append(socket.create_server(("127.0.0.1", port)))
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()
        return start


def run_ranks(tmp_path: Path, world: int, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every case under its layout, one after another in the same `world` processes; what rank 0 left of each."""
    processes = start_ranks(tmp_path, world, cases)
    errors = [process.communicate(timeout=250)[1] for process in processes]
    assert all(process.returncode == 0 for process in processes), "\n".join(errors)[-6000:]
    return [torch.load(case["result"]) for case in cases]


def start_ranks(tmp_path: Path, world: int, cases: list[dict[str, Any]]) -> list[subprocess.Popen[str]]:
    file = Path(tempfile.mkdtemp(dir=tmp_path)) / "cases.json"
    for number, case in enumerate(cases):
        case["result"] = str(file.with_name(f"result-{number}.pt"))
    file.write_text(json.dumps(cases))
    port = free_ports(len(cases))
    processes = []
    for rank in range(world):
        environment = {
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "tests.layout_worker", str(file)]
        processes.append(subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True))
    return processes


def shards(tmp_path: Path) -> str:
    folder = tmp_path / "shards"
    if folder.exists():
        return str(folder)
    dice = random.Random(0)
    documents = [[dice.randrange(61) for _ in range(dice.randrange(5, 40))] for _ in range(120)]
    return str(write_shards(folder, documents, 61))


def case(tmp_path: Path, name: str, layout: dict[str, Any], **more: Any) -> dict[str, Any]:
    config = {**CONFIG, "data": shards(tmp_path), "model": {**MODEL, **more.pop("model", {})}, **more.pop("config", {})}
    return {"config": config, "layout": layout, "out": str(tmp_path / name), **more}


TWO = {
    "dp2": {"dp": 2},
    "dp2, no zero, accumulated": {"dp": 2, "zero1": False, "micro_batch": 1},
    "fsdp": {"dp": 2, "fsdp": True, "micro_batch": 2},
    "ep2": {"ep": 2},
    "tp2": {"tp": 2},
    "tp2, sequence": {"tp": 2, "sequence": True, "micro_batch": 4},
    "pp2": {"pp": 2, "micro_batch": 2},
}
FOUR = {
    "dp2 ep2": {"dp": 2, "ep": 2, "micro_batch": 1},
    "fsdp, ep2": {"dp": 2, "ep": 2, "fsdp": True},
    "fsdp, tp2": {"dp": 2, "tp": 2, "fsdp": True},
    "tp2 pp2, sequence": {"tp": 2, "pp": 2, "sequence": True},
}
MORE = {  # what else was seen to hold; minutes on two cores
    "ep2, no zero, accumulated": {"ep": 2, "zero1": False, "micro_batch": 2, "dp": 2},
    "tp2 ep2": {"tp": 2, "ep": 2},
    "pp2 ep2": {"pp": 2, "ep": 2, "micro_batch": 1},
    "pp4": {"pp": 4, "micro_batch": 1},
    "tp2 pp2": {"tp": 2, "pp": 2, "micro_batch": 4},
    "tp2 ep2, sequence": {"tp": 2, "ep": 2, "sequence": True, "micro_batch": 2},
}
RECOMPUTED = {"ep2", "tp2, sequence", "fsdp, ep2", "tp2 pp2, sequence"}  # whose collectives then run again in the backward pass
LAYOUTS = [(2, TWO), (4, FOUR), pytest.param(4, MORE, marks=pytest.mark.extra)]


def equal(seen: dict[str, Any], expected: dict[str, Any], what: str) -> None:
    for one, other in zip(seen["lines"], expected["lines"], strict=True):
        assert one.keys() == other.keys()
        for key in one.keys() - {"seconds", "tokens_per_second", "memory_gb"}:
            assert one[key] == pytest.approx(other[key], rel=1e-9), (what, key)
    assert seen["validation"] == pytest.approx(expected["validation"], rel=1e-9), what
    for kind in ("gradients", "weights"):
        assert seen[kind].keys() == expected[kind].keys(), what
        for name, tensor in seen[kind].items():
            scale = expected[kind][name].abs().max()
            worst = (tensor - expected[kind][name]).abs().max()
            assert worst <= 1e-9 * scale, (what, kind, name, float(worst), float(scale))


@pytest.mark.parametrize(("world", "layouts"), LAYOUTS, ids=["two", "four", "more"])
def test_layouts_compute_the_same(world: int, layouts: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    alone = [case(tmp_path, "one", {}), case(tmp_path, "parts", {"micro_batch": 2})]
    expected, accumulated = run_ranks(tmp_path, 1, alone)
    equal(accumulated, expected, "accumulated on one rank")
    cases = [case(tmp_path, name, layout, config={"recompute": name in RECOMPUTED}) for name, layout in layouts.items()]
    seen = run_ranks(tmp_path, world, cases)
    for (name, _), one in zip(layouts.items(), seen, strict=True):
        equal(one, expected, name)
    assert all(gradient.abs().max() > 0 for gradient in expected["gradients"].values())
    assert expected["lines"][0]["grad_norm"] > CONFIG["clip"]


def test_bfloat16_with_masters_computes_the_same_within_its_rounding(tmp_path: Path) -> None:
    """Parameters are not their masters here, so what is sharded, published and saved is another tensor than what is used."""
    half: dict[str, Any] = {"config": {"dtype": "bfloat16"}, "model": {"capacity_factor": None}}
    alone = run_ranks(tmp_path, 1, [case(tmp_path, "one", {}, **half), case(tmp_path, "exact", {}, model=half["model"])])
    layouts = {"dp2": {"dp": 2}, "fsdp": {"dp": 2, "fsdp": True}, "ep2": {"ep": 2}, "tp2": {"tp": 2}, "pp2": {"pp": 2}}
    seen = run_ranks(tmp_path, 2, [case(tmp_path, name, layout, **half) for name, layout in layouts.items()])
    for name, found in {"one": alone[0], **dict(zip(layouts, seen, strict=True))}.items():
        for one, other in zip(found["lines"], alone[1]["lines"], strict=True):
            assert one["loss"] == pytest.approx(other["loss"], rel=3e-2), (name, one["step"])
            if one["step"] <= 2:  # before roundings have sent tokens to other experts
                assert one["loss"] == pytest.approx(other["loss"], rel=3e-3), (name, one["step"])
                assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=6e-2), (name, one["step"])
    begun = case(tmp_path, "begun", {"dp": 2}, stop=3, save=True, **half)
    run_ranks(tmp_path, 2, [begun])
    shutil.copytree(tmp_path / "begun", tmp_path / "again")
    again = run_ranks(tmp_path, 2, [case(tmp_path, "again", {"dp": 2}, **half)])[0]
    assert again["start"] == 3
    assert [line["loss"] for line in again["lines"]] == [line["loss"] for line in seen[0]["lines"][3:]]
    assert all(torch.equal(tensor, seen[0]["weights"][name]) for name, tensor in again["weights"].items())
    other = run_ranks(tmp_path, 1, [case(tmp_path, "begun", {}, **half)])[0]  # and one rank goes on from what two saved
    assert other["start"] == 3
    assert [line["loss"] for line in other["lines"]] == pytest.approx([line["loss"] for line in seen[0]["lines"][3:]], rel=3e-2)


def test_a_checkpoint_serves_any_layout(tmp_path: Path) -> None:
    """Three steps under one layout, the rest under another, is the undisturbed run; under the same layout to the last bit."""
    first = {"dp": 2, "ep": 2}
    others = {"other": {"tp": 2, "pp": 2, "sequence": True}, "shared": {"dp": 4, "fsdp": True}, "same": first}
    router = {"scoring_func": "sigmoid", "group_score": "top2", "bias_update_speed": 0.01}  # has a bias to be kept, too
    begun = case(tmp_path, "begun", first, model=router, stop=3, save=True)
    _, whole = run_ranks(tmp_path, 4, [begun, case(tmp_path, "whole", first, model=router)])
    for name in others:
        shutil.copytree(tmp_path / "begun", tmp_path / name)
    seen = run_ranks(tmp_path, 4, [case(tmp_path, name, layout, model=router) for name, layout in others.items()])
    for name, one in zip(others, seen, strict=True):
        assert one["start"] == 3
        equal({**one, "gradients": {}}, {**whole, "lines": whole["lines"][3:], "gradients": {}}, name)
    same = seen[-1]
    assert [line["loss"] for line in same["lines"]] == [line["loss"] for line in whole["lines"][3:]]
    assert all(torch.equal(tensor, whole["weights"][name]) for name, tensor in same["weights"].items())


def test_a_file_that_one_rank_finds_damaged_is_passed_over_by_all(tmp_path: Path) -> None:
    """Only rank 1 reads what rank 1 wrote: were they not to agree, one would go on from step 3 and the other from step 2."""
    layout = {"dp": 2}
    run_ranks(tmp_path, 2, [case(tmp_path, "damaged", layout, stop=stop, save=True) for stop in (2, 3)])
    file = tmp_path / "damaged" / "checkpoints" / "step-00000003" / "__1_0.distcp"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    whole, seen = run_ranks(tmp_path, 2, [case(tmp_path, "whole", layout), case(tmp_path, "damaged", layout)])
    assert seen["start"] == 2
    assert [line["loss"] for line in seen["lines"]] == [line["loss"] for line in whole["lines"][2:]]


def test_a_rank_that_dies_is_named_by_the_others(tmp_path: Path) -> None:
    endless = case(tmp_path, "endless", {"dp": 2}, config={"steps": 100_000})
    processes = start_ranks(tmp_path, 2, [endless])
    deadline = time.monotonic() + 60
    log = Path(endless["result"]).with_suffix(".started")
    while not log.exists():
        assert time.monotonic() < deadline and processes[1].poll() is None
        time.sleep(0.05)
    processes[1].kill()
    error = processes[0].communicate(timeout=60)[1]
    assert processes[0].returncode == 1
    assert "TrainError: rank 1 ended without a word" in error.replace("corpus.errors.", "")


def test_a_broken_collective_is_told_from_a_bug() -> None:
    """Both are RuntimeErrors of torch: of gloo's file, wrapped by a pipeline stage, or raised by torch.distributed itself."""

    def seen(fails: Callable[[], object]) -> bool:
        try:
            fails()
        except (RuntimeError, ZeroDivisionError) as error:
            return is_broken_collective(error)
        raise AssertionError("no error")

    def wrapped(fails: Callable[[], object]) -> Callable[[], object]:
        def stage() -> None:
            try:
                fails()
            except RuntimeError as error:
                raise RuntimeError("stage 1 failed") from error

        return stage

    def gloo() -> None:
        raise RuntimeError(
            "[third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:27551: Connection reset by peer"
        )

    def store() -> None:
        raise torch.distributed.DistStoreError("wait timeout after 5 ms")

    def inside() -> None:
        all_reduce(torch.ones(1), "sum", "no group of this name")

    def shapes() -> object:
        return torch.nn.Linear(3, 2)(torch.ones(1, 5))

    assert all(map(seen, (gloo, wrapped(gloo), store, inside)))
    assert not any(map(seen, (shapes, wrapped(shapes), lambda: torch.ones(2, 3) @ torch.ones(2, 3), lambda: 1 / 0)))


@pytest.mark.parametrize("end", ["killed", "an error", "a bug", "told to stop"])
def test_torchrun_names_the_rank_that_ended(tmp_path: Path, end: str) -> None:
    """torchrun stops the ranks that are left with SIGTERM, as it does when it is stopped itself: only that is an interrupt."""
    begun = case(tmp_path, "ended", {}, config={**CONFIG, "steps": 100_000, "checkpoint_every": 100_000})
    (tmp_path / "ended_recipe.py").write_text(
        "import json, os, time\nimport torch\nfrom tests.layout_worker import config_of\nfrom corpus.errors import TrainError\n"
        "from train import loop\nseen = loop.run_step\n"
        "def run_step(run):\n"
        f"    if run.step == 3 and os.environ['RANK'] == '1' and {end == 'an error'}:\n"
        "        raise TrainError('out of luck')\n"
        f"    if run.step == 3 and os.environ['RANK'] == '1' and {end == 'a bug'}:\n"
        "        torch.ones(2, 3) @ torch.ones(2, 3)\n"  # a RuntimeError, as what a broken collective raises
        "    return seen(run)\n"
        "loop.run_step = run_step\n"
        f"def recipe():\n    open({str(tmp_path)!r} + '/pid-' + os.environ['RANK'], 'w').write(str(os.getpid()))\n"
        f"    return config_of(json.loads({json.dumps(json.dumps(begun))}))\n"
    )
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",  # then lines that are not written in one piece mingle
        "PYTHONPATH": f"{tmp_path}:{REPOSITORY}",
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.Popen(
        [*torchrun, "-m", "train", "ended_recipe", "--set", "layout.dp=2"],
        cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    log, deadline = tmp_path / "ended" / "train.jsonl", time.monotonic() + 100
    try:
        while len(read_log(log)) < 3:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        if end == "killed":
            os.kill(int((tmp_path / "pid-1").read_text()), signal.SIGKILL)
        elif end == "told to stop":
            process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    ours = [line for line in said.splitlines() if line.startswith(("error: ", "interrupted; "))]
    if end == "told to stop":
        assert len(ours) == 2 and all(line.startswith("interrupted; run again") for line in ours), said
        return
    how = {"killed": "without a word", "an error": "with TrainError: out of luck", "a bug": "with RuntimeError: mat1 and mat2"}
    assert any(line.startswith(f"error: rank 1 ended {how[end]}") for line in ours), said
    assert end != "a bug" or "Traceback" in said  # its author needs to see where
    assert not any(line.startswith("interrupted") for line in ours), said


def test_a_wrong_number_of_processes_says_what_to_run() -> None:
    with pytest.raises(ConfigError, match=r"6 ranks .* 1 processes .*torchrun --nproc-per-node 6 -m train"):
        with join(Layout(dp=3, tp=2)):
            pass


def test_a_run_killed_at_any_moment_goes_on_under_another_layout(tmp_path: Path) -> None:
    """torchrun and all its ranks killed; then one process finishes what two began."""
    config = {**CONFIG, "steps": 40, "checkpoint_every": 4, "validation_sequences": 4}
    # No capacity here: equal first words of two documents tie for the last place, and rounding then decides who is dropped.
    begun = case(tmp_path, "killed", {}, config=config, model={"capacity_factor": None})
    (tmp_path / "killed_recipe.py").write_text(
        "import json\nfrom tests.layout_worker import config_of\n"
        f"def recipe():\n    return config_of(json.loads({json.dumps(json.dumps(begun))}))\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}:{REPOSITORY}",
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    log = tmp_path / "killed" / "train.jsonl"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.Popen(
        [*torchrun, "-m", "train", "killed_recipe", "--set", "layout.dp=2"],
        cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    until, deadline = random.randrange(2, 20), time.monotonic() + 100
    while len(read_log(log)) < until:
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    kill_orphans("killed_recipe")
    process.communicate()
    done = subprocess.run(
        [sys.executable, "-m", "train", "killed_recipe"], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    whole = loop.train(config_of({**begun, "out": str(tmp_path / "whole")}), tmp_path, say=lambda text: None)
    seen, expected = read_log(log), read_log(tmp_path / "whole" / "train.jsonl")
    assert [line["step"] for line in seen] == list(range(1, 41)) and whole is not None
    for one, other in zip(seen, expected, strict=True):
        for key in ("loss", "grad_norm", "balance", "validation_loss"):
            assert one.get(key) == (other.get(key) and pytest.approx(other[key], rel=1e-8)), (one["step"], key)


def read_log(path: Path) -> list[dict[str, Any]]:
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def kill_orphans(word: str) -> None:
    """Ranks are sessions of their own under torchrun: kill what still names the recipe, and wait until it is gone."""
    while True:
        left = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if word.encode() in (entry / "cmdline").read_bytes() and (entry / "stat").read_text().split()[2] != "Z":
                    left.append(int(entry.name))
            except OSError:
                continue
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.01)
