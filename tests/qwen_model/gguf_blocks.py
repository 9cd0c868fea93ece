"""Blocks of GGUF's quantisations, decoded number by number, from the format's definition, to test faster readers by."""

from __future__ import annotations

import numpy as np

HALVES = {"Q4_0": 1, "Q4_1": 2, "Q5_0": 1, "Q5_1": 2, "Q8_0": 1, "Q4_K": 2, "Q5_K": 2, "Q6_K": 1}
"""How many scales in half precision a block holds; they come first, but last in Q6_K."""


def random_blocks(kind: str, count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """`count` blocks of `size` bytes, any bits but for their scales, which are finite and small."""
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    scales = rng.uniform(-0.01, 0.01, (count, HALVES[kind])).astype(np.float16).view(np.uint8)
    at = size - 2 if kind == "Q6_K" else 0
    blocks[:, at : at + scales.shape[1]] = scales
    return blocks


def decode(kind: str, block: bytes) -> list[float]:
    """The numbers of one block, exact (they fit a double)."""
    return {"Q4_K": _k_with_minimum, "Q5_K": _k_with_minimum, "Q6_K": _q6_k}.get(kind, _of_32)(kind, block)


def _half(block: bytes, at: int) -> float:
    return float(np.frombuffer(block[at : at + 2], dtype=np.float16)[0])


def _signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte


def _of_32(kind: str, block: bytes) -> list[float]:
    """d, perhaps a minimum, perhaps 32 fifth bits, then 16 bytes: low halves are numbers 0-15, high halves 16-31."""
    d, at = _half(block, 0), 2
    if kind == "Q8_0":
        return [d * _signed(byte) for byte in block[at:]]
    minimum = 0.0
    if kind.endswith("_1"):
        minimum, at = _half(block, at), at + 2
    high = 0
    if kind.startswith("Q5"):
        high, at = int.from_bytes(block[at : at + 4], "little"), at + 4
    packed = block[at:]
    numbers = [byte & 15 for byte in packed] + [byte >> 4 for byte in packed]
    numbers = [number + 16 * (high >> place & 1) for place, number in enumerate(numbers)]
    middle = {"Q4_0": 8, "Q5_0": 16}.get(kind, 0)
    return [d * (number - middle) + minimum for number in numbers]


def _k_with_minimum(kind: str, block: bytes) -> list[float]:
    """d, dmin, 8 six-bit scales and minima in 12 bytes, in Q5_K 32 bytes of fifth bits, 128 bytes of halves.

    Each 32 bytes of halves hold two groups of 32 numbers, the low halves' and the high halves'.
    """
    d, dmin, packed = _half(block, 0), _half(block, 2), block[4:16]
    scales, minima = [], []
    for group in range(8):
        if group < 4:
            scales.append(packed[group] & 63)
            minima.append(packed[group + 4] & 63)
        else:
            scales.append(packed[group + 4] & 15 | packed[group - 4] >> 6 << 4)
            minima.append(packed[group + 4] >> 4 | packed[group] >> 6 << 4)
    fifths = block[16:48] if kind == "Q5_K" else bytes(32)
    halves = block[-128:]
    numbers = []
    for group in range(8):
        for place in range(32):
            byte = halves[group // 2 * 32 + place]
            number = (byte >> 4 if group % 2 else byte & 15) + 16 * (fifths[place] >> group & 1)
            numbers.append(d * scales[group] * number - dmin * minima[group])
    return numbers


def _q6_k(kind: str, block: bytes) -> list[float]:
    """128 bytes of low four bits, 64 of high two, 16 signed scales for 16 numbers each, d; in two halves.

    In a half of 128, numbers 0-31 and 64-95 take the low and the high four bits of its first 32 bytes, the others of
    the next 32; the two high bits of numbers p, p + 32, p + 64 and p + 96 lie in one byte, lowest first.
    """
    low, high, scales, d = block[:128], block[128:192], block[192:208], _half(block, 208)
    numbers = []
    for place in range(256):
        half, p = divmod(place, 128)
        quarter, column = divmod(p, 32)
        byte = low[64 * half + 32 * (quarter % 2) + column]
        four = byte >> 4 if quarter > 1 else byte & 15
        two = high[32 * half + column] >> 2 * quarter & 3
        numbers.append(d * _signed(scales[place // 16]) * ((four | two << 4) - 32))
    return numbers
