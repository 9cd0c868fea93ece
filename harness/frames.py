"""`harness export --format parquet|csv`: all samples of a run as one table, for notebooks and other programs.

The fields of `harness.records.SampleRecord`, one row per sample in the order of tasks and data, and a column for each
score. What has no column type of its own (choice_logprobs, token_logprobs, detail) is JSON text. The record of requests
(`asked`) stays in the run folder.
"""

from __future__ import annotations

import csv
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.records import JSON_COLUMNS, Run, RunError, SampleRecord, canonical, replacing

if TYPE_CHECKING:
    import pandas

NOTHING = "<NA>"
"""What stands in CSV where there is no value, and not in any text: pandas reads it as missing."""
TEXTS = ("task", "id", "group", "prompt", "response", "answer", "gold", "outcome", "finish")
"""Columns of text, which pandas must be told: an answer "4" is one."""
SCORE = "score:"
"""Before a score's name in its column's."""


def frame(run: Run) -> pandas.DataFrame:
    """All judged samples. Raises RunError where there are none."""
    import pandas

    plain = [field.name for field in fields(SampleRecord) if field.name not in JSON_COLUMNS]
    nested = [name for name in JSON_COLUMNS if name not in ("scores", "asked")]
    rows: list[dict[str, Any]] = []
    for task in run.spec["tasks"]:
        for record in run.records(task):
            row = {name: getattr(record, name) for name in plain}
            row |= {SCORE + name: value for name, value in record.scores.items()}
            row |= {name: None if (value := getattr(record, name)) is None else canonical(value) for name in nested}
            rows.append(row)
    if not rows:
        raise RunError(f"{run.path}: no sample is judged there yet; run the same command again to continue it")
    scores = dict.fromkeys(name for row in rows for name in row if name.startswith(SCORE))
    table = pandas.DataFrame(rows, columns=[*plain, *scores, *nested])
    return table.astype(dict.fromkeys((*TEXTS, *nested), "str"))


def write(run: Run, path: Path, form: str) -> None:
    """Write the table; a file of that name is replaced once the new one is whole."""
    table = frame(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        if form == "parquet":
            table.to_parquet(partial, index=False)
        else:
            # texts in quotes, numbers bare: what is in quotes is text, for programs that care
            table.to_csv(partial, index=False, na_rep=NOTHING, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
