"""`report.md` and `report.html` of one run.

What a model wrote is untrusted: it may hold markup, control characters or lines of a megabyte. Every string on the page
goes through `visible`, then through Jinja's escaping, and the page's own policy forbids scripts and all loading.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.records import Run, SampleRecord, spec_hash, write_atomic
from reports import render

EACH = 10
"""Right samples, and wrong samples, shown per task."""
LONGEST = 20_000
"""Characters of one text shown on the page; the middle of a longer one is left out. `samples.sqlite` has all of it."""
FOLD = 12
"""A table of groups longer than this starts folded."""

_DIRECTION = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def write_report(run: Run) -> None:
    """Write `report.md` and `report.html` into the run's folder. The same folder gives the same bytes.

    Raises RunError if the run has no results yet.
    """
    summary = render.summary_table(run)
    write_atomic(run.path / "report.md", _markdown(run, summary))
    write_atomic(run.path / "report.html", _html(run, summary))


def visible(text: str) -> str:
    """The text with everything unprintable or misleading spelled out: controls, direction marks, lone surrogates."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_visible_character, text))


def _visible_character(character: str) -> str:
    code = ord(character)
    if character in "\n\t":
        return character
    if code < 0x20:
        return chr(0x2400 + code)  # Unicode's pictures of the control characters
    if code == 0x7F:
        return "\u2421"
    if character in _DIRECTION or unicodedata.category(character) in ("Cc", "Cs") or code == 0xFEFF:
        return f"⟨U+{code:04X}⟩"
    return character


@dataclass(frozen=True)
class TaskPart:
    """What the page shows of one task."""

    row: render.Row
    facts: list[tuple[str, str]]
    outcomes: Mapping[str, int]
    parts: tuple[tuple[str, list[render.Measure]], ...]
    """Tables of the metric by set and by group: (what, lines), those that have any."""
    samples: tuple[tuple[str, list[SampleRecord], int], ...]
    """(heading, shown samples, how many there are)."""


def chosen(run: Run, task: str) -> tuple[tuple[str, list[SampleRecord], int], ...]:
    """Up to EACH right and EACH wrong samples, evenly spaced over the data set's order, first and last included."""
    flags = [record.correct for record in run.records(task)]
    wanted: dict[bool, set[int]] = {}
    for correct in (True, False):
        places = [place for place, flag in enumerate(flags) if flag is correct]
        picks = (
            range(len(places)) if len(places) <= EACH else [i * (len(places) - 1) // (EACH - 1) for i in range(EACH)]
        )
        wanted[correct] = {places[pick] for pick in picks}
    kept: dict[bool, list[SampleRecord]] = {True: [], False: []}
    # A second pass, so that one whole benchmark's prompts are never in memory together.
    for place, record in enumerate(run.records(task)):
        if place in wanted[record.correct]:
            kept[record.correct].append(record)
    return ("Right", kept[True], sum(flags)), ("Wrong", kept[False], len(flags) - sum(flags))


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


def _html(run: Run, summary: render.Summary) -> str:
    from reports.plot import plot, shares

    environment = new_environment()
    filters: dict[str, Callable[..., Any]] = {
        "shortened": _shortened,
        "as_json": _json,
        "pictures": _pictures,
        "without_pictures": _without_pictures,
    }
    environment.filters |= filters
    page: str = environment.get_template("report.html.j2").render(
        name=run.path.resolve().name,
        facts=_facts(run),
        summary=summary,
        plot=plot(summary) if shares(summary) else None,
        parts=[_part(run, row) for row in summary.rows],
        environment=render.sections(_environment(run)),
        spec=_json(run.spec),
        score=render.score,
        count=render.count,
        fold=FOLD,
    )
    return page


def _part(run: Run, row: render.Row) -> TaskPart:
    result = run.results[row.task]
    spec = run.spec.get("tasks", {}).get(row.task, {})
    hidden = ("title", "report", "items", "metric", "measures", "sets")  # said elsewhere on the page
    facts = render.flat({key: value for key, value in spec.items() if key not in hidden and value is not None})
    return TaskPart(row, facts, result.outcomes, _parts(run, row), chosen(run, row.task))


def _parts(run: Run, row: render.Row) -> tuple[tuple[str, list[render.Measure]], ...]:
    result = run.results[row.task]
    return tuple(
        (what, [render.measure(name, row.score.kind, estimate) for name, estimate in estimates.items()])
        for what, estimates in (("set", result.sets), ("group", result.groups))
        if estimates
    )


def _facts(run: Run) -> list[tuple[str, str]]:
    """What the head of the page says of the run."""
    model = run.spec.get("model", {})
    names = {
        "name": "Model",
        "dtype": "Data type",
        "backend": "Backend",
        "device": "Device",
        "quantisation": "Quantisation",
    }
    facts = [(label, str(model[key] or "none")) for key, label in names.items() if key in model]
    if "fingerprint" in model:
        facts.append(("Model fingerprint", str(model["fingerprint"])))
    return [*facts, ("Spec hash", spec_hash(run.spec))]


def _environment(run: Run) -> dict[str, Any]:
    """`environment.json`, or nothing: a report without it is better than none."""
    return run.environment if (run.path / "environment.json").is_file() else {}


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True)


def _pictures(detail: Mapping[str, Any]) -> list[str]:
    """The pictures that a code interpreter drew, as base64. Model-written code made them: nothing else passes."""
    found = detail.get("images", [])
    return [text for text in found if isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", text)]


def _without_pictures(detail: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in detail.items() if name != "images"}


def _shortened(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    left_out = len(text) - LONGEST
    return f"{text[: LONGEST // 2]}\n[… {left_out:,} characters left out …]\n{text[-LONGEST // 2 :]}"


def _markdown(run: Run, summary: render.Summary) -> str:
    lines = [f"# Run {cell(run.path.resolve().name)}", ""]
    lines += [f"- {label}: {cell(value)}" for label, value in _facts(run)]
    lines += ["", "## Scores beside the Qwen report's", ""]
    lines += table(summary.header, summary.cells())
    lines += ["", *[f"{number}. {cell(note)}" for number, note in enumerate(summary.footnotes, 1)]]
    for row in summary.rows:
        for what, measures in _parts(run, row):
            lines += ["", f"## {cell(row.task)}: {cell(row.score.name)} by {what}", ""]
            cells = [(line.name, f"{line.n:,}", line.text, line.interval) for line in measures]
            lines += table((what.capitalize(), "n", "Score", "95 % interval"), cells)
    lines += ["", "## Environment"]
    for section, pairs in render.sections(_environment(run)).items():
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
