"""Wins, ties and losses as stacked bars by category, a bar for each tested model: the report's Figure 4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reports.plot import save

COLOURS = {"win": "#4c9f9b", "tie": "#c9cdd2", "loss": "#d9923b"}
GROUP = 0.8
"""Share of a category's place on the axis that its bars fill."""


def write_win_plot(
    models: Mapping[str, Mapping[str, Sequence[float]]], opponent: str, folder: Path, name: str = "win_rate"
) -> list[Path]:
    """NAME.png and NAME.svg in `folder`.

    `models` has for each model its categories, in one order, with the shares of wins, ties and losses (0..1).
    """
    inches = (max(6.4, 1.2 + 0.62 * sum(map(len, models.values()))), 4.4)
    return save(folder, name, inches, lambda figure: _draw(figure.add_subplot(), models, opponent))


def _draw(axes: Any, models: Mapping[str, Mapping[str, Sequence[float]]], opponent: str) -> None:
    categories = list(dict.fromkeys(category for shares in models.values() for category in shares))
    width = GROUP / len(models)
    for index, (model, by_category) in enumerate(models.items()):
        known = [place for place, category in enumerate(categories) if category in by_category]
        places = [place - GROUP / 2 + (index + 0.5) * width for place in known]
        floor = [0.0] * len(known)
        for part, (label, colour) in enumerate(COLOURS.items()):
            heights = [100 * by_category[categories[place]][part] for place in known]
            drawn = axes.bar(places, heights, 0.92 * width, floor, color=colour, label=label if index == 0 else None)
            texts = [f"{height:.0f}" if height >= 5 else "" for height in heights]
            axes.bar_label(drawn, texts, label_type="center", fontsize=8, color="#1c2024")
            floor = [low + height for low, height in zip(floor, heights, strict=True)]
        if len(models) > 1:
            for place in places:
                axes.text(place, 101.5, model, rotation=90, fontsize=7, ha="center", va="bottom", parse_math=False)
    shown = [category[:1].upper() + category[1:].replace(" ", "\n") for category in categories]
    axes.set_xticks(range(len(categories)), shown, parse_math=False)
    axes.set_xlim(-0.6, len(categories) - 0.4)
    axes.set_ylim(0, 100)
    axes.set_ylabel(
        f"{next(iter(models)) if len(models) == 1 else 'models'} against {opponent}, % of pairs", parse_math=False
    )
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.figure.legend(loc="outside upper left", ncols=3, frameon=False)
