"""A GGUF file's fields, and its tensors' bytes by rows.

The gguf package's own reader makes several array objects for each of the hundreds of thousands of strings of a
vocabulary: seconds and hundreds of megabytes that this one does not need.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

_SCALARS = dict(enumerate(("B", "b", "H", "h", "I", "i", "f", "?"))) | {10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where a tensor's bytes are. `shape` counts numbers, slowest first; `kind` is a gguf.GGMLQuantizationType."""

    name: str
    shape: tuple[int, ...]
    kind: Any
    start: int
    row_bytes: int

    @property
    def rows(self) -> int:
        return prod(self.shape[:-1])


class GGUFFile:
    """A GGUF file (version 2 or 3, little-endian), open for reading.

    Raises ValueError, struct.error or UnicodeDecodeError for a file that is cut off or is none.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        if self._file.read(4) != b"GGUF":
            raise ValueError("does not begin as a GGUF file")
        version = self._scalar("I")
        if version not in (2, 3):
            raise ValueError(f"version {version} is not 2 or 3")
        count, fields = self._scalar("Q"), self._scalar("Q")
        self.fields: Mapping[str, Any] = {self._string(): self._value(self._scalar("I")) for _ in range(fields)}
        self.tensors: Sequence[StoredTensor] = self._places(count)

    def read(self, tensor: StoredTensor, start: int, stop: int) -> NDArray[numpy.uint8]:
        """The bytes of rows `start` to `stop`, (rows, bytes of a row)."""
        import numpy

        self._file.seek(tensor.start + start * tensor.row_bytes)
        flat = numpy.frombuffer(self._file.read((stop - start) * tensor.row_bytes), dtype=numpy.uint8)
        return flat.reshape(stop - start, tensor.row_bytes)

    def _places(self, count: int) -> list[StoredTensor]:
        import gguf

        stated = []
        for _ in range(count):
            name = self._string()
            shape = tuple(reversed(self._scalars("Q", self._scalar("I"))))
            stated.append((name, shape, gguf.GGMLQuantizationType(self._scalar("I")), self._scalar("Q")))
        align = self.fields.get("general.alignment", 32)
        if not isinstance(align, int) or align < 1:
            raise ValueError(f"alignment {align!r} is no number of bytes")
        data = -(-self._file.tell() // align) * align
        tensors = []
        for name, shape, kind, offset in stated:
            numbers, size = gguf.GGML_QUANT_SIZES[kind]
            if not shape or shape[-1] % numbers:
                raise ValueError(f"tensor {name} of shape {shape} cannot be {kind.name}")
            tensor = StoredTensor(
                name=name, shape=shape, kind=kind, start=data + offset, row_bytes=shape[-1] // numbers * size
            )
            if tensor.start + tensor.rows * tensor.row_bytes > self._size:
                raise ValueError(f"tensor {name} lies beyond the end of the file")
            tensors.append(tensor)
        return tensors

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            inner, count = self._scalar("I"), self._scalar("Q")
            if inner in _SCALARS:
                return self._scalars(_SCALARS[inner], count)
            return [self._value(inner) for _ in range(count)]
        if kind not in _SCALARS:
            raise ValueError(f"a field of type {kind}, which GGUF has not")
        return self._scalar(_SCALARS[kind])

    def _string(self) -> str:
        return self._bytes(self._scalar("Q")).decode("utf-8")

    def _scalar(self, code: str) -> Any:
        return self._scalars(code, 1)[0]

    def _scalars(self, code: str, count: int) -> list[Any]:
        size = struct.calcsize(f"<{code}")
        return list(struct.unpack(f"<{count}{code}", self._bytes(count * size)))

    def _bytes(self, count: int) -> bytes:
        if count > self._size:
            raise ValueError(f"{count} bytes are asked for in a file of {self._size}")
        return self._file.read(count)
