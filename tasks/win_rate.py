"""Answers to open questions, and a model that says which of two is better, as people do for the report's Figure 4.

`win-rate` has a model answer the questions; `harness win-rate` compares the answers with another model's and runs
`win-rate-judge` for it. Several opponents at once and the judging of longer conversations are not here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from tasks.api import (
    SYSTEM,
    Chat,
    Decoding,
    Installed,
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
from tasks.rows import fetch, text

ANSWERED, WIN, TIE, LOSS = "answered", "win", "tie", "loss"
JUDGE = """\
Compare two answers to the same request. Judge how helpful, right and complete they are, and how well they are \
written in the language of the request. Neither their order nor their length counts by itself. First give your \
reasons in a few sentences. Then end with one line: "Verdict: 1" if the first answer is better, "Verdict: 2" if the \
second one is, or "Verdict: tie" if they are equally good.

[Request]
{prompt}
[End of the request]

[Answer 1]
{first}
[End of answer 1]

[Answer 2]
{second}
[End of answer 2]"""


class WinRate(Task):
    """Answers to open questions. Nothing is right or wrong here: the answers wait for a judge."""

    name: ClassVar[str] = "win-rate"
    version: ClassVar[int] = 1
    title: ClassVar[str] = "Open questions, to be compared with another model's answers"
    protocol: ClassVar[Literal["base", "chat"]] = "chat"
    shots: ClassVar[int] = 0
    metric: ClassVar[str] = ANSWERED
    measures: ClassVar[Mapping[str, Kind]] = {ANSWERED: "share"}
    source: ClassVar[Source] = Source(
        name="win-rate questions",
        files=("win_rate/prompts.jsonl", "win_rate.jsonl"),
        installed=Installed(package="tasks", path="data/win_rate.jsonl"),
        licence="Apache-2.0 (our own questions)",
    )
    decoding: ClassVar[Decoding | None] = Decoding(max_tokens=1024)
    report: ClassVar[ReportCell | None] = None

    def samples(self, load: Loader) -> list[Sample]:
        found = []
        for place, row in enumerate(fetch(load, self.source)):
            item, prompt, category = (text(self.source, place, row, key) for key in ("id", "prompt", "category"))
            fields = {"prompt": prompt, "category": category}
            found.append(Sample(id=item, fields=fields, gold="", group=category))
        return found

    def prompt(self, sample: Sample) -> Prompt:
        return Chat((("system", SYSTEM), ("user", sample.fields["prompt"])))

    async def judge(self, sample: Sample, model: Model, sandbox: Sandbox) -> Verdict:
        assert self.decoding is not None
        answer = (await model.generate(self.prompt(sample), self.decoding)).text.strip()
        outcome = "correct" if answer else "unextracted"
        return Verdict(answer=answer or None, outcome=outcome, scores={ANSWERED: float(bool(answer))})


class WinRateJudge(Task):
    """Both orders of two answers are judged. Verdicts that contradict each other are a tie."""

    name: ClassVar[str] = "win-rate-judge"
    version: ClassVar[int] = 1
    title: ClassVar[str] = "Which of two answers is better (run by `harness win-rate`)"
    protocol: ClassVar[Literal["base", "chat"]] = "chat"
    shots: ClassVar[int] = 0
    metric: ClassVar[str] = WIN
    measures: ClassVar[Mapping[str, Kind]] = {WIN: "share", TIE: "share", LOSS: "share"}
    source: ClassVar[Source] = Source(name="pairs of answers", files=("win_rate/pairs.jsonl",))
    decoding: ClassVar[Decoding | None] = Decoding(max_tokens=512)
    report: ClassVar[ReportCell | None] = None

    def samples(self, load: Loader) -> list[Sample]:
        found = []
        for place, row in enumerate(fetch(load, self.source)):
            names = ("id", "category", "prompt", "answer", "opponent")
            fields = {name: text(self.source, place, row, name) for name in names}
            found.append(Sample(id=fields["id"], fields=fields, gold="", group=fields["category"]))
        return found

    def prompt(self, sample: Sample) -> Prompt:
        return self.asked(sample.fields, swapped=False)

    def asked(self, fields: Mapping[str, Any], *, swapped: bool) -> Prompt:
        first, second = ("opponent", "answer") if swapped else ("answer", "opponent")
        # one pass over the template: an answer may itself hold braces
        parts = {"prompt": fields["prompt"], "first": fields[first], "second": fields[second]}
        return Chat((("system", SYSTEM), ("user", JUDGE.format_map(parts))))

    async def judge(self, sample: Sample, model: Model, sandbox: Sandbox) -> Verdict:
        assert self.decoding is not None
        said = [
            (await model.generate(self.asked(sample.fields, swapped=swapped), self.decoding)).text
            for swapped in (False, True)
        ]
        verdicts = [read(said[0]), turned(read(said[1]))]
        detail = {"reasons": said, "verdicts": verdicts}
        if None in verdicts:
            return Verdict(answer=None, outcome="unextracted", detail=detail)
        verdict = verdicts[0] if verdicts[0] == verdicts[1] else TIE
        return Verdict(
            answer=verdict,
            outcome="correct" if verdict == WIN else "wrong",
            scores={name: float(name == verdict) for name in (WIN, TIE, LOSS)},
            detail=detail,
        )


class WinRateReward(WinRateJudge):
    """A reward model judges: the answer with the higher reward wins."""

    name: ClassVar[str] = "win-rate-reward"
    version: ClassVar[int] = 1
    title: ClassVar[str] = "Two answers compared, by a reward model"
    decoding: ClassVar[Decoding | None] = None

    def prompt(self, sample: Sample) -> Prompt:
        return Chat((("user", str(sample.fields["prompt"])),))

    async def judge(self, sample: Sample, model: Model, sandbox: Sandbox) -> Verdict:
        names = ("answer", "opponent")
        texts = [str(sample.fields[name]) for name in names]
        rewards = dict(zip(names, await model.score(self.prompt(sample), texts), strict=True))
        ours, theirs = rewards.values()
        verdict = TIE if ours == theirs else WIN if ours > theirs else LOSS
        return Verdict(
            answer=verdict,
            outcome="correct" if verdict == WIN else "wrong",
            scores={name: float(name == verdict) for name in (WIN, TIE, LOSS)},
            choice_logprobs=rewards,
        )


def read(reply: str) -> str | None:
    """The last verdict of a reply, of its first answer: win, tie or loss; None where there is none."""
    found = re.findall(r"verdict\W{1,5}(1|2|tie)\b", reply, re.IGNORECASE)
    return {"1": WIN, "2": LOSS, "tie": TIE}[found[-1].lower()] if found else None


def turned(verdict: str | None) -> str | None:
    """A verdict seen from the other side."""
    return None if verdict is None else {WIN: LOSS, LOSS: WIN}.get(verdict, verdict)
