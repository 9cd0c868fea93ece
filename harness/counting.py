"""How many tokens texts have by a model's tokenizer, which is how tasks fit their samples to a model (`Task.fit`).

A run keeps what was counted, so that `harness score` fits the samples as the run did, without the model.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.api import TaskError

if TYPE_CHECKING:
    from qwen_model.tokenizer import Tokenizer

Count = Callable[[str], int]


def counting(folder: Path, counted: dict[str, int]) -> Count:
    """Counts by a checkpoint's tokenizer, and puts every answer into `counted`, by the text's digest."""

    def count(text: str) -> int:
        number = counted[_digest(text)] = _tokens(folder, text)
        return number

    return count


def recounting(run: Path, counted: Mapping[str, int]) -> Count:
    """Counts again by what a run kept. Raises TaskError for a text that it did not count."""

    def count(text: str) -> int:
        number = counted.get(_digest(text))
        if number is None:
            raise TaskError(f"{run}: a task now counts another text (its data, options or code changed); run it anew")
        return number

    return count


def counting_for(model: str | None) -> Count:
    """Counts by the tokenizer of a folder or a named model, which is looked for once something is counted: then raises
    ModelError, and TaskError without one."""

    @functools.cache
    def folder() -> Path:
        from qwen_model.checkpoint import find_checkpoint

        if model is None:
            raise TaskError("the task counts tokens by the model's tokenizer; give --model")
        return Path(model) if Path(model).is_dir() else find_checkpoint(model).folder

    return lambda text: _tokens(folder(), text)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


@functools.lru_cache(maxsize=10_000)  # the runs of a sweep count the same long texts
def _tokens(folder: Path, text: str) -> int:
    return len(_tokenizer(folder).encode(text))


@functools.lru_cache(maxsize=4)
def _tokenizer(folder: Path) -> Tokenizer:
    from qwen_model.checkpoint import load_tokenizer

    return load_tokenizer(folder)
