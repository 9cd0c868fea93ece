"""Keys and values of tokens already read.

`StackCache` holds one path of tokens that grows and is cut back: shared prefixes, with packed suffixes behind them.
`SlotCache` holds many sequences side by side, one per slot, each with its own length: decoding.
Both hand the attention whatever it must read, so one decoder serves both (and transformers' models through an adapter).

Shapes: K, V are (layers, rows, key-value heads, positions, head dim).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

_GROWTH = 256
"""Positions by which a cache grows: few reallocations, little waste."""


@dataclass(frozen=True, kw_only=True)
class CacheShape:
    """What one token needs in a key-value cache: 2 * layers * heads * head_dim numbers."""

    layers: int
    heads: int
    head_dim: int


class Cache(Protocol):
    """What attention needs of a cache."""

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new tokens' (R, H, T, D) keys and values; return all that these tokens may read, (R, H, S, D)."""
        ...


class _Store:
    def __init__(
        self, layers: int, rows: int, heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._shape = (layers, rows, heads, head_dim)
        self._options = {"dtype": dtype, "device": device}
        self.capacity = 0
        self.keys = torch.empty(layers, rows, heads, 0, head_dim, dtype=dtype, device=device)
        self.values = self.keys

    def reserve(self, positions: int) -> None:
        if positions <= self.capacity:
            return
        layers, rows, heads, head_dim = self._shape
        capacity = -(-positions // _GROWTH) * _GROWTH
        for name in ("keys", "values"):
            old: Tensor = getattr(self, name)
            # zeros, not empty: masked positions are still multiplied by 0, and 0 * NaN is NaN
            new = torch.zeros(layers, rows, heads, capacity, head_dim, dtype=old.dtype, device=old.device)
            new[:, :, :, : self.capacity] = old
            setattr(self, name, new)
        self.capacity = capacity


class StackCache(_Store):
    """One path of tokens. A forward pass writes behind `length`; `keep` then fixes how much of it stays."""

    def __init__(self, layers: int, heads: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(layers, 1, heads, head_dim, dtype, device)
        self.length = 0

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        end = self.length + keys.shape[2]
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


class SlotCache(_Store):
    """Rows 0..active-1 are sequences being decoded, row r holding `lengths[r]` tokens."""

    def __init__(
        self, layers: int, slots: int, heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(layers, slots, heads, head_dim, dtype, device)
        self.slots = slots
        self.lengths: list[int] = []
        self._rows = torch.empty(0, dtype=torch.long)
        self._ends = torch.empty(0, dtype=torch.long)
        self._longest = 0

    @property
    def active(self) -> int:
        return len(self.lengths)

    def admit(self, stack: StackCache, prefix: int, start: int, end: int) -> int:
        """Copy a sequence out of the stack: its first `prefix` tokens and the packed ones from `start` to `end`."""
        row, length = self.active, prefix + end - start
        self.reserve(length + 1)
        for target, origin in ((self.keys, stack.keys), (self.values, stack.values)):
            target[:, row, :, :prefix] = origin[:, 0, :, :prefix]
            target[:, row, :, prefix:length] = origin[:, 0, :, start:end]
        self.lengths.append(length)
        return row

    def release(self, row: int) -> int:
        """Free a row. The last active row moves into its place; its old index is returned."""
        last = self.active - 1
        if row != last:
            length = self.lengths[last]
            self.keys[:, row, :, :length] = self.keys[:, last, :, :length]
            self.values[:, row, :, :length] = self.values[:, last, :, :length]
            self.lengths[row] = length
        self.lengths.pop()
        return last

    def begin_step(self) -> tuple[Tensor, Tensor]:
        """Make room for one token per row; its positions (R, 1) and what it may read, a bool mask (R, 1, 1, S)."""
        device = self.keys.device
        self._longest = max(self.lengths) + 1
        self.reserve(self._longest)
        self._rows = torch.arange(self.active, device=device)
        self._ends = torch.tensor(self.lengths, device=device)
        mask = torch.arange(self._longest, device=device)[None, :] <= self._ends[:, None]
        return self._ends[:, None], mask[:, None, None, :]

    def end_step(self) -> None:
        self.lengths = [length + 1 for length in self.lengths]

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        self.keys[layer, self._rows, :, self._ends] = keys[:, :, 0]
        self.values[layer, self._rows, :, self._ends] = values[:, :, 0]
        rows = self.active
        return self.keys[layer, :rows, :, : self._longest], self.values[layer, :rows, :, : self._longest]
