"""What a weight was dequantised from: less to read than its numbers, where all of them are read for every token."""

from __future__ import annotations

import torch
from torch import Tensor

GROUPS = (16, 32)
"""Weights that may share a scale."""
ALONE = torch.float32
"""Weights of this type are left unread in their file: every product reads the codes (dot.h, too, goes by this type). In
bfloat16 numbers are half as large and products of many rows up to five times as fast, against which expanding would be
felt: weights are in memory, and codes are read for few rows only."""
_STEP = 32
"""The kernels read so many codes of a row at a time."""


def expand(codes: Tensor, scales: Tensor, mins: Tensor | None, dtype: torch.dtype) -> Tensor:
    """code * scale - min in float32, rounded to `dtype`: codes (N, K) int8, scales and mins (N, K / group) float32."""
    groups = codes.view(*scales.shape, -1) * scales[..., None]
    if mins is not None:
        groups -= mins[..., None]
    return groups.view(codes.shape).to(dtype)


class Codes:
    """The codes of one weight (N, K), whose numbers are `expand(codes, scales, mins, weight.dtype)`, bit for bit.

    Products code * scale must be exact in float32, and no number subnormal; GGUF's are so. They stand for the weight as
    it is now: a change of it that torch counts (any operation in place, a new tensor) ends that. A change that torch
    does not count, through `weight.data` or a numpy view, is not seen: take the codes off the layer first.
    """

    def __init__(self, weight: Tensor, codes: Tensor, scales: Tensor, mins: Tensor | None) -> None:
        outputs, size = codes.shape
        group = size // scales.shape[1]
        fits = weight.shape == codes.shape and scales.shape == (outputs, size // group) and size % _STEP == 0
        if not fits or group not in GROUPS or (mins is not None and mins.shape != scales.shape):
            raise ValueError(f"codes {tuple(codes.shape)}, scales {tuple(scales.shape)} for {tuple(weight.shape)}")
        floats = [scales] if mins is None else [scales, mins]
        if codes.dtype != torch.int8 or any(part.dtype != torch.float32 for part in floats):
            raise ValueError("codes are int8, scales and mins float32")
        if not all(part.is_contiguous() and part.device.type == "cpu" for part in (codes, *floats)):
            raise ValueError("codes, scales and mins lie row by row, on the CPU")
        self.codes, self.scales, self.mins = codes, scales, mins
        self.pointers = codes.data_ptr(), scales.data_ptr(), 0 if mins is None else mins.data_ptr(), group
        """As the kernels take them."""
        self._weight, self._version, self._place = weight, weight._version, weight.data_ptr()

    def stand_for(self, weight: Tensor) -> bool:
        """Whether `weight` is the one that they were made for, unchanged."""
        return weight is self._weight and weight._version == self._version and weight.data_ptr() == self._place
