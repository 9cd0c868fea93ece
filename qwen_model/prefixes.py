"""Which sequences share which beginnings: the plan by which every shared prefix is computed once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
    common = [0] + [shared_length(sequences[a], sequences[b]) for a, b in pairwise(order)]
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


@dataclass(frozen=True)
class Forest:
    """One pass over several texts, in segments: shared beginnings once, and behind each what its texts do not share."""

    tokens: list[int]
    spans: list[tuple[int, int]]
    """Where each segment lies among the tokens."""
    parents: list[int | None]
    """The segment that a segment continues; None: the held tokens."""
    leaves: list[int]
    """The last segment of each text."""


def forest(
    sequences: Sequence[Sequence[int]], ordered: Iterable[tuple[int, int]], held: Sequence[int], most: int
) -> Forest | None:
    """The next sequences of a plan in one pass of at most `most` tokens, behind the tokens that are `held`.

    It ends where the next sequence shares nothing with those before it but the held tokens, so that none is computed
    twice. None where the first family is too large for one pass: its beginning must then be held.
    """
    open_: list[tuple[int, int]] = []  # the beginnings that are being read: where each ends in its texts, its segment
    spans: list[tuple[int, int]] = []
    parents: list[int | None] = []
    tokens: list[int] = []
    leaves: list[int] = []
    whole = (0, 0)  # texts and segments of the families that are complete
    before: Sequence[int] = ()

    def grow(more: Sequence[int], parent: int | None) -> int:
        spans.append((len(tokens), len(tokens) + len(more)))
        tokens.extend(more)
        parents.append(parent)
        return len(spans) - 1

    for index, shared in ordered:
        own = sequences[index]
        while open_ and (shared < open_[-1][0] or own[: open_[-1][0]] != before[: open_[-1][0]]):
            open_.pop()
        if not open_:
            whole = len(leaves), len(spans)
            if shared < len(held) or list(own[: len(held)]) != list(held):
                break
        begun, parent = open_[-1] if open_ else (len(held), None)
        if shared > begun:
            parent = grow(own[begun:shared], parent)
            open_.append((shared, parent))
        leaves.append(grow(own[shared:], parent))
        before = own
        if len(tokens) > most:
            break
    else:
        whole = len(leaves), len(spans)
    texts, segments = whole
    if not texts:
        return None
    return Forest(tokens[: spans[segments - 1][1]], spans[:segments], parents[:segments], leaves[:texts])


def shared_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens both begin with."""
    for position, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return position
    return min(len(a), len(b))
