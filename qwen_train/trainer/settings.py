"""What an optimiser and its guard are asked for: the report's numbers (section 2.4), and the first 7B's memo."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A part of a recipe: no field but those named, and none changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Optimiser(Section):
    """AdamW with warm-up, then a cosine to `final_ratio` of the peak, or a constant rate."""

    learning_rate: float = Field(default=3e-4, gt=0)
    """The peak."""
    warmup_steps: int = Field(default=2000, ge=0)
    warmup_share: float | None = Field(default=None, ge=0, lt=1)
    """Of all steps, in place of `warmup_steps`: the specialists' 3 % (section 4)."""
    schedule: Literal["cosine", "constant"] = "cosine"
    final_ratio: float = Field(default=0.1, ge=0, le=1)
    """Of the peak, what a cosine ends at."""
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    """On matrices and the embedding; never on norms and biases."""
    clip: float | None = Field(default=1.0, gt=0)
    """The gradient's norm is scaled down to this; null does not clip."""

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step `step`, counted from 0, of `steps`."""
        warmup = self.warmup_steps if self.warmup_share is None else round(self.warmup_share * steps)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        if self.schedule == "constant":
            return self.learning_rate
        share = (step - warmup) / max(1, steps - warmup)
        return self.learning_rate * (
            self.final_ratio + (1 - self.final_ratio) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
        )


class Guard(Section):
    """What a step may not be: NaN, infinite, or a gradient far beyond those before it. Such a step changes nothing."""

    spike: float = Field(default=20.0, gt=1)
    """Times the running mean of the gradient's norm (before clipping) at which a step is skipped."""
    settle: int = Field(default=50, ge=1)
    """Steps before which spikes are not looked for: the norm falls by itself at the start."""
    patience: int = Field(default=5, ge=1)
    """Steps skipped in a row at which training stops."""
