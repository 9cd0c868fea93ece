"""Continuations scored by their log-probability, or by a reward model: planned together, pass by pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from qwen_model.prefill import Reader, log_sums


@dataclass(frozen=True)
class Continuation:
    """Score `tokens`, which may be none, after `context`. Raises ValueError for a context of no token."""

    context: tuple[int, ...]
    tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.context:
            raise ValueError("context: it holds no token; begin with the tokenizer's end-of-text token")


@dataclass(frozen=True)
class Scored:
    """A continuation's log-probability (nats), and whether each of its tokens is the likeliest one.

    Of a model with a scalar head it is the reward of context and continuation, read at the end token behind them.
    """

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
    end = getattr(reader.model, "end_token", None)
    if end is not None:
        yield from _rewards(reader, items, end)
        return
    users, first = readings(items)
    sequences = list(users)
    wanted = [list(range(start, len(sequence))) for start, sequence in zip(first, sequences, strict=True)]
    for packed in reader.passes(sequences, reader.plan(sequences, first), wanted):
        logits = packed.logits
        sums, likeliest = log_sums(logits), logits.argmax(-1)
        answered: list[int] = []
        rows: list[int] = []
        row = 0
        for member in packed.members:
            for index in users[sequences[member]]:
                offset = row + len(items[index].context) - 1 - first[member]
                answered.append(index)
                rows += range(offset, offset + len(items[index].tokens))
            row += len(wanted[member])
        # all at once: a GPU is waited for two times, not for every item
        following = [token for index in answered for token in items[index].tokens]
        targets = torch.tensor(following, dtype=torch.long, device=logits.device)
        places = torch.tensor(rows, dtype=torch.long, device=logits.device)
        sizes = [len(items[index].tokens) for index in answered]
        nats = torch.split((logits[places, targets] - sums[places]).cpu(), sizes)
        hits = torch.split((likeliest[places] == targets).cpu(), sizes)
        yield [
            (index, Scored(float(own.sum()), bool(hit.all())))
            for index, own, hit in zip(answered, nats, hits, strict=True)
        ]


def _rewards(reader: Reader, items: Sequence[Continuation], end: int) -> Iterator[list[tuple[int, Scored]]]:
    texts = [(*item.context, *item.tokens, end) for item in items]
    last = [len(text) - 1 for text in texts]
    for packed in reader.passes(texts, reader.plan(texts, last), [[place] for place in last]):
        yield [
            (member, Scored(float(reward), greedy=False))
            for member, reward in zip(packed.members, packed.logits[:, 0], strict=True)
        ]
