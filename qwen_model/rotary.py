"""Rotary positions, with the base that dynamic NTK asks for and the LogN factor of queries (report, section 2.3).

R rows, T tokens, D head dim. Everything is computed in float32, as the report asks of the frequencies.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from qwen_model.long_context import ntk_alpha

_STEPS = 24
"""Steps of dynamic NTK for which frequencies are kept: texts of up to 8 million trained lengths."""


class Turns(NamedTuple):
    """Cosine and sine (R, T, D), float32, by which queries and keys are turned."""

    query_cos: Tensor
    query_sin: Tensor
    key_cos: Tensor
    key_sin: Tensor


def frequencies(head_dim: int, base: float, steps: int = _STEPS) -> Tensor:
    """Inverse frequencies (steps, D/2), float32: row b for a base multiplied by alpha_b^(D / (D - 2))."""
    # named devices: a decoder is often built under torch.device("meta"), and this table must be real there too
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim
    bases = [base * ntk_alpha(step) ** (head_dim / max(head_dim - 2, 1)) for step in range(steps)]
    return torch.stack([1.0 / scaled**exponent for scaled in bases])


def turns(positions: Tensor, steps: Tensor, table: Tensor, logn_from: int | None) -> Turns:
    """The rotation of tokens at `positions` (R, T), under the NTK step of each, `steps` (R, T) or (R, 1).

    `table` is from `frequencies`; `logn_from` is T of LogN, None where it is off. LogN multiplies a query by
    log_T(position), counted from 1, where that is beyond T; a rotation is linear, so the factor rides on its cosine and
    sine for nothing.
    """
    angles = positions[..., None].float() * table[steps]
    angles = torch.cat((angles, angles), dim=-1)
    cos, sin = angles.cos(), angles.sin()
    if logn_from is None:
        return Turns(cos, sin, cos, sin)
    factor = ((positions + 1).clamp(min=logn_from).float().log() / math.log(logn_from))[..., None]
    # exactly 1 up to T: switched on, LogN must not move a short text by a bit
    factor = torch.where((positions < logn_from)[..., None], 1.0, factor)
    return Turns(cos * factor, sin * factor, cos, sin)
