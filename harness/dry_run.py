"""`harness run --dry-run`: samples, tokens and time of a run before it starts.

Every sample's coroutine is begun and asks as in a run: what it asks before the first reply is counted as the engine
would plan it. Log-probabilities are answered by zeros; what follows a reply is not known and not counted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from harness.backend import Answer, Backend, Encoded, Handle
from harness.backends import load_backend
from harness.encoding import Encoding
from harness.evaluation import Prepared
from harness.long_context import laid_over
from harness.loop import complete
from qwen_model.checkpoint import load_tokenizer
from qwen_model.generation import SLOTS
from qwen_model.prefill import CausalLM, Reader, text_windows
from qwen_model.rows import Rows
from qwen_model.scoring import Continuation, readings
from tasks.api import Check, Decoding, Interpreter, Prompt, Rolled, SandboxResult, Task, TaskError

COLUMNS = ["task", "samples", "prompt tokens", "after sharing", "generated tokens", "time"]


class _Reply(Exception):
    """Where a sample goes on only with a model's reply."""


class Counter(Backend):
    """A backend that notes what it is asked."""

    def __init__(self, encoding: Encoding) -> None:
        super().__init__(runners=1, seed=0, unsafe=False)
        self._encoding = encoding
        self.prompts: list[tuple[int, ...]] = []
        self.items: list[Continuation] = []
        self.rolls: list[tuple[Sequence[int], int, int | None]] = []
        """Texts with length and stride."""

    async def count(self, task: Task, samples: Sequence[Any]) -> None:
        """Begin all samples of a task."""

        async def begin(sample: Any) -> None:
            with suppress(_Reply):
                await task.judge(sample, Handle(self, 0), _NoSandbox())

        await asyncio.gather(*map(begin, samples))

    @property
    def train_length(self) -> int:
        return self._encoding.train_length

    def encode(self, prompt: Prompt) -> Encoded:
        return self._encoding.prompt(prompt)

    async def generate(self, prompt: Encoded, decoding: Decoding, seed: int) -> Answer:
        self.tokens.prompt += len(prompt.ids or ())
        self.tokens.generated += decoding.max_tokens
        self.prompts.append(prompt.ids or ())
        raise _Reply

    async def score(self, prompt: Encoded, continuations: Sequence[str], window: int | None) -> Answer:
        self.tokens.prompt += len(prompt.ids or ())
        self.items.extend(self._encoding.continuations(prompt, continuations, window))
        return {"scores": [0.0] * len(continuations)}

    async def loglikelihood(self, context: str, continuation: str) -> Answer:
        item, before = self._encoding.pair(context, continuation)
        self.tokens.prompt += before
        self.items.append(item)
        return {"logprob": 0.0, "greedy": False}

    async def rolling(self, text: str, length: int | None, stride: int | None, begin: bool) -> Rolled:
        ids = self._encoding.text(text, begin)
        read = min(length or len(ids), len(ids))
        self.tokens.prompt += read
        self.rolls.append((ids, read, stride))
        judged = len(ids) if stride else read
        return Rolled(logprobs=(0.0,) * (judged - 1), tokens=len(ids) - begin)


class _NoSandbox:
    """A `tasks.api.Sandbox` for samples that end before they have code to run."""

    async def run(self, code: str, *, cpu_seconds: float = 5.0) -> SandboxResult:
        raise TaskError("--dry-run: the task runs code before the model replies, and cannot be counted")

    async def check(self, check: Check, *, cpu_seconds: float = 5.0) -> SandboxResult:
        return await self.run(check.solution)

    async def build(self, language: str, source: str, needs: str, *, cpu_seconds: float = 10.0) -> SandboxResult:
        return await self.run(source)

    @asynccontextmanager
    async def interpreter(self, files: Mapping[str, str]) -> AsyncIterator[Interpreter]:
        yield _NoInterpreter()


class _NoInterpreter:
    async def run(self, source: str, *, seconds: float = 30.0) -> Any:
        raise TaskError("--dry-run: the task runs code before the model replies, and cannot be counted")


def estimate(prepared: Prepared) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a table, one row per task.

    Prompts are counted exactly, of conversations the first turn. Generated tokens are the most there can be (every
    reply as long as allowed), and so is the time, from the speed of this model on this machine, measured by one pass
    and a few decoding steps.
    """
    if prepared.settings.backend not in ("native", "hf"):
        raise TaskError("--dry-run: plans for the backends native and hf; a server plans by itself")
    model = load_backend(prepared)
    with laid_over(model, prepared.settings.long_context):
        reader, read_rate, write_rate = _measure(model)
        rows = []
        for task in prepared.tasks:
            counter = Counter(Encoding(load_tokenizer(prepared.checkpoint), model.train_length))
            complete(counter.count(task, prepared.samples[task.name]))
            computed, most = computed_tokens(reader, counter), counter.tokens.generated
            minutes = (computed / read_rate + most / write_rate) / 60
            bound = "at most" if most else "about"
            rows.append(
                [
                    task.name,
                    str(len(prepared.samples[task.name])),
                    f"{counter.tokens.prompt:,}",
                    f"{computed:,}",
                    f"at most {most:,}",
                    f"{bound} {minutes:.1f} min",
                ]
            )
    return COLUMNS, rows


def computed_tokens(reader: Reader, counter: Counter) -> int:
    """Tokens that go through the model once shared prefixes are computed once."""
    prompts = counter.prompts
    total = _planned(reader, prompts, [len(prompt) - 1 for prompt in prompts])
    users, first = readings(counter.items)
    total += _planned(reader, list(users), first)
    # lengths of one text, of which the longest is read for all
    longest: dict[tuple[int, int], tuple[Sequence[int], int]] = {}
    for ids, length, stride in counter.rolls:
        if stride is not None:
            total += sum(end - start for start, end, _ in text_windows(len(ids), length, stride))
            continue
        key = id(ids), reader.model.ntk_step(length)
        if key not in longest or longest[key][1] < length:
            longest[key] = ids, length
    size = reader.piece
    return total + sum(min(len(ids), -(-(length - 1) // size) * size) for ids, length in longest.values())


def _planned(reader: Reader, sequences: Sequence[Sequence[int]], limits: Sequence[int]) -> int:
    total = 0
    path: list[int] = []
    for index, shared in reader.plan(sequences, limits):
        prefix = list(sequences[index][:shared])
        common = 0
        while common < min(len(path), shared) and path[common] == prefix[common]:
            common += 1
        total += len(sequences[index]) - common
        path = prefix
    return total


def _measure(model: CausalLM) -> tuple[Reader, float, float]:
    """A reader; tokens per second in reading (one whole pass) and in writing (`SLOTS` rows side by side)."""
    reader = Reader(model)
    text = [index % 100 for index in range(reader.batch_tokens)]
    for _ in range(2):  # the first pass warms up
        start = time.monotonic()
        reader.read([text], [(0, 0)], [[len(text) - 1]])
    read_rate = len(text) / (time.monotonic() - start)
    rows = Rows(model, reader, SLOTS)
    for _ in range(SLOTS):
        rows.enter([text[:300]], [(0, 0)])
    for _ in range(3):
        start = time.monotonic()
        rows.step([0] * SLOTS)
    return reader, read_rate, SLOTS / (time.monotonic() - start)
