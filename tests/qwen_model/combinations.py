"""Every way of computing, under every context extension, against the plain dense computation of `oracle`.

`python -m tests.qwen_model.combinations` prints the table of docs/long-context.md.
"""

from __future__ import annotations

import itertools
import random
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from qwen_model import LongContext, ModelConfig
from qwen_model.cache import StackCache
from qwen_model.decoder import Decoder
from qwen_model.layout import Plain
from qwen_model.prefill import Reader
from qwen_model.rows import Rows
from tests.qwen_model import oracle

TRAIN = 24
WINDOWS = {"none": None, "short": (5, 9, None), "long": (TRAIN, 60, None)}
"""Windows shorter and longer than the prompts, with a layer that reads everything."""
COMPUTED: weakref.WeakKeyDictionary[Decoder, Any] = weakref.WeakKeyDictionary()
"""Of each model its weights in float64, and the logits that the oracle has computed."""


def model() -> Decoder:
    """Three layers, grouped heads, biases, weights wide enough that any wrong key shows in the first digits."""
    sizes = {"vocab_size": 90, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    made = Decoder(
        ModelConfig(**sizes, **heads, train_length=TRAIN, max_position_embeddings=400, initializer_range=0.3)
    )
    made.init_weights(seed=0)
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    return made.requires_grad_(False).eval()


def text(length: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(90), k=length)


class Expected:
    """What the oracle says under one setting; of a model whose weights stay, each text is computed once."""

    def __init__(self, model: Decoder, settings: LongContext) -> None:
        self.model, self.settings = model, settings

    def __call__(self, tokens: list[int], prompt: int | None = None) -> Tensor:
        """Logits (T, V) of a text read whole; of one whose first `prompt` tokens were read and the others written."""
        released = self.settings.dynamic_ntk == "released" and prompt is not None
        length = prompt if released else len(tokens)
        laid = {
            "ntk_length": None if self.settings.dynamic_ntk == "off" else length,
            "logn": self.settings.logn,
            "windows": self.model.windows,
            "window_alpha": self.settings.window_alpha,
        }
        if self.model not in COMPUTED:
            COMPUTED[self.model] = oracle.float64(self.model), {}
        weights, known = COMPUTED[self.model]
        key = (tuple(tokens), *laid.values())
        if key not in known:
            known[key] = oracle.logits(self.model, tokens, weights=weights, **laid)
        return known[key]


def plain(model: Decoder, expected: Expected) -> float:
    """One text in one pass; a batch of two of equal length."""
    worst = 0.0
    for length in (TRAIN, TRAIN + 1, 2 * TRAIN, 2 * TRAIN + 1, 101):
        texts = [text(length, seed) for seed in (1, 2)]
        ours = model(torch.tensor(texts))
        worst = max(worst, *(gap(ours[i], expected(texts[i])) for i in range(2)))
    return worst


def padded(model: Decoder, expected: Expected, side: str = "right") -> float:
    """A batch of unequal texts with padding on one side."""
    texts = [text(length, length) for length in (7, TRAIN, TRAIN + 1, 61, 99)]
    longest = max(map(len, texts))
    tokens, mask = torch.zeros(2, len(texts), longest, dtype=torch.long)
    for row, own in enumerate(texts):
        at = slice(0, len(own)) if side == "right" else slice(longest - len(own), longest)
        tokens[row, at], mask[row, at] = torch.tensor(own), 1
    ours = model(tokens, mask)
    return max(gap(ours[row][mask[row].bool()], expected(own)) for row, own in enumerate(texts))


def prefix(model: Decoder, expected: Expected, budget: int = 50) -> float:
    """Texts that share beginnings, packed behind their prefix; the reader is used twice, so that it must forget."""
    header = text(40, 3)
    texts = [header[:cut] + text(own, 10 * cut + own) for cut in (40, 40, 40, 31) for own in (5, 9, 30)]
    reader = Reader(model, batch_tokens=budget)
    worst = 0.0
    for _ in range(2):
        wanted = [list(range(len(own) - 4, len(own))) for own in texts]
        for read in reader.passes(texts, reader.plan(texts, [len(own) - 4 for own in texts]), wanted):
            for place, member in enumerate(read.members):
                ours = read.logits[4 * place : 4 * place + 4]
                worst = max(worst, gap(ours, expected(texts[member])[-4:]))
    return worst


def chunks(model: Decoder, expected: Expected) -> float:
    """One text read in pieces behind a cache, all at the base of the whole."""
    whole = text(110, 4)
    cache = StackCache(model.cache_shape, model.dtype, model.device)
    cache.make_room(1, 110)
    steps = torch.tensor([[model.ntk_step(len(whole))]])
    parts = []
    for start, end in itertools.pairwise((0, 13, 14, 60, 110)):
        layout = Plain(end - start, past=start, steps=steps)
        parts.append(model(torch.tensor([whole[start:end]]), layout=layout, cache=cache)[0])
        cache.length = end
    return gap(torch.cat(parts), expected(whole))


def decoding(model: Decoder, expected: Expected) -> float:
    """Rows of unequal length that enter, are written across boundaries of NTK, and leave while others go on."""
    prompts = [text(length, length) for length in (3, TRAIN - 2, 2 * TRAIN - 1, 70)]
    reader = Reader(model, batch_tokens=64)
    rows = Rows(model, reader, slots=4)
    owners: list[int] = []

    def enter(members: list[int]) -> None:
        own = [prompts[member] for member in members]
        plan = reader.plan(own, [len(prompt) - 1 for prompt in own])
        while plan:
            count = reader.fits(own, plan)
            entered, _ = rows.enter(own, plan[:count])
            owners.extend(members[place] for place in entered)
            plan = plan[count:]

    enter([0, 1])
    worst = 0.0
    chosen = random.Random(0)
    for turn in range(60):
        if turn == 5:
            enter([2, 3])
        if turn == 40:
            gone = owners.index(1)
            owners[gone] = owners[rows.leave(gone)]
            owners.pop()
        ours = rows.step(chosen.choices(range(90), k=len(rows)))
        if turn % 7 == 0 or turn < 5:
            for row, owner in enumerate(owners):
                worst = max(worst, gap(ours[row], expected(rows.texts[row], len(prompts[owner]))[-1]))
    return worst


PATHS: dict[str, Callable[[Decoder, Expected], float]] = {
    "one pass": plain,
    "padding right": padded,
    "padding left": lambda model, expected: padded(model, expected, "left"),
    "shared prefix, packed": prefix,
    "prefixes and texts in one pass": lambda model, expected: prefix(model, expected, 500),
    "in pieces, behind a cache": chunks,
    "decoding in a batch": decoding,
}


def settings() -> Iterator[dict[str, Any]]:
    for ntk, logn, window in itertools.product(("off", "released", "exact"), (False, True), WINDOWS):
        for window_alpha in (False, True) if window == "long" and ntk != "off" else (False,):
            yield {"dynamic_ntk": ntk, "logn": logn, "window": window, "window_alpha": window_alpha}


def gap(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference of log-probabilities, nats."""
    return float((ours.double().log_softmax(-1) - theirs.log_softmax(-1)).abs().max())


@torch.inference_mode()
def largest_difference(model: Decoder, path: str, setting: dict[str, Any]) -> float:
    laid = LongContext(**(setting | {"window": WINDOWS[setting["window"]]}))
    with model.long_context(laid):
        return PATHS[path](model, Expected(model, laid))


def main() -> None:
    made = model()
    print("| dynamic NTK | LogN | windows | " + " | ".join(PATHS) + " |")
    print("|---|---|---|" + "---|" * len(PATHS))
    for setting in settings():
        window = setting["window"] + (", alpha by window" if setting["window_alpha"] else "")
        cells = [f"{largest_difference(made, path, setting):.0e}" for path in PATHS]
        print(f"| {setting['dynamic_ntk']} | {'on' if setting['logn'] else 'off'} | {window} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
