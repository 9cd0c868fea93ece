"""The C++ kernels' layers and attention against float64."""

from __future__ import annotations

import pytest
import torch

from qwen_model import kernels
from qwen_model.kernels import Layer, Projection
from tests.qwen_model.kernel_cases import DTYPES, ROUNDING, OneLayer, random

if kernels.unavailable():
    pytest.skip(f"no kernels here: {kernels.unavailable()}", allow_module_level=True)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "lengths"),
    [(14, 2, 64, [1, 2, 700]), (4, 4, 128, [256, 257]), (6, 1, 40, [33]), (5, 5, 6, [9, 1]), (32, 2, 16, [2000])],
)
def test_layer(variant, dtype, heads, kv_heads, dim, lengths):
    of = OneLayer(dtype, heads, kv_heads, dim, lengths)
    before = of.x.clone()
    exact = of.exact()
    for ours, wanted in zip(of.run(), exact, strict=True):
        near = 2e-5 if dtype == torch.float32 else 0.06
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), wanted, atol=near, rtol=near, equal_nan=True)
    assert torch.equal(of.x, before)


def test_layers_follow_each_other(variant):
    first, second = (OneLayer(torch.float32, 4, 2, 16, [5, 9]) for _ in range(2))
    second.projections = [p._replace(weight=p.weight.flip(0)) for p in second.projections]
    one_by_one, *_ = first.run()
    second.x = one_by_one
    one_by_one, *_ = second.run()
    slots = [(of.keys, of.values, of.lengths - 1, of.lengths) for of in (first, second)]
    both = [Layer(of.norms, of.projections, of.turns, slot) for of, slot in zip((first, second), slots, strict=True)]
    assert torch.equal(kernels.layers(first.x, both, 1e-6), one_by_one)


def test_layer_reads_keys_in_any_order():
    """A window kept as a ring needs no mask."""
    of = OneLayer(torch.float32, 6, 2, 64, [100])
    plain, *_ = of.run()
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    of.keys[:, :, :100], of.values[:, :, :100] = of.keys[:, :, order], of.values[:, :, order]
    turned, *_ = of.run(places=(order == 99).nonzero()[0])
    torch.testing.assert_close(turned, plain, rtol=1e-5, atol=1e-6)


def test_layer_leaves_what_it_cannot_do():
    of = OneLayer(torch.float32, 4, 2, 16, [5, 9])
    of.projections[5] = of.projections[5]._replace(weight=of.projections[5].weight.T.contiguous().T)
    assert of.run()[0] is None
    with torch.enable_grad():
        assert OneLayer(torch.float32, 4, 2, 16, [5]).run()[0] is None


def test_layer_refuses_what_does_not_fit():
    def check(match, **change):
        of = OneLayer(torch.float32, 4, 2, 16, [5, 9])
        lengths, places = change.pop("lengths", None), change.pop("places", None)
        for name, value in change.items():
            setattr(of, name, value(of))
        with pytest.raises(ValueError, match=match):
            of.run(lengths=lengths, places=places)

    check("outside", places=torch.tensor([0, 12]))
    check("outside", places=torch.tensor([-1, 0]))
    check("outside", lengths=torch.tensor([5, 13]))
    check("outside", lengths=torch.tensor([0, 9]), places=torch.tensor([0, 0]))
    check("does not fit", keys=lambda of: of.keys.bfloat16())
    check("does not fit", values=lambda of: of.values[:, :, :-1])
    check("does not fit", keys=lambda of: of.keys[:1], values=lambda of: of.values[:1])
    check("float32", turns=lambda of: [turn.double() for turn in of.turns])
    check("is wanted", turns=lambda of: [turn[:, :, :8] for turn in of.turns])
    check("is wanted", norms=lambda of: [of.norms[0][:-1], of.norms[1]])
    check("is wanted", projections=lambda of: [*of.projections[:6], of.projections[0]])
    check("do not fit together", projections=lambda of: widened(of.projections, 24))


def widened(projections, queries):
    """With that many outputs of the query projection."""
    q, k, v, o, *rest = projections
    q = Projection(torch.zeros(queries, q.weight.shape[1]), torch.zeros(queries))
    return [q, k, v, Projection(torch.zeros(o.weight.shape[0], queries)), *rest]


def dense(q, k, v, reads):
    """Attention in float64 over the keys where `reads` (T, S) is true, and the size of what is summed."""
    q, k, v = q.double(), k.double(), v.double()
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    shares = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~reads, -torch.inf).softmax(-1).nan_to_num()
    return shares @ v, shares @ v.abs()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [None, 1, 30, 100])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "new", "past"),
    [(14, 2, 64, 131, 0), (4, 4, 128, 1, 70), (6, 1, 40, 49, 500), (5, 5, 6, 7, 3), (3, 1, 16, 200, 0)],
)
def test_attend(variant, dtype, window, heads, kv_heads, dim, new, past):
    keys = past + new
    # queries as they come from a projection, keys as a cache keeps them
    q = 3 * random(2, new, heads, dim, dtype=dtype).transpose(1, 2)
    k, v = (random(2, kv_heads, keys + 5, dim, dtype=dtype, seed=seed)[:, :, :keys] for seed in (1, 2))
    distance = past + torch.arange(new)[:, None] - torch.arange(keys)
    reads = (distance >= 0) & (distance < (window or keys))
    exact, size = dense(q, k, v, reads)
    ours = kernels.attend(q, k, v, offset=past, window=window)
    bound = ROUNDING[dtype] * (exact.abs() + size) + 1e-5 * size
    assert ours.dtype == dtype and ((ours - exact).abs() <= bound).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
def test_attend_with_a_mask(variant, dtype, rows, density):
    q, k, v = (random(2, heads, tokens, 24, dtype=dtype, seed=heads) for heads, tokens in ((4, 61), (2, 150), (2, 150)))
    mask = torch.rand(rows, 1, 61, 150, generator=torch.Generator().manual_seed(0)) < density
    mask[:, :, 5] = False
    exact, size = dense(q, k, v, mask)
    ours = kernels.attend(q, k, v, mask=mask)
    assert ((ours - exact).abs() <= ROUNDING[dtype] * (exact.abs() + size) + 1e-5 * size).all()
    assert not ours[:, :, 5].any()


def test_attend_refuses_what_does_not_fit():
    q, k = random(2, 4, 6, 8, dtype=torch.float32), random(2, 2, 9, 8, dtype=torch.float32)
    for keys in (k[:, :, :, :4], k[:1], random(2, 3, 9, 8, dtype=torch.float32)):
        with pytest.raises(ValueError, match="do not fit together"):
            kernels.attend(q, keys, keys)
    for mask in (torch.ones(2, 1, 6, 8, dtype=torch.bool), torch.ones(2, 1, 6, 9)):
        with pytest.raises(ValueError, match="mask"):
            kernels.attend(q, k, k, mask=mask)


@pytest.mark.parametrize("threads", [1, 3])
def test_attend_depends_neither_on_the_batch_nor_on_threads(variant, threads):
    before = torch.get_num_threads()
    q, k, v = (random(5, heads, 200, 32, dtype=torch.float32, seed=heads) for heads in (4, 2, 2))
    whole = kernels.attend(q, k, v, window=70)
    torch.set_num_threads(threads)
    try:
        assert torch.equal(kernels.attend(q[1:3], k[1:3], v[1:3], window=70), whole[1:3])
    finally:
        torch.set_num_threads(before)
