"""PPO on a task whose best reward is known, and its parts turned off by turns; minutes on two cores.

    python -m tests.bench.ppo_toy --out ppo-toy            # all runs; those that are there already are not run again
    python -m tests.bench.ppo_toy --out ppo-toy --seeds 1  # seed 1 alone, to run beside others

A query is three digits. A base model has learnt, from answers of which most are wrong, to write some letters, a # and a
digit; and a table of words, which is its pretraining text. The reward is 1 where an answer ends in the # and the
query's last digit, else 0: the best is 1. What the base knew of its table after PPO is what alignment costs ("tax").
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from qwen_model import PRESETS
from qwen_model.chatml import Example
from qwen_model.decoder import Decoder
from qwen_train.alignment.packing import pack
from qwen_train.alignment.ppo import PPO, PPOSettings
from qwen_train.alignment.rollouts import Text
from qwen_train.alignment.sft import micro
from qwen_train.parallel import World
from qwen_train.trainer import NextToken, Optimiser, Update

ALPHABET = "0123456789abcdefghijklmnop#= "
END = len(ALPHABET)
RATE = Optimiser(learning_rate=5e-4, warmup_steps=0, schedule="constant", weight_decay=0.0)
SETTINGS = PPOSettings(
    steps=100,
    value_steps=10,
    queries=32,
    max_tokens=12,
    epochs=2,
    minibatches=2,
    policy=RATE,
    value=RATE.model_copy(update={"learning_rate": 1e-3}),
)
VARIANTS: dict[str, dict[str, object]] = {
    "as the report": {},
    "no KL": {"kl": 0.0},
    "no value warm-up": {"value_steps": 0},
    "no reward normalisation": {"normalise_rewards": False},
    "no value clip": {"value_clip": None},
    "no PTX": {"ptx": 0.0},
}


class Letters:
    """One token per letter, and one that ends a text."""

    eos_ids = (END,)

    def encode(self, text: str) -> list[int]:
        return [ALPHABET.index(letter) for letter in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(ALPHABET[token] for token in ids if token < END)


def decoder(seed: int, *, scalar: bool = False) -> Decoder:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 32}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = replace(PRESETS["nano-2m"], vocab_size=len(ALPHABET) + 1, scalar_head=scalar, **sizes, **heads)
    return Decoder(config).init_weights(seed)


def asked(draw: random.Random) -> str:
    return "".join(draw.choice("0123456789") for _ in range(3)) + "="


def answered(draw: random.Random, query: str) -> str:
    """Right in 37 of 100 answers: 30 by intention, 7 by chance."""
    letters = "".join(draw.choice("abcdefghijklmnop") for _ in range(draw.randint(2, 6)))
    return letters + "#" + (query[2] if draw.random() < 0.3 else draw.choice("0123456789"))


def table(rows: int) -> Callable[[int], torch.Tensor]:
    """Pretraining text: 32 words of three letters, each with the word that belongs to it. Rows (R, 65) of a step."""
    words = random.Random(5)
    pairs = ["".join(words.choice("abcdefghijklmnop") for _ in range(6)) for _ in range(32)]
    entries = [f" {pair[:3]}={pair[3:]}" for pair in pairs]

    def of_step(step: int) -> torch.Tensor:
        draw, letters = random.Random(f"table {step}"), Letters()
        return torch.tensor([letters.encode("".join(draw.choices(entries, k=9)))[:65] for _ in range(rows)])

    return of_step


def base_model(seed: int, steps: int = 400) -> Decoder:
    model, draw, letters, facts = decoder(seed).train(), random.Random(seed), Letters(), table(8)
    update = Update(NextToken(model), RATE.model_copy(update={"learning_rate": 3e-3}), World())
    for step in range(steps):
        batch = []
        for _ in range(48):
            query = asked(draw)
            answer = [*letters.encode(answered(draw, query)), END]
            batch.append(Example([*letters.encode(query), *answer], [False] * 4 + [True] * len(answer)))
        batch += [Example(row, [True] * len(row)) for row in facts(step).tolist()]
        update.step([micro(row) for row in pack(batch, 2048)], update.settings.rate(step, steps))
    return model


def right(texts: Sequence[Text]) -> list[float]:
    letters = Letters()
    return [float(text.ended and text.answer.endswith(f"#{letters.decode(text.query)[2]}")) for text in texts]


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
        pretraining=table(4),
        length=512,
        seed=seed,
    )


@torch.no_grad()
def forgotten(model: Decoder) -> float:
    """Loss on the table in nats per token."""
    rows = table(32)(10**6)
    return float(F.cross_entropy(model.eval()(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten()))


def learn(seed: int, base: Decoder, settings: PPOSettings) -> dict[str, object]:
    ppo = toy(seed, base, settings)
    begin, before = time.monotonic(), forgotten(base)
    steps = [ppo.step(number)[0] for number in range(settings.steps)]
    policy = ppo.writer.model
    return {"seconds": time.monotonic() - begin, "tax": forgotten(policy) - before, "steps": steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("ppo-toy"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", help="variants, separated by commas; the others are read, if they are there")
    parser.add_argument("--plots", type=Path, default=None, help="folder of ppo-toy.png; default --out")
    args = parser.parse_args()
    torch.set_num_threads(1)  # sizes here are too small for threads to help
    args.out.mkdir(parents=True, exist_ok=True)
    seeds, base = [int(seed) for seed in args.seeds.split(",")], None
    for seed in seeds:
        for name, changes in VARIANTS.items():
            if args.only and name not in args.only.split(","):
                continue
            path = args.out / f"{name.replace(' ', '-')}-{seed}.json"
            if path.is_file():
                continue
            base = base or base_model(0)  # the same for all: a seed is PPO's queries, draws and value model
            found = learn(seed, base, SETTINGS.model_copy(update=changes))
            path.write_text(json.dumps(found))
            print(f"seed {seed}, {name}: {_last(found, 'reward'):.3f}, {found['seconds']:.0f} s", file=sys.stderr)
    runs = {
        name: [json.loads(path.read_text()) for path in sorted(args.out.glob(f"{name.replace(' ', '-')}-*.json"))]
        for name in VARIANTS
    }
    runs = {name: found for name, found in runs.items() if found}
    print(_table(runs))
    _plot(runs, (args.plots or args.out) / "ppo-toy.png")


def _last(run: dict, name: str) -> float:
    """Mean over the last ten steps."""
    return sum(step[name] for step in run["steps"][-10:]) / 10


def _reached(run: dict) -> int | None:
    """The first step from which the mean of ten steps is at least 0.9."""
    rewards = [step["reward"] for step in run["steps"]]
    return next((n for n in range(9, len(rewards)) if sum(rewards[n - 9 : n + 1]) >= 9), None)


def _table(runs: dict[str, list[dict]]) -> str:
    lines = [
        "| | reward, first step | reward, last 10 steps | 0.9 reached at step | KL, nats a response | entropy"
        " | tax, nats a token | value loss at step 10 | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in runs.items():
        columns = [
            [run["steps"][0]["reward"] for run in found],
            [_last(run, "reward") for run in found],
            [_reached(run) for run in found],
            [_last(run, "kl_per_response") for run in found],
            [_last(run, "entropy") for run in found],
            [run["tax"] for run in found],
            [run["steps"][10]["value_loss"] for run in found],
            [run["seconds"] for run in found],
        ]
        kinds = ("{:.2f}", "{:.3f}", "{}", "{:.2f}", "{:.2f}", "{:+.3f}", "{:.3f}", "{:.0f}")
        cells = [
            ", ".join("never" if one is None else kind.format(one) for one in column)
            for kind, column in zip(kinds, columns, strict=True)
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _plot(runs: dict[str, list[dict]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    panels = (
        ("reward", "share of right answers"),
        ("kl_per_response", "KL to the reference, nats a response"),
        ("entropy", "entropy, nats a token"),
    )
    for axes, (field, label) in zip(figure.subplots(1, 3), panels, strict=True):
        for name, colour in (("as the report", "tab:blue"), ("no KL", "tab:red")):
            for number, run in enumerate(runs.get(name, [])):
                axes.plot(
                    [step[field] for step in run["steps"]], color=colour, alpha=0.7, label=name if not number else None
                )
        axes.set_xlabel("step (the first 10 move the value model alone)")
        axes.set_ylabel(label)
        axes.legend()
    figure.suptitle("PPO on the toy task, a line per seed")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
