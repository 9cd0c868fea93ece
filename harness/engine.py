"""Requests of all samples at once: planned as a whole, and computed in batches by a model of this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from harness.backend import Answer, Backend, Encoded
from harness.encoding import Encoding
from harness.judged import Judged
from harness.response_cache import ResponseCache
from harness.rolling import Rolls
from qwen_model.generation import Generated, Generator, Request
from qwen_model.prefill import CausalLM, Reader
from qwen_model.sampling import Sampling
from qwen_model.scoring import Continuation, Scored, score
from qwen_model.tokenizer import Tokenizer
from tasks.api import Decoding, Prompt, Rolled, Sample, Task

Value = TypeVar("Value")


@dataclass
class _Asked(Generic[Value]):
    future: asyncio.Future[Value]
    items: list[Continuation] = field(default_factory=list)


class Engine(Backend):
    """A model of this process: requests are planned together, shared prefixes read once, texts written side by side."""

    def __init__(
        self,
        model: CausalLM,
        tokenizer: Tokenizer,
        *,
        batch_tokens: int,
        slots: int,
        runners: int,
        seed: int,
        unsafe: bool,
        cache: ResponseCache | None = None,
    ) -> None:
        """`batch_tokens` per pass, `slots` texts written side by side, `runners` programs run at once."""
        super().__init__(runners=runners, seed=seed, unsafe=unsafe, cache=cache)
        self._model, self._encoding = model, Encoding(tokenizer, model.train_length)
        self._reader = Reader(model, batch_tokens)
        # the generator's prefixes must survive while scores are computed, so each has a reader of its own
        self._generator: Generator[object] = Generator(model, tokenizer, Reader(model, batch_tokens), slots)
        self._wake = asyncio.Event()
        self._new: list[Request[object]] = []
        self._writing: dict[object, asyncio.Future[Generated[object]]] = {}
        self._scores: list[_Asked[list[Scored]]] = []
        self._rolls = Rolls(model, self._reader)

    async def run(self, jobs: Sequence[tuple[Task, Sample]], done: Callable[[Judged], None]) -> None:
        try:
            await super().run(jobs, done)
        finally:
            self.tokens.computed = self._reader.tokens + self._generator.reader.tokens
            self._rolls.peak.lap()

    @property
    def train_length(self) -> int:
        return self._model.train_length

    @property
    def peak(self) -> int | None:
        return self._rolls.peak.most

    def encode(self, prompt: Prompt) -> Encoded:
        return self._encoding.prompt(prompt)

    async def generate(self, prompt: Encoded, decoding: Decoding, seed: int) -> Answer:
        ids = prompt.ids or ()
        self.tokens.prompt += len(ids)
        request = Request(
            key=object(),
            prompt=ids,
            max_tokens=decoding.max_tokens,
            stop=decoding.stop,
            sampling=Sampling(temperature=decoding.temperature, top_p=decoding.top_p, seed=seed),
        )
        done = await self.generated(request)
        return {"text": done.text, "finish": done.finish, "logprobs": done.logprobs}

    async def score(self, prompt: Encoded, continuations: Sequence[str], window: int | None) -> Answer:
        self.tokens.prompt += len(prompt.ids or ())
        items = self._encoding.continuations(prompt, continuations, window)
        return {"scores": [scored.logprob for scored in await self.scored(items)]}

    async def loglikelihood(self, context: str, continuation: str) -> Answer:
        item, before = self._encoding.pair(context, continuation)
        self.tokens.prompt += before
        (scored,) = await self.scored([item])
        return {"logprob": scored.logprob, "greedy": scored.greedy}

    async def rolling(self, text: str, length: int | None, stride: int | None, begin: bool) -> Rolled:
        ids = self._encoding.text(text, begin)
        tokens = len(ids) - begin
        if len(ids) < 2:
            return Rolled(logprobs=(), tokens=tokens)
        if length is None:
            length = len(ids)
        self.tokens.prompt += min(length, len(ids))
        future = self._rolls.ask(ids, length, stride)
        self._wake.set()
        read = await future
        return Rolled(logprobs=read.logprobs, tokens=tokens, seconds=read.seconds, peak=read.peak)

    async def generated(self, request: Request[object]) -> Generated[object]:
        """A continuation, when it has ended."""
        future: asyncio.Future[Generated[object]] = asyncio.get_running_loop().create_future()
        self._writing[request.key] = future
        self._new.append(request)
        self._wake.set()
        return await future

    async def scored(self, items: list[Continuation]) -> list[Scored]:
        """The score of each continuation."""
        future: asyncio.Future[list[Scored]] = asyncio.get_running_loop().create_future()
        self._scores.append(_Asked(future, items))
        self._wake.set()
        return await future

    async def _work(self) -> None:
        """Feed the model, in a thread of its own so that verdicts and sandboxes go on meanwhile."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while True:
                await asyncio.sleep(0)  # let every sample that can go on ask first
                if self._scores:
                    await self._score()
                elif self._rolls.waiting:
                    await self._rolls.read_next()
                elif self._new or self._generator.busy:
                    await self._write()
                else:
                    break

    async def _score(self) -> None:
        asked, self._scores = self._scores, []
        owners = [(request, place) for request in asked for place in range(len(request.items))]
        values = [[Scored(0.0, greedy=False)] * len(request.items) for request in asked]
        left = {id(request): len(request.items) for request in asked}
        where = {id(request): index for index, request in enumerate(asked)}
        passes = score(self._reader, [request.items[place] for request, place in owners])
        while known := await asyncio.to_thread(_next, passes):
            for index, value in known:
                request, place = owners[index]
                values[where[id(request)]][place] = value
                left[id(request)] -= 1
                if not left[id(request)]:
                    request.future.set_result(values[where[id(request)]])

    async def _write(self) -> None:
        new, self._new = self._new, []
        if new:
            self._generator.add(new)
        for done in await asyncio.to_thread(self._generator.step):
            self.tokens.generated += len(done.tokens)
            self._writing.pop(done.key).set_result(done)


def _next(passes: Iterator[list[tuple[int, Scored]]]) -> list[tuple[int, Scored]]:
    return next(passes, [])
