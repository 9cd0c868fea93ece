"""Losses and advantages against numbers worked by hand, other libraries, and autograd in float64."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.signal import lfilter
from sklearn.metrics import log_loss
from torch.autograd import gradcheck

from qwen_train.alignment.losses import (
    RunningMean,
    advantages_and_returns,
    dpo_loss,
    explained_variance,
    pairwise_loss,
    policy_loss,
    token_rewards,
    value_loss,
)

LN2 = math.log(2)


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def none(count):
    return torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.bool)


def test_pairwise_loss_by_hand():
    assert float(pairwise_loss(doubles(1.0), doubles(1.0), *none(1))) == pytest.approx(LN2)
    # sigmoid(ln 3) = 3/4
    assert float(pairwise_loss(doubles(math.log(3)), doubles(0.0), *none(1))) == pytest.approx(-math.log(0.75))
    margin = torch.tensor([math.log(3)], dtype=torch.float64)
    assert float(pairwise_loss(doubles(math.log(3)), doubles(0.0), margin, none(1)[1])) == pytest.approx(LN2)
    # a tie: (-ln 3/4 - ln 1/4) / 2, its margin without a say
    tie = torch.tensor([True])
    tied = float(pairwise_loss(doubles(math.log(3)), doubles(0.0), margin, tie))
    assert tied == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)


def test_pairwise_loss_is_logistic_regressions():
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = torch.randn(2, 50, generator=generator, dtype=torch.float64)
    ours = float(pairwise_loss(chosen, rejected, *none(50)))
    theirs = log_loss([1] * 50, torch.sigmoid(chosen - rejected).tolist(), labels=[0, 1])
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_a_tie_pulls_rewards_together_and_a_margin_apart():
    for tie, margin, start, still in ((True, 0.0, 2.0, 0.0), (False, 1.0, 1.0, None)):
        chosen = doubles(start).requires_grad_()
        pairwise_loss(chosen, doubles(0.0), torch.tensor([margin]), torch.tensor([tie])).backward()
        assert (float(chosen.grad) > 0) is tie
        if still is not None:
            level = doubles(still).requires_grad_()
            pairwise_loss(level, doubles(0.0), torch.tensor([margin]), torch.tensor([tie])).backward()
            assert float(level.grad) == 0


def test_dpo_loss_by_hand():
    # gap = (-1 + 2) - (-3 + 2) = 2; beta 0.5 gives sigmoid(1)
    loss = dpo_loss(doubles(-1.0), doubles(-3.0), doubles(-2.0), doubles(-2.0), 0.5)
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-1)))


def test_policy_loss_by_hand():
    old = torch.zeros(4, dtype=torch.float64)
    logprobs = torch.log(torch.tensor([1.5, 1.5, 0.5, 0.5], dtype=torch.float64))
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    # min(1.5, 1.2) = 1.2; min(-1.5, -1.2) = -1.5; min(0.5, 0.8) = 0.5; min(-0.5, -0.8) = -0.8
    found = policy_loss(logprobs, old, advantages, 0.2)
    assert float(found.loss) == pytest.approx(-(1.2 - 1.5 + 0.5 - 0.8) / 4)
    assert float(found.clipped) == 0.5
    assert float(found.kl) == pytest.approx(((1.5 - 1 - math.log(1.5)) * 2 + (0.5 - 1 - math.log(0.5)) * 2) / 4)


def test_clipping_stops_the_gradient_only_outwards():
    logprobs = torch.log(torch.tensor([1.5, 1.5, 0.5, 0.5], dtype=torch.float64)).requires_grad_()
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    policy_loss(logprobs, torch.zeros(4, dtype=torch.float64), advantages, 0.2).loss.backward()
    assert logprobs.grad is not None and (logprobs.grad != 0).tolist() == [False, True, True, False]


def test_value_loss_by_hand():
    values, old, returns = doubles(1.0, 0.1), doubles(0.0, 0.0), doubles(1.0, 1.0)
    # free: (0 + 0.81) / 2 / 2; clipped at 0.15: the first counts as 0.15 (0.7225), the second stays 0.1
    assert float(value_loss(values, old, returns, None)) == pytest.approx(0.81 / 4)
    assert float(value_loss(values, old, returns, 0.15)) == pytest.approx((0.7225 + 0.81) / 4)


@pytest.mark.parametrize("clip", [None, 0.15])
def test_gradients(clip):
    torch.manual_seed(0)
    a, b, c, d = (torch.randn(6, dtype=torch.float64, requires_grad=True) for _ in range(4))
    tie = torch.tensor([True, False] * 3)
    assert gradcheck(lambda x, y: pairwise_loss(x, y, torch.full((6,), 0.3), tie), (a, b))
    assert gradcheck(lambda *x: dpo_loss(*x, 0.1), (a, b, c, d))
    assert gradcheck(lambda x: policy_loss(x, b.detach(), c.detach(), 0.2).loss, (a,))
    assert gradcheck(lambda x: value_loss(x, b.detach(), c.detach(), clip), (a,))


def test_advantages_by_hand():
    # gamma 1, lambda 1: what is still to come less the value
    advantages, returns = advantages_and_returns(torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.5, 0.25, 0.0]), 1, 1)
    assert advantages.tolist() == [0.5, 0.75, 1.0] and returns.tolist() == [1.0, 1.0, 1.0]
    # lambda 0: one step's surprise
    advantages, _ = advantages_and_returns(torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.5, 0.25, 0.0]), 0.5, 0)
    assert advantages.tolist() == [0.125 - 0.5, -0.25, 1.0]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (0.7, 0.0)])
def test_advantages_are_a_discounted_sum_of_surprises(gamma, lam):
    rewards, values = torch.randn(2, 17, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    advantages, returns = advantages_and_returns(rewards, values, gamma, lam)
    surprises = rewards + gamma * torch.cat([values[1:], values.new_zeros(1)]) - values
    theirs = lfilter([1], [1, -gamma * lam], surprises.numpy()[::-1])[::-1]
    assert torch.allclose(advantages, torch.from_numpy(theirs.copy()), atol=1e-12)
    assert torch.equal(returns, advantages + values)


def test_token_rewards():
    assert token_rewards(2.0, torch.tensor([1.0, -1.0]), 0.04).tolist() == pytest.approx([-0.04, 2.04])


def test_running_mean_over_batches_is_the_mean_of_all():
    normalise, seen = RunningMean(), []
    for batch in ([1.0, 2.0], [6.0], [-1.0, 0.0, 4.0]):
        seen += batch
        assert normalise(batch) == pytest.approx([reward - sum(seen) / len(seen) for reward in batch])


def test_explained_variance():
    returns = torch.tensor([1.0, 2.0, 3.0])
    assert explained_variance(returns, returns) == 1
    assert explained_variance(torch.full((3,), 9.0), returns) == 0
    assert explained_variance(returns, torch.ones(3)) == 0
