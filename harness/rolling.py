"""Long texts whose every token is scored: requests wait here until the engine's pump reads them, piece by piece.

Lengths of one text at one step of dynamic NTK cost one reading: what a token is likely to be hangs on those before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qwen_model.memory import free_memory
from qwen_model.prefill import CausalLM, Reader, windows
from tasks.api import TaskError


@dataclass(frozen=True, eq=False)
class _Asked:
    ids: Sequence[int]
    length: int
    stride: int | None
    future: asyncio.Future[tuple[float, ...]]

    def windows(self) -> Iterator[tuple[int, int, int]]:
        if self.stride is None:
            return iter([(0, self.length, 1)])
        return windows(len(self.ids), self.length, self.stride)


class Rolls:
    """Requests for the log-probabilities of whole texts."""

    def __init__(self, model: CausalLM, reader: Reader) -> None:
        self._model, self._reader = model, reader
        self._waiting: list[_Asked] = []

    @property
    def waiting(self) -> bool:
        return bool(self._waiting)

    def ask(self, ids: Sequence[int], length: int, stride: int | None) -> asyncio.Future[tuple[float, ...]]:
        """Log-probabilities (nats) of all tokens but the first of the first `length`, or of all with a stride.

        Raises ValueError for a length below 2 and a stride outside 1 .. length - 1.
        """
        if length < 2:
            raise ValueError(f"length: {length} tokens have no token to judge; give 2 or more")
        if stride is not None and not 1 <= stride < length:
            raise ValueError(f"stride: {stride} is not from 1 to {length - 1}")
        future: asyncio.Future[tuple[float, ...]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Asked(ids, min(length, len(ids)), stride, future))
        return future

    async def read_next(self) -> None:
        """Read the text that waits longest, and answer all requests that this reading answers.

        Raises TaskError where its keys and values do not fit into memory.
        """
        first = self._waiting[0]
        step = self._model.ntk_step(first.length)
        together = [
            one
            for one in self._waiting
            if one is first
            or (
                (one.ids is first.ids and one.stride is first.stride is None)
                and self._model.ntk_step(one.length) == step
            )
        ]
        self._waiting = [one for one in self._waiting if one not in together]
        longest = max(together, key=lambda one: one.length)
        self._check_memory(longest.length)
        found: list[float] = []
        for start, end, judged in longest.windows():
            ids = longest.ids if longest.stride is None else longest.ids[start:end]
            pieces = self._reader.logprobs(ids, end - start, judged - start)
            while (piece := await asyncio.to_thread(_next, pieces)) is not None:
                found.extend(piece)
        for one in together:
            one.future.set_result(tuple(found if one.stride else found[: max(one.length - 1, 0)]))

    def _check_memory(self, length: int) -> None:
        needed = self._model.cache_shape.nbytes(1, length, self._model.dtype, rings=False)
        free = free_memory(self._model.device) + self._reader.stack.nbytes
        if needed > free:
            raise TaskError(
                f"--lengths: {length} tokens take {needed / 1e9:,.1f} GB of keys and values, and {free / 1e9:,.1f} GB "
                f"are free; ask for shorter ones"
            )


def _next(pieces: Iterator[list[float]]) -> list[float] | None:
    return next(pieces, None)
