"""Math401: arithmetic, 0-shot chat, the bare expression. Right if the last number is within 0.001 of the target."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import ClassVar, Literal

from tasks.api import (
    SYSTEM,
    Chat,
    Decoding,
    Kind,
    Loader,
    Model,
    Prompt,
    Sample,
    Sandbox,
    Source,
    Task,
    TaskError,
    Verdict,
)
from tasks.numbers import last_number
from tasks.rows import REMEDY, bad, fetch, text

TOLERANCE = Decimal("0.001")
WORST_ERROR = Decimal(10)
EACH = 25
"""Items of a group; one item, Euler's equation, stands before the first group."""
GROUPS = (
    "add within 10",
    "add within 100",
    "add within 1,000",
    "add within 1,000,000,000,000",
    "add from -10 to 10",
    "add decimals",
    "multiply within 100",
    "multiply decimals",
    "multiply within 100,000",
    "divide within 100",
    "integer power",
    "decimal power",
    "irrational",
    "long expression",
    "trigonometry",
    "logarithm",
)
"""As published, in the file's order, which alone says what belongs to which; adding stands for subtracting too."""


class Math401(Task):
    """The measure `relative error` is the data set's own: at most 10, and 10 where there is no number."""

    name: ClassVar[str] = "math401"
    version: ClassVar[int] = 2
    title: ClassVar[str] = "Math401, 0-shot chat"
    protocol: ClassVar[Literal["base", "chat"]] = "chat"
    shots: ClassVar[int] = 0
    metric: ClassVar[str] = "accuracy"
    measures: ClassVar[Mapping[str, Kind]] = {"relative error": "mean"}
    source: ClassVar[Source] = Source(
        name="Math401",
        files=("math401/math401.jsonl", "math401.jsonl"),
        licence="none stated by its authors (github.com/GanjinZero/math401-llm)",
    )
    decoding: ClassVar[Decoding | None] = Decoding(max_tokens=512)

    def samples(self, load: Loader) -> list[Sample]:
        rows = fetch(load, self.source)
        if len(rows) != 1 + EACH * len(GROUPS):
            raise TaskError(f"{self.source.name}: {len(rows)} rows, not {1 + EACH * len(GROUPS)}; {REMEDY}")
        found = []
        for index, row in enumerate(rows):
            query, gold = (text(self.source, index, row, key) for key in ("query", "response"))
            if last_number(gold) is None:
                raise bad(self.source, index, f"field 'response' is {gold!r}, no number")
            group = GROUPS[(index - 1) // EACH] if index else "euler"
            found.append(Sample(id=f"math401/{index}", fields={"query": query, "kind": group}, gold=gold, group=group))
        return found

    def prompt(self, sample: Sample) -> Prompt:
        return Chat((("system", SYSTEM), ("user", sample.fields["query"])))

    async def judge(self, sample: Sample, model: Model, sandbox: Sandbox) -> Verdict:
        assert self.decoding is not None
        reply = await model.generate(self.prompt(sample), self.decoding)
        answer, gold = last_number(reply.text), last_number(sample.gold)
        assert gold is not None
        if answer is None:
            return Verdict(answer=None, outcome="unextracted", scores={"relative error": float(WORST_ERROR)})
        off = abs(answer - gold)
        return Verdict(
            answer=str(answer),
            outcome="correct" if off < TOLERANCE else "wrong",
            scores={"relative error": float(min(WORST_ERROR, off / max(abs(gold), Decimal(1))))},
        )
