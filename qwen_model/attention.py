"""One `attend` for every layout, window and machine.

`sdpa`: torch's attention, with a mask where the layout needs one. `banded`: the same over blocks of queries, each with
only the keys that its window reaches, so time and memory grow with T x window. `merged`: the same without a mask on
the keys that a whole block reads, put together by the sums of exponentials; for inference on the CPU. `flex`:
FlexAttention, which skips the same blocks inside one kernel; the default for windows on CUDA. All give the same numbers
up to rounding.

R rows, H query heads, K key-value heads, T new tokens, S keys, D head dim.
"""

from __future__ import annotations

import functools
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from qwen_model.layout import Layout, band

Backend = Literal["sdpa", "banded", "merged", "flex"]

_BLOCK = 256
"""Queries per block: larger ones compute more scores outside the band, smaller ones feed the matrix products less."""
_MERGED_BLOCK = 128
_MERGED_LEAST = 2 * _MERGED_BLOCK
_MERGED_AT_ONCE = 8
"""Blocks computed together: enough to share among the processors, few enough that the pieces stay small."""


def attend(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, window: int | None = None, backend: Backend | None = None
) -> Tensor:
    """softmax(q k^T / sqrt(D)) v over the keys that the layout and the window allow.

    q (R, H, T, D); k, v (R, K, S, D), H a multiple of K. Returns (R, H, T, D).
    """
    first = layout.first_key(window)
    if first:
        k, v = k[:, :, first:], v[:, :, first:]
    backend = backend or _choose(q, k, layout, window)
    if backend == "sdpa":
        return _sdpa(q, k, v, layout.mask(window), causal=layout.past == 0 and q.shape[2] > 1)
    if layout.past is None:
        raise ValueError(f"{backend}: only for unbroken texts; packed or padded rows take sdpa")
    if backend == "merged" and (window is None or window < _MERGED_LEAST):
        raise ValueError(f"merged: only for windows of {_MERGED_LEAST} tokens and more; take banded")
    offset = layout.past - first
    if backend == "banded":
        return _banded(q, k, v, offset, window)
    return (_merged if backend == "merged" else _flex)(q, k, v, offset, window or k.shape[2])


def _choose(q: Tensor, k: Tensor, layout: Layout, window: int | None) -> Backend:
    new, keys = q.shape[2], k.shape[2]
    if layout.past is None or new == 1:
        return "sdpa"
    if window is not None and window < keys:
        if q.device.type == "cuda":
            return "flex"
        return "banded" if torch.is_grad_enabled() or window < _MERGED_LEAST else "merged"
    # behind a long past the mask alone would be T x S
    return "banded" if layout.past > 0 and new > _BLOCK else "sdpa"


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    rows, heads, new, dim = q.shape
    groups = heads // k.shape[1]
    if new == 1 and groups > 1:
        # one query per head: the heads of a group stand in as query positions, and no key is copied
        out = F.scaled_dot_product_attention(q.reshape(rows, k.shape[1], groups, dim), k, v, attn_mask=mask)
        return out.view(rows, heads, 1, dim)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal and mask is None, enable_gqa=groups > 1
    )


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


def _merged(q: Tensor, k: Tensor, v: Tensor, offset: int, window: int) -> Tensor:
    """A block of queries reads three runs of keys: a left edge, of which each query reads less than the one before it,
    a middle that all read, and its own tokens as a right edge. The edges take a mask, the middle none."""
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    size, (rows, heads, new, dim) = _MERGED_BLOCK, q.shape
    groups = heads // k.shape[1]
    begun = max(0, window - offset)  # earlier queries have no left edge
    blocks = max(0, new - begun) // size
    out = torch.empty_like(q)
    edges = torch.cat((torch.arange(1, size), torch.arange(window, window + size))).to(q.device)
    reads = band(torch.arange(window, window + size, device=q.device), edges, window)
    # the heads of a group stand side by side as queries of one head, so that no key is copied for them
    mask = torch.zeros(reads.shape, dtype=q.dtype).masked_fill(~reads, -torch.inf).repeat(groups, 1)[None, None]
    for first in range(0, blocks, _MERGED_AT_ONCE):
        count = min(_MERGED_AT_ONCE, blocks - first)
        start = begun + first * size
        at = slice(start, start + count * size)
        own = q[:, :, at].reshape(rows, -1, groups, count, size, dim).movedim(3, 1)
        own = own.reshape(rows * count, -1, groups * size, dim)

        def run(x: Tensor, low: int, width: int, start: int = start, count: int = count) -> Tensor:
            """Keys or values (R x blocks, K, width, D) that begin at `low`, counted from each block's first key."""
            begin = offset + start - window + low
            part = x[:, :, begin : begin + (count - 1) * size + width].unfold(2, width, size)
            return part.movedim(2, 1).mT.flatten(0, 1)  # mT first: the kernel wants D to be the contiguous one

        middle, middle_sums = flash(own, run(k, size, window - size), run(v, size, window - size))[:2]
        sides = [torch.cat((run(x, 1, size - 1), run(x, window, size)), 2) for x in (k, v)]
        side, side_sums = flash(own, *sides, attn_mask=mask)[:2]
        share = (middle_sums - side_sums).sigmoid()[..., None].to(q.dtype)
        both = torch.lerp(side, middle, share.expand_as(side)).reshape(rows, count, -1, groups, size, dim)
        out[:, :, at] = both.movedim(1, 3).reshape(rows, heads, count * size, dim)
    for at in (slice(0, begun), slice(begun + blocks * size, new)):
        if at.start < min(at.stop, new):
            out[:, :, at] = _banded(
                q[:, :, at], k[:, :, : offset + at.stop], v[:, :, : offset + at.stop], offset + at.start, window
            )
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
