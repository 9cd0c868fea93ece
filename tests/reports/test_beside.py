"""Our rows among the report's, in every format. Not covered: how the pictures look."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas
import pytest

from harness.records import Run, RunError
from reports import formats, paper
from reports.beside import REPORT, beside
from reports.cells import CELLS
from reports.figures import write_figure
from tests.reports.conftest import ENVIRONMENT, SPEC, write_run
from tests.reports.sweeps import write_sweep


def sized(path: Path, name: str, parameters: int | None, **model: Any) -> Path:
    spec = {**SPEC, "model": {**SPEC["model"], "name": name, **model}}
    return write_run(path, spec, ENVIRONMENT if parameters is None else {**ENVIRONMENT, "parameters": parameters}).path


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [sized(tmp_path / "big", "big_one", 8_000_000_000), sized(tmp_path / "small", "small", 500_000_000)]


def test_rows_are_sorted_by_size_and_ours_are_among_them(runs: list[Path]) -> None:
    lines = beside(runs, "table_5").lines
    sizes = [float("inf") if line.size == "–" else paper.billions(line.size) for line in lines]
    assert sizes == sorted(sizes) and len(lines) == 12 + 2
    assert [line.model for line in lines if line.ours] == ["small", "big_one"] and lines[0].model == "small"
    assert lines[-1].size == "–", "GPT-4's size is not known"


def test_numbers_are_the_runs_and_only_ours_have_intervals(runs: list[Path]) -> None:
    frame = beside(runs, "table_5").frame
    ours = frame[(frame["source"] == "small") & (frame["column"] == "GSM8K 0-shot")].iloc[0]
    estimate = Run(runs[1]).results["gsm8k-chat"].metrics["accuracy"]
    assert [ours["value"], ours["low"], ours["high"]] == pytest.approx(
        [100 * estimate.value, 100 * estimate.low, 100 * estimate.high], abs=1e-4
    )
    assert (ours["n"], ours["task"]) == (40, "gsm8k-chat")
    theirs = frame[frame["source"] == REPORT]
    assert theirs["low"].isna().all() and theirs["n"].isna().all() and len(theirs) == 12 * 9
    expected = paper.frame("table_5").set_index(["model", "params"])
    for row in theirs.to_dict("records"):
        value = expected.loc[(row["model"], row["params"]), row["column"]]
        assert pandas.isna(value) if pandas.isna(row["value"]) else value == row["value"]


def test_the_best_of_a_column_is_marked_whosever_it_is(runs: list[Path], tmp_path: Path) -> None:
    frame = beside(runs, "table_2").frame
    best = frame[frame["best"]].set_index("column")["model"].to_dict()
    assert best["MMLU"] == "LLaMA 2" and best["GSM8K"] == "StableBeluga2"
    sweep = write_sweep(tmp_path / "sweep")
    lower = beside([sweep], "table_3").frame
    assert lower[lower["best"] & (lower["column"] == "2048")]["value"].tolist() == [3.3], "lower perplexity is better"
    assert lower[lower["source"] == "sweep"]["model"].unique().tolist() == ["none", "ntk"]


def test_a_sweep_of_another_task_and_cells_that_failed_have_no_row(tmp_path: Path) -> None:
    file = tmp_path / "cells.csv"
    head = "cell,model,task,length,documents,perplexity,low,high\n"
    file.write_text(head + "none,/m/tiny,long-ppl,2048,6,3.5,3,4\nntk,/m/tiny,long-ppl,2048,,,,\n")
    assert [line.model for line in beside([tmp_path], "table_3").lines if line.ours] == ["tiny, none"]
    file.write_text(head + "none,/m/tiny,retrieval,2048,6,3.5,3,4\n")
    with pytest.raises(RunError, match="Table 3"):
        beside([tmp_path], "table_3")


def test_footnotes_name_every_difference(runs: list[Path]) -> None:
    table = beside(runs, "table_2")
    line = next(line for line in table.lines if line.model == "small")
    told = dict(zip([head.text for head in table.heads], line.cells, strict=True))
    notes = {column: " ".join(table.footnotes[n - 1] for n in shown.notes) for column, shown in told.items()}
    assert "40 of 1,319 items (limit 40)" in notes["GSM8K"] and "Q4_K_M" in notes["MMLU"]
    assert "0-shot, chat here, 8-shot, base in Table 2" in notes["GSM8K"] and "Not the" not in notes["MMLU"]
    assert "Another model" in notes["HumanEval"] and notes["BBH"] == "" and told["BBH"].text == "–"
    assert any("71.6" in table.footnotes[n - 1] for head in table.heads for n in head.notes if head.text == "C-Eval")


def test_versions_and_two_runs_of_one_model_are_told_apart(tmp_path: Path) -> None:
    paths = [sized(tmp_path / name, "same", None) for name in ("a", "b")]
    spec = json.loads((paths[0] / "spec.json").read_text())
    spec["tasks"]["mmlu"]["version"] = 3
    (paths[0] / "spec.json").write_text(json.dumps(spec))
    table = beside(paths, "table_2")
    assert [line.model for line in table.lines if line.ours] == ["same, a", "same, b"]
    assert "Version 3 of mmlu." in table.footnotes


def test_folders_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    paths = []
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        paths.append(sized(tmp_path / name / "run", "same", None))
    assert [line.model for line in beside(paths, "table_2").lines if line.ours] == [f"same, {path}" for path in paths]
    drawn = write_figure(beside(paths, "figure_2"), tmp_path)[1].read_text()
    assert all(f"same, {path} (ours)" in drawn for path in paths)


def test_csv_read_back_by_pandas_is_the_frame(runs: list[Path]) -> None:
    for name in ("table_2", "table_5", "figure_2"):
        frame = beside(runs, name).frame
        back = pandas.read_csv(io.StringIO(formats.as_csv(beside(runs, name))))
        pandas.testing.assert_frame_equal(back, frame, check_exact=True, check_dtype=False)


def test_markdown_has_a_cell_for_every_cell(runs: list[Path]) -> None:
    text = formats.as_markdown(beside(runs, "table_2"))
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    assert {len(row) for row in rows} == {9} and len(rows) == 2 + 21 + 2
    assert "| big\\_one (ours) | 8B |" in text and "**72.1**" in text


LATEX = "\\documentclass{{article}}\n\\begin{{document}}\n{}\n\\end{{document}}\n"


def test_latex_is_well_formed(runs: list[Path]) -> None:
    """Where pdflatex is not installed this is all that is tested of it."""
    text = formats.as_latex(beside(runs, "table_5"))
    begun = re.findall(r"\\(begin|end)\{(\w+)\}", text)
    assert [name for kind, name in begun if kind == "begin"] == ["table", "tabular", "minipage"]
    assert [name for kind, name in begun if kind == "end"] == ["tabular", "minipage", "table"]
    body = text[text.index(r"\hline") : text.index(r"\end{tabular}")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {10} and len(rows) == 1 + 12 + 2
    assert not re.search(r"(?<!\\)[%#$_^~]", re.sub(r"\\text\w+|\\setlength.*", "", text))
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert r"\textit{big\_one} (ours)" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(runs: list[Path], tmp_path: Path) -> None:
    for name in ("table_2", "table_10", "figure_2"):
        (tmp_path / "paper.tex").write_text(LATEX.format(formats.as_latex(beside(runs, name))), encoding="utf-8")
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:]
        assert (tmp_path / "paper.pdf").read_bytes().startswith(b"%PDF")


def test_latex_escapes_what_means_something() -> None:
    assert formats.latex("a_b & 50% {x} $y$ #1 ~^\\ <b> 中 é") == (
        r"a\_b \& 50\% \{x\} \$y\$ \#1 \textasciitilde{}\textasciicircum{}\textbackslash{} "
        r"\textless{}b\textgreater{} U+4E2D é"
    )


def test_html_and_png(runs: list[Path], tmp_path: Path) -> None:
    lxml_html = pytest.importorskip("lxml.html")
    document = lxml_html.document_fromstring(formats.as_html(beside(runs, "table_2")))
    rows = document.xpath("//tbody/tr")
    assert len(rows) == 23 and len(document.xpath("//tr[@class='ours']")) == 2
    assert {len(row.xpath("./th|./td")) for row in rows} == {9}
    for link in document.xpath("//a/@href"):
        assert document.xpath(f"//*[@id='{link[1:]}']")
    formats.write_png(beside(runs, "table_2"), tmp_path / "t.png")
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")


def test_figures_have_ours_and_the_reports(runs: list[Path], tmp_path: Path) -> None:
    paths = write_figure(beside(runs, "figure_2"), tmp_path)
    assert [path.name for path in paths if path.suffix == ".svg"] == ["figure_2-bars.svg", "figure_2-radar.svg"]
    for path in paths[1::2]:
        drawn = path.read_text()
        assert all(text in drawn for text in ("big_one (ours)", "small (ours)", "Qwen-14B", "GPT-4", "HumanEval"))
        assert "BBH" not in drawn, "axes that none of ours has are left out"
    tokenizers, wins = tmp_path / "tokenizers", tmp_path / "wins"
    tokenizers.mkdir()
    rows = [{"text": text, "tokenizer": "mine", "ratio": 1.5} for text in ("th", "code", "xx")]
    (tokenizers / "tokenizers.json").write_text(
        json.dumps({"baseline": "XLM-R", "tokenizers": {"mine": "", "XLM-R": ""}, "rows": rows})
    )
    table = beside([tokenizers], "figure_3")
    assert [shown.text for shown in table.lines[-1].cells if shown.text != "–"] == ["1.500", "1.500"]
    assert "InternLM-7B" in write_figure(table, tmp_path)[1].read_text()
    rows += [{"text": text, "tokenizer": "qwen", "ratio": 0.5} for text in ("th", "code")]
    whole = {"baseline": "gpt", "tokenizers": {"mine": "", "qwen": "", "gpt": ""}, "rows": rows}
    (tokenizers / "tokenizers.json").write_text(json.dumps(whole))
    line = beside([tokenizers], "figure_3").lines[-1]
    assert line.model == "mine by way of Qwen's" and line.cells[0].text == f"{3 * 2.032:.3f}"
    (tokenizers / "tokenizers.json").write_text(json.dumps({**whole, "rows": rows[:3]}))
    with pytest.raises(RunError, match="relative to gpt, and Figure 3 to XLM-R"):
        beside([tokenizers], "figure_3")
    wins.mkdir()
    share = {kind: {"value": 1 / 3, "low": 0.1, "high": 0.6} for kind in ("win", "tie", "loss")}
    facts = {"answers": "runs/mine-0.5b", "opponent": "x", "categories": {"Average": {"n": 9, **share}}}
    (wins / "win_rate.json").write_text(json.dumps(facts))
    assert "mine-0.5b against x (ours)" in write_figure(beside([wins], "figure_4"), tmp_path)[1].read_text()


def test_every_cell_of_ours_is_in_a_column_of_the_reports() -> None:
    for name, cells in CELLS.items():
        assert set(cells) <= set(paper.columns(name)), name


def test_what_is_missing_is_one_line(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no number for the report's Table 12.*run one of"):
        beside([measured_only(tmp_path)], "table_12")
    with pytest.raises(LookupError, match="table_17"):
        beside(runs, "table_18")


def measured_only(folder: Path) -> Path:
    spec = {**SPEC, "tasks": {"mmlu": SPEC["tasks"]["mmlu"]}}
    return write_run(folder / "only", spec, ENVIRONMENT).path
