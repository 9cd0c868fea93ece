"""The plot of a run's page, scores with intervals beside the report's; plots as SVG text inside HTML, and as files."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reports.render import SIZES, Row, Summary

if TYPE_CHECKING:
    from markupsafe import Markup

INK, GRID, OURS, THEIRS = "#010101", "#020202", "#030303", "#040404"
"""Stand-ins that the page's style sheet replaces, so that the plot follows the reader's dark or light setting."""
ON_PAGE = {INK: INK, GRID: GRID}
"""What is drawn for a page is drawn in the stand-ins themselves."""
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


def plain(axes: Any, grid: str = "both", colours: Mapping[str, str] = ON_PAGE) -> None:
    """No frame, a thin grid behind what is drawn, labels and numbers in ink; for axes that have their labels."""
    axes.grid(axis=grid, color=colours[GRID], linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=colours[INK], length=0)
    for label in (axes.xaxis.label, axes.yaxis.label, axes.title):
        label.set_color(colours[INK])
    for side in axes.spines.values():
        side.set_visible(False)


def save(folder: Path, name: str, inches: tuple[float, float], draw: Callable[[Any], None]) -> list[Path]:
    """NAME.png and NAME.svg in `folder`: what `draw` puts into a figure. Equal figures give equal bytes."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: dict[str, Any] = {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    with matplotlib.rc_context(rc=style):
        figure = Figure(figsize=inches, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        for path in paths:
            figure.savefig(path, dpi=200, facecolor="white", metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


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
    plain(axes, "x")
    handles, labels = axes.get_legend_handles_labels()
    one_each = dict(sorted(zip(labels, handles, strict=True), key=lambda pair: pair[0].startswith("report")))
    axes.figure.legend(
        one_each.values(), one_each.keys(), loc="outside upper left", ncols=2, frameon=False, labelcolor=INK
    )
