"""The losses of section 3 as plain functions of tensors. Each returns a mean unless it says otherwise.

N tokens of responses, R responses, T tokens of the longest response.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def pairwise_loss(chosen: Tensor, rejected: Tensor, margin: Tensor, tie: Tensor) -> Tensor:
    """Bradley-Terry's: -log sigmoid(chosen - rejected - margin), each of shape (pairs,).

    A pair whose `tie` is true wants equal rewards: the mean of the loss either way round, without the margin. The
    report prints no formula; margins are as in Llama 2 (section 3.2.2), ties are ours.
    """
    gap = chosen - rejected
    won = -F.logsigmoid(gap - margin)
    drawn = -(F.logsigmoid(gap) + F.logsigmoid(-gap)) / 2
    return torch.where(tie, drawn, won).mean()


def dpo_loss(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float
) -> Tensor:
    """Rafailov et al. (2023), equation 7, of whole answers' log-probabilities (pairs,) in nats."""
    gap = (chosen - reference_chosen) - (rejected - reference_rejected)
    return -F.logsigmoid(beta * gap).mean()


class PolicyLoss(NamedTuple):
    """The clipped surrogate; the share of tokens that were clipped; KL(old || new) in nats by the k3 estimate."""

    loss: Tensor
    clipped: Tensor
    kl: Tensor


def policy_loss(logprobs: Tensor, old: Tensor, advantages: Tensor, clip: float) -> PolicyLoss:
    """PPO's clipped surrogate (Schulman et al., 2017, equation 7) over tokens (N,)."""
    difference = logprobs - old
    ratio = difference.exp()
    unclipped = ratio * advantages
    bounded = ratio.clamp(1 - clip, 1 + clip) * advantages
    with torch.no_grad():
        clipped = (bounded < unclipped).float().mean()
        kl = (ratio - 1 - difference).mean()
    return PolicyLoss(-torch.minimum(unclipped, bounded).mean(), clipped, kl)


def value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float | None) -> Tensor:
    """Half the squared error over tokens (N,); with `clip`, the worse of it and that of the value kept within `clip` of
    the old one."""
    error = (values - returns) ** 2
    if clip is not None:
        error = torch.maximum(error, (old + (values - old).clamp(-clip, clip) - returns) ** 2)
    return error.mean() / 2


def token_rewards(score: float, kl: Tensor, coefficient: float) -> Tensor:
    """Rewards (T,) of a response's tokens: -coefficient x `kl` (T,) at each, the answer's score at the last."""
    rewards = -coefficient * kl
    rewards[-1] += score
    return rewards


def advantages_and_returns(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al., 2016, equation 16) of one response, all (T,).

    `values[t]` is the value before token t is written; behind the last token it is 0. Returns are advantages + values.
    """
    advantages = [0.0] * len(rewards)
    following_value = following = 0.0
    # plain numbers: a tensor operation per token would take longer than the models
    for place, (reward, value) in reversed(list(enumerate(zip(rewards.tolist(), values.tolist(), strict=True)))):
        surprise = reward + gamma * following_value - value
        advantages[place] = following = surprise + gamma * lam * following
        following_value = value
    found = values.new_tensor(advantages)
    return found, found + values


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns), both (N,); 0 where the returns do not vary."""
    spread = float(returns.var(correction=0))
    return 1 - float((returns - values).var(correction=0)) / spread if spread else 0.0


class RunningMean:
    """Rewards less the mean of all rewards so far (report, section 3.2.2: only the mean is named)."""

    def __init__(self) -> None:
        self.count, self.mean = 0, 0.0

    def __call__(self, rewards: list[float]) -> list[float]:
        """The batch counts into the mean before it is subtracted."""
        self.count += len(rewards)
        self.mean += sum(reward - self.mean for reward in rewards) / self.count
        return [reward - self.mean for reward in rewards]
