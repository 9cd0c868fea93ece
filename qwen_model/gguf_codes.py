"""What a quantised tensor's blocks hold: number = code * scale - min, in groups of 16 or 32 numbers, exact in float32.

A block stores its codes unsigned, as low and perhaps high bits, and its scales in half precision, in Q4_K, Q5_K and
Q6_K times a small whole number for each group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy
from numpy.typing import NDArray

Blocks: TypeAlias = NDArray[numpy.uint8]
"""(blocks, bytes of one)."""
Floats: TypeAlias = NDArray[numpy.float32]

KINDS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
GROUPS = {kind: 16 if kind == "Q6_K" else 32 for kind in KINDS}
"""Numbers that share a scale."""
WITH_MINS = ("Q4_1", "Q5_1", "Q4_K", "Q5_K")


def codes(kind: str, blocks: Blocks) -> NDArray[numpy.int8]:
    """The codes in the order of the numbers, flat."""
    return _CODES[kind](blocks).reshape(-1).view(numpy.int8)


def scales(kind: str, blocks: Blocks) -> Floats:
    """The scale of each group, flat."""
    if kind == "Q6_K":
        return (_half(blocks, 208) * blocks[:, 192:208].view(numpy.int8)).reshape(-1)
    d = _half(blocks, 0)
    return (d * _six_bits(blocks)[0] if kind.endswith("K") else d).reshape(-1)


def mins(kind: str, blocks: Blocks) -> Floats:
    """What is taken off in each group, flat; only of kinds that are `WITH_MINS`."""
    d = _half(blocks, 2)
    return (d * _six_bits(blocks)[1] if kind.endswith("K") else -d).reshape(-1)


def _half(blocks: Blocks, at: int) -> Floats:
    """A number in half precision of each block, (blocks, 1)."""
    return numpy.ascontiguousarray(blocks[:, at : at + 2]).view(numpy.float16).astype(numpy.float32)


def _six_bits(blocks: Blocks) -> tuple[Blocks, Blocks]:
    """Factors of the 8 scales and of the 8 mins in Q4_K and Q5_K, (blocks, 8) each.

    In 12 bytes: six bits of the first four scales, of the first four mins, then four bits each of the last four scales
    and mins, whose upper two lie above those of the first.
    """
    first, second, third = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scale = numpy.concatenate((first & 63, third & 15 | first >> 6 << 4), axis=1)
    minimum = numpy.concatenate((second & 63, third >> 4 | second >> 6 << 4), axis=1)
    return scale, minimum


def _fours(packed: Blocks, run: int) -> Any:
    """The low four bits of each run of bytes, then their high four: (blocks, runs, 2, run)."""
    runs = packed.reshape(len(packed), -1, run)
    return numpy.stack((runs & 15, runs >> 4), axis=2)


def _q4(blocks: Blocks, start: int) -> Any:
    return _fours(blocks[:, start:], 16).reshape(len(blocks), 32)


def _q5(blocks: Blocks, start: int) -> Any:
    words = numpy.ascontiguousarray(blocks[:, start : start + 4]).view("<u4")
    fifths = (words >> numpy.arange(32, dtype=numpy.uint32) & 1).astype(numpy.uint8)
    return _q4(blocks, start + 4) | fifths << 4


def _q5_k(blocks: Blocks) -> Any:
    fifths = blocks[:, None, 16:48] >> numpy.arange(8, dtype=numpy.uint8)[:, None] & 1
    return _fours(blocks[:, 48:], 32).reshape(len(blocks), 8, 32) | fifths << 4


def _q6_k(blocks: Blocks) -> Any:
    fours = _fours(blocks[:, :128], 64).reshape(len(blocks), 2, 4, 32)
    twos = blocks[:, 128:192].reshape(len(blocks), 2, 1, 32) >> numpy.arange(0, 8, 2, dtype=numpy.uint8)[:, None] & 3
    return (fours | twos << 4) - numpy.uint8(32)  # wraps round to what int8 calls negative


_CODES: dict[str, Callable[[Blocks], Any]] = {
    "Q4_0": lambda blocks: _q4(blocks, 2) - numpy.uint8(8),
    "Q4_1": lambda blocks: _q4(blocks, 4),
    "Q5_0": lambda blocks: _q5(blocks, 2) - numpy.uint8(16),
    "Q5_1": lambda blocks: _q5(blocks, 4),
    "Q8_0": lambda blocks: numpy.ascontiguousarray(blocks[:, 2:]),
    "Q4_K": lambda blocks: _fours(blocks[:, 16:], 32),
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
