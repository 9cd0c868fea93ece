"""Backends that read one sequence of tokens at a time and plan by themselves: vLLM, and servers."""

from __future__ import annotations

import asyncio
import math
from abc import abstractmethod
from collections.abc import Sequence

from harness.backend import Answer, Backend, Encoded
from harness.encoding import Encoding
from harness.response_cache import ResponseCache
from qwen_model.prefill import text_windows
from qwen_model.scoring import Continuation, Scored
from tasks.api import Rolled, TaskError


class TokenBackend(Backend):
    """Log-probabilities of tasks' requests by those of whole sequences. Without an encoding there are none."""

    def __init__(
        self, encoding: Encoding | None, *, runners: int, seed: int, unsafe: bool, cache: ResponseCache | None = None
    ) -> None:
        super().__init__(runners=runners, seed=seed, unsafe=unsafe, cache=cache)
        self._encoding = encoding

    @property
    def encoding(self) -> Encoding:
        """Raises TaskError where the model's tokens are not known."""
        if self._encoding is None:
            raise TaskError("the task asks for log-probabilities or tokens; give --tokenizer with the model's folder")
        return self._encoding

    @property
    def train_length(self) -> int:
        return self.encoding.train_length

    @abstractmethod
    async def read(self, ids: Sequence[int]) -> list[Scored]:
        """Of each token but the first: its log-probability (nats) behind those before it, and whether it is the
        likeliest one."""

    async def _scored(self, items: Sequence[Continuation]) -> list[Scored]:
        sequences = list(dict.fromkeys(item.context + item.tokens for item in items))
        read = dict(zip(sequences, await asyncio.gather(*map(self.read, sequences)), strict=True))
        found = []
        for item in items:
            own = read[item.context + item.tokens][len(item.context) - 1 :]
            found.append(Scored(math.fsum(one.logprob for one in own), all(one.greedy for one in own)))
        return found

    async def score(self, prompt: Encoded, continuations: Sequence[str], window: int | None) -> Answer:
        items = self.encoding.continuations(prompt, continuations, window)
        return {"scores": [scored.logprob for scored in await self._scored(items)]}

    async def loglikelihood(self, context: str, continuation: str) -> Answer:
        item, _ = self.encoding.pair(context, continuation)
        (scored,) = await self._scored([item])
        return {"logprob": scored.logprob, "greedy": scored.greedy}

    async def rolling(self, text: str, length: int | None, stride: int | None, begin: bool) -> Rolled:
        ids = self.encoding.text(text, begin)
        tokens = len(ids) - begin
        if len(ids) < 2:
            return Rolled(logprobs=(), tokens=tokens)
        length = len(ids) if length is None else min(length, len(ids))
        spans = [(0, length, 1)] if stride is None else list(text_windows(len(ids), length, stride))
        read = await asyncio.gather(*(self.read(ids[start:end]) for start, end, _ in spans))
        found = tuple(
            one.logprob
            for (start, _, judged), scored in zip(spans, read, strict=True)
            for one in scored[judged - start - 1 :]
        )
        return Rolled(logprobs=found, tokens=tokens)
