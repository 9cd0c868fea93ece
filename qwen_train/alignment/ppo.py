"""PPO with four models: policy, value, reference and reward (report, section 3.2.2).

A step: sample responses, score them, take the KL to the reference at each token, estimate advantages, update. In the
first `value_steps` steps the value model alone is updated, on fresh responses each time, and the policy does not move.

What the report says are the defaults; what it leaves open is ours (docs/decisions/0051): clip, gamma, lambda, batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from qwen_model.decoder import Decoder
from qwen_model.tokenizer import Tokenizer
from qwen_train.alignment.losses import (
    RunningMean,
    advantages_and_returns,
    explained_variance,
    policy_loss,
    token_rewards,
    value_loss,
)
from qwen_train.alignment.nucleus import Nucleus, logprobs_within
from qwen_train.alignment.rollouts import Text, joined, measure, rows_of, sample, values_of


@dataclass(frozen=True, kw_only=True)
class PPOSettings:
    """Everything that a step depends on, beside models and data."""

    steps: int = 1000
    value_steps: int = 50
    queries: int = 64
    """Per step."""
    responses: int = 2
    """Per query."""
    max_tokens: int = 512
    """Of a response."""
    top_p: float = 0.9
    kl: float = 0.04
    """Per nat, at every token."""
    normalise_rewards: bool = True
    """By their running mean."""
    policy_lr: float = 1e-6
    value_lr: float = 5e-6
    value_clip: float | None = 0.15
    clip: float = 0.2
    gamma: float = 1.0
    lam: float = 0.95
    epochs: int = 1
    minibatches: int = 4
    grad_clip: float = 1.0
    ptx: float = 0.1
    """Weight of the pretraining loss, per token; it counts only where pretraining text is given."""
    stop_kl: float | None = 0.1
    """The policy is left as it is for the rest of a step once it has moved further than this, in nats per token."""
    unfinished: float = 0.0
    """Subtracted from the score of a response that did not end within `max_tokens`."""
    length: int = 2048
    """Tokens of a packed row."""
    seed: int = 1234

    def __post_init__(self) -> None:
        for name, good, wanted in (
            ("steps", self.steps >= 1, "1 or more"),
            ("value_steps", self.value_steps >= 0, "0 or more"),
            ("queries", self.queries >= 1, "1 or more"),
            ("responses", self.responses >= 1, "1 or more"),
            ("minibatches", 1 <= self.minibatches <= self.queries * self.responses, "at most a step's responses"),
            ("epochs", self.epochs >= 1, "1 or more"),
            ("top_p", 0 < self.top_p <= 1, "more than 0 and at most 1"),
            ("lam", 0 <= self.lam <= 1, "from 0 to 1"),
            ("gamma", 0 < self.gamma <= 1, "more than 0 and at most 1"),
            ("clip", self.clip > 0, "more than 0"),
        ):
            if not good:
                raise ValueError(f"{name}: {getattr(self, name)} is out of range; give {wanted}")


Scorer = Callable[[Sequence[Text]], Sequence[float]]
"""One number per text, the higher the better."""


@dataclass
class Experience:
    """A response and what is known of it before any update; tensors are (T,), one entry per token."""

    text: Text
    score: float
    old: Tensor
    kl: Tensor
    values: Tensor
    nucleus: Nucleus | None
    advantages: Tensor = field(default_factory=lambda: torch.empty(0))
    returns: Tensor = field(default_factory=lambda: torch.empty(0))


class PPO:
    """The algorithm. `step(n)` is a function of the state and n; `state` is all of it that is no weight."""

    def __init__(
        self,
        settings: PPOSettings,
        *,
        policy: Decoder,
        value: Decoder,
        reference: Decoder,
        score: Scorer,
        tokenizer: Tokenizer,
        queries: Sequence[Sequence[int]],
        pretraining: Callable[[int], Tensor] | None = None,
    ) -> None:
        """`queries` end where the assistant's answer begins; `pretraining(step)` gives token rows (R, T)."""
        self.settings, self.tokenizer, self.queries, self.score = settings, tokenizer, queries, score
        self.policy, self.value, self.reference = policy, value, reference.eval().requires_grad_(False)
        self.pretraining = pretraining
        self.normalise = RunningMean()
        self.optimizers = {
            "policy": _adamw(policy, settings.policy_lr),
            "value": _adamw(value, settings.value_lr),
        }

    def step(self, number: int) -> tuple[dict[str, float], list[Experience]]:
        """One step, numbered from 0. Returns what is to be logged, and the experience."""
        s = self.settings
        clock = _Clock()
        texts = sample(
            self.policy,
            self.tokenizer,
            self.queries_of(number),
            responses=s.responses,
            max_tokens=s.max_tokens,
            top_p=s.top_p,
            seed=_seed(s.seed, number),
        )
        clock.mark("write")
        experience, facts = self._experience(texts)
        clock.mark("score")
        warming = number < s.value_steps
        sums: dict[str, list[float]] = {}
        generator = torch.Generator().manual_seed(_seed(s.seed, number))
        moved = 0.0
        for _ in range(s.epochs):
            order = torch.randperm(len(experience), generator=generator)
            for places in order.tensor_split(s.minibatches):
                batch = [experience[place] for place in places.tolist()]
                found = self._update_value(batch)
                if not warming and (s.stop_kl is None or moved <= s.stop_kl):
                    found |= self._update_policy(batch, number)
                    moved = found["moved"]
                for name, amount in found.items():
                    sums.setdefault(name, []).append(amount)
        clock.mark("update")
        facts |= {name: sum(amounts) / len(amounts) for name, amounts in sums.items()}
        facts["policy_updates"] = float(len(sums.get("moved", ())))
        return {"step": number, "value_only": float(warming), **facts, **clock.seconds}, experience

    def queries_of(self, number: int) -> list[Sequence[int]]:
        """The queries of a step: a permutation of all, another in each round."""
        start, found = number * self.settings.queries, []
        for place in range(start, start + self.settings.queries):
            rounds, within = divmod(place, len(self.queries))
            found.append(self.queries[_permutation(self.settings.seed, rounds, len(self.queries))[within]])
        return found

    def _experience(self, texts: list[Text]) -> tuple[list[Experience], dict[str, float]]:
        s = self.settings
        raw = [float(score) for score in self.score(texts)]
        scores = [score - s.unfinished * (not text.ended) for score, text in zip(raw, texts, strict=True)]
        centred = self.normalise(scores) if s.normalise_rewards else scores
        self.policy.train()
        spoken = measure(self.policy, texts, length=s.length, top_p=s.top_p)
        expected = measure(
            self.reference, texts, length=s.length, top_p=s.top_p, nuclei=[said.nucleus for said in spoken]
        )
        values = values_of(self.value, texts, length=s.length)
        experience = []
        for text, score, said, other, value in zip(texts, centred, spoken, expected, values, strict=True):
            kl = said.logprobs - other.logprobs
            made = Experience(text, score, said.logprobs, kl, value, said.nucleus)
            made.advantages, made.returns = advantages_and_returns(
                token_rewards(score, kl, s.kl), value, s.gamma, s.lam
            )
            experience.append(made)
        everything = torch.cat([made.advantages for made in experience])
        mean, deviation = everything.mean(), everything.std(correction=0) + 1e-8
        for made in experience:
            made.advantages = (made.advantages - mean) / deviation
        lengths = [len(text.response) for text in texts]
        facts = {
            "reward": sum(raw) / len(raw),
            "reward_std": float(torch.tensor(raw).std(correction=0)),
            "kl": float(torch.cat([made.kl for made in experience]).mean()),
            "kl_per_response": float(torch.stack([made.kl.sum() for made in experience]).mean()),
            "entropy": float(torch.cat([said.entropy for said in spoken]).mean()),
            "explained_variance": explained_variance(
                torch.cat(values), torch.cat([made.returns for made in experience])
            ),
            "length": sum(lengths) / len(lengths),
            "ended": sum(text.ended for text in texts) / len(texts),
        }
        return experience, facts

    def _update_value(self, batch: list[Experience]) -> dict[str, float]:
        s, total = self.settings, 0.0
        tokens = sum(len(made.old) for made in batch)
        self.value.train()
        for row in rows_of([made.text for made in batch], s.length, self.value.device):
            own = [batch[member] for member in row.members]
            values = self.value(row.ids, layout=row.layout, keep=row.judged)[0, :, 0].float()
            old, returns = (torch.cat([getattr(made, name) for made in own]) for name in ("values", "returns"))
            loss = value_loss(values, old, returns, s.value_clip) * (len(values) / tokens)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return {"value_loss": total, "value_grad_norm": self._advance("value")}

    def _update_policy(self, batch: list[Experience], number: int) -> dict[str, float]:
        s = self.settings
        tokens = sum(len(made.old) for made in batch)
        facts = {"policy_loss": 0.0, "clipped": 0.0, "moved": 0.0}
        self.policy.train()
        for row in rows_of([made.text for made in batch], s.length, self.policy.device):
            own = [batch[member] for member in row.members]
            logits = self.policy(row.ids, layout=row.layout, keep=row.judged)[0]
            nucleus = joined([made.nucleus for made in own], [len(made.old) for made in own])
            logprobs = logprobs_within(logits, row.targets, nucleus)
            old, advantages = (torch.cat([getattr(made, name) for made in own]) for name in ("old", "advantages"))
            found, share = policy_loss(logprobs, old, advantages, s.clip), len(logprobs) / tokens
            (found.loss * share).backward()  # type: ignore[no-untyped-call]
            for name, amount in (("policy_loss", found.loss), ("clipped", found.clipped), ("moved", found.kl)):
                facts[name] += float(amount.detach()) * share
        if self.pretraining is not None and s.ptx:
            facts["ptx_loss"] = self._pretrain(self.pretraining(number))
        return facts | {"policy_grad_norm": self._advance("policy")}

    def _pretrain(self, rows: Tensor) -> float:
        """The gradient of the pretraining loss, by its weight; returns the loss, nats per token."""
        logits = self.policy(rows[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())
        (loss * self.settings.ptx).backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _advance(self, name: str) -> float:
        optimizer, model = self.optimizers[name], getattr(self, name)
        norm = float(clip_grad_norm_(model.parameters(), self.settings.grad_clip))
        optimizer.step()
        optimizer.zero_grad()
        return norm

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on: weights, optimisers, the rewards' running mean."""
        return {
            "policy": self.policy.state_dict(),
            "value": self.value.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "normalise": {"count": self.normalise.count, "mean": self.normalise.mean},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])
        self.value.load_state_dict(state["value"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.normalise.count, self.normalise.mean = state["normalise"]["count"], state["normalise"]["mean"]


def _adamw(model: Decoder, lr: float) -> torch.optim.AdamW:
    model.requires_grad_(True)
    return torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)


def _seed(seed: int, step: int) -> int:
    """Far enough apart that the texts of two steps share no seed."""
    return (seed * 1_000_003 + step) * 1_000_003 % 2**62


class _Clock:
    """Seconds between marks."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def mark(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[f"seconds_{name}"], self._last = now - self._last, now


def _permutation(seed: int, rounds: int, size: int) -> list[int]:
    generator = torch.Generator().manual_seed(_seed(seed, rounds))
    order: list[int] = torch.randperm(size, generator=generator).tolist()
    return order
