from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks import mbpp
from tasks.api import Chat, Check, TaskError
from tasks.mbpp import MBPP, MBPPChat, MBPPSanitized, needed
from tests.tasks.scripted import Ends, Says, judge, real_sandbox, rows_of

ROW = {
    "task_id": 11,
    "text": "Write a function to double.",
    "code": "def twice(x):\r\n  return 2 * x",
    "test_list": ["assert twice(1) == 2", "assert twice(2) == 4", "assert twice('a') == 'aa'"],
    "test_setup_code": "",
}


def sample_of(task, **changes):
    return task.samples(lambda source: [ROW | changes])[0]


def test_prompt():
    task = MBPP()
    prompt = task.prompt(sample_of(task))
    assert prompt.startswith(
        "You are an expert Python programmer, and here is your task: Write a function to find the similar elements"
    )
    assert "\n[BEGIN]\n 'def similar_elements(test_tup1, test_tup2):\r\n" in prompt
    assert prompt.count("[BEGIN]") == 4 and prompt.count("' \n[DONE] \n\n ") == 3
    assert prompt.endswith(
        "\nYou are an expert Python programmer, and here is your task: Write a function to double. Your code should"
        " pass these tests:\n\n assert twice(1) == 2\nassert twice(2) == 4\nassert twice('a') == 'aa'  \n\n[BEGIN]\n"
    )


def test_prompt_chat():
    task = MBPPChat()
    prompt = task.prompt(sample_of(task))
    assert isinstance(prompt, Chat)
    assert [role for role, _ in prompt.messages] == ["user", "assistant"] * 3 + ["user"]
    assert prompt.messages[-1][1].endswith("assert twice('a') == 'aa'  \n")


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (" 'def f():\r\n  return 1' \n", "def f():\r\n  return 1"),
        ("def f():\n  return 1", "def f():\n  return 1"),
        ("[BEGIN]\n 'x = 1' \n[DONE] 'y'", "x = 1"),
        ("x = 1\nDONE\nmore", "x = 1"),
        ("  ", ""),
    ],
)
def test_extraction(reply, code):
    assert MBPP().extract(reply) == code


def test_extraction_chat():
    task = MBPPChat()
    assert task.extract("Here:\n```python\nx = 1\n```\nand\n```\ny\n```") == "x = 1"
    assert task.extract("[BEGIN]\n'x = 1'\n[DONE]") == "x = 1"
    assert task.extract("```python\nx = 1") == "x = 1"


def test_what_is_run():
    task, sandbox = MBPP(), Ends("passed")
    verdict = judge(task, sample_of(task, test_setup_code="a = 1"), Says(" 'x = 1' \n"), sandbox)
    expected = Check(solution="x = 1\na = 1", tests="\n".join(ROW["test_list"]), names=("twice",))
    assert sandbox.ran == [(expected, 2.0)] and verdict.correct
    assert judge(task, sample_of(task), Says(" ''"), sandbox).outcome == "no_code"


@pytest.mark.parametrize(
    ("tests", "names", "modules"),
    [
        ("assert f(1) == 2", ("f",), ()),
        ("assert sum(10, 15) == 6", ("sum",), ()),
        ("assert set(f([1])) == {1}", ("f",), ()),
        ("assert f(root) == (sys.maxsize, int)", ("f", "root"), ("sys",)),
    ],
)
def test_what_the_tests_want_of_the_solution(tests, names, modules):
    assert needed(tests) == (names, modules)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([ROW | {"task_id": 5}], "no row has a task_id from 11 to 510"),
        ([ROW | {"task_id": "11"}], "item 0: field 'task_id' is str"),
        ([ROW | {"test_list": "assert"}], "item 11: field 'test_list' is not a list"),
        ([ROW | {"test_list": ["assert ("]}], "item 11: field 'test_list' is not Python"),
        ([ROW | {"text": None}], "item 11: field 'text' is missing"),
    ],
)
def test_bad_data(rows, said):
    with pytest.raises(TaskError) as caught:
        MBPP().samples(lambda source: rows)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_the_mirrors_requests_are_rows_and_equal_ones_count_once():
    wrapped = [{"doc": row, "request": kind} for row in (ROW, ROW | {"task_id": 12}) for kind in (1, 2)]
    assert [sample.id for sample in MBPP().samples(lambda source: wrapped)] == ["mbpp/11", "mbpp/12"]


def test_items_are_tasks_11_to_510():
    samples = MBPP().samples(rows_of("mbpp/mbpp.jsonl"))
    assert [sample.id for sample in samples] == [f"mbpp/{number}" for number in range(11, 511)]


def test_sanitized_items_are_asked_in_their_own_words():
    task = MBPPSanitized()
    assert len(task.samples(rows_of("mbpp/sanitized-mbpp.jsonl"))) == 257
    row = {key: ROW[key] for key in ("task_id", "code", "test_list")} | {"prompt": "Double it.", "test_imports": []}
    (sample,) = task.samples(lambda source: [row, row | {"task_id": 2}])
    prompt = task.prompt(sample)
    assert prompt.count("[BEGIN]") == 4 and "here is your task: Double it. Your code" in prompt


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "file", "size"), [(MBPP(), "mbpp.jsonl", 974), (MBPPSanitized(), "sanitized-mbpp.jsonl", 427)]
)
def test_reference_solutions_pass_and_empty_bodies_do_not(monkeypatch, task, file, size):
    """All of the data set, those beyond the task's items too."""
    monkeypatch.setattr(mbpp, "FIRST", 1)
    monkeypatch.setattr(mbpp, "LAST", 974)
    samples = task.samples(rows_of(f"mbpp/{file}"))
    assert len(samples) == size

    def outcome(check):
        return box.check(check.solution, check.tests, check.names, check.setup).outcome

    with real_sandbox(cpu_seconds=10) as box, ThreadPoolExecutor(2) as pool:
        right = pool.map(outcome, [task.check(sample, sample.gold) for sample in samples])
        assert [s.id for s, found in zip(samples, right, strict=True) if found != "passed"] == []
        empty = [task.check(s, f"class Node:\n  def __init__(*a): pass\ndef {name}(*a): pass")
                 for s in samples for name in s.fields["names"][:1]]  # fmt: skip
        assert [found for found in pool.map(outcome, empty) if found == "passed"] == []
