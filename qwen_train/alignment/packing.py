"""Conversations side by side in one row, blind to each other, so that no step computes padding.

Packing arranges the work of a step and nothing else: the loss of a packed batch is that of its texts one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from qwen_model import ModelError
from qwen_model.chatml import ChatTokenizer, Example, Mask, encode_example
from qwen_train.alignment.conversations import Conversation
from qwen_train.parallel import World
from qwen_train.trainer import IGNORED

TooLong = Literal["drop", "cut"]


@dataclass(frozen=True)
class Fitted:
    """Encoded conversations of at most the wanted length, and what became of the longer ones."""

    examples: list[Example]
    dropped: list[str]
    """Where those are that were left out: too long, or cut before their first target."""
    cut: int


def encode(
    conversations: Iterable[Conversation], tokenizer: ChatTokenizer, mask: Mask, length: int, too_long: TooLong
) -> Fitted:
    """Token ids and targets; longer conversations are dropped whole, or cut at their end.

    Raises ModelError if none fits.
    """
    examples: list[Example] = []
    dropped: list[str] = []
    cut = 0
    for conversation in conversations:
        example = encode_example(tokenizer, conversation.messages, mask)
        if len(example.ids) > length and too_long == "cut":
            example = Example(example.ids[:length], example.is_target[:length])
            cut += any(example.is_target[1:])
        if len(example.ids) > length or not any(example.is_target[1:]):
            dropped.append(conversation.where)
        else:
            examples.append(example)
    if not examples:
        raise ModelError(f"length: all {len(dropped)} conversations are longer than {length} tokens; raise it")
    return Fitted(examples, dropped, cut)


@dataclass(frozen=True)
class Row:
    """Texts one behind another, for `model(ids, layout=Documents(segments))`.

    ids (1, T); `spans` are the texts' places. The logits at `judged` (N,) predict the tokens `targets` (N,).
    """

    ids: Tensor
    spans: list[tuple[int, int]]
    members: list[int]
    """Which of the packed texts stand here, in order."""
    judged: Tensor
    targets: Tensor

    @property
    def segments(self) -> Tensor:
        """(1, T): the number of each token's text in the row, for `layout.Documents`."""
        sizes = torch.tensor([end - start for start, end in self.spans], device=self.ids.device)
        return torch.arange(len(sizes), device=self.ids.device).repeat_interleave(sizes)[None]

    @property
    def next_tokens(self) -> Tensor:
        """(1, T): what each position is to predict, IGNORED where nothing is learnt."""
        found = torch.full_like(self.ids, IGNORED)
        found[0, self.judged] = self.targets
        return found


def spread(rows: list[Row], examples: Sequence[Example], world: World) -> list[Row]:
    """This process's rows of those that all processes know, as many as every other process has.

    A sharded model is read by all processes at once, so rows are halved until they can be dealt evenly, which a
    multiple of the processes always can (`stage.deal`).
    """
    while len(rows) % world.size:
        longest = max(range(len(rows)), key=lambda place: len(rows[place].members))
        row = rows[longest]
        if len(row.members) == 1:
            raise ValueError(f"{len(examples)} texts cannot be dealt to {world.size} processes")
        parts = (row.members[::2], row.members[1::2])
        rows = rows[:longest] + rows[longest + 1 :] + [_row(examples, part, row.ids.device) for part in parts]
    return rows[world.rank :: world.size]


def pack(
    examples: Sequence[Example], length: int, device: torch.device | str = "cpu", *, in_order: bool = False
) -> list[Row]:
    """Rows of at most `length` tokens (more for a text that is itself longer): best fit, the longest text first.

    `in_order`: all in one row as they stand.
    """
    if in_order:
        return [_row(examples, list(range(len(examples))), device)]
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(examples)), key=lambda place: (-len(examples[place].ids), place)):
        size = len(examples[index].ids)
        fits = [row for row, left in enumerate(room) if left >= size]
        if fits:
            row = min(fits, key=lambda place: (room[place], place))
            rows[row].append(index)
            room[row] -= size
        else:
            rows.append([index])
            room.append(length - size)
    return [_row(examples, members, device) for members in rows]


def _row(examples: Sequence[Example], members: list[int], device: torch.device | str) -> Row:
    ids: list[int] = []
    spans: list[tuple[int, int]] = []
    judged: list[int] = []
    for index in members:
        example, start = examples[index], len(ids)
        ids += example.ids
        spans.append((start, len(ids)))
        # the first token of a text follows nothing
        judged += [start + place - 1 for place, target in enumerate(example.is_target) if target and place]
    row = torch.tensor([ids], device=device)
    places = torch.tensor(judged, dtype=torch.long, device=device)
    return Row(row, spans, members, places, row[0, places + 1])
