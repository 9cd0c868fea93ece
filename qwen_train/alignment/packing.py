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
from qwen_model.layout import Packed, Plain
from qwen_train.alignment.conversations import Conversation

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
    """Texts one behind another, for `model(ids, layout=layout)`.

    ids (1, T); `spans` are the texts' places. The logits at `judged` (N,) predict the tokens `targets` (N,).
    """

    ids: Tensor
    spans: list[tuple[int, int]]
    members: list[int]
    """Which of the packed texts stand here, in order."""
    judged: Tensor
    targets: Tensor

    @property
    def layout(self) -> Packed | Plain:
        """What each token reads: its own text up to itself. Dynamic NTK is off: this is for training."""
        steps = torch.zeros(1, 1, dtype=torch.long, device=self.ids.device)
        return Plain(self.ids.shape[1], steps=steps) if len(self.spans) == 1 else Packed(0, self.spans, steps)


def pack(examples: Sequence[Example], length: int, device: torch.device | str = "cpu") -> list[Row]:
    """Rows of at most `length` tokens (more for a text that is itself longer): best fit, the longest text first."""
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
