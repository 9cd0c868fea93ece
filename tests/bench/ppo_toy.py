"""PPO on a task whose best reward is known, and its parts turned off by turns; minutes on two cores.

    python -m tests.bench.ppo_toy --out docs/plots

A query is three digits. A base model has learnt, from answers of which most are wrong, to write some letters, a # and a
digit. The reward is 1 where the answer ends in the # and the query's last digit, else 0: the best is 1.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from qwen_model import PRESETS
from qwen_model.chatml import Example
from qwen_model.decoder import Decoder
from qwen_model.layout import Documents
from qwen_train.alignment.packing import pack
from qwen_train.alignment.ppo import PPO, PPOSettings
from qwen_train.alignment.rollouts import Text
from qwen_train.trainer import Optimiser

ALPHABET = "0123456789abcdefghijklmnop#= "
END = len(ALPHABET)
RATE = Optimiser(learning_rate=3e-4, warmup_steps=0, schedule="constant", weight_decay=0.0)
SETTINGS = PPOSettings(
    steps=150,
    value_steps=10,
    queries=32,
    max_tokens=12,
    epochs=2,
    policy=RATE,
    value=RATE.model_copy(update={"learning_rate": 1e-3}),
)


class Letters:
    """One token per letter, and one that ends a text."""

    eos_ids = (END,)

    def encode(self, text: str) -> list[int]:
        return [ALPHABET.index(letter) for letter in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(ALPHABET[token] for token in ids if token < END)


def decoder(seed: int, *, scalar: bool = False) -> Decoder:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 32}
    config = replace(
        PRESETS["nano-2m"],
        vocab_size=len(ALPHABET) + 1,
        num_attention_heads=2,
        num_key_value_heads=2,
        scalar_head=scalar,
        **sizes,
    )
    return Decoder(config).init_weights(seed)


def asked(draw: random.Random) -> str:
    return "".join(draw.choice("0123456789") for _ in range(3)) + "="


def answered(draw: random.Random, query: str, right: float) -> str:
    letters = "".join(draw.choice("abcdefghijklmnop") for _ in range(draw.randint(2, 6)))
    return letters + "#" + (query[2] if draw.random() < right else draw.choice("0123456789"))


def base_model(seed: int, steps: int = 400, right: float = 0.3) -> Decoder:
    """Trained on answers that are right as often as `right` and random else."""
    model, draw, letters = decoder(seed).train(), random.Random(seed), Letters()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, betas=(0.9, 0.95), weight_decay=0.0)
    for _ in range(steps):
        batch = []
        for _ in range(64):
            query = asked(draw)
            answer = [*letters.encode(answered(draw, query, right)), END]
            batch.append(Example([*letters.encode(query), *answer], [False] * 4 + [True] * len(answer)))
        for row in pack(batch, 2048):
            logits = model(row.ids, layout=Documents(row.segments), keep=row.judged)[0]
            loss = F.cross_entropy(logits, row.targets)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def right(texts: Sequence[Text]) -> list[float]:
    letters = Letters()
    return [float(text.ended and text.answer.endswith(f"#{letters.decode(text.query)[2]}")) for text in texts]


def pretraining(seed: int):
    """The base model's own kind of text, as rows without padding."""

    def rows(step: int) -> torch.Tensor:
        draw, letters, ids = random.Random(f"{seed}/{step}"), Letters(), []
        while len(ids) < 4 * 65:
            query = asked(draw)
            ids += [*letters.encode(query + answered(draw, query, 0.3)), END]
        return torch.tensor(ids[: 4 * 65]).view(4, 65)

    return rows


def toy(seed: int, base: Decoder, settings: PPOSettings) -> PPO:
    draw = random.Random(1000 + seed)
    return PPO(
        settings,
        policy=copy.deepcopy(base),
        value=decoder(100 + seed, scalar=True),
        reference=copy.deepcopy(base),
        score=right,
        tokenizer=Letters(),
        queries=[Letters().encode(asked(draw)) for _ in range(512)],
        pretraining=pretraining(seed),
        length=512,
        seed=seed,
    )


def learn(seed: int, base: Decoder, settings: PPOSettings) -> list[dict[str, float]]:
    ppo = toy(seed, base, settings)
    return [ppo.step(number)[0] for number in range(settings.steps)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("ppo-toy"))
    parser.add_argument("--only", default=None)
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)  # sizes here are too small for threads to help
    start = time.monotonic()
    base = base_model(0)
    print("base", time.monotonic() - start)
    for place, line in enumerate(learn(0, base, SETTINGS)):
        if place % 10 == 0:
            print(place, {k: round(v, 3) for k, v in line.items()}, flush=True)
    print(time.monotonic() - start)


if __name__ == "__main__":
    main()
