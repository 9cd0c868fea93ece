"""One `attend`: its back ends against each other, and what a window costs."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from qwen_model import kernels
from qwen_model.attention import attend
from qwen_model.layout import Packed, Plain

KERNELS = pytest.mark.skipif(kernels.unavailable() is not None, reason=f"no kernels: {kernels.unavailable()}")
STEP = torch.zeros(1, 1, dtype=torch.long)


def random_heads(rows, heads, groups, new, keys, dim=16, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((rows, heads, new, dim), (rows, heads // groups, keys, dim), (rows, heads // groups, keys, dim))
    return tuple(torch.randn(shape, generator=generator).to(dtype) for shape in shapes)


def dense(q, k, v, past, window):
    """The definition, in float64."""
    q, k, v = q.double(), k.double(), v.double()
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    distance = past + torch.arange(q.shape[2])[:, None] - torch.arange(k.shape[2])[None]
    hidden = (distance < 0) | (distance >= (window or 10**9))
    scores = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).masked_fill(hidden, -torch.inf)
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("window", [None, 1, 7, 100, 255, 256, 257, 300, 999])
@pytest.mark.parametrize(("past", "new"), [(0, 1), (0, 5), (0, 700), (40, 1), (40, 30), (600, 300)])
@pytest.mark.parametrize("backend", [pytest.param("kernels", marks=KERNELS), "sdpa", "banded", "flex", None])
def test_back_ends_agree_with_the_definition(backend, past, new, window):
    q, k, v = random_heads(2, 6, 3, new, past + new)
    layout = Plain(new, past=past, steps=STEP)
    with torch.inference_mode(backend == "kernels"):
        ours = attend(q, k, v, layout, window, backend)
    torch.testing.assert_close(ours.double(), dense(q, k, v, past, window), atol=2e-6, rtol=0)


@pytest.mark.parametrize("backend", [pytest.param("kernels", marks=KERNELS), "sdpa", "banded"])
def test_bfloat16(backend):
    q, k, v = random_heads(1, 4, 2, 600, 600, dtype=torch.bfloat16)
    with torch.inference_mode(backend == "kernels"):
        ours = attend(q, k, v, Plain(600, steps=STEP), 300, backend)
    torch.testing.assert_close(ours.double(), dense(q, k, v, 0, 300), atol=2e-2, rtol=0)


def test_gradients_flow_through_the_band():
    q, k, v = (x.double().requires_grad_() for x in random_heads(1, 2, 1, 300, 300))
    layout = Plain(300, steps=STEP)
    for backend in ("banded", "sdpa"):
        attend(q, k, v, layout, 40, backend).pow(2).sum().backward()
        grads, q.grad, k.grad, v.grad = (q.grad, k.grad, v.grad), None, None, None
        if backend == "banded":
            first = grads
    for ours, theirs in zip(first, grads, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_packed_rows_are_refused_by_bands():
    q, k, v = random_heads(1, 2, 1, 6, 6)
    with pytest.raises(ValueError, match="take sdpa"):
        attend(q, k, v, Packed(0, [(0, 3), (3, 6)], STEP), 2, "banded")


class Pairs(TorchDispatchMode):
    """Counts the query-key pairs that torch's attention is called with, masked ones too."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "scaled_dot_product" in str(function):
            self.count += args[0].shape[2] * args[1].shape[2]
        return function(*args, **(kwargs or {}))


def scores_computed(length, window, backend="banded"):
    q, k, v = random_heads(1, 2, 1, length, length)
    with Pairs() as pairs:
        attend(q, k, v, Plain(length, steps=STEP), window, backend)
    return pairs.count


def test_work_grows_with_length_times_window():
    window = 512
    pairs = {length: scores_computed(length, window) for length in (4096, 8192, 16384)}
    for length, computed in pairs.items():
        assert length * window * 0.9 < computed < length * (window + 256)
    assert pairs[16384] / pairs[8192] == pytest.approx(2, rel=0.05)
    assert scores_computed(4096, None, "sdpa") == 4096**2


@KERNELS
@pytest.mark.parametrize("window", [1, 100, 512])
def test_kernels_do_not_touch_what_a_block_of_queries_cannot_reach(window):
    """NaN times 0 is NaN: a key that is read but weighs nothing would show."""
    length, block = 2000, 48
    q, k, v = random_heads(1, 2, 1, length, length)
    expected = attend(q, k, v, Plain(length, steps=STEP), window, "banded")
    for start in range(0, length, block):
        poisoned_k, poisoned_v = k.clone(), v.clone()
        for x in (poisoned_k, poisoned_v):
            x[:, :, : max(0, (start - window + 1) // 64 * 64)] = float("nan")
            x[:, :, -(-(start + block) // 16) * 16 :] = float("nan")
        with torch.inference_mode():
            ours = attend(q, poisoned_k, poisoned_v, Plain(length, steps=STEP), window, "kernels")
        part = slice(start, start + block)
        torch.testing.assert_close(ours[:, :, part], expected[:, :, part], atol=2e-6, rtol=0)


@pytest.mark.parametrize("backend", [pytest.param("kernels", marks=KERNELS), "banded"])
def test_memory_grows_with_length_times_window(backend):
    from torch.profiler import ProfilerActivity, profile

    def largest(length):
        q, k, v = random_heads(1, 2, 1, length, length)
        with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            attend(q, k, v, Plain(length, steps=STEP), 512, backend)
        return max(event.cpu_memory_usage for event in recorded.key_averages() if event.cpu_memory_usage > 0)

    assert largest(8192) <= 2.2 * largest(4096)


@KERNELS
def test_kernels_are_refused_where_they_cannot_run():
    q, k, v = random_heads(1, 2, 1, 6, 6)
    with pytest.raises(ValueError, match=r"kernels: not for torch\.float64"):
        attend(q.double(), k.double(), v.double(), Plain(6, steps=STEP), None, "kernels")
