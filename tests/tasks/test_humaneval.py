from __future__ import annotations

import gzip
import json

import pytest

from harness.data import Data
from tasks.api import Chat, Check, TaskError
from tasks.humaneval import HumanEval, HumanEvalChat, HumanEvalEvalPlusChat
from tasks.sanitize import longest_program, sanitize
from tests.tasks.scripted import Ends, Says, humaneval_rows, judge, real_sandbox

ROW = {
    "task_id": "HumanEval/7",
    "prompt": '\nfrom typing import List\n\n\ndef twice(xs: List[int]) -> int:\n    """ Double the sum.\n'
    '      Of all.\n    """\n',
    "entry_point": "twice",
    "canonical_solution": "    return 2 * sum(xs)\n",
    "test": "\n\ndef check(candidate):\n    assert candidate([1]) == 2\n",
}
PROTOCOLS = [HumanEval, HumanEvalChat, HumanEvalEvalPlusChat]


def sample_of(task, **changes):
    return task.samples(lambda source: [ROW | changes])[0]


@pytest.mark.parametrize("folder", ["humaneval", "."])
def test_a_data_folder_with_the_file_packed_and_unpacked_has_every_problem_once(folder, tmp_path):
    (tmp_path / folder).mkdir(exist_ok=True)
    line = json.dumps(ROW).encode() + b"\n"
    (tmp_path / folder / "HumanEval.jsonl").write_bytes(line)
    (tmp_path / folder / "HumanEval.jsonl.gz").write_bytes(gzip.compress(line))
    assert [sample.id for sample in HumanEval().samples(Data(tmp_path))] == ["HumanEval/7"]


def test_prompt_base():
    task = HumanEval()
    assert task.prompt(sample_of(task)) == ROW["prompt"]
    assert task.decoding.stop == ("\n\n\n", "\n\n", "def ") and task.decoding.max_tokens == 512


def test_prompt_chat():
    task = HumanEvalChat()
    question = """\
Write a Python function `twice(xs: List[int]) -> int` to solve the following problem:
Double the sum.
Of all.


from typing import List


def twice(xs: List[int]) -> int:
    \""" Double the sum.
      Of all.
    \"""
"""
    assert task.prompt(sample_of(task)) == Chat((("system", "You are a helpful assistant."), ("user", question)))


def test_prompt_evalplus():
    task = HumanEvalEvalPlusChat()
    question = """\
Please provide a self-contained Python script that solves the following problem in a markdown code block:
```
from typing import List


def twice(xs: List[int]) -> int:
    \""" Double the sum.
      Of all.
    \"""
```
"""
    prefill = """\
Below is a Python script with a self-contained function that solves the problem and passes corresponding tests:
```python
"""
    assert task.prompt(sample_of(task)) == Chat((("user", question),), prefill)
    assert task.decoding.max_tokens == 768 and "\n```\n" in task.decoding.stop


@pytest.mark.parametrize("index", [0, 163])
def test_prompts_of_the_real_first_and_last(index):
    rows = humaneval_rows()
    assert len(rows) == 164
    row = rows[index]
    base, chat, plus = (task().samples(humaneval_rows)[index] for task in PROTOCOLS)
    assert base.id == row["task_id"] == f"HumanEval/{index}" and base.gold == row["canonical_solution"]
    assert HumanEval().prompt(base) == row["prompt"]
    system, (_, asked) = HumanEvalChat().prompt(chat).messages
    assert system == ("system", "You are a helpful assistant.")
    assert asked.startswith(f"Write a Python function `{row['entry_point']}(")
    assert asked.endswith("\n" + row["prompt"]) and asked.count(row["prompt"]) == 1
    assert asked.split("\n")[0].endswith("` to solve the following problem:")
    ((_, asked),) = HumanEvalEvalPlusChat().prompt(plus).messages
    assert asked.endswith(":\n```\n" + row["prompt"].strip() + "\n```\n")


def test_the_description_is_the_first_docstring_though_a_helpers():
    assert (
        "Write a Python function `decode_cyclic(s: str)` to solve the following problem:\n\nreturns encoded string"
        in (HumanEvalChat().prompt(HumanEvalChat().samples(humaneval_rows)[38]).messages[1][1])
    )


@pytest.mark.parametrize(
    ("reply", "body"),
    [
        ("```python\nimport os\ndef twice(xs):\n    return 2\n```\nIt doubles.", "    return 2"),
        ("```Python\ndef twice(xs):\n    return 2\n```", "    return 2"),
        (
            "```\ndef twice(xs):\n    if xs:\n        return 2\n\n    return 0\n```",
            "    if xs:\n        return 2\n\n    return 0",
        ),
        # text after the function stays in a fenced block
        ("```python\ndef twice(xs):\n    return 2\nprint(twice([]))\n```", "    return 2\nprint(twice([]))"),
        # without a fence, the body ends at the first line that is not indented
        ("Here: def twice(xs):\n    return 2\nDone.", "    return 2"),
        ("def twice(xs):\n    a = 1\n\n    return 2\n\nDone.", "    a = 1\n\n    return 2"),
        # another function's name, as the last resort
        ("def double(xs):\n    return 2\nDone.", "    return 2"),
        # a fence that does not close counts as none
        ("```python\ndef twice(xs):\n    return 2", "    return 2"),
        # no function: the reply is the body
        ("return 2 * sum(xs)\nand so on", "    return 2 * sum(xs)\n    and so on"),
        ("  return 2  ", "    return 2"),  # stripped, then indented
        ("", ""),
        # a helper in front is lost, for only the body of the asked function is taken
        ("```python\ndef f(x):\n    return x\ndef twice(xs):\n    return f(2)\n```", "    return f(2)"),
    ],
)
def test_extraction_chat(reply, body):
    task = HumanEvalChat()
    assert task.extract(sample_of(task), reply) == body


@pytest.mark.parametrize("cls", [HumanEval, HumanEvalChat])
def test_what_is_run_is_human_evals_program_in_two_parts(cls):
    reply = "    return 2" if cls is HumanEval else "```python\ndef twice(xs):\n    return 2\n```"
    task, sandbox = cls(), Ends("passed")
    verdict = judge(task, sample_of(task), Says(reply), sandbox)
    solution, tests = ROW["prompt"] + "    return 2", ROW["test"] + "\ncheck(twice)"
    expected = Check(solution=solution, tests=tests, names=("twice",), setup=ROW["prompt"])
    assert sandbox.ran == [(expected, 3.0)]
    assert verdict.answer == "    return 2" and verdict.correct and verdict.detail["program"] == solution


@pytest.mark.parametrize("outcome", ["wrong", "error", "timeout", "memory", "killed", "syntax", "no_code", "ok"])
def test_only_passed_is_correct(outcome):
    task = HumanEval()
    verdict = judge(task, sample_of(task), Says("x"), Ends(outcome, "why"))
    assert (verdict.outcome, verdict.correct, verdict.detail["stderr"]) == (outcome, False, "why")


def test_evalplus_solution_has_no_prompt():
    task, sandbox = HumanEvalEvalPlusChat(), Ends()
    judge(task, sample_of(task), Says("def twice(xs):\n\treturn 2\n\ntwice([1])"), sandbox)
    assert sandbox.ran[0][0].solution == "def twice(xs):\n    return 2"


@pytest.mark.parametrize("reply", ["", "I cannot do that.\nSorry.", "x = 1\ny = 2"])
def test_evalplus_without_code_runs_nothing(reply):
    task, sandbox = HumanEvalEvalPlusChat(), Ends()
    assert judge(task, sample_of(task), Says(reply), sandbox).outcome == "no_code"
    assert sandbox.ran == []


def test_sanitize_keeps_imports_and_what_the_entry_point_reaches():
    reply = """\
Here is it, don't you see?
from __future__ import annotations
import os, re
LIMIT = 3
LIMIT = 4
UNUSED = 5
a, b = 1, 2
def helper(x):
    return x.attribute + LIMIT
def attribute():
    return 0
def quiet():
    pass
@cached
def decorated():
    return 1
class Other:
    pass
async def main(x: Hint) -> int:
    return helper(x) + quiet() + decorated()
class Hint(Base): ...
if True:
    from math import pi
main(3)
"""
    assert sanitize(reply, "main") == (
        "import os, re\nLIMIT = 3\ndef helper(x):\n    return x.attribute + LIMIT\ndef attribute():\n    return 0\n"
        "async def main(x: Hint) -> int:\n    return helper(x) + quiet() + decorated()\nclass Hint(Base): ..."
    )


def test_longest_program():
    assert longest_program("a = (\nb = 1\nc = 2\nd e f\ng = 1\nh = 2\ni = 3") == "g = 1\nh = 2\ni = 3"
    assert longest_program("a = 1\nb = 2\n?\nc = 3\nd = 4") == "a = 1\nb = 2"  # the first of equals
    assert longest_program("a = 1\n\n\n?\nc = 3\nd = 4\n?") == "c = 3\nd = 4"  # blank lines do not count
    assert longest_program("words without sense") == "words without sense"
    assert longest_program("a = 1\nb = 2\n" + "?\n" * 10_000 + "c = 3\n" * 3) == "a = 1\nb = 2"  # at once
    assert sanitize("def f(): return '\0'\n", "f") == ""  # the parser refuses it with a ValueError
    assert sanitize("x = " + "(" * 5000 + ")" * 5000 + "\ny", "x") == ""


@pytest.mark.parametrize("cls", PROTOCOLS)
def test_canonical_solutions_pass(cls):
    """All 164 are in tests/sandbox; these are the ends and the three whose tests call a helper of the prompt's."""
    task = cls()
    with real_sandbox(cpu_seconds=3) as box:
        for index in (0, 10, 32, 38, 50, 163):
            sample = task.samples(humaneval_rows)[index]
            fenced = sample.fields["prompt"] + sample.gold + "\n```"
            reply = {"humaneval": sample.gold, "humaneval-chat": "```python\n" + fenced}.get(task.name, fenced)
            check = task.check(sample, task.extract(sample, reply))
            assert box.check(check.solution, check.tests, check.names, check.setup).outcome == "passed", sample.id


def test_the_sanitiser_keeps_every_canonical_solution():
    task = HumanEvalEvalPlusChat()
    for sample in task.samples(humaneval_rows):
        code = task.extract(sample, f"{sample.fields['prompt']}{sample.gold}\n```")
        assert f"def {sample.fields['entry_point']}(" in code
        compile(code, sample.id, "exec")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "HumanEval: the data set has no rows"),
        ([{k: v for k, v in ROW.items() if k != "test"}], "item HumanEval/7: field 'test' is missing"),
        ([ROW | {"prompt": 3}], "item HumanEval/7: field 'prompt' is int, not text"),
        ([ROW | {"entry_point": "other"}], "item HumanEval/7: field 'prompt' does not define 'other'"),
        (["text"], "item 0: expected an object with fields, got str"),
    ],
)
def test_bad_data(rows, said):
    with pytest.raises(TaskError) as caught:
        HumanEval().samples(lambda source: rows)
    assert said in str(caught.value) and "--data-dir" in str(caught.value) and "\n" not in str(caught.value)
