"""One HTML file for one run or several: scores, tasks, why samples failed, the samples themselves, comparisons, sweeps.

It opens from disk and loads nothing. Its only script is `templates/site.js`, which the page's policy names by its hash;
the samples are inside the page (see `packs`).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from harness.comparison import RunComparison
from harness.records import Estimate, Run, run_names, spec_hash, write_atomic
from reports import ablation, causes, comparison, formats, frames, render
from reports.beside import Beside
from reports.packs import Packed, pack
from reports.plot import plot, shares
from reports.texts import new_environment, visible

if TYPE_CHECKING:
    import pandas
    from markupsafe import Markup

FOLD = 12
"""A table of groups longer than this starts folded."""


@dataclass(frozen=True)
class Failures:
    """Samples by cause: `header` names the causes; a line has a label, n, and for each cause (count, share,
    link)."""

    what: str
    header: tuple[str, ...]
    lines: list[tuple[str, int, list[tuple[int, render.Measure, str]]]]


@dataclass(frozen=True)
class TaskPart:
    """What the page shows of one task."""

    id: str
    key: str
    row: render.Row
    facts: list[tuple[str, str]]
    outcomes: Mapping[str, int]
    parts: tuple[tuple[str, list[render.Measure]], ...]
    failures: list[Failures]


@dataclass(frozen=True)
class RunPart:
    """What the page shows of one run; `at` begins the ids of its parts, empty for the first."""

    at: str
    name: str
    facts: list[tuple[str, str]]
    summary: render.Summary
    plot: Markup | None
    tasks: list[TaskPart]
    environment: dict[str, list[tuple[str, str]]]
    spec: str


def write_site(
    path: Path,
    runs: Sequence[Run],
    comparisons: Sequence[RunComparison] = (),
    tables: Sequence[Beside] = (),
    sweeps: Sequence[Path] = (),
) -> None:
    """Write the page of these runs. The same folders give the same bytes. Raises RunError if a run has no results."""
    names = run_names(runs)
    packed: list[Packed] = []
    parts = [_run(run, name, place, packed) for place, (name, run) in enumerate(zip(names, runs, strict=True))]
    script = (files("reports") / "templates" / "site.js").read_text(encoding="utf-8")
    keys = {(head["run"], head["task"]): head["key"] for head in (its.head for its in packed)}
    page = (
        new_environment()
        .get_template("report.html.j2")
        .render(
            title=f"Run {names[0]}" if len(runs) == 1 else f"{len(runs)} runs" if runs else "Sweep",
            runs=parts,
            overview=_overview(dict(zip(names, runs, strict=True))) if len(runs) > 1 else None,
            tables=[(table, formats.source(table)) for table in tables],
            legend=formats.LEGEND,
            comparisons=[(pair, comparison.notes(pair)) for pair in comparisons],
            compared=comparison.VIEW,
            linked=lambda run, task, id_: _link(keys.get((run, task)), id=visible(id_)),
            sweeps=[_sweep(folder, f"sweep-{place}") for place, folder in enumerate(sweeps, 1)],
            heads=_inert(json.dumps([its.head for its in packed], ensure_ascii=False)),
            packs=[pack for its in packed for pack in its.packs],
            script=_markup(script),
            policy=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            meanings=causes.CAUSES,
            score=render.score,
            count=render.count,
            fold=FOLD,
        )
    )
    write_atomic(path, page)


@dataclass(frozen=True)
class SweepPart:
    """What the page shows of one sweep; `plots` are a caption, the id of it, and the picture."""

    name: str
    tables: list[ablation.Table]
    notes: list[str]
    plots: list[tuple[str, str, Markup]]


def _sweep(folder: Path, at: str) -> SweepPart:
    plots = [(plot.caption, f"{at}-{plot.name}", plot.svg(f"{at}-{plot.name}")) for plot in ablation.plots_of(folder)]
    return SweepPart(folder.resolve().name, ablation.tables(folder), ablation.notes(folder), plots)


def _run(run: Run, name: str, place: int, packed: list[Packed]) -> RunPart:
    """The run's part; its samples are added to `packed`."""
    summary = render.summary_table(run)
    at = "" if place == 0 else f"run-{place + 1}-"
    tasks = []
    for row in summary.rows:
        key = f"s{len(packed)}"
        its = pack(key, run.records(row.task), name, row.task, visible)
        packed.append(its)
        tasks.append(_task(run, row, key, its))
    return RunPart(
        at=at,
        name=name,
        facts=facts(run),
        summary=summary,
        plot=plot(summary, f"{at}plot") if shares(summary) else None,
        tasks=tasks,
        environment=render.sections(environment(run)),
        spec=json.dumps(run.spec, indent=2, ensure_ascii=False, sort_keys=True),
    )


def _task(run: Run, row: render.Row, key: str, packed: Packed) -> TaskPart:
    result = run.results[row.task]
    spec = run.spec.get("tasks", {}).get(row.task, {})
    hidden = ("title", "report", "items", "metric", "measures", "sets")  # said elsewhere on the page
    told = render.flat({key: value for key, value in spec.items() if key not in hidden and value is not None})
    failures = []
    if causes.have_any(result.outcomes):
        samples = packed.samples
        failures.append(_failures("cause", causes.counts(samples), key, None))
        failures.append(_failures("prompt length", causes.counts(samples, packed.lengths), key, "chars"))
        if samples["group"].notna().any():
            failures.append(_failures("subject", causes.counts(samples, samples["group"]), key, "group"))
    return TaskPart(f"task-{int(key[1:]) + 1}", key, row, told, result.outcomes, measured_parts(run, row), failures)


def _failures(what: str, counts: pandas.DataFrame, key: str, by: str | None) -> Failures:
    lines = []
    for label, row in counts.iterrows():
        where = {} if by is None else {by: visible(str(label))}
        cells = [
            (n, render.measure(cause, "share", its), _link(key, **where, cause=cause))
            for cause, n, its in causes.shares(row)
        ]
        lines.append((str(label), int(row.sum()), cells))
    return Failures(what, tuple(counts.columns), lines)


def _link(key: str | None, **state: str) -> str:
    """The address, on this page, of samples chosen so; empty for a task that is not on it."""
    return "" if key is None else "#samples?" + urlencode({"task": key, **state})


def _overview(runs: Mapping[str, Run]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The chief number of every task: a line per task, a column per run."""
    frame = frames.results(runs)
    frame = frame[frame["part"] == "metric"]
    shown = {
        (row.task, row.run): f"{measured.text} [{measured.interval}]"
        for row in frame.itertuples()
        for measured in [render.measure(row.name, row.kind, Estimate(row.value, row.low, row.high, row.n))]
    }
    names = frame.groupby("task", sort=False)["name"].first()
    lines = [(task, name, *(shown.get((task, run), "–") for run in runs)) for task, name in names.items()]
    return ("Task", "Metric", *runs), lines


def _inert(text: str) -> Markup:
    """JSON for an element that holds data: nothing in it can end the element."""
    return _markup(text.replace("<", "\\u003c"))


def _markup(text: str) -> Markup:
    from markupsafe import Markup

    return Markup(text)


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
