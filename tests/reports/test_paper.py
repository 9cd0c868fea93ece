"""The report's tables as data, against a transcription made by others where it is beside the project (it is skipped
where it is not). Not covered: the values against the PDF itself, which is not in this repository."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from reports import paper

TRANSCRIPTION = Path(__file__).parents[3] / "shared" / "paper" / "qwen_report_tables.yaml"
needs_transcription = pytest.mark.skipif(not TRANSCRIPTION.is_file(), reason=f"no transcription: {TRANSCRIPTION}")


@pytest.fixture(scope="module")
def transcription() -> dict[str, Any]:
    return yaml.load(TRANSCRIPTION.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)


def test_cells_that_everyone_quotes() -> None:
    mmlu = {row.name: row.value for row in paper.rows("table_2", "MMLU")}
    assert (mmlu["Qwen 1.8B"], mmlu["Qwen 7B"], mmlu["Qwen 14B"], mmlu["LLaMA 2 70B"]) == (44.6, 58.2, 66.3, 69.8)
    chat = {row.name: row.value for row in paper.rows("table_5", "HumanEval 0-shot")}
    assert (chat["Qwen-Chat 1.8B"], chat["Qwen-Chat 7B"], chat["Qwen-Chat 14B"], chat["GPT-4"]) == (
        14.6,
        37.2,
        43.9,
        86.6,
    )


@pytest.mark.parametrize("name", paper.NAMES)
def test_tables_are_whole(name: str) -> None:
    """Every row has every column, notes name what is there, and sizes can be read."""
    table = paper.table(name)
    assert table.title and "page" in table.source
    for row in table.rows:
        assert list(row["values"]) == list(table.columns)
        assert row["params"] is None or 1 < paper.billions(row["params"]) < 1000
    for column, facts in table.columns.items():
        assert facts.protocol in ("base", "chat", None) and facts.better in ("higher", "lower", None)
        for row in paper.rows(name, column):
            assert row.value is None or round(row.value, facts.decimals) == row.value > 0
            assert row.value is None or row.value <= 100 or "%" not in facts.unit
    for note in table.notes:
        assert set(note["columns"] or []) <= set(table.columns)
        assert set(note["models"] or []) <= {row["model"] for row in table.rows}


@needs_transcription
@pytest.mark.parametrize("name", paper.NAMES)
def test_every_value_equals_the_transcription(name: str, transcription: dict[str, Any]) -> None:
    theirs = next(entry for entry in [*transcription["tables"], *transcription["figures"]] if entry["id"] == name)
    ours = {(row["model"], row["params"]): row["values"] for row in paper.table(name).rows}
    seen = 0
    for row in theirs["rows"]:
        mine = ours[row["model"], row.get("params")]
        parts = {kind: row[kind] for kind in ("win", "tie", "loss") if kind in row} or {"": row["values"]}
        for kind, values in parts.items():
            for column, value in values.items():
                mode = f", {row['group'].lower()}" if name == "table_9" else f", {kind}" if kind else ""
                assert mine[column + mode] == _number(value), (name, row["model"], column)
                seen += 1
    assert seen == sum(map(len, ours.values()))


def _number(value: Any) -> Any:
    """4M and 2.2T are in millions and in millions of millions here."""
    return float(value[:-1]) if isinstance(value, str) else value


@needs_transcription
@pytest.mark.parametrize("name", paper.NAMES)
def test_shots_equal_the_transcription(name: str, transcription: dict[str, Any]) -> None:
    theirs = next(entry for entry in [*transcription["tables"], *transcription["figures"]] if entry["id"] == name)
    for column in theirs.get("columns", []):
        if isinstance(column, dict) and "shots" in column:
            assert paper.column_of(name, column["name"]).shots == column["shots"]


@needs_transcription
def test_both_values_of_every_disagreement_about_a_table_are_kept(transcription: dict[str, Any]) -> None:
    """Numbers with a decimal that the transcription's list of disagreements has are in our data or notes."""
    told = " ".join(note["text"] for name in paper.NAMES for note in paper.table(name).notes)
    known = {value for name in paper.NAMES for row in paper.table(name).rows for value in row["values"].values()}
    checked = 0
    for entry in transcription["disagreements"]:
        if re.search(r"Table|Figure", f"{entry['a']} {entry['b']}"):
            for number in re.findall(r"\d+\.\d", f"{entry['a']} {entry['b']}".replace("section 2.5", "")):
                assert number in told or float(number) in known, (entry["what"], number)
                checked += 1
    assert checked > 20


def test_disagreements_keep_both_values() -> None:
    assert any("0-shot" in note and "3-shot" in note for note in paper.notes("table_2", "MBPP", {"Qwen"}))
    assert any("60.1" in note and "61.0" in note for note in paper.notes("table_5", "GSM8K 0-shot", {"Qwen-Chat"}))
    assert any("69.5" in note for note in paper.notes("table_7", "All", {"Qwen-Chat"}))


def test_a_frame_has_a_row_per_model() -> None:
    frame = paper.frame("table_3")
    assert list(frame.columns) == ["model", "params", "group", "1024", "2048", "4096", "8192", "16384"]
    assert frame.loc[0, "16384"] == 2645.09 and math.isnan(frame.loc[4, "1024"]) and len(frame) == 6


@pytest.mark.parametrize(("table", "column"), [("table_99", "MMLU"), ("table_2", "MMLU 0-shot")])
def test_unknown_cells_say_what_there_is(table: str, column: str) -> None:
    with pytest.raises(LookupError, match=r"it has MMLU|table_1, table_2"):
        paper.rows(table, column)


def test_sizes_are_read_as_we_print_them_too():
    sizes = {98_928: "0.0989M", 4_460_000: "4.46M", 99_960_000: "100M", 630_000_000: "0.63B", 7_000_000_000: "7B"}
    for parameters, printed in sizes.items():
        assert paper.size(parameters) == printed
        assert paper.billions(printed) == pytest.approx(parameters / 1e9, rel=0.01)
