"""Decoding on the CPU: few rows against all weights. C++ where it can be used, torch otherwise.

`linear`, `linears`, `swiglu` and `rms_norm` decide by themselves and fall back to torch. `rotate_store`, `attend` and
`choose` are only for tensors of which `usable` is true; the caller has its own way for the others.

A row's result does not depend on the rows beside it or on the number of threads, bit for bit. $HARNESS_KERNELS=off
turns the kernels off.

Shape letters: R rows (tokens, one per sequence), N outputs, H query heads, K key-value heads, D head dim, V vocabulary.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from ctypes import c_char_p, c_float, c_int, c_int64, c_long, c_void_p
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from qwen_model.kernels import wide
from qwen_model.kernels.build import Unavailable, load
from qwen_model.kernels.codes import Codes
from qwen_model.progress import say

MAX_ROWS = 64
"""Rows of x up to which the kernels are used: beyond, torch's matrix products are as fast."""

_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_SIGNATURES: dict[str, list[Any]] = {
    "linear": [c_void_p, c_long, c_long, c_void_p, c_long, c_int],
    "swiglu": [c_void_p, c_long, c_long, c_void_p, c_void_p, c_long, c_int],
    "attend": [c_void_p] + [c_long] * 4 + [c_void_p] * 2 + [c_long] * 4 + [c_void_p, c_float, c_void_p, c_int],
    "rms_norm": [c_void_p, c_long, c_long, c_void_p, c_float, c_void_p, c_int],
    "rotate_store": [c_void_p] * 3 + [c_long] * 4 + [c_void_p] * 3 + [c_long] * 3 + [c_void_p, c_long, c_int],
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
                function.restype = c_int if name in ("attend", "rotate_store") else None
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
    return (
        x.device.type == "cpu"
        and x.dtype in _DTYPES
        and not torch.is_grad_enabled()
        and x.numel() > 0
        and not isinstance(_loaded(), str)
    )


def _call(name: str, dtype: torch.dtype, *arguments: Any) -> Any:
    loaded = _loaded()
    if isinstance(loaded, str):
        raise RuntimeError(f"the C++ kernels cannot be used: {loaded}")
    return loaded.of[name][dtype](*arguments, torch.get_num_threads())


def _matches(x: Tensor, *weights: Tensor | None) -> bool:
    """Whether weights (N, size) or (N) can be read as they lie."""
    return all(w is None or (w.dtype == x.dtype and w.device == x.device and w.is_contiguous()) for w in weights)


class Layer(NamedTuple):
    """A linear layer: weight (N, size), bias (N), and the codes of its weight.

    Codes are read in the weight's place, for few rows and while they stand for it; the results are the same bits.
    """

    weight: Tensor
    bias: Tensor | None = None
    codes: Codes | None = None


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, add: Tensor | None = None, codes: Codes | None = None
) -> Tensor:
    """x weight^T + bias, then + add: x (..., size), weight (N, size), bias (N), add and result (..., N).

    The product is rounded to x's dtype before `add` (a residual) is added, as with two torch operations. `codes` as in
    `Layer`.
    """
    (out,) = linears(x, [Layer(weight, bias, codes)], add)
    return out


def linears(x: Tensor, layers: Sequence[Layer], add: Tensor | None = None) -> list[Tensor]:
    """Several linear layers of the same x in one go; `add` is added to each."""
    size = x.shape[-1]
    fits = usable(x) and all(
        w.shape[-1] == size and (b is None or b.shape[0] == w.shape[0]) and _matches(x, w, b) for w, b, _ in layers
    )
    if fits and add is not None:
        fits = add.dtype == x.dtype and all(add.shape == (*x.shape[:-1], layer.weight.shape[0]) for layer in layers)
    if not fits:
        outs = [wide.linear(x, weight, bias) for weight, bias, _ in layers]
        if add is None:
            return outs
        return [out + add if torch.is_grad_enabled() else out.add_(add) for out in outs]
    x = x.contiguous()
    add = add if add is None else add.contiguous()
    outs, products = [], []
    for weight, bias, codes in layers:
        out = x.new_empty(*x.shape[:-1], weight.shape[0])
        outs.append(out)
        products += [*_read(weight, codes), _pointer(bias), _pointer(add), out.data_ptr(), weight.shape[0]]
    packed = (c_int64 * len(products))(*products)
    _call("linear", x.dtype, x.data_ptr(), x.numel() // size, size, packed, len(layers))
    return outs


def _pointer(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _read(weight: Tensor, codes: Codes | None) -> tuple[int, ...]:
    """What the kernels read a weight from."""
    return weight.data_ptr(), *(codes.pointers if codes is not None and codes.stand_for(weight) else (0, 0, 0, 0))


def swiglu(x: Tensor, gate: Tensor, up: Tensor, codes: tuple[Codes | None, Codes | None] = (None, None)) -> Tensor:
    """silu(x gate^T) * (x up^T): x (..., size), gate and up (N, size), their codes, result (..., N)."""
    size = x.shape[-1]
    if not (usable(x) and gate.shape == up.shape and gate.shape[-1] == size and _matches(x, gate, up)):
        gates, ups = wide.linear(x, gate), wide.linear(x, up)
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
        return F.rms_norm(x.float(), (size,), None, eps).to(x.dtype) * weight
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


def _check_cache(x: Tensor, keys: Tensor, values: Tensor) -> None:
    rows, dim = x.shape[0], x.shape[-1]
    same = keys.shape == values.shape and keys.stride() == values.stride() and keys.dtype == values.dtype == x.dtype
    if not (same and keys.stride(-1) == 1 and keys.shape[-1] == dim and keys.shape[0] >= rows):
        raise ValueError(f"a cache of {tuple(keys.shape)}, {keys.dtype} does not fit {tuple(x.shape)}, {x.dtype}")


def rotate_store(
    q: Tensor, k: Tensor, v: Tensor, turns: Sequence[Tensor], keys: Tensor, values: Tensor, places: Tensor
) -> Tensor:
    """Turn q and k by their angles (half-split rotation, in float32) and store k and v; returns the turned q (R, H, D).

    q (R, H, D); k, v (R, K, D); `turns` are cosine and sine of queries, cosine and sine of keys, (R, D) float32 each;
    keys, values (at least R, K, capacity, D), of which row r is written at position `places[r]` (int64).
    """
    rows, heads, dim = q.shape
    _check_cache(q, keys, values)
    if not (k.shape == v.shape == (rows, keys.shape[1], dim) and dim % 2 == 0):
        raise ValueError(f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)} differ")
    if any(turn.shape != (rows, dim) or turn.dtype != torch.float32 for turn in turns) or len(turns) != 4:
        raise ValueError(f"four turns of ({rows}, {dim}), float32, are wanted")
    if k.dtype != q.dtype or v.dtype != q.dtype:
        raise ValueError("q, k and v are of one dtype")
    q, k, v = q.clone(memory_format=torch.contiguous_format), k.contiguous(), v.contiguous()
    turns = [turn.contiguous() for turn in turns]
    packed = (c_int64 * 4)(*(turn.data_ptr() for turn in turns))
    strides = keys.stride()[:3]
    sizes = rows, heads, keys.shape[1], dim
    pointers = packed, keys.data_ptr(), values.data_ptr()
    ends = _indices(places, rows)
    tensors = q.data_ptr(), k.data_ptr(), v.data_ptr()
    wrong = _call("rotate_store", q.dtype, *tensors, *sizes, *pointers, *strides, ends.data_ptr(), keys.shape[2])
    if wrong:
        raise ValueError(f"places must lie within 0..{keys.shape[2] - 1}: {places.tolist()}")
    return q


def attend(q: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, scale: float | None = None) -> Tensor:
    """softmax(q k^T * scale) v with one query per row and grouped heads; scale defaults to 1 / sqrt(D).

    q (R, H, D); keys, values (at least R, K, capacity, D), strided, of which row r reads the first `lengths[r]`
    (int64, at least 1) positions, in whatever order they lie; the result is (R, H, D). Scores, softmax and sums are
    float32.
    """
    rows, heads, dim = q.shape
    _check_cache(q, keys, values)
    if heads % keys.shape[1]:
        raise ValueError(f"{heads} query heads do not divide into {keys.shape[1]} key-value heads")
    q, ends = q.contiguous(), _indices(lengths, rows)
    out = torch.empty_like(q)
    sizes = rows, heads, keys.shape[1], dim
    pointers = keys.data_ptr(), values.data_ptr()
    factor = dim**-0.5 if scale is None else scale
    rest = ends.data_ptr(), factor, out.data_ptr()
    if _call("attend", q.dtype, q.data_ptr(), *sizes, *pointers, *keys.stride()[:3], keys.shape[2], *rest):
        raise ValueError(f"lengths must lie within 1..{keys.shape[2]}: {lengths.tolist()}")
    return out


def _indices(of: Tensor, rows: int) -> Tensor:
    if of.dtype != torch.int64 or of.shape != (rows,):
        raise ValueError(f"one int64 per row is wanted, not {tuple(of.shape)}, {of.dtype}")
    return of.contiguous()


def choose(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest token of each row (R, V) and its log-probability in nats: (R) int64 and (R) float32.

    Of equal values the first wins; a NaN counts as the largest, as with torch.argmax.
    """
    logits = logits.contiguous()
    rows, size = logits.shape
    tokens, logprobs = torch.empty(rows, dtype=torch.int64), torch.empty(rows, dtype=torch.float32)
    _call("choose", logits.dtype, logits.data_ptr(), rows, size, tokens.data_ptr(), logprobs.data_ptr())
    return tokens, logprobs
