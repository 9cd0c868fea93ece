"""One optimiser step over micro-batches: sum of losses over what they count, clip, guard, AdamW.

The loss of a step is a mean over all that counts in the step, in every micro-batch and process, and is the same however
the step is cut (the field's known bug is to divide by each part's own count).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qwen_train.parallel import World
from qwen_train.trainer.settings import Guard, Optimiser


@dataclass(frozen=True)
class Micro:
    """What goes through the model at once. The module is called with `inputs` and returns the sum of its losses."""

    inputs: Mapping[str, Any]
    count: int
    """What the loss is a mean over: target tokens, pairs."""
    tokens: int
    """Tokens read, for the speed."""


@dataclass(frozen=True)
class Outcome:
    """What a step came to, over all processes."""

    loss: float
    """Mean over what counts, in nats where the loss is a cross-entropy."""
    grad_norm: float
    """Before clipping."""
    count: int
    tokens: int
    skipped: str | None
    """Why the step changed nothing; None where it did what it should."""


class Update:
    """A module, its AdamW and its guard. PPO holds two of them; everything else one, in a `Trainer`."""

    def __init__(self, module: nn.Module, optimiser: Optimiser, world: World, guard: Guard | None = None) -> None:
        """`module(**inputs)` is a sum of losses (scalar float32). Only parameters that want gradients are moved."""
        self.module, self.world, self.settings, self.guard = module, world, optimiser, guard or Guard()
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        decayed = [p for p in self.parameters.values() if p.ndim > 1]
        others = [p for p in self.parameters.values() if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": optimiser.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.adamw = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=optimiser.learning_rate,
            betas=optimiser.betas,
            eps=optimiser.eps,
            fused=True,
        )
        self.running_norm, self.taken, self.skipped, self.in_a_row = 0.0, 0, 0, 0

    def step(self, micros: Sequence[Micro], rate: float) -> Outcome:
        """Gradients of the micro-batches of this process, summed over all processes; then one step at that rate."""
        count, tokens = self.world.total(sum(m.count for m in micros), sum(m.tokens for m in micros))
        summed_losses = torch.zeros((), device=self.world.device)
        for micro in micros:
            summed = self.module(**micro.inputs)
            # FSDP takes the mean over processes where the sum is meant
            (summed * (self.world.size / max(count, 1))).backward()
            summed_losses += summed.detach()
        (loss,) = self.world.total(float(summed_losses))
        loss /= max(count, 1)
        norm = self._clip()
        skipped = self._refuse(loss, norm)
        if skipped is None:
            for group in self.adamw.param_groups:
                group["lr"] = rate
            self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        return Outcome(loss, norm, int(count), int(tokens), skipped)

    def _clip(self) -> float:
        parameters = list(self.parameters.values())
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        if self.settings.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.settings.clip, norm)
        return float(norm)

    def _refuse(self, loss: float, norm: float) -> str | None:
        """Count this step; returns why it must not be taken."""
        reason = None
        if not (math.isfinite(loss) and math.isfinite(norm)):
            reason = f"loss {loss}, gradient norm {norm}"
        elif self.taken >= self.guard.settle and norm > self.guard.spike * self.running_norm:
            reason = f"gradient norm {norm:.3g}, {norm / self.running_norm:.0f} times its running mean"
        if reason is not None:
            self.skipped += 1
            self.in_a_row += 1
            return reason
        share = max(0.02, 1 / (self.taken + 1))
        self.running_norm += share * (norm - self.running_norm)
        self.taken += 1
        self.in_a_row = 0
        return None

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Weights and moments by name, for a checkpoint: those of AdamW are made where it has not stepped yet."""
        yield from ((f"model.{name}", parameter.data) for name, parameter in self.module.named_parameters())
        for name, parameter in self.parameters.items():
            state = self.adamw.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            yield from ((f"optimiser.{name}.{key}", state[key]) for key in ("step", "exp_avg", "exp_avg_sq"))

    def facts(self) -> dict[str, Any]:
        """The guard's state, for a checkpoint."""
        return {name: getattr(self, name) for name in _FACTS}

    def restore(self, facts: Mapping[str, Any]) -> None:
        for name in _FACTS:
            setattr(self, name, facts[name])


_FACTS = ("running_norm", "taken", "skipped", "in_a_row")
