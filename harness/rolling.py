"""Long texts whose every token is scored: requests wait here until the engine's pump reads them, piece by piece.

Lengths of one text at one step of dynamic NTK cost one reading: what a token is likely to be hangs on those before it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness import memory
from qwen_model.memory import free_memory
from qwen_model.prefill import CausalLM, Reader, text_windows


@dataclass(frozen=True)
class Rolling:
    """Log-probabilities (nats) of a text's tokens, and what their reading took."""

    logprobs: tuple[float, ...]
    seconds: float
    """Up to this length; a reading that answers several lengths counts in each."""
    peak: int | None
    """Bytes in use at most up to this length; None where that cannot be measured."""


@dataclass(frozen=True, eq=False)
class _Asked:
    ids: Sequence[int]
    length: int
    stride: int | None
    future: asyncio.Future[Rolling]

    def windows(self) -> Iterator[tuple[int, int, int]]:
        if self.stride is None:
            return iter([(0, self.length, 1)])
        return text_windows(len(self.ids), self.length, self.stride)


class Rolls:
    """Requests for the log-probabilities of whole texts."""

    def __init__(self, model: CausalLM, reader: Reader) -> None:
        self._model, self._reader = model, reader
        self._waiting: list[_Asked] = []
        self.peak = memory.Peak(model.device)

    @property
    def waiting(self) -> bool:
        return bool(self._waiting)

    def ask(self, ids: Sequence[int], length: int, stride: int | None) -> asyncio.Future[Rolling]:
        """Log-probabilities (nats) of all tokens but the first of the first `length`, or of all with a stride.

        Raises ValueError for a length below 2 and a stride outside 1 .. length - 1.
        """
        if length < 2:
            raise ValueError(f"length: {length} tokens have no token to judge; give 2 or more")
        if stride is not None and not 1 <= stride < length:
            raise ValueError(f"stride: {stride} is not from 1 to {length - 1}")
        future: asyncio.Future[Rolling] = asyncio.get_running_loop().create_future()
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
        together.sort(key=lambda one: one.length)
        stops = [one.length for one in together]
        found: list[float] = []
        self.peak.lap()
        begin, peak = time.monotonic(), 0
        for start, end, judged in longest.windows():
            ids = longest.ids if longest.stride is None else longest.ids[start:end]
            pieces = self._reader.logprobs(ids, end - start, judged - start, stops)
            while (piece := await asyncio.to_thread(_next, pieces)) is not None:
                found.extend(piece)
                while longest.stride is None and together and len(found) >= together[0].length - 1:
                    peak = self._answer(together.pop(0), found, begin, peak)
        for one in together:
            peak = self._answer(one, found, begin, peak)

    def _answer(self, one: _Asked, found: Sequence[float], begin: float, peak: int) -> int:
        """Returns the peak up to here."""
        lap = self.peak.lap()
        logprobs = tuple(found if one.stride else found[: max(one.length - 1, 0)])
        peak = max(peak, lap or 0)
        one.future.set_result(Rolling(logprobs, time.monotonic() - begin, None if lap is None else peak))
        return peak

    def _check_memory(self, length: int) -> None:
        needed = self._model.cache_shape.nbytes(1, length, self._model.dtype, rings=False)
        free = free_memory(self._model.device) + self._reader.stack.nbytes
        memory.check_room(length, needed, free, "free some, or take shorter texts (--lengths, for tasks that take it)")


def _next(pieces: Iterator[list[float]]) -> list[float] | None:
    return next(pieces, None)
