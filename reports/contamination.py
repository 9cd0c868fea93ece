"""The page of a search for test items in a training corpus, from the files that the search wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.records import write_atomic
from reports.texts import new_environment

SHOWN = 50
"""Items with an overlap that are shown per task, those with most of their grams found first."""
HEADER = ("Task", "Items", "Too short", "Overlap", "Overlap %", "Contaminated", "Contaminated %")


def write_page(folder: Path) -> Path:
    """Write `contamination.html` beside contamination.json and items.jsonl. Equal files give equal bytes."""
    whole = json.loads((folder / "contamination.json").read_text(encoding="utf-8"))
    shown: dict[str, list[dict[str, Any]]] = {row["task"]: [] for row in whole["tasks"]}
    with (folder / "items.jsonl").open(encoding="utf-8") as file:
        for line in file:
            item = json.loads(line)
            if item["found"] and len(shown[item["task"]]) < SHOWN:
                shown[item["task"]].append(item)
    totals = {row["task"]: row["overlap"] for row in whole["tasks"]}
    page = new_environment().get_template("contamination.html.j2")
    text = page.render(
        facts=_facts(whole),
        table=table(whole),
        n=whole["n"],
        share=whole["share"],
        shortest=whole["shortest"],
        corpus=whole["corpus"],
        examples=[(task, found, totals[task]) for task, found in shown.items() if found],
    )
    path = folder / "contamination.html"
    write_atomic(path, text)
    return path


def table(whole: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of the counts by task; `whole` is contamination.json."""
    rows: list[tuple[str, ...]] = [
        (
            row["task"],
            f"{row['items']:,}",
            f"{row['too_short']:,}",
            f"{row['overlap']:,}",
            f"{100 * row['overlap_share']:.2f}",
            f"{row['contaminated']:,}",
            f"{100 * row['contaminated_share']:.2f}",
        )
        for row in whole["tasks"]
    ]
    return HEADER, rows


def _facts(whole: Mapping[str, Any]) -> list[tuple[str, str]]:
    corpus = whole["corpus"]
    return [
        ("Corpus", whole["path"]),
        ("Files", f"{corpus['files']:,}"),
        ("Size", f"{corpus['bytes'] / 1e6:,.1f} MB"),
        ("Documents", f"{corpus['documents']:,}"),
        ("Characters", f"{corpus['characters']:,}"),
        ("Not read", f"{corpus['bad']:,}"),
        ("n", str(whole["n"])),
        ("Fields of the items", ", ".join(whole["fields"]) or "all text"),
    ]
