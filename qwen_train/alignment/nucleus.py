"""Log-probabilities of what top-p sampling really does.

At top-p 0.9 a token is drawn from the renormalised nucleus of the policy that wrote it, not from the whole softmax. The
ratio of PPO is taken within that nucleus, which is kept with the response, so that its gradient is that of the policy
that was sampled. The KL to the reference is not: it would vanish where the policy has become sure (decision 0052).

N positions, V vocabulary, M members of all nuclei.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Nucleus:
    """Which tokens could be drawn at each of N positions: pairs (position, token), both (M,)."""

    positions: Tensor
    tokens: Tensor

    def part(self, start: int, end: int) -> Nucleus:
        """That of positions `start` to `end`, counted from 0 again."""
        inside = (self.positions >= start) & (self.positions < end)
        return Nucleus(self.positions[inside] - start, self.tokens[inside])


def join(parts: list[Nucleus], sizes: list[int]) -> Nucleus:
    """One nucleus of many, whose positions lie one behind another."""
    starts = torch.tensor([0, *sizes[:-1]]).cumsum(0).tolist()
    moved = [part.positions + start for part, start in zip(parts, starts, strict=True)]
    return Nucleus(torch.cat(moved), torch.cat([part.tokens for part in parts]))


def nucleus_of(logits: Tensor, chosen: Tensor, top_p: float) -> Nucleus:
    """As `qwen_model.sampling` takes it: the largest probabilities before which less than `top_p` of mass lies.

    logits (N, V); `chosen` (N,) were drawn and belong to it, also where rounding says otherwise.
    """
    probabilities, order = logits.float().softmax(-1).sort(dim=-1, descending=True, stable=True)
    inside = torch.zeros_like(logits, dtype=torch.bool)
    inside.scatter_(-1, order, probabilities.cumsum(-1) - probabilities < top_p)
    inside.scatter_(-1, chosen[:, None], True)
    positions, tokens = inside.nonzero(as_tuple=True)
    return Nucleus(positions, tokens)


def logprobs_within(logits: Tensor, chosen: Tensor, nucleus: Nucleus | None) -> Tensor:
    """Log-probabilities (N,) in nats of `chosen` (N,) under the logits (N, V), renormalised within the nucleus; None is
    the whole vocabulary."""
    logits = logits.float() if logits.dtype != torch.float64 else logits
    taken = logits.gather(-1, chosen[:, None])[:, 0]
    if nucleus is None:
        return taken - logits.logsumexp(-1)
    members = logits[nucleus.positions, nucleus.tokens]
    with torch.no_grad():
        highest = logits.max(-1).values
    shifted = (members - highest[nucleus.positions]).exp()
    mass = torch.zeros_like(taken).index_add(0, nucleus.positions, shifted)
    return taken - highest - mass.log()
