from __future__ import annotations

import json
import math
from pathlib import Path

import numpy
import pytest

from harness.records import FORMAT, Run, RunError
from reports.scaling import Point, common_tasks, points, slope, write_scaling
from reports.win_plot import write_win_plot


def made(folder: Path, parameters: int | None, selection: float, task: str = "tool-use") -> Run:
    """A finished run with two measures, as far as scaling reads it."""
    folder.mkdir(parents=True)
    measures = {"tool selection": "share", "tool input": "mean"}
    spec = {"format": FORMAT, "model": {"name": folder.name}, "tasks": {task: {"measures": measures}}}
    estimates = {
        "tool selection": {"value": selection, "low": selection - 0.1, "high": selection + 0.05, "n": 100},
        "tool input": {"value": 80.0, "low": 75.0, "high": 84.0, "n": 100},
        "tool input (micro)": {"value": 81.0, "low": 75.0, "high": 84.0, "n": 100},
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    (folder / "results.json").write_text(
        json.dumps({"tasks": {task: {"n": 100, "metrics": estimates, "outcomes": {}}}})
    )
    (folder / "environment.json").write_text(json.dumps({} if parameters is None else {"parameters": parameters}))
    return Run(folder)


@pytest.fixture
def runs(tmp_path):
    sizes = {"large": (7_000_000_000, 0.8), "small": (500_000_000, 0.4), "middle": (1_800_000_000, 0.7)}
    return [made(tmp_path / name, *size) for name, size in sizes.items()]


def test_points_by_size_shares_in_per_cent(runs):
    found = points(runs, "tool-use", "tool selection")
    assert [point.model for point in found] == ["small", "middle", "large"]
    assert (found[0].value, found[0].low, found[0].high) == pytest.approx((40, 30, 45))
    assert points(runs, "tool-use", "tool input")[0].value == 80
    assert points(runs, "tool-use", "tool input (micro)")[0].value == 81  # of the kind of its measure


def test_slope_is_least_squares(runs):
    found = points(runs, "tool-use", "tool selection")
    sizes = [math.log10(point.parameters) for point in found]
    expected = numpy.polyfit(sizes, [point.value for point in found], 1)[0]
    assert slope(found) == pytest.approx(expected)
    assert slope(found[:2]) is None and slope([*found[:2], found[0]]) is None
    exact = [Point("m", 10**n, 5.0 * n, 0, 0) for n in (7, 8, 9)]
    assert slope(exact) == pytest.approx(5)


def test_a_plot_with_the_reports_models_and_equal_bytes(runs, tmp_path):
    paths = write_scaling(runs, "tool-use", tmp_path / "a")
    assert [path.name for path in paths] == ["scaling-tool-use.png", "scaling-tool-use.svg"]
    drawn = paths[1].read_text()
    assert all(text in drawn for text in ("small", "middle", "large", "the report's Qwen-Chat", "least squares"))
    assert write_scaling(runs, "tool-use", tmp_path / "b")[1].read_text() == drawn


def test_other_items_have_none_of_the_reports_points(tmp_path):
    runs = [made(tmp_path / f"m{n}", 10**9 * n, 0.5, "tool-use-bfcl") for n in (1, 2)]
    drawn = write_scaling(runs, "tool-use-bfcl", tmp_path)[1].read_text()
    assert "Qwen-Chat" not in drawn and "least squares" not in drawn


def test_which_tasks_are_drawn(runs, tmp_path):
    assert common_tasks(runs) == ["tool-use"] and common_tasks(runs[:1]) == []
    assert common_tasks([runs[0], made(tmp_path / "twin", 7_000_000_000, 0.8)]) == []
    assert common_tasks([runs[0], made(tmp_path / "other", 1, 0.8, "mmlu")]) == []


def test_a_run_without_a_size_and_a_task_that_none_has(runs, tmp_path):
    with pytest.raises(RunError, match="no `parameters`"):
        points([made(tmp_path / "old", None, 0.5)], "tool-use", "tool selection")
    with pytest.raises(RunError, match="none of the runs has mmlu"):
        write_scaling(runs, "mmlu", tmp_path)


def test_win_plot(tmp_path):
    bars = {"$A": {"Average": (0.5, 0.3, 0.2), "math": (0.0, 0.97, 0.03)}, "B": {"Average": (1.0, 0.0, 0.0)}}
    paths = write_win_plot(bars, "gpt_3.5", tmp_path)
    drawn = paths[1].read_text()
    assert all(text in drawn for text in ("$A", "B", "Average", "Math", "gpt_3.5", ">50<", ">97<", ">100<"))
    assert ">3<" not in drawn, "no number on a bar too low for it"
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    first = drawn
    assert write_win_plot(bars, "gpt_3.5", tmp_path)[1].read_text() == first


def test_a_task_with_a_slash_in_its_name_and_runs_that_recorded_nothing(tmp_path):
    runs = [made(tmp_path / f"m{n}", 10**9 * n, 0.5, "lm-eval/hellaswag") for n in (1, 2)]
    paths = write_scaling(runs, "lm-eval/hellaswag", tmp_path)
    assert paths[0] == tmp_path / "scaling-lm-eval-hellaswag.png" and paths[0].is_file() and paths[1].is_file()
    (runs[1].path / "environment.json").unlink()
    fresh = [Run(run.path) for run in runs]
    assert common_tasks(fresh) == common_tasks(fresh[1:]) == []
    with pytest.raises(RunError, match="no `parameters`"):
        points(fresh, "lm-eval/hellaswag", "tool input")
