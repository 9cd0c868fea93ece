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
_ROWS = {"cpu": 256, "cuda": 2048}
"""Positions whose logits exist at a time: 155 MB of float32 at 152 k words, or 1.2 GB. The output matrix's gradient is
read and written once for each such part, which on a GPU must be little beside the products."""


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        wanted = [*ctx.needs_input_grad[:2]]
        d_hidden = torch.zeros_like(hidden) if wanted[0] else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None
        matrix = weight.to(hidden.dtype)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for rows in torch.arange(len(targets), device=hidden.device)[targets != IGNORED].split(
            _ROWS[hidden.device.type]
        ):  # type: ignore[no-untyped-call]
            states, labels = hidden[rows], targets[rows]
            logits = F.linear(states, matrix)
            highest, places = logits.max(-1)
            slope = torch.softmax(logits, -1, dtype=torch.float32)  # fused: the only pass with exponentials
            own = logits.gather(-1, labels[:, None])[:, 0].float()
            # by the likeliest token, whose probability is no less than 1 / V and has all its digits
            normaliser = highest.float() - slope.gather(-1, places[:, None])[:, 0].log()
            total += (normaliser - own).sum()
            if not any(wanted):
                continue
            slope[torch.arange(len(rows), device=rows.device), labels] -= 1
            slope = slope.to(hidden.dtype)
            if d_hidden is not None:
                d_hidden[rows] = slope @ matrix
            if d_weight is not None:
                d_weight += slope.T @ states
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


def next_token_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Sum of -log p(target) in nats, float32: hidden (..., W), the output matrix (V, W), targets (...), IGNORED ones
    left out. Memory holds the logits of some hundred positions. Its gradient can be taken once."""
    rows, labels = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    total: Tensor = _ChunkedCrossEntropy.apply(rows, weight, labels)  # type: ignore[no-untyped-call]
    return total
