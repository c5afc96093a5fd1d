"""The compiled libraries: loading one, and calling its entries with tensors. csrc/entries.h says what each entry does.

`Library` allocates what an entry writes, hands over pointers, and turns an error code into an exception with what it saw.
Nothing here waits for a device.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corpus.errors import CorpusError

__all__ = ["KernelError", "Library", "Router"]

VERSION = 1  # MOE_VERSION of csrc/semantics.h
HEADER = Path(__file__).parent / "csrc" / "entries.h"
ERRORS = {
    -1: "shapes or numbers that the kernels do not serve (E up to 512, K up to 16, T*K below 2**31, rows a multiple of 8)",
    -2: "a dtype that the kernels do not serve",
    -3: "a tensor that does not begin at a multiple of 16 bytes",
    -4: "an expert number out of range",
    -5: "`of`, the segment of each token, is out of range or does not rise",
}
# Of the errors of CUDA, those with a known cause.
CAUSES = {
    35: "the driver is older than the CUDA that the library was built with: update it",
    209: "the library has no code for this GPU: `make kernels` with an nvcc that knows it",
    222: "the driver is older than the CUDA that the library was built with: update it",
    719: "a kernel stopped: an expert's number is out of range, or `of` is, or `of` does not rise",
}
FORMATS = {torch.float64: 0, torch.float32: 1, torch.bfloat16: 2, torch.float16: 3}


class KernelError(CorpusError):
    """A compiled library does not fit, or a kernel ended with an error of the device."""


@dataclasses.dataclass(frozen=True)
class Router:
    """Options of the gate, as reference.gate names them."""

    k: int
    segments: int = 1
    groups: int = 1
    top_groups: int = 1
    score: str = "softmax"
    group_score: str = "max"
    renormalize: bool = False
    scale: float = 1.0
    devices: int = 1
    top_devices: int = 1


class _Router(ctypes.Structure):
    _integers = ("experts", "k", "groups", "top_groups", "sigmoid", "top2", "renormalize", "devices", "top_devices", "segments")
    _fields_ = [*((name, ctypes.c_int) for name in _integers), ("scale", ctypes.c_double)]

    @classmethod
    def of(cls, router: Router, experts: int) -> _Router:
        values = {name: getattr(router, name) for name in cls._integers if hasattr(router, name)}
        return cls(
            experts=experts, sigmoid=router.score == "sigmoid", top2=router.group_score == "top2", scale=router.scale, **values
        )


class Library:
    """One compiled library. Tensors are those of the device it was built for, contiguous; ops.py has looked at their shapes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        library = ctypes.CDLL(str(path))
        declared = entries()
        missing = [name for name in declared if not hasattr(library, name)]
        if missing:
            raise KernelError(f"{path} has no {', '.join(missing)}, which {HEADER.name} declares: make kernels")
        self._entries = {name: getattr(library, name) for name in declared}
        for name, (result, parameters) in declared.items():
            self._entries[name].restype, self._entries[name].argtypes = result, list(parameters.values())
        version = self._entries["moe_version"]()
        if version != VERSION:
            raise KernelError(f"{path} has version {version} of the interface, {VERSION} expected: make kernels")

    def gate(self, logits_TE: Tensor, bias_E: Tensor | None, of_T: Tensor | None, router: Router) -> tuple[Tensor, ...]:
        """(experts_TK, weights_TK, losses_4, balance_S3E)."""
        tokens, count = logits_TE.shape
        options = _Router.of(router, count)
        scratch = logits_TE.new_empty(self._entries["moe_gate_scratch"](ctypes.byref(options), tokens), dtype=torch.uint8)
        experts_TK = logits_TE.new_empty(tokens, router.k, dtype=torch.int32)
        weights_TK, losses_4 = logits_TE.new_empty(tokens, router.k), logits_TE.new_empty(4)
        balance_S3E = logits_TE.new_empty(router.segments, 3, count)
        self._call(
            "gate_forward", logits_TE, bias_E, of_T, experts_TK, weights_TK, losses_4, balance_S3E, scratch,
            ctypes.byref(options), tokens, FORMATS[logits_TE.dtype],
        )  # fmt: skip
        return experts_TK, weights_TK, losses_4, balance_S3E

    def gate_backward(
        self,
        logits_TE: Tensor,
        of_T: Tensor | None,
        experts_TK: Tensor,
        balance_S3E: Tensor,
        dweights_TK: Tensor,
        dlosses_4: Tensor,
        router: Router,
    ) -> Tensor:
        dlogits_TE = torch.empty_like(logits_TE)
        options = _Router.of(router, logits_TE.shape[1])
        self._call(
            "gate_backward", logits_TE, of_T, experts_TK, balance_S3E, dweights_TK, dlosses_4, dlogits_TE,
            ctypes.byref(options), len(logits_TE), FORMATS[logits_TE.dtype],
        )  # fmt: skip
        return dlogits_TE

    def drop(
        self,
        experts_TK: Tensor,
        weights_TK: Tensor,
        exempt_S: Tensor | None,
        count: int,
        devices: int,
        sequences: int,
        room: int,
    ) -> tuple[Tensor, Tensor]:
        kept_TK, kept_weights_TK = torch.empty_like(experts_TK), torch.empty_like(weights_TK)
        tokens, k = experts_TK.shape
        self._call(
            "drop", experts_TK, weights_TK, exempt_S, kept_TK, kept_weights_TK, tokens, k, count, devices, sequences, room,
            FORMATS[weights_TK.dtype],
        )  # fmt: skip
        return kept_TK, kept_weights_TK

    def route(self, experts_TK: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        tokens, k = experts_TK.shape
        scratch = experts_TK.new_empty(self._entries["moe_route_scratch"](tokens, k, count), dtype=torch.uint8)
        offs_E1, pos_TK, src_N = experts_TK.new_empty(count + 1), torch.empty_like(experts_TK), experts_TK.new_empty(tokens * k)
        self._call("route", experts_TK, offs_E1, pos_TK, src_N, scratch, tokens, k, count)
        return offs_E1, pos_TK, src_N

    def permute(self, x_TH: Tensor, pos_TK: Tensor, offs_E1: Tensor | None) -> Tensor:
        tokens, k = pos_TK.shape
        y_NH = x_TH.new_empty(tokens * k, x_TH.shape[1])
        self._call("permute", x_TH, pos_TK, _live(offs_E1), y_NH, tokens, k, x_TH.shape[1], FORMATS[x_TH.dtype])
        return y_NH

    def combine(
        self, y_NH: Tensor, weights_TK: Tensor | None, shared_TH: Tensor | None, pos_TK: Tensor, offs_E1: Tensor | None
    ) -> Tensor:
        (tokens, k), hidden = pos_TK.shape, y_NH.shape[1]
        z_TH = y_NH.new_empty(tokens, hidden)
        live = _live(offs_E1)
        self._call("combine", y_NH, weights_TK, shared_TH, pos_TK, live, z_TH, tokens, k, hidden, FORMATS[y_NH.dtype])
        return z_TH

    def combine_backward(
        self, dz_TH: Tensor, y_NH: Tensor, weights_TK: Tensor, pos_TK: Tensor, offs_E1: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        dy_NH, dweights_TK = torch.empty_like(y_NH), torch.empty_like(weights_TK)
        self._call(
            "combine_backward", dz_TH, y_NH, weights_TK, pos_TK, _live(offs_E1), dy_NH, dweights_TK, *pos_TK.shape,
            y_NH.shape[1], FORMATS[y_NH.dtype],
        )  # fmt: skip
        return dy_NH, dweights_TK

    def swiglu_weighted(self, gate_up_N2I: Tensor, weights_TK: Tensor, src_N: Tensor, offs_E1: Tensor | None) -> Tensor:
        rows, inner = len(gate_up_N2I), gate_up_N2I.shape[1] // 2
        out_NI = gate_up_N2I.new_empty(rows, inner)
        live = _live(offs_E1)
        self._call("swiglu_weighted", gate_up_N2I, weights_TK, src_N, live, out_NI, rows, inner, FORMATS[out_NI.dtype])
        return out_NI

    def swiglu_weighted_backward(
        self, dout_NI: Tensor, gate_up_N2I: Tensor, weights_TK: Tensor, src_N: Tensor, offs_E1: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        dgate_up_N2I, dweights_TK = torch.empty_like(gate_up_N2I), torch.empty_like(weights_TK)
        self._call(
            "swiglu_weighted_backward", dout_NI, gate_up_N2I, weights_TK, src_N, _live(offs_E1), dgate_up_N2I, dweights_TK,
            *dout_NI.shape, FORMATS[dout_NI.dtype],
        )  # fmt: skip
        return dgate_up_N2I, dweights_TK

    def _call(self, name: str, *arguments: Any) -> None:
        device = next(a.device for a in arguments if isinstance(a, Tensor))
        entry = self._entries[f"moe_{name}"]
        for parameter, a in zip(entries()[f"moe_{name}"][1], arguments):
            if isinstance(a, Tensor) and not a.is_contiguous():
                seen = f"{a.dtype} {list(a.shape)} with strides {list(a.stride())}"
                raise ValueError(f"{name}: {parameter} is {seen}; a contiguous tensor expected")
        values = [a.data_ptr() if isinstance(a, Tensor) else a for a in arguments]
        if device.type == "cuda":
            with torch.cuda.device(device):
                error = entry(*values, torch.cuda.current_stream(device).cuda_stream)
        else:
            error = entry(*values, None)
        if error:
            seen = ", ".join(f"{a.dtype} {list(a.shape)}" if isinstance(a, Tensor) else str(a) for a in arguments)
            if error < 0:
                raise ValueError(f"{name}: {ERRORS[error]}; seen {seen}")
            cause = f" ({CAUSES[error]})" if error in CAUSES else ""
            raise KernelError(f"{name} ended with CUDA error {error}{cause}; seen {seen}")


def _live(offs_E1: Tensor | None) -> Tensor | None:
    """How many rows belong to an expert: the last offset, where it lies."""
    return None if offs_E1 is None else offs_E1[-1:]


@functools.cache
def entries() -> dict[str, tuple[Any, dict[str, Any]]]:
    """(result, parameters by name) of every entry, as csrc/entries.h declares: a pointer too few would be a crash at best."""
    text = re.sub(r"//.*", "", HEADER.read_text())
    found = {}
    for result, name, parameters in re.findall(r"(\w+) (moe_\w+)\(([^)]*)\);", text):
        kinds = {
            parameter.split()[-1].lstrip("*"): _kind(parameter) for parameter in parameters.split(",") if parameter.strip()
        }
        found[name] = (_kind(f"{result} x"), kinds)
    return found


def _kind(declaration: str) -> Any:
    if "*" in declaration:
        return ctypes.c_void_p
    return {"int": ctypes.c_int, "int64_t": ctypes.c_int64}[declaration.split()[-2]]
