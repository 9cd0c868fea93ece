"""`harness ablate` before it starts, as a file, and what it shows."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from harness.ablation import cells
from harness.ablation.sweep_file import read_sweep_file
from harness.records import RunError
from tasks.api import TaskError
from tests.harness.sweeps import LENGTHS, TABLE_3, ablate, frame

# Before the start


def test_dry_run_prints_cells_tokens_and_time(narrow, documents, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = ablate(
        "--task", "long-ppl", "--model", narrow, "--rows", "none,ntk", "--lengths", "64,300", "--documents", documents,
        "--dry-run",
    )  # fmt: skip
    lines = [" ".join(line.split()) for line in done.output.splitlines()]
    assert "none 64 none at 64, 300 and 1 more" in lines and "ntk 300 ntk at 300" in lines
    assert any(line.startswith("ntk at 300 3 1,536 0 about") for line in lines)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grid", "lgn=on"], r"--grid: no switch is called 'lgn' \(did you mean logn\?\)"),
        (["--grid", "logn"], "--grid: 'logn' is not KEY=VALUE"),
        (["--grid", "logn=on,"], "--grid: 'logn=on,' is not KEY=VALUE"),
        (["--grid", "logn=on,on"], "--grid logn: on is named twice"),
        (["--grid", "logn=on", "logn=off"], "--grid: logn is set already"),
        (["--grid", "dtype=float32,bfloat16", "--dtype", "float32"], "--grid: dtype is set already, by --dtype"),
        (["--rows", "none", "--grid", "logn=on"], "--grid: logn is set already"),
        (["--grid", "logn=maybe"], "--grid: logn is 'maybe'; give on or off"),
        (["--grid", "dynamic_ntk=on"], "--grid: dynamic_ntk: 'on' is not one of off, released, exact"),
        (["--grid", "seed=x"], "--grid: seed is 'x', no whole number"),
        (["--grid", "dtype=float23"], "--dtype: 'float23' is not one of"),
        (["--grid", "temperature=0.5"], "task long-ppl has no decoding to change"),
        (["--rows", "none,ntk+long"], r"--rows: 'long' is not one of none, ntk.*did you mean logn\?"),
        (["--rows", "none,none"], "--rows: none is named twice"),
        (["--rows", "none,ntk", "--base", "ntc"], "--base: no cell is called 'ntc'; there are none, ntk"),
        ([], "nothing is varied; give --grid"),
        (["--rows", "none", "--lengths", "64,1000000"], "--documents: the longest has"),
        (["--rows", "none", "--lengths", "1"], "--lengths: 1 tokens have no token to judge"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_before_the_start(narrow, documents, tmp_path, arguments, message):
    with pytest.raises(TaskError, match=message) as error:
        ablate("--task", "long-ppl", "--model", narrow, "--documents", documents, *arguments, "--out", tmp_path / "s")
    assert "\n" not in str(error.value) and not (tmp_path / "s").exists()


def test_no_documents_and_no_memory_are_one_line_before_the_start(narrow, documents, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    command = ["--task", "long-ppl", "--model", narrow, "--rows", "none,ntk", "--out", tmp_path / "s", "--lengths"]
    with pytest.raises(TaskError, match=r"empty: no document there; put \.txt files in"):
        ablate(*command, "64", "--documents", tmp_path / "empty")
    monkeypatch.setattr("harness.ablation.units.free_memory", lambda device: 1000)
    with pytest.raises(TaskError, match=r"a text of 300 tokens takes .* GB of keys .*; ask for shorter --lengths"):
        ablate(*command, "64,300", "--documents", documents)
    assert not (tmp_path / "s").exists()


# A sweep as a file


def test_a_file_is_the_same_as_options(sweep, narrow, documents, tmp_path):
    _, out = sweep
    (tmp_path / "table3.yaml").write_text(
        f"question: How far?\ntask: long-ppl\nmodel: {narrow}\nrows: [{TABLE_3}]\nlengths: {list(LENGTHS)}\n"
        f"documents: {documents}\n"
    )
    ablate("--config", tmp_path / "table3.yaml", "--out", tmp_path / "s")
    assert (tmp_path / "s" / "documents.csv").read_bytes() == (out / "documents.csv").read_bytes()
    assert "How far?" in (tmp_path / "s" / "ablation.html").read_text()


def test_the_command_line_goes_before_the_file(narrow, documents, tmp_path):
    (tmp_path / "s.yaml").write_text("task: long-ppl\nmodel: nowhere\nrows: [none, ntk]\nbase: ntk\nlengths: [9]\n")
    ablate(
        "--config", tmp_path / "s.yaml", "--model", narrow, "--rows", "logn,none", "--lengths", "64", "--documents",
        documents, "--out", tmp_path / "s",
    )  # fmt: skip
    found = frame(tmp_path / "s" / "cells.csv")
    assert list(found["cell"]) == ["logn", "none"] and set(found["length"]) == {64}


def test_yaml_reads_on_and_off_as_truths(tmp_path):
    (tmp_path / "s.yaml").write_text("task: mmlu\ngrid:\n  logn: [off, on]\n  window: [none, 512]\ndata-dir: here\n")
    assert read_sweep_file(tmp_path / "s.yaml") == {
        "task": ["mmlu"], "grid": ["logn=off,on", "window=none,512"], "data_dir": tmp_path / "here",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("taks: mmlu", r"no key 'taks'; did you mean task\?"),
        ("- a", "not a table of settings"),
        ("a: [", "not YAML"),
        ("grid: [a]", "grid is no table"),
        ("task:", "task is None, no single value"),
        ("rows: []", "rows is empty"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, text, message):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(TaskError, match=message) as error:
        read_sweep_file(tmp_path / "s.yaml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "ablations").glob("*.yaml")), ids=lambda p: p.name)
def test_the_files_that_are_shipped_are_read(path):
    asked = read_sweep_file(path)
    found = cells.cells(asked["model"], asked["task"], asked.get("rows", []), asked.get("grid", []))
    assert asked["question"].endswith("?") and asked["base"] in [cell.name for cell in found]


# What is shown


def test_tables_plots_and_page(sweep):
    done, out = sweep
    lines = [" ".join(line.split()) for line in done.output.splitlines()]
    found = frame(out / "cells.csv").set_index(["cell", "length"])
    row = found.loc[("ntk", 700)]
    shown = f"{row['perplexity']:.2f}" if row["perplexity"] < 1000 else f"{row['perplexity']:,.0f}"
    assert any(line.startswith("ntk ") and f"{shown} (" in line for line in lines)
    assert any(line.startswith("ntk equal ") for line in lines)  # at 96 tokens
    for name in ("curves", "positions", "heat", "cost"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "ablation.html").read_text()
    assert page.count("<svg") == 4 and "default-src 'none'" in page
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page and "<image" not in page


def test_equal_sweeps_give_equal_pages(sweep):
    from reports import ablation

    _, out = sweep
    before = (out / "ablation.html").read_bytes()
    ablation.write(out)
    assert (out / "ablation.html").read_bytes() == before


def test_csv_reads_back_with_the_standard_library(sweep):
    _, out = sweep
    with (out / "cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16 and rows[0]["cell"] == "none" and rows[0]["window"] == "none"


def test_per_cent_is_what_the_task_says_whatever_its_measure_is_called(tmp_path):
    from reports import ablation

    rows = ["a,tool selection,mean,12,93.5,90,97,1,10", "b,no loss,share,12,0.25,0.1,0.5,1,10", "c,x,mean,5,2,1,3,1,1"]
    head = "cell,metric,kind,n,value,low,high,seconds,peak_mb"
    (tmp_path / "cells.csv").write_text("\n".join([head, *rows]) + "\n")
    (tmp_path / "sweep.json").write_text('{"cells": [], "runs": []}')
    (_, _, lines), _ = ablation.tables(tmp_path)
    assert [line[3:5] for line in lines] == [
        ("93.500", "90.000 – 97.000"), ("25.0 %", "10.0 % – 50.0 %"), ("2.000", "–"),
    ]  # fmt: skip
    plot = next(plot for plot in ablation.plots_of(tmp_path) if plot.name == "cells")
    assert ">tool selection; no loss, %; x<" in plot.svg("a")
    old = "\n".join(row.replace(",mean", "").replace(",share", "").replace(",kind", "") for row in [head, *rows])
    (tmp_path / "cells.csv").write_text(old + "\n")
    with pytest.raises(RunError, match="no column `kind`"):
        ablation.tables(tmp_path)
