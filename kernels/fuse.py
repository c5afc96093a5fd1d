"""Element-wise chains as one CUDA kernel each, by torch.compile; on a CPU the functions run as they are written."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

__all__ = ["fused_on_cuda"]

F = TypeVar("F", bound=Callable[..., Any])


def fused_on_cuda(function: F) -> F:
    """`function`, compiled at its first call with a CUDA tensor in front; lengths may differ from call to call.

    Only for chains that read and write memory: compiled matrix products would round otherwise than the plain ones.
    """
    compiled: list[Callable[..., Any]] = []

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        if not arguments[0].is_cuda:
            return function(*arguments)
        if not compiled:
            compiled.append(torch.compile(function, dynamic=None))
        return compiled[0](*arguments)

    return call  # type: ignore[return-value]
