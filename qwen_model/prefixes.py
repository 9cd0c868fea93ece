"""Which sequences share which beginnings: the plan by which every shared prefix is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

WORTH = {"cpu": 32, "cuda": 4096}
"""Tokens that sharing a prefix must save, by device: a pass for a prefix alone costs about as much as so many. On a GPU
it costs the launch of its kernels (docs/decisions/0066)."""


def plan(sequences: Sequence[Sequence[int]], limits: Sequence[int], worth: int = WORTH["cpu"]) -> list[tuple[int, int]]:
    """Order the sequences so that shared beginnings are adjacent: [(index, length of the shared prefix), ...].

    Sequence i may share at most its first `limits[i]` tokens (its logits are wanted from there on). Neighbours of equal
    shared length under one parent have the same prefix; nested prefixes follow their parents.
    """
    order = sorted(range(len(sequences)), key=lambda index: list(sequences[index]))
    common = [0] + [_common(sequences[a], sequences[b]) for a, b in pairwise(order)]
    out: list[tuple[int, int]] = []
    stack = [(0, len(order), 0)]
    while stack:
        first, end, shared = stack.pop()
        if end - first <= 1:
            out.extend((index, shared) for index in order[first:end])
            continue
        split = min(common[first + 1 : end])
        usable = min(split, *(limits[index] for index in order[first:end]))
        if (usable - shared) * (end - first - 1) >= worth:
            shared = usable
        bounds = [first, *(i for i in range(first + 1, end) if common[i] == split), end]
        groups = list(pairwise(bounds))
        # single sequences first, so that they are packed together; then each group with a prefix of its own
        out.extend((order[a], shared) for a, b in groups if b - a == 1)
        stack.extend((a, b, shared) for a, b in reversed(groups) if b - a > 1)
    return out


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    for position, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return position
    return min(len(a), len(b))
