"""MATH (Hendrycks et al., 2021): 4-shot by Minerva's prompt for base models, 0-shot for chat models.

Several rules judge every answer: OpenCompass's, which the report's number most likely used; Minerva's; and one of ours
that asks whether the answer is right. Problems with [asy] drawings are asked as text, as everybody does.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, Literal

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
)
from tasks.documents import file_header
from tasks.installed import lm_eval_rows
from tasks.math_data import LIGHTMAN, TEST, lightman_samples, test_samples
from tasks.math_equal import equal
from tasks.math_extract import final_answer
from tasks.math_strings import hendrycks_equal, minerva, minerva_answer, report_answer

SHOTS_PATH = "minerva_math/utils.py"
LONGEST_REPLY = 20_000
"""Characters, of which 512 tokens fill a tenth; of a longer text (from `harness score`) the end is read."""
ASK_CHAT = "{problem}\nPlease reason step by step, and put your final answer within \\boxed{{}}."


class MATH(Task):
    """Four worked problems, then the problem; the reply ends with "The final answer is ..."."""

    name: ClassVar[str] = "math"
    version: ClassVar[int] = 1
    title: ClassVar[str] = "MATH, 4-shot with Minerva's prompt (math-verify 0.9.0)"
    protocol: ClassVar[Literal["base", "chat"]] = "base"
    shots: ClassVar[int] = 4
    metric: ClassVar[str] = "accuracy"
    measures: ClassVar[dict[str, Kind]] = {"strict": "share", "minerva": "share", "robust": "share"}
    source: ClassVar[Source] = TEST[0]
    decoding: ClassVar[Decoding | None] = Decoding(max_tokens=512, stop=("Problem:",))
    report: ClassVar[ReportCell | None] = ReportCell("table_2", "MATH")
    takes: ClassVar[frozenset[str]] = frozenset({"shots_file"})

    header = ""

    @classmethod
    def sources(cls) -> tuple[Source, ...]:
        return TEST

    def samples(self, load: Loader) -> list[Sample]:
        if self.shots:
            self.header = self._header()
        return self.items(load)

    def items(self, load: Loader) -> list[Sample]:
        return test_samples(load)

    def _header(self) -> str:
        if self.options.shots_file is not None:
            return file_header(self.options.shots_file)
        return "".join(f"{ask(shot['problem'])} {shot['solution']}\n\n" for shot in installed_shots())

    def prompt(self, sample: Sample) -> Prompt:
        return self.header + ask(sample.fields["problem"])

    async def judge(self, sample: Sample, model: Model, sandbox: Sandbox) -> Verdict:
        assert self.decoding is not None
        reply = await model.generate(self.prompt(sample), self.decoding)
        return await asyncio.to_thread(self.verdict, reply.text, sample.gold)

    def verdict(self, reply: str, gold: str) -> Verdict:
        """By the report's rule, with the other rules as measures."""
        reply = reply[-LONGEST_REPLY:]
        answer, report = final_answer(reply), report_answer(reply)
        right = hendrycks_equal(report, gold)
        scores, detail = rules(answer, minerva_answer(reply), gold)
        outcome = "correct" if right else "unextracted" if answer is None else "wrong"
        return Verdict(answer=answer, outcome=outcome, scores=scores, detail={"report_answer": report, **detail})


class MATH500(MATH):
    """The 500 test problems of Lightman et al. under the same protocol."""

    name = "math500"
    title = "MATH-500, 4-shot with Minerva's prompt (math-verify 0.9.0)"
    source = LIGHTMAN
    report = None

    @classmethod
    def sources(cls) -> tuple[Source, ...]:
        return (LIGHTMAN, *TEST)

    def items(self, load: Loader) -> list[Sample]:
        return lightman_samples(load)


class MATH500Chat(MATH500):
    """The problem and a request for a boxed answer; right is what equals the gold answer by the robust rule."""

    name = "math500-chat"
    title = "MATH-500, 0-shot chat (math-verify 0.9.0)"
    protocol = "chat"
    shots = 0
    decoding = Decoding(max_tokens=512)
    takes = frozenset()

    def prompt(self, sample: Sample) -> Prompt:
        return Chat((("system", SYSTEM), ("user", ASK_CHAT.format(problem=sample.fields["problem"]))))

    def verdict(self, reply: str, gold: str) -> Verdict:
        reply = reply[-LONGEST_REPLY:]
        answer = final_answer(reply)
        scores, detail = rules(answer, minerva(answer or ""), gold)
        outcome = "correct" if scores["robust"] else "unextracted" if answer is None else "wrong"
        return Verdict(answer=answer, outcome=outcome, scores=scores, detail=detail)


def rules(answer: str | None, normalised: str | None, gold: str) -> tuple[dict[str, float], dict[str, Any]]:
    """(scores of the rules, how the robust one decided); `normalised` is the answer by Minerva's normalisation.

    Raises TaskError if no process that compares answers can be started.
    """
    if answer is None:
        return {"strict": 0.0, "minerva": 0.0, "robust": 0.0}, {}
    decision = equal(gold, answer)
    scores = {
        "strict": hendrycks_equal(answer, gold),
        "minerva": normalised == minerva(gold),
        "robust": decision.equal,
    }
    said = {} if decision.algebra is None else {"algebra": decision.algebra}
    return {name: float(score) for name, score in scores.items()}, {"decided_by": decision.layer, **said}


def ask(problem: str) -> str:
    """A problem as Minerva's prompt words it."""
    return f"Problem:\n{problem}\n\nSolution:"


def installed_shots() -> list[dict[str, str]]:
    """Minerva's four as the installed lm-eval carries them."""
    remedy = "reinstall lm-eval, or give the examples with --shots-file"
    path, found = lm_eval_rows("math", SHOTS_PATH, ("problem", "solution"), remedy)
    complete = [shot for shot in found if shot["problem"] and shot["solution"]]
    if len(complete) != MATH.shots:
        raise TaskError(f"math: {path} has {len(complete)} usable examples, not {MATH.shots}; {remedy}")
    return complete
