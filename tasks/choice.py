"""What MMLU, C-Eval and CMMLU share: five solved questions and scored letters for base models, a letter read out of a
reply for chat models. A benchmark adds its subjects, its wording, its rows and its rules."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from tasks.api import (
    SYSTEM,
    Chat,
    Decoding,
    Kind,
    Loader,
    Model,
    Prompt,
    Row,
    Sample,
    Sandbox,
    Source,
    Task,
    TaskError,
    Verdict,
)
from tasks.rows import REMEDY, bad, fetch, text

LETTERS = "ABCD"


class Choice(Task):
    """Five solved questions of the subject, then the question; the likeliest of the four letters is the answer.

    The measure `log-likelihood` is lm-eval's rule: the likeliest letter after a space.
    """

    protocol: ClassVar[Literal["base", "chat"]] = "base"
    shots: ClassVar[int] = 5
    metric: ClassVar[str] = "accuracy"
    measures: ClassVar[Mapping[str, Kind]] = {"log-likelihood": "share"}
    takes: ClassVar[frozenset[str]] = frozenset({"shots"})
    shots_source: ClassVar[Source]
    categories: ClassVar[Mapping[str, tuple[str, ...]]]
    """The subjects by category: each is in one."""
    question_mark: ClassVar[str]
    """In front of a question."""
    answer_mark: ClassVar[str]
    """In front of the answer's letter."""
    space: ClassVar[str] = ""
    """Between the answer's mark and the letter."""
    window: ClassVar[int | None] = None

    def samples(self, load: Loader) -> list[Sample]:
        category = {subject: name for name, subjects in self.categories.items() for subject in subjects}
        headers = self._headers(load) if self.shots else {}
        prefix = f"{self.name.removesuffix('-chat')}/{self.source.split}"
        found = []
        for subject, rows in self._by_subject(load, self.source).items():
            if self.shots and subject not in headers:
                raise TaskError(f"{self.shots_source.name}: subject {subject} has no questions; {REMEDY}")
            for index, fields in enumerate(rows):
                fields |= {"subject": subject, "category": category[subject]}
                gold = fields.pop("answer")
                found.append(Sample(id=f"{prefix}/{subject}/{index}", fields=fields, gold=gold, group=subject))
        self.headers = headers
        return found

    def header(self, subject: str) -> str:
        """What stands before the solved questions."""
        return ""

    @abstractmethod
    def read(self, source: Source, item: int, row: Row) -> dict[str, Any]:
        """A row's `question`, `choices` (four texts) and `answer` (a letter). Raises TaskError."""

    def question(self, fields: Row) -> str:
        """A question up to where the answer's letter goes."""
        options = "".join(f"\n{x}. {option}" for x, option in zip(LETTERS, fields["choices"], strict=True))
        return f"{self.question_mark}{fields['question']}{options}\n{self.answer_mark}"

    def prompt(self, sample: Sample) -> Prompt:
        subject = sample.fields["subject"]
        return (self.headers[subject] if self.shots else self.header(subject)) + self.question(sample.fields)

    async def judge(self, sample: Sample, model: Model, sandbox: Sandbox) -> Verdict:
        # every letter is one token, so that all of them are read off the same logits: one spelling more costs nothing
        spaces = list(dict.fromkeys((self.space, " ")))
        pieces = [space + letter for space in spaces for letter in LETTERS]
        scores = dict(zip(pieces, await model.score(self.prompt(sample), pieces, window=self.window), strict=True))
        likeliest = {s: max(LETTERS, key=lambda letter: scores[s + letter]) for s in spaces}  # the first of equals
        answer = likeliest[self.space]
        return Verdict(
            answer=answer,
            outcome="correct" if answer == sample.gold else "wrong",
            choice_logprobs={letter: scores[self.space + letter] for letter in LETTERS},
            scores={"log-likelihood": float(likeliest[" "] == sample.gold)},
        )

    def _headers(self, load: Loader) -> dict[str, str]:
        """Each subject's few-shot header: its first solved questions of the dev set."""
        found = {}
        for subject, rows in self._by_subject(load, self.shots_source).items():
            if len(rows) < self.shots:
                raise TaskError(
                    f"{self.shots_source.name}: subject {subject} has {len(rows)} questions, {self.shots} are needed; "
                    f"{REMEDY}"
                )
            solved = "".join(f"{self.question(row)}{self.space}{row['answer']}\n\n" for row in rows[: self.shots])
            found[subject] = self.header(subject) + solved
        return found

    def _by_subject(self, load: Loader, source: Source) -> dict[str, list[dict[str, Any]]]:
        """The checked rows of every subject, subjects in alphabetical order, rows in the data set's."""
        known = {subject for subjects in self.categories.values() for subject in subjects}
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for item, row in enumerate(fetch(load, source)):
            subject = text(source, item, row, "subject")
            if subject not in known:
                raise bad(source, item, f"field 'subject' is {subject!r}, none of the {len(known)} subjects")
            found[subject].append(self.read(source, item, row))
        return dict(sorted(found.items()))


class ChoiceChat(Choice):
    """The question with its options; the letter is read out of the reply."""

    protocol = "chat"
    shots = 0
    measures: ClassVar[Mapping[str, Kind]] = {}
    takes: ClassVar[frozenset[str]] = frozenset()
    decoding: ClassVar[Decoding | None] = Decoding(max_tokens=512)
    introduction: ClassVar[str] = ""
    """Before the question."""
    gap: ClassVar[str] = "\n"
    """Between the question and its options."""

    @classmethod
    def sources(cls) -> tuple[Source, ...]:
        return (cls.source,)

    def prompt(self, sample: Sample) -> Prompt:
        options = "".join(f"{x}. {option}\n" for x, option in zip(LETTERS, sample.fields["choices"], strict=True))
        asked = f"{self.introduction}{sample.fields['question']}{self.gap}{options}"
        return Chat((("system", SYSTEM), ("user", asked)))

    @abstractmethod
    def extract(self, reply: str, fields: Row) -> tuple[str | None, str]:
        """The letter that a reply chooses, and the rule that found it."""

    async def judge(self, sample: Sample, model: Model, sandbox: Sandbox) -> Verdict:
        assert self.decoding is not None
        reply = await model.generate(self.prompt(sample), self.decoding)
        # `model.chat` of the released checkpoints strips what it returns
        letter, rule = self.extract(reply.text.strip(), sample.fields)
        if letter is None:
            return Verdict(answer=None, outcome="unextracted")
        outcome = "correct" if letter == sample.gold else "wrong"
        return Verdict(answer=letter, outcome=outcome, detail={"extracted_by": rule})


def subjects(words: str) -> tuple[str, ...]:
    """Names of subjects, out of one text."""
    return tuple(words.split())


def option_columns(source: Source, item: int, row: Row, question: str, answer: str) -> dict[str, Any]:
    """A row with its options in the columns A to D and a letter as the answer."""
    letter = text(source, item, row, answer)
    if len(letter) != 1 or letter not in LETTERS:
        raise bad(source, item, f"field {answer!r} is {letter!r}, not a letter from A to D")
    choices = [text(source, item, row, option) for option in LETTERS]
    return {"question": text(source, item, row, question), "choices": choices, "answer": letter}


def lettered(reply: str, choices: Sequence[str], full_stop: str, flags: re.RegexFlag = re.NOFLAG) -> str:
    """The reply with every option's text, without its final full stops, replaced by its letter: longest first."""
    for letter, choice in sorted(zip(LETTERS, choices, strict=True), key=lambda pair: -len(pair[1])):
        if wanted := choice.rstrip(full_stop):
            reply = re.sub(re.escape(wanted), letter, reply, flags=flags)
    return reply


def by_rules(reply: str, choices: Sequence[str], rules: Mapping[str, str]) -> tuple[str, str]:
    """The letter found by the first rule that matches, else the letter of the option most like the reply."""
    for rule, pattern in rules.items():
        if match := re.search(pattern, reply):
            return match[1], rule
    from thefuzz import process

    return LETTERS[choices.index(process.extractOne(reply, choices)[0])], "nearest option"
