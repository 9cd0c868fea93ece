"""The Qwen decoder and tokenizer. `load_model` takes a checkpoint folder, a GGUF file or a catalogue name."""

from qwen_model.checkpoint import load_model
from qwen_model.config import ModelConfig, ModelError

__all__ = ["ModelConfig", "ModelError", "load_model"]
