"""Recipes: all that makes a base or a specialised model, in one YAML file that goes whole into the run's folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from harness.yaml_file import nearest, typed
from qwen_model import PRESETS, ModelConfig
from qwen_train.errors import TrainError
from qwen_train.recipe_file import read_recipe_table
from qwen_train.trainer.settings import Guard, Optimiser, Section


class Data(Section):
    """For `qwen-train run`: from raw text to token files."""

    settings: dict[str, Any] = Field(default_factory=dict)
    """What `qwen-train data --config` takes."""
    vocabulary: int | None = Field(default=None, ge=257)
    """Tokens of a tokenizer to be trained; null takes Qwen's own."""
    validation: float = Field(default=0.005, ge=0, lt=0.5)
    """Share of the documents that is held out."""


class Training(Section):
    """How much is read, in which pieces, and what is kept of it."""

    tokens: int = Field(ge=1)
    """Read in all; the last step is a whole one."""
    batch: int = Field(ge=1)
    """Sequences of a step, over all processes."""
    context: int = Field(default=2048, ge=2)
    """Tokens of a sequence."""
    micro_batch: int = Field(ge=1)
    """Sequences at once in a process: changes the memory, not the step."""
    seed: int = Field(default=1234, ge=0)
    weights: dict[str, float] = Field(default_factory=dict)
    """Share of each source, in tokens; none named: each as long as it is."""
    across_documents: bool = True
    """Tokens read on across the documents of a sequence; false lets each document read only itself."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """What passes compute in; weights and moments are float32."""
    recompute: bool = False
    """Activation checkpointing: memory of one layer, a third more work."""
    compile: bool = False
    checkpoint_every: int = Field(default=1000, ge=1)
    keep: int = Field(default=2, ge=1)
    """Last checkpoints that stay."""
    keep_every: int | None = Field(default=None, ge=1)
    """Checkpoints of these steps stay for good."""

    @property
    def steps(self) -> int:
        return math.ceil(self.tokens / (self.batch * self.context))


class Validation(Section):
    """Loss on the documents held out."""

    every: int = Field(default=1000, ge=1)
    sequences: int = Field(default=256, ge=1)
    """So many, spread evenly over the documents, always the same."""


class HarnessTasks(Section):
    """Tasks of `harness tasks`, run on the weights of that step."""

    tasks: tuple[str, ...] = Field(min_length=1)
    every: int = Field(ge=1)
    limit: int | None = Field(default=None, ge=1)
    data_dir: Path | None = None
    documents: Path | None = None
    """For long-ppl, as the harness takes it, with its `lengths`."""
    lengths: tuple[int, ...] = ()


class Recipe(Section):
    """The whole file."""

    model: str | dict[str, Any]
    """A name of `qwen_model.PRESETS`, or the fields of a ModelConfig, with `preset` for the others."""
    data: Data = Data()
    training: Training
    optimiser: Optimiser = Optimiser()
    guard: Guard = Guard()
    validation: Validation = Validation()
    harness: HarnessTasks | None = None

    @field_validator("model")
    @classmethod
    def _known(cls, model: str | dict[str, Any]) -> str | dict[str, Any]:
        preset = model if isinstance(model, str) else model.get("preset", "")
        if preset and preset not in PRESETS:
            raise ValueError(f"{preset!r} is none of {', '.join(PRESETS)}")
        fields = ModelConfig.__dataclass_fields__
        for name in [] if isinstance(model, str) else model:
            if name != "preset" and name not in fields:
                raise ValueError(f"no field {name!r}; {nearest(name, fields)}")
        return model

    @property
    def identity(self) -> dict[str, Any]:
        """What determines the numbers, but for rounding and `changeable`."""
        measured = {"checkpoint_every", "keep", "keep_every"}
        cut = {"micro_batch", "recompute", "compile"}
        beside: dict[str, Any] = {"training": measured | cut}
        others = ("validation", "harness", *self.changeable)
        return self.model_dump(mode="json", exclude=beside | dict.fromkeys(others, True))

    @property
    def changeable(self) -> dict[str, Any]:
        """What may be another when a run is gone on with: after bad steps, a lower rate."""
        return self.model_dump(mode="json", include={"optimiser", "guard"})

    def model_config_of(self, vocabulary: int) -> ModelConfig:
        """The model's sizes; where the recipe has no vocab_size of its own, the vocabulary in whole 128s.

        Raises TrainError where the tokenizer has more ids than the model rows, or sizes do not fit.
        """
        own = {} if isinstance(self.model, str) else {k: v for k, v in self.model.items() if k != "preset"}
        preset = self.model if isinstance(self.model, str) else self.model.get("preset")
        base: dict[str, Any] = dict(vars(PRESETS[preset])) if preset else {}
        if "vocab_size" not in own and (self.data.vocabulary or not preset):
            base["vocab_size"] = -(-vocabulary // 128) * 128
        length = self.training.context
        base |= {"train_length": length, "max_position_embeddings": length, "dropout": self.training.dropout}
        try:
            config = ModelConfig(**(base | own))
        except (TypeError, ValueError) as error:
            raise TrainError(f"model: {error}") from error
        if vocabulary > config.vocab_size:
            raise TrainError(
                f"model.vocab_size: {config.vocab_size:,} rows are fewer than the tokenizer's {vocabulary:,} ids; raise"
                " it, or take token files of the model's own tokenizer"
            )
        return config


def read_recipe(name: str | Path) -> Recipe:
    """A recipe's file, or one that comes with the package: `nano`, `recipes/nano.yaml`.

    Raises TrainError that names the file, the field, and the nearest field there is.
    """
    return typed(Recipe, read_recipe_table(name), str(name), TrainError)
