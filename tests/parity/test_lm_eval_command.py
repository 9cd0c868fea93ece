"""`harness lm-eval`: what goes through to lm-eval, what is said before, and a whole run of its command line."""

from __future__ import annotations

import json
import sys

import pytest

from harness.evaluation import Progress
from harness.lmeval import command
from harness.lmeval.read import read
from tasks.api import TaskError
from tests.commands import harness, typed
from tests.conftest import make_checkpoint


def test_help_is_ours_and_lm_evals():
    ours, theirs = harness("lm-eval", "--help"), typed("harness", "lm-eval", "run", "--help")
    assert ours.returncode == theirs.returncode == 0
    assert "model=NAME-OR-FOLDER" in " ".join(ours.stdout.split()) and "--model_args" in theirs.stdout
    assert "lm-eval run --model" in theirs.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "hf", "--tasks", "piqa"], "--model hf: the model is our engine; leave --model out"),
        (["--tasks", "piqa"], "--model_args: no model named; give --model_args model="),
        (["--tasks", "helaswag", "--model_args", "model=x"], "helaswag: lm-eval .* did you mean hellaswag"),
        (["--tasks", "piqa", "--model_args", "model=x", "--log_samples"], "lm-eval: Specify --output_path"),
        (["--config", "none.yaml", "--tasks", "piqa"], "lm-eval: Config file not found"),
    ],
)
def test_mistakes_are_one_line(arguments, said, monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)
    with pytest.raises(TaskError, match=said):
        command.run(arguments)


def test_an_option_that_lm_eval_has_not_is_its_parsers_error(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", sys.argv)
    with pytest.raises(SystemExit) as stop:
        command.run(["--bogus", "1", "--tasks", "piqa"])
    assert stop.value.code == 2 and "unrecognized arguments: --bogus" in capsys.readouterr().err


@pytest.mark.slow
def test_a_whole_run_of_the_command_line(tmp_path):
    model = make_checkpoint(tmp_path / "model")
    rows = [{"q": f"{i} and {i} is", "choices": ["one", "two two"], "a": i % 2} for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "own.yaml").write_text(
        json.dumps(
            {
                "task": "own_choice",
                "dataset_path": "json",
                "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
                "test_split": "test",
                "output_type": "multiple_choice",
                "doc_to_text": "{{q}}",
                "doc_to_choice": "{{choices}}",
                "doc_to_target": "{{a}}",
                "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
            }
        )
    )
    out = tmp_path / "out"
    named = ["--include_path", tmp_path / "own", "--tasks", "own_choice", "--model_args", f"model={model}"]
    done = harness("lm-eval", *named, "--output_path", out, "--log_samples", "--limit", "6")
    assert done.returncode == 0 and "|own_choice|" in done.stdout, done.stderr
    run = read(out, tmp_path / "run", Progress())
    assert run.results["lm-eval/own_choice"].n == 6 and run.spec["model"]["name"] == "model"
