"""`report.md` and `report.html` of one run."""

from __future__ import annotations

from harness.records import Run, write_atomic
from reports import causes, render
from reports.site import environment, facts, measured_parts, write_site
from reports.texts import cell, table


def write_report(run: Run) -> None:
    """Write `report.md` and `report.html` into the run's folder. The same folder gives the same bytes.

    Raises RunError if the run has no results yet.
    """
    summary = render.summary_table(run)
    write_atomic(run.path / "report.md", _markdown(run, summary))
    write_site(run.path / "report.html", [run])


def _markdown(run: Run, summary: render.Summary) -> str:
    lines = [f"# Run {cell(run.path.resolve().name)}", ""]
    lines += [f"- {label}: {cell(value)}" for label, value in facts(run)]
    lines += ["", "## Scores beside the Qwen report's", ""]
    lines += table(summary.header, summary.cells())
    lines += ["", *[f"{number}. {cell(note)}" for number, note in enumerate(summary.footnotes, 1)]]
    for row in summary.rows:
        for what, measures in measured_parts(run, row):
            lines += ["", f"## {cell(row.task)}: {cell(row.score.name)} by {what}", ""]
            cells = [(line.name, f"{line.n:,}", line.text, line.interval) for line in measures]
            lines += table((what.capitalize(), "n", "Score", "95 % interval"), cells)
        if causes.have_any(run.results[row.task].outcomes):
            counted = causes.counts(causes.frame(map(causes.row, run.records(row.task)))).loc["all"]
            lines += ["", f"## {cell(row.task)}: right, and why not", ""]
            shares = [(n, render.measure(name, "share", its)) for name, n, its in causes.shares(counted)]
            cells = [(line.name, f"{n:,}", line.text, line.interval) for n, line in shares]
            lines += table(("Cause", "Samples", "Share", "95 % interval"), cells)
    lines += ["", "## Environment"]
    for section, pairs in render.sections(environment(run)).items():
        if section != "packages":  # long; in report.html and environment.json
            lines += ["", f"### {cell(section)}", "", *table(("name", "value"), pairs)]
    return "\n".join([*lines, "", "Samples, plot, packages and the exact spec are in `report.html`.", ""])
