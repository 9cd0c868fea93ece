"""BBH, 3-shot with worked steps, by the OpenCompass configurations that the Qwen report most likely used:
bbh_gen_5bf00b for base models, 5b92b0 for chat. The mean over the 27 tasks' accuracies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Literal

from tasks.api import (
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
from tasks.choice import subjects
from tasks.installed import REMEDY, lm_eval_file, unexpected
from tasks.rows import bad, fetch, text

LETTERED = subjects(
    """date_understanding disambiguation_qa geometric_shapes hyperbaton logical_deduction_five_objects
    logical_deduction_seven_objects logical_deduction_three_objects movie_recommendation penguins_in_a_table
    reasoning_about_colored_objects ruin_names salient_translation_error_detection snarks temporal_sequences
    tracking_shuffled_objects_five_objects tracking_shuffled_objects_seven_objects
    tracking_shuffled_objects_three_objects"""
)
"""Tasks whose answer is the letter of an option."""
FREE = subjects(
    """boolean_expressions causal_judgement dyck_languages formal_fallacies multistep_arithmetic_two navigate
    object_counting sports_understanding web_of_lies word_sorting"""
)
SUBJECTS = tuple(sorted(LETTERED + FREE))
INSTRUCTION = "Follow the given examples and answer the question.\n"
STEPS = "Let's think step by step."
SAME_LINE = ("sports_understanding",)
"""Tasks whose published examples go on in the line of STEPS."""
MARK = "answer is "


def _source(subject: str) -> Source:
    return Source(
        name=f"BBH {subject}",
        files=(f"bbh/{subject}.jsonl",),
        hub="lukaemon/bbh",
        config=subject,
        split="test",
        licence="MIT",
    )


class BBH(Task):
    """Three worked examples, then the question; what follows "answer is " is the answer.

    The measure `lenient` reads the whole reply where those words are missing, as OpenCompass does, and overlooks
    bold type.
    """

    name: ClassVar[str] = "bbh"
    version: ClassVar[int] = 1
    title: ClassVar[str] = "BBH, 3-shot with worked steps"
    protocol: ClassVar[Literal["base", "chat"]] = "base"
    shots: ClassVar[int] = 3
    metric: ClassVar[str] = "accuracy"
    measures: ClassVar[Mapping[str, Kind]] = {"lenient": "share"}
    mean: ClassVar[Literal["items", "groups"]] = "groups"
    sets: ClassVar[Mapping[str, tuple[str, ...]]] = {"multiple choice": LETTERED, "free form": FREE}
    source: ClassVar[Source] = _source(SUBJECTS[0])
    others: ClassVar[tuple[Source, ...]] = tuple(_source(subject) for subject in SUBJECTS[1:])
    # the script has no stop string and reads the first answer: what a base model goes on with would not count
    decoding: ClassVar[Decoding | None] = Decoding(max_tokens=512, stop=("\n\nQ:",))
    report: ClassVar[ReportCell | None] = ReportCell("table_2", "BBH")
    ending: ClassVar[str] = " "
    """What stands behind the last "A:"."""

    @classmethod
    def sources(cls) -> tuple[Source, ...]:
        return (cls.source, *cls.others)

    def samples(self, load: Loader) -> list[Sample]:
        self.headers = {subject: header(subject) for subject in SUBJECTS}
        found = []
        for subject, source in zip(SUBJECTS, self.sources(), strict=True):
            for index, row in enumerate(fetch(load, source)):
                asked, gold = (text(source, index, row, key) for key in ("input", "target"))
                if not gold.strip():
                    raise bad(source, index, "field 'target' is empty")
                fields = {"input": asked, "task": subject}
                found.append(Sample(id=f"bbh/{subject}/{index}", fields=fields, gold=gold, group=subject))
        return found

    def text(self, sample: Sample) -> str:
        """The whole prompt."""
        header = self.headers[sample.fields["task"]]
        return f"{INSTRUCTION}{header}\n\nQ: {sample.fields['input']}\nA:{self.ending}"

    def prompt(self, sample: Sample) -> Prompt:
        return self.text(sample)

    async def judge(self, sample: Sample, model: Model, sandbox: Sandbox) -> Verdict:
        assert self.decoding is not None
        reply = (await model.generate(self.prompt(sample), self.decoding)).text
        lettered = sample.fields["task"] in LETTERED
        gold = answer_in(sample.gold, lettered)
        before, *after = reply.split(MARK)
        answer = answer_in(after[0], lettered) if after else ""
        loose = answer_in((after[0] if after else before).replace("*", ""), lettered)
        outcome = "unextracted" if not answer else "correct" if answer == gold else "wrong"
        return Verdict(answer=answer or None, outcome=outcome, scores={"lenient": float(loose == gold)})


class BBHChat(BBH):
    """The same examples and question as one user turn, which begins the steps."""

    name = "bbh-chat"
    title = "BBH, 3-shot chat"
    protocol = "chat"
    decoding = Decoding(max_tokens=512)
    report = ReportCell("table_5", "BBH 3-shot")
    ending = f" {STEPS}"

    def prompt(self, sample: Sample) -> Prompt:
        return Chat((("user", self.text(sample)),))


def answer_in(said: str, lettered: bool) -> str:
    """The answer out of what follows "answer is ": the first letter in brackets, or else the first capital, of a task
    with options; the first line, without its final dot, of another."""
    said = said.strip()
    if lettered and (match := re.search(r"\(([A-Z])\)", said) or re.search(r"([A-Z])", said)):
        return match[1]
    return said.partition("\n")[0].strip().removesuffix(".").strip()


def header(subject: str) -> str:
    """A task's description and its three worked examples, as lm-eval carries them, put as they were published."""
    path, content = lm_eval_file("bbh", f"bbh/cot_fewshot/{subject}.yaml")
    import yaml

    try:
        about = yaml.safe_load(content)
        description = about["description"].strip()
        worked = [(shot["input"].strip(), shot["target"].strip()) for shot in about["fewshot_config"]["samples"]]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise unexpected("bbh", path, error) from None
    if len(worked) != BBH.shots or not all(MARK in steps for _, steps in worked):
        raise TaskError(f"bbh: {path} has {len(worked)} examples, not {BBH.shots} with an answer; {REMEDY}")
    between = " " if subject in SAME_LINE else "\n"
    return "\n\n".join([description, *(f"Q: {asked}\nA: {STEPS}{between}{steps}" for asked, steps in worked)])
