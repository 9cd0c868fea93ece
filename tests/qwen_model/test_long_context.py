"""The settings themselves: steps of dynamic NTK, schedules of windows, mistakes; and the report's sizes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qwen_model import PRESETS, LongContext, ModelConfig, WindowSchedule
from qwen_model.decoder import Decoder
from qwen_model.long_context import ntk_alpha, ntk_bucket
from qwen_model.rotary import frequencies, turns


@given(st.integers(1, 10**6), st.integers(2, 9000))
def test_alpha_is_the_released_formula(length, train):
    expected = max(2 ** math.ceil(math.log(length / train, 2) + 1) - 1, 1)
    assert ntk_alpha(ntk_bucket(length, train)) == expected


@pytest.mark.parametrize(("ratio", "alpha"), [(1, 1), (1.0001, 3), (2, 3), (2.0001, 7), (4, 7), (8, 15), (8.1, 31)])
def test_alpha_as_the_report_code_steps(ratio, alpha):
    assert ntk_alpha(ntk_bucket(int(2048 * ratio) + (ratio % 1 > 0), 2048)) == alpha


def test_frequencies_are_float32_and_scaled_by_the_base():
    table = frequencies(128, 10000.0)
    assert table.dtype == torch.float32
    for step in (0, 1, 5):
        base = 10000.0 * ntk_alpha(step) ** (128 / 126)
        expected = torch.tensor([base ** -(2 * i / 128) for i in range(64)])
        torch.testing.assert_close(table[step], expected, rtol=2e-6, atol=0)


def test_logn_has_no_end():
    positions = torch.tensor([[0, 2046, 2047, 2048, 32766, 32767, 32768, 200_000]])
    made = turns(positions, torch.zeros(1, 1, dtype=torch.long), frequencies(4, 10000.0), 2048)
    ratio = (made.query_cos**2 + made.query_sin**2).sqrt()[0, :, 0]
    expected = [1, 1, 1, *(math.log(p + 1) / math.log(2048) for p in (2048, 32766, 32767, 32768, 200_000))]
    assert ratio.tolist() == pytest.approx(expected, rel=1e-5)
    assert ratio[:3].sub(1).abs().max() < 1e-6


def test_schedules():
    assert WindowSchedule.report().windows(8, 256) == (256,) * 4 + (1024,) * 2 + (None,) * 2
    assert WindowSchedule.reversed().windows(8, 256) == (None, None, 1024, 1024, 256, 256, 256, 256)
    assert WindowSchedule.maintainers().windows(10, 1) == (2048,) * 4 + (4096,) * 4 + (8192,) * 2
    assert WindowSchedule.maintainers().windows(3, 1) == (2048,) * 3
    for layers in range(1, 41):
        widths = [math.inf if w is None else w for w in WindowSchedule.report().windows(layers, 100)]
        assert len(widths) == layers and widths == sorted(widths)  # shorter windows lie lower


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dynamic_ntk": "on"}, "dynamic_ntk: 'on' is not one of off, released, exact"),
        ({"train_length": 0}, "train_length: 0"),
        ({"train_length": 2.5}, "train_length: 2.5"),
        ({"train_length": 10**30}, "train_length: 10"),
        ({"logn": "yes"}, "logn: 'yes' is neither"),
        ({"window": 8}, "window: 8 is no WindowSchedule"),
        ({"window": "report"}, "window: 'report' is no WindowSchedule"),
    ],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        LongContext(**settings)


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ((4,), "1 windows for 3 layers"),
        ((4, 0, None), "0 is no width"),
        ((8.0, 8.0, 8.0), "8.0 is no width"),
        (("8",) * 3, "'8' is no"),
    ],
)
def test_a_wrong_list_of_windows_is_named(window, message):
    with pytest.raises(ValueError, match=message):
        LongContext(window=window).windows(3, 100)


@pytest.mark.parametrize(
    ("bands", "relative"),
    [
        ((), False),
        ("ab", False),
        (((0.5, 1), (0.5, None)), False),  # shares without relative=True
        (((2, 1), (2, None)), True),
        (((-1, 4), (2, None)), False),
        (((4, 0),), False),
        (((1, 2.5),), False),
    ],
)
def test_a_wrong_schedule_is_named(bands, relative):
    with pytest.raises(ValueError, match=r"^bands: "):
        WindowSchedule(bands=bands, relative=relative)


PUBLISHED = {"qwen-1.8b": 1_836_828_672, "qwen-7b": 7_721_324_544, "qwen-14b": 14_167_290_880}
"""Parameters of Qwen-1_8B, Qwen-7B and Qwen-14B as their model pages count them."""


@pytest.mark.parametrize("name", PRESETS)
def test_sizes_are_built_without_memory(name):
    with torch.device("meta"):
        model = Decoder(PRESETS[name])
    count = sum(parameter.numel() for parameter in model.parameters())
    assert all(parameter.is_meta for parameter in model.parameters())
    if name in PUBLISHED:
        assert count == PUBLISHED[name]
    else:
        assert round(count / 1e6) == int(name.removeprefix("nano-").removesuffix("m"))


def test_the_reports_shapes():
    assert [PRESETS[name].intermediate_size for name in PUBLISHED] == [5504, 11008, 13696]
    assert [PRESETS[name].vocab_size for name in PUBLISHED] == [151936, 151936, 152064]
    assert {PRESETS[name].head_dim for name in PUBLISHED} == {128}


def test_initial_weights():
    model = Decoder(PRESETS["nano-8m"]).init_weights(seed=1)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        elif parameter.ndim == 1:
            assert (parameter == 1).all()
        else:
            narrow = name.endswith(("o_proj.weight", "down_proj.weight"))
            assert float(parameter.detach().std()) == pytest.approx(
                0.02 / math.sqrt(2 * 4) if narrow else 0.02, rel=0.02
            )
    again, other = (Decoder(PRESETS["nano-8m"]).init_weights(seed=s).lm_head.weight for s in (1, 2))
    assert torch.equal(model.lm_head.weight, again) and not torch.equal(again, other)


def test_dropout_acts_in_training_only():
    config = PRESETS["nano-2m"]
    model = Decoder(ModelConfig(**(vars(config) | {"dropout": 0.1}))).init_weights(seed=0)
    tokens = torch.arange(50)[None]
    with torch.no_grad():
        assert not torch.equal(model.train()(tokens), model(tokens))
        assert torch.equal(model.eval()(tokens), model(tokens))
