"""The plot of a run's page, scores with intervals beside the report's; and plots as SVG text inside HTML."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from reports.render import SIZES, Row, Summary

if TYPE_CHECKING:
    from markupsafe import Markup

INK, GRID, OURS, THEIRS = "#010101", "#020202", "#030303", "#040404"
"""Stand-ins that the page's style sheet replaces, so that the plot follows the reader's dark or light setting."""
_VARIABLES = {INK: "var(--ink)", GRID: "var(--line)", OURS: "var(--accent)", THEIRS: "var(--theirs)"}
_MARKERS = dict(zip(SIZES, ("v", "s", "^"), strict=True))


def plot(summary: Summary, name: str) -> Markup:
    """A horizontal axis in per cent, a line per task whose score is a share. Equal rows give equal bytes.

    The element is labelled by the one with the id NAME-caption; no two plots of a page have one name.
    """
    rows = shares(summary)
    # As wide as a phone at full size, for letters that can be read there; the legend above takes 0.6 inches.
    return inline_svg((4.6, 1.3 + 0.5 * len(rows)), lambda axes: _draw(axes, rows), f"{name}-caption")


def inline_svg(inches: tuple[float, float], draw: Callable[[Any], None], caption: str) -> Markup:
    """What `draw` puts on matplotlib axes, for HTML in which the words that say what it shows have the id `caption`."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # Text stays text: it can be read aloud and searched. The salt makes element ids the same in every process.
    style: dict[str, Any] = {"svg.fonttype": "none", "svg.hashsalt": caption, "font.family": "sans-serif"}
    with matplotlib.rc_context(rc=style):
        figure = Figure(figsize=inches, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        return inline(figure, caption)


def inline(figure: Any, caption: str) -> Markup:
    """A figure as SVG text inside HTML, in the page's colours; `caption` is the id of what describes it."""
    from markupsafe import Markup

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]  # no XML prologue inside HTML
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"| (width|height)="[\d.]+pt"', "", svg)
    # ids such as figure_1 are the same in every plot, and nothing refers to them
    svg = re.sub(r' id="(?!\w*[0-9a-f]{10})[^"]*"', "", svg)
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    return Markup(svg.replace("<svg", f'<svg role="img" aria-labelledby="{caption}"', 1))


def shares(summary: Summary) -> list[Row]:
    """The rows that are drawn: means and perplexities have no place on an axis in per cent."""
    return [row for row in summary.rows if row.score.kind == "share"]


def _draw(axes: Any, rows: list[Row]) -> None:
    """Our points with bars a little above the row's line, the report's marks a little below it; alone, on the line."""
    for line, row in enumerate(rows):
        ours = row.score
        theirs = [cell for cell in row.qwen if cell is not None and cell.value is not None]
        place = line - 0.12 if theirs else line
        bars = [[ours.value - ours.low], [ours.high - ours.value]]
        axes.errorbar([ours.value], [place], xerr=bars, fmt="o", color=OURS, capsize=3, label="this run, 95 % interval")
        for cell in theirs:
            if cell.params is not None:
                axes.plot(
                    [cell.value],
                    [line + 0.18],
                    linestyle="none",
                    marker=_MARKERS[cell.params],
                    markeredgecolor=THEIRS,
                    markerfacecolor="none",
                    label=f"report, {cell.params}",
                )
    axes.set_xlim(-2, 102)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("score, %", color=INK)
    # No math mode: a task's name may hold a dollar sign.
    axes.set_yticks(range(len(rows)), [row.task for row in rows], color=INK, parse_math=False)
    axes.tick_params(colors=INK, length=0)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    one_each = dict(sorted(zip(labels, handles, strict=True), key=lambda pair: pair[0].startswith("report")))
    axes.figure.legend(
        one_each.values(), one_each.keys(), loc="outside upper left", ncols=2, frameon=False, labelcolor=INK
    )
