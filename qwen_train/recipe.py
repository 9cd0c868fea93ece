"""Recipes: all that makes a base or a specialised model, in one YAML file that goes whole into the run's folder."""

from __future__ import annotations

import difflib
import math
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator

from qwen_model import PRESETS, ModelConfig
from qwen_train.errors import TrainError
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
                raise ValueError(f"no field {name!r}{_nearest(name, list(fields))}")
        return model

    @property
    def identity(self) -> dict[str, Any]:
        """What determines the numbers: all but how often something is measured or kept."""
        beside: dict[str, Any] = {"training": {"checkpoint_every", "keep", "keep_every"}}
        return self.model_dump(mode="json", exclude=beside | dict.fromkeys(("validation", "harness"), True))

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


def stem(name: str | Path) -> str:
    """A recipe's name without its folder and `.yaml`."""
    return Path(name).name.removesuffix(".yaml")


def read_recipe(name: str | Path) -> Recipe:
    """A recipe's file, or one that comes with the package: `nano`, `recipes/nano.yaml`.

    Raises TrainError that names the file, the field, and the nearest field there is.
    """
    path = Path(name)
    packaged = files("qwen_train") / "recipes" / f"{stem(name)}.yaml"
    if not path.is_file():
        known = sorted(p.name.removesuffix(".yaml") for p in (files("qwen_train") / "recipes").iterdir())
        if not packaged.is_file():
            raise TrainError(f"{name}: no such recipe; give a .yaml file or one of {', '.join(known)}")
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else packaged.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrainError(f"{name}: not YAML ({' '.join(str(error).split())}); mend it") from error
    if not isinstance(content, dict):
        raise TrainError(f"{name}: not a table of settings; see docs/train.md for one")
    try:
        return Recipe(**content)
    except ValidationError as error:
        first = error.errors()[0]
        raise TrainError(f"{name}: {_told(first)}") from error


def _told(error: Any) -> str:
    """One line on a field that is wrong."""
    place = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        section: Any = Recipe
        for part in place[:-1]:
            found = section.model_fields[part].annotation
            section = next((kind for kind in (found, *get_args(found)) if _is_section(kind)), Recipe)
        return f"{'.'.join(place)}: no such field{_nearest(place[-1], list(section.model_fields))}"
    wrong = str(error["msg"]).removeprefix("Value error, ")
    return f"{'.'.join(place)}: {wrong}" + ("" if error["type"] == "missing" else f", not {error['input']!r}"[:200])


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
