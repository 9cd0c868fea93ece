"""Commands of the documentation, word for word, run on a tiny model: what they promise to write is there.

Its Python is run too. Names that a page leaves to its reader (`path/to/checkpoint`, `FOLDER`, `runs/mine`) are made
beforehand. Whether all other commands are taken by their programs is test_pages.py's affair; docs/add-a-task.md is run
whole.
"""

from __future__ import annotations

import csv
import json
import random
import re
import shutil
from pathlib import Path

import pandas
import pytest
import torch
from typer.testing import CliRunner

import harness.cli
import qwen_train.cli
from harness import evaluate
from harness.sandbox import SandboxUnavailable
from qwen_model.catalogue import CATALOGUE
from qwen_model.download import DownloadError
from tests.commands import typed
from tests.conftest import make_checkpoint
from tests.harness.pages import PAGES, Command, blocks, commands

ON_PAGES = {command.text for page in PAGES for command in commands(page)}
APPS = {"harness": harness.cli.app, "qwen-train": qwen_train.cli.app}
SUBJECTS = ("anatomy", "astronomy", "global_facts")


def follow(*lines: tuple[str, str | None]) -> str:
    """Runs commands that stand on a page; each has to end well and to leave its file. Returns what the last printed."""
    missing = [text for text, _ in lines if text not in ON_PAGES]
    assert not missing, f"on no page: {missing}"
    output = ""
    for text, file in lines:
        program, *words = Command(text, fenced=True).words
        done = CliRunner().invoke(APPS[program], words)
        if done.exit_code != 0:
            raise done.exception or AssertionError((text, done.output))
        assert file is None or list(Path().glob(file)), (text, file, done.output)
        output = done.output
    return output


@pytest.fixture
def desk(tiny, tmp_path, monkeypatch) -> Path:
    """A folder with what the pages take for granted, as the current one."""
    monkeypatch.chdir(tmp_path)
    for name in ("path/to/checkpoint", "M", "MINE", "train/nano/training/model"):
        shutil.copytree(tiny, tmp_path / name)
    rng = random.Random(0)
    for folder, count in (("FOLDER", 1), ("texts", 3)):
        (tmp_path / folder).mkdir()
        for number in range(count):
            words = ["".join(rng.choices("etaoinshr", k=5)) for _ in range(3000)]
            lines = [" ".join(words[place : place + 12]).capitalize() + "." for place in range(0, 3000, 12)]
            (tmp_path / folder / f"{number}.txt").write_text("\n".join(lines))
    questions = [
        {"subject": subject, "question": f"{place}?", "choices": ["one", "two", "three", "four"], "answer": place % 4}
        for subject in SUBJECTS
        for place in range(5)
    ]
    solved = [{"question": f"What is {n} + 1?", "answer": f"It is {n + 1}.\n#### {n + 1}"} for n in range(4)]
    for name, rows in (("mmlu/mmlu_test", questions), ("mmlu/mmlu_dev", questions), ("gsm8k/test", solved)):
        path = tmp_path / "data-sets" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data-sets"))
    return tmp_path


def test_lists_and_descriptions(desk):
    follow(
        ("harness tasks", None),
        ("harness models", None),
        ("harness doctor", None),
        ("harness claims", None),
        ("harness claims --dry-run --only table3", None),
        ("harness tasks --dump humaneval-chat > asked.jsonl", None),
    )
    assert "items: 4" in follow(("harness tasks --describe gsm8k", None))


def test_a_run_and_what_is_done_with_it(desk):
    follow(("harness run --task mmlu,gsm8k --model path/to/checkpoint --limit 40", "runs/checkpoint-*/report.html"))
    (first,) = (desk / "runs").iterdir()
    for name in ("mine", "other", "base", "new", "a", "b"):
        shutil.copytree(first, desk / "runs" / name)
    (desk / "RUN").symlink_to(first)
    (desk / "runs" / "mine" / "report.html").unlink()
    follow(
        ("harness report runs/mine", "runs/mine/report.html"),
        ("harness report runs/mine --table 2", None),
        ("harness report runs/a runs/b --table 5 --format latex --out table5.tex", "table5.tex"),
        ("harness report runs/a runs/b --figure 2", "runs/a/figure_2-bars.png"),
        ("harness compare runs/mine runs/other", None),
        ("harness compare runs/base runs/new", None),
        ("harness compare runs/base runs/a runs/b --out DIR", "DIR/compare.html"),
        ("harness compare runs/base --against report:table_2:Qwen-7B", None),
        ("harness score runs/mine", "runs/mine-scored/results.json"),
        ("harness export RUN --format parquet", "RUN/samples.parquet"),
        ("harness export runs/mine --format lm-eval --out results", "results/*/results_*.json"),
        ("harness run --config runs/mine/run.yaml --out runs/again", "runs/again/results.json"),
    )
    results = [json.loads((desk / "runs" / name / "results.json").read_text()) for name in ("mine", "again")]
    assert results[0] == results[1]


@pytest.mark.slow
def test_long_texts_and_switches(desk):
    follow(
        (
            "harness run --task long-ppl --documents FOLDER --lengths 2048,8192 --model M "
            "--long-context dynamic_ntk=exact,logn=on,window=report",
            "runs/*/results.json",
        ),
        ("harness ablate --task mmlu --model M --grid logn=off,on --filter subject=astronomy --limit 100", None),
    )
    follow(
        (
            "harness ablate --task long-ppl --model train/nano/training/model "
            "--rows none,ntk,ntk+logn,ntk+logn+window,window,logn --lengths 256,512,1024,2048,4096 "
            "--documents FOLDER",
            "runs/ablate-long-ppl-*/ablation.html",
        )
    )
    (sweep,) = (desk / "runs").glob("ablate-long-ppl-*")
    (desk / "sweeps").mkdir()
    (desk / "sweeps" / "ntk").symlink_to(sweep)
    for name in ("a", "b"):
        (desk / "runs" / name).symlink_to(next(path for path in (desk / "runs").iterdir() if "ablate" not in path.name))
    follow(("harness report runs/a runs/b sweeps/ntk --out site", "site/report.html"))


def test_answers_for_people(desk):
    rows = [{"id": f"q{n}", "category": "knowledge", "prompt": f"What is {n}?"} for n in range(2)]
    theirs = [{"id": row["id"], "text": "A number."} for row in rows]
    (desk / "data-sets" / "win_rate").mkdir()
    for path, lines in ((desk / "data-sets" / "win_rate" / "prompts.jsonl", rows), (desk / "gpt35.jsonl", theirs)):
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    follow(
        ("harness run --task win-rate --model MINE --out runs/mine", "runs/mine/results.json"),
        ("harness win-rate --answers runs/mine --opponent gpt35.jsonl --export-for-people pairs.csv", "pairs.csv"),
    )
    with (desk / "pairs.csv").open(newline="") as file:
        header, *pairs = csv.reader(file)
    for rater in ("anna", "li", "jo"):
        with (desk / f"{rater}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([header, *([*pair[:-1], "first"] for pair in pairs)])
    follow(
        (
            "harness win-rate --answers runs/mine --opponent gpt35.jsonl --verdicts anna.csv --verdicts li.csv "
            "--verdicts jo.csv",
            "win-rate/win_rate.json",
        )
    )
    said = (desk / "win-rate" / "verdicts.csv").read_text()
    assert "q0" in said and "q1" in said


def test_texts_to_a_vocabulary(desk):
    follow(
        ("qwen-train data --corpus texts/ --out data/clean", "data/clean/report.html"),
        (
            "qwen-train tokenizer train --corpus data/clean/documents --vocab-size 8192 --out tok",
            "tok/tokenizer_config.json",
        ),
    )


def test_only_what_stands_on_a_page_is_run():
    with pytest.raises(AssertionError, match="on no page"):
        follow(("harness run --task mmlu --model M --limit 41", None))


PYTHON = [page for page in PAGES if any(block.kind == "python" for block in blocks(page))]
NOT_ALONE = ("add-a-task.md", "lm-eval.md", "training-data.md")
"""Run word for word by test_add_a_task.py; wants the hub's data; wants a cluster."""


@pytest.mark.parametrize("page", [page for page in PYTHON if page.name not in NOT_ALONE], ids=lambda page: page.name)
def test_python_of_the_pages(page, desk):
    """The blocks of a page one after the other, with a tiny model in the place of those that would be fetched. It has a
    key for each query, so that the first Qwen's layout can hold it."""
    make_checkpoint(desk / "model", num_key_value_heads=6)
    if page.name in ("reports.md", "runs.md"):
        evaluate(["mmlu"], "model", out=Path("runs/mine"))
        done = typed("harness", "export", "runs/mine", "--format", "csv", "--out", "samples.csv")
        assert done.returncode == 0, done.stderr
    names = {"pandas": pandas, "input_ids": torch.arange(40)[None]}
    try:
        for block in blocks(page):
            if block.kind == "python":
                code = re.sub("|".join(CATALOGUE), "model", block.body)
                exec(compile(code, str(page), "exec"), names)
    except (DownloadError, SandboxUnavailable) as error:
        pytest.skip(str(error))
    if page.name == "security.md":
        assert (names["result"].outcome, names["result"].stdout, names["result"].stderr) == ("ok", "42\n", "")
    if page.name == "tokenizer.md":
        assert names["qwen"].encode("Observation:") == [37763, 367, 25]
