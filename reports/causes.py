"""Why samples were not right: one cause each, and its share by subject and by length of the prompt.

The causes are read off the record by rules, in the order of CAUSES: a reply that repeats itself until the tokens run
out repeats itself. They say what to look at first, not what a person would say after reading.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from harness.records import Estimate, SampleRecord
from harness.statistics import wilson

if TYPE_CHECKING:
    import pandas

RIGHT, UNJUDGED = "right", "not judged"
CAUSES = {
    "time-out": "the code ran out of time",
    "stopped": "the code took too much memory, or was killed",
    "repeats itself": "the reply ends in the same piece again and again",
    "cut off by length": "the reply reached the limit of tokens before its end",
    "refused": "the reply begins with a refusal or an excuse",
    "format": "no code, or code that is no Python",
    "not extracted": "no answer could be read from the reply",
    "wrong": "an answer, and not the right one",
}
"""Causes and what they mean, the first that holds first."""
BY_OUTCOME = {
    "timeout": "time-out",
    "memory": "stopped",
    "killed": "stopped",
    "no_code": "format",
    "syntax": "format",
    "unextracted": "not extracted",
    "not_installed": UNJUDGED,
}
NEITHER = ("measured",)
"""Outcomes of tasks that measure and do not judge."""
TAIL, TIMES, LEAST = 1200, 4, 60
"""Characters at the end of a reply that are looked at; how often a piece stands there, and how much text that is."""
REFUSAL = re.compile(
    r"\W*(?:I(?:'|’)?m (?:very |really )?sorry|I am sorry|Sorry,|I apologi[sz]e|My apologies|As an AI\b|"
    r"(?:Unfortunately, )?I (?:can(?:'|’)t|cannot|can not|am unable to|(?:'|’)m unable to|won(?:'|’)t) |"
    r"(?:很|非常)?抱歉|对不起|我(?:不能|无法)|作为(?:一个|一名)?(?:AI|人工智能|语言模型))",
    re.IGNORECASE,
)
BINS = 4
"""Prompts by length: parts of about as many samples."""


def cause(record: SampleRecord) -> str:
    """RIGHT, UNJUDGED or one of CAUSES."""
    if record.correct:
        return RIGHT
    told = BY_OUTCOME.get(record.outcome, "wrong")
    if told in ("time-out", "stopped", UNJUDGED):
        return told
    if repeats(record.response):
        return "repeats itself"
    if record.finish == "length":
        return "cut off by length"
    if REFUSAL.match(record.response):
        return "refused"
    return told


def repeats(text: str) -> bool:
    """Whether the end of a text is one piece at least TIMES times in a row, of LEAST characters in all."""
    tail = text.rstrip()[-TAIL:]
    for size in range(1, len(tail) // TIMES + 1):
        length = max(size * TIMES, LEAST)
        if length > len(tail):
            return False
        end = tail[-length:]
        if end[size:] == end[:-size]:
            return True
    return False


def row(record: SampleRecord) -> tuple[str, str | None, str, str, int]:
    """A line of the frame."""
    return record.id, record.group, record.outcome, cause(record), len(record.prompt)


def frame(rows: Iterable[tuple[str, str | None, str, str, int]]) -> pandas.DataFrame:
    """A row per sample: id, group, outcome, cause, and the characters of its prompt."""
    import pandas

    return pandas.DataFrame(rows, columns=["id", "group", "outcome", "cause", "prompt"])


def counts(samples: pandas.DataFrame, by: pandas.Series | None = None) -> pandas.DataFrame:
    """Samples by cause: a row in all, or one for each value of `by` in order; a column for each cause that occurs.

    RIGHT comes first. Shares are the counts over the rows' sums: every sample has one cause.
    """
    import pandas

    order = [RIGHT, *CAUSES, UNJUDGED]
    whole = pandas.Series("all", index=samples.index) if by is None else by
    table = pandas.crosstab(whole, samples["cause"])
    return table[[name for name in order if name in table.columns]]


def shares(row: pandas.Series) -> list[tuple[str, int, Estimate]]:
    """A row of `counts` as (cause, samples, share of the row with Wilson's interval)."""
    return [(str(name), int(n), wilson(int(n), int(row.sum()))) for name, n in row.items()]


def lengths(samples: pandas.DataFrame) -> pandas.Series:
    """Which part of the prompts by length each sample is in, a category in print: "1,024 – 2,047" characters."""
    import pandas

    ranks = samples["prompt"].rank(method="max", pct=True)
    parts = (ranks * BINS).apply(math.ceil)
    ends = samples.groupby(parts)["prompt"].agg(["min", "max"])
    names = {part: f"{low:,}" if low == high else f"{low:,} – {high:,}" for part, low, high in ends.itertuples()}
    return pandas.Series(pandas.Categorical(parts.map(names), categories=list(names.values())), index=samples.index)


def have_any(outcomes: Mapping[str, int]) -> bool:
    """Whether a task judges samples right or wrong, as perplexities do not."""
    return any(outcome not in NEITHER for outcome in outcomes)
