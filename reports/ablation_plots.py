"""Plots of a sweep: curves by length, loss by position, heat map, time and memory; or a line of points per cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reports.plot import GRID, INK, ON_PAGE, inline, plain

if TYPE_CHECKING:
    import pandas
    from markupsafe import Markup

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7b5ea7", "#8a8a8a")
"""Okabe and Ito's, which most colour-blind people tell apart, and two more."""
MARKERS = "osD^vPX*"
COLUMNS = 64
"""Of a heat map: positions are averaged to so many."""
PNG = {INK: "#222222", GRID: "#dddddd"}


@dataclass(frozen=True)
class Plot:
    """A figure, drawn once for a file and once for the page."""

    name: str
    caption: str
    size: tuple[float, float]
    draw: Callable[[Any, Mapping[str, str]], None]
    """Draws into a figure, with the colours of ink and grid."""

    def save(self, folder: Path) -> Path:
        """NAME.png in the folder."""
        path = folder / f"{self.name}.png"
        with self._style(self.name):
            self._figure(PNG).savefig(path, dpi=160, facecolor="white")
        return path

    def svg(self, label: str) -> Markup:
        """For a page, in which the element with the id `label` says what it shows."""
        with self._style(label):
            return inline(self._figure(ON_PAGE), label)

    def _style(self, salt: str) -> Any:
        import matplotlib

        return matplotlib.rc_context(
            rc={"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif", "font.size": 9}
        )

    def _figure(self, colours: Mapping[str, str]) -> Any:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=self.size, layout="constrained")
        FigureCanvasAgg(figure)
        self.draw(figure, colours)
        return figure


def plots(cells: pandas.DataFrame, positions: pandas.DataFrame, trained: int | None) -> list[Plot]:
    """All plots that the sweep has numbers for; `trained` is the length that was trained at."""
    if "length" not in cells:
        height = 1.3 + 0.32 * len(cells)
        return [
            Plot("cells", "Each cell with its 95 % interval", (6.5, height), lambda f, c: _points(f, c, cells)),
            Plot("cost", "Time and peak memory", (7.5, height), lambda f, c: _bars(f, c, cells)),
        ]
    names = list(dict.fromkeys(cells["cell"]))
    found = []
    if cells["length"].nunique() > 1:
        curves = "Perplexity by length, both axes logarithmic; bars are 95 % intervals over documents"
        found.append(Plot("curves", curves, (6.8, 4.2), lambda f, c: _curves(f, c, cells, trained)))
    if len(positions):
        longest = positions["length"].max()
        at_end = positions[positions["length"] == longest]
        by_position = f"Loss by position in texts of {longest:,} tokens"
        found.append(Plot("positions", by_position, (7.5, 4.2), lambda f, c: _positions(f, c, at_end, trained)))
        lengths = positions["length"].nunique()
        heat = "Loss (nats a token) by cell and position, for each length"
        size = (1.8 + 2.4 * lengths, 1.6 + 0.32 * len(names))
        found.append(Plot("heat", heat, size, lambda f, c: _heat(f, c, positions)))
    found.append(Plot("cost", "Time and peak memory by cell and length", (8.5, 3.8), lambda f, c: _costs(f, c, cells)))
    return found


def _legend(figure: Any, axes: Any, colours: Mapping[str, str]) -> None:
    handles, labels = axes.get_legend_handles_labels()
    longest = max(map(len, labels), default=1)
    columns = max(1, min(len(labels), int(figure.get_figwidth() * 11 / (longest + 8))))
    legend = figure.legend(
        handles, labels, loc="outside upper left", ncols=columns, frameon=False, labelcolor=colours[INK]
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _by_cell(frame: pandas.DataFrame) -> list[tuple[int, str, pandas.DataFrame]]:
    return [(place, str(name), part) for place, (name, part) in enumerate(frame.groupby("cell", sort=False))]


def _look(place: int) -> dict[str, Any]:
    return {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}


def _trained(axes: Any, colours: Mapping[str, str], trained: int | None) -> None:
    if trained:
        axes.axvline(trained, color=colours[INK], linewidth=0.8, linestyle=":", label=f"trained at {trained:,}")


def _curves(figure: Any, colours: Mapping[str, str], cells: pandas.DataFrame, trained: int | None) -> None:
    axes = figure.add_subplot()
    lengths = sorted(set(cells["length"]))
    groups = _by_cell(cells)
    for place, name, part in groups:
        # side by side by a hair: equal numbers would hide each other
        x = part["length"] * 2 ** (0.03 * (place - (len(groups) - 1) / 2))
        bars = [part["perplexity"] - part["low"], part["high"] - part["perplexity"]]
        axes.errorbar(
            x, part["perplexity"], yerr=bars, capsize=2, linewidth=1.4, markersize=5, label=name, **_look(place)
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    _trained(axes, colours, trained)
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.minorticks_off()
    _log_ticks(axes, *(float(limit) for limit in _span(cells)))
    axes.set_xlabel("tokens")
    axes.set_ylabel("perplexity")
    plain(axes, "both", colours)
    _legend(figure, axes, colours)


def _span(cells: pandas.DataFrame) -> tuple[float, float]:
    """The lowest and the highest number, ends of intervals where there are any."""
    return cells[["perplexity", "low"]].min().min(), cells[["perplexity", "high"]].max().max()


def _log_ticks(axes: Any, low: float, high: float) -> None:
    """Plain numbers, whether the axis spans a tenth or six decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    decades = high / low
    axes.yaxis.set_major_locator(
        MaxNLocator(6) if decades < 4 else LogLocator(subs=(1, 2, 5) if decades < 300 else (1,), numticks=9)
    )
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def _positions(figure: Any, colours: Mapping[str, str], positions: pandas.DataFrame, trained: int | None) -> None:
    axes = figure.add_subplot()
    for place, name, part in _by_cell(positions):
        few = len(part) <= 20
        look = _look(place) if few else {"color": _look(place)["color"]}
        axes.plot(part["position"], part["nll"], linewidth=1.4, markersize=4, label=name, **look)
    if trained and positions["position"].max() > trained:
        _trained(axes, colours, trained)
    axes.set_xlabel("position in the text, tokens")
    axes.set_ylabel("loss, nats")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    plain(axes, "both", colours)
    _legend(figure, axes, colours)


def _heat(figure: Any, colours: Mapping[str, str], positions: pandas.DataFrame) -> None:
    import numpy as np

    names = list(dict.fromkeys(positions["cell"]))
    lengths = sorted(set(positions["length"]))
    low, high = positions["nll"].quantile(0.01), positions["nll"].quantile(0.99)
    all_axes = figure.subplots(1, len(lengths), squeeze=False, sharey=True)[0]
    for axes, length in zip(all_axes, lengths, strict=True):
        part = positions[positions["length"] == length]
        places = sorted(set(part["position"]))
        table = part.pivot(index="cell", columns="position", values="nll").reindex(names)[places].to_numpy()
        pools = np.array_split(np.arange(len(places)), min(COLUMNS, len(places)))
        pooled = np.column_stack([table[:, pool].mean(axis=1) for pool in pools])
        edges = [places[pool[0]] for pool in pools] + [length]
        drawn = axes.pcolormesh(edges, range(len(names) + 1), pooled, cmap="viridis", vmin=low, vmax=high)
        axes.set_yticks([place + 0.5 for place in range(len(names))], names, parse_math=False)
        axes.set_title(f"{length:,} tokens", fontsize=9)
        axes.set_xticks([edges[0], length], [f"{edges[0]:,}", f"{length:,}"])
        axes.set_xlabel("position")
        plain(axes, "both", colours)
        axes.grid(visible=False)
        # the ends of neighbouring axes would run into each other
        for label, side in zip(axes.get_xticklabels(), ("left", "right"), strict=True):
            label.set_horizontalalignment(side)
    all_axes[0].invert_yaxis()
    bar = figure.colorbar(drawn, ax=list(all_axes), pad=0.02, label="nats")
    bar.ax.yaxis.label.set_color(colours[INK])
    bar.ax.tick_params(colors=colours[INK], length=0)
    bar.outline.set_visible(False)
    bar.solids.set_rasterized(False)  # an image inside the SVG is one that the page's policy does not load


def _costs(figure: Any, colours: Mapping[str, str], cells: pandas.DataFrame) -> None:
    lengths = sorted(set(cells["length"]))
    groups = _by_cell(cells)
    width = 0.8 / len(groups)
    both = figure.subplots(1, 2)
    for axes, column, label in zip(both, ("seconds", "peak_mb"), ("seconds", "peak memory, MB"), strict=True):
        for place, name, part in groups:
            x = [lengths.index(length) - 0.4 + (place + 0.5) * width for length in part["length"]]
            axes.bar(x, part[column], 0.9 * width, color=_look(place)["color"], label=name)
        axes.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths])
        axes.set_xlabel("tokens")
        axes.set_ylabel(label)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
        plain(axes, "y", colours)
    _legend(figure, both[0], colours)


def _points(figure: Any, colours: Mapping[str, str], cells: pandas.DataFrame) -> None:
    axes = figure.add_subplot()
    share = cells["kind"] == "share"
    scale = share.map({True: 100, False: 1})
    value, low, high = (scale * cells[name] for name in ("value", "low", "high"))
    axes.errorbar(value, range(len(cells)), xerr=[value - low, high - value], fmt="o", color=COLOURS[0], capsize=3)
    axes.set_yticks(range(len(cells)), list(cells["cell"]), parse_math=False)
    axes.set_ylim(len(cells) - 0.5, -0.5)
    metrics = dict.fromkeys((cells["metric"] + share.map({True: ", %", False: ""})).dropna())
    axes.set_xlabel("; ".join(metrics))
    plain(axes, "x", colours)


def _bars(figure: Any, colours: Mapping[str, str], cells: pandas.DataFrame) -> None:
    both = figure.subplots(1, 2, sharey=True)
    for axes, column, label in zip(both, ("seconds", "peak_mb"), ("seconds", "peak memory, MB"), strict=True):
        axes.barh(range(len(cells)), cells[column], 0.6, color=COLOURS[0])
        axes.set_yticks(range(len(cells)), list(cells["cell"]), parse_math=False)
        axes.set_ylim(len(cells) - 0.5, -0.5)
        axes.set_xlabel(label)
        plain(axes, "x", colours)
