"""Which items a step takes: a pure function of (seed, step), so that nothing is replayed on resuming."""

from __future__ import annotations

import functools

import torch


def places_of(step: int, *, batch: int, size: int, seed: int) -> list[int]:
    """The places of a step's items among `size`: each round is a permutation of all, another in each round."""
    start = step * batch
    return [_round(place // size, size, seed)[place % size] for place in range(start, start + batch)]


def steps_of(epochs: float, *, batch: int, size: int) -> int:
    """Steps in which every item comes `epochs` times, the last one filled up from the next round."""
    return max(1, -(-round(epochs * size) // batch))


@functools.lru_cache(maxsize=4)
def _round(number: int, size: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**62)
    order: list[int] = torch.randperm(size, generator=generator).tolist()
    return order
