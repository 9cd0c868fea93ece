"""Writing text: many sequences side by side, each leaving the batch when it ends and its place refilled at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor

from qwen_model import kernels
from qwen_model.config import ModelError
from qwen_model.memory import OutOfMemory, free_memory
from qwen_model.prefill import CausalLM, Reader
from qwen_model.rows import Rows
from qwen_model.sampling import Sampling, choose
from qwen_model.tokenizer import Tokenizer, cut

Key = TypeVar("Key")

SLOTS = 64
"""Sequences decoded side by side."""


@dataclass(frozen=True, kw_only=True)
class Request(Generic[Key]):
    """What to continue and how."""

    key: Key
    prompt: tuple[int, ...]
    max_tokens: int
    stop: tuple[str, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def most(self) -> int:
        """Tokens of the whole text, if it gets as long as it may."""
        return len(self.prompt) + self.max_tokens

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError("prompt: it holds no token; begin with the tokenizer's end-of-text token if with anything")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens: {self.max_tokens} is no number of tokens; give 1 or more")
        if isinstance(self.stop, str) or not all(isinstance(stop, str) and stop for stop in self.stop):
            raise ValueError(f"stop: {self.stop!r} is no tuple of texts; give (text, ...), none of them empty")


@dataclass(frozen=True, kw_only=True)
class Generated(Generic[Key]):
    """A finished sequence: its text without stop string or end token, and nats per generated token (all of them).

    A token's log-probability is the model's own, before temperature, penalty and filters.
    """

    key: Key
    text: str
    finish: Literal["stop", "eos", "length"]
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass
class _Written(Generic[Key]):
    request: Request[Key]
    random: torch.Generator
    tail: int
    """Tokens in which a stop string may end: one of n bytes lies within n, and a letter may be split over 4."""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class Generator(Generic[Key]):
    """Continuous batching: `add` requests at any time, call `step` until `busy` is False."""

    def __init__(self, model: CausalLM, tokenizer: Tokenizer, reader: Reader, slots: int = SLOTS) -> None:
        self.tokenizer, self.reader, self.slots = tokenizer, reader, slots
        self._model, self._rows = model, Rows(model, reader, slots)
        # the other half is for what passes compute with, and for the rest of the machine
        self._memory = free_memory(model.device) // 2
        self._written: list[_Written[Key]] = []
        self._waiting: list[Request[Key]] = []
        self._plan: list[tuple[int, int]] = []

    @property
    def busy(self) -> bool:
        return bool(self._written or self._plan)

    def add(self, requests: Sequence[Request[Key]]) -> None:
        """Take more work; everything still waiting is planned anew together. Raises ModelError for a reward model."""
        if requests and getattr(self._model, "end_token", None) is not None:
            raise ModelError("a reward model writes nothing; name a language model, or a task that scores answers")
        waiting = [self._waiting[index] for index, _ in self._plan]
        self._waiting = [*waiting, *requests]
        prompts = [request.prompt for request in self._waiting]
        self._plan = self.reader.plan(prompts, [len(prompt) - 1 for prompt in prompts])

    def written(self, key: Key) -> tuple[int, ...]:
        """Tokens written so far for a request that is in a row; none for one that waits."""
        return next((tuple(row.tokens) for row in self._written if row.request.key == key), ())

    @torch.inference_mode()
    def step(self) -> list[Generated[Key]]:
        """Admit one pass of waiting prompts if there is room, else write a token for every row. Returns what ended.

        Where memory runs out after all, every row begins anew among half as many, in passes of half as many tokens.
        Raises OutOfMemory where one row and one token are too much.
        """
        try:
            if batch := self._admissible():
                return self._admit(batch)
            self._append(self._written, self._rows.step([row.tokens[-1] for row in self._written]))
        except OutOfMemory:
            if self.slots == self.reader.batch_tokens == 1:
                raise
            self._begin_anew(max(1, self.slots // 2))
            return []
        return self._collect()

    def _admissible(self) -> list[tuple[int, int]]:
        """The next pass of waiting prompts, as far as there are slots, and memory for texts as long as they may get and
        each shared prefix once."""
        batch = self._plan[: self.slots - len(self._rows)]
        if not batch:
            return []
        batch = batch[: self.reader.fits([request.prompt for request in self._waiting], batch)]
        cache, shape, dtype = self._rows.cache, self._model.cache_shape, self._model.dtype
        first, shared = batch[0]
        prefix = self._waiting[first].prompt[: cache.shared(shared)]
        written = [(row.request, held) for row, held in zip(self._written, cache.held, strict=True)]
        once = cache.prefix_bytes
        if not any(request.prompt[:held] == prefix for request, held in written):
            once += shape.nbytes(1, len(prefix), dtype)
        longest = max((request.most - held for request, held in written), default=0)
        for count, (index, _) in enumerate(batch):
            longest = max(longest, self._waiting[index].most - len(prefix))
            rows = len(self._rows) + count + 1
            if rows > 1 and once + shape.nbytes(rows, longest, dtype) > self._memory:
                return batch[:count]
        return batch

    def _begin_anew(self, slots: int) -> None:
        self.slots, self.reader.batch_tokens = slots, max(1, self.reader.batch_tokens // 2)
        self._rows.clear(slots)
        begun, self._written = [row.request for row in self._written], []
        self.add(begun)

    def _admit(self, batch: list[tuple[int, int]]) -> list[Generated[Key]]:
        members, logits = self._rows.enter([request.prompt for request in self._waiting], batch)
        self._plan = self._plan[len(batch) :]
        new: list[_Written[Key]] = []
        for member in members:
            request = self._waiting[member]
            longest = max((len(stop.encode()) for stop in request.stop), default=0)
            new.append(_Written(request, request.sampling.random(), longest + 4))
        self._written.extend(new)
        self._append(new, logits)
        return self._collect()

    def _append(self, rows: list[_Written[Key]], logits: Tensor) -> None:
        """Choose a token for each row from its logits (V,)."""
        if kernels.usable(logits) and all(row.request.sampling.plain for row in rows):
            chosen, logprobs = kernels.choose(logits)
        else:
            logits = logits.float()
            chosen = logits.argmax(-1)
            drawn = [index for index, row in enumerate(rows) if not row.request.sampling.plain]
            if drawn:
                here, found = logits.cpu(), []  # from a GPU all at once
                for index in drawn:
                    row, asked = rows[index], rows[index].request
                    found.append(choose(here[index], asked.sampling, (*asked.prompt, *row.tokens), row.random))
                chosen[drawn] = torch.tensor(found, device=logits.device)
            logprobs = logits.gather(-1, chosen[:, None])[:, 0] - logits.logsumexp(-1)
        for row, token, logprob in zip(rows, chosen.tolist(), logprobs.tolist(), strict=True):
            row.tokens.append(token)
            row.logprobs.append(logprob)

    def _collect(self) -> list[Generated[Key]]:
        done: list[Generated[Key]] = []
        for index in range(len(self._written) - 1, -1, -1):
            finished = self._finished(self._written[index])
            if finished is not None:
                done.append(finished)
                self._written[index] = self._written[self._rows.leave(index)]
                self._written.pop()
        return done

    def _finished(self, row: _Written[Key]) -> Generated[Key] | None:
        request, ids = row.request, row.tokens
        finish: Literal["stop", "eos", "length"]
        tail = self.tokenizer.decode(ids[-row.tail :]) if request.stop else ""
        if ids[-1] in self.tokenizer.eos_ids:
            finish, ids = "eos", ids[:-1]
        elif any(stop in tail for stop in request.stop):
            finish = "stop"
        elif len(ids) >= request.max_tokens:
            finish = "length"
        else:
            return None
        return Generated(
            key=request.key,
            text=cut(self.tokenizer.decode(ids), request.stop)[0],
            finish=finish,
            tokens=tuple(row.tokens),
            logprobs=tuple(row.logprobs),
        )


def generate(
    model: CausalLM,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    max_tokens: int = 512,
    stop: tuple[str, ...] = (),
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    seed: int = 0,
) -> list[Generated[int]]:
    """Continue texts, in which control tokens are read as such; prompt i is sampled with `seed + i`."""
    if isinstance(prompts, str):
        raise ValueError("prompts: a list of texts is wanted, not one text")
    generator: Generator[int] = Generator(model, tokenizer, Reader(model))
    generator.add(
        [
            Request(
                key=index,
                prompt=tuple(tokenizer.encode_rendered(prompt)),
                max_tokens=max_tokens,
                stop=stop,
                sampling=Sampling(
                    temperature=temperature,
                    top_k=top_k,
                    top_p=top_p,
                    repetition_penalty=repetition_penalty,
                    seed=seed + index,
                ),
            )
            for index, prompt in enumerate(prompts)
        ]
    )
    out: dict[int, Generated[int]] = {}
    while generator.busy:
        out.update((done.key, done) for done in generator.step())
    return [out[index] for index in range(len(prompts))]


def stream(
    model: CausalLM,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_tokens: int = 512,
    stop: tuple[str, ...] = (),
    sampling: Sampling | None = None,
) -> Iterator[str]:
    """Continue one text and yield it piece by piece; the pieces joined are what `generate` returns.

    A piece is held back while it may be the beginning of a stop string or a letter whose bytes are not all written.
    """
    generator: Generator[int] = Generator(model, tokenizer, Reader(model), slots=1)
    ids = tuple(tokenizer.encode_rendered(prompt))
    generator.add([Request(key=0, prompt=ids, max_tokens=max_tokens, stop=stop, sampling=sampling or Sampling())])
    shown = 0
    while generator.busy:
        done = generator.step()
        if done:
            if len(done[0].text) > shown:
                yield done[0].text[shown:]
        else:
            text = tokenizer.decode(generator.written(0)).rstrip("\ufffd")
            safe = len(text) - max((_begun(text, ending) for ending in stop), default=0)
            if safe > shown:
                yield text[shown:safe]
                shown = safe


def _begun(text: str, ending: str) -> int:
    """How many letters at the end of `text` are the beginning of `ending`."""
    return next((size for size in range(min(len(ending) - 1, len(text)), 0, -1) if text.endswith(ending[:size])), 0)
