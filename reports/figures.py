"""Our numbers in the report's figures: radar and bars (Figure 2), tokens by language (3), wins, ties and losses (4)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from harness.records import RunError
from reports.beside import REPORT, Beside
from reports.ours import BASELINE
from reports.plot import save
from reports.tokenizer_plot import write_plots as write_compression
from reports.win_plot import write_win_plot

GREYS = ("#3d3d3d", "#8a8a8a", "#b9b9b9", "#a8450b")
"""The report's models of Figure 2, in its order: the last is its own."""
BRIGHT = ("#1457b8", "#17693a", "#7b5ea7", "#b0485a", "#4c9f9b", "#d9923b")
FEWEST = 3
"""A radar with fewer axes is a line."""


def write_figure(table: Beside, folder: Path) -> list[Path]:
    """PNG and SVG files of a figure in `folder`, which must exist. Raises RunError if it is none of the three."""
    draw = {"figure_2": _figure_2, "figure_3": _figure_3, "figure_4": _figure_4}.get(table.name)
    if draw is None:
        raise RunError(f"{table.name}: not a figure; give 2, 3 or 4")
    return draw(table, folder)


@dataclass(frozen=True)
class Series:
    """One model's numbers by column, with their intervals (NaN for the report's)."""

    name: str
    ours: bool
    points: Mapping[str, tuple[float, float, float]]


def series(table: Beside) -> tuple[list[str], list[Series]]:
    """(The columns that a row of ours has, every row's numbers there): the report's rows first, as it has them."""
    frame = table.frame.dropna(subset=["value"])
    have = set(frame.loc[frame["source"] != REPORT, "column"])
    columns = [head.text for head in table.heads if head.text in have]
    found = []
    for place, line in enumerate(table.lines):
        rows = frame[(frame["row"] == place) & frame["column"].isin(columns)]
        points = {row["column"]: (row["value"], row["low"], row["high"]) for row in rows.to_dict("records")}
        found.append(Series(f"{line.model} (ours)" if line.ours else line.model, line.ours, points))
    return columns, sorted(found, key=lambda its: its.ours)


def _figure_2(table: Beside, folder: Path) -> list[Path]:
    columns, found = series(table)
    greys, bright = iter(GREYS), cycle(BRIGHT)
    colours = {its.name: next(bright) if its.ours else next(greys) for its in found}
    inches = (max(6.4, 1.5 + 1.1 * len(columns)), 4.4)  # as wide as the bars need
    paths = save(folder, "figure_2-bars", inches, lambda figure: _bars(figure, columns, found, colours))
    if len(columns) >= FEWEST:
        paths += save(folder, "figure_2-radar", (6.4, 6.6), lambda figure: _radar(figure, columns, found, colours))
    return paths


def _bars(figure: Any, columns: Sequence[str], found: Sequence[Series], colours: Mapping[str, str]) -> None:
    axes = figure.add_subplot()
    width = 0.84 / len(found)
    for index, its in enumerate(found):
        known = [place for place, column in enumerate(columns) if column in its.points]
        places = [place - 0.42 + (index + 0.5) * width for place in known]
        points = [its.points[columns[place]] for place in known]
        bars = [[value - low for value, low, _ in points], [high - value for value, _, high in points]]
        axes.bar(
            places,
            [value for value, _, _ in points],
            0.9 * width,
            color=colours[its.name],
            label=its.name,
            yerr=bars if its.ours else None,
            error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "#1c2024"},
        )
    axes.set_xticks(range(len(columns)), columns, parse_math=False)
    axes.set_xlim(-0.6, len(columns) - 0.4)
    axes.set_ylim(0, 100)
    axes.set_ylabel("score, %; bars: 95 % intervals of ours")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    _legend(figure, axes, 2)


def _radar(figure: Any, columns: Sequence[str], found: Sequence[Series], colours: Mapping[str, str]) -> None:
    """Every model that has all columns is a closed line; others are points joined where they are neighbours."""
    axes = figure.add_subplot(projection="polar")
    axes.set_theta_offset(math.pi / 2)
    axes.set_theta_direction(-1)
    angles = [2 * math.pi * place / len(columns) for place in range(len(columns))]
    for its in found:
        heights = [its.points[column][0] if column in its.points else math.nan for column in columns]
        style = {"color": colours[its.name], "linewidth": 2 if its.ours else 1.2, "label": its.name}
        axes.plot([*angles, angles[0]], [*heights, heights[0]], marker="o", markersize=3, **style)
        if its.ours and not any(map(math.isnan, heights)):
            axes.fill(angles, heights, color=colours[its.name], alpha=0.12)
    axes.set_xticks(angles, columns, parse_math=False)
    axes.set_ylim(0, 100)
    axes.set_yticks([20, 40, 60, 80], ["20", "40", "60", "80"], color="#5b6570", fontsize=8)
    axes.set_rlabel_position(180 / len(columns))
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines["polar"].set_color("#dddddd")
    axes.tick_params(axis="x", pad=20)
    _legend(figure, axes, 2)


def _legend(figure: Any, axes: Any, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside upper left", ncols=columns, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _figure_3(table: Beside, folder: Path) -> list[Path]:
    columns, found = series(table)
    ratios = {
        its.name: [its.points[column][0] if column in its.points else math.nan for column in columns] for its in found
    }
    return write_compression(columns, {**ratios, BASELINE: [1.0] * len(columns)}, BASELINE, folder, "figure_3")


def _figure_4(table: Beside, folder: Path) -> list[Path]:
    """Categories that ours have; the report's models are against GPT-3.5, ours against what their notes say."""
    columns, found = series(table)
    categories = list(dict.fromkeys(column.rpartition(", ")[0] for column in columns))
    models = {
        its.name: {
            category: [its.points[f"{category}, {kind}"][0] / 100 for kind in ("win", "tie", "loss")]
            for category in categories
            if f"{category}, win" in its.points
        }
        for its in found
    }
    return write_win_plot(models, "the opponent", folder, "figure_4")
