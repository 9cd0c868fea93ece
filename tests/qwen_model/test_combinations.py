"""NTK mode x LogN x windows x way of computing: all equal the plain dense computation."""

from __future__ import annotations

import pytest
import torch

from qwen_model import LongContext, cache, kernels
from qwen_model.decoder import Decoder
from qwen_model.prefill import Reader
from qwen_model.rows import Rows
from qwen_model.step_graph import StepGraph
from tests.qwen_model import combinations
from tests.qwen_model.combinations import PATHS, TRAIN, WINDOWS, Expected, largest_difference, text

LIMIT = 1e-3
"""Nats, float32 against float64 with weights fifteen times the usual; a wrong key costs 0.1 and more (last test)."""


@pytest.fixture(scope="module")
def model():
    return combinations.model()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("setting", combinations.settings(), ids=lambda s: "-".join(str(value) for value in s.values()))
def test_equals_the_dense_computation(model, path, setting):
    assert largest_difference(model, path, setting) < LIMIT


@pytest.mark.parametrize("setting", combinations.settings(), ids=lambda s: "-".join(str(value) for value in s.values()))
def test_decoding_without_the_kernels(model, setting, monkeypatch):
    monkeypatch.setattr(kernels, "usable", lambda x: False)
    assert largest_difference(model, "decoding in a batch", setting) < LIMIT


class Again:
    """Stands for a captured graph where there is no GPU: the same step with the same fixed shapes, computed anew."""

    def __init__(self, graph: StepGraph) -> None:
        self.graph = graph

    def replay(self) -> None:
        self.graph._logits = self.graph._run()


@pytest.mark.parametrize("setting", combinations.settings(), ids=lambda s: "-".join(str(value) for value in s.values()))
def test_decoding_by_steps_of_fixed_shapes(model, setting, monkeypatch):
    monkeypatch.setattr(Decoder, "captured", True)
    monkeypatch.setattr(Decoder, "shares_keys", False)
    monkeypatch.setattr(kernels, "usable", lambda x: False)
    monkeypatch.setattr(StepGraph, "_capture", lambda graph: Again(graph))
    monkeypatch.setattr(cache, "_GROWTH", 16)  # so that graphs go stale
    assert largest_difference(model, "decoding in a batch", setting) < LIMIT


@pytest.mark.parametrize("length", [1, 2, TRAIN - 1, TRAIN])
def test_up_to_the_trained_length_not_a_bit_moves(model, length):
    tokens = torch.tensor([text(length, 0)])
    laid = LongContext(dynamic_ntk="released", logn=True, window=(TRAIN, 4 * TRAIN, None))
    with torch.inference_mode():
        before = model(tokens)
        with model.long_context(laid):
            assert torch.equal(model(tokens), before)
        assert torch.equal(model(tokens), before)


def test_a_training_graph_sees_none_of_ntk_and_logn(model):
    tokens = torch.tensor([text(3 * TRAIN, 0)])
    off = model(tokens)
    with model.long_context(LongContext(dynamic_ntk="released", logn=True)):
        assert not torch.allclose(model(tokens), off)
        model.train()
        assert torch.equal(model(tokens), off)
        model.eval()


def test_wrong_keys_would_show(model):
    tokens = text(2 * TRAIN + 1, 0)
    settings = [
        LongContext(),
        LongContext(dynamic_ntk="exact"),
        LongContext(logn=True),
        LongContext(window=WINDOWS["short"]),
        LongContext(dynamic_ntk="exact", window=WINDOWS["long"], window_alpha=True),
        LongContext(dynamic_ntk="exact", window=WINDOWS["long"]),
    ]
    seen = []
    for laid in settings:
        with model.long_context(laid):
            seen.append(Expected(model, laid)(tokens))
    gaps = [combinations.gap(a, b) for i, a in enumerate(seen) for b in seen[:i]]
    assert min(gaps) > 100 * LIMIT


def test_turning_cached_keys_is_not_one_pass_at_the_new_base(model):
    """Why `exact` reads a text anew: with the first layer alone, turning its keys would do; with three it does not."""
    tokens = text(TRAIN + 1, 5)
    with model.long_context(LongContext(dynamic_ntk="exact")):
        whole = Expected(model, model.settings)(tokens)[-1]
    with model.long_context(LongContext(dynamic_ntk="released")):
        stale = Expected(model, model.settings)(tokens, prompt=TRAIN)[-1]
    assert combinations.gap(whole, stale) > 100 * LIMIT


def test_settings_come_off_after_an_error(model):
    before = model.settings
    with pytest.raises(RuntimeError, match="stop"), model.long_context(LongContext(logn=True)):
        raise RuntimeError("stop")
    assert model.settings == before


@pytest.mark.parametrize("refused", [LongContext(dynamic_ntk="exact", logn=True, window=(8, 8)), {"logn": True}])
def test_refused_settings_change_nothing(model, refused):
    tokens = torch.tensor([text(3 * TRAIN, 0)])
    with torch.inference_mode():
        before = model(tokens)
        with pytest.raises((TypeError, ValueError), match=r"^(window|settings): "), model.long_context(refused):
            pass
        assert torch.equal(model(tokens), before)
        with model.long_context(LongContext(logn=True)):
            assert not torch.equal(model(tokens), before)


def test_texts_begun_under_other_settings_are_not_gone_on_with(model):
    rows = Rows(model, Reader(model, 64), slots=1)
    rows.enter([text(5, 0)], [(0, 0)])
    with model.long_context(LongContext(dynamic_ntk="exact")), pytest.raises(ValueError, match="begun under other"):
        rows.step([1])
    rows.step([1])
    rows.leave(0)
    with model.long_context(LongContext(window=WINDOWS["short"])):
        rows.enter([text(30, 0)], [(0, 0)])
        assert combinations.gap(rows.step([1])[0], Expected(model, model.settings)([*text(30, 0), 1])[-1]) < LIMIT


def test_a_cache_of_other_windows_is_refused(model):
    reader = Reader(model, 64)
    with (
        model.long_context(LongContext(window=WINDOWS["short"])),
        pytest.raises(ValueError, match="other windows"),
        torch.inference_mode(),
    ):
        model(torch.tensor([[1]]), cache=reader.stack)
