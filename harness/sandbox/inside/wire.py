"""Values between a solution and its tests, as JSON: a closed set of types, each rebuilt as exactly itself.

None, booleans, text, lists and ordinary numbers are themselves; everything else is an object with one key that names
its type. What the code derives from these types is sent as what it derives from. Any other object stays where it is and
is sent as a token, which equals nothing and can only be passed back: no method of the code's ever comes along.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

MOST_BYTES = 32 << 20
MOST_ITEMS = 100_000
"""Of an iterator, which may have no end."""
SAFE_INTEGER = 1 << 53
SEQUENCES: dict[type, str] = {
    tuple: "tuple", set: "set", frozenset: "frozenset", deque: "deque",
    type({}.keys()): "set", type({}.items()): "set",
}  # fmt: skip
BASES = (bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, deque)


class Held:
    """An object of the solution's that stays there: here it equals nothing but itself and can only be passed back."""

    def __init__(self, kind: str, place: int) -> None:
        self.kind, self.place = kind, place

    def __repr__(self) -> str:
        return f"<{self.kind} of the solution>"


class Name:
    """What the solution calls by this name."""

    def __init__(self, name: str) -> None:
        self.name = name


HELD: list[object] = []
"""In the solution's process: what it has sent as a token."""
TYPES: dict[str, Any] = {kind.__name__: kind for kind in (*BASES, range, object)}
# Not imported for solutions that have no use for them: every page of a module is paid for by every fork.
STANDARD = {
    "Decimal": "decimal", "Fraction": "fractions",
    "date": "datetime", "datetime": "datetime", "time": "datetime", "timedelta": "datetime",
}  # fmt: skip


def _hold(value: object) -> object:
    HELD.append(value)
    return {"held": [type(value).__name__, len(HELD) - 1]}


def _standard(kind: type) -> str | None:
    """The name of a type of STANDARD."""
    name = kind.__name__
    module = sys.modules.get(STANDARD.get(name, ""))
    return name if module is not None and getattr(module, name, None) is kind else None


def _import(name: str) -> Any:
    return getattr(importlib.import_module(STANDARD[name]), name)


def _type(kind: type) -> object:
    named = TYPES.get(kind.__name__) is kind or _standard(kind)
    return {"type": kind.__name__} if named else _hold(kind)


def _plain(value: object) -> object:
    return value


ENCODERS: dict[type, Callable[[Any], object]] = {
    type(None): _plain,
    bool: _plain,
    str: _plain,
    int: lambda x: x if -SAFE_INTEGER < x < SAFE_INTEGER else {"int": hex(x)},
    float: lambda x: x if x - x == 0 else {"float": repr(x)},
    complex: lambda x: {"complex": [repr(x.real), repr(x.imag)]},
    bytes: lambda x: {"bytes": x.hex()},
    bytearray: lambda x: {"bytearray": x.hex()},
    range: lambda x: {"range": [encode(x.start), encode(x.stop), encode(x.step)]},
    list: lambda x: [encode(item) for item in list.__iter__(x)],
    dict: lambda x: {"dict": [[encode(key), encode(item)] for key, item in dict.items(x)]},
    type: lambda x: _type(x),
    Name: lambda x: {"name": x.name},
    Held: lambda x: {"held": [x.kind, x.place]},
}
DECODERS: dict[str, Callable[[Any], object]] = {
    "int": lambda x: int(x, 16),
    "float": float,
    "complex": lambda x: complex(float(x[0]), float(x[1])),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "range": lambda x: range(*map(decode, x)),
    "dict": lambda x: {decode(key): decode(item) for key, item in x},
    "Decimal": lambda x: _import("Decimal")(x),
    "Fraction": lambda x: _import("Fraction")(*map(decode, x)),
    "date": lambda x: _import("date").fromisoformat(x),
    "datetime": lambda x: _import("datetime").fromisoformat(x),
    "time": lambda x: _import("time").fromisoformat(x),
    "timedelta": lambda x: _import("timedelta")(*x),
    "tuple": lambda x: tuple(map(decode, x)),
    "set": lambda x: set(map(decode, x)),
    "frozenset": lambda x: frozenset(map(decode, x)),
    "deque": lambda x: deque(map(decode, x)),
    "iterator": lambda x: iter(list(map(decode, x))),
    "type": lambda x: TYPES[x] if x in TYPES else _import(x),
    "name": Name,
    "held": lambda x: Held(*x),
}

PARTS: dict[str, Callable[[Any], object]] = {
    "Decimal": str,
    "Fraction": lambda x: [encode(x.numerator), encode(x.denominator)],
    "timedelta": lambda x: [x.days, x.seconds, x.microseconds],
}
"""What a type of STANDARD is sent as; the others as their isoformat."""


def encode(value: Any) -> object:
    """The value as plain JSON types."""
    kind = type(value)
    if (encoder := ENCODERS.get(kind)) is not None:
        return encoder(value)
    if (name := SEQUENCES.get(kind)) is not None:
        return {name: [encode(item) for item in kind.__iter__(value)]}
    if (name := _standard(kind)) is not None:
        return {name: PARTS[name](value) if name in PARTS else value.isoformat()}
    for base in BASES:
        if isinstance(value, base):
            return encode(_bare(value, base))
    if isinstance(value, Iterator):
        items = []
        for item in value:
            items.append(encode(item))
            if len(items) == MOST_ITEMS:
                raise OverflowError(f"an iterator of more than {MOST_ITEMS} items")
        return {"iterator": items}
    return _hold(value)


def _bare(value: Any, base: Any) -> Any:
    """The value as its base type, by that type's own methods."""
    if base is dict:
        return dict(dict.items(value))
    if base in (int, bool, float):
        return base(getattr(base, f"__{'int' if base is int else 'float'}__")(value))
    if base is complex:
        return complex(complex.real.__get__(value), complex.imag.__get__(value))
    if base is str:
        return str.__str__(value)
    return base(base.__iter__(value))


def decode(data: Any) -> Any:
    """The value of encode()'s data; for what encode() never makes an error of a constructor's."""
    if type(data) is list:
        return [decode(item) for item in data]
    if type(data) is dict:
        ((kind, inner),) = data.items()
        return DECODERS[kind](inner)
    return data


class Channel:
    """Messages over a socket, each its length in 4 bytes and JSON. Not for two threads at once."""

    def __init__(self, fd: int) -> None:
        self._fd, self._read, self._write = fd, os.read, os.write

    def send(self, message: object) -> None:
        """Raises OSError when nobody is there."""
        data = json.dumps(message).encode()
        if len(data) > MOST_BYTES:
            raise OverflowError(f"a value of {len(data)} bytes; {MOST_BYTES} are the most")
        data = len(data).to_bytes(4, "little") + data
        while data:
            data = data[self._write(self._fd, data) :]

    def receive(self) -> Any:
        """The next message; raises EOFError when there is none any more, ValueError for what is no message."""
        size = int.from_bytes(self._exactly(4), "little")
        if size > MOST_BYTES:
            raise ValueError(f"a message of {size} bytes")
        return json.loads(self._exactly(size))

    def _exactly(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            if not (part := self._read(self._fd, size - len(parts))):
                raise EOFError
            parts += part
        return bytes(parts)
