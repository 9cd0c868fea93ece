"""`harness run --config FILE`, what a run folder keeps of it, quiet logs, completion of names."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from harness.records import Run
from tests.commands import HARNESS, typed
from tests.harness.test_cli import SUMS


def write(path: Path, **options: object) -> Path:
    path.write_text(yaml.safe_dump(options))
    return path


def test_a_file_says_the_same_as_the_command_line(tiny, tmp_path):
    options = {"task": [SUMS], "model": str(tiny), "limit": 9, "filter": {"parity": [1]}, "top-p": 0.9}
    file = write(tmp_path / "mine.yaml", **options, temperature=0.5)
    # the command line wins over the file
    done = typed("harness", "run", "--config", file, "--limit", 4, "--out", tmp_path / "file")
    assert done.returncode == 0, done.stderr
    arguments = ("--task", SUMS, "--model", tiny, "--limit", 4, "--filter", "parity=1", "--top-p", 0.9)
    assert typed("harness", "run", *arguments, "--temperature", 0.5, "--out", tmp_path / "typed").returncode == 0
    assert Run(tmp_path / "file").spec == Run(tmp_path / "typed").spec
    assert Run(tmp_path / "file").spec["tasks"]["sums"]["limit"] == 4
    # the folder's own file repeats the run
    assert (
        typed("harness", "run", "--config", tmp_path / "file" / "run.yaml", "--out", tmp_path / "again").returncode == 0
    )
    assert Run(tmp_path / "again").spec == Run(tmp_path / "file").spec


def test_a_nought_is_kept_and_what_is_left_out_is_not(tiny, tmp_path):
    asked = ("--task", SUMS, "--model", tiny, "--limit", 2, "--seed", 0, "--temperature", 0)
    assert typed("harness", "run", *asked, "--out", tmp_path / "run").returncode == 0
    kept = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    assert (kept["seed"], kept["temperature"]) == (0, 0)
    assert not {"shots", "filter", "quiet", "top-p"} & set(kept)
    assert (
        typed("harness", "run", "--config", tmp_path / "run" / "run.yaml", "--out", tmp_path / "again").returncode == 0
    )
    assert Run(tmp_path / "again").spec == Run(tmp_path / "run").spec


MISTAKES = {
    "far from any": ({"zzz": 1}, "'zzz' is no option of `harness run`; there are task, model"),
    "no number": ({"limit": "many"}, "limit: "),
    "no switch": ({"dry-run": "perhaps"}, "dry-run: 'perhaps' is not true or false"),
    "itself": ({"config": "x"}, "'config' is no option"),
    "wrong task": ({"task": "gsm9k"}, "did you mean gsm8k"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_file_is_named(mistake, tiny, tmp_path):
    options, said = MISTAKES[mistake]
    file = write(tmp_path / "mine.yaml", **{"task": SUMS, "model": str(tiny), **options})
    done = typed("harness", "run", "--config", file)
    assert done.returncode == 2 and said in done.stderr


@pytest.mark.parametrize(
    ("content", "said"), [("a: [", "not YAML"), ("- a", "not a table of settings"), (None, "No such file")]
)
def test_a_file_that_is_none_is_named(content, said, tmp_path):
    if content is not None:
        (tmp_path / "mine.yaml").write_text(content)
    done = typed("harness", "run", "--config", tmp_path / "mine.yaml")
    assert done.returncode == 2 and said in done.stderr


def test_an_unknown_key_is_one_line_with_a_suggestion(tmp_path):
    done = typed("harness", "run", "--config", write(tmp_path / "mine.yaml", modle="x"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "'modle' is no option of `harness run`; did you mean model?" in done.stderr


def test_every_option_can_stand_in_a_file(tmp_path):
    """Each option of the help is a key that the file may have."""
    shown = {
        word.strip("-") for line in typed("harness", "run", "--help").stdout.splitlines() for word in line.split()[:1]
    }
    options = {"task", "model", "limit", "seed", "quiet", "dry-run", "long-context", "unsafe-no-sandbox"}
    assert options <= shown
    file = write(tmp_path / "mine.yaml", zzz=1)
    named = typed("harness", "run", "--config", file).stderr.partition("there are ")[2].strip().split(", ")
    assert {word for word in shown if word.replace("-", "").isalpha()} >= set(named)
    assert set(named) >= options


def test_quiet_has_no_bars_on_a_terminal(tiny, tmp_path):
    import pty

    outer, inner = pty.openpty()
    command = [*HARNESS, "run", "--task", SUMS, "--model", str(tiny), "--out", str(tmp_path / "run"), "--quiet"]
    process = subprocess.Popen(command, stderr=inner, stdout=subprocess.DEVNULL)
    os.close(inner)
    said = b""
    try:
        while piece := os.read(outer, 4096):
            said += piece
    except OSError:  # how a pseudo-terminal says that nobody writes any more
        pass
    assert process.wait() == 0
    assert b"sums 40/40" in said and b"samples/s" in said
    assert b"\x1b[" not in said and "━".encode() not in said


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("run --task humaneval,gsm", "humaneval,gsm8k"),
        ("run --model smol", "smollm2-135m-instruct"),
        ("tasks --describe mml", "mmlu-chat"),
        ("ru", "run"),
    ],
)
def test_a_shell_completes_names(words, wanted, monkeypatch):
    line = ["harness", *words.split()]
    monkeypatch.setenv("_HARNESS_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", " ".join(line))
    monkeypatch.setenv("COMP_CWORD", str(len(line) - 1))
    assert wanted in typed("harness").stdout.split()


def test_a_task_without_its_metric_shows_its_other_measures(tiny, tmp_path):
    """Only negative items of tool use: none has the metric, tool selection."""
    data = tmp_path / "data" / "exam_plugin_v1"
    data.mkdir(parents=True)
    reply = "Thought: x\nAction: search\nAction Input: {}"
    for kind, response in (("positive", reply), ("negative", "")):
        row = {"prompt": "What is the time?", "response": response}
        (data / f"exam_plugin_v1_react_{kind}.jsonl").write_text(json.dumps(row) + "\n")
    asked = ("--task", "tool-use", "--model", tiny, "--data-dir", tmp_path / "data", "--filter", "kind=negative")
    done = typed("harness", "run", *asked, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "false positive error" in done.stdout and "No item of this run has the task's metric" in done.stdout
    assert list(Run(tmp_path / "run").results["tool-use"].metrics) == ["false positive error"]
    compared = typed("harness", "compare", tmp_path / "run", "--against", "report:table_6:Qwen-Chat 7B")
    assert "no item of this run has tool selection" in compared.stderr
