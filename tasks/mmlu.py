"""MMLU as the Qwen report's scripts do it: 5-shot with scored letters for base models, 0-shot with a reply for chat."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, Literal

from tasks.api import (
    Chat,
    Decoding,
    Loader,
    Model,
    Prompt,
    ReportCell,
    Row,
    Sample,
    Sandbox,
    Source,
    Task,
    TaskError,
    Verdict,
)
from tasks.mmlu_data import CATEGORY, LETTERS, by_subject, mmlu_source
from tasks.rows import REMEDY

SYSTEM = "You are a helpful assistant."
RULES = {
    "answer is X": r"(?:(?:[Cc]hoose)|(?:(?:[Aa]nswer|[Cc]hoice)(?![^ABCD]{0,20}?(?:n't|not))[^ABCD]{0,10}?"
    r"\b(?:|is|:|be))\b)[^ABCD]{0,20}?\b(A|B|C|D)\b",
    "X is correct": r"\b(A|B|C|D)\b(?![^ABCD]{0,8}?(?:n't|not)[^ABCD]{0,5}?(?:correct|right))[^ABCD]{0,10}?"
    r"\b(?:correct|right)\b",
    "begins with X": r"^(A|B|C|D)(?:\.|,|:|$)",
    "first lone letter": r"(?<![a-zA-Z])(A|B|C|D)(?![a-zA-Z=])",
}


class MMLU(Task):
    """Five solved questions of the subject, then the question; the likeliest of the four letters is the answer."""

    name: ClassVar[str] = "mmlu"
    version: ClassVar[int] = 1
    title: ClassVar[str] = "MMLU, 5-shot"
    protocol: ClassVar[Literal["base", "chat"]] = "base"
    shots: ClassVar[int] = 5
    metric: ClassVar[str] = "accuracy"
    source: ClassVar[Source] = mmlu_source("test")
    shots_source: ClassVar[Source] = mmlu_source("dev")
    report: ClassVar[ReportCell | None] = ReportCell("table_2", "MMLU")

    def samples(self, load: Loader) -> list[Sample]:
        if self.shots:
            self.headers = headers(load, self.shots_source, self.shots)
        found = []
        for subject, rows in by_subject(load, self.source).items():
            if self.shots and subject not in self.headers:
                raise TaskError(f"{self.shots_source.name}: subject {subject} has no questions; {REMEDY}")
            for index, fields in enumerate(rows):
                fields |= {"subject": subject, "category": CATEGORY[subject]}
                gold = fields.pop("answer")
                found.append(Sample(id=f"mmlu/test/{subject}/{index}", fields=fields, gold=gold, group=subject))
        return found

    def prompt(self, sample: Sample) -> Prompt:
        return self.headers[sample.fields["subject"]] + question(sample.fields)

    async def judge(self, sample: Sample, model: Model, sandbox: Sandbox) -> Verdict:
        scores = await model.score(self.prompt(sample), [f" {letter}" for letter in LETTERS], window=2048)
        best = LETTERS[scores.index(max(scores))]  # the first of equals
        outcome = "correct" if best == sample.gold else "wrong"
        return Verdict(answer=best, outcome=outcome, choice_logprobs=dict(zip(LETTERS, scores, strict=True)))


class MMLUChat(MMLU):
    """The question with its options; the letter is read out of the reply by the released rules."""

    name = "mmlu-chat"
    title = "MMLU, 0-shot chat"
    protocol = "chat"
    shots = 0
    decoding: ClassVar[Decoding | None] = Decoding(max_tokens=512)
    report = ReportCell("table_5", "MMLU 0-shot")

    @classmethod
    def sources(cls) -> tuple[Source, ...]:
        return (cls.source,)

    def prompt(self, sample: Sample) -> Prompt:
        options = "".join(f"{x}. {option}\n" for x, option in zip(LETTERS, sample.fields["choices"], strict=True))
        asked = (
            "The following is a multiple-choice question. Please choose the most suitable one among A, B, C and D as "
            f"the answer to this question.\n\n{sample.fields['question']}\n{options}"
        )
        return Chat((("system", SYSTEM), ("user", asked)))

    async def judge(self, sample: Sample, model: Model, sandbox: Sandbox) -> Verdict:
        assert self.decoding is not None
        reply = await model.generate(self.prompt(sample), self.decoding)
        letter, rule = extract(reply.text, sample.fields["choices"])
        if letter is None:
            return Verdict(answer=None, outcome="unextracted")
        outcome = "correct" if letter == sample.gold else "wrong"
        return Verdict(answer=letter, outcome=outcome, detail={"extracted_by": rule})


def extract(reply: str, choices: Sequence[str]) -> tuple[str | None, str]:
    """The letter that a reply chooses, and the rule that found it."""
    reply = reply.strip()  # `model.chat` of the released checkpoints strips what it returns
    if not reply:
        return None, ""
    for letter, choice in sorted(zip(LETTERS, choices, strict=True), key=lambda pair: -len(pair[1])):
        reply = re.sub(re.escape(choice.rstrip(".")), letter, reply, flags=re.IGNORECASE)
    for rule, pattern in RULES.items():
        if match := re.search(pattern, reply):
            return match[1], rule
    from thefuzz import process

    return LETTERS[choices.index(process.extractOne(reply, choices)[0])], "nearest option"


def question(fields: Row) -> str:
    """A question up to where the answer's letter goes."""
    options = "".join(f"\n{x}. {option}" for x, option in zip(LETTERS, fields["choices"], strict=True))
    return f"Question: {fields['question']}{options}\nAnswer:"


def headers(load: Loader, source: Source, shots: int) -> dict[str, str]:
    """Each subject's few-shot header: its first solved questions of the dev set."""
    found = {}
    for subject, rows in by_subject(load, source).items():
        if len(rows) < shots:
            raise TaskError(f"{source.name}: subject {subject} has {len(rows)} questions, {shots} are needed; {REMEDY}")
        solved = "".join(f"{question(row)} {row['answer']}\n\n" for row in rows[:shots])
        words = subject.replace("_", " ")
        found[subject] = f"The following are multiple choice questions (with answers) about {words}.\n\n{solved}"
    return found
