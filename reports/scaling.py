"""Scores against model size: each measure of a task over the parameters of the models that several runs tested.

The report's own models of the same table stand beside them, and a straight line in the logarithm of the size is fitted
where three or more sizes were run. It is a look at a few points, not a law.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.records import MICRO, Estimate, Run, RunError
from reports import paper
from reports.cells import CELLS, Source
from reports.plot import save
from reports.site import environment

OURS, THEIRS, GRID = "#1457b8", "#a8450b", "#dddddd"


@dataclass(frozen=True)
class Point:
    """One run's measure. Shares and their intervals in per cent; means as they are."""

    model: str
    parameters: int
    value: float
    low: float
    high: float


def points(runs: Sequence[Run], task: str, measure: str) -> list[Point]:
    """The runs that have the measure, by size. Raises RunError for one that did not record its model's size."""
    found = []
    for run in runs:
        result = run.results.get(task)
        if result is None or measure not in result.metrics:
            continue
        parameters = environment(run).get("parameters")
        if not isinstance(parameters, int):
            raise RunError(
                f"{run.path / 'environment.json'}: no `parameters` (number of weights); add it, or run again"
            )
        found.append(_point(run, task, measure, parameters, result.metrics[measure]))
    return sorted(found, key=lambda point: (point.parameters, point.model, point.value))


def _point(run: Run, task: str, measure: str, parameters: int, estimate: Estimate) -> Point:
    kinds = run.spec["tasks"][task].get("measures") or {}
    scale = 100 if kinds.get(measure.removesuffix(MICRO), "share") == "share" else 1
    model = str(run.spec["model"]["name"])
    return Point(model, parameters, scale * estimate.value, scale * estimate.low, scale * estimate.high)


def slope(found: Sequence[Point]) -> float | None:
    """Points of score that ten times the parameters bring, by least squares; None below three different sizes."""
    if len({point.parameters for point in found}) < 3:
        return None
    sizes = [math.log10(point.parameters) for point in found]
    middle, mean = sum(sizes) / len(sizes), sum(point.value for point in found) / len(found)
    spread = sum((size - middle) ** 2 for size in sizes)
    both = sum((size - middle) * (point.value - mean) for size, point in zip(sizes, found, strict=True))
    return both / spread


def common_tasks(runs: Sequence[Run]) -> list[str]:
    """Tasks that runs of at least two models of known, different sizes have in common."""
    sizes: dict[str, set[int]] = {}
    for run in runs:
        parameters = environment(run).get("parameters")
        for task in run.results:
            sizes.setdefault(task, set()).update([parameters] if isinstance(parameters, int) else [])
    return sorted(task for task, found in sizes.items() if len(found) > 1)


def write_scaling(runs: Sequence[Run], task: str, folder: Path) -> list[Path]:
    """scaling-TASK.png and .svg in `folder`: a panel for each measure; "/" in the task's name becomes "-".

    Raises RunError if no run has the task.
    """
    measures = list(dict.fromkeys(name for run in runs if task in run.results for name in run.results[task].metrics))
    if not measures:
        raise RunError(f"none of the runs has {task}; name runs of it")
    panels = [(measure, points(runs, task, measure), _reported(task, measure)) for measure in measures]

    def draw(figure: Any) -> None:
        for place, panel in enumerate(panels):
            _draw(figure.add_subplot(1, len(panels), place + 1), *panel)
        handles = {label: handle for axes in figure.axes for handle, label in zip(*_legend(axes), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=3, frameon=False)
        figure.suptitle(task, x=0.99, ha="right", fontsize=10, parse_math=False)

    folder.mkdir(parents=True, exist_ok=True)
    return save(folder, f"scaling-{task.replace('/', '-')}", (1.2 + 3.4 * len(measures), 3.8), draw)


def _legend(axes: Any) -> tuple[Any, Any]:
    handles, labels = axes.get_legend_handles_labels()
    return handles, labels


def _reported(task: str, measure: str) -> list[tuple[float, float]]:
    """(Thousands of millions of parameters, value) of the report's Qwen-Chat models, where it measured the same."""
    same = [column for column, sources in CELLS["table_6"].items() if Source(task, measure) in sources]
    rows = [row for column in same for row in paper.rows("table_6", column) if row.model.startswith("Qwen")]
    return [(row.billions, row.value) for row in rows if row.billions is not None and row.value is not None]


def _draw(axes: Any, measure: str, found: Sequence[Point], reported: Sequence[tuple[float, float]]) -> None:
    sizes = [point.parameters / 1e9 for point in found]
    values = [point.value for point in found]
    bars = [[point.value - point.low for point in found], [point.high - point.value for point in found]]
    axes.errorbar(sizes, values, yerr=bars, fmt="o", color=OURS, capsize=3, label="these runs, 95 % interval")
    for size, point in zip(sizes, found, strict=True):
        # upright beside the bar: names of near sizes would run into each other
        style = {"rotation": 90, "va": "center", "fontsize": 7, "parse_math": False}
        axes.annotate(point.model, (size, point.value), (6, 0), textcoords="offset points", **style)
    if reported:
        axes.plot(*zip(*reported, strict=True), "s", mfc="none", color=THEIRS, label="the report's Qwen-Chat")
    rate = slope(found)
    title = measure if rate is None else f"{measure}\n{rate:+.1f} for ten times the parameters"
    if rate is not None:
        middle = sum(map(math.log10, sizes)) / len(sizes)
        mean = sum(values) / len(values)
        ends = [min(sizes), max(sizes)]
        line = [mean + rate * (math.log10(end) - middle) for end in ends]
        axes.plot(ends, line, "--", color=OURS, linewidth=1, label="least squares")
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.set_xscale("log")
    every = [*sizes, *(size for size, _ in reported)]
    axes.set_xlim(min(every) / 2, max(every) * 3)
    axes.xaxis.set_major_formatter(lambda size, _: f"{size:g}")
    axes.xaxis.set_minor_formatter(lambda size, _: "")
    axes.set_xlabel("parameters, thousands of millions")
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
