"""CMMLU: 5-shot with scored letters as the Qwen report's script does it, and 0-shot chat by C-Eval's protocol.

The mean over the 67 subjects' accuracies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from tasks.api import Row, Source
from tasks.ceval import chinese_letter
from tasks.choice import Choice, ChoiceChat, option_columns, subjects

CATEGORIES = {
    "stem": subjects(
        """anatomy astronomy college_actuarial_science college_engineering_hydrology college_mathematics
        college_medical_statistics computer_science conceptual_physics electrical_engineering
        elementary_mathematics genetics high_school_biology high_school_chemistry high_school_mathematics
        high_school_physics machine_learning virology"""
    ),
    "humanities": subjects(
        """arts chinese_history chinese_literature college_law global_facts international_law jurisprudence logical
        marxist_theory philosophy professional_law world_history world_religions"""
    ),
    "social sciences": subjects(
        """ancient_chinese business_ethics chinese_civil_service_exam chinese_food_culture chinese_foreign_policy
        chinese_teacher_qualification college_education economics education elementary_chinese ethnology
        high_school_geography high_school_politics journalism management marketing modern_chinese
        professional_accounting professional_psychology public_relations security_study sociology"""
    ),
    "other": subjects(
        """agronomy chinese_driving_rule clinical_knowledge college_medicine computer_security
        construction_project_management elementary_commonsense elementary_information_and_technology
        food_science human_sexuality legal_and_moral_basis nutrition professional_medicine sports_science
        traditional_chinese_medicine"""
    ),
}
CHINA_SPECIFIC = subjects(
    """ancient_chinese chinese_civil_service_exam chinese_driving_rule chinese_food_culture chinese_foreign_policy
    chinese_history chinese_literature chinese_teacher_qualification construction_project_management
    elementary_chinese elementary_commonsense ethnology high_school_politics modern_chinese
    traditional_chinese_medicine"""
)


def _source(split: str) -> Source:
    return Source(
        name=f"CMMLU {split}",
        files=(f"cmmlu/cmmlu_{split}.jsonl",),
        hub="haonan-li/cmmlu",
        configs=tuple(sorted(subject for group in CATEGORIES.values() for subject in group)),
        split=split,
        licence="CC BY-NC 4.0 (not for commercial use)",
    )


class CMMLU(Choice):
    """The same prompt as C-Eval's."""

    name: ClassVar[str] = "cmmlu"
    version: ClassVar[int] = 1
    title: ClassVar[str] = "CMMLU, 5-shot"
    source: ClassVar[Source] = _source("test")
    shots_source = _source("dev")
    mean: ClassVar[Literal["items", "groups"]] = "groups"
    categories = CATEGORIES
    sets: ClassVar[Mapping[str, tuple[str, ...]]] = {**CATEGORIES, "china specific": CHINA_SPECIFIC}
    question_mark, answer_mark = "问题：", "答案："

    def read(self, source: Source, item: int, row: Row) -> dict[str, Any]:
        return option_columns(source, item, row, "Question", "Answer")


class CMMLUChat(ChoiceChat, CMMLU):
    """No script of the report asks CMMLU of a chat model: prompt and rules are those of C-Eval's."""

    name = "cmmlu-chat"
    title = "CMMLU, 0-shot chat"
    gap = "\n\n"

    def extract(self, reply: str, fields: Row) -> tuple[str | None, str]:
        return chinese_letter(reply, fields)
