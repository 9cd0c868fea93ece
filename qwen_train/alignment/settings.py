"""Recipes of the alignment stages. Defaults are the report's section 3; what it leaves open is ours and says so."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from qwen_train.alignment.ppo import PPOSettings
from qwen_train.trainer.settings import Optimiser, Section

Dtype = Literal["float32", "bfloat16"]


class Lora(Section):
    """Low-rank adapters on all linear layers of the decoder, as the released finetune.py places them."""

    rank: int = Field(default=64, ge=1)
    alpha: float = Field(default=16, gt=0)


class Stage(Section):
    """What every stage is asked for."""

    model: str
    """A checkpoint folder or a catalogue name."""
    seed: int = 1234
    dtype: Dtype = "float32"
    """What passes compute in; weights and moments are float32."""
    length: int = Field(default=2048, ge=8)
    """The longest text, and the length of a packed row."""
    checkpoint_every: int = Field(default=200, ge=1)
    keep: int = Field(default=2, ge=1)
    """Checkpoints that stay."""


class SFT(Stage):
    """Section 3.1.1: batch 128, 4,000 steps, 1,430 of them warm-up to 2e-6, weight decay 0.1, dropout 0.1, clip 1."""

    data: list[str] = Field(min_length=1)
    """Conversations (docs/alignment.md has the formats)."""
    validation: list[str] = Field(default=[])
    validate_every: int = Field(default=200, ge=1)
    mask: Literal["report", "released"] = "report"
    too_long: Literal["drop", "cut"] = "drop"
    batch: int = Field(default=128, ge=1)
    steps: int = Field(default=4000, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    lora: Lora | None = None
    # how the rate goes on after the warm-up is not published: a cosine to 10 %, as in pretraining, is ours
    optimiser: Optimiser = Optimiser(learning_rate=2e-6, warmup_steps=1430)


class Reward(Stage):
    """Section 3.2.1, both of its stages: a constant 3e-6, batch 64, one epoch, 2,048 tokens."""

    data: list[str] = Field(min_length=1)
    """Pairs (docs/alignment.md has the formats)."""
    validation: list[str] = Field(default=[])
    validate_every: int = Field(default=100, ge=1)
    batch: int = Field(default=64, ge=1)
    epochs: float = Field(default=1.0, gt=0)
    margins: bool = False
    """Whether the pairs' `margin` counts."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    # no weight decay, warm-up or clip is given
    optimiser: Optimiser = Optimiser(learning_rate=3e-6, warmup_steps=0, schedule="constant", weight_decay=0.0)


class DPO(Stage):
    """A baseline that the report does not have (Rafailov et al., 2023)."""

    data: list[str] = Field(min_length=1)
    validation: list[str] = Field(default=[])
    validate_every: int = Field(default=100, ge=1)
    batch: int = Field(default=64, ge=1)
    epochs: float = Field(default=1.0, gt=0)
    beta: float = Field(default=0.1, gt=0)
    optimiser: Optimiser = Optimiser(learning_rate=1e-6, warmup_steps=50, weight_decay=0.0)


class PPORecipe(Stage):
    """Section 3.2.2. `model` is the policy and the reference, `reward` also what the value model begins with."""

    reward: str
    """A reward model's folder, or FILE.py:FUNCTION of (query, answer) texts that returns a number."""
    queries: list[str] = Field(min_length=1)
    held_out: list[str] = Field(default=[])
    """Queries that are never trained on, answered every `watch_every` steps."""
    gold: str | None = None
    """Judges the held-out answers beside `reward`: another reward model, or FILE.py:FUNCTION."""
    watch_every: int = Field(default=50, ge=1)
    pretraining: list[str] = Field(default=[])
    """Texts (jsonl with `text`) whose gradient is mixed in, by the weight `ptx`."""
    ppo: PPOSettings = PPOSettings()

    @model_validator(mode="after")
    def _fits(self) -> PPORecipe:
        s = self.ppo
        if s.max_tokens >= self.length:
            raise ValueError(
                f"length: {self.length} tokens leave no room before ppo.max_tokens, {s.max_tokens}; lower it"
            )
        if s.minibatches > s.queries * s.responses:
            raise ValueError(f"ppo.minibatches: {s.minibatches} are more than the responses of a step; lower it")
        return self


class SelfInstruct(Section):
    """Section 3.4 and Wang et al. (2023): about 2,000 samples, and ROUGE-L below 0.7 between questions. The rest is
    ours."""

    model: str
    """Who writes: a checkpoint folder, a catalogue name, or a server's name for its model."""
    seeds: list[str] = Field(default=[])
    """Conversations to begin with (docs/alignment.md has the form); none: ours, that come with the package."""
    tools: list[str] = Field(default=[])
    """Further tools to write about, beside those of the seeds."""
    samples: int = Field(default=2000, ge=1)
    """Conversations to accept."""
    prompts: int = Field(default=500, ge=1)
    """Of a round."""
    rounds: int = Field(default=50, ge=1)
    """At most."""
    examples: int = Field(default=4, ge=1)
    """In a prompt; one in four is one that was accepted in a round before."""
    similar: float = Field(default=0.7, gt=0, le=1)
    """ROUGE-L with a known question from which on a new one is rejected."""
    max_tokens: int = Field(default=512, ge=1)
    chat: bool = False
    """Ask by a user's turn, which suits servers that do nothing else; else the model goes on with a text."""
    temperature: float = Field(default=0.7, ge=0)
    top_p: float = Field(default=0.9, gt=0, le=1)
    seed: int = 1234
    backend: Literal["native", "hf", "vllm", "openai"] = "native"
    dtype: Dtype = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
    base_url: str | None = None
    """openai: the server's address, such as http://localhost:8000/v1."""
    tokenizer: str | None = None
    concurrency: int = Field(default=16, ge=1)
    """openai: requests at once."""
