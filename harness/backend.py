"""What stands between tasks and models: a handle for each sample, and what every backend has to answer.

All samples start at once as coroutines that ask a `Handle`; a `Backend` sees their requests together and computes them
as it can. What a finished reply leads to (running code, a second question) overlaps with the model's further work.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from harness.judged import Judged
from harness.pieces import qwen_pieces
from harness.requests import generate_digest, loglikelihood_digest, rolling_digest, score_digest
from harness.response_cache import ResponseCache
from harness.runners import Runners, SandboxHandle
from qwen_model import ModelError
from tasks.api import Decoding, Prompt, Reply, Rolled, Sample, Task

Answer = dict[str, Any]
"""What a model gave, as it is kept in a sample's row."""


@dataclass
class Tokens:
    """What the model was asked and what it took, in tokens, without replies from a cache."""

    prompt: int = 0
    """Of a model of this process: each request's prompt, once and whole, whatever of it is shared or cut off; the
    continuations that are scored behind it are not counted, and of a long text its first window. Of vLLM and servers:
    all that was sent to be read, each continuation behind its prompt and every window; where a server wrote, the
    prompt that it says it read, or 0."""
    generated: int = 0
    """End tokens among them. Of a server what it says, or 0."""
    computed: int = 0
    """Read by a model of this process after prefixes were shared (generated tokens not counted); elsewhere 0."""


@dataclass(frozen=True)
class Encoded:
    """A prompt, how the model sees it, and its tokens; none where only a server knows them."""

    prompt: Prompt
    text: str
    ids: tuple[int, ...] | None


class Handle:
    """What one sample's coroutine talks to: a `tasks.api.Model` and a record of what was said."""

    def __init__(self, backend: Backend, seed: int) -> None:
        self._backend, self._seed, self._calls = backend, seed, 0
        self.prompt = self.response = ""
        self.finish: str | None = None
        self.logprobs: tuple[float, ...] | None = None
        self.asked: list[dict[str, Any]] = []

    async def _ask(
        self, kind: str, request: str, answer: Callable[[], Awaitable[Answer]], seed: int | None = None
    ) -> Answer:
        """The answer, from the cache if it is there. Its place in the record is taken now: the order is of asking."""
        asked: dict[str, Any] = {"kind": kind, "request": request}
        self.asked.append(asked)
        cache = self._backend.cache
        found = None if cache is None else cache.get(kind, request, seed)
        if found is None:
            found = _finite(await answer())
            if cache is not None:
                cache.put(kind, request, seed, found)
        asked |= found
        return found

    @property
    def train_length(self) -> int:
        """Tokens that the model was trained to read at once, or that it was told by its settings."""
        length = self._backend.train_length
        self.asked.append({"kind": "train_length", "request": "", "tokens": length})
        return length

    async def generate(self, prompt: Prompt, decoding: Decoding) -> Reply:
        """One continuation; the n-th call of a sample has its own sampling seed."""
        encoded, seed = self._backend.encode(prompt), self._seed + self._calls
        self._calls += 1
        done = await self._ask(
            "generate",
            generate_digest(prompt, decoding),
            lambda: self._backend.generate(encoded, decoding, seed),
            seed if decoding.temperature else None,
        )
        self.prompt, self.response, self.finish = encoded.text, done["text"], done["finish"]
        self.logprobs = tuple(done["logprobs"])
        return Reply(text=done["text"], finish=done["finish"], logprobs=self.logprobs)

    async def score(self, prompt: Prompt, continuations: Sequence[str], *, window: int | None = None) -> list[float]:
        """Log-probabilities (nats); continuations are encoded by themselves, as the report's scripts do."""
        encoded = self._backend.encode(prompt)
        self.prompt = encoded.text
        done = await self._ask(
            "score",
            score_digest(prompt, continuations, window),
            lambda: self._backend.score(encoded, continuations, window),
        )
        return list(done["scores"])

    async def loglikelihood(self, context: str, continuation: str) -> tuple[float, bool]:
        """Log-probability (nats) and whether it is the greedy continuation, encoded as lm-evaluation-harness does."""
        self.prompt = context
        done = await self._ask(
            "loglikelihood",
            loglikelihood_digest(context, continuation),
            lambda: self._backend.loglikelihood(context, continuation),
        )
        return done["logprob"], done["greedy"]

    async def rolling(
        self, text: str, *, length: int | None = None, stride: int | None = None, begin: bool = False
    ) -> Rolled:
        """Log-probabilities (nats) of a long text's tokens. The text itself is not kept."""
        read: list[Rolled] = []

        async def answer() -> Answer:
            read.append(await self._backend.rolling(text, length, stride, begin))
            return {"logprobs": read[0].logprobs, "tokens": read[0].tokens}

        done = await self._ask("rolling", rolling_digest(text, length, stride, begin), answer)
        return read[0] if read else Rolled(logprobs=tuple(done["logprobs"]), tokens=done["tokens"])

    async def pieces(self, text: str) -> list[str]:
        """The text cut by the first Qwen's tokenizer. Raises DownloadError where its vocabulary cannot be had."""
        return await asyncio.to_thread(qwen_pieces, text)


def _finite(answer: Answer) -> Answer:
    """The answer. Raises ModelError for log-probabilities that are no numbers, which no record could hold."""
    for value in (*answer.get("logprobs", ()), *answer.get("scores", ()), answer.get("logprob", 0.0)):
        if not math.isfinite(value):
            raise ModelError(
                f"--model: it gave a log-probability of {value}: its numbers overflow; use --dtype bfloat16 or "
                "float32, or mend the server"
            )
    return answer


class Backend(ABC):
    """One model, any number of samples of any tasks."""

    def __init__(self, *, runners: int, seed: int, unsafe: bool, cache: ResponseCache | None = None) -> None:
        """`runners` programs run at once, behind walls unless `unsafe`."""
        self.tokens, self.cache, self._seed = Tokens(), cache, seed
        self._runners = Runners(runners, unsafe=unsafe)

    async def run(self, jobs: Sequence[tuple[Task, Sample]], done: Callable[[Judged], None]) -> None:
        """Judge every sample; `done` is called once for each, on this thread, when its verdict is known.

        An exception of a task, of the model or of `done` ends the run; what was judged before stays judged.
        """
        try:
            async with self._serving() as served:
                everything: asyncio.Future[Any] = asyncio.gather(
                    *(self._judge(task, sample, done) for task, sample in jobs)
                )
                try:
                    await asyncio.wait({served, everything}, return_when=asyncio.FIRST_COMPLETED)
                    if served.done():  # it ends only by an exception
                        served.result()
                    everything.result()
                finally:
                    everything.cancel()
                    await asyncio.gather(everything, return_exceptions=True)
        finally:
            self._runners.close()

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[asyncio.Future[None]]:
        """The model at work while samples are judged; the future ends by what goes wrong there."""
        working = asyncio.ensure_future(self._work())
        try:
            yield working
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def _judge(self, task: Task, sample: Sample, done: Callable[[Judged], None]) -> None:
        start = time.monotonic()
        digest = hashlib.sha256(f"{task.name}\0{sample.id}\0{self._seed}".encode()).digest()
        handle = Handle(self, int.from_bytes(digest[:6], "big"))
        verdict = await task.judge(sample, handle, SandboxHandle(self._runners))
        seconds = time.monotonic() - start
        said = handle.prompt, handle.response, handle.finish, handle.logprobs
        done(Judged(task, sample, verdict, *said, tuple(handle.asked), seconds))

    async def _work(self) -> None:
        """What has to go on beside the samples; ends by an exception only."""
        await asyncio.Event().wait()

    @property
    def peak(self) -> int | None:
        """Bytes of memory in use at most during the run, the model's among them; None where it is not known."""
        return None

    @property
    @abstractmethod
    def train_length(self) -> int:
        """Tokens that the model reads at once."""

    @abstractmethod
    def encode(self, prompt: Prompt) -> Encoded:
        """A prompt as the model sees it."""

    @abstractmethod
    async def generate(self, prompt: Encoded, decoding: Decoding, seed: int) -> Answer:
        """{"text", "finish", "logprobs"} as in `tasks.api.Reply`."""

    @abstractmethod
    async def score(self, prompt: Encoded, continuations: Sequence[str], window: int | None) -> Answer:
        """{"scores"}: nats of each continuation, encoded by itself; `window` as in `tasks.api.Model.score`."""

    @abstractmethod
    async def loglikelihood(self, context: str, continuation: str) -> Answer:
        """{"logprob", "greedy"} as in `tasks.api.Model.loglikelihood`."""

    @abstractmethod
    async def rolling(self, text: str, length: int | None, stride: int | None, begin: bool) -> Rolled:
        """The losses of a whole text, as `tasks.api.Model.rolling` says."""
