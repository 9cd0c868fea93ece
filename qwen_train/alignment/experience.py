"""A step's responses with what is known of them, and how processes tell each other: safetensors and JSON, no pickle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor

from qwen_train.alignment.nucleus import Nucleus
from qwen_train.alignment.rollouts import Text
from qwen_train.parallel import World

_NOTHING = torch.empty(0)
_FACTS, _MEASURED, _NUCLEUS = "facts", ("old", "kl", "values", "entropy"), ("positions", "tokens")


@dataclass(frozen=True)
class Experience:
    """A response and what is known of it before any update; tensors are (T,), one entry per token of the response."""

    text: Text
    raw: float
    """The score as the reward model gave it."""
    old: Tensor
    kl: Tensor
    values: Tensor
    entropy: Tensor
    nucleus: Nucleus | None
    advantages: Tensor = _NOTHING
    returns: Tensor = _NOTHING


def gathered(own: list[Experience], world: World) -> list[Experience]:
    """Every process's responses, in the order in which they were dealt: one to each process by turns. Advantages and
    returns are not sent: they are known when all are there."""
    if world.size == 1:
        return own
    shares = [_read(share, world.device) for share in _from_all(_written(own), world)]
    return [shares[place % world.size][place // world.size] for place in range(sum(map(len, shares)))]


def _written(own: Sequence[Experience]) -> bytes:
    facts = [{"text": asdict(made.text), "raw": made.raw, "nucleus": made.nucleus is not None} for made in own]
    tensors = {_FACTS: _bytes(json.dumps(facts).encode())}
    for place, made in enumerate(own):
        parts = {name: getattr(made, name) for name in _MEASURED}
        parts |= {} if made.nucleus is None else {name: getattr(made.nucleus, name) for name in _NUCLEUS}
        # safetensors takes no views of one tensor
        tensors |= {f"{name} {place}": part.detach().cpu().clone() for name, part in parts.items()}
    written: bytes = save(tensors)
    return written


def _read(share: bytes, device: torch.device) -> list[Experience]:
    tensors: dict[str, Tensor] = load(share)
    found = []
    for place, facts in enumerate(json.loads(bytes(tensors[_FACTS].numpy()))):

        def part(name: str, place: int = place) -> Tensor:
            return tensors[f"{name} {place}"].to(device)

        text = Text(**facts["text"] | {name: tuple(facts["text"][name]) for name in ("query", "response")})
        nucleus = Nucleus(*map(part, _NUCLEUS)) if facts["nucleus"] else None
        measured = {name: part(name) for name in _MEASURED}
        found.append(Experience(text=text, raw=facts["raw"], nucleus=nucleus, **measured))
    return found


def _from_all(own: bytes, world: World) -> list[bytes]:
    """The bytes of each process, by its rank; gloo carries them, whatever the device's own backend is."""
    sizes = [torch.zeros(1, dtype=torch.long) for _ in range(world.size)]
    dist.all_gather(sizes, torch.tensor([len(own)]))
    most = max(int(size) for size in sizes)
    shares = [torch.empty(most, dtype=torch.uint8) for _ in sizes]
    dist.all_gather(shares, _bytes(own.ljust(most, b"\0")))
    return [bytes(share[: int(size)].numpy()) for share, size in zip(shares, sizes, strict=True)]


def _bytes(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)
