"""Losses of every position of long texts: read in pieces, they are those of one dense pass."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from qwen_model import LongContext, WindowSchedule, prefill
from qwen_model.prefill import Reader, text_windows
from tests.qwen_model import combinations
from tests.qwen_model.combinations import Expected

SETTINGS = [
    LongContext(),
    LongContext(dynamic_ntk="exact"),
    LongContext(dynamic_ntk="released", logn=True),
    LongContext(logn=True, window=(5, 9, None)),
    LongContext(dynamic_ntk="exact", logn=True, window=WindowSchedule.report(), window_alpha=True),
]


@pytest.fixture(scope="module")
def decoder():
    return combinations.model()


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(prefill, "PIECE", {"cpu": 16})


def rolled(decoder, tokens, length, first=1):
    return [value for piece in Reader(decoder, 64).logprobs(tokens, length, first) for value in piece]


def dense(decoder, settings, tokens):
    """By the plain computation in float64."""
    with decoder.long_context(settings):
        logits = Expected(decoder, settings)(tokens)
    return [float(logits[place].log_softmax(-1)[token]) for place, token in enumerate(tokens[1:])]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("length", [2, 16, 17, 24, 25, 70, 100])
def test_as_one_dense_pass(decoder, settings, length):
    text = combinations.text(length + 7, seed=length)
    with decoder.long_context(settings):
        found = rolled(decoder, text, length)
    assert found == pytest.approx(dense(decoder, settings, text[:length]), abs=3e-4)


def test_a_number_does_not_hang_on_what_is_asked_for_behind_it(decoder):
    text = combinations.text(100, seed=1)
    whole = rolled(decoder, text, 100)
    for length in (2, 16, 30, 32, 33, 99):
        assert rolled(decoder, text, length) == whole[: length - 1]
        assert rolled(decoder, text, 100, first=length) == whole[length - 1 :]


def test_texts_of_another_step_and_other_work_do_not_disturb(decoder):
    reader, texts = Reader(decoder, 64), [combinations.text(n, seed=n) for n in (20, 60, 90)]
    with decoder.long_context(LongContext(dynamic_ntk="exact")):
        alone = [rolled(decoder, text, len(text)) for text in texts]
        for text, expected in zip(texts, alone, strict=True):
            reader.read([text[:9]], [(0, 4)], [[8]])
            assert [value for piece in reader.logprobs(text, len(text)) for value in piece] == expected


@pytest.mark.parametrize(("tokens", "length", "stride"), [(10, 4, 1), (10, 4, 3), (11, 4, 3), (3, 4, 2), (4, 4, 2)])
def test_windows_judge_every_token_once_with_the_most_context(tokens, length, stride):
    found = list(text_windows(tokens, length, stride))
    judged = [place for _, end, first in found for place in range(first, end)]
    assert judged == list(range(1, tokens))
    assert all(end - start == min(length, tokens) for start, end, _ in found)
    for before, (start, end, first) in pairwise(found):
        assert first == before[1]  # an earlier window would not have held it
        assert end - before[1] == stride or end == tokens
        assert first - start >= length - stride


def test_memory_is_one_piece_of_logits(decoder, monkeypatch):
    seen = []
    forward = Reader._forward

    def watched(self, tokens, spans, keep):
        logits = forward(self, tokens, spans, keep)
        seen.append(len(logits))
        return logits

    monkeypatch.setattr(Reader, "_forward", watched)
    rolled(decoder, combinations.text(100, seed=3), 100, first=60)
    assert max(seen) <= 16
    assert sum(seen) < 60  # positions whose numbers nobody wants do not reach the output head
    assert torch.is_inference_mode_enabled() is False


def test_sums_over_a_large_vocabulary_are_those_of_torchs_log_softmax():
    logits = 3 * torch.randn(130, 151_936, generator=torch.Generator().manual_seed(0)) + 10
    sums = prefill.log_sums(logits)[:, None].double()
    assert (logits - sums - logits.log_softmax(-1)).abs().max() < 4e-6  # two roundings of numbers up to 32
    assert (sums[:, 0] - logits.double().logsumexp(-1)).abs().max() < 5e-5
