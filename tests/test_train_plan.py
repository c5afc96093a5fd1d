"""python -m train plan: what it prints is what the parts say, and what it refuses."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from tests.test_train_cost import LITE, V2, run_of
from tests.test_train_data import write_shards
from train.config import Layout
from train.cost import memory, operations_per_token
from train.plan import main, plan_lines


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def test_the_plan_of_the_large_model(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "recipes.moe_236b", "--devices", "2048", "--mfu", "0.5")
    assert "parameters  235,741,434,880; a token meets 21,375,800,320, 20,851,512,320 without the embedding" in text
    assert "158,946 steps of 9,216 × 4,096 tokens: 6,000,010,592,256" in text
    operations = sum(operations_per_token(V2, 4096).values())
    assert f"{operations:.3e} a token" in text
    days = operations * 6_000_010_592_256 / (2048 * 989e12 * 0.5) / 86400
    assert f"{days:,.1f} days on 2,048 × H100 at 50%" in text
    assert "pp=16 · dp=8 · ep=8 · tp=1 = 1,024 ranks, ZeRO-1; bfloat16, recompute; 144 micro-batches of 1" in text
    assert "the fullest stage, 16 of 16 (layers 56 to 59)" in text and "fits" in text


def test_parts_add_up_and_the_fullest_stage_is_shown() -> None:
    config = run_of(LITE, dtype="bfloat16", batch=64, seq_len=4096, layout=Layout(pp=4, ep=2, micro_batch=2))
    lines = list(plan_lines(config, "H100", 8, 0.3))
    begin = next(n for n, line in enumerate(lines) if line.startswith("memory"))
    sizes = [float(re.search(r"\d+\.\d+", line)[0]) for line in lines[begin + 1 :]]  # type: ignore[index]
    assert sum(sizes[:-1]) == pytest.approx(sizes[-1], abs=0.04)
    assert sizes[-1] == pytest.approx(max(memory(config, stage).total for stage in range(4)) / 1e9, abs=0.01)
    counts = [int(line.split()[-1].replace(",", "")) for line in lines[1:9] if "of which" not in line]
    assert sum(counts) + 26 * 64 * 3 * 2048 * 1408 == 15_706_484_224


def test_how_ranks_share_is_said() -> None:
    for layout, says in (
        (Layout(dp=2, tp=2, sequence=True), "tp=2 = 4 ranks, positions shared, ZeRO-1; float32; 1 micro-batches of 2"),
        (Layout(dp=2, fsdp=True), "tp=1 = 2 ranks, FSDP; float32"),
        (Layout(dp=2, zero1=False), "tp=1 = 2 ranks; float32"),
        (Layout(pp=2, micro_batch=2), "2 micro-batches of 2 a step on each of 1 data ranks, 1F1B idle 33.3%"),
    ):
        assert any(says in line for line in plan_lines(run_of(LITE, layout=layout), "H100", 4, 0.5)), says


def test_what_does_not_fit_is_said() -> None:
    config = run_of(V2, dtype="bfloat16", batch=64, layout=Layout(ep=8))
    assert any("DOES NOT FIT" in line for line in plan_lines(config, "H100", 8, 0.3))


def test_a_ramp_and_decays_are_shown() -> None:
    config = run_of(
        LITE, steps=100, batch=8, batch_start=4, batch_ramp=900, batch_multiple=2, schedule="steps", decay_at=(0.5,)
    )
    text = "\n".join(plan_lines(config, "A100", 1, 0.3))
    assert "100 steps of 4 growing to 8 × 32 tokens" in text and "times 0.316 at 50% of the tokens" in text


def test_the_vocabulary_comes_from_the_recipe_or_the_shards(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["recipes.moe_tiny", "--root", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "model.vocab_size is left to the shards, and they are not there" in said and "--set model.vocab_size=102400" in said
    assert "embedding                 128,000" in printed(capsys, "recipes.moe_tiny", "--set", "model.vocab_size=1000")
    write_shards(tmp_path / "shards", [[1, 2, 3]], 61)
    recipe = tmp_path / "folder_toy.py"
    recipe.write_text(
        "import dataclasses\nfrom recipes import moe_tiny\ndef recipe():\n"
        f"    return dataclasses.replace(moe_tiny.recipe(), data={str(tmp_path / 'shards')!r})\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        assert f"embedding{64 * 128:>24,}" in printed(capsys, "folder_toy")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--mfu", "0"), "--mfu 0.0: above 0 and at most 1 expected"),
        (("--devices", "0"), "--devices 0: 1 or more expected"),
        (("--set", "layout.ep=3"), "layout.ep=3: a divisor of model.n_routed_experts=64"),
        (("--set", "layout.pp=28"), "layout.pp=28: at most 27 layers"),
        (("--set", "layout.dp=7"), "batch=4608: a multiple of dp · ep = 56 data ranks"),
    ],
)
def test_what_cannot_be_is_refused(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str) -> None:
    assert main(["recipes.moe_16b", *arguments]) == 1
    assert says in capsys.readouterr().err


def test_a_root_that_is_a_url_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes.moe_tiny", "--root", "s3://bucket/x"]) == 1
    assert "--root s3://bucket/x: token shards are memory-mapped, a local folder" in capsys.readouterr().err


def test_nothing_is_allocated() -> None:
    """A model of 2 · 10^15 parameters is planned as quickly as any."""
    huge = dataclasses.replace(V2, hidden_size=1 << 19, intermediate_size=1 << 20, moe_intermediate_size=1 << 17)
    assert any("DOES NOT FIT" in line for line in plan_lines(run_of(huge, dtype="bfloat16"), "H100", 1, 0.5))
