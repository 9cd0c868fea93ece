"""Matrix products of many rows: torch's, by the library of its that is the faster one."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from qwen_model.memory import paged

STRIP = 1 << 23
"""Numbers of a weight that are expanded at once: a layer's matrix of most models, and a small part of the output
matrix."""


class _Kept(threading.local):
    """Room for expanded numbers, the same for all products of a thread: fresh pages would cost more than expanding."""

    room = torch.empty(0)

    def numbers(self, rows: int, size: int, dtype: torch.dtype) -> Tensor:
        if self.room.dtype != dtype or self.room.numel() < rows * size:
            self.room = paged((rows * size,), dtype, huge=True)
        return self.room[: rows * size].view(rows, size)


_kept = _Kept()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias: x (..., size), weight (N, size), result (..., N).

    In float32 on a CPU torch takes MKL, which some processors run at half of what oneDNN reaches on them; torch offers
    oneDNN to compiled models by the operator used here, and has no gradient for it.

    A weight of another type than x is read in x's: float32 weights under a pass in bfloat16, as training has them.
    """
    by_onednn = (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )
    if by_onednn:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return out
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def by_strips(x: Tensor, outputs: int, bias: Tensor | None, expand: Callable[[int, Tensor], None]) -> Tensor:
    """`linear` with a weight (`outputs`, size) that is not at hand: `expand(first, numbers)` writes its rows from
    `first` on into numbers (n, size) of x's type."""
    size = x.shape[-1]
    step = max(1, STRIP // size)
    if step >= outputs:
        expand(0, whole := _kept.numbers(outputs, size, x.dtype))
        return linear(x, whole, bias)
    out = x.new_empty(*x.shape[:-1], outputs)
    for first in range(0, outputs, step):
        last = min(first + step, outputs)
        expand(first, strip := _kept.numbers(last - first, size, x.dtype))
        out[..., first:last] = linear(x, strip, None if bias is None else bias[first:last])
    return out
