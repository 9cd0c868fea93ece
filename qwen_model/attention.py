"""One `attend` for every layout, window and machine.

`kernels`: C++, for inference on the CPU. `sdpa`: torch's attention, with a mask where the layout needs one. `banded`:
the same over blocks of queries, each with only the keys that its window reaches. `flex`: FlexAttention, the default for
windows on CUDA. Time and memory of all but `sdpa` grow with T x window, and all give the same numbers up to rounding.

R rows, H query heads, K key-value heads, T new tokens, S keys, D head dim.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from qwen_model import kernels
from qwen_model.layout import Layout, band

Backend = Literal["kernels", "sdpa", "banded", "flex"]

_BLOCK = 256
"""Queries per block: larger ones compute more scores outside the band, smaller ones feed the matrix products less."""


def attend(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, window: int | None = None, backend: Backend | None = None
) -> Tensor:
    """softmax(q k^T / sqrt(D)) v over the keys that the layout and the window allow.

    q (R, H, T, D); k, v (R, K, S, D), H a multiple of K. Returns (R, H, T, D).
    """
    first = layout.first_key(window)
    if first:
        k, v = k[:, :, first:], v[:, :, first:]
    offset, mask = (layout.past or 0) - first, layout.mask(window) if layout.past is None else None
    if backend == "kernels" or (backend is None and q.shape[2] > 1):
        out = kernels.attend(q, k, v, offset=offset, window=window, mask=mask)
        if out is not None:
            return out
        if backend is not None:
            raise ValueError(f"kernels: not for {q.dtype} on {q.device.type}, or with gradients")
    backend = backend or _choose(q, k, layout, window)
    if backend == "sdpa":
        return _sdpa(q, k, v, layout.mask(window), causal=layout.past == 0 and q.shape[2] > 1)
    if layout.past is None:
        raise ValueError(f"{backend}: only for unbroken texts; packed or padded rows take sdpa")
    return _banded(q, k, v, offset, window) if backend == "banded" else _flex(q, k, v, offset, window or k.shape[2])


def _choose(q: Tensor, k: Tensor, layout: Layout, window: int | None) -> Backend:
    new, keys = q.shape[2], k.shape[2]
    if layout.past is None or new == 1:
        return "sdpa"
    if window is not None and window < keys:
        return "flex" if q.device.type == "cuda" else "banded"
    # behind a long past the mask alone would be T x S, which a GPU has room for and the CPU no time
    return "banded" if layout.past > 0 and new > _BLOCK and q.device.type == "cpu" else "sdpa"


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    rows, heads, new, dim = q.shape
    groups = heads // k.shape[1]
    if new == 1 and groups > 1:
        # one query per head: the heads of a group stand in as query positions, and no key is copied
        out = _torchs(q.reshape(rows, k.shape[1], groups, dim), k, v, attn_mask=mask)
        return out.reshape(rows, heads, 1, dim)
    if groups > 1 and q.device.type == "cuda" and (mask is not None or q.dtype == torch.float32):
        # with a mask or in float32 only torch's plain way has grouped heads there, and that holds all T x S scores
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    return _torchs(q, k, v, attn_mask=mask, is_causal=causal and mask is None, enable_gqa=k.shape[1] != heads)


def _torchs(q: Tensor, k: Tensor, v: Tensor, **how: Any) -> Tensor:
    if q.device.type == "cpu" or torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v, **how)
    # cuDNN's makes a plan for every new shape, tens of milliseconds each, and here hardly a shape comes twice
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        return F.scaled_dot_product_attention(q, k, v, **how)


def _banded(q: Tensor, k: Tensor, v: Tensor, offset: int, window: int | None) -> Tensor:
    """Query t stands at key position offset + t."""
    new, keys = q.shape[2], k.shape[2]
    out = torch.empty_like(q)
    for start in range(0, new, _BLOCK):
        end = min(start + _BLOCK, new)
        low = 0 if window is None else max(0, offset + start - window + 1)
        high = min(keys, offset + end)
        mask = _block_mask(end - start, high - low, offset + start - low, window, q.device)
        out[:, :, start:end] = _sdpa(q[:, :, start:end], k[:, :, low:high], v[:, :, low:high], mask, causal=False)
    return out


@functools.lru_cache(maxsize=8)  # all blocks within a text but the first few have one and the same mask
def _block_mask(new: int, keys: int, offset: int, window: int | None, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # it may be kept from inference and be met again in training
        queries = torch.arange(offset, offset + new, device=device)
        return band(queries, torch.arange(keys, device=device), window)[None, None]


def _flex(q: Tensor, k: Tensor, v: Tensor, offset: int, window: int | None) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    kernel = _compiled_flex() if q.device.type == "cuda" else flex_attention
    block_mask = _flex_mask(q.shape[2], k.shape[2], offset, window, q.device)
    out: Tensor = kernel(q, k, v, block_mask=block_mask, enable_gqa=q.shape[1] != k.shape[1])
    return out


@functools.lru_cache(maxsize=8)  # one per distinct window and shape, shared by the layers
def _flex_mask(new: int, keys: int, offset: int, window: int | None, device: torch.device):  # type: ignore[no-untyped-def]
    from torch.nn.attention.flex_attention import create_block_mask

    def reads(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        distance = offset + query - key
        return (distance >= 0) & (distance < (window or keys + new))

    return create_block_mask(reads, None, None, new, keys, device=device)


@functools.cache
def _compiled_flex():  # type: ignore[no-untyped-def]
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)
