"""C-Eval's validation set as the Qwen report's scripts do it: 5-shot with scored letters, and 0-shot chat.

The mean over the 52 subjects' accuracies. How a letter is read out of a Chinese reply follows the script's steps in
their order; the expressions are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from tasks.api import ReportCell, Row, Source
from tasks.choice import Choice, ChoiceChat, by_rules, lettered, option_columns, subjects

CATEGORIES = {
    "stem": subjects(
        """advanced_mathematics college_chemistry college_physics college_programming computer_architecture
        computer_network discrete_mathematics electrical_engineer high_school_biology high_school_chemistry
        high_school_mathematics high_school_physics metrology_engineer middle_school_biology middle_school_chemistry
        middle_school_mathematics middle_school_physics operating_system probability_and_statistics
        veterinary_medicine"""
    ),
    "social sciences": subjects(
        """business_administration college_economics education_science high_school_geography high_school_politics
        mao_zedong_thought marxism middle_school_geography middle_school_politics teacher_qualification"""
    ),
    "humanities": subjects(
        """art_studies chinese_language_and_literature high_school_chinese high_school_history
        ideological_and_moral_cultivation law legal_professional logic middle_school_history modern_chinese_history
        professional_tour_guide"""
    ),
    "other": subjects(
        """accountant basic_medicine civil_servant clinical_medicine environmental_impact_assessment_engineer
        fire_engineer physician plant_protection sports_science tax_accountant urban_and_rural_planner"""
    ),
}
HARD = subjects(
    """advanced_mathematics discrete_mathematics probability_and_statistics college_physics college_chemistry
    high_school_mathematics high_school_physics high_school_chemistry"""
)
LONE = r"(?<![A-Za-z])([A-D])(?![A-Za-z])"
DENIED = "[不非没无错]"
RULES = {
    "answer is X": rf"(?:(?<![不非])(?<!不能)(?<!不应)(?<!不可)选(?:择|定|取)?(?!项)|答案(?![^A-D]{{0,10}}{DENIED})"
    rf"|选项(?![^A-D]{{0,10}}{DENIED})[^A-D]{{0,10}}?[是为：:】])[^A-D。\n]{{0,10}}?{LONE}(?:选?项)?"
    r"(?=[\s).,:;*，。．、；：）】]|$)",
    "X is correct": rf"{LONE}(?:选?项)?(?![^A-D]{{0,6}}?{DENIED})[^A-D]{{0,6}}?(?:正确|符合|对(?![于应称象比立]))",
    "begins with X": r"^([A-D])(?:[\s.．。,，、:：)）]|$)",
    "first lone letter": r"(?<![A-Za-z])([A-D])(?![A-Za-z=])",
}
TAIL = 4
"""Characters that a piece of the question must have more of, to be looked for in the reply."""


def _source(split: str) -> Source:
    return Source(
        name=f"C-Eval {split}",
        files=(f"ceval/ceval_{split}.jsonl",),
        hub="ceval/ceval-exam",
        configs=tuple(sorted(subject for group in CATEGORIES.values() for subject in group)),
        split=split,
        licence="CC BY-NC-SA 4.0 (not for commercial use)",
    )


class CEval(Choice):
    """C-Eval's validation set, which has public answers."""

    name: ClassVar[str] = "ceval"
    version: ClassVar[int] = 1
    title: ClassVar[str] = "C-Eval validation, 5-shot"
    source: ClassVar[Source] = _source("val")
    shots_source = _source("dev")
    report: ClassVar[ReportCell | None] = ReportCell("table_2", "C-Eval")
    mean: ClassVar[Literal["items", "groups"]] = "groups"
    categories = CATEGORIES
    sets: ClassVar[Mapping[str, tuple[str, ...]]] = {**CATEGORIES, "hard": HARD}
    question_mark, answer_mark = "问题：", "答案："

    def read(self, source: Source, item: int, row: Row) -> dict[str, Any]:
        return option_columns(source, item, row, "question", "answer")


class CEvalChat(ChoiceChat, CEval):
    """The question, a blank line, the options; the letter is read out of the reply."""

    name = "ceval-chat"
    title = "C-Eval validation, 0-shot chat"
    report = ReportCell("table_5", "C-Eval 0-shot")
    gap = "\n\n"

    def extract(self, reply: str, fields: Row) -> tuple[str | None, str]:
        return chinese_letter(reply, fields)


def chinese_letter(reply: str, fields: Row) -> tuple[str | None, str]:
    """The letter that a reply chooses, and the rule that found it.

    A reply that repeats the question's last sentence with its blank filled in is an answer too: what stands before the
    blank counts as 答案是, what stands behind it is dropped.
    """
    if not reply:
        return None, ""
    pieces = fields["question"].rstrip("。").rpartition("。")[2].split("_")
    if len(pieces[0].strip()) > TAIL:
        reply = reply.replace(pieces[0], "答案是")
    if len(pieces[-1].strip()) > TAIL:
        reply = reply.replace(pieces[-1], "")
    choices = [choice.strip() for choice in fields["choices"]]
    return by_rules(lettered(reply, choices, "。"), choices, RULES)
