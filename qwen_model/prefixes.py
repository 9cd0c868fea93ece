"""Which sequences share which beginnings: the plan by which every shared prefix is computed once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

WORTH = {"cpu": 32, "cuda": 4096}
"""Tokens that sharing a prefix must save, by device: a pass for a prefix alone costs about as much as so many. On a GPU
it costs the launch of its kernels (docs/decisions/0066)."""


JOINT = 32
"""Tokens that families must begin with in common to be kept together; fewer are read again with each of them."""


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


@dataclass(eq=False)
class _Segment:
    tokens: Sequence[int]
    parent: _Segment | None


def forest(
    sequences: Sequence[Sequence[int]], ordered: Iterable[tuple[int, int]], held: Sequence[int], most: int
) -> Forest | None:
    """The next sequences of a plan in one pass of at most `most` tokens, behind the tokens that are `held`.

    It ends where the next sequence shares no `JOINT` with those before it but the held tokens, so that hardly any token
    is computed twice. None where the first family is too large for one pass: its beginning must then be held.
    """
    open_: list[tuple[int, _Segment]] = []  # the beginnings that are being read, and where each ends in its texts
    segments: list[_Segment] = []
    leaves: list[_Segment] = []
    whole = total = 0  # texts of families that are complete; tokens of the pass
    before: Sequence[int] = ()

    def grow(tokens: Sequence[int], parent: _Segment | None) -> _Segment:
        segments.append(_Segment(tokens, parent))
        return segments[-1]

    for index, shared in ordered:
        own = sequences[index]
        alike = shared_length(before, own[:shared])
        while open_ and open_[-1][0] > alike:
            _, segment = open_.pop()
            begun = open_[-1][0] if open_ else len(held)
            if alike - begun >= JOINT:  # two families begin alike: what they have in common becomes a segment
                head = _Segment(segment.tokens[: alike - begun], segment.parent)
                segments.insert(segments.index(segment), head)
                segment.tokens, segment.parent = segment.tokens[alike - begun :], head
                open_.append((alike, head))
        if not open_:
            whole = len(leaves)
            if shared < len(held) or list(own[: len(held)]) != list(held):
                break
        begun, parent = open_[-1] if open_ else (len(held), None)
        if shared > begun:
            parent = grow(own[begun:shared], parent)
            open_.append((shared, parent))
        leaves.append(grow(own[shared:], parent))
        total += len(own) - begun
        before = own
        if total > most:
            break
    else:
        whole = len(leaves)
    return _laid(segments, leaves[:whole]) if whole else None


def _laid(segments: list[_Segment], leaves: list[_Segment]) -> Forest:
    """The segments up to the last leaf, one behind the other."""
    segments = segments[: segments.index(leaves[-1]) + 1]
    places = {id(segment): place for place, segment in enumerate(segments)}
    ends = list(accumulate(len(segment.tokens) for segment in segments))
    return Forest(
        tokens=[token for segment in segments for token in segment.tokens],
        spans=list(pairwise([0, *ends])),
        parents=[None if segment.parent is None else places[id(segment.parent)] for segment in segments],
        leaves=[places[id(leaf)] for leaf in leaves],
    )


def shared_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens both begin with."""
    for position, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return position
    return min(len(a), len(b))
