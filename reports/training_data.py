"""The page of a run of `qwen-train data`, from its report.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.records import write_atomic
from reports.plot import INK, OURS, THEIRS, inline_svg, plain
from reports.texts import new_environment

HEADER = ("Fate", "Documents", "%", "Characters", "%")
KEPT = "kept"
LANGUAGES = 15
"""Languages that are drawn, the commonest ones."""


def write_page(report: Path) -> Path:
    """Write `report.html` beside report.json. Equal files give equal bytes."""
    whole = json.loads(report.read_text(encoding="utf-8"))
    page = new_environment().get_template("training_data.html.j2")
    text = page.render(
        facts=_facts(whole),
        table=table(whole),
        funnel=_funnel(whole),
        lengths=_bars("length", _lengths(whole["lengths"])),
        languages=_bars("language", list(whole["languages"].items())[:LANGUAGES]),
        language_count=len(whole["languages"]),
        rules=whole["rules"],
        sources=whole["sources"],
        masked=whole["masked"],
        bad=whole["bad"],
        quality=whole["quality"],
        samples=[(fate, found) for fate, found in whole["samples"].items() if found],
        config=json.dumps(whole["config"], ensure_ascii=False, indent=1),
    )
    path = report.with_name("report.html")
    write_atomic(path, text)
    return path


def table(whole: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows: every fate with its documents and characters; `whole` is report.json."""
    documents = sum(row["documents"] for row in whole["fates"])
    characters = sum(row["characters"] for row in whole["fates"])
    return HEADER, [
        (
            row["fate"],
            f"{row['documents']:,}",
            f"{100 * row['documents'] / documents:.2f}",
            f"{row['characters']:,}",
            f"{100 * row['characters'] / max(1, characters):.2f}",
        )
        for row in whole["fates"]
    ]


def _facts(whole: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("Corpus", ", ".join(whole["corpus"][:3]) + (" …" if len(whole["corpus"]) > 3 else "")),
        ("Documents read", f"{whole['documents']:,}"),
        ("Characters read", f"{whole['characters']:,}"),
        ("Documents written", f"{whole['written']['documents']:,}"),
        ("Characters written", f"{whole['written']['characters']:,}"),
        ("Bad lines or files", f"{whole['bad']['lines']:,}"),
    ]


def _funnel(whole: Mapping[str, Any]) -> Any:
    """Documents left after each step, those that it dropped behind them."""
    left = sum(row["documents"] for row in whole["fates"])
    steps = [("read", left, 0)]
    for row in whole["fates"]:
        if row["fate"] != KEPT:
            left -= row["documents"]
            steps.append((row["fate"], left, row["documents"]))

    def draw(axes: Any) -> None:
        places = range(len(steps))
        axes.barh(places, [step[1] for step in steps], 0.7, color=OURS)
        axes.barh(places, [step[2] for step in steps], 0.7, left=[step[1] for step in steps], color=THEIRS)
        for place, (_, kept, dropped) in enumerate(steps):
            axes.text(
                kept + dropped, place, f" {kept:,}" + (f" (−{dropped:,})" if dropped else ""), va="center", color=INK
            )
        axes.set_xlim(0, 1.3 * max(1, steps[0][1]))
        axes.set_ylim(len(steps) - 0.5, -0.5)
        _named(axes, "documents left (dropped by this step)", places, [step[0] for step in steps])

    return inline_svg((6.4, 1 + 0.32 * len(steps)), draw, "funnel-caption")


def _lengths(lengths: Mapping[str, int]) -> list[tuple[str, int]]:
    bits = sorted(map(int, lengths))
    if not bits:
        return []
    return [(f"{1 << bit - 1 if bit else 0:,} –", lengths.get(str(bit), 0)) for bit in range(bits[0], bits[-1] + 1)]


def _bars(what: str, rows: Sequence[tuple[str, int]]) -> Any:
    def draw(axes: Any) -> None:
        places = range(len(rows))
        axes.barh(places, [count for _, count in rows], 0.7, color=OURS)
        for place, (_, count) in enumerate(rows):
            axes.text(count, place, f" {count:,}", va="center", color=INK)
        axes.set_xlim(0, 1.2 * max([1, *(count for _, count in rows)]))
        axes.set_ylim(max(1, len(rows)) - 0.5, -0.5)
        _named(axes, "documents kept", places, [name for name, _ in rows])

    return inline_svg((6.4, 1 + 0.28 * len(rows)), draw, f"{what}-caption")


def _named(axes: Any, label: str, places: Sequence[int], names: Sequence[str]) -> None:
    axes.set_xlabel(label)
    axes.set_yticks(places, names, parse_math=False)
    plain(axes, "x")
