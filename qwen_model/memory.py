"""What to do where memory runs out: tell it from other errors, and do less at once."""

from __future__ import annotations

import gc

import torch

from qwen_model.config import ModelError

SMALLEST = 16
"""Tokens a pass below which less at once does not help."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says so, of a GPU's memory or of the machine's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        text in str(error) for text in ("out of memory", "DefaultCPUAllocator", "not enough memory")
    )


def halved(tokens: int) -> int:
    """A smaller budget, with what nobody holds given back. Raises ModelError where it cannot be smaller."""
    if tokens <= SMALLEST:
        raise ModelError(
            f"memory is full even in passes of {tokens} tokens; free some, or take --dtype bfloat16, a smaller model "
            "or shorter texts"
        )
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return max(SMALLEST, tokens // 2)
