"""Reading token sequences: shared prefixes once, the rest packed behind them in one row without padding.

Works on any model that takes a cache, explicit positions and a mask: our decoder, or transformers' through an adapter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from qwen_model.cache import Cache, CacheShape, StackCache
from qwen_model.layout import Layout, Packed, Plain
from qwen_model.long_context import LongContext
from qwen_model.memory import halved, is_out_of_memory
from qwen_model.prefixes import plan


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
    def parameters(self) -> Iterator[Tensor]: ...
    def ntk_step(self, length: int) -> int: ...
    def __call__(self, input_ids: Tensor, *, layout: Layout, cache: Cache, keep: Tensor | None = None) -> Tensor: ...


PIECE = 512
"""Tokens of a long text that go through the model together where every position's logits are wanted: with a vocabulary
of 152 k they take 311 MB."""


@dataclass(frozen=True)
class Reading:
    """One pass over packed sequences: their indices, where each lies in the stack, and the logits asked for."""

    members: list[int]
    prefix: int
    spans: list[tuple[int, int]]
    logits: Tensor
    """(wanted positions of all members in order, V), float32."""


class Reader:
    """Runs sequences through the model in a planned order, keeping the keys of the current shared prefix."""

    def __init__(self, model: CausalLM, batch_tokens: int) -> None:
        """`batch_tokens` bounds the new tokens of one pass (a longer single sequence still goes through whole)."""
        self.model, self.batch_tokens = model, batch_tokens
        self._piece_tokens: int | None = None
        """Of a shared prefix, that go through together; None: all."""
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
            planned = plan([sequences[index] for index in own], [limits[index] for index in own])
            ordered.extend((own[place], shared) for place, shared in planned)
        return ordered

    def passes(
        self, sequences: Sequence[Sequence[int]], ordered: Sequence[tuple[int, int]], wanted: Sequence[Sequence[int]]
    ) -> Iterator[Reading]:
        """Read the sequences in planned order, packed by tokens; `wanted[i]` are positions of sequence i, ascending.

        Where memory runs out it goes on with half as many tokens a pass. Raises ModelError where that does not help.
        """
        at = 0
        while at < len(ordered):
            count = self.fits(sequences, ordered[at:])
            try:
                reading = self.read(sequences, ordered[at : at + count], wanted)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            else:
                yield reading
                at += count
                continue
            self.shrink()  # here, where the error holds no tensors any more

    def shrink(self) -> None:
        """Read half as many tokens a pass from now on, shared prefixes too, and forget all keys."""
        self._start_over(self._under[1])
        self.batch_tokens = halved(self.batch_tokens)
        self._piece_tokens = self.batch_tokens

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

    @torch.inference_mode()
    def read(
        self, sequences: Sequence[Sequence[int]], batch: Sequence[tuple[int, int]], wanted: Sequence[Sequence[int]]
    ) -> Reading:
        """One pass over sequences with the same shared prefix."""
        members = [index for index, _ in batch]
        shared = batch[0][1]
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
        return Reading(members, shared, spans, logits)

    def logprobs(self, sequence: Sequence[int], length: int, first: int = 1) -> Iterator[list[float]]:
        """Log-probabilities (nats) of a text's tokens `first` to `length` - 1 (counted from 0), piece by piece.

        They are those of one pass over the first `length` tokens. The pieces are the sequence's own, whatever part is
        asked for: a number does not hang on `length`, to the last bit, except by dynamic NTK's step.
        """
        self._hold([], self.model.ntk_step(length))
        self.stack.reserve(min(len(sequence), -(-(length - 1) // PIECE) * PIECE))
        for start in range(0, length - 1, PIECE):
            piece = list(sequence[start : start + PIECE])
            following = sequence[start + 1 : start + 1 + PIECE]
            low, high = max(first - 1 - start, 0), length - 1 - start
            yield self._piece(piece, following if low < len(following) else ())[low:high]

    @torch.inference_mode()
    def _piece(self, tokens: list[int], following: Sequence[int]) -> list[float]:
        """Read on behind the stack; the log-probabilities of what follows each token, as far as it is given."""
        logits = self._forward(tokens, [(0, len(tokens))], list(range(len(following))))
        self.stack.length += len(tokens)
        targets = torch.tensor(list(following), dtype=torch.long, device=logits.device)
        found = logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(-1)
        return [float(value) for value in found]

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
        kept = 0
        while kept < min(len(prefix), len(self._path)) and prefix[kept] == self._path[kept]:
            kept += 1
        self.stack.length = kept
        del self._path[kept:]  # what is behind may be written over, even by a pass that fails
        missing = prefix[kept:]
        size = self._piece_tokens or max(1, len(missing))
        for start in range(0, len(missing), size):
            piece = missing[start : start + size]
            self._forward(piece, [(0, len(piece))], [])
            self.stack.length += len(piece)
            self._path.extend(piece)

    def _forward(self, tokens: list[int], spans: list[tuple[int, int]], keep: list[int]) -> Tensor:
        device, held, new = self.model.device, self.stack.length, len(tokens)
        steps = torch.tensor([[self._under[1]]], device=device)
        layout = Plain(new, past=held, steps=steps) if len(spans) == 1 else Packed(held, spans, steps)
        self.stack.reserve(held + new)
        self.tokens += new
        logits = self.model(
            torch.tensor([tokens], device=device),
            layout=layout,
            cache=self.stack,
            keep=torch.tensor(keep, dtype=torch.long, device=device),
        )
        return logits[0].float()


@dataclass(frozen=True)
class Continuation:
    """Score `tokens` after `context`; both non-empty token ids."""

    context: tuple[int, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Scored:
    """A continuation's log-probability (nats), and whether each of its tokens is the likeliest one."""

    logprob: float
    greedy: bool


def readings(items: Sequence[Continuation]) -> tuple[dict[tuple[int, ...], list[int]], list[int]]:
    """The distinct sequences that have to be read, with the items that each answers, and its first wanted position."""
    users: dict[tuple[int, ...], list[int]] = {}
    for index, item in enumerate(items):
        users.setdefault(item.context + item.tokens[:-1], []).append(index)
    return users, [min(len(items[index].context) for index in its) - 1 for its in users.values()]


def score(reader: Reader, items: Sequence[Continuation]) -> Iterator[list[tuple[int, Scored]]]:
    """Each continuation's score with its index, pass by pass.

    Continuations of one token after the same context cost one pass together; longer ones share their context's keys.
    """
    users, first = readings(items)
    sequences = list(users)
    wanted = [list(range(start, len(sequence))) for start, sequence in zip(first, sequences, strict=True)]
    for packed in reader.passes(sequences, reader.plan(sequences, first), wanted):
        logprobs, likeliest = packed.logits.log_softmax(-1), packed.logits.argmax(-1)
        known: list[tuple[int, Scored]] = []
        row = 0
        for member in packed.members:
            for index in users[sequences[member]]:
                item = items[index]
                offset = row + len(item.context) - 1 - first[member]
                rows = torch.arange(offset, offset + len(item.tokens), device=logprobs.device)
                targets = torch.tensor(item.tokens, device=logprobs.device)
                greedy = bool((likeliest[rows] == targets).all())
                known.append((index, Scored(float(logprobs[rows, targets].sum()), greedy)))
            row += len(wanted[member])
        yield known


def windows(tokens: int, length: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Windows of `length` tokens over a text, as (start, end, first token to judge), counted from 0.

    Each is `stride` tokens further than the last one, and the last ends with the text, so that every token but the very
    first is judged once, in the earliest window that holds it: with the most context. 1 <= stride < length.
    """
    end = min(tokens, length)
    yield 0, end, 1
    while end < tokens:
        judged, end = end, min(end + stride, tokens)
        yield end - length, end, judged
