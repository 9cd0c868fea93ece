"""Our rows among the report's as Markdown, HTML, LaTeX, CSV and a picture."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from reports import paper
from reports.beside import Beside, Shown
from reports.texts import cell as markdown_cell
from reports.texts import new_environment
from reports.texts import table as markdown_table

LATEX = {
    **{character: "\\" + character for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "–": "--",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
}
LEGEND = "Bold: best of the column. Brackets: 95 % intervals of our numbers; the report prints none. Sorted by size."


def as_csv(table: Beside) -> str:
    """The frame, a line per model and column; `pandas.read_csv` gives the frame back."""
    text: str = table.frame.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
    return text


def as_markdown(table: Beside) -> str:
    """A table with numbered notes below."""
    header = ("Model", "Size", *(_marked(markdown_cell(head.text), head, "<sup>{}</sup>") for head in table.heads))
    lines = [f"## {table.title}", ""]
    rows = [
        (
            markdown_cell(f"{line.model} (ours)" if line.ours else line.model),
            line.size,
            *(
                _marked(f"**{shown.text}**" if shown.best else markdown_cell(shown.text), shown, "<sup>{}</sup>")
                for shown in line.cells
            ),
        )
        for line in table.lines
    ]
    lines += markdown_table(header, rows, escaped=True)
    lines += ["", *[f"{number}. {markdown_cell(note)}" for number, note in enumerate(table.footnotes, 1)]]
    lines += ["", *[f"- {markdown_cell(note)}" for note in (LEGEND, *table.general, source(table))]]
    return "\n".join(lines) + "\n"


def as_html(table: Beside) -> str:
    """A page of its own that loads nothing."""
    page: str = (
        new_environment().get_template("beside.html.j2").render(table=table, legend=LEGEND, source=source(table))
    )
    return page


def as_latex(table: Beside) -> str:
    """A floating table that needs no package."""
    columns = "ll" + "r" * len(table.heads)
    head = ["Model", "Size", *(_marked(latex(head.text), head, r"\textsuperscript{{{}}}") for head in table.heads)]
    lines = [r"\begin{table}", r"\centering", r"\scriptsize", r"\setlength{\tabcolsep}{3pt}"]
    lines += [rf"\caption{{{latex(table.title)}}}", rf"\begin{{tabular}}{{{columns}}}", r"\hline"]
    lines += [" & ".join(head) + r" \\", r"\hline"]
    for line in table.lines:
        name = rf"\textit{{{latex(line.model)}}} (ours)" if line.ours else latex(line.model)
        cells = [
            _marked(
                rf"\textbf{{{latex(shown.text)}}}" if shown.best else latex(shown.text),
                shown,
                r"\textsuperscript{{{}}}",
            )
            for shown in line.cells
        ]
        lines.append(" & ".join([name, latex(line.size), *cells]) + r" \\")
    lines += [r"\hline", r"\end{tabular}", "", r"\begin{minipage}{\linewidth}", r"\smallskip"]
    for number, note in enumerate(table.footnotes, 1):
        lines.append(rf"\textsuperscript{{{number}}} {latex(note)}\par")
    lines += [rf"{latex(note)}\par" for note in (LEGEND, *table.general, source(table))]
    return "\n".join([*lines, r"\end{minipage}", r"\end{table}"]) + "\n"


def write_png(table: Beside, path: Path) -> None:
    """A picture of the table with its notes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    notes = [f"{number}  {note}" for number, note in enumerate(table.footnotes, 1)]
    notes += [LEGEND, *table.general, source(table)]
    grid = [["Model", "Size", *(head.text for head in table.heads)]]
    grid += [[line.model, line.size, *(shown.text for shown in line.cells)] for line in table.lines]
    marks = [head.notes for head in table.heads]
    widths = [max(len(row[place]) for row in grid) for place in range(len(grid[0]))]
    extra = [
        0,
        0,
        *(max([len(mark), *(len(line.cells[i].notes) for line in table.lines)]) for i, mark in enumerate(marks)),
    ]
    places, total = [], 0.0
    for width, more in zip(widths, extra, strict=True):
        total += 0.085 * width + 0.07 * more + 0.22
        places.append(total)
    wrapped = [part for note in notes for part in _wrap(note, int(total / 0.062))]
    height = 0.5 + 0.22 * len(grid) + 0.15 * len(wrapped) + 0.15
    figure = Figure(figsize=(total + 0.3, height))
    FigureCanvasAgg(figure)

    def write(x: float, y: float, text: str, **style: Any) -> None:
        figure.text((x + 0.15) / (total + 0.3), 1 - y / height, text, parse_math=False, va="baseline", **style)

    write(0, 0.28, table.title, fontsize=10, weight="bold")
    ours = [False, *(line.ours for line in table.lines)]
    for row, cells in enumerate(grid):
        y = 0.58 + 0.22 * row
        colour = "#1457b8" if ours[row] else "#1c2024"
        write(0, y, cells[0], fontsize=8, color=colour, weight="bold" if row == 0 else "normal")
        for column in range(1, len(cells)):
            shown = table.lines[row - 1].cells[column - 2] if row and column > 1 else None
            best = row == 0 or (shown is not None and shown.best)
            its = marks[column - 2] if row == 0 and column > 1 else shown.notes if shown else ()
            end = places[column] - 0.07 * extra[column]
            write(end, y, cells[column], fontsize=8, ha="right", color=colour, weight="bold" if best else "normal")
            write(end + 0.02, y - 0.04, ",".join(map(str, its)), fontsize=5, color=colour)
    for number, part in enumerate(wrapped):
        write(0, 0.62 + 0.22 * len(grid) + 0.15 * number, part, fontsize=6.5, color="#5b6570")
    figure.savefig(path, dpi=200, facecolor="white")


def latex(text: str) -> str:
    """Text that LaTeX prints as it is; characters beyond Latin 1 that its fonts lack are named."""
    return "".join(LATEX.get(letter, letter if ord(letter) < 256 else f"U+{ord(letter):04X}") for letter in text)


def _marked(text: str, shown: Shown, mark: str) -> str:
    return text + mark.format(",".join(map(str, shown.notes))) if shown.notes else text


def source(table: Beside) -> str:
    """Where the report has it."""
    return f"The report's rows: arXiv 2309.16609, {paper.table(table.name).source}."


def _wrap(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width, subsequent_indent="   ") or [""]
