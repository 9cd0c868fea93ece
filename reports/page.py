"""`report.md` and `report.html` of one run, and what all pages have in common.

What a model wrote is untrusted: it may hold markup, control characters or lines of a megabyte. Every string on a page
goes through `visible`, then through Jinja's escaping or into the page's data, which its script shows as text only; the
page's own policy forbids other scripts and all loading.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from harness.records import Run, spec_hash, write_atomic
from reports import causes, render

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]",
)


def write_report(run: Run) -> None:
    """Write `report.md` and `report.html` into the run's folder. The same folder gives the same bytes.

    Raises RunError if the run has no results yet.
    """
    from reports.site import write_site

    summary = render.summary_table(run)
    write_atomic(run.path / "report.md", _markdown(run, summary))
    write_site(run.path / "report.html", [run])


def visible(text: str) -> str:
    """The text with everything unprintable or misleading spelled out: controls, direction marks, lone surrogates."""
    return _UNSEEN.sub(_spelled, text)


def _spelled(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20:
        return chr(0x2400 + code)  # Unicode's pictures of the control characters
    return "\u2421" if code == 0x7F else f"⟨U+{code:04X}⟩"


def new_environment() -> Any:
    """Jinja's, with every string made visible and escaped."""
    import jinja2
    from markupsafe import Markup

    return jinja2.Environment(
        loader=jinja2.PackageLoader("reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )


def facts(run: Run) -> list[tuple[str, str]]:
    """What the head of a page says of the run."""
    model = run.spec.get("model", {})
    names = {
        "name": "Model",
        "dtype": "Data type",
        "backend": "Backend",
        "device": "Device",
        "quantisation": "Quantisation",
    }
    found = [(label, str(model[key] or "none")) for key, label in names.items() if key in model]
    if "fingerprint" in model:
        found.append(("Model fingerprint", str(model["fingerprint"])))
    return [*found, ("Spec hash", spec_hash(run.spec))]


def environment(run: Run) -> dict[str, Any]:
    """`environment.json`, or nothing: a report without it is better than none."""
    return run.environment if (run.path / "environment.json").is_file() else {}


def measured_parts(run: Run, row: render.Row) -> tuple[tuple[str, list[render.Measure]], ...]:
    """Tables of the metric by set and by group, those that have any: (what, lines)."""
    result = run.results[row.task]
    return tuple(
        (what, [render.measure(name, row.score.kind, estimate) for name, estimate in estimates.items()])
        for what, estimates in (("set", result.sets), ("group", result.groups))
        if estimates
    )


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
            shares = [(name, f"{n:,}", f"{100 * n / counted.sum():.1f} %") for name, n in counted.items()]
            lines += table(("Cause", "Samples", "Share"), shares)
    lines += ["", "## Environment"]
    for section, pairs in render.sections(environment(run)).items():
        if section != "packages":  # long; in report.html and environment.json
            lines += ["", f"### {cell(section)}", "", *table(("name", "value"), pairs)]
    return "\n".join([*lines, "", "Samples, plot, packages and the exact spec are in `report.html`.", ""])


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, escaped: bool = False) -> list[str]:
    """Lines of a Markdown table; cells that are `escaped` already are Markdown."""
    cells = [header, ("---",) * len(header), *[row if escaped else tuple(map(cell, row)) for row in rows]]
    return ["| " + " | ".join(row) + " |" for row in cells]


def cell(text: str) -> str:
    """Text that stays inside its cell and is no markup."""
    text = visible(" ".join(text.split()))
    for character in "\\|`*_<>[]":
        text = text.replace(character, "\\" + character)
    return text
