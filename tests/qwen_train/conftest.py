"""A decoder small enough to train in a second."""

from __future__ import annotations

import torch

from qwen_model import ModelConfig
from qwen_model.decoder import Decoder
from qwen_train.trainer import Micro
from tests.processes import one_thread  # noqa: F401

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "train_length": 16,
    "max_position_embeddings": 16,
}


def small_decoder(seed: int = 0, **changes) -> Decoder:
    return Decoder(ModelConfig(**(SHAPE | changes))).init_weights(seed).train()


def rows(step: int, *, count: int = 8, length: int = 16, vocabulary: int = 97) -> torch.Tensor:
    """Rows of a step, one token longer than what is read; there is something to learn in them."""
    generator = torch.Generator().manual_seed(1000 + step)
    start = torch.randint(0, vocabulary, (count, 1), generator=generator)
    stride = torch.randint(1, 4, (count, 1), generator=generator)
    return (start + stride * torch.arange(length + 1)) % vocabulary


def micro(tokens: torch.Tensor, **more: torch.Tensor) -> Micro:
    inputs = {"input_ids": tokens[:, :-1], "targets": tokens[:, 1:], **more}
    return Micro(inputs, count=inputs["targets"].numel(), tokens=inputs["targets"].numel())
