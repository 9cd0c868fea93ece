"""Writing a safetensors file tensor by tensor, so that memory never holds more than a piece of one.

The format: the length of the header (8 bytes, little-endian), a JSON header of types, shapes and places padded with
spaces, then the numbers. The bytes are those that the safetensors package writes, but that more spaces let the numbers
begin with a cache line: products of weights that are mapped from a file elsewhere take a tenth longer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I8": 1}

ALIGNMENT = 64
"""Bytes of which the place of the first number in the file is a multiple."""


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """A tensor to be written: its type as safetensors names it, its shape, and its bytes, made when they are needed."""

    kind: str
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[memoryview]]

    @property
    def size_bytes(self) -> int:
        return BYTES[self.kind] * prod(self.shape)


def write_safetensors(path: Path, tensors: Mapping[str, Outgoing]) -> None:
    """Write the file. Raises OSError where the disk does, and ValueError where a tensor's bytes are not as it says."""
    order = sorted(tensors, key=lambda name: (-BYTES[tensors[name].kind], name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        start, end = end, end + tensors[name].size_bytes
        header[name] = {"dtype": tensors[name].kind, "shape": tensors[name].shape, "data_offsets": (start, end)}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            written = sum(file.write(piece) for piece in tensors[name].pieces())
            if written != tensors[name].size_bytes:
                raise ValueError(f"{name}: {written} bytes, not {tensors[name].size_bytes}")
