"""The page of a training run: what it was asked for and its curves, from run.json and log.jsonl."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.records import write_atomic
from reports.plot import OURS, THEIRS, inline_svg, plain
from reports.texts import new_environment

Rows = Sequence[Mapping[str, Any]]
_POINTS = 2000
"""Of a curve, at most; each is the mean of the steps that it stands for."""


def write_page(folder: Path) -> Path:
    """Write `report.html` beside log.jsonl. Equal files give equal bytes."""
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [row for row in rows if row["kind"] == "train"]
    validation = [row for row in rows if row["kind"] == "validation"]
    harness = [row for row in rows if row["kind"] == "harness"]
    page = new_environment().get_template("training.html.j2")
    text = page.render(
        facts=_facts(run, steps, validation),
        curves=_curves(steps, validation),
        skipped=[(row["step"], row["skipped"]) for row in steps if row.get("skipped")],
        tasks=_tasks(harness),
        recipe=json.dumps(run["recipe"], ensure_ascii=False, indent=1),
    )
    path = folder / "report.html"
    write_atomic(path, text)
    return path


def _facts(run: Mapping[str, Any], steps: Rows, validation: Rows) -> list[tuple[str, str]]:
    last = steps[-1]
    speeds = sorted(row["tokens_per_second"] for row in steps)
    losses = [row["loss"] for row in steps[-20:]]
    lost = sum(not math.isfinite(loss) for loss in losses)
    shares = sorted(row["mfu"] for row in steps if "mfu" in row)
    facts = [
        ("Parameters", f"{run['parameters']:,}"),
        ("Steps", f"{last['step']:,} of {run['steps']:,}"),
        ("Tokens read", f"{last['tokens']:,}"),
        ("Loss, last 20 steps", f"{_mean(losses):.3f} nats" + (f" ({lost} not finite, left out)" if lost else "")),
        ("Tokens a second, median", f"{speeds[len(speeds) // 2]:,.0f}"),
        ("Memory at most", f"{max(row['memory_mb'] for row in steps):,.0f} MB"),
        ("Steps skipped", f"{sum(1 for row in steps if row.get('skipped')):,}"),
    ]
    if validation:
        facts.insert(4, ("Validation loss", f"{validation[-1]['loss']:.3f} nats"))
    if shares:
        peak = f"{run['peak_flops'] / 1e9:,.0f} GFLOP/s"
        facts.append(
            ("MFU, median", f"{100 * shares[len(shares) // 2]:.0f} % of {peak}, a matrix product's speed here")
        )
    return facts


def _curves(steps: Rows, validation: Rows) -> list[tuple[str, str, Any]]:
    """Id, caption and plot of each curve."""
    drawn = [
        ("loss", "Loss in nats a token: every step, and on the documents held out (marks).", validation),
        ("grad_norm", "Norm of the gradient before clipping.", []),
        ("learning_rate", "Learning rate.", []),
        ("tokens_per_second", "Tokens a second.", []),
    ]
    return [(name, caption, _curve(name, steps, marks)) for name, caption, marks in drawn]


def _curve(name: str, steps: Rows, marks: Rows) -> Any:
    every = -(-len(steps) // _POINTS)
    parts = [steps[at : at + every] for at in range(0, len(steps), every)]
    points = [(part[-1]["step"], _mean([row[name] for row in part])) for part in parts]

    def draw(axes: Any) -> None:
        axes.plot(*zip(*points, strict=True), color=OURS, linewidth=1)
        if marks:
            axes.plot([m["step"] for m in marks], [m[name] for m in marks], "o", color=THEIRS, markersize=4)
        axes.set_xlabel("step")
        if name == "grad_norm":
            axes.set_yscale("log")
        plain(axes)

    return inline_svg((6.4, 2.8), draw, f"{name}-caption")


def _tasks(harness: Rows) -> tuple[list[str], list[list[str]]]:
    """Header and rows: the harness's metrics by step."""
    names = list(dict.fromkeys(name for row in harness for name in row if name not in ("step", "kind")))
    rows = [[f"{row[name]:.4g}" if name in row else "" for name in names] for row in harness]
    return ["Step", *names], [[f"{row['step']:,}", *cells] for row, cells in zip(harness, rows, strict=True)]


def _mean(values: Sequence[float]) -> float:
    """Of the finite ones; NaN where there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
