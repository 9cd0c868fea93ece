"""Tokens per text relative to a baseline tokenizer, as grouped bars: the report's Figure 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reports.plot import save

COLOURS = ("#7b5ea7", "#4c9f9b", "#d9923b", "#b0485a", "#5b7fb5", "#8a8a8a", "#a3b04f", "#3d3d3d")
HATCHES = (None, "////", "....", "xxxx", "----")
GROUP = 0.82
"""Share of a text's place on the axis that its bars fill."""


def write_plots(
    texts: Sequence[str],
    ratios: Mapping[str, Sequence[float]],
    baseline: str,
    folder: Path,
    name: str = "tokenizers",
) -> list[Path]:
    """NAME.png and NAME.svg in `folder`.

    `ratios` has a list per tokenizer, in the order of `texts`; the baseline's, all 1, becomes a line.
    """
    bars = len(texts) * (len(ratios) - 1)
    inches = (max(6.0, 1.6 + 0.13 * bars + 0.15 * len(texts)), 4.2)
    return save(folder, name, inches, lambda figure: _draw(figure.add_subplot(), texts, ratios, baseline))


def _draw(axes: Any, texts: Sequence[str], ratios: Mapping[str, Sequence[float]], baseline: str) -> None:
    shown = [name for name in ratios if name != baseline]
    width = GROUP / len(shown)
    for index, name in enumerate(shown):
        places = [place - GROUP / 2 + (index + 0.5) * width for place in range(len(texts))]
        # beyond the colours' number they come again with another hatching
        style = {"color": COLOURS[index % len(COLOURS)], "hatch": HATCHES[index // len(COLOURS) % len(HATCHES)]}
        axes.bar(places, ratios[name], 0.9 * width, label=name, edgecolor="white", linewidth=0, **style)
    axes.axhline(1, color="#333333", linewidth=1, linestyle="--", label=f"{baseline} = 1")
    axes.set_xticks(range(len(texts)), texts, parse_math=False)
    axes.set_xlim(-0.6, len(texts) - 0.4)
    axes.set_ylabel(f"tokens, relative to {baseline}\n(lower is better)", parse_math=False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    legend = axes.figure.legend(loc="outside upper left", ncols=int(axes.figure.get_figwidth() // 3), frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
