"""The Qwen decoder and tokenizer. `load_model` takes a checkpoint folder, a GGUF file or a catalogue name."""

from qwen_model.checkpoint import load_model, load_tokenizer
from qwen_model.config import ModelConfig, ModelError
from qwen_model.long_context import LongContext, WindowSchedule
from qwen_model.presets import PRESETS
from qwen_model.save import save_model

__all__ = [
    "PRESETS",
    "LongContext",
    "ModelConfig",
    "ModelError",
    "WindowSchedule",
    "load_model",
    "load_tokenizer",
    "save_model",
]
