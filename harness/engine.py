"""Runs samples' coroutines together: their requests are collected, planned as a whole, and computed in batches.

Every sample is a coroutine that asks a `Handle`. All start at once, so the planner sees the whole work before the first
pass; what a finished reply leads to (running code, a second question) overlaps with the model's further work.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from harness.judged import Judged
from harness.pieces import qwen_pieces
from harness.requests import generate_digest, loglikelihood_digest, rolling_digest, score_digest
from harness.rolling import Rolls
from harness.runners import Runners, SandboxHandle
from qwen_model.generation import Generated, Generator, Request
from qwen_model.prefill import CausalLM, Continuation, Reader, Scored, score
from qwen_model.sampling import Sampling
from qwen_model.tokenizer import Tokenizer
from tasks.api import Chat, Decoding, Prompt, Reply, Rolled, Sample, Task, TaskError

Answer = TypeVar("Answer")


@dataclass
class Tokens:
    """What the model was asked and what it took, in tokens."""

    prompt: int = 0
    """In all prompts, as one request at a time would read them."""
    generated: int = 0
    computed: int = 0
    """Read by the model after prefixes were shared (generated tokens not counted)."""


@dataclass
class _Asked(Generic[Answer]):
    future: asyncio.Future[Answer]
    items: list[Continuation] = field(default_factory=list)


class Handle:
    """What one sample's coroutine talks to: a `tasks.api.Model` and a record of what was said."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self._engine, self._seed, self._calls = engine, seed, 0
        self.prompt = self.response = ""
        self.finish: str | None = None
        self.logprobs: tuple[float, ...] | None = None
        self.asked: list[dict[str, Any]] = []

    def _ask(self, kind: str, request: str) -> dict[str, Any]:
        """A place in the record, taken when the request is made, so that the order is that of asking."""
        self.asked.append({"kind": kind, "request": request})
        return self.asked[-1]

    @property
    def train_length(self) -> int:
        """Tokens that the model was trained to read at once, or that it was told by its settings."""
        self._ask("train_length", "")["tokens"] = self._engine.train_length
        return self._engine.train_length

    async def generate(self, prompt: Prompt, decoding: Decoding) -> Reply:
        """One continuation; the n-th call of a sample has its own sampling seed."""
        text, ids = self._engine.encode(prompt)
        request = Request(
            key=object(),
            prompt=tuple(ids),
            max_tokens=decoding.max_tokens,
            stop=decoding.stop,
            sampling=Sampling(temperature=decoding.temperature, top_p=decoding.top_p, seed=self._seed + self._calls),
        )
        self._calls += 1
        asked = self._ask("generate", generate_digest(prompt, decoding))
        done = await self._engine.generated(request)
        asked |= {"text": done.text, "finish": done.finish, "logprobs": done.logprobs}
        self.prompt, self.response, self.finish, self.logprobs = text, done.text, done.finish, done.logprobs
        return Reply(text=done.text, finish=done.finish, logprobs=done.logprobs)

    async def score(self, prompt: Prompt, continuations: Sequence[str], *, window: int | None = None) -> list[float]:
        """Log-probabilities (nats); continuations are encoded by themselves, as the report's scripts do."""
        text, ids = self._engine.encode(prompt)
        if window is not None and len(ids) > window:
            ids = ids[-(window - 1) :]
        items = [Continuation(tuple(ids), tuple(self._engine.encode_piece(piece))) for piece in continuations]
        self.prompt = text
        asked = self._ask("score", score_digest(prompt, continuations, window))
        asked["scores"] = [scored.logprob for scored in await self._engine.scored(items)]
        return list(asked["scores"])

    async def loglikelihood(self, context: str, continuation: str) -> tuple[float, bool]:
        """Log-probability (nats) and whether it is the greedy continuation, encoded as lm-evaluation-harness does."""
        self.prompt = context
        asked = self._ask("loglikelihood", loglikelihood_digest(context, continuation))
        (scored,) = await self._engine.scored([self._engine.encode_pair(context, continuation)])
        asked |= {"logprob": scored.logprob, "greedy": scored.greedy}
        return scored.logprob, scored.greedy

    async def rolling(
        self, text: str, *, length: int | None = None, stride: int | None = None, begin: bool = False
    ) -> Rolled:
        """Log-probabilities (nats) of a long text's tokens. The text itself is not kept."""
        asked = self._ask("rolling", rolling_digest(text, length, stride, begin))
        rolled = await self._engine.rolled(text, length, stride, begin)
        asked |= {"logprobs": rolled.logprobs, "tokens": rolled.tokens}
        return rolled

    async def pieces(self, text: str) -> list[str]:
        """The text cut by the first Qwen's tokenizer. Raises DownloadError where its vocabulary cannot be had."""
        return await asyncio.to_thread(qwen_pieces, text)


class Engine:
    """One model, any number of samples of any tasks."""

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
    ) -> None:
        """`batch_tokens` per pass, `slots` texts written side by side, `runners` programs run at once."""
        self._model, self._tokenizer, self._seed = model, tokenizer, seed
        self._reader = Reader(model, batch_tokens)
        # the generator's prefixes must survive while scores are computed, so each has a reader of its own
        self._generator: Generator[object] = Generator(model, tokenizer, Reader(model, batch_tokens), slots)
        self._runners = Runners(runners, unsafe=unsafe)
        self._wake = asyncio.Event()
        self._new: list[Request[object]] = []
        self._writing: dict[object, asyncio.Future[Generated[object]]] = {}
        self._scores: list[_Asked[list[Scored]]] = []
        self._rolls = Rolls(model, self._reader)
        self._text: tuple[str, bool, Sequence[int]] = "", False, ()
        self._pieces: dict[str, list[int]] = {}
        self.tokens = Tokens()

    async def run(self, jobs: Sequence[tuple[Task, Sample]], done: Callable[[Judged], None]) -> None:
        """Judge every sample; `done` is called once for each, on this thread, when its verdict is known.

        An exception of a task or of `done` ends the run; what was judged before stays judged.
        """
        pump = asyncio.ensure_future(self._pump())
        everything: asyncio.Future[Any] = asyncio.gather(*(self._judge(task, sample, done) for task, sample in jobs))
        try:
            await asyncio.wait({pump, everything}, return_when=asyncio.FIRST_COMPLETED)
            if pump.done():  # it ends only by an exception
                pump.result()
            everything.result()
        finally:
            pump.cancel()
            everything.cancel()
            await asyncio.gather(pump, everything, return_exceptions=True)
            self.tokens.computed = self._reader.tokens + self._generator.reader.tokens
            self._rolls.peak.lap()
            self._runners.close()

    async def _judge(self, task: Task, sample: Sample, done: Callable[[Judged], None]) -> None:
        start = time.monotonic()
        digest = hashlib.sha256(f"{task.name}\0{sample.id}\0{self._seed}".encode()).digest()
        handle = Handle(self, int.from_bytes(digest[:6], "big"))
        verdict = await task.judge(sample, handle, SandboxHandle(self._runners))
        seconds = time.monotonic() - start
        said = handle.prompt, handle.response, handle.finish, handle.logprobs
        done(Judged(task, sample, verdict, *said, tuple(handle.asked), seconds))

    @property
    def train_length(self) -> int:
        return self._model.train_length

    @property
    def peak(self) -> int | None:
        """Bytes of memory in use at most during the run, the model's among them; None where it is not known."""
        return self._rolls.peak.most

    def encode(self, prompt: Prompt) -> tuple[str, list[int]]:
        """The text as the model sees it, and its tokens."""
        if isinstance(prompt, Chat):
            text = self._tokenizer.render(prompt.messages, prompt.prefill)
            ids = self._tokenizer.encode_chat(prompt.messages, prompt.prefill)
        else:
            text, ids = prompt, self._tokenizer.encode(prompt)
        self.tokens.prompt += len(ids)
        return text, ids

    def encode_piece(self, text: str) -> list[int]:
        """Tokens of a continuation, remembered: choices repeat."""
        if text not in self._pieces:
            self._pieces[text] = self._tokenizer.encode_rendered(text)
        return self._pieces[text]

    async def generated(self, request: Request[object]) -> Generated[object]:
        future: asyncio.Future[Generated[object]] = asyncio.get_running_loop().create_future()
        self._writing[request.key] = future
        self._new.append(request)
        self._wake.set()
        return await future

    def encode_pair(self, context: str, continuation: str) -> Continuation:
        """A continuation behind what the trained length leaves of its context. Raises TaskError where it is itself too
        long, or no token."""
        before, after = self._tokenizer.encode_pair(context, continuation)
        room = self._model.train_length + 1 - len(after)
        if not after or room < 1:
            raise TaskError(
                f"a continuation of {len(after)} tokens ({continuation[:40]!r} ...) cannot be scored by a model of "
                f"{self._model.train_length}; leave the sample out"
            )
        self.tokens.prompt += len(before)
        return Continuation(tuple(before[-room:]), tuple(after))

    async def rolled(self, text: str, length: int | None, stride: int | None, begin: bool) -> Rolled:
        if self._text[:2] != (text, begin):  # the lengths of one text come one after another
            prefix = [self._tokenizer.begin()[1]] if begin else []
            self._text = text, begin, prefix + self._tokenizer.encode(text)
        ids = self._text[2]
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

    async def scored(self, items: list[Continuation]) -> list[Scored]:
        future: asyncio.Future[list[Scored]] = asyncio.get_running_loop().create_future()
        self._scores.append(_Asked(future, items))
        self._wake.set()
        return await future

    async def _pump(self) -> None:
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
