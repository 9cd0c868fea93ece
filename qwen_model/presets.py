"""The report's three sizes (Table 1) and a family that trains on a laptop.

from qwen_model import PRESETS
from qwen_model.decoder import Decoder
model = Decoder(PRESETS["nano-8m"]).init_weights(seed=0)
"""

from __future__ import annotations

from qwen_model.config import ModelConfig


def ffn_width(hidden_size: int) -> int:
    """The report's 8/3 of the hidden size, rounded up to a multiple of 128 as in the released sizes."""
    return -(-8 * hidden_size // (3 * 128)) * 128


def _qwen(hidden_size: int, layers: int, vocab_size: int, *, head_dim: int = 128, length: int = 2048) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=ffn_width(hidden_size),
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // head_dim,
        num_key_value_heads=hidden_size // head_dim,
        head_dim=head_dim,
        train_length=length,
        max_position_embeddings=length,
    )


PRESETS: dict[str, ModelConfig] = {
    "qwen-1.8b": _qwen(2048, 24, 151936),
    "qwen-7b": _qwen(4096, 32, 151936),
    "qwen-14b": _qwen(5120, 40, 152064),
    # named by their parameters with an 8,192-token vocabulary of their own; T is short, so that 16 T is soon reached
    "nano-2m": _qwen(96, 4, 8192, head_dim=32, length=256),
    "nano-8m": _qwen(256, 4, 8192, head_dim=64, length=256),
    "nano-15m": _qwen(384, 5, 8192, head_dim=64, length=256),
    "nano-34m": _qwen(512, 8, 8192, head_dim=64, length=512),
}
"""The report trains all sizes at 2,048 tokens (section 2.4); the released 1.8B and 7B of September 2023 say 8,192."""
