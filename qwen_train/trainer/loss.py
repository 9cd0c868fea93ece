"""Next-token loss without the logits of all positions: a chunk of rows at a time, gradients made on the way.

torch's `F.linear_cross_entropy` does the same and returns its loss in the inputs' type: under bfloat16 a sum of 37,096
nats comes out as 36,864 (docs/decisions/0045).

N positions, W width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""A target that counts for nothing."""
_ROWS = {"cpu": 512, "cuda": 2048}
"""Positions whose logits exist at a time: 155 or 620 MB of bfloat16 at 152 k words. The output matrix's gradient is
read and written once for each such part, which must be little beside the products."""
_CELLS = {"cpu": 1 << 21, "cuda": 1 << 29}
"""Logits that are in float32 at a time: on a CPU so many as stay in its cache."""


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        wanted = [*ctx.needs_input_grad[:2]]
        d_hidden = torch.zeros_like(hidden) if wanted[0] else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None
        matrix = weight.to(hidden.dtype)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        kept = torch.arange(len(targets), device=hidden.device)[targets != IGNORED]
        for rows in kept.split(_ROWS[hidden.device.type]):  # type: ignore[no-untyped-call]
            states = hidden[rows]
            logits = F.linear(states, matrix)
            step = max(1, _CELLS[hidden.device.type] // len(matrix))
            for start in range(0, len(rows), step):
                part = slice(start, start + step)
                total += _to_slope(logits[part], targets[rows[part]], any(wanted))
            if d_hidden is not None:
                d_hidden[rows] = logits @ matrix
            if d_weight is not None:
                d_weight += logits.T @ states
        ctx.save_for_backward(d_hidden, None if d_weight is None else d_weight.to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        d_hidden, d_weight = ctx.saved_tensors
        (slope,) = slopes
        return (
            None if d_hidden is None else d_hidden * slope.to(d_hidden.dtype),
            None if d_weight is None else d_weight.mul_(slope),  # in place: at 152 k words a copy is most of the peak
            None,
        )


def _to_slope(logits: Tensor, labels: Tensor, wanted: bool) -> Tensor:
    """The sum of -log p(label); where wanted, the logits become what it changes by with each of them."""
    likeliest, places = logits.max(-1)
    shares = torch.softmax(logits, -1, dtype=torch.float32)
    # by the likeliest token, whose share is no less than 1 / V and has all its digits
    normaliser = likeliest.float() - shares.gather(-1, places[:, None])[:, 0].log()
    loss = (normaliser - logits.gather(-1, labels[:, None])[:, 0].float()).sum()
    if wanted:
        shares[torch.arange(len(labels), device=labels.device), labels] -= 1
        logits.copy_(shares)
    return loss


def next_token_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Sum of -log p(target) in nats, float32: hidden (..., W), the output matrix (V, W), targets (...), IGNORED ones
    left out. Memory holds the logits of some hundred positions. Its gradient can be taken once."""
    rows, labels = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    total: Tensor = _ChunkedCrossEntropy.apply(rows, weight, labels)  # type: ignore[no-untyped-call]
    return total
