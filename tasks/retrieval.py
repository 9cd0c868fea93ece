"""Finding again what was said far back: facts strewn into a long text, and a question for each of them at its end.

Perplexity can be won by ignoring the past; this cannot. Text, facts and questions are our own and drawn from a seed, so
that a text is the same for every model of one tokenizer, and nothing of it stands in anybody's training data.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from tasks.api import Kind, Loader, Model, Prompt, Sample, Sandbox, Task, TaskError, Verdict

LENGTHS = (1024, 4096, 8192, 16384)
TEXTS = 10
DEPTHS = tuple((place + 0.5) / 10 for place in range(10))
"""Where the facts stand, as shares of the text."""
CHARACTERS = 4
"""Of a token, until the model's tokenizer says otherwise."""


def _listed(text: str) -> list[str]:
    return [item.strip() for item in text.split(";")]


SHIPS = _listed(
    "Heron; Osprey; Merlin; Plover; Curlew; Lapwing; Kestrel; Petrel; Fulmar; Gannet; Dunlin; Whimbrel; Avocet"
)
CARGO = _listed("salt; timber; barley; wool; slate; copper; oranges; hemp; glass; tallow; cider; lead; linen; herring")
PLACES = _listed(
    "the north quay; the long pier; the old mole; the tar sheds; the rope walk; the customs stairs; the fish steps"
)
WEATHER = _listed(
    "a light wind from the west; fog until noon; steady rain; a clear sky and no wind; a heavy swell; "
    "frost on the ropes; a warm haze; squalls from the south"
)
DEEDS = _listed(
    "The harbour master walked the wall twice and found nothing amiss.; "
    "Two caulkers were paid off and a third was taken on.; "
    "The crane was greased, and its chain was turned end for end.; "
    "A boy fell from the steps and was fetched out laughing.; "
    "The pilot asked for a new lantern and was told to wait.; Nets were hung to dry along the railing.; "
    "The clerk copied the week's dues into the large book.; A dog was seen asleep on the sacks and left there.; "
    "The tide ran higher than the table said.; Somebody had painted the bollards green again."
)
OWNERS = _listed(
    "Amber; Birch; Cedar; Damson; Elder; Fennel; Gorse; Hazel; Ivory; Juniper; Lilac; Maple; Nettle; Olive; Poplar"
)


class Retrieval(Task):
    """A harbour's log with ten numbers in it. Each is asked for; the other nine are what it may be mistaken for.

    All questions to a text share everything but their last line, so that one reading of it serves ten samples.
    """

    name: ClassVar[str] = "retrieval"
    version: ClassVar[int] = 2
    title: ClassVar[str] = "needles by length and depth"
    protocol = "base"
    shots: ClassVar[int] = 0
    metric: ClassVar[str] = "needle perplexity"
    measures: ClassVar[dict[str, Kind]] = {"needle perplexity": "perplexity", "among ten": "share"}
    takes: ClassVar[frozenset[str]] = frozenset({"lengths"})

    def samples(self, load: Loader) -> list[Sample]:
        self.lengths = self.options.lengths or LENGTHS
        if len(set(self.lengths)) < len(self.lengths):
            raise TaskError("--lengths: one is named twice; name it once")
        self.sizes = {(text, length): length * CHARACTERS for text in range(TEXTS) for length in self.lengths}
        return [
            Sample(
                id=f"{self.name}/{text}/{length}/{place}",
                fields={"document": str(text), "length": length, "depth": depth, "place": place},
                gold=facts(text)[place][1],
                group=str(length),
            )
            for text in range(TEXTS)
            for length in sorted(self.lengths)
            for place, depth in enumerate(DEPTHS)
        ]

    def fit(self, samples: list[Sample], count: Callable[[str], int]) -> tuple[list[Sample], list[str]]:
        """All samples; texts get as long as the model's tokenizer lets them be."""
        for text, length in self.sizes:
            questions = [prompt(text, 0, place) + answer for place, (_, answer) in enumerate(facts(text))]
            longest = max(range(len(questions)), key=lambda place: count(questions[place]))
            self.sizes[text, length] = _largest(count, text, longest, length)
        # the sizes are the tokenizer's: they belong to what identifies the data
        sized = [(sample, self.sizes[int(sample.fields["document"]), sample.fields["length"]]) for sample in samples]
        return [replace(sample, fields={**sample.fields, "characters": size}) for sample, size in sized], []

    def prompt(self, sample: Sample) -> Prompt:
        text, length = int(sample.fields["document"]), sample.fields["length"]
        return prompt(text, self.sizes[text, length], sample.fields["place"])

    async def judge(self, sample: Sample, model: Model, sandbox: Sandbox) -> Verdict:
        answers = [answer for _, answer in facts(int(sample.fields["document"]))]
        scores = dict(zip(answers, await model.score(self.prompt(sample), answers), strict=True))
        likeliest = max(answers, key=lambda answer: scores[answer])  # the first of equals
        return Verdict(
            answer=likeliest,
            outcome="correct" if likeliest == sample.gold else "wrong",
            scores={"needle perplexity": -scores[sample.gold], "among ten": float(likeliest == sample.gold)},
            detail={name: sample.fields[name] for name in ("document", "length", "depth")},
        )


def facts(text: int) -> list[tuple[str, str]]:
    """The ten facts of a text, by depth: the sentence up to its number, and the number with a space before it."""
    draw = random.Random(f"facts {text}")
    owners, numbers = draw.sample(OWNERS, len(DEPTHS)), draw.sample(range(1000, 10000), len(DEPTHS))
    return [
        (f"The number of the {owner} warehouse is", f" {number}") for owner, number in zip(owners, numbers, strict=True)
    ]


def prompt(text: int, size: int, place: int) -> str:
    """A log of about `size` characters with its facts, and the beginning of the fact that is asked for."""
    known = facts(text)
    due = [depth * size for depth in DEPTHS]
    draw = random.Random(f"log {text}")
    parts: list[str] = []
    written, told, day = 0, 0, 0
    while written < size or told < len(known):
        if told < len(known) and (written >= due[told] or written >= size):
            sentence, number = known[told]
            parts.append(f"{sentence}{number}.\n")
            told += 1
        else:
            day += 1
            parts.append(entry(draw, day))
        written += len(parts[-1])
    return f"From the log of the harbour.\n\n{''.join(parts)}\nFrom the same log once more. {known[place][0]}"


def entry(draw: random.Random, day: int) -> str:
    """One day of the log."""
    ship, other = draw.sample(SHIPS, 2)
    brought, took = draw.sample(CARGO, 2)
    return (
        f"Day {day}, {draw.choice(WEATHER)}. The {ship} came to {draw.choice(PLACES)} with {brought} and left with "
        f"{took}; the {other} lay at anchor. {draw.choice(DEEDS)}\n"
    )


def _largest(count: Callable[[str], int], text: int, place: int, length: int) -> int:
    """About the most characters whose prompt, with its answer, has at most so many tokens. Raises TaskError where none
    are."""

    def tokens(size: int) -> int:
        return count(prompt(text, size, place) + facts(text)[place][1])

    size = length * CHARACTERS
    for _ in range(3):  # the number of tokens is almost a straight line in that of characters
        size = size * length // tokens(size)
    while tokens(size) > length:
        size -= 64
        if size < 0:
            raise TaskError(f"--lengths: {length} tokens do not hold ten facts by this model's tokenizer; give more")
    return size
