"""Shape of a decoder: one config for the first Qwen, Qwen2/Qwen2.5 dense and Llama-shaped checkpoints."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwen_model.long_context import LongContext, Windows, checked_windows


class ModelError(Exception):
    """The user can mend this: a checkpoint that is missing, damaged or of another kind. The message is one line."""


def read_json(path: Path) -> dict[str, Any]:
    """A file's JSON object, an empty one where there is no file. Raises ModelError, one line that names the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); look at its permissions") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not JSON ({error}); fetch the checkpoint again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: not a JSON object; fetch the checkpoint again")
    return value


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes and switches of the decoder. Field names follow transformers' config.json where it has one.

    The defaults are the report's (section 2.3): untied embeddings, biases on queries, keys and values only.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    """Width of the gate and of the up-projection (the first Qwen's config.json states twice this)."""
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    train_length: int
    """T, the length trained at: what dynamic NTK and LogN start from."""
    max_position_embeddings: int
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    qkv_bias: bool = True
    output_bias: bool = False
    tie_word_embeddings: bool = False
    dropout: float = 0.0
    """On the embeddings and on what attention and MLP add, while training; the report's SFT uses 0.1 (section 3.1)."""
    initializer_range: float = 0.02
    scalar_head: bool = False
    """One number per token in place of logits: a reward or value model."""
    windows: Windows | None = None
    """The window that each layer was trained with, lowest first; None where all layers read everything."""
    long_context: LongContext = field(default_factory=LongContext)
    """What the checkpoint lays over itself at inference, such as the first Qwen's dynamic NTK and LogN."""

    def __post_init__(self) -> None:
        if self.windows is not None:
            object.__setattr__(self, "windows", checked_windows(self.windows, self.num_hidden_layers))
        sizes = (
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "hidden_size",
            "intermediate_size",
            "vocab_size",
        )
        for name in sizes:
            if not 1 <= getattr(self, name) < 2**31:
                raise ValueError(f"{name}: {getattr(self, name)} is no size; give 1 or more, below 2^31")
        for name in ("rope_theta", "rms_norm_eps"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: {getattr(self, name)} is out of range; give a number above 0")
        if self.train_length < 2:
            raise ValueError(f"train_length: {self.train_length} is no trained length; give 2 tokens or more")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads: {self.num_attention_heads} heads cannot share"
                f" {self.num_key_value_heads} key-value heads evenly"
            )
        if self.scalar_head and self.tie_word_embeddings:
            raise ValueError("scalar_head: a head of one number cannot be tied to the embeddings; untie them")
        if self.head_dim % 2:
            raise ValueError(f"head_dim: {self.head_dim} is odd; rotary positions turn pairs")
