"""Math23K's test set: Chinese school problems, 0-shot chat, the bare problem. The report states neither prompt nor
rule: both are ours, after its GSM8K chat script."""

from __future__ import annotations

from fractions import Fraction
from typing import ClassVar, Literal

from tasks.api import SYSTEM, Chat, Decoding, Loader, Model, Prompt, Sample, Sandbox, Source, Task, Verdict
from tasks.numbers import last_value
from tasks.rows import bad, fetch, text

TOLERANCE = Fraction(1, 10_000)


class Math23K(Task):
    """The last number, fraction or percentage of the reply is within 0.0001 of the answer."""

    name: ClassVar[str] = "math23k"
    version: ClassVar[int] = 2
    title: ClassVar[str] = "Math23K, 0-shot chat"
    protocol: ClassVar[Literal["base", "chat"]] = "chat"
    shots: ClassVar[int] = 0
    metric: ClassVar[str] = "accuracy"
    source: ClassVar[Source] = Source(
        name="Math23K test",
        files=("math23k/test.jsonl",),
        licence="none stated by its authors",
    )
    decoding: ClassVar[Decoding | None] = Decoding(max_tokens=512)

    def samples(self, load: Loader) -> list[Sample]:
        found = []
        for index, row in enumerate(fetch(load, self.source)):
            item, problem, gold = (text(self.source, index, row, key) for key in ("id", "original_text", "ans"))
            if last_value(gold) is None:
                raise bad(self.source, index, f"field 'ans' is {gold!r}, no number")
            found.append(Sample(id=f"math23k/{item}", fields={"problem": problem}, gold=gold))
        return found

    def prompt(self, sample: Sample) -> Prompt:
        return Chat((("system", SYSTEM), ("user", sample.fields["problem"])))

    async def judge(self, sample: Sample, model: Model, sandbox: Sandbox) -> Verdict:
        assert self.decoding is not None
        reply = await model.generate(self.prompt(sample), self.decoding)
        answer, gold = last_value(reply.text), last_value(sample.gold)
        assert gold is not None
        if answer is None:
            return Verdict(answer=None, outcome="unextracted")
        return Verdict(answer=str(answer), outcome="correct" if abs(answer - gold) <= TOLERANCE else "wrong")
