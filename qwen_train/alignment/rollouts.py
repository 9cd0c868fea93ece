"""Responses of the policy to queries, and what the four models say of them (report, section 3.2.2).

A text is a query and its response, both token ids. Texts are read packed, each blind to the others. Everything that is
said of a response has one entry per token of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qwen_model.chatml import Example
from qwen_model.decoder import Decoder
from qwen_model.generation import Generator, Request
from qwen_model.layout import Documents
from qwen_model.prefill import Reader
from qwen_model.sampling import Sampling
from qwen_model.tokenizer import Tokenizer
from qwen_train.alignment.nucleus import Nucleus, join, logprobs_within, nucleus_of
from qwen_train.alignment.packing import Row, pack


@dataclass(frozen=True)
class Text:
    """A query's token ids and a response's, the end token included where the policy wrote it."""

    query: tuple[int, ...]
    response: tuple[int, ...]
    answer: str
    """The response as text, without the end token."""
    ended: bool

    @property
    def ids(self) -> list[int]:
        return [*self.query, *self.response]

    @property
    def example(self) -> Example:
        return Example(self.ids, [False] * len(self.query) + [True] * len(self.response))


def sample(
    policy: Decoder,
    tokenizer: Tokenizer,
    queries: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    top_p: float,
    seed: int,
    temperature: float = 1.0,
    only: Sequence[int] | None = None,
) -> list[Text]:
    """A text for each query, or for those at the places `only`, by continuous batching.

    Text i draws with a seed of its own, so that what it says does not hang on the others.
    """
    policy.eval()
    # a new reader each time: keys of a policy that has moved on are of no use
    generator: Generator[int] = Generator(policy, tokenizer, Reader(policy))
    asked = {place: tuple(queries[place]) for place in (range(len(queries)) if only is None else only)}
    generator.add(
        [
            Request(
                key=place,
                prompt=query,
                max_tokens=max_tokens,
                sampling=Sampling(temperature=temperature, top_p=top_p, seed=seed + place),
            )
            for place, query in asked.items()
        ]
    )
    found: dict[int, Text] = {}
    while generator.busy:
        for done in generator.step():
            found[done.key] = Text(asked[done.key], done.tokens, done.text, done.finish == "eos")
    return [found[place] for place in asked]


@dataclass(frozen=True)
class Spoken:
    """What a model says of a response: its tokens' log-probabilities (T,) in nats, within the nucleus and over all
    words, and the entropies (T,) over all words."""

    within: Tensor
    logprobs: Tensor
    entropy: Tensor
    nucleus: Nucleus | None


@torch.no_grad()
def measure(model: Decoder, texts: Sequence[Text], *, length: int, top_p: float = 1.0) -> list[Spoken]:
    """Each response under the model, with the model's own nuclei at `top_p`."""
    found: dict[int, Spoken] = {}
    for row in rows_of(texts, length, model.device):
        logits = model(row.ids, layout=Documents(row.segments), keep=row.judged)[0].float()
        logs = logits.log_softmax(-1)
        entropy = -(logs.exp() * logs).sum(-1)
        start = 0
        for member in row.members:
            end = start + len(texts[member].response)
            own, chosen = logits[start:end], row.targets[start:end]
            nucleus = nucleus_of(own, chosen, top_p) if top_p < 1 else None
            whole = logprobs_within(own, chosen, None)
            within = whole if nucleus is None else logprobs_within(own, chosen, nucleus)
            found[member] = Spoken(within, whole, entropy[start:end], nucleus)
            start = end
    return [found[place] for place in range(len(texts))]


@torch.no_grad()
def values_of(model: Decoder, texts: Sequence[Text], *, length: int) -> list[Tensor]:
    """A value (T,) before each token of each response is written."""
    found: dict[int, Tensor] = {}
    for row in rows_of(texts, length, model.device):
        values = model(row.ids, layout=Documents(row.segments), keep=row.judged)[0, :, 0].float()
        parts = values.split([len(texts[member].response) for member in row.members])
        found.update(zip(row.members, parts, strict=True))
    return [found[place] for place in range(len(texts))]


def rewards_of(model: Decoder, texts: Sequence[Sequence[int]], *, length: int) -> Tensor:
    """Rewards (texts,): the scalar head's output at the last token, which is the end token by convention."""
    examples = [Example(list(ids), [False] * len(ids)) for ids in texts]
    rewards: dict[int, Tensor] = {}
    for row in pack(examples, length, model.device):
        ends = torch.tensor([end - 1 for _, end in row.spans], device=model.device)
        found = model(row.ids, layout=Documents(row.segments), keep=ends)[0, :, 0].float()
        rewards.update(zip(row.members, found.unbind(), strict=True))
    return torch.stack([rewards[place] for place in range(len(examples))])


def rows_of(texts: Sequence[Text], length: int, device: torch.device) -> list[Row]:
    """Packed rows in which the responses' tokens are judged."""
    return pack([text.example for text in texts], length, device)


def joined(nuclei: Sequence[Nucleus | None], sizes: Sequence[int]) -> Nucleus | None:
    """The nucleus of a row; None where the whole vocabulary could be drawn."""
    kept = [nucleus for nucleus in nuclei if nucleus is not None]
    return join(kept, list(sizes)) if kept else None
