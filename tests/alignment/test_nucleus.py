"""Log-probabilities under top-p: against what the sampler really draws, and a softmax over the kept logits."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.autograd import gradcheck

from qwen_model.sampling import Sampling, choose
from qwen_train.alignment.nucleus import join, logprobs_within, nucleus_of

LOGITS = torch.randn(5, 40, generator=torch.Generator().manual_seed(1)) * 2


def test_by_hand():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    for top_p, kept in ((0.4, [0]), (0.5, [0]), (0.51, [0, 1]), (0.9, [0, 1, 2]), (1.0, [0, 1, 2, 3])):
        found = nucleus_of(logits, torch.tensor([0]), top_p)
        assert found.tokens.tolist() == kept
        assert float(logprobs_within(logits, torch.tensor([0]), found).exp()) == pytest.approx(
            0.5 / float(logits.exp()[0, kept].sum())
        )


def test_a_drawn_token_belongs_to_it():
    found = nucleus_of(torch.log(torch.tensor([[0.9, 0.1]])), torch.tensor([1]), 0.5)
    assert found.tokens.tolist() == [0, 1]


def test_they_are_the_frequencies_of_the_sampler():
    logits = LOGITS[0]
    random = torch.Generator().manual_seed(7)
    sampling = Sampling(temperature=1.0, top_p=0.9)
    drawn = Counter(choose(logits, sampling, [], random) for _ in range(20_000))
    nucleus = nucleus_of(logits[None], logits.argmax()[None], 0.9)
    assert set(drawn) <= set(nucleus.tokens.tolist())
    tokens = nucleus.tokens
    odds = logprobs_within(
        logits.expand(len(tokens), -1), tokens, join([nucleus] * len(tokens), [1] * len(tokens))
    ).exp()
    assert float(odds.sum()) == pytest.approx(1, abs=1e-6)
    for token, odd in zip(tokens.tolist(), odds.tolist(), strict=True):
        assert drawn[token] / 20_000 == pytest.approx(odd, abs=4 * (odd * (1 - odd) / 20_000) ** 0.5 + 1e-4)


def test_against_a_masked_softmax_with_gradients():
    chosen = LOGITS.argmax(-1)
    nucleus = nucleus_of(LOGITS, chosen, 0.8)
    logits = (LOGITS.double() + 0.1).requires_grad_()
    kept = torch.full_like(LOGITS, float("-inf"), dtype=torch.float64)
    kept[nucleus.positions, nucleus.tokens] = 0
    theirs = (logits + kept).log_softmax(-1).gather(-1, chosen[:, None])[:, 0]
    ours = logprobs_within(logits, chosen, nucleus)
    assert torch.allclose(ours, theirs, atol=1e-12)
    assert torch.allclose(*(torch.autograd.grad(found.sum(), logits)[0] for found in (ours, theirs)), atol=1e-12)
    assert gradcheck(lambda x: logprobs_within(x, chosen, nucleus), (logits,))
    whole = logprobs_within(logits, chosen, None)
    assert torch.allclose(whole, logits.log_softmax(-1).gather(-1, chosen[:, None])[:, 0])


def test_parts_and_joins():
    chosen = LOGITS.argmax(-1)
    nucleus = nucleus_of(LOGITS, chosen, 0.8)
    joined = join([nucleus.part(0, 2), nucleus.part(2, 5)], [2, 3])
    assert torch.equal(joined.positions, nucleus.positions) and torch.equal(joined.tokens, nucleus.tokens)
