"""Choosing the next token from logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_HEAD = 256
"""Tokens looked at first for a nucleus; sorting a whole vocabulary takes a hundred times as long."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to choose. `temperature` 0 is greedy; of equal logits the first wins.

    `repetition_penalty` divides positive and multiplies negative logits of tokens that the text holds already, prompt
    included. Then come temperature, `top_k` (0: all) and `top_p` (the smallest set of tokens of at least that mass), in
    this order. `seed` belongs to the text, so that what it draws does not depend on its batch.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, good, wanted in (
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top_k", self.top_k >= 0, "0 (all tokens) or more"),
            ("top_p", 0 < self.top_p <= 1, "more than 0 and at most 1"),
            ("repetition_penalty", self.repetition_penalty > 0, "more than 0; 1 is none"),
            ("seed", 0 <= self.seed < 2**63, "0 or more, below 2^63"),
        ):
            if not good:
                raise ValueError(f"{name}: {getattr(self, name)} is out of range; give {wanted}")

    @property
    def plain(self) -> bool:
        """Whether it is argmax and nothing else."""
        return self.temperature == 0 and self.repetition_penalty == 1

    def random(self) -> torch.Generator:
        """The random state of one text. It lives on the CPU, so that a seed means the same on every device."""
        return torch.Generator().manual_seed(self.seed)


def choose(logits: Tensor, sampling: Sampling, text: Sequence[int], random: torch.Generator) -> int:
    """The next token after `text` from its logits (V,), float32, on the CPU."""
    if sampling.repetition_penalty != 1:
        seen = torch.tensor(sorted(set(text)))
        found = logits[seen]
        penalty = sampling.repetition_penalty
        logits = logits.index_copy(0, seen, torch.where(found > 0, found / penalty, found * penalty))
    if sampling.temperature == 0:
        return int(logits.argmax())
    logits = logits / sampling.temperature
    tokens = torch.arange(len(logits))
    if sampling.top_k and sampling.top_k < len(logits):
        tokens = logits.topk(sampling.top_k).indices.sort().values
    probabilities = logits[tokens].softmax(-1)
    if sampling.top_p < 1:
        kept = _nucleus(probabilities, sampling.top_p)
        tokens, probabilities = tokens[kept], probabilities[kept]
    # One number against sums in the order of the vocabulary: rounding of the logits, which may differ between batches,
    # moves the choice only within a rounding of a boundary. (Draws by rank change wherever two near tokens swap ranks.)
    sums = probabilities.double().cumsum(-1)
    drawn = torch.rand(1, generator=random, dtype=torch.float64) * sums[-1]
    return int(tokens[min(int(torch.searchsorted(sums, drawn, right=True)), len(tokens) - 1)])


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Ascending indices of the largest probabilities: those before which less than `top_p` of mass lies."""
    size = min(_HEAD, len(probabilities))
    head, order = probabilities.topk(size)
    if head.sum() < top_p and size < len(probabilities):
        head, order = probabilities.sort(descending=True, stable=True)
    return order[head.cumsum(-1) - head < top_p].sort().values
