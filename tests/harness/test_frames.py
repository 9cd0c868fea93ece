"""`harness export --format csv|parquet`, and the frame of `run.samples`: pandas reads back what was written."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import pandas
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from harness.frames import NOTHING, TEXTS, frame, write
from harness.records import RunError, write_atomic
from tests.harness.made_runs import make_run, record

NASTY = ["", "NA", "null", "4", "1e5", '"', "a,b", "line\nand\r\nline\rend", " blank ", "é漢\u2028x", "True", "\t'"]


def read_csv(path: Path) -> pandas.DataFrame:
    """As the docs say."""
    texts = [name for name in pandas.read_csv(path, nrows=0).columns if name in (*TEXTS, *NESTED)]
    return pandas.read_csv(path, dtype=dict.fromkeys(texts, "str"), keep_default_na=False, na_values=[NOTHING])


NESTED = ("choice_logprobs", "token_logprobs", "detail")


def samples(texts):
    return [
        record(
            "sums",
            f"sums/{i}",
            i,
            prompt=text,
            response=text,
            gold=text,
            answer=None if i % 3 == 0 else text,
            group=None if i % 2 else "a",
            scores={"close": 1 / (i + 3)} if i % 2 else {},
            choice_logprobs={"A": -0.1, "B": -2.5} if i == 1 else None,
            detail={"why": text},
        )
        for i, text in enumerate(texts)
    ]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_pandas_reads_back_what_was_written(tmp_path, form):
    letters = [record("letters", "letters/0", scores={"loss": 2.5}, token_logprobs=None, finish=None)]
    run = make_run(tmp_path / "run", {"sums": samples(NASTY), "letters": letters})
    file = tmp_path / "out" / f"samples.{form}"
    write(run, file, form)
    table = read_csv(file) if form == "csv" else pandas.read_parquet(file)
    assert_frame_equal(table, frame(run))
    assert list(table["task"]) == ["sums"] * len(NASTY) + ["letters"]
    assert list(table["prompt"][: len(NASTY)]) == NASTY
    assert table["score:close"][1] == 0.25 and pandas.isna(table["score:close"][0])
    assert json.loads(table["choice_logprobs"][1]) == {"A": -0.1, "B": -2.5}
    first = file.read_bytes()
    write(run, file, form)
    assert file.read_bytes() == first


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=1, max_size=4))
def test_any_text_survives_csv(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("any")
    run = make_run(folder / "run", {"sums": samples(texts)})
    write(run, folder / "samples.csv", "csv")
    table = read_csv(folder / "samples.csv")
    assert [row.prompt for row in run.records("sums")] == list(table["prompt"])
    assert_frame_equal(table, frame(run))


def test_the_frame_of_a_task(tmp_path):
    run = make_run(tmp_path / "run", {"sums": samples(NASTY)})
    table = run.samples("sums")
    assert len(table) == len(NASTY) and table["choice_logprobs"][1]["B"] == -2.5
    assert table.groupby("correct").size()[True] == len(NASTY)
    with pytest.raises(RunError, match=r"no task 'sum'; its tasks are sums"):
        run.samples("sum")


def test_a_run_without_samples_is_said(tmp_path):
    run = make_run(tmp_path / "run", {"sums": samples(["a"])})
    with sqlite3.connect(run.path / "samples.sqlite") as database:
        database.execute("DELETE FROM samples")
    with pytest.raises(RunError, match="no sample is judged there yet"):
        frame(run)
    (run.path / "samples.sqlite").unlink()
    with pytest.raises(RunError, match=r"samples\.sqlite is gone"):
        frame(run)


def test_a_table_replaces_a_file_and_nothing_else(tmp_path):
    run = make_run(tmp_path / "run", {"sums": samples(["a"])})
    (tmp_path / "file.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("file.csv")
    write(run, tmp_path / "link.csv", "csv")
    assert (tmp_path / "link.csv").is_symlink() and "sums" in (tmp_path / "file.csv").read_text()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RunError, match="pipe: is there, and is no file"):
        write(run, tmp_path / "pipe", "csv")
    assert (tmp_path / "pipe").is_fifo()


def test_what_could_not_be_written_leaves_nothing_behind(tmp_path):
    path = tmp_path / "a.json"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "new \ud83d")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.json", "old")]
