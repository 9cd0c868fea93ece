"""PPO with four models: policy, value, reference and reward (report, section 3.2.2).

A step: sample responses, score them, take the KL to the reference at each token, estimate advantages, update. In the
first `value_steps` steps the value model alone is updated, on fresh responses each time, and the policy does not move.

Every process knows the whole experience of a step and computes a share of it, so the numbers are those of one process
up to rounding. Policy and value model may be sharded; they write and judge through whole copies (`Copy`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from qwen_model.decoder import Decoder
from qwen_model.layout import Documents
from qwen_model.tokenizer import Tokenizer
from qwen_train.alignment.experience import Experience, gathered
from qwen_train.alignment.losses import (
    RunningMean,
    advantages_and_returns,
    explained_variance,
    policy_loss,
    token_rewards,
    value_loss,
)
from qwen_train.alignment.models import Copy
from qwen_train.alignment.nucleus import logprobs_within
from qwen_train.alignment.order import places_of
from qwen_train.alignment.packing import Row, spread
from qwen_train.alignment.rollouts import Text, joined, measure, rows_of, sample, values_of
from qwen_train.parallel import World, parallelize
from qwen_train.trainer import Micro, NextToken, Optimiser, Section, Update


class PPOSettings(Section):
    """What a step depends on, beside models and data. What the report leaves open is ours (decision 0051)."""

    steps: int = Field(default=1000, ge=1)
    value_steps: int = Field(default=50, ge=0)
    queries: int = Field(default=64, ge=1)
    """Per step."""
    responses: int = Field(default=2, ge=1)
    """Per query."""
    max_tokens: int = Field(default=512, ge=1)
    """Of a response."""
    top_p: float = Field(default=0.9, gt=0, le=1)
    kl: float = Field(default=0.04, ge=0)
    """Per nat, at every token."""
    normalise_rewards: bool = True
    """By their running mean."""
    policy: Optimiser = Optimiser(learning_rate=1e-6, warmup_steps=0, schedule="constant", weight_decay=0.0)
    value: Optimiser = Optimiser(learning_rate=5e-6, warmup_steps=0, schedule="constant", weight_decay=0.0)
    value_clip: float | None = Field(default=0.15, gt=0)
    clip: float = Field(default=0.2, gt=0)
    gamma: float = Field(default=1.0, gt=0, le=1)
    lam: float = Field(default=0.95, ge=0, le=1)
    epochs: int = Field(default=1, ge=1)
    minibatches: int = Field(default=4, ge=1)
    ptx: float = Field(default=0.1, ge=0)
    """Weight of the pretraining loss per token, where pretraining text is given."""
    stop_kl: float | None = Field(default=0.1, gt=0)
    """The policy is left as it is for the rest of a step once it has moved further than this, in nats per token."""
    unfinished: float = Field(default=0.0, ge=0)
    """Subtracted from the score of a response that did not end within `max_tokens`."""


Scorer = Callable[[Sequence[Text]], Sequence[float]]
"""One number per text, the higher the better."""


PHASES = ("write", "measure", "values", "reward", "update_value", "update_policy")
"""Of a step, as its log times them: responses; their log-probabilities under policy and reference; values; scores; the
two models' updates."""


class _PolicyLoss(nn.Module):
    """The summed surrogate of a packed row, or the weighted loss of pretraining text."""

    def __init__(self, model: Decoder, clip: float) -> None:
        super().__init__()
        self.model, self.clip, self.pretraining = model, clip, NextToken(model)
        self.sums: dict[str, float] = {}

    def forward(
        self, row: Row | None, own: Sequence[Experience], text: Tensor | None = None, weight: float = 0.0
    ) -> Tensor:
        if row is None:
            assert text is not None
            loss: Tensor = self.pretraining(text[:, :-1], text[:, 1:])
            self._note(ptx_loss=float(loss.detach()), ptx_tokens=text[:, 1:].numel())
            return loss * weight
        logits = self.model(row.ids, layout=Documents(row.segments), keep=row.judged)[0]
        nucleus = joined([made.nucleus for made in own], [len(made.old) for made in own])
        logprobs = logprobs_within(logits, row.targets, nucleus)
        old, advantages = (torch.cat([getattr(made, name) for made in own]) for name in ("old", "advantages"))
        found, tokens = policy_loss(logprobs, old.to(logits.device), advantages.to(logits.device), self.clip), len(old)
        self._note(clipped=float(found.clipped) * tokens, moved=float(found.kl) * tokens, tokens=tokens)
        return found.loss * tokens

    def _note(self, **amounts: float) -> None:
        for name, amount in amounts.items():
            self.sums[name] = self.sums.get(name, 0.0) + amount


class _ValueLoss(nn.Module):
    """The summed loss of a packed row's values."""

    def __init__(self, model: Decoder, clip: float | None) -> None:
        super().__init__()
        self.model, self.clip = model, clip

    def forward(self, row: Row, own: Sequence[Experience]) -> Tensor:
        values = self.model(row.ids, layout=Documents(row.segments), keep=row.judged)[0, :, 0].float()
        old, returns = (torch.cat([getattr(made, name) for made in own]) for name in ("values", "returns"))
        return value_loss(values, old.to(values.device), returns.to(values.device), self.clip) * len(values)


class PPO:
    """The algorithm, as a `Trainer` takes it: `tensors`, `facts` and `restore` are its state."""

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
        length: int = 2048,
        seed: int = 1234,
        dtype: str = "float32",
        world: World | None = None,
    ) -> None:
        """`queries` end where the assistant's answer begins; `pretraining(step)` gives token rows (R, T)."""
        self.settings, self.tokenizer, self.queries, self.score = settings, tokenizer, queries, score
        self.reference = reference.eval().requires_grad_(False)
        self.pretraining, self.length, self.seed = pretraining, length, seed
        self.world = world or World()
        self.normalise = RunningMean()
        self.writer, self.judge = Copy(policy, self.world), Copy(value, self.world)
        modules = _PolicyLoss(policy, settings.clip), _ValueLoss(value, settings.value_clip)
        for module in modules:
            parallelize(module, module.model.model.layers, self.world, dtype, compile=False)
        self.module = modules[0]  # what a `Trainer` exports
        self.policy = Update(modules[0], settings.policy, self.world)
        self.value = Update(modules[1], settings.value, self.world)

    def step(self, number: int) -> tuple[dict[str, float], list[Experience]]:
        """Step `number`, counted from 0: a function of the state and the number. Returns its log and experience."""
        s, clock = self.settings, _Clock()
        places = places_of(number, batch=s.queries, size=len(self.queries), seed=self.seed)
        asked = [self.queries[place] for place in places for _ in range(s.responses)]
        texts = sample(
            self.writer.follow(),
            self.tokenizer,
            asked,
            max_tokens=s.max_tokens,
            top_p=s.top_p,
            seed=seed_of(self.seed, number),
            only=range(self.world.rank, len(asked), self.world.size),
        )
        clock.mark("write")
        experience = self._experience(texts, clock)
        facts = _summary(experience)
        warming = number < s.value_steps
        generator = torch.Generator().manual_seed(seed_of(self.seed, number))
        sums: dict[str, list[float]] = {}
        moved = 0.0
        for _ in range(s.epochs):
            order = torch.randperm(len(experience), generator=generator)
            for chosen in order.tensor_split(s.minibatches):
                batch = [experience[place] for place in chosen.tolist()]
                found = self._update_value(batch)
                clock.mark("update_value")
                if not warming and (s.stop_kl is None or moved <= s.stop_kl):
                    found |= self._update_policy(batch, number)
                    moved = found["moved"]
                    clock.mark("update_policy")
                for name, amount in found.items():
                    sums.setdefault(name, []).append(amount)
        facts |= {name: sum(amounts) / len(amounts) for name, amounts in sums.items()}
        facts |= {"policy_updates": float(len(sums.get("moved", ()))), "value_only": float(warming)}
        return facts | clock.seconds, experience

    def _experience(self, texts: list[Text], clock: _Clock) -> list[Experience]:
        """What is known of this process's texts, and of all others'."""
        s = self.settings
        spoken = measure(self.writer.model, texts, length=self.length, top_p=s.top_p)
        expected = measure(self.reference, texts, length=self.length)
        clock.mark("measure")
        values = values_of(self.judge.follow(), texts, length=self.length)
        clock.mark("values")
        scores = self.score(texts)
        clock.mark("reward")
        made = [
            Experience(
                text=text,
                raw=float(raw),
                old=said.within,
                kl=said.logprobs - other.logprobs,
                values=value,
                entropy=said.entropy,
                nucleus=said.nucleus,
            )
            for text, raw, said, other, value in zip(texts, scores, spoken, expected, values, strict=True)
        ]
        return self._judged(gathered(made, self.world))

    def _judged(self, experience: list[Experience]) -> list[Experience]:
        """With advantages and returns; advantages have mean 0 and deviation 1 over all tokens of the step."""
        s = self.settings
        scores = [made.raw - s.unfinished * (not made.text.ended) for made in experience]
        if s.normalise_rewards:
            scores = self.normalise(scores)
        estimates = [
            advantages_and_returns(token_rewards(score, made.kl, s.kl), made.values, s.gamma, s.lam)
            for score, made in zip(scores, experience, strict=True)
        ]
        everything = torch.cat([advantages for advantages, _ in estimates])
        mean, deviation = everything.mean(), everything.std(correction=0) + 1e-8
        return [
            replace(made, advantages=(advantages - mean) / deviation, returns=returns)
            for made, (advantages, returns) in zip(experience, estimates, strict=True)
        ]

    def _micros(self, batch: list[Experience]) -> list[Micro]:
        """This process's rows of a minibatch."""
        texts = [made.text for made in batch]
        rows = rows_of(texts, self.length, self.world.device)
        rows = spread(rows, [text.example for text in texts], self.world)
        return [
            Micro({"row": row, "own": [batch[place] for place in row.members]}, len(row.targets), row.ids.numel())
            for row in rows
        ]

    def _update_value(self, batch: list[Experience]) -> dict[str, float]:
        outcome = self.value.step(self._micros(batch), self.settings.value.learning_rate)
        return {"value_loss": outcome.loss, "value_grad_norm": outcome.grad_norm}

    def _update_policy(self, batch: list[Experience], number: int) -> dict[str, float]:
        micros = self._micros(batch)
        if self.pretraining is not None and self.settings.ptx:
            text = self.pretraining(number).to(self.world.device)
            (tokens,) = self.world.total(sum(micro.count for micro in micros))
            weight = self.settings.ptx * tokens / (text[:, 1:].numel() * self.world.size)
            micros.append(Micro({"row": None, "own": (), "text": text, "weight": weight}, 0, text.numel()))
        module: Any = self.policy.module
        module.sums = {}
        outcome = self.policy.step(micros, self.settings.policy.learning_rate)
        names = ("clipped", "moved", "tokens", "ptx_loss", "ptx_tokens")
        clipped, moved, tokens, ptx, read = self.world.total(*(module.sums.get(name, 0.0) for name in names))
        facts = {
            "policy_loss": outcome.loss,
            "policy_grad_norm": outcome.grad_norm,
            "clipped": clipped / tokens,
            "moved": moved / tokens,
        }
        return facts | ({"ptx_loss": ptx / read} if read else {})

    def tensors(self) -> dict[str, Tensor]:
        """Weights and moments of both models by name, for a checkpoint."""
        updates = {"policy": self.policy, "value": self.value}
        return {f"{name}.{key}": value for name, update in updates.items() for key, value in update.tensors()}

    def facts(self) -> dict[str, Any]:
        """What else the next step depends on, plain JSON."""
        running = {"count": self.normalise.count, "mean": self.normalise.mean}
        return {"policy": self.policy.facts(), "value": self.value.facts(), "normalise": running}

    def restore(self, facts: dict[str, Any]) -> None:
        self.policy.restore(facts["policy"])
        self.value.restore(facts["value"])
        self.normalise.count, self.normalise.mean = facts["normalise"]["count"], facts["normalise"]["mean"]


def seed_of(seed: int, step: int) -> int:
    """Far enough apart that the texts of two steps share no seed."""
    return (seed * 1_000_003 + step) * 1_000_003 % 2**62


def _summary(experience: list[Experience]) -> dict[str, float]:
    raw = torch.tensor([made.raw for made in experience])

    def every(name: str) -> Tensor:
        return torch.cat([getattr(made, name) for made in experience])

    return {
        "reward": float(raw.mean()),
        "reward_std": float(raw.std(correction=0)),
        "kl": float(every("kl").mean()),
        "kl_per_response": float(torch.stack([made.kl.sum() for made in experience]).mean()),
        "entropy": float(every("entropy").mean()),
        "explained_variance": explained_variance(every("values"), every("returns")),
        "length": len(every("kl")) / len(experience),
        "ended": sum(made.text.ended for made in experience) / len(experience),
    }


class _Clock:
    """Seconds before each mark since the one before it, summed by name."""

    def __init__(self) -> None:
        self.seconds = {f"seconds_{name}": 0.0 for name in PHASES}
        self._last = time.monotonic()

    def mark(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[f"seconds_{name}"] += now - self._last
        self._last = now
