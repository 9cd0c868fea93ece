"""`harness report` as a user types it: what it writes, and one line with exit code 2 for what is wrong."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pandas
import pytest

from harness.records import Run
from tests.commands import harness, typed
from tests.reports.conftest import ENVIRONMENT, SPEC, write_run
from tests.reports.sweeps import write_sweep


def report(*arguments: object) -> subprocess.CompletedProcess[str]:
    return typed("harness", "report", *arguments)


def test_tables_and_pages(run: Run, tmp_path: Path) -> None:
    done = harness("report", run.path, "--table", 5, "--format", "csv")
    assert done.returncode == 0, done.stderr
    frame = pandas.read_csv(io.StringIO(done.stdout))
    assert frame[frame["source"] == "demo"]["value"].count() == 3
    done = report(run.path, "--table", 2, "--format", "latex", "--out", tmp_path / "t.tex")
    assert "Table 2:" in done.stdout and (tmp_path / "t.tex").read_text().startswith(r"\begin{table}")
    other = write_run(tmp_path / "other", {**SPEC, "tasks": {"mmlu": SPEC["tasks"]["mmlu"]}}, ENVIRONMENT)
    done = report(run.path, other.path, "--out", tmp_path / "site")
    assert done.returncode == 0 and (tmp_path / "site" / "report.html").read_text().count("<h1>2 runs</h1>") == 1


def test_runs_of_other_tasks_share_a_page_and_are_not_compared(run: Run, tmp_path: Path) -> None:
    sums = {**SPEC, "tasks": {"sums": SPEC["tasks"]["gsm8k-chat"]}}
    done = report(run.path, write_run(tmp_path / "sums", sums, ENVIRONMENT).path, "--out", tmp_path / "site")
    assert done.returncode == 0 and "not compared" in done.stderr and "no sample in common" in done.stderr
    assert 'id="comparisons"' not in (tmp_path / "site" / "report.html").read_text()


def test_perplexities_at_other_lengths_than_table_3_share_a_page(run: Run, tmp_path: Path) -> None:
    for name in ("short", "shorter"):
        write_run(tmp_path / name, {**SPEC, "tasks": {"long-ppl": SPEC["tasks"]["gsm8k-chat"]}}, ENVIRONMENT)
    done = report(run.path, tmp_path / "short", tmp_path / "shorter", "--out", tmp_path / "site")
    assert done.returncode == 0 and done.stderr.count("not compared") == 1 and "(and 1 more)" in done.stderr
    assert "Table 3" not in (tmp_path / "site" / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--table", "18"], "has no Table 18"),
        (["--table", "MMLU"], "has no Table mmlu"),
        (["--figure", "1"], "has no Figure 1"),
        (["--table", "2", "--figure", "2"], "give one of them"),
        (["--table", "2", "--format", "docx"], "not one of md, html, latex, csv, png"),
        (["--format", "md"], "--format: is of --table and --figure"),
        (["--table", "16"], "no number for the report's Table 16"),
    ],
)
def test_what_is_wrong_is_one_line(run: Run, options: list[str], said: str) -> None:
    done = report(run.path, *options)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


def test_sweeps_and_folders_that_are_none(tmp_path: Path) -> None:
    assert "not a run folder" in report(tmp_path, "--table", 2).stderr
    write_sweep(tmp_path, ("none,1024,6,1.1,3.0,2.0,4.0,1,10",))
    assert "a sweep; give --out" in report(tmp_path).stderr
    done = report(tmp_path, "--out", tmp_path / "page")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page" / "report.html").read_text()
    write_sweep(tmp_path / "few", ("none,1024,5,1.1,3.0,2.0,4.0,1,10", "ntk,2048,5,1.1,3.0,2.0,4.0,1,10"))
    assert report(tmp_path / "few", "--out", tmp_path / "few").returncode == 0
    few = (tmp_path / "few" / "report.html").read_text()
    assert "3.00 (–)" in few and "4.00" not in few and "NaN" not in few, "five documents give no interval"
    table = pandas.read_csv(io.StringIO(report(tmp_path / "few", "--table", 3, "--format", "csv").stdout))
    own = table[(table["source"] == "few") & table["value"].notna()]
    assert own["value"].tolist() == [3.0, 3.0] and own[["low", "high"]].isna().all(axis=None)
    assert "<h1>Sweep</h1>" in page and "3.00 (2.00 – 4.00)" in page and "#samples" not in page.partition("<script")[0]
    (tmp_path / "cells.csv").write_text("cell,length\n")
    done = report(tmp_path, "--table", 3)
    assert done.returncode == 2 and "no cell" in done.stderr
