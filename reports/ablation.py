"""A sweep's folder as tables, plots and one page. Reads the tables and sweep.json that `harness ablate` wrote there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.records import LEAST_SPREAD, RunError, write_atomic
from reports import ablation_plots
from reports.render import interval
from reports.texts import new_environment

if TYPE_CHECKING:
    import pandas

Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]
"""Title, header, lines."""
CELLS = ("cell", "length", "computed in")


def is_sweep(path: Path) -> bool:
    """Whether `harness ablate` wrote the folder."""
    return (path / "cells.csv").is_file()


def read(folder: Path, name: str) -> pandas.DataFrame:
    """One of the sweep's tables; empty where the sweep has none. Bootstraps of too few documents or samples have no
    interval. Raises RunError for a folder without a sweep, and for a table that cannot be read."""
    import pandas

    if not is_sweep(folder):
        raise RunError(f"{folder}: no cells.csv; name a folder that `harness ablate` wrote")
    path = folder / f"{name}.csv"
    if not path.is_file():
        return pandas.DataFrame()
    # no word is taken for a missing value: cells may be called "none"
    try:
        found = pandas.read_csv(path, dtype={"cell": str, "base": str}, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error}); run the same `harness ablate` again") from error
    if name == "cells" and found.empty:
        raise RunError(f"{path}: no cell; run the same `harness ablate` again")
    if name == "cells" and "metric" in found and "kind" not in found:
        raise RunError(
            f"{path}: no column `kind`, by an earlier version; run the same `harness ablate` with --out {folder}"
        )
    if "low" in found:
        few = found[[column for column in ("documents", "n") if column in found]].min(axis=1) < LEAST_SPREAD
        if name == "cells" and "metric" in found:  # a share's interval is Wilson's
            few &= found["kind"] != "share"
        for bound in ("low", "high"):
            found[bound] = found[bound].mask(few)
    return found


def facts(folder: Path) -> dict[str, Any]:
    """What the sweep was asked, its cells and its runs."""
    value: dict[str, Any] = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    return value


def trained_length(folder: Path) -> int | None:
    """The trained length that all cells have in common."""
    found = {cell["train_length"] for cell in facts(folder)["cells"]}
    return found.pop() if len(found) == 1 else None


def cells_to_come(runs: Sequence[tuple[str, Sequence[tuple[str, int | None]]]]) -> list[tuple[str, ...]]:
    """For a dry run: each cell and length, and the run that computes it, as CELLS."""
    lines = [
        (cell, "" if length is None else f"{length:,}", label) for label, places in runs for cell, length in places
    ]
    order = {cell: place for place, cell in enumerate(dict.fromkeys(line[0] for line in lines))}
    return sorted(lines, key=lambda line: (order[line[0]], len(line[1]), line[1]))


def tables(folder: Path) -> list[Table]:
    """The sweep in print: by length as in the report's Table 3, or a line per cell."""
    cells, differences = read(folder, "cells"), read(folder, "differences")
    return _by_length(cells, differences) if "length" in cells else _by_cell(cells, differences)


def _by_length(cells: pandas.DataFrame, differences: pandas.DataFrame) -> list[Table]:
    n = ", ".join(f"{n:,}" for n in sorted(set(cells["documents"])))
    found = [_pivot(f"Perplexity by length (95 % interval over {n} documents or samples)", cells, _perplexity)]
    for name in measures(cells):
        found.append(_pivot(f"{name} by length, % (95 % interval)", cells, lambda row, name=name: _share(row, name)))
    if len(differences):
        base = differences["base"].iloc[0]
        title = f"Loss in nats less that of {base}, in pairs (95 % interval; below 0 is better)"
        found.append(_pivot(title, differences, _difference))
    found.append(_pivot("Seconds, and peak memory in MB", cells, _cost))
    return found


def measures(cells: pandas.DataFrame) -> list[str]:
    """Further measures: columns that have an interval of their own."""
    return [str(name).removesuffix(" low") for name in cells.columns if str(name).endswith(" low")]


def _pivot(title: str, frame: pandas.DataFrame, text: Any) -> Table:
    lengths = sorted(set(frame["length"]))
    by_place = {(row.cell, row.length): text(row) for row in _rows(frame)}
    names = list(dict.fromkeys(frame["cell"]))
    lines = [(name, *(by_place.get((name, length), "") for length in lengths)) for name in names]
    return title, ("cell", *(f"{length:,}" for length in lengths)), lines


def _rows(frame: pandas.DataFrame) -> list[Any]:
    from types import SimpleNamespace

    return [SimpleNamespace(**{str(key): value for key, value in row.items()}) for row in frame.to_dict("records")]


def _perplexity(row: Any) -> str:
    return f"{_number(row.perplexity)} ({interval(row.low, row.high, _number)})"


def _difference(row: Any) -> str:
    if row.difference == row.gained == row.lost == 0:
        return "equal"
    return f"{row.difference:+.4f} ({interval(row.low, row.high, '{:+.4f}'.format)})"


def _share(row: Any, name: str) -> str:
    value, low, high = (100 * getattr(row, key) for key in (name, f"{name} low", f"{name} high"))
    return f"{value:.1f} ({interval(low, high, '{:.1f}'.format)})"


def _cost(row: Any) -> str:
    seconds = "" if row.seconds != row.seconds else f"{row.seconds:,.1f} s"
    memory = "" if row.peak_mb != row.peak_mb else f"{row.peak_mb:,.0f}"
    return ", ".join(part for part in (seconds, memory) if part)


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 1000 else f"{value:,.0f}" if value < 1e6 else f"{value:.1e}"


def _by_cell(cells: pandas.DataFrame, differences: pandas.DataFrame) -> list[Table]:
    compared = {row.cell: row for row in _rows(differences)}
    header = ("cell", "metric", "n", "value", "95 % interval", "difference", "95 % interval", "p", "gained", "lost")
    lines: list[tuple[str, ...]] = []
    for row in _rows(cells):
        text = partial(_value, row.kind)
        line = (row.cell, row.metric, f"{row.n:,}", text(row.value), interval(row.low, row.high, text))
        other = compared.get(row.cell)
        if other is None:
            lines.append((*line, "", "", "", "", ""))
            continue
        signed = partial(_value, row.kind, sign="+")
        p = "" if other.p != other.p else f"{other.p:.3g}"
        spread = interval(other.low, other.high, signed)
        lines.append((*line, signed(other.difference), spread, p, str(other.gained), str(other.lost)))
    base = "" if not len(differences) else f"; differences from {differences['base'].iloc[0]}, in pairs"
    cost: list[tuple[str, ...]] = [
        (row.cell, "" if row.seconds != row.seconds else f"{row.seconds:,.1f}", _peak(row)) for row in _rows(cells)
    ]
    return [
        (f"Results by cell{base}", header, lines),
        ("What it took", ("cell", "seconds", "peak MB"), cost),
    ]


def _peak(row: Any) -> str:
    return "" if row.peak_mb != row.peak_mb else f"{row.peak_mb:,.0f}"


def _value(kind: str, number: float, sign: str = "") -> str:
    return f"{100 * number:{sign}.1f} %" if kind == "share" else f"{number:{sign}.3f}"


def notes(folder: Path) -> list[str]:
    """How to read the numbers."""
    its = facts(folder)
    found = []
    shared = [run for run in its["runs"] if len({place["cell"] for place in run["fills"]}) > 1]
    if shared:
        found.append(
            "Cells that are equal by construction (no switch acts at that length) were computed once; each shows what "
            "that took."
        )
    for cell in its["cells"]:
        if cell["failed"]:
            found.append(f"{cell['name']} failed: {cell['failed']}")
    return found


def plots_of(folder: Path) -> list[ablation_plots.Plot]:
    """All plots that the sweep has numbers for."""
    return ablation_plots.plots(read(folder, "cells"), read(folder, "positions"), trained_length(folder))


def write(folder: Path) -> tuple[Path, list[Path]]:
    """Write ablation.html and the plots beside it; returns the page and the plots."""
    plots = plots_of(folder)
    paths = [plot.save(folder) for plot in plots]
    page = (
        new_environment()
        .get_template("ablation.html.j2")
        .render(
            facts=facts(folder),
            trained=trained_length(folder),
            tables=tables(folder),
            notes=notes(folder),
            plots=[(plot.name, plot.caption, plot.svg(f"plot-{plot.name}")) for plot in plots],
        )
    )
    write_atomic(folder / "ablation.html", page)
    return folder / "ablation.html", paths
