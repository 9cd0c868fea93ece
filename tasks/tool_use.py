"""Tool use with unseen tools by ReAct: the benchmark of the Qwen report's Table 6, on the user's own copy of its data.

A positive item needs a tool, a negative one none. Only the first step of the first reply counts, as in the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from tasks.api import (
    SYSTEM,
    Chat,
    Decoding,
    Kind,
    Loader,
    Model,
    Prompt,
    ReportCell,
    Sample,
    Sandbox,
    Source,
    Task,
    Verdict,
)
from tasks.react import calls, first_call
from tasks.rouge import rouge_l
from tasks.rows import bad, fetch, text

SELECTION, INPUT, FALSE_POSITIVE = "tool selection", "tool input", "false positive error"
"""The input's Rouge-L is times 100, as in the report's table."""
POSITIVE, NEGATIVE = "positive", "negative"


def exam_source(kind: str) -> Source:
    name = f"exam_plugin_v1_react_{kind}.jsonl"
    return Source(
        name=f"tool-use benchmark of the report, {kind}",
        files=(f"exam_plugin_v1/{name}", name, f"exam_plugin_v1/*{kind}*.jsonl"),
        licence="see its download page; it cannot be fetched from here",
    )


class ToolUse(Task):
    """Tool selection and Rouge-L of the arguments over positive items, calls without need over negative ones."""

    name: ClassVar[str] = "tool-use"
    version: ClassVar[int] = 1
    title: ClassVar[str] = "Tool use by ReAct, the report's items"
    protocol: ClassVar[Literal["base", "chat"]] = "chat"
    shots: ClassVar[int] = 0
    metric: ClassVar[str] = SELECTION
    measures: ClassVar[Mapping[str, Kind]] = {SELECTION: "share", INPUT: "mean", FALSE_POSITIVE: "share"}
    positive: ClassVar[Source] = exam_source(POSITIVE)
    negative: ClassVar[Source] = exam_source(NEGATIVE)
    source: ClassVar[Source] = positive
    # No stop word, as in the script: what a model observes by itself comes after the first step and does not count.
    decoding: ClassVar[Decoding | None] = Decoding(max_tokens=512)
    report: ClassVar[ReportCell | None] = ReportCell("table_6", "Tool Selection")

    def samples(self, load: Loader) -> list[Sample]:
        found = []
        for kind, source in ((POSITIVE, self.positive), (NEGATIVE, self.negative)):
            for index, row in enumerate(fetch(load, source)):
                fields = {"kind": kind, "prompt": text(source, index, row, "prompt")}
                gold = row.get("response") or ""
                if not isinstance(gold, str):
                    raise bad(source, index, f"field 'response' is {type(gold).__name__}, not text")
                if kind == POSITIVE and not first_call(gold).action:
                    raise bad(source, index, "field 'response' calls no tool ('Action:' and 'Action Input:')")
                found.append(Sample(id=f"{self.name}/{kind}/{index}", fields=fields, gold=gold, group=kind))
        return found

    def prompt(self, sample: Sample) -> Prompt:
        return Chat((("system", SYSTEM), ("user", sample.fields["prompt"])))

    async def judge(self, sample: Sample, model: Model, sandbox: Sandbox) -> Verdict:
        assert self.decoding is not None
        reply = await model.generate(self.prompt(sample), self.decoding)
        text = reply.text.strip()  # `model.chat` of the released checkpoints strips what it returns
        called = first_call(text)
        answer = called.action if calls(text) else None
        if sample.fields["kind"] == NEGATIVE:
            outcome = "correct" if answer is None else "wrong"
            return Verdict(answer=answer, outcome=outcome, scores={FALSE_POSITIVE: float(answer is not None)})
        wanted = first_call(sample.gold)
        right = answer is not None and answer.lower() == wanted.action.lower()
        pieces = [" ".join(await model.pieces(one.arguments)).split() for one in (wanted, called)]
        return Verdict(
            answer=answer,
            outcome="correct" if right else "unextracted" if answer is None else "wrong",
            scores={SELECTION: float(right), INPUT: 100 * rouge_l(*pieces)},
            detail={"arguments": called.arguments, "wanted": wanted.arguments},
        )
