"""Writing text: many sequences side by side, each leaving the batch when it ends and its place refilled at once.

A sequence's sampling has its own random state, so what it draws does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor

from qwen_model.prefill import CausalLM, Reader, new_slots
from qwen_model.prefixes import plan
from qwen_model.tokenizer import Tokenizer

Key = TypeVar("Key")

SLOTS = 64
"""Sequences decoded side by side."""


@dataclass(frozen=True, kw_only=True)
class Request(Generic[Key]):
    """What to continue and how. `temperature` 0 is greedy; `top_p` keeps the smallest set of tokens of that mass."""

    key: Key
    prompt: tuple[int, ...]
    max_tokens: int
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Generated(Generic[Key]):
    """A finished sequence: its text without stop string or end token, and nats per generated token (all of them)."""

    key: Key
    text: str
    finish: Literal["stop", "eos", "length"]
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass
class _Row(Generic[Key]):
    request: Request[Key]
    random: torch.Generator | None
    tail: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class Generator(Generic[Key]):
    """Continuous batching: `add` requests at any time, call `step` until `busy` is False."""

    def __init__(self, model: CausalLM, tokenizer: Tokenizer, reader: Reader, slots: int = SLOTS) -> None:
        self.model, self.tokenizer, self.reader, self.slots = model, tokenizer, reader, slots
        self.cache = new_slots(model, slots)
        self._rows: list[_Row[Key]] = []
        self._waiting: list[Request[Key]] = []
        self._plan: list[tuple[int, int]] = []

    @property
    def busy(self) -> bool:
        return bool(self._rows or self._plan)

    def add(self, requests: Sequence[Request[Key]]) -> None:
        """Take more work; everything still waiting is planned anew together."""
        waiting = [self._waiting[index] for index, _ in self._plan]
        self._waiting = [*waiting, *requests]
        prompts = [request.prompt for request in self._waiting]
        self._plan = plan(prompts, [len(prompt) - 1 for prompt in prompts])

    @torch.inference_mode()
    def step(self) -> list[Generated[Key]]:
        """Admit one pass of waiting prompts if there is room, else write a token for every row. Returns what ended."""
        if self._plan and len(self._rows) < self.slots:
            return self._admit()
        positions, mask = self.cache.begin_step()
        last = torch.tensor([[row.tokens[-1]] for row in self._rows], device=self.model.device)
        logits = self.model(last, positions, mask, self.cache, None)[:, 0]
        self.cache.end_step()
        self._append(self._rows, logits.float())
        return self._collect()

    def _admit(self) -> list[Generated[Key]]:
        prompts = [request.prompt for request in self._waiting]
        room = self.slots - len(self._rows)
        count = self.reader.fits(prompts, self._plan[:room])
        batch, self._plan = self._plan[:count], self._plan[count:]
        packed = self.reader.read(prompts, batch, [[len(prompt) - 1] for prompt in prompts])
        new: list[_Row[Key]] = []
        for member, (start, end) in zip(packed.members, packed.spans, strict=True):
            request = self._waiting[member]
            self.cache.admit(self.reader.stack, packed.prefix, start, end)
            random = torch.Generator().manual_seed(request.seed) if request.temperature > 0 else None
            longest = max((len(stop.encode()) for stop in request.stop), default=0)
            # a stop string of n bytes lies within the last n tokens; a few more, for letters split over tokens
            new.append(_Row(request, random, longest + 4))
        self._rows.extend(new)
        self._append(new, packed.logits)
        return self._collect()

    def _append(self, rows: list[_Row[Key]], logits: Tensor) -> None:
        """Choose a token for each row from its (V,) float32 logits."""
        chosen = logits.argmax(-1)
        for index, row in enumerate(rows):
            if row.random is not None:
                chosen[index] = _sample(logits[index], row.request, row.random)
        logprobs = logits.gather(-1, chosen[:, None])[:, 0] - logits.logsumexp(-1)
        for row, token, logprob in zip(rows, chosen.tolist(), logprobs.tolist(), strict=True):
            row.tokens.append(token)
            row.logprobs.append(logprob)

    def _collect(self) -> list[Generated[Key]]:
        done: list[Generated[Key]] = []
        for index in range(len(self._rows) - 1, -1, -1):
            finished = self._finished(self._rows[index])
            if finished is not None:
                done.append(finished)
                self._rows[index] = self._rows[self.cache.release(index)]
                self._rows.pop()
        return done

    def _finished(self, row: _Row[Key]) -> Generated[Key] | None:
        request, finish, ids = row.request, None, row.tokens
        if ids[-1] in self.tokenizer.eos_ids:
            finish, ids = "eos", ids[:-1]
        elif request.stop and any(stop in self.tokenizer.decode(ids[-row.tail :]) for stop in request.stop):
            finish = "stop"
        elif len(ids) >= request.max_tokens:
            finish = "length"
        if finish is None:
            return None
        text = self.tokenizer.decode(ids)
        cuts = [text.index(stop) for stop in request.stop if stop in text]
        return Generated(
            key=request.key,
            text=text[: min(cuts, default=len(text))],
            finish=finish,  # type: ignore[arg-type]
            tokens=tuple(row.tokens),
            logprobs=tuple(row.logprobs),
        )


def _sample(logits: Tensor, request: Request[Key], random: torch.Generator) -> Tensor:
    # drawn on the CPU, so that a seed means the same on every device
    probabilities = (logits.cpu() / request.temperature).softmax(-1)
    ordered, tokens = probabilities.sort(descending=True)
    before = ordered.cumsum(-1) - ordered
    ordered[before >= request.top_p] = 0.0
    return tokens[torch.multinomial(ordered, 1, generator=random)[0]].to(logits.device)


def generate(
    model: CausalLM,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    max_tokens: int = 512,
    stop: tuple[str, ...] = (),
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> list[Generated[int]]:
    """Continue texts, in which control tokens are read as such; prompt i is sampled with `seed + i`."""
    generator: Generator[int] = Generator(model, tokenizer, Reader(model, batch_tokens=512))
    generator.add(
        [
            Request(
                key=index,
                prompt=tuple(tokenizer.encode_rendered(prompt)),
                max_tokens=max_tokens,
                stop=stop,
                temperature=temperature,
                top_p=top_p,
                seed=seed + index,
            )
            for index, prompt in enumerate(prompts)
        ]
    )
    out: dict[int, Generated[int]] = {}
    while generator.busy:
        out.update((done.key, done) for done in generator.step())
    return [out[index] for index in range(len(prompts))]
