"""Reading token sequences: shared prefixes once, the rest packed behind them in one row without padding.

Works on any model that takes a cache, explicit positions and a mask: our decoder, or transformers' through an adapter.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from qwen_model.cache import Cache, CacheShape, StackCache
from qwen_model.layout import Layout, Packed, Plain
from qwen_model.long_context import LongContext
from qwen_model.memory import OutOfMemory, out_of_memory
from qwen_model.prefixes import WORTH, forest, plan, shared_length


class CausalLM(Protocol):
    """What batched reading and writing needs of a model; `Decoder` says what each member means."""

    @property
    def cache_shape(self) -> CacheShape: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def settings(self) -> LongContext: ...
    @property
    def train_length(self) -> int: ...
    @property
    def shares_keys(self) -> bool: ...
    @property
    def captured(self) -> bool: ...
    def parameters(self) -> Iterator[Tensor]: ...
    def ntk_step(self, length: int) -> int: ...
    def __call__(self, input_ids: Tensor, *, layout: Layout, cache: Cache, keep: Tensor | None = None) -> Tensor: ...


PASS = {"cpu": 512, "cuda": 4096}
"""New tokens of one pass, by device: one of this size is as fast a token as larger ones, and packed rows waste little
attention."""

PIECE = {"cpu": 512, "cuda": 2048}
"""Tokens of a long text that go through the model together where every position's logits are wanted, by device: with a
vocabulary of 152 k their logits in float32 take 311 MB, on a GPU 1.2 GB, and as much again beside them."""


@dataclass(frozen=True)
class Reading:
    """One pass over packed sequences: their indices and the logits asked for."""

    members: list[int]
    logits: Tensor
    """(wanted positions of all members in order, V), float32."""


@dataclass(frozen=True)
class Held(Reading):
    """One whose sequences have the same prefix in the stack, and where the rest of each lies behind it."""

    prefix: int
    spans: list[tuple[int, int]]


class Reader:
    """Runs sequences through the model in a planned order, keeping the keys of the current shared prefix."""

    def __init__(self, model: CausalLM, batch_tokens: int | None = None) -> None:
        """`batch_tokens` (default: `PASS`) bounds the new tokens of one pass; a longer sequence goes through in
        several, up to the first position whose logits are wanted."""
        device = model.device.type
        self.model, self.batch_tokens, self.piece = model, batch_tokens or PASS[device], PIECE[device]
        self._path: list[int] = []
        self._start_over(step=0)
        self.tokens = 0
        """Tokens that went through the model so far."""

    def plan(self, sequences: Sequence[Sequence[int]], limits: Sequence[int]) -> list[tuple[int, int]]:
        """`prefixes.plan` for this model: texts of different NTK steps have other keys and share nothing."""
        by_step: dict[int, list[int]] = {}
        for index, sequence in enumerate(sequences):
            by_step.setdefault(self.model.ntk_step(len(sequence)), []).append(index)
        ordered: list[tuple[int, int]] = []
        for _, own in sorted(by_step.items()):
            worth = WORTH[self.model.device.type]
            planned = plan([sequences[index] for index in own], [limits[index] for index in own], worth)
            ordered.extend((own[place], shared) for place, shared in planned)
        return ordered

    def passes(
        self, sequences: Sequence[Sequence[int]], ordered: Sequence[tuple[int, int]], wanted: Sequence[Sequence[int]]
    ) -> Iterator[Reading]:
        """Read the sequences in planned order, packed by tokens; `wanted[i]` are positions of sequence i, ascending and
        behind what it shares.

        Where memory runs out, passes of half as many tokens go on. Raises OutOfMemory where those of one token do.
        """
        at = 0
        while at < len(ordered):
            try:
                reading = self._next(sequences, ordered[at:], wanted)
            except OutOfMemory:
                if self.batch_tokens == 1:
                    raise
                self.batch_tokens //= 2
                continue
            yield reading
            at += len(reading.members)

    def _next(
        self, sequences: Sequence[Sequence[int]], ordered: Sequence[tuple[int, int]], wanted: Sequence[Sequence[int]]
    ) -> Reading:
        """The next pass: of whole families of texts, if the first one is small enough, or of texts of one prefix."""
        first, shared = ordered[0]
        step = self.model.ntk_step(len(sequences[first]))
        alike = itertools.takewhile(lambda one: self.model.ntk_step(len(sequences[one[0]])) == step, ordered)
        path = self._path if self._under == (self.model.settings, step) else []
        held = path[: shared_length(path, sequences[first][:shared])]
        trees = forest(sequences, alike, held, self.batch_tokens)
        if trees is None:
            return self.read(sequences, ordered[: self.fits(sequences, ordered)], wanted)
        batch = ordered[: len(trees.leaves)]
        keep = [
            trees.spans[leaf][0] + position - shared
            for (index, shared), leaf in zip(batch, trees.leaves, strict=True)
            for position in wanted[index]
        ]
        with self._careful():
            self._hold(held, step)
            logits = self._forward(trees.tokens, trees.spans, keep, trees.parents)
        return Reading([index for index, _ in batch], logits)

    def fits(self, sequences: Sequence[Sequence[int]], ordered: Sequence[tuple[int, int]]) -> int:
        """How many of the next sequences go into one pass: those of the first one's prefix, within the budget."""
        first, shared = ordered[0]
        prefix = list(sequences[first][:shared])
        step = self.model.ntk_step(len(sequences[first]))
        total = count = 0
        for index, own in ordered:
            total += len(sequences[index]) - own
            same = own == shared and list(sequences[index][:own]) == prefix
            same = same and self.model.ntk_step(len(sequences[index])) == step
            if count and (not same or total > self.batch_tokens):
                break
            count += 1
        return count

    def read(
        self, sequences: Sequence[Sequence[int]], batch: Sequence[tuple[int, int]], wanted: Sequence[Sequence[int]]
    ) -> Held:
        """One pass over sequences with the same shared prefix. Raises OutOfMemory and then holds nothing."""
        with self._careful():
            return self._read(sequences, batch, wanted)

    @contextmanager
    def _careful(self) -> Iterator[None]:
        try:
            with torch.inference_mode(), out_of_memory():
                yield
        except OutOfMemory:
            self._start_over(step=0)  # with what was half read
            raise

    def _read(
        self, sequences: Sequence[Sequence[int]], batch: Sequence[tuple[int, int]], wanted: Sequence[Sequence[int]]
    ) -> Held:
        members = [index for index, _ in batch]
        shared = batch[0][1]
        if len(members) == 1 and len(sequences[members[0]]) - shared > self.batch_tokens:
            shared = max(shared, wanted[members[0]][0])
        self._hold(list(sequences[members[0]][:shared]), self.model.ntk_step(len(sequences[members[0]])))
        spans: list[tuple[int, int]] = []
        keep: list[int] = []
        start = shared
        for index in members:
            end = start + len(sequences[index]) - shared
            keep.extend(start - shared + position - shared for position in wanted[index])
            spans.append((start, end))
            start = end
        tokens = [token for index in members for token in sequences[index][shared:]]
        logits = self._forward(tokens, [(a - shared, b - shared) for a, b in spans], keep)
        return Held(members, logits, shared, spans)

    def logprobs(
        self, sequence: Sequence[int], length: int, first: int = 1, stops: Sequence[int] = ()
    ) -> Iterator[list[float]]:
        """Log-probabilities (nats) of a text's tokens `first` to `length` - 1 (counted from 0), piece by piece.

        They are those of one pass over the first `length` tokens. The pieces are the sequence's own, whatever part is
        asked for: a number does not hang on `length`, to the last bit, except by dynamic NTK's step. `stops` are
        lengths at which somebody looks at the memory in use: room is made from one to the next.
        """
        self._start_over(self.model.ntk_step(length))
        size = self.piece
        ends = sorted(min(len(sequence), -(-(stop - 1) // size) * size) for stop in {*stops, length})
        for start in range(0, length - 1, size):
            self.stack.make_room(1, next(end for end in ends if end > start))
            piece = list(sequence[start : start + size])
            following = sequence[start + 1 : start + 1 + size]
            low, high = max(first - 1 - start, 0), length - 1 - start
            yield self.read_on(piece, following if low < len(following) else ())[low:high]

    @torch.inference_mode()
    def read_on(self, tokens: list[int], following: Sequence[int]) -> list[float]:
        """Read on behind the stack; the log-probabilities of what follows each token, as far as it is given."""
        with out_of_memory():
            logits = self._forward(tokens, [(0, len(tokens))], list(range(len(following))))
            self.stack.length += len(tokens)
            targets = torch.tensor(list(following), dtype=torch.long, device=logits.device)
            found = logits.gather(-1, targets[:, None])[:, 0] - log_sums(logits)
        values: list[float] = found.tolist()
        return values

    def _start_over(self, step: int) -> None:
        """Forget all keys: they were turned under other settings than those to come."""
        model = self.model
        self._under = (model.settings, step)
        self.stack = StackCache(model.cache_shape, model.dtype, model.device)
        self._path.clear()

    def _hold(self, prefix: list[int], step: int) -> None:
        """Make the stack hold exactly these tokens at that NTK step, computing only what it does not hold yet."""
        if self._under != (self.model.settings, step):
            self._start_over(step)
        self.stack.length = kept = shared_length(prefix, self._path)
        for start in range(kept, len(prefix), self.batch_tokens):
            missing = prefix[start : start + self.batch_tokens]
            self._forward(missing, [(0, len(missing))], [])
            self.stack.length += len(missing)
        self._path = prefix

    def _forward(
        self,
        tokens: list[int],
        spans: list[tuple[int, int]],
        keep: list[int],
        parents: Sequence[int | None] = (),
    ) -> Tensor:
        device, held, new = self.model.device, self.stack.length, len(tokens)
        steps = torch.tensor([[self._under[1]]], device=device)
        layout = Plain(new, past=held, steps=steps) if len(spans) == 1 else Packed(held, spans, steps, parents)
        self.stack.make_room(1, held + new)
        self.tokens += new
        logits = self.model(
            torch.tensor([tokens], device=device),
            layout=layout,
            cache=self.stack,
            keep=torch.tensor(keep, dtype=torch.long, device=device),
        )
        return logits[0].float()


def text_windows(tokens: int, length: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Windows of `length` tokens over a text, as (start, end, first token to judge), counted from 0.

    Each is `stride` tokens further than the last one, and the last ends with the text, so that every token but the very
    first is judged once, in the earliest window that holds it: with the most context. 1 <= stride < length.
    """
    end = min(tokens, length)
    yield 0, end, 1
    while end < tokens:
        judged, end = end, min(end + stride, tokens)
        yield end - length, end, judged


def log_sums(logits: Tensor) -> Tensor:
    """Logarithm of the sum of exponentials of each row of (n, V), few rows at a time: torch holds a copy of them.

    By log_softmax, as lm-eval and others have it, though logsumexp is nearer to float64 (decision 0074).
    """
    return torch.cat([some[:, 0] - some.log_softmax(-1)[:, 0] for some in torch.split(logits, 64)])
