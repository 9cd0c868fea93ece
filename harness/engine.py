"""Runs samples' coroutines together: their requests are collected, planned as a whole, and computed in batches.

Every sample is a coroutine that asks a `Handle`. All start at once, so the planner sees the whole work before the first
pass; what a finished reply leads to (running code, a second question) overlaps with the model's further work.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from harness.requests import generate_digest, score_digest
from harness.sandbox import Policy, Result, Sandbox
from harness.sandbox.interpreter import POLICY, Cell, Interpreter
from harness.sandbox.languages import Workshop
from qwen_model.generation import Generated, Generator, Request
from qwen_model.prefill import CausalLM, Continuation, Reader, score
from qwen_model.sampling import Sampling
from qwen_model.tokenizer import Tokenizer
from tasks.api import Chat, Check, Decoding, Prompt, Reply, Sample, Task, Verdict

Answer = TypeVar("Answer")


@dataclass
class Tokens:
    """What the model was asked and what it took, in tokens."""

    prompt: int = 0
    """In all prompts, as one request at a time would read them."""
    generated: int = 0
    computed: int = 0
    """Read by the model after prefixes were shared (generated tokens not counted)."""


@dataclass(frozen=True)
class Judged:
    """A sample's verdict with what the model saw and wrote (of its last request)."""

    task: Task
    sample: Sample
    verdict: Verdict
    prompt: str
    response: str
    finish: str | None
    logprobs: tuple[float, ...] | None
    asked: tuple[Mapping[str, Any], ...]
    """Every request with what came of it, as in `harness.records.SampleRecord`."""
    seconds: float


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
        asked["scores"] = await self._engine.scored(items)
        return list(asked["scores"])


class _SandboxHandle:
    """The blocking sandbox, awaited: runs go to a pool of threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def run(self, code: str, *, cpu_seconds: float = 5.0) -> Result:
        return await self._engine.in_thread(self._engine.sandbox(Policy(cpu_seconds=cpu_seconds)).run, code)

    async def check(self, check: Check, *, cpu_seconds: float = 5.0) -> Result:
        box = self._engine.sandbox(Policy(cpu_seconds=cpu_seconds))
        return await self._engine.in_thread(box.check, check.solution, check.tests, check.names, check.setup)

    async def build(self, language: str, source: str, *, cpu_seconds: float = 10.0) -> Result:
        try:
            workshop = self._engine.workshop(language, cpu_seconds)
        except FileNotFoundError as error:
            return Result(outcome="not_installed", detail=str(error))
        return await self._engine.in_thread(workshop.run, source)

    @asynccontextmanager
    async def interpreter(self, files: Mapping[str, str]) -> AsyncIterator[_InterpreterHandle]:
        box = self._engine.sandbox(POLICY)
        # Not all samples at once: each holds a process with large libraries while its model writes.
        async with self._engine.conversations:
            made = await self._engine.in_thread(Interpreter, box, files)
            try:
                yield _InterpreterHandle(self._engine, made)
            finally:
                await self._engine.in_thread(made.close)


class _InterpreterHandle:
    def __init__(self, engine: Engine, interpreter: Interpreter) -> None:
        self._engine, self._interpreter = engine, interpreter

    async def run(self, source: str, *, seconds: float = 30.0) -> Cell:
        return await self._engine.in_thread(self._interpreter.run, source, seconds)


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
        self._tokenizer, self._seed, self.unsafe = tokenizer, seed, unsafe
        self._reader = Reader(model, batch_tokens)
        # the generator's prefixes must survive while scores are computed, so each has a reader of its own
        self._generator: Generator[object] = Generator(model, tokenizer, Reader(model, batch_tokens), slots)
        self.runners = ThreadPoolExecutor(runners)
        self.conversations = asyncio.Semaphore(4 * runners)
        self._wake = asyncio.Event()
        self._new: list[Request[object]] = []
        self._writing: dict[object, asyncio.Future[Generated[object]]] = {}
        self._scores: list[_Asked[list[float]]] = []
        self._pieces: dict[str, list[int]] = {}
        self._sandboxes: dict[Policy, Sandbox] = {}
        self._workshops: dict[tuple[str, float], Workshop] = {}
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
            self.runners.shutdown(wait=False, cancel_futures=True)
            for sandbox in self._sandboxes.values():
                sandbox.close()
            for workshop in self._workshops.values():
                workshop.close()

    async def _judge(self, task: Task, sample: Sample, done: Callable[[Judged], None]) -> None:
        start = time.monotonic()
        digest = hashlib.sha256(f"{task.name}\0{sample.id}\0{self._seed}".encode()).digest()
        handle = Handle(self, int.from_bytes(digest[:6], "big"))
        verdict = await task.judge(sample, handle, _SandboxHandle(self))
        seconds = time.monotonic() - start
        said = handle.prompt, handle.response, handle.finish, handle.logprobs
        done(Judged(task, sample, verdict, *said, tuple(handle.asked), seconds))

    def sandbox(self, policy: Policy) -> Sandbox:
        """The sandbox of a policy, made once."""
        if policy not in self._sandboxes:
            self._sandboxes[policy] = Sandbox(policy, unsafe=self.unsafe)
        return self._sandboxes[policy]

    def workshop(self, language: str, cpu_seconds: float) -> Workshop:
        """The workshop of a language, made once. Raises FileNotFoundError where its compiler is not installed."""
        if (language, cpu_seconds) not in self._workshops:
            self._workshops[language, cpu_seconds] = Workshop(language, cpu_seconds, unsafe=self.unsafe)
        return self._workshops[language, cpu_seconds]

    async def in_thread(self, work: Callable[..., Answer], *args: Any) -> Answer:
        """The result of blocking work, done in the pool of runners."""
        return await asyncio.get_running_loop().run_in_executor(self.runners, work, *args)

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

    async def scored(self, items: list[Continuation]) -> list[float]:
        future: asyncio.Future[list[float]] = asyncio.get_running_loop().create_future()
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
                elif self._new or self._generator.busy:
                    await self._write()
                else:
                    break

    async def _score(self) -> None:
        asked, self._scores = self._scores, []
        owners = [(request, place) for request in asked for place in range(len(request.items))]
        values = [[0.0] * len(request.items) for request in asked]
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


def _next(passes: Iterator[list[tuple[int, float]]]) -> list[tuple[int, float]]:
    return next(passes, [])
