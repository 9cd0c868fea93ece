"""The report's tables as data. Not covered: the values against the PDF itself, which is not in this repository."""

from __future__ import annotations

import pytest

from reports import paper


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


@pytest.mark.parametrize("table", ["table_2", "table_5"])
def test_tables_are_whole(table: str) -> None:
    """Every row has every column; values are per cent or the report's "-"."""
    data = paper._data()["tables"][table]
    assert len(data["rows"]) == {"table_2": 21, "table_5": 12}[table]
    for column in data["columns"]:
        assert paper.column_of(table, column).protocol == {"table_2": "base", "table_5": "chat"}[table]
        for row in paper.rows(table, column):
            assert row.value is None or 0 < row.value < 100
    for row in data["rows"]:
        assert list(row["values"]) == list(data["columns"])
    for note in data["notes"]:
        assert set(note["columns"] or []) <= set(data["columns"])
        assert set(note["models"] or []) <= {row["model"] for row in data["rows"]}


def test_disagreements_keep_both_values() -> None:
    assert any("0-shot" in note and "3-shot" in note for note in paper.notes("table_2", "MBPP", {"Qwen"}))
    assert any("60.1" in note and "61.0" in note for note in paper.notes("table_5", "GSM8K 0-shot", {"Qwen-Chat"}))


@pytest.mark.parametrize(("table", "column"), [("table_99", "MMLU"), ("table_2", "MMLU 0-shot")])
def test_unknown_cells_say_what_there_is(table: str, column: str) -> None:
    with pytest.raises(LookupError, match=r"it has MMLU|table_2, table_5"):
        paper.rows(table, column)
