"""The C++ kernels give what float64 gives, whatever stands beside a row, and say so when they cannot run."""

from __future__ import annotations

import os
import threading

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_model import kernels
from qwen_model.kernels import wide
from qwen_model.kernels.codes import ALONE, Codes, expand
from tests.qwen_model.kernel_cases import DTYPES, ROUNDING, OneLayer, random

if kernels.unavailable():
    pytest.skip(f"no kernels here: {kernels.unavailable()}", allow_module_level=True)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("outputs", [1, 37, 100])
def test_products_of_many_rows_expand_codes_strip_by_strip(monkeypatch, dtype, outputs):
    weight, codes = coded(outputs, 96, 32, True, dtype)
    bias, x = random(outputs, dtype=dtype), random(2, 50, 96, dtype=dtype)
    assert torch.equal(kernels.linear(x, weight, bias, codes=codes), kernels.linear(x, weight, bias))
    assert torch.equal(kernels.swiglu(x, weight, weight, (codes, None)), kernels.swiglu(x, weight, weight))
    monkeypatch.setattr(wide, "STRIP", 96 * 32)
    parts = [wide.linear(x, weight[first : first + 32], bias[first : first + 32]) for first in range(0, outputs, 32)]
    assert torch.equal(kernels.linear(x, weight, bias, codes=codes), torch.cat(parts, -1))
    codes.codes.add_(1)
    changed = kernels.linear(x, weight, bias, codes=codes)
    # whether it was codes that were read
    assert torch.equal(changed, kernels.linear(x, weight, bias)) == (dtype != ALONE)
    with torch.no_grad(), torch.enable_grad():
        assert torch.equal(kernels.linear(x, weight, bias, codes=codes), F.linear(x, weight, bias))


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
