"""A round of self-instruct as a task of the harness, so that any backend writes it and every reply is kept at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

from tasks.api import Chat, Decoding, Kind, Loader, Model, Prompt, Sample, Sandbox, Source, Task, Verdict
from tasks.rows import fetch, text, value

PROMPTS = "prompts.jsonl"
WRITTEN = "written"


class Round(Task):
    """Prompts of one round; what is written waits for the filters."""

    name: ClassVar[str] = "self-instruct"
    version: ClassVar[int] = 1
    title: ClassVar[str] = "New conversations with tools (run by `qwen-train self-instruct`)"
    protocol: ClassVar[Literal["base", "chat"]] = "base"
    shots: ClassVar[int] = 0
    metric: ClassVar[str] = WRITTEN
    measures: ClassVar[Mapping[str, Kind]] = {WRITTEN: "share"}
    source: ClassVar[Source] = Source(name="prompts of a round", files=(PROMPTS,))
    # the next example, or a second question, is not asked for
    decoding: ClassVar[Decoding | None] = Decoding(stop=("\n###", "\nQuestion:"))

    def samples(self, load: Loader) -> list[Sample]:
        return [
            Sample(
                id=text(self.source, place, row, "id"),
                fields={name: value(self.source, place, row, name) for name in ("prompt", "chat", "max_tokens")},
                gold="",
            )
            for place, row in enumerate(fetch(load, self.source))
        ]

    def prompt(self, sample: Sample) -> Prompt:
        asked: str = sample.fields["prompt"]
        return Chat((("user", asked),)) if sample.fields["chat"] else asked

    async def judge(self, sample: Sample, model: Model, sandbox: Sandbox) -> Verdict:
        assert self.decoding is not None
        decoding = replace(self.decoding, max_tokens=sample.fields["max_tokens"])
        reply = await model.generate(self.prompt(sample), decoding)
        there = bool(reply.text.strip())
        return Verdict(answer=None, outcome="correct" if there else "unextracted", scores={WRITTEN: float(there)})
