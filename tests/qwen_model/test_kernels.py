"""The C++ kernels give what float64 gives, whatever stands beside a row, and say so when they cannot run."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_model import kernels
from qwen_model.kernels import Layer, Projection, build
from qwen_model.kernels.codes import Codes, expand

if kernels.unavailable():
    pytest.skip(f"no kernels here: {kernels.unavailable()}", allow_module_level=True)

DTYPES = [torch.float32, torch.bfloat16]
# half a unit in the last place, relative
ROUNDING = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}
VARIANTS = {
    "native": (),
    "no-bf16": ("-mno-avx512bf16",),
    "avx2": ("-mno-avx512f",),
    "sse": ("-mno-avx",),
}


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture(params=list(VARIANTS))
def variant(request, monkeypatch):
    """Each instruction set that this processor can run, by turns."""
    if request.param != "native" and "avx512_bf16" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("variants are compiled on a processor that has them all")
    loaded = kernels._Kernels(build.load((*build.FLAGS, *VARIANTS[request.param])))
    monkeypatch.setattr(kernels, "_loaded", lambda: loaded)
    return loaded


def random(*shape, dtype, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def product(x, weight, bias=None):
    """x weight^T + bias in float64, and a bound on the error of float32 sums of it."""
    x, weight = x.double(), weight.double()
    exact = F.linear(x, weight, None if bias is None else bias.double())
    # each of the size additions rounds a partial sum, which is at most the sum of magnitudes
    return exact, (x.shape[-1] + 2) * 2.0**-24 * (F.linear(x.abs(), weight.abs()) + exact.abs()) + 1e-30


def check_linear(dtype, rows, size, outputs):
    x, weight = random(rows, size, dtype=dtype), random(outputs, size, dtype=dtype, seed=1)
    bias, add = random(outputs, dtype=dtype, seed=2), random(rows, outputs, dtype=dtype, seed=3)
    exact, slack = product(x, weight)
    plain = kernels.linear(x, weight)
    assert plain.dtype == dtype
    assert ((plain - exact).abs() <= ROUNDING[dtype] * exact.abs() + 2 * slack).all()
    both, slack = product(x, weight, bias)
    out = kernels.linear(x, weight, bias, add)
    bound = ROUNDING[dtype] * (2 * both.abs() + (both + add).abs()) + 2 * slack
    assert ((out - (both + add)).abs() <= bound).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("rows", "size", "outputs"), [(1, 896, 128), (16, 64, 33), (5, 77, 3), (64, 31, 1), (7, 1, 50)]
)
def test_linear_of_each_instruction_set(variant, dtype, rows, size, outputs):
    check_linear(dtype, rows, size, outputs)


@given(st.sampled_from(DTYPES), st.integers(1, 64), st.integers(1, 300), st.integers(1, 100))
@settings(max_examples=60, deadline=None)
def test_linear_of_any_shape(dtype, rows, size, outputs):
    check_linear(dtype, rows, size, outputs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "size", "outputs"), [(1, 896, 200), (17, 50, 37), (64, 33, 16)])
def test_swiglu(variant, dtype, rows, size, outputs):
    x = random(rows, size, dtype=dtype)
    gate, up = (random(outputs, size, dtype=dtype, seed=seed) for seed in (1, 2))
    (g, g_slack), (u, u_slack) = product(x, gate), product(x, up)
    # the slope of silu is below 1.1; gate, up, silu and their product are rounded once each
    bound = 5 * ROUNDING[dtype] * (g * u).abs() + 2 * (1.1 * g_slack * (u.abs() + u_slack) + g.abs() * u_slack)
    bound += 2.0**-21 * (F.silu(g) * u).abs()
    assert ((kernels.swiglu(x, gate, up) - F.silu(g) * u).abs() <= bound + 1e-30).all()


def coded(outputs, size, group, with_mins, dtype, seed=0):
    """A weight and its codes, of scales and minima with as few digits as GGUF's (codes use all that int8 holds)."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-128, 128, (outputs, size), dtype=torch.int8, generator=generator)
    codes.view(-1)[:2] = torch.tensor([-128, 127])
    scales, mins = (random(outputs, size // group, dtype=torch.float16, seed=seed + i).float() / 64 for i in (1, 2))
    scales.view(-1)[0] = 0
    mins = mins if with_mins else None
    # a tensor made in inference mode does not count its changes
    with torch.inference_mode(False):
        weight = expand(codes, scales, mins, dtype)
        return weight, Codes(weight, codes, scales, mins)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group", [16, 32])
@pytest.mark.parametrize("with_mins", [False, True])
@pytest.mark.parametrize("outputs", [1, 37, 64])
def test_codes_give_the_bits_that_their_weight_gives(variant, dtype, group, with_mins, outputs):
    weight, codes = coded(outputs, 160, group, with_mins, dtype)
    up, up_codes = coded(outputs, 160, group, not with_mins, dtype, seed=5)
    bias, x = random(outputs, dtype=dtype), random(64, 160, dtype=dtype)
    for rows in (1, 2, 3, 4, 5, 6, 7, 16, 64):
        few, add = x[:rows], random(rows, outputs, dtype=dtype, seed=rows)
        out = kernels.linear(few, weight, bias, add, codes)
        assert torch.equal(out, kernels.linear(few, weight, bias, add))
        plain = kernels.swiglu(few, weight, up)
        for read in ((codes, up_codes), (None, up_codes), (codes, None)):
            assert torch.equal(kernels.swiglu(few, weight, up, read), plain)


def test_codes_are_what_is_read_while_the_weight_is_unchanged(variant):
    """Seen by putting a wrong code where no right one can be mistaken for it."""
    x = random(1, 64, dtype=torch.float32)

    def wrong():
        weight, codes = coded(8, 64, 32, False, torch.float32)
        codes.codes.add_(1)
        return weight, codes

    weight, codes = wrong()
    right = kernels.linear(x, weight)
    assert not torch.equal(kernels.linear(x, weight, codes=codes), right)
    weight.mul_(1)
    assert torch.equal(kernels.linear(x, weight, codes=codes), right)
    weight, codes = wrong()
    assert torch.equal(kernels.linear(x, weight.clone(), codes=codes), right)
    weight.data = weight.clone()
    assert torch.equal(kernels.linear(x, weight, codes=codes), right)


def test_codes_that_do_not_fit_are_refused():
    codes, scales = torch.zeros(4, 64, dtype=torch.int8), torch.ones(4, 2)
    with torch.inference_mode(False):
        weight = torch.zeros(4, 64)
        for wrong in (
            (weight[:2], codes, scales, None),
            (weight, codes, torch.ones(4, 1), None),
            (weight, codes, scales, torch.ones(4, 4)),
            (weight, codes.short(), scales, None),
            (weight, codes, scales.double(), None),
            (weight, codes.T.contiguous().T, scales, None),
        ):
            with pytest.raises(ValueError, match="codes"):
                Codes(*wrong)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "size"), [(1, 896), (40, 896), (3, 7)])
def test_rms_norm(variant, dtype, rows, size):
    x, weight = random(rows, size, dtype=dtype), random(size, dtype=dtype, seed=1)
    wide = x.double()
    exact = wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight.double()
    bound = (2.1 * ROUNDING[dtype] + 2.0**-21) * exact.abs()
    assert ((kernels.rms_norm(x, weight, 1e-6) - exact).abs() <= bound).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shared", [True, False])
def test_rotate(variant, dtype, shared):
    x = random(2, 300, 3, 10, dtype=dtype)
    angles = random(1 if shared else 2, 300, 5, dtype=torch.float32, seed=1).repeat(1, 1, 2)
    turned = torch.view_as_complex(torch.stack(x.double().chunk(2, -1), -1)) * torch.polar(
        torch.ones_like(angles[:, :, None, :5]).double(), angles[:, :, None, :5].double()
    )
    exact = torch.cat((turned.real, turned.imag), -1)
    ours = kernels.rotate(x, angles.cos(), angles.sin())
    assert ours.dtype == dtype
    size = x.double().abs() + x.double().roll(5, -1).abs()
    assert ((ours - exact).abs() <= ROUNDING[dtype] * exact.abs() + 2.0**-22 * size).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_rows_of_a_gate(variant, dtype):
    x, gate, up = random(2, 100, 40, dtype=dtype), *(random(70, 40, dtype=dtype, seed=seed) for seed in (1, 2))
    g, u = F.linear(x, gate), F.linear(x, up)
    ours = kernels.swiglu(x, gate, up)
    few = torch.cat([kernels.swiglu(part, gate, up) for part in x.flatten(0, 1).split(20)]).view_as(ours)
    near = {"atol": 1e-5, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 0.1, "rtol": 0.02}
    torch.testing.assert_close(ours, F.silu(g) * u, **near)
    torch.testing.assert_close(ours, few, **near)


class OneLayer:
    """A layer of random weights and a cache that is filled up to each row's new token, with NaN behind it."""

    def __init__(self, dtype, heads, kv_heads, dim, lengths, hidden=48, inner=72):
        self.dtype, self.heads, self.kv_heads, self.dim = dtype, heads, kv_heads, dim
        queries, read = heads * dim, kv_heads * dim
        shapes = [(queries, hidden), (read, hidden), (read, hidden), (hidden, queries)]
        shapes += [(inner, hidden), (inner, hidden), (hidden, inner)]
        self.projections = [
            # scores far from equal, so that a wrong key shows
            Projection(random(*shape, dtype=dtype, seed=i) * (2 if i < 2 else 1) * shape[1] ** -0.5)
            for i, shape in enumerate(shapes)
        ]
        for i in range(3):
            self.projections[i] = self.projections[i]._replace(bias=random(shapes[i][0], dtype=dtype, seed=20 + i))
        self.norms = [1 + random(hidden, dtype=dtype, seed=30 + i) / 4 for i in range(2)]
        rows, capacity = len(lengths), max(lengths) + 3
        self.x = random(rows, 1, hidden, dtype=dtype, seed=40)
        angles = random(rows, 1, dim // 2, dtype=torch.float32, seed=41).repeat(1, 1, 2)
        self.turns = [1.5 * angles.cos(), 1.5 * angles.sin(), angles.cos(), angles.sin()]
        # a cache with more rows and room than are used, its strides not the plain ones
        cache = random(2, rows + 1, capacity, kv_heads, dim, dtype=dtype, seed=42).transpose(2, 3)
        self.keys, self.values = cache[0], cache[1]
        self.lengths = torch.tensor(lengths)
        for row, length in enumerate(lengths):
            cache[:, row, :, length - 1 :] = float("nan")

    def run(self, rows=None, lengths=None, places=None):
        lengths = self.lengths if lengths is None else lengths
        keys, values = self.keys.clone(), self.values.clone()
        places = lengths - 1 if places is None else places
        count = len(lengths) if rows is None else rows
        turns = [turn[:count] for turn in self.turns]
        slots = keys, values, places[:count], lengths[:count]
        layer = Layer(self.norms, self.projections, turns, slots)
        return kernels.layers(self.x[:count], [layer], 1e-6), keys, values

    def exact(self):
        """The same in float64, rounded nowhere."""
        x, keys, values = self.x.double()[:, 0], self.keys.double(), self.values.double()
        weights = [(p.weight.double(), 0 if p.bias is None else p.bias.double()) for p in self.projections]
        norms = [norm.double() for norm in self.norms]

        def normed(x, weight):
            return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight

        def times(x, i):
            return x @ weights[i][0].T + weights[i][1]

        def turned(x, cos, sin):
            low, high = x.chunk(2, -1)
            return x * cos.double() + torch.cat((-high, low), -1) * sin.double()

        first = normed(x, norms[0])
        q, k, v = (times(first, i).view(len(x), -1, self.dim) for i in range(3))
        q, k = turned(q, *self.turns[:2]), turned(k, *self.turns[2:])
        read = torch.empty(len(x), self.heads, self.dim, dtype=torch.float64)
        for row, length in enumerate(self.lengths.tolist()):
            keys[row, :, length - 1], values[row, :, length - 1] = k[row], v[row]
            own_keys, own_values = (
                t[row, :, :length].repeat_interleave(self.heads // self.kv_heads, 0) for t in (keys, values)
            )
            scores = (own_keys @ q[row][..., None]).squeeze(-1) * self.dim**-0.5
            read[row] = (torch.softmax(scores, -1)[..., None] * own_values).sum(1)
        x = x + times(read.flatten(1), 3)
        second = normed(x, norms[1])
        return (x + times(F.silu(times(second, 4)) * times(second, 5), 6))[:, None], keys, values


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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 100, 4096, 9000])
def test_choose(variant, dtype, size):
    logits = random(5, size, dtype=dtype) * 5
    logits[1] = 0
    tokens, logprobs = kernels.choose(logits)
    assert torch.equal(tokens[2:], logits[2:].argmax(-1)) and tokens[1] == 0
    exact = logits.double().log_softmax(-1).max(-1).values
    assert (logprobs - exact).abs().max() < 1e-5
    logits[3, size // 2] = float("nan")
    tokens, logprobs = kernels.choose(logits)
    assert tokens[3] == size // 2 and logprobs[3].isnan() and not logprobs[2].isnan()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 3])
def test_a_row_depends_neither_on_its_batch_nor_on_threads(variant, dtype, threads):
    before = torch.get_num_threads()
    weight, gate, up = (random(100, 333, dtype=dtype, seed=seed) for seed in range(3))
    x = random(64, 333, dtype=dtype, seed=4)
    of = OneLayer(dtype, 14, 2, 64, torch.randint(1, 600, (64,), generator=torch.Generator().manual_seed(0)).tolist())
    results = [kernels.linear(x, weight), kernels.swiglu(x, gate, up), kernels.rms_norm(x, x[0], 1e-6), of.run()[0]]
    torch.set_num_threads(threads)
    try:
        for count in (1, 2, 5, 6, 7, 16, 31):
            few = [
                kernels.linear(x[:count], weight),
                kernels.swiglu(x[:count], gate, up),
                kernels.rms_norm(x[:count], x[0], 1e-6),
                of.run(count)[0],
            ]
            for part, whole in zip(few, results, strict=True):
                assert torch.equal(part, whole[:count])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_shows_in_its_own_row_only(variant, dtype, bad):
    x, weight = random(3, 70, dtype=dtype), random(20, 70, dtype=dtype, seed=1)
    of = OneLayer(dtype, 2, 1, 16, [9, 9, 9])
    x[1, 69], of.x[1, 0, 3] = bad, bad
    outs = [
        kernels.linear(x, weight),
        kernels.swiglu(x, weight, weight),
        kernels.rms_norm(x, x[0], 1e-6),
        of.run()[0],
    ]
    for out in outs:
        assert out[0].isfinite().all() and out[2].isfinite().all()
        assert not out[1].isfinite().all()


def test_strided_input_is_read_as_it_means():
    x, weight = random(40, 6, dtype=torch.float32).T, random(8, 40, dtype=torch.float32, seed=1)
    assert torch.equal(kernels.linear(x, weight), kernels.linear(x.contiguous(), weight))


def test_torch_takes_what_the_kernels_do_not(monkeypatch):
    def refuse(*_):
        raise AssertionError("a kernel was called")

    monkeypatch.setattr(kernels, "_call", refuse)
    few, many = random(2, 8, dtype=torch.float32), random(kernels.MAX_ROWS + 1, 8, dtype=torch.float32)
    weight = random(4, 8, dtype=torch.float32)
    expected = kernels.wide.linear(many, weight) + many[:, :4]
    assert torch.equal(kernels.linear(many, weight, add=many[:, :4]), expected)
    assert torch.equal(kernels.linear(few.double(), weight.double()), F.linear(few.double(), weight.double()))
    turned = weight.T.contiguous().T
    assert torch.equal(kernels.linear(few, turned), kernels.wide.linear(few, turned))
    with torch.inference_mode(False), torch.enable_grad():
        assert not kernels.usable(torch.ones(2, 8))
        parameter = torch.nn.Parameter(torch.ones(4, 8))
        kernels.swiglu(torch.ones(2, 8), parameter, parameter).sum().backward()
        assert parameter.grad is not None
    with pytest.raises(RuntimeError):
        kernels.linear(few, random(4, 9, dtype=torch.float32))


def test_several_threads_may_call_at_once_and_a_child_process_too():
    x, weight = random(4, 256, dtype=torch.float32), random(2000, 256, dtype=torch.float32, seed=1)
    expected, wrong = kernels.linear(x, weight), []

    def work():
        with torch.inference_mode():
            wrong.extend(i for i in range(100) if not torch.equal(kernels.linear(x, weight), expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    child = os.fork()
    if not child:
        os._exit(0 if torch.equal(kernels.linear(x, weight), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


ANSWER = """
import torch
from qwen_model import kernels
torch.set_grad_enabled(False)
print(kernels.describe())
out = kernels.linear(torch.ones(2, 8), torch.ones(3, 8))
assert torch.equal(out, torch.full((2, 3), 8.0))
"""


def ask(**environment):
    run = [sys.executable, "-c", ANSWER]
    return subprocess.run(run, env={**os.environ, **environment}, capture_output=True, text=True, check=True)


def test_without_a_compiler_torch_is_used_and_said(tmp_path):
    done = ask(PATH=str(tmp_path), HARNESS_CACHE=str(tmp_path), CXX="")
    assert done.stdout == "torch (no C++ compiler: neither g++ nor c++ is in $PATH)\n"
    assert done.stderr.count("\n") == 1 and "no C++ compiler" in done.stderr
    done = ask(CXX="no-such-compiler", HARNESS_CACHE=str(tmp_path))
    assert "$CXX is no-such-compiler" in done.stdout
    done = ask(CXX="false", HARNESS_CACHE=str(tmp_path))
    assert "false failed: no message" in done.stdout
    done = ask(HARNESS_KERNELS="off")
    assert done.stdout == "torch (turned off by $HARNESS_KERNELS)\n" and not done.stderr


def test_a_damaged_library_is_compiled_anew(tmp_path):
    cache = {"HARNESS_CACHE": str(tmp_path)}
    first = ask(**cache)
    assert first.stdout.startswith("C++ kernels")
    (library,) = (tmp_path / "kernels").iterdir()
    whole = library.read_bytes()
    library.write_bytes(whole[: len(whole) // 2])
    assert ask(**cache).stdout == first.stdout
    (library,) = (tmp_path / "kernels").iterdir()
    assert build._intact(library)


def test_a_cache_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "kernels").write_text("in the way")
    assert "cannot be written" in ask(HARNESS_CACHE=str(tmp_path)).stdout
