"""Keys and values of tokens already read.

`StackCache` holds one path of tokens that grows and is cut back: shared prefixes, with packed suffixes behind them.
`SlotCache` holds many sequences side by side, one per slot, each with its own length: decoding. There a layer with a
window of w keeps a ring of the last w tokens, whose order does not matter to attention. Where the model can read them,
rows refer to one copy of a prefix that they share, and their slots hold only what follows it.
Both hand the attention whatever it must read, so one decoder serves both (and transformers' models through an adapter).

Shapes: K, V of a layer are (rows, key-value heads, positions, head dim).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from qwen_model.long_context import Windows
from qwen_model.memory import give_back, paged

_GROWTH = 256
"""Positions by which a cache grows: few reallocations, little waste."""

_SHARED = 32
"""Tokens that a prefix must have for rows to share it; a shorter one is copied into each."""


@dataclass(frozen=True, kw_only=True)
class CacheShape:
    """What a model needs in a key-value cache, with the window that is in force in each layer."""

    heads: int
    head_dim: int
    windows: Windows

    def nbytes(self, rows: int, positions: int, dtype: torch.dtype, *, rings: bool = True) -> int:
        """Memory of `rows` sequences of `positions` tokens: 2 x rows x heads x head dim x sum over layers of the tokens
        that the layer keeps, in bytes. `rings`: layers with a window keep only that, as in a `SlotCache`."""
        kept = sum(min(positions, window) if window and rings else positions for window in self.windows)
        return 2 * rows * self.heads * self.head_dim * kept * dtype.itemsize


class Cache(Protocol):
    """What attention needs of a cache."""

    shape: CacheShape

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new tokens' (R, H, T, D) keys and values; return all that these tokens may read, (R, H, S, D)."""
        ...


class _Store(ABC):
    rings = False

    def __init__(self, shape: CacheShape, rows: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shape, self._most = shape, rows
        empty = torch.empty(0, shape.heads, 0, shape.head_dim, dtype=dtype, device=device)
        self.keys = [empty] * len(shape.windows)
        self.values = list(self.keys)
        self.rows = self.capacity = 0

    @property
    @abstractmethod
    def _own(self) -> list[int]:
        """Tokens that each row has written into its slot."""

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes; `CacheShape.nbytes(rows, capacity, ...)` says it of these rows."""
        return sum(tensor.nbytes for tensors in (self.keys, self.values) for tensor in tensors)

    def make_room(self, rows: int, positions: int) -> None:
        """For so many rows of so many tokens."""
        if rows <= self.rows and positions <= self.capacity:
            return
        if rows > self.rows:  # by the half again, up to all
            rows = min(self._most, max(rows, self.rows + self.rows // 2))
        self._resize(max(rows, self.rows), max(-(-positions // _GROWTH) * _GROWTH, self.capacity))

    def _resize(self, rows: int, capacity: int) -> None:
        for tensors in (self.keys, self.values):
            for layer, window in enumerate(self.shape.windows):
                old = tensors[layer]
                held, heads, length, head_dim = old.shape
                wanted = min(capacity, window) if window and self.rings else capacity
                # a layer may be larger already, where memory ran out in the middle of an earlier growth
                size = max(rows, held), heads, max(wanted, length), head_dim
                if size != old.shape:
                    tensors[layer] = self._grown(old, size)
        self.rows, self.capacity = rows, capacity

    def _grown(self, old: Tensor, size: tuple[int, ...]) -> Tensor:
        """`old` and zeros behind it: masked positions are still multiplied by 0, and 0 * NaN is NaN."""
        if old.device.type != "cpu":
            new = old.new_zeros(size)
            new[: old.shape[0], :, : old.shape[2]] = old
            return new
        new = paged(size, old.dtype)
        for into, held, length in zip(new, old, self._own, strict=False):  # there may be more rows than written ones
            own = min(length, old.shape[2])  # only pages that hold something are read, and written to
            into[:, :own] = held[:, :own]
        return new


class StackCache(_Store):
    """One path of tokens. A forward pass writes behind `length`; the caller then says how much of it stays."""

    def __init__(self, shape: CacheShape, dtype: torch.dtype, device: torch.device) -> None:
        self.length = 0
        super().__init__(shape, 1, dtype, device)

    @property
    def _own(self) -> list[int]:
        return [self.length]

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        end = self.length + keys.shape[2]
        self.keys[layer][:, :, self.length : end] = keys
        self.values[layer][:, :, self.length : end] = values
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]


class SlotCache(_Store):
    """Rows 0..active-1 are sequences being decoded, row r holding `lengths[r]` tokens."""

    rings = True

    def __init__(
        self, shape: CacheShape, slots: int, dtype: torch.dtype, device: torch.device, *, shares: bool = False
    ) -> None:
        """At most `slots` rows, made when needed, that grow together. `shares`: the model reads `prefixes`
        (`Decoder.shares_keys`)."""
        self.slots, self._shares = slots, shares
        self.lengths: list[int] = []
        self.prefixes: list[Tensor] = []
        """What each row reads before its slot: keys and values (layers, 2, heads, tokens, head dim), of 0 tokens where
        there is nothing. A prefix lives as long as a row refers to it."""
        super().__init__(shape, slots, dtype, device)
        self._none = torch.empty(len(shape.windows), 2, shape.heads, 0, shape.head_dim, dtype=dtype, device=device)
        self._index = torch.empty(0, dtype=torch.long)
        self._layout: SlotLayout
        self._places: dict[int | None, Tensor] = {}

    @property
    def active(self) -> int:
        return len(self.lengths)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes, each prefix counted once; in main memory rows take less, what they have written."""
        return super().nbytes + self.prefix_bytes

    @property
    def prefix_bytes(self) -> int:
        return sum(prefix.nbytes for prefix in set(self.prefixes))

    @property
    def held(self) -> list[int]:
        """Tokens of each row that are its prefix's."""
        return [prefix.shape[3] for prefix in self.prefixes]

    @property
    def _own(self) -> list[int]:
        return [length - held for length, held in zip(self.lengths, self.held, strict=True)]

    def shared(self, length: int) -> int:
        """How much of a common prefix of `length` tokens rows would share: all or nothing."""
        return length if self._shares and length >= _SHARED else 0

    def share(self, stack: StackCache, length: int) -> Tensor:
        """The stack's first `length` tokens as a prefix, if that is worth it, else one of no tokens.

        It is a copy, or what a row has already where that is the same to the last bit: keys of the same tokens, read in
        other passes, may differ there.
        """
        if not self.shared(length):
            return self._none
        wanted = [tensor[0, :, :length] for pair in zip(stack.keys, stack.values, strict=True) for tensor in pair]
        for prefix in set(self.prefixes):
            parts = prefix.flatten(0, 1)
            if prefix.shape[3] == length and all(map(_same_bits, parts, wanted)):
                return prefix
        return torch.stack(wanted).view(-1, 2, *wanted[0].shape)

    def admit(
        self,
        stack: StackCache,
        prefix: int,
        start: int,
        end: int,
        *,
        row: int | None = None,
        shared: Tensor | None = None,
    ) -> int:
        """Copy a sequence out of the stack: its first `prefix` tokens and the packed ones from `start` to `end`.

        The row refers to those that are in `shared` (from `share`) and copies the others. It takes the next free row,
        or replaces what is in `row`. Raises ValueError if no row is free.
        """
        length, shared = prefix + end - start, self._none if shared is None else shared
        held = shared.shape[3]
        if row is None:
            row = self.active
            if row == self.slots:
                raise ValueError(f"all {self.slots} slots are taken; release a row first")
        self.make_room(row + 1, length - held + 1)
        self.lengths[row : row + 1], self.prefixes[row : row + 1] = [length], [shared]
        for layer, window in enumerate(self.shape.windows):
            for target, origin in ((self.keys[layer], stack.keys[layer]), (self.values[layer], stack.values[layer])):
                if window is None or window >= length:
                    target[row, :, : prefix - held] = origin[0, :, held:prefix]
                    target[row, :, prefix - held : length - held] = origin[0, :, start:end]
                else:
                    places = torch.arange(length - window, length, device=origin.device)
                    origins = torch.where(places < prefix, places, places + start - prefix)
                    target[row, :, places % window] = origin[0, :, origins]
        return row

    def release(self, row: int) -> int:
        """Free a row. The last active row moves into its place; its old index is returned."""
        last = self.active - 1
        own = self._own[last]
        for tensor in (*self.keys, *self.values):
            self._empty(tensor[row])
            if row != last:
                kept = min(own, tensor.shape[2])
                tensor[row, :, :kept] = tensor[last, :, :kept]
                self._empty(tensor[last])
        self.lengths[row], self.prefixes[row] = self.lengths[last], self.prefixes[last]
        self.lengths.pop()
        self.prefixes.pop()
        return last

    def begin_step(self, steps: list[int]) -> SlotLayout:
        """Make room for one token per row, and say what it may read; `steps` are the rows' dynamic NTK steps."""
        device = self.keys[0].device
        own = self._own
        self.make_room(self.active, max(own) + 1)
        ends = torch.tensor(self.lengths, device=device)
        layout = SlotLayout(ends, torch.tensor(steps, device=device), max(self.lengths) + 1)
        return self.lay(layout, torch.tensor(own, device=device))

    def lay(self, layout: SlotLayout, places: Tensor) -> SlotLayout:
        """Let the next pass write one token into each of the first len(places) rows, in a layer without a window at
        `places`; room is made by the caller."""
        self._index = torch.arange(len(places), device=places.device)
        self._layout, self._places = layout, {None: places}
        return layout

    def end_step(self) -> None:
        self.lengths = [length + 1 for length in self.lengths]

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if any(self.held):
            raise ValueError("rows that share a prefix are read by the kernels alone")
        held_keys, held_values, places, _ = self.slots_of(layer)
        held_keys[self._index, :, places] = keys[:, :, 0]
        held_values[self._index, :, places] = values[:, :, 0]
        rows, read = len(keys), self._layout.keys(self.shape.windows[layer])
        return held_keys[:rows, :, :read], held_values[:rows, :, :read]

    @staticmethod
    def _empty(row: Tensor) -> None:
        if row.device.type == "cpu":
            give_back(row)

    def slots_of(self, layer: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """In this step: keys and values, where each row's new token goes (R,), and how many it reads (R,), those of its
        prefix too."""
        window = self.shape.windows[layer]
        if window is not None and window not in self._places:
            self._places[window] = self._layout.positions[:, 0] % window
        return self.keys[layer], self.values[layer], self._places[window], self._layout.lengths(window)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.view(torch.int16), other.view(torch.int16))


class SlotLayout:
    """One new token per row behind the row's own tokens; the keys of a layer with a window are its ring."""

    past: int | None = None

    def __init__(self, ends: Tensor, steps: Tensor, longest: int) -> None:
        self.positions, self.steps, self.longest = ends[:, None], steps[:, None], longest
        self._masks: dict[int | None, Tensor] = {}
        self._lengths: dict[int | None, Tensor] = {}

    def first_key(self, window: int | None) -> int:
        return 0

    def lengths(self, window: int | None) -> Tensor:
        """Keys (R,) that each row reads, its new one included."""
        if window not in self._lengths:
            held = self.positions[:, 0] + 1
            self._lengths[window] = held if window is None else held.clamp(max=window)
        return self._lengths[window]

    def keys(self, window: int | None) -> int:
        """How many of a row's keys the pass covers."""
        return self.longest if window is None else min(self.longest, window)

    def mask(self, window: int | None) -> Tensor:
        if window not in self._masks:
            held = self.lengths(window)
            reads = torch.arange(self.keys(window), device=held.device)[None, :] < held[:, None]
            self._masks[window] = reads[:, None, None, :]
        return self._masks[window]
