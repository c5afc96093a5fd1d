"""Does a compiled library compute what the reference computes, on the device it will run on? Asked before CUDA kernels run.

Code compiled for one machine may run on another, and a kernel that is wrong on some device must not train a model there. Small
problems in the papers' shapes, the widest and an uneven one, with a bias, documents of any length and capacity; a few seconds.
The whole of the laws is tests/test_kernels_native.py. `python -m kernels.check` asks of the CUDA library, or without a GPU of
the twin.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from kernels import reference
from kernels.build import build
from kernels.native import KernelError, Library, Router

__all__ = ["disagreements"]

ROUTERS = {  # by the number of experts; those below also choose with a bias, those in documents
    30: Router(k=2, segments=4, devices=3, top_devices=2, renormalize=True),
    64: Router(k=6, segments=3, devices=8, top_devices=3),
    160: Router(k=6, segments=3, groups=8, top_groups=3, scale=16.0, devices=8, top_devices=3),
    256: Router(8, 4, 8, 4, "sigmoid", "top2", True, 2.5, 8, 4),
    512: Router(k=16, segments=3, groups=16, top_groups=4, devices=64, top_devices=4),
}
BIASED = (256,)
DOCUMENTS = {30: (70, 0, 1, 130), 256: (3, 61, 0, 137)}  # lengths: within a tile of the kernels, at its edges, of none
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2**-7, torch.float16: 2**-9}


def disagreements(library: Library, device: str) -> list[str]:
    """What differs, one line each; nothing when all is well. A kernel that cannot run is a line, and the last one."""
    found = []
    # A first call may come from anywhere: an evaluation without gradients, torch.device("cuda"), autocast.
    with torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"), torch.autocast(device, enabled=False):
        try:
            for count, router in ROUTERS.items():
                found += [f"{count} experts: {line}" for line in _gate(library, device, count, router)]
                found += [f"{count} experts: {line}" for line in _drop(library, device, count, router)]
                for dtype in TOLERANCE:
                    found += [f"{count} experts, {dtype}: {line}" for line in _rows(library, device, count, router.k, dtype)]
        except (KernelError, ValueError) as error:  # ValueError: it refuses what it has to serve
            found.append(f"{count} experts: {type(error).__name__}: {error}")
    return found


def _noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _differences(seen: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> list[str]:
    lines = []
    for name, one in seen.items():
        other = expected[name]
        if not one.is_floating_point():
            wrong = int((one.cpu() != other).sum())
            lines += [f"{name}: {wrong} of {one.numel()} differ"] if wrong else []
            continue
        scale = float(other.abs().max())
        worst = float((one.cpu().double() - other).abs().max())
        if not worst <= tolerance * max(scale, 1e-6):  # so written, NaN is a difference
            lines.append(f"{name}: off by {worst:.3g}, values up to {scale:.3g}")
    return lines


def _gate(library: Library, device: str, count: int, router: Router) -> list[str]:
    tokens = 3 * 67
    logits_TE = (_noise(tokens, count, seed=count) * 32).round() / 16  # ties, and no two scores that rounding could swap
    dweights_TK, dlosses_4 = _noise(tokens, router.k, seed=1), torch.tensor([0.3, 0.5, 0.7, 0.2])
    bias_E = (_noise(count, seed=7) * 4).round() / 8 if count in BIASED else None
    of_T = None
    if count in DOCUMENTS:
        lengths = torch.tensor(DOCUMENTS[count])
        of_T = torch.arange(len(lengths), dtype=torch.int32).repeat_interleave(lengths)
    on_bias_E, on_of_T = (None if t is None else t.to(device) for t in (bias_E, of_T))
    experts_TK, weights_TK, losses_4, balance_S3E = library.gate(logits_TE.to(device), on_bias_E, on_of_T, router)
    given = (dweights_TK.to(device), dlosses_4.to(device))
    dlogits_TE = library.gate_backward(logits_TE.to(device), on_of_T, experts_TK, balance_S3E, *given, router)
    wide_TE = logits_TE.double().requires_grad_()
    options = {n: getattr(router, n) for n in router.__dataclass_fields__}
    expected = reference.gate(wide_TE, None if bias_E is None else bias_E.double(), of_T, **options)
    (gradient_TE,) = torch.autograd.grad(expected[1:], wide_TE, (dweights_TK.double(), dlosses_4.double()))
    seen = {"experts": experts_TK, "weights": weights_TK, "losses": losses_4, "dlogits": dlogits_TE}
    return _differences(seen, dict(zip(seen, (*(t.detach() for t in expected), gradient_TE), strict=True)), 2e-5)


def _drop(library: Library, device: str, count: int, router: Router) -> list[str]:
    tokens, sequences, factor = 3 * 67, 3, 0.9
    dice = torch.Generator().manual_seed(count)
    experts_TK = torch.randint(0, count, (tokens, router.k), generator=dice, dtype=torch.int32)
    weights_TK = (_noise(tokens, router.k, seed=2).abs() * 16).round() / 16  # many equal ones
    exempt_S = torch.arange(sequences) == 1
    room = reference.room(tokens // sequences * router.k, router.devices, factor)
    on = (experts_TK.to(device), weights_TK.to(device), exempt_S.to(device))
    kept_TK, left_TK = library.drop(*on, count, router.devices, sequences, room)
    options = {"experts": count, "devices": router.devices, "capacity_factor": factor, "sequences": sequences}
    expected = reference.drop(experts_TK, weights_TK, exempt_S=exempt_S, **options)  # type: ignore[arg-type]
    seen = {"drop's experts": kept_TK, "drop's weights": left_TK}
    return _differences(seen, dict(zip(seen, expected, strict=True)), 0.0)


def _rows(library: Library, device: str, count: int, k: int, dtype: torch.dtype) -> list[str]:
    tokens, hidden = 101, 1032 if count in (64, 256) else 24  # rows care for k, only route for the number of experts
    experts_TK = torch.randint(0, count + 1, (tokens, k), generator=torch.Generator().manual_seed(count), dtype=torch.int32)
    routes = reference.route(experts_TK, count)
    seen = dict(zip(("offs", "pos", "src"), library.route(experts_TK.to(device), count), strict=True))
    lines = _differences(seen, dict(zip(seen, routes, strict=True)), 0.0)
    if lines:
        return lines
    offs_E1, pos_TK, src_N = routes
    x_TH, y_NH, gate_up, weights_TK = (
        _noise(*shape, seed=i)
        for i, shape in enumerate([(tokens, hidden), (tokens * k, hidden), (tokens * k, 2 * hidden), (tokens, k)])
    )
    x_TH, y_NH, gate_up = (t.to(dtype) for t in (x_TH, y_NH, gate_up))
    on = {
        name: t.to(device) for name, t in (("x", x_TH), ("y", y_NH), ("gu", gate_up), ("w", weights_TK), *(zip(seen, routes)))
    }
    offs, pos, src = on["offs"], on["pos"], on["src"]
    seen = {
        "permute": library.permute(on["x"], pos, offs),
        "combine": library.combine(on["y"], on["w"], on["x"], pos, offs),
        "swiglu": library.swiglu_weighted(on["gu"], on["w"], src, offs),
    }
    seen["dy"], seen["dw of combine"] = library.combine_backward(on["x"], on["y"], on["w"], pos, offs)
    seen["dgate_up"], seen["dw of swiglu"] = library.swiglu_weighted_backward(on["y"], on["gu"], on["w"], src, offs)
    x, y, gu, w = (t.double().requires_grad_() for t in (x_TH, y_NH, gate_up, weights_TK))
    expected = {
        "permute": reference.permute(x, pos_TK, src_N, offs_E1),
        "combine": reference.combine(y, w, pos_TK, src_N, offs_E1, x),
        "swiglu": reference.swiglu_weighted(gu, w, src_N, offs_E1),
    }
    plain = reference.combine(y, w, pos_TK, src_N, offs_E1)
    expected["dy"], expected["dw of combine"] = torch.autograd.grad(plain, (y, w), x_TH.double())
    expected["dgate_up"], expected["dw of swiglu"] = torch.autograd.grad(expected["swiglu"], (gu, w), y_NH.double())
    return _differences(seen, {name: t.detach() for name, t in expected.items()}, TOLERANCE[dtype])


def main() -> int:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    path = build(device)
    if path is None:
        print(f"kernels.check: no compiler for {device}", file=sys.stderr)
        return 2
    try:
        wrong = disagreements(Library(path), device)
    except (OSError, KernelError) as error:  # it cannot be loaded
        wrong = [f"{type(error).__name__}: {error}"]
    print("\n".join(wrong) if wrong else f"{path.name} computes what the reference computes")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
