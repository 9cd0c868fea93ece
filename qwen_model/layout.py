"""Where the tokens of a pass stand in their texts, and which keys each of them may read.

A layout is made once per pass and shared by all layers. R rows, T new tokens, S keys (those in a cache first).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import zip_longest
from typing import Protocol

import torch
from torch import Tensor


class Layout(Protocol):
    """What the decoder needs to know of a pass."""

    positions: Tensor
    """(R, T): place of each token in its own text, from 0."""
    steps: Tensor
    """(R, T) or (R, 1): dynamic NTK's step of the text that the token belongs to (`long_context.ntk_bucket`)."""
    past: int | None
    """Keys before the first token where every row is one unbroken text (no padding, no packing); else None."""

    def first_key(self, window: int | None) -> int:
        """Keys before this one are read by no token under that window."""
        ...

    def mask(self, window: int | None) -> Tensor | None:
        """Bool (R or 1, 1, T, S - first_key), True where a token may read; None if it may read all or it is causal."""
        ...


def band(queries: Tensor, keys: Tensor, window: int | None) -> Tensor:
    """Which key positions (..., S) a query position (..., T) reads: none after it, and only `window` up to itself."""
    query, key = queries[..., :, None], keys[..., None, :]
    # no difference is taken: as int64 it would be eight times the mask
    return key <= query if window is None else (key <= query) & (key > query - window)


class Plain:
    """Rows of `new` tokens each, behind `past` tokens of their own texts."""

    def __init__(self, new: int, *, past: int = 0, steps: Tensor) -> None:
        self.past: int | None = past
        self.steps = steps
        self.positions = torch.arange(past, past + new, device=steps.device)[None, :]
        self._masks: dict[int | None, Tensor] = {}

    def first_key(self, window: int | None) -> int:
        past = self.past or 0
        return 0 if window is None else max(0, past - window + 1)

    def mask(self, window: int | None) -> Tensor | None:
        past, new, first = self.past or 0, self.positions.shape[1], self.first_key(window)
        if new == 1 or (past == 0 and (window is None or window >= new)):
            return None
        if window not in self._masks:
            keys = torch.arange(first, past + new, device=self.positions.device)
            self._masks[window] = band(self.positions, keys, window)[None]
        return self._masks[window]


class _Segmented(ABC):
    """Texts side by side: a token reads its own segment and what all segments share."""

    past: int | None = None

    def __init__(self) -> None:
        self._masks: dict[int | None, Tensor] = {}

    def first_key(self, window: int | None) -> int:
        return 0

    def mask(self, window: int | None) -> Tensor:
        if window not in self._masks:
            self._masks[window] = self._mask(window)
        return self._masks[window]

    @abstractmethod
    def _mask(self, window: int | None) -> Tensor: ...


class Padded(_Segmented):
    """Rows of unequal length: `attention_mask` (R, T) is 1 at tokens and 0 at padding, on either side.

    Padding reads only padding, so that it never meets an empty softmax; nothing reads it.
    """

    def __init__(self, attention_mask: Tensor, steps: Tensor) -> None:
        super().__init__()
        self._real = attention_mask.bool()
        self.steps = steps
        self.positions = (self._real.long().cumsum(-1) - 1).clamp(min=0)

    def _mask(self, window: int | None) -> Tensor:
        same = self._real[:, :, None] == self._real[:, None, :]
        own = torch.eye(self._real.shape[1], dtype=torch.bool, device=self._real.device)
        return ((same & band(self.positions, self.positions, window)) | own)[:, None]


class Packed(_Segmented):
    """One row of several texts behind a prefix of `held` tokens that all share; `spans` are their segments' places.

    A segment continues that of its parent, which is earlier in the row, or the prefix where it has none.
    """

    def __init__(
        self, held: int, spans: Sequence[tuple[int, int]], steps: Tensor, parents: Sequence[int | None] = ()
    ) -> None:
        super().__init__()
        self.steps = steps
        self._held = held
        new = spans[-1][1]
        segments = torch.empty(new, dtype=torch.long)
        positions = torch.empty_like(segments)
        reads = torch.eye(len(spans), dtype=torch.bool)
        ends: list[int] = []
        for segment, ((start, end), parent) in enumerate(zip_longest(spans, parents)):
            begin = held if parent is None else ends[parent]
            ends.append(begin + end - start)
            segments[start:end] = segment
            positions[start:end] = torch.arange(begin, ends[-1])
            if parent is not None:
                reads[segment] |= reads[parent]
        self._segments, self._reads = segments.to(steps.device), reads.to(steps.device)
        self.positions = positions.to(steps.device)[None, :]

    def first_key(self, window: int | None) -> int:
        return 0 if window is None else max(0, self._held - window + 1)

    def _mask(self, window: int | None) -> Tensor:
        first = self.first_key(window)
        (positions,) = self.positions
        own = self._reads[self._segments][:, self._segments] & band(positions, positions, window)
        prefix = band(positions, torch.arange(first, self._held, device=positions.device), window)
        return torch.cat((prefix, own), dim=-1)[None, None]


class Documents(_Segmented):
    """Rows cut from a stream of documents, each token reading its own document alone.

    `segments` (R, T) numbers the documents of a row in ascending order. Positions begin anew with each.
    """

    def __init__(self, segments: Tensor) -> None:
        super().__init__()
        self._segments = segments
        self.steps = torch.zeros(1, 1, dtype=torch.long, device=segments.device)
        place = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
        begins = torch.ones_like(segments, dtype=torch.bool)
        begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
        self.positions = place - torch.where(begins, place, 0).cummax(-1).values

    def _mask(self, window: int | None) -> Tensor:
        same = self._segments[:, :, None] == self._segments[:, None, :]
        return (same & band(self.positions, self.positions, window))[:, None]
