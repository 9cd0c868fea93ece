from __future__ import annotations

import asyncio
import hashlib
import json
from contextlib import asynccontextmanager
from importlib.resources import files
from types import SimpleNamespace

import pytest

from tasks.api import Chat, Reply, TaskError
from tasks.code_interpreter import (
    REACT,
    CodeInterpreter,
    CodeInterpreterAnswers,
    CodeInterpreterGSM8K,
    alike,
    answered,
    called,
    observation,
)

ITEMS = [json.loads(line) for line in (files("tasks") / "data/code_interpreter.jsonl").read_text().splitlines()]
CALL = "I compute.\nAction: code_interpreter\nAction Input:\n```py\n{}\n```\n"


class Script:
    """A model that says one thing after another."""

    def __init__(self, *replies: str) -> None:
        self.replies, self.asked = list(replies), []

    async def generate(self, prompt, decoding):
        self.asked.append(prompt)
        return Reply(text=self.replies.pop(0), finish="stop", logprobs=())


class Boxes:
    """Interpreters in the real sandbox, or ones that answer as told."""

    def __init__(self, answers=None, box=None) -> None:
        self.answers, self.box, self.ran = list(answers or ()), box, []

    @asynccontextmanager
    async def interpreter(self, given):
        if self.box is None:
            yield SimpleNamespace(run=self._told)
            return
        from harness.sandbox.interpreter import Interpreter

        made = Interpreter(self.box, given)

        async def run(source, *, seconds):
            return made.run(source, seconds)

        yield SimpleNamespace(run=run)
        made.close()

    async def _told(self, source, *, seconds):
        self.ran.append((source, seconds))
        return self.answers.pop(0)


def cell(outcome="ok", stdout="", value="", error="", figures=(), images=()):
    return SimpleNamespace(outcome=outcome, stdout=stdout, value=value, error=error, figures=figures, images=images)


def sample_of(task, **row):
    row = {"id": "x", "category": "math", "query": "How much?", "answer": 42} | row
    return task.samples(lambda source: [row])[0]


def judge(task, sample, model, boxes):
    return asyncio.run(task.judge(sample, model, boxes))


def test_prompt():
    task = CodeInterpreter()
    prompt = task.prompt(sample_of(task, files={"a.csv": "1", "b.csv": "2"}))
    assert isinstance(prompt, Chat)
    question = prompt.messages[1][1]
    assert question.startswith("Answer the following questions as best you can.")
    assert "should be one of [code_interpreter]\n" in question
    assert question.endswith("\nBegin!\n\nQuestion: Files `a.csv`, `b.csv`. How much?")


def test_the_prompt_is_the_released_one_to_the_byte():
    assert hashlib.sha256(REACT.encode()).hexdigest() == (
        "c02e330854942b14f3cf8ed520aabf8746c6a2ee25f3f8a97d526d4c6c92f526"
    )


def test_a_conversation_goes_on_with_what_came_of_the_code():
    task, model = CodeInterpreterAnswers(), Script(CALL.format("6*7"), " I know.\nFinal Answer: 42.")
    boxes = Boxes([cell(value="42", images=(b"png",))])
    verdict = judge(task, sample_of(task), model, boxes)
    assert verdict.correct and boxes.ran == [("6*7", 30.0)]
    assert model.asked[0].prefill == ""
    assert model.asked[1].prefill == CALL.format("6*7") + "\nObservation: 42\nThought:"
    assert verdict.detail["executions"] == [{"code": "6*7", "outcome": "ok"}]
    assert verdict.detail["images"] == ["cG5n"]


def test_an_error_ends_it_and_counts_as_not_executable():
    task, model = CodeInterpreter(), Script(CALL.format("1/0"))
    verdict = judge(task, sample_of(task), model, Boxes([cell("error", error="ZeroDivisionError")]))
    assert verdict.outcome == "error"
    assert verdict.detail["conversation"].endswith("\nObservation: ZeroDivisionError\nThought:")


@pytest.mark.parametrize(("category", "executions"), [("math", 1), ("general", 1), ("visualization", 3)])
def test_how_often_code_is_run(category, executions):
    task, model = CodeInterpreter(), Script(*[CALL.format("1")] * 9)
    boxes = Boxes([cell()] * 9)
    assert judge(task, sample_of(task, category=category), model, boxes).correct
    assert len(boxes.ran) == executions


def test_only_the_first_execution_counts_outside_math():
    task, model = CodeInterpreter(), Script(*[CALL.format("1")] * 3)
    sample = sample_of(task, category="visualization")
    assert judge(task, sample, model, Boxes([cell(), cell("error")])).correct


def test_no_code():
    task = CodeInterpreter()
    assert judge(task, sample_of(task), Script("Final Answer: 42"), Boxes()).outcome == "no_code"


def test_gsm8k_takes_the_last_number_of_all_that_was_said():
    task = CodeInterpreterGSM8K()
    sample = task.samples(lambda source: [{"question": "How many?", "answer": "#### 42"}])[0]
    verdict = judge(task, sample, Script(CALL.format("6*7"), " Done."), Boxes([cell(stdout="42\n")]))
    assert verdict.correct and verdict.answer == "42"
    assert judge(task, sample, Script("None."), Boxes()).outcome == "unextracted"


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ("Action: code_interpreter\nAction Input:\n```py\nx\ny\n```", "x\ny"),
        ("t\nAction: code_interpreter\nAction Input: ```\nx\n", "x"),
        ("t\nAction: code_interpreter\nAction Input: x + 1\n", "x + 1"),
        ("a\nAction: c\nAction Input: old\nAction: c\nAction Input: new", "new"),
        ("Final Answer: 3", None),
        ("a\nAction: code_interpreter\n", None),
    ],
)
def test_reading_a_call(reply, code):
    assert called(reply) == code


def test_observation():
    assert observation(cell(stdout="a\n", value="b")) == "a\nb"
    assert observation(cell()) == "Finished execution."
    assert len(observation(cell(stdout="x" * 9999))) == 2000


@pytest.mark.parametrize(
    ("reply", "gold", "right"),
    [
        ("It is 1,234.5 metres.", "1234.5", True),
        ("12 of 13", "12", False),
        ("It was a sunday.", "Sunday", True),
        ("Sundays", "Sunday", False),
        ("none", "3", False),
        ("0.73909 rounded to 5 decimal places", "0.73909", True),
        ("The area is 42 m^2.", "42", True),
        ("The area is 42 m^2.", "2", False),
        ("About 2.5e3 of them", "2500.0", True),
        ("3 x 10^8 m/s", "300000000", True),
        ("It is 1e-05", "1e-05", True),
        ("It is 0.00001.", "1e-05", True),
        ("It is 0.5, as 1e-05 says to me.", "0.5", False),
        ("The day is 2024-03-02.", "2024-03-02", True),
    ],
)
def test_answers(reply, gold, right):
    assert answered(reply, gold) is right


def test_plots():
    assert alike([[1.0, 2.0]], [[1, 2]]) and not alike([[1.0]], [[1, 2]]) and not alike(None, [1])
    assert alike(" North", "north") and not alike(3, "north") and not alike("3", 3)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"category": "poetry"}, "neither 'category' nor 'tags'"),
        ({"category": 7}, "neither 'category' nor 'tags'"),
        ({"category": None}, "field 'category' is missing"),
        ({"id": None}, "field 'id' is missing"),
        ({"files": ["a"]}, "field 'files' is not an object"),
        ({"query": None}, "field 'query' is missing"),
    ],
)
def test_bad_data(row, said):
    with pytest.raises(TaskError, match=said):
        sample_of(CodeInterpreter(), **row)


def test_the_users_own_file_has_tags():
    assert sample_of(CodeInterpreter(), category="visualization-easy").group == "visualization"
    with pytest.raises(TaskError, match="neither 'answer' nor 'figure'"):
        sample_of(CodeInterpreterAnswers(), answer=None)


def test_our_own_items():
    samples = CodeInterpreterAnswers().samples(lambda source: ITEMS)
    assert len(samples) >= 60 and len({sample.id for sample in samples}) == len(samples)
    assert {sample.group for sample in samples} == {"math", "general", "visualization"}


def test_every_item_can_be_solved_and_is_not_solved_by_nothing():
    from harness.sandbox import Sandbox, SandboxUnavailable
    from harness.sandbox.interpreter import POLICY

    try:
        box = Sandbox(POLICY)
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    task = CodeInterpreterAnswers()
    with box:
        for item, sample in zip(ITEMS, task.samples(lambda source: ITEMS), strict=True):
            right = [CALL.format(item["solution"]), f" Final Answer: {item.get('answer')}", "", ""]
            assert judge(task, sample, Script(*right), Boxes(box=box)).correct, sample.id
            wrong = [CALL.format("None"), " Final Answer: 987654321", "", ""]
            verdict = judge(task, sample, Script(*wrong), Boxes(box=box))
            assert verdict.outcome in ("wrong", "unextracted"), sample.id
            computed = judge(CodeInterpreter(), sample, Script(*right), Boxes(box=box)).detail["conversation"]
            assert item.get("answer") is None or answered(
                computed.split("Thought:")[0].split("Observation:")[1], sample.gold
            )
