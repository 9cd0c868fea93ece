"""Decoding on the CPU: few rows against all weights. C++ where it can be used, torch otherwise.

`linear`, `swiglu`, `rms_norm` and `rotate` decide by themselves and fall back to torch. `layers` says so where it
cannot, and `choose` is only for tensors of which `usable` is true; the caller has its own way for the others.

A row's result does not depend on the rows beside it or on the number of threads, bit for bit. $HARNESS_KERNELS=off
turns the kernels off.

Shape letters: R rows (tokens, one per sequence), N outputs, H query heads, K key-value heads, D head dim, V vocabulary.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Sequence
from ctypes import c_bool, c_char_p, c_float, c_int, c_int64, c_long, c_void_p
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from qwen_model.kernels import wide
from qwen_model.kernels.build import Unavailable, load
from qwen_model.kernels.codes import ALONE, Codes
from qwen_model.progress import say

MAX_ROWS = 64
"""Rows of x up to which the kernels are used: beyond, torch's matrix products are as fast."""

_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_SIGNATURES: dict[str, list[Any]] = {
    "linear": [c_void_p, c_long, c_long, c_void_p, c_int],
    "swiglu": [c_void_p, c_long, c_long, c_void_p, c_void_p, c_long, c_int],
    "layers": [c_void_p, c_long] + [c_void_p] * 4 + [c_long, c_float, c_float, c_int],
    "read": [c_void_p, c_float, c_int],
    "expand": [c_void_p] + [c_long] * 3 + [c_void_p, c_int],
    "rms_norm": [c_void_p, c_long, c_long, c_void_p, c_float, c_void_p, c_int],
    "gated": [c_void_p, c_void_p, c_long, c_int],
    "turn": [c_void_p] + [c_long] * 3 + [c_void_p] * 2 + [c_long, c_void_p, c_int],
    "choose": [c_void_p, c_long, c_long, c_void_p, c_void_p, c_int],
}


class _Kernels:
    """The C++ functions by name and dtype."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.of: dict[str, dict[torch.dtype, Any]] = {}
        for name, arguments in _SIGNATURES.items():
            self.of[name] = {dtype: getattr(library, f"{name}_{suffix}") for dtype, suffix in _DTYPES.items()}
            for function in self.of[name].values():
                function.argtypes = arguments
                function.restype = c_bool if name == "layers" else None
        library.instruction_set.restype = c_char_p
        self.instruction_set: str = library.instruction_set().decode()


@cache
def _loaded() -> _Kernels | str:
    """The kernels, or why there are none; said once on standard error."""
    if os.environ.get("HARNESS_KERNELS") == "off":
        return "turned off by $HARNESS_KERNELS"
    try:
        return _Kernels(load())
    except Unavailable as error:
        say(f"decoding with torch alone, slower: the C++ kernels cannot be used: {error}")
        return str(error)


def unavailable() -> str | None:
    """Why the kernels cannot be used here, in one line; None if they can. Compiles them at the first call."""
    loaded = _loaded()
    return loaded if isinstance(loaded, str) else None


def describe() -> str:
    """What CPU decoding runs on, for the record of a run: the instruction set, or torch and why."""
    loaded = _loaded()
    return f"torch ({loaded})" if isinstance(loaded, str) else f"C++ kernels, {loaded.instruction_set}"


def usable(x: Tensor) -> bool:
    """Whether the kernels can work on x (..., size): few rows, on the CPU, float32 or bfloat16, without gradients."""
    return x.numel() <= MAX_ROWS * x.shape[-1] and _readable(x)


def _readable(x: Tensor) -> bool:
    return not torch.is_grad_enabled() and x.numel() > 0 and _known(x)


def _known(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in _DTYPES and not isinstance(_loaded(), str)


def usable_with(weights: Iterable[Tensor]) -> bool:
    """Whether `layers` works with these weights wherever gradients are off and rows are few."""
    held = list(weights)
    return _known(held[0]) and _matches(held[0], *held)


def _call(name: str, dtype: torch.dtype, *arguments: Any) -> Any:
    loaded = _loaded()
    if isinstance(loaded, str):
        raise RuntimeError(f"the C++ kernels cannot be used: {loaded}")
    return loaded.of[name][dtype](*arguments, torch.get_num_threads())


def _matches(x: Tensor, *weights: Tensor | None) -> bool:
    """Whether weights (N, size) or (N) can be read as they lie."""
    return all(w is None or (w.dtype == x.dtype and w.device == x.device and w.is_contiguous()) for w in weights)


class Projection(NamedTuple):
    """A linear layer: weight (N, size), bias (N), and the codes of its weight.

    Codes are read in the weight's place while they stand for it; the results are the same bits.
    """

    weight: Tensor
    bias: Tensor | None = None
    codes: Codes | None = None


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, add: Tensor | None = None, codes: Codes | None = None
) -> Tensor:
    """x weight^T + bias, then + add: x (..., size), weight (N, size), bias (N), add and result (..., N).

    The product is rounded to x's dtype before `add` (a residual) is added, as with two torch operations. `codes` as in
    `Projection`.
    """
    size, outputs = x.shape[-1], weight.shape[0]
    fits = usable(x) and weight.shape[-1] == size and (bias is None or bias.shape[0] == outputs)
    if fits and add is not None:
        fits = add.dtype == x.dtype and add.shape == (*x.shape[:-1], outputs)
    if not fits or not _matches(x, weight, bias):
        out = _wide(x, weight, bias, codes)
        if add is None:
            return out
        return out + add if torch.is_grad_enabled() else out.add_(add)
    x = x.contiguous()
    add = add if add is None else add.contiguous()
    out = x.new_empty(*x.shape[:-1], outputs)
    packed = (c_int64 * 9)(*_read(weight, codes), _pointer(bias), _pointer(add), out.data_ptr(), outputs)
    _call("linear", x.dtype, x.data_ptr(), x.numel() // size, size, packed)
    return out


def _wide(x: Tensor, weight: Tensor, bias: Tensor | None, codes: Codes | None) -> Tensor:
    """`linear` of many rows: where the weight is left in its file, its numbers are expanded for this product."""
    alone = x.dtype == ALONE and _readable(x) and _matches(x, weight)
    if codes is None or not (alone and codes.stand_for(weight)):
        return wide.linear(x, weight, bias)
    read, size = (c_int64 * 5)(*_read(weight, codes)), weight.shape[-1]

    def expand(first: int, numbers: Tensor) -> None:
        _call("expand", x.dtype, read, first, len(numbers), size, numbers.data_ptr())

    return wide.by_strips(x, len(weight), bias, expand)


def _pointer(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _read(weight: Tensor, codes: Codes | None) -> tuple[int, ...]:
    """What the kernels read a weight from."""
    return weight.data_ptr(), *(codes.pointers if codes is not None and codes.stand_for(weight) else (0, 0, 0, 0))


def swiglu(x: Tensor, gate: Tensor, up: Tensor, codes: tuple[Codes | None, Codes | None] = (None, None)) -> Tensor:
    """silu(x gate^T) * (x up^T): x (..., size), gate and up (N, size), their codes, result (..., N)."""
    size = x.shape[-1]
    if not (usable(x) and gate.shape == up.shape and gate.shape[-1] == size and _matches(x, gate, up)):
        gates, ups = (_wide(x, weight, None, its) for weight, its in zip((gate, up), codes, strict=True))
        if not _readable(gates):
            return F.silu(gates) * ups
        _call("gated", gates.dtype, gates.data_ptr(), ups.data_ptr(), gates.numel())
        return gates
    x = x.contiguous()
    out = x.new_empty(*x.shape[:-1], gate.shape[0])
    packed = (c_int64 * 10)(*_read(gate, codes[0]), *_read(up, codes[1]))
    _call("swiglu", x.dtype, x.data_ptr(), x.numel() // size, size, packed, out.data_ptr(), gate.shape[0])
    return out


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x (..., size) over its root mean square, in float32; cast back, then times weight (size)."""
    size = x.shape[-1]
    if not (_readable(x) and weight.shape == (size,) and _matches(x, weight)):
        return F.rms_norm(x.float(), (size,), None, eps).to(x.dtype) * weight.to(x.dtype)
    x = x.contiguous()
    out = torch.empty_like(x)
    _call("rms_norm", x.dtype, x.data_ptr(), x.numel() // size, size, weight.data_ptr(), eps, out.data_ptr())
    return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + D/2]) of x (R, T, H, D) by its angle, in float32; cos, sin (R or 1, T, D) float32."""
    *_, heads, dim = x.shape
    if not (_readable(x) and cos.dtype == sin.dtype == torch.float32 and cos.shape == sin.shape):
        half, wide_x = dim // 2, x.float()
        turned = torch.cat((-wide_x[..., half:], wide_x[..., :half]), dim=-1)
        return (wide_x * cos[:, :, None] + turned * sin[:, :, None]).to(x.dtype)
    x, cos, sin = x.contiguous(), cos.contiguous(), sin.contiguous()
    out = torch.empty_like(x)
    tokens, turns = x.numel() // (heads * dim), cos.numel() // dim
    pointers = cos.data_ptr(), sin.data_ptr(), turns, out.data_ptr()
    _call("turn", x.dtype, x.data_ptr(), tokens, heads, dim, *pointers)
    return out


class Layer(NamedTuple):
    """A layer of the decoder, and what it needs to take one new token per row: H query and K key-value heads of D."""

    norms: Sequence[Tensor]
    """Those before attention and before the gate, (size) each."""
    projections: Sequence[Projection]
    """Query, key, value, output, gate, up, down."""
    turns: Sequence[Tensor]
    """Cosine and sine of queries, cosine and sine of keys, (R, 1, D) float32, for the half-split rotation."""
    slots: Sequence[Tensor]
    """Keys and values (at least R, K, capacity, D), strided; the place at which a row's own key is put, and how many
    keys it then reads, those of its prefix and then its slot's from 0 on and in whatever order, (R) int64 each."""


def layers(x: Tensor, of: Sequence[Layer], eps: float, prefixes: Sequence[Tensor] = ()) -> Tensor | None:
    """One new token per row, x (R, 1, size), through layers of one shape; None where the kernels cannot.

    `prefixes` (R of them, or none): keys and values (layers, 2, K, P, D) that a row reads before those of its slot; P
    may be 0, and rows may have the same one. A row's result is, to the bit, what it is with all of them in its slot.
    Scores, softmax and sums are float32. Raises ValueError for what does not fit together.
    """
    tensors = [t for one in of for t in (*one.norms, *(p.weight for p in one.projections))]
    if not (usable(x) and _matches(x, *tensors, *(p.bias for one in of for p in one.projections))):
        return None
    packed: tuple[list[int], list[int], list[int]] = [], [], []
    for one in of:
        for numbers, more in zip(packed, _packed(x, one), strict=True):
            numbers += more
    out = x.clone(memory_format=torch.contiguous_format)
    keys = of[0].slots[0]
    arrays = ((c_int64 * len(numbers))(*numbers) for numbers in (*packed, _shared(x, keys, len(of), prefixes)))
    dim = keys.shape[-1]
    if not _call("layers", x.dtype, out.data_ptr(), x.shape[0], *arrays, len(of), eps, dim**-0.5):
        raise ValueError("a place or a length is outside the cache")
    return out


def _shared(x: Tensor, keys: Tensor, count: int, prefixes: Sequence[Tensor]) -> list[int]:
    """The struct Prefix of attend.h for each row."""
    if not prefixes:
        return [0, 0] * x.shape[0]
    for prefix in set(prefixes):
        fits = prefix.shape == (count, 2, keys.shape[1], prefix.shape[-2], keys.shape[-1]) and prefix.is_contiguous()
        if not fits or prefix.dtype != x.dtype or len(prefixes) != x.shape[0]:
            raise ValueError(
                f"prefixes of {tuple(prefix.shape)}, {prefix.dtype} do not fit {count} layers of the cache"
            )
    return [number for prefix in prefixes for number in (prefix.data_ptr(), prefix.shape[-2])]


def _packed(x: Tensor, of: Layer) -> tuple[list[int], list[int], list[int]]:
    """The structs Layer, Turns and Slots of layer.h."""
    norms, projections, turns, (keys, values, places, lengths) = of
    matrices, biases = [p.weight for p in projections], [p.bias for p in projections[:4]]
    rows, hidden, kv_heads, dim = x.shape[0], x.shape[-1], keys.shape[1], keys.shape[-1]
    queries, read, inner = matrices[0].shape[0], kv_heads * dim, matrices[4].shape[0]
    outputs = queries, read, read, hidden, inner, inner, hidden
    inputs = hidden, hidden, hidden, queries, hidden, hidden, inner
    wanted = [(x, (rows, 1, hidden)), *((norm, (hidden,)) for norm in norms)]
    wanted += zip(matrices, zip(outputs, inputs, strict=True), strict=True)
    wanted += [(bias, (size,)) for bias, size in zip(biases, outputs, strict=False) if bias is not None]
    wanted += [(turn, (rows, 1, dim)) for turn in turns] + [(places, (rows,)), (lengths, (rows,))]
    for tensor, shape in wanted:
        if tensor.shape != shape:
            raise ValueError(f"a tensor of {tuple(tensor.shape)} stands where one of {shape} is wanted")
    if queries % read or dim % 2:
        raise ValueError(f"{queries} query outputs, {kv_heads} key-value heads of {dim} do not fit together")
    same = keys.shape == values.shape and keys.stride() == values.stride() and keys.dtype == values.dtype == x.dtype
    if not (same and keys.stride(-1) == 1 and keys.shape[0] >= rows):
        raise ValueError(f"a cache of {tuple(keys.shape)}, {keys.dtype} does not fit {rows} rows of {x.dtype}")
    if any(turn.dtype != torch.float32 for turn in turns) or {places.dtype, lengths.dtype} != {torch.int64}:
        raise ValueError("turns are float32, places and lengths int64")
    if not all(tensor.is_contiguous() for tensor in (*turns, places, lengths)):
        raise ValueError("turns, places and lengths lie row by row")
    pointers = [number for projection in projections for number in _read(projection.weight, projection.codes)]
    pointers += [_pointer(tensor) for tensor in (*biases, *norms)]
    sizes = hidden, inner, queries // dim, kv_heads, dim
    strides = *keys.stride()[:3], keys.shape[2]
    slots = keys.data_ptr(), values.data_ptr(), *strides, places.data_ptr(), lengths.data_ptr()
    return [*pointers, *sizes], [turn.data_ptr() for turn in turns], list(slots)


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, offset: int = 0, window: int | None = None, mask: Tensor | None = None
) -> Tensor | None:
    """softmax(q k^T / sqrt(D)) v with grouped heads; None where the kernels cannot.

    q (R, H, T, D); k, v (R, K, S, D), H a multiple of K. Query t stands at key position `offset` + t and reads the keys
    up to that one, of these the last `window`; or, in their place, those where `mask` (R or 1, 1, T, S), bool, is true.
    A query that may read nothing gives 0. Scores, softmax and sums are float32; the keys' shares are of q's dtype.
    The result is (R, H, T, D), of which the heads of a token lie side by side.
    """
    (rows, heads, new, dim), (_, kv_heads, keys, _) = q.shape, k.shape
    if not (_readable(q) and k.dtype == v.dtype == q.dtype and keys > 0 and k.device == v.device == q.device):
        return None
    if k.shape != v.shape or k.shape != (rows, kv_heads, keys, dim) or heads % kv_heads:
        raise ValueError(f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)} do not fit together")
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    out = q.new_empty(rows, new, heads, dim).transpose(1, 2)
    reach = [offset, keys + new if window is None else window, 0, 0, 0]
    if mask is not None:
        if mask.dtype != torch.bool or mask.shape not in ((rows, 1, new, keys), (1, 1, new, keys)):
            raise ValueError(f"a mask of {tuple(mask.shape)}, {mask.dtype} does not fit {rows} rows, {new} x {keys}")
        mask = mask if mask.stride(-1) == 1 else mask.contiguous()
        mask_row, _, mask_query, _ = mask.expand(rows, 1, new, keys).stride()
        reach[2:] = mask.data_ptr(), mask_row, mask_query
    tensors = [number for x in (q, k, v, out) for number in (x.data_ptr(), *x.stride()[:3])]
    packed = (c_int64 * 27)(*tensors, *reach, rows, heads, kv_heads, new, keys, dim)
    _call("read", q.dtype, packed, dim**-0.5)
    return out


def choose(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest token of each row (R, V) and its log-probability in nats: (R) int64 and (R) float32.

    Of equal values the first wins; a NaN counts as the largest, as with torch.argmax.
    """
    logits = logits.contiguous()
    rows, size = logits.shape
    tokens, logprobs = torch.empty(rows, dtype=torch.int64), torch.empty(rows, dtype=torch.float32)
    _call("choose", logits.dtype, logits.data_ptr(), rows, size, tokens.data_ptr(), logprobs.data_ptr())
    return tokens, logprobs
