"""A comparison of runs as tables: on the terminal, as Markdown, CSV and JSON, and as one page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.comparison import Difference, RunComparison, TaskComparison
from harness.records import write_atomic
from reports.frames import differences, flips, parts
from reports.render import DECIMALS, bounds, interval
from reports.texts import cell, new_environment
from reports.texts import table as markdown_table

SHOWN = 100
"""Flipped samples of a task that are shown on the page; flips.csv has all."""
HEADER = ("Task", "n", "First", "Second", "Difference", "95 % interval", "p", "Gained", "Lost")
FLIP_HEADER = ("Sample", "Group", "Change", "First's answer", "Second's answer", "Gold")


def heading(comparison: RunComparison) -> str:
    """Which run is the second, and which the first."""
    return f"{comparison.second} against {comparison.first}"


def rows(comparison: RunComparison, *, groups: bool) -> list[tuple[str, ...]]:
    """One line per task and set of groups, and per group if asked for; shares are in per cent and points."""
    return [
        (name if part == "task" else f"  {name}", *cells(difference, task.kind))
        for task in comparison.tasks
        for part, name, difference in parts(task)
        if groups or part != "group"
    ]


def cells(difference: Difference, kind: str) -> tuple[str, ...]:
    """The columns of HEADER after the task."""
    scale, decimals = 100 if kind == "share" else 1, DECIMALS[kind]
    first, second = (f"{scale * value:.{decimals}f}" for value in (difference.first, difference.second))
    change = f"{scale * difference.value:+.{decimals}f}"
    shown = interval(
        *bounds(difference.n, difference.low, difference.high), lambda value: f"{scale * value:+.{decimals}f}"
    )
    p = "–" if difference.p is None else f"{difference.p:.2g}" if difference.p >= 1e-4 else "< 0.0001"
    gained, lost = f"{difference.gained:,}", f"{difference.lost:,}"
    return f"{difference.n:,}", first, second, change, shown, p, gained, lost


def notes(comparison: RunComparison) -> list[str]:
    """What keeps the runs from being the same measurement, and how to read many groups at once."""
    found = [*comparison.notes, *(note for task in comparison.tasks for note in task.notes)]
    for task in comparison.tasks:
        tested = [difference.p for difference in task.groups.values() if difference.p is not None]
        if len(tested) > 1:
            below = sum(p < 0.05 for p in tested)
            found.append(
                f"{task.task}: p is below 0.05 in {below} of {len(tested)} groups; up to {0.05 * len(tested):.1f} are "
                "expected by chance."
            )
    return found


def flip_rows(task: TaskComparison, *, longest: int | None = None) -> list[tuple[str, ...]]:
    """(id, group, gained or lost, first answer, second answer, gold); longer texts are cut to `longest`."""
    alone = RunComparison(first="", second="", tasks=(task,), notes=())
    rows = flips([alone])[["id", "group", "change", "first_answer", "second_answer", "gold"]].itertuples(index=False)
    return [tuple(_cut(text, longest) if at > 2 else text for at, text in enumerate(row)) for row in rows]


def _cut(text: str, longest: int | None) -> str:
    if longest is None:
        return text
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def as_markdown(comparisons: Sequence[RunComparison]) -> str:
    """A table of tasks, sets and groups for each pair of runs, with its notes."""
    lines = []
    for comparison in comparisons:
        lines += [f"## {cell(heading(comparison))}", ""]
        lines += markdown_table(HEADER, [tuple(row) for row in rows(comparison, groups=True)])
        lines += ["", *(f"- {cell(note)}" for note in notes(comparison)), ""]
    return "\n".join(lines).rstrip() + "\n"


def as_csv(comparisons: Sequence[RunComparison]) -> str:
    """A line per pair of runs and task, set or group; shares as fractions, unrounded."""
    text: str = differences(comparisons).to_csv(index=False, lineterminator="\n")
    return text


def as_json(comparisons: Sequence[RunComparison]) -> str:
    """Everything, the flipped samples too."""
    return json.dumps([_plain(comparison) for comparison in comparisons], indent=1) + "\n"


def _plain(comparison: RunComparison) -> dict[str, Any]:
    whole = asdict(comparison)
    for task, plain in zip(comparison.tasks, whole["tasks"], strict=True):
        plain["whole"]["difference"] = task.whole.value
        for name in ("sets", "groups"):
            for key, difference in getattr(task, name).items():
                plain[name][key]["difference"] = difference.value
    return whole


def write(folder: Path, comparisons: Sequence[RunComparison]) -> Path:
    """compare.html, compare.md, compare.csv, compare.json and flips.csv; returns the page. Equal runs, equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "compare.md", as_markdown(comparisons))
    write_atomic(folder / "compare.csv", as_csv(comparisons))
    write_atomic(folder / "compare.json", as_json(comparisons))
    text = flips(comparisons).to_csv(index=False, lineterminator="\n")
    write_atomic(folder / "flips.csv", text.encode(errors="backslashreplace").decode())
    page = folder / "compare.html"
    pairs = [(comparison, notes(comparison)) for comparison in comparisons]
    template = new_environment().get_template("comparison.html.j2")
    write_atomic(
        page,
        template.render(comparisons=pairs, compared=VIEW),
    )
    return page


VIEW = {
    "HEADER": HEADER,
    "FLIP_HEADER": FLIP_HEADER,
    "SHOWN": SHOWN,
    "parts": parts,
    "cells": cells,
    "flip_rows": flip_rows,
}
"""What the template `compared.html.j2` shows a comparison with."""
