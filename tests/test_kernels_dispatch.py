"""Who computes: what was compiled, where it can run and agrees, and otherwise plain torch; it is said which."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kernels import check, registered
from kernels.native import KernelError, Library, Router
from tests.implementations import implementation

RIGHT = check.TOLERANCE[torch.float32]


def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, with nothing put in the dispatcher's place."""
    own = {name: value for name, value in os.environ.items() if name != "CORPUS_KERNELS"} | environment
    return subprocess.run([sys.executable, "-c", code, *arguments], env=own, capture_output=True, text=True, timeout=300)


LAYER = """
import torch
from kernels import ops, registered
{before}
def routed(logits, x):
    experts, weights, losses = ops.gate(logits, k=2, devices=4)
    experts, weights = ops.drop(experts, weights, experts=16, devices=4, capacity_factor=1.0, sequences=1)
    offs, pos, src = ops.route(experts, 16)
    return ops.combine(ops.permute(x, pos, src, offs), weights, pos, src, offs).sum() + losses.sum()

torch.manual_seed(1)
leaves = [torch.randn(12, width, requires_grad=True) for width in (16, 8)]
traced = torch.compile(routed, fullgraph=True, backend="aot_eager")(*leaves)
plain = routed(*leaves)
torch.testing.assert_close(traced, plain)
for one, other in zip(torch.autograd.grad(traced, leaves), torch.autograd.grad(plain, leaves), strict=True):
    torch.testing.assert_close(one, other)
print(ops._compiled("cpu"), registered.library("cpu").path.name)
"""


def test_the_first_call_may_be_a_traced_one() -> None:
    twin = implementation("twin")
    assert twin is not None
    done = run(LAYER.format(before=""))
    assert done.stdout.split() == ["True", twin.path.name], done.stderr
    assert done.stderr.count("kernels: ") == 1 and f"kernels: {twin.path.name} computes on this CPU" in done.stderr


def test_tracing_may_ask_whether_the_kernels_agree() -> None:
    """As on a GPU, where kernels.check runs at the first call, wherever that lies."""
    implementation("twin")
    before = """
from kernels import check
find = registered.library.__wrapped__
found = {}
def library(device):
    if device not in found:
        found[device] = find(device)
        assert check.disagreements(found[device], device) == []
    return found[device]
registered.library = library
"""
    done = run(LAYER.format(before=before))
    assert done.stdout.startswith("True"), done.stderr


@pytest.mark.parametrize(
    "around", ["torch.no_grad()", "torch.inference_mode()", 'torch.autocast("cpu", torch.bfloat16)', 'torch.device("meta")']
)
def test_the_check_does_not_care_where_it_is_called(around: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "TOLERANCE", {torch.float32: RIGHT})
    twin = implementation("twin")
    assert twin is not None
    with eval(around):
        assert check.disagreements(twin, "cpu") == []


class Stub(Library):
    """A library whose kernels end with an error of the device."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def gate(self, *_: object) -> tuple[torch.Tensor, ...]:
        raise KernelError("gate_forward ended with CUDA error 209")


@pytest.fixture
def on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cuda-some.so"
    path.touch()
    monkeypatch.setattr(registered, "built", lambda device: path)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "GeForce 256")
    return path


def test_a_library_that_cannot_run_there_is_not_used(
    on_a_gpu: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registered, "Library", Stub)
    monkeypatch.setattr(registered, "disagreements", lambda library, _: check.disagreements(library, "cpu"))
    assert registered.library.__wrapped__("cuda") is None
    said = capsys.readouterr().err
    assert (
        "not used" in said
        and "GeForce 256" in said
        and "30 experts: KernelError: gate_forward ended with CUDA error 209" in said
    )


def test_a_library_that_cannot_be_loaded_is_not_used(on_a_gpu: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for device in ("cuda", "cpu"):
        assert registered.library.__wrapped__(device) is None
        said = capsys.readouterr().err
        assert "not used" in said and "OSError: " in said and on_a_gpu.name in said


def test_a_library_of_another_interface_is_not_used(
    on_a_gpu: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import ctypes

    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert registered.library.__wrapped__("cuda") is None
    assert "has no moe_version, moe_gate_scratch" in capsys.readouterr().err


def test_one_that_refuses_what_it_has_to_serve_disagrees() -> None:
    class Refuses(Stub):
        def gate(self, *_: object) -> tuple[torch.Tensor, ...]:
            raise ValueError("gate_forward: shapes that the kernels do not serve")

    assert check.disagreements(Refuses(Path("x")), "cpu") == [
        "30 experts: ValueError: gate_forward: shapes that the kernels do not serve"
    ]


def test_the_choice_is_said_once(tmp_path: Path) -> None:
    code = (
        "import sys; from kernels import build\n"
        "if sys.argv[1:]: build.BUILT = build.Path(sys.argv[1])\n"
        "import torch; from kernels import ops\n"
        "for _ in range(3): ops.gate(torch.zeros(3, 8), k=2)"
    )
    missing = "kernels: no compiled twin for this CPU; plain torch computes the same. `make kernels` builds it"
    assert run(code, str(tmp_path)).stderr.strip() == missing
    asked = "kernels: CORPUS_KERNELS=reference: plain torch computes on cpu"
    assert run(code, CORPUS_KERNELS="reference").stderr.strip() == asked


# --- What is asked before a GPU is trusted ------------------------------------------------------------------------------


class Wrong(Library):
    """The twin, but for one op, which is wrong in one case."""

    def __init__(self, right: Library, case: str) -> None:
        self.__dict__ |= right.__dict__
        self.case = case

    def gate(
        self, logits: torch.Tensor, bias: torch.Tensor | None, of: torch.Tensor | None, router: Router
    ) -> tuple[torch.Tensor, ...]:
        wrong = {
            "bias": bias is not None,
            "of": of is not None,
            "512 experts": logits.shape[1] == 512,
            "uneven experts": logits.shape[1] % 4 != 0,
        }.get(self.case, False)
        experts, weights, losses, balance = super().gate(logits, bias, of, router)
        return experts, weights * 1.01 if wrong else weights, losses, balance

    def drop(self, *arguments: object) -> tuple[torch.Tensor, torch.Tensor]:
        kept, left = super().drop(*arguments)
        return kept, left + 1 if self.case == "drop" else left


@pytest.mark.parametrize("case", ["nothing", "bias", "of", "512 experts", "uneven experts", "drop"])
def test_the_check_sees_what_is_wrong_in_one_case_only(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "TOLERANCE", {torch.float32: RIGHT})
    twin = implementation("twin")
    assert twin is not None
    assert bool(check.disagreements(Wrong(twin, case), "cpu")) == (case != "nothing")


def test_no_choice_of_the_check_hangs_on_rounding() -> None:
    """A GPU rounds sigmoids otherwise: its choices are those of the reference if they stay when scores move by 1e-6."""

    class Moved(Stub):
        def gate(
            self, logits: torch.Tensor, bias: torch.Tensor | None, of: torch.Tensor | None, router: Router
        ) -> tuple[torch.Tensor, ...]:
            plain = torch.Tensor.sigmoid
            options = {n: getattr(router, n) for n in router.__dataclass_fields__}
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(torch.Tensor, "sigmoid", lambda t: plain(t) * (1 + 1e-6 * torch.sin(1e4 * t)))
                moved = check.reference.gate(logits.double(), bias, of, **options)[0]
            assert torch.equal(moved, check.reference.gate(logits.double(), bias, of, **options)[0])
            raise KernelError("seen")

    for count, router in check.ROUTERS.items():
        with pytest.raises(KernelError, match="seen"):
            check._gate(Moved(Path("x")), "cpu", count, router)
