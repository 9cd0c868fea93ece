"""Texts cut by the first Qwen's tokenizer, for measures over tokens that have to be the same for every model."""

from __future__ import annotations

from functools import cache

from qwen_model.catalogue import obtain_vocabulary
from qwen_model.qwen_tokenizer import QwenTokenizer


def qwen_pieces(text: str) -> list[str]:
    """The text of each token, U+FFFD for bytes that are no UTF-8. Raises DownloadError without the vocabulary."""
    tokenizer = _tokenizer()
    return [tokenizer.decode([token]) for token in tokenizer.encode(text)]


@cache
def _tokenizer() -> QwenTokenizer:
    return QwenTokenizer(obtain_vocabulary())
