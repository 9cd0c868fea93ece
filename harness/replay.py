"""Stand-ins for a model: they answer a task from what is written down, and say so where that holds no answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from harness.pieces import qwen_pieces
from harness.requests import as_text, generate_digest, loglikelihood_digest, rolling_digest, score_digest
from qwen_model.tokenizer import cut
from tasks.api import Decoding, Prompt, Reply, Rolled, TaskError


class Replay:
    """A `tasks.api.Model` that hands back what a run stored of a sample, in order.

    Each request must be the one that was answered then; a task may ask less than before.
    """

    def __init__(self, sample: str, asked: Sequence[Mapping[str, Any]]) -> None:
        self._sample, self._stored = sample, asked
        self.asked: list[Mapping[str, Any]] = []
        self.prompt = self.response = ""
        self.finish: str | None = None
        self.logprobs: tuple[float, ...] | None = None

    def _next(self, kind: str, request: str) -> Mapping[str, Any]:
        place = len(self.asked)
        if place == len(self._stored):
            differs = f"asks for more than the {place} requests that were answered"
        elif (self._stored[place]["kind"], self._stored[place]["request"]) != (kind, request):
            differs = f"asks something else in request {place + 1}"
        else:
            self.asked.append(self._stored[place])
            return self._stored[place]
        raise TaskError(
            f"sample {self._sample}: the task now {differs} (its prompt, shots, options or data changed); run it anew"
        )

    @property
    def train_length(self) -> int:
        return int(self._next("train_length", "")["tokens"])

    async def generate(self, prompt: Prompt, decoding: Decoding) -> Reply:
        stored = self._next("generate", generate_digest(prompt, decoding))
        self.prompt, self.response, self.finish = as_text(prompt), stored["text"], stored["finish"]
        self.logprobs = tuple(stored["logprobs"])
        return Reply(text=stored["text"], finish=stored["finish"], logprobs=self.logprobs)

    async def score(self, prompt: Prompt, continuations: Sequence[str], *, window: int | None = None) -> list[float]:
        stored = self._next("score", score_digest(prompt, continuations, window))
        self.prompt = as_text(prompt)
        return list(stored["scores"])

    async def loglikelihood(self, context: str, continuation: str) -> tuple[float, bool]:
        stored = self._next("loglikelihood", loglikelihood_digest(context, continuation))
        self.prompt = context
        return stored["logprob"], stored["greedy"]

    async def rolling(
        self, text: str, *, length: int | None = None, stride: int | None = None, begin: bool = False
    ) -> Rolled:
        stored = self._next("rolling", rolling_digest(text, length, stride, begin))
        return Rolled(logprobs=tuple(stored["logprobs"]), tokens=stored["tokens"])

    async def pieces(self, text: str) -> list[str]:
        return await asyncio.to_thread(qwen_pieces, text)  # the same for every model


class Completion:
    """A `tasks.api.Model` whose one reply is a text of the user's, cut at the request's stop strings."""

    def __init__(self, sample: str, text: str) -> None:
        self._sample, self._text = sample, text
        self.asked: list[Mapping[str, Any]] = []
        self.prompt = self.response = ""
        self.finish: str | None = None
        self.logprobs: tuple[float, ...] | None = None

    async def generate(self, prompt: Prompt, decoding: Decoding) -> Reply:
        if self.asked:
            raise self._refuse("asks for a second reply, and a file of completions has one")
        text, stopped = cut(self._text, decoding.stop)
        reply = Reply(text=text, finish="stop" if stopped else "eos", logprobs=())
        request = generate_digest(prompt, decoding)
        self.asked.append(
            {"kind": "generate", "request": request, "text": text, "finish": reply.finish, "logprobs": []}
        )
        self.prompt, self.response = as_text(prompt), text
        return reply

    async def score(self, prompt: Prompt, continuations: Sequence[str], *, window: int | None = None) -> list[float]:
        raise self._scored()

    async def loglikelihood(self, context: str, continuation: str) -> tuple[float, bool]:
        raise self._scored()

    async def rolling(
        self, text: str, *, length: int | None = None, stride: int | None = None, begin: bool = False
    ) -> Rolled:
        raise self._scored()

    @property
    def train_length(self) -> int:
        raise self._scored()

    async def pieces(self, text: str) -> list[str]:
        return await asyncio.to_thread(qwen_pieces, text)  # the same for every model

    def _scored(self) -> TaskError:
        return self._refuse("asks for log-probabilities, which a file of completions has not")

    def _refuse(self, why: str) -> TaskError:
        return TaskError(f"sample {self._sample}: the task {why}; use `harness run`")
