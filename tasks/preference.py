"""Pairwise accuracy on human preferences in the form of hh-rlhf, by likelihood or by reward.

The report's Table 4 measures reward models so, and a folder with a reward head (`qwen-train reward`) is measured by
its rewards; the accuracy per token then means nothing. A language model is measured by how likely it finds the two
answers. The Qwen sets, OpenAI's and SHP are not here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Literal

from tasks.api import Chat, Decoding, Kind, Loader, Model, Prompt, ReportCell, Sample, Sandbox, Source, Task, Verdict
from tasks.rows import bad, fetch, text

PER_TOKEN = "accuracy per token"
CHOSEN, REJECTED = "chosen", "rejected"
ROLES: dict[str, Literal["user", "assistant"]] = {"Human": "user", "Assistant": "assistant"}
SETS = ("helpful-base", "helpful-online", "helpful-rejection-sampled", "harmless-base")


def hh_source(name: str) -> Source:
    return Source(
        name=f"hh-rlhf {name}",
        files=(
            *(f"hh_rlhf/{name}_test.jsonl", f"hh_rlhf/{name}/test.jsonl", f"hh_rlhf/{name}/test.jsonl.gz"),
            *(f"{name}/test.jsonl", f"{name}/test.jsonl.gz"),
        ),
        hub="Anthropic/hh-rlhf",
        folder=name,
        split="test",
        licence="MIT",
    )


class Preference(Task):
    """Right where the preferred answer has the higher reward, or is the likelier one, whole or per token."""

    name: ClassVar[str] = "preference"
    version: ClassVar[int] = 1
    title: ClassVar[str] = "Human preferences of hh-rlhf, by likelihood or reward"
    protocol: ClassVar[Literal["base", "chat"]] = "chat"
    shots: ClassVar[int] = 0
    metric: ClassVar[str] = "accuracy"
    measures: ClassVar[Mapping[str, Kind]] = {PER_TOKEN: "share"}
    helpful_base: ClassVar[Source] = hh_source("helpful-base")
    helpful_online: ClassVar[Source] = hh_source("helpful-online")
    helpful_rejection_sampled: ClassVar[Source] = hh_source("helpful-rejection-sampled")
    harmless_base: ClassVar[Source] = hh_source("harmless-base")
    source: ClassVar[Source] = helpful_base
    decoding: ClassVar[Decoding | None] = None
    report: ClassVar[ReportCell | None] = None

    def samples(self, load: Loader) -> list[Sample]:
        sources = (self.helpful_base, self.helpful_online, self.helpful_rejection_sampled, self.harmless_base)
        found = []
        for group, source in zip(SETS, sources, strict=True):
            for place, row in enumerate(fetch(load, source)):
                pair = [text(source, place, row, key) for key in (CHOSEN, REJECTED)]
                parted = part(*pair)
                if parted is None:
                    raise bad(source, place, "the two conversations do not part at an answer of the assistant's")
                messages, chosen, rejected = parted
                if chosen != rejected and chosen and rejected:  # else there is nothing to prefer
                    fields = {"set": group, "messages": messages, CHOSEN: chosen, REJECTED: rejected}
                    found.append(Sample(id=f"preference/{group}/{place}", fields=fields, gold=CHOSEN, group=group))
        return found

    def prompt(self, sample: Sample) -> Prompt:
        return Chat(tuple((role, content) for role, content in sample.fields["messages"]))

    async def judge(self, sample: Sample, model: Model, sandbox: Sandbox) -> Verdict:
        answers = {name: str(sample.fields[name]) for name in (CHOSEN, REJECTED)}
        values = dict(zip(answers, await model.score(self.prompt(sample), list(answers.values())), strict=True))
        means = {name: values[name] / len(await model.pieces(answer)) for name, answer in answers.items()}
        return Verdict(
            answer=max(reversed(answers), key=lambda name: values[name]),  # of equals the rejected one
            outcome="correct" if values[CHOSEN] > values[REJECTED] else "wrong",
            scores={PER_TOKEN: float(means[CHOSEN] > means[REJECTED])},
            choice_logprobs=values,
        )


Message = tuple[Literal["user", "assistant"], str]


def part(chosen: str, rejected: str) -> tuple[list[Message], str, str] | None:
    """(What was said before, the preferred answer, the other one); None where they part at no answer.

    Where the conversations go on after their first difference, what follows belongs to the answer, word for word.
    """
    one, other = turns(chosen), turns(rejected)
    most = min(len(one), len(other)) - 1
    same = next((place for place in range(most) if one[place] != other[place]), max(most, 0))
    while same and not (one[same][0] == other[same][0] == "Assistant"):
        same -= 1
    if not same:
        return None
    before = [(ROLES[speaker], said.strip()) for speaker, said in one[:same]]
    return before, rest(one[same:]), rest(other[same:])


def turns(conversation: str) -> list[tuple[str, str]]:
    """(Speaker, what was said) of a text with a line "Human:" or "Assistant:" before each turn."""
    parts = re.split(r"\n\n(Human|Assistant):", conversation)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def rest(left: list[tuple[str, str]]) -> str:
    """The text of an answer and what follows it."""
    (_, answer), *more = left
    return "".join([answer, *(f"\n\n{speaker}:{said}" for speaker, said in more)]).strip()
