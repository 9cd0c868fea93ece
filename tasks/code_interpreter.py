"""The code interpreter: a model that writes Python in ReAct's form and is shown what came of it, as in the report.

`code-interpreter` measures the executable rate, `code-interpreter-answers` whether the answers and plots of our own
items are right, `code-interpreter-gsm8k` the accuracy on GSM8K. Judging plots by a vision model is not here.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from tasks.api import (
    SYSTEM,
    CellResult,
    Chat,
    Decoding,
    Installed,
    Interpreter,
    Kind,
    Loader,
    Model,
    Prompt,
    ReportCell,
    Sample,
    Sandbox,
    Source,
    Task,
    Verdict,
)
from tasks.gsm8k import GSM8KChat
from tasks.numbers import NUMBER, last_number
from tasks.react import PROMPT
from tasks.rows import bad, fetch, text, value

TOOL = """\
code_interpreter: Call this tool to interact with the Code Interpreter API.
What is the Code Interpreter API useful for?
Code Interpreter is used to execute Python code to deal with the following tasks:
1. Solving mathematical problems, both quantitative and qualitative
2. Doing data analysis and visualization
3. Converting files between formats
Parameters:
```py
code
```
Enclose the code within triple backticks (```) at the beginning and end of the code.
"""
REACT = PROMPT.format(tools=TOOL, names="code_interpreter", query="{}")
CATEGORIES = ("math", "general", "visualization")
EXECUTIONS = {"math": 1, "general": 1, "visualization": 3}
GSM8K_EXECUTIONS = 3
CELL_SECONDS = 30.0
MOST_IMAGES = 4
"""Pictures kept with a verdict."""
OBSERVATION_CHARACTERS = 2000
DECODING = Decoding(max_tokens=512, stop=("Observation:",))


@dataclass(frozen=True)
class Conversation:
    """What was said and done: the assistant's whole text, and each piece of code with what came of it."""

    text: str
    cells: tuple[tuple[str, CellResult], ...]

    @property
    def final(self) -> str:
        """The final answer, or the whole text where none is marked."""
        return self.text.rpartition("Final Answer:")[2]

    def detail(self) -> dict[str, Any]:
        """For the record: the conversation, and the first pictures as base64."""
        images = [base64.b64encode(image).decode() for _, cell in self.cells for image in cell.images]
        return {
            "conversation": self.text,
            "executions": [{"code": code, "outcome": cell.outcome} for code, cell in self.cells],
            "images": images[:MOST_IMAGES],
        }


async def converse(
    question: Prompt, model: Model, decoding: Decoding, interpreter: Interpreter, executions: int
) -> Conversation:
    """Lets the model call the interpreter at most `executions` times; an error ends the conversation."""
    assert isinstance(question, Chat)
    said = ""
    cells: list[tuple[str, CellResult]] = []
    while True:
        reply = await model.generate(Chat(question.messages, said), decoding)
        said += reply.text
        code = called(reply.text)
        if code is None or len(cells) == executions:
            break
        cell = await interpreter.run(code, seconds=CELL_SECONDS)
        cells.append((code, cell))
        said += f"\nObservation: {observation(cell)}\nThought:"
        if cell.outcome != "ok":
            break
    return Conversation(said, tuple(cells))


def called(reply: str) -> str | None:
    """The code of the last call in a reply, None if it calls nothing."""
    at = reply.rfind("\nAction:")
    found = re.search(r"\nAction:.*?\nAction Input:(.*)", reply[max(at, 0) :] if at >= 0 else "\n" + reply, re.DOTALL)
    if found is None:
        return None
    fenced = re.search(r"```[^\n`]*\n(.*?)(?:```|$)", found[1], re.DOTALL)
    return (fenced[1] if fenced else found[1]).strip("`\n ") or None


def observation(cell: CellResult) -> str:
    """What the model is shown of a cell."""
    shown = "\n".join(part.strip("\n") for part in (cell.stdout, cell.value, cell.error) if part.strip())
    return shown[-OBSERVATION_CHARACTERS:] or "Finished execution."


class CodeInterpreter(Task):
    """Executable rate: the share of items whose code ran without an error; an item without code counts as failed."""

    name: ClassVar[str] = "code-interpreter"
    version: ClassVar[int] = 2
    title: ClassVar[str] = "Code interpreter, executable rate"
    protocol: ClassVar[Literal["base", "chat"]] = "chat"
    shots: ClassVar[int] = 0
    metric: ClassVar[str] = "accuracy"
    source: ClassVar[Source] = Source(
        name="code interpreter items",
        files=("code_interpreter/eval_code_interpreter_v1.jsonl", "eval_code_interpreter_v1.jsonl"),
        installed=Installed(package="tasks", path="data/code_interpreter.jsonl"),
        licence="Apache-2.0 (our own items)",
    )
    decoding: ClassVar[Decoding | None] = DECODING
    report: ClassVar[ReportCell | None] = None
    runs_code: ClassVar[bool] = True

    def samples(self, load: Loader) -> list[Sample]:
        found = []
        for index, row in enumerate(fetch(load, self.source)):
            item = str(value(self.source, index, row, "id")) if "id" in row else f"code-interpreter/{index}"
            category = self._category(item, row)
            files = row.get("files") or {}
            if not (isinstance(files, Mapping) and all(isinstance(content, str) for content in files.values())):
                raise bad(self.source, item, "field 'files' is not an object of texts by file name")
            fields = {"query": text(self.source, item, row, "query"), "files": files, "figure": row.get("figure")}
            gold = "" if row.get("answer") is None else str(row["answer"])
            found.append(Sample(id=item, fields=fields, gold=gold, group=category))
        return found

    def _category(self, item: str, row: Mapping[str, Any]) -> str:
        said = value(self.source, item, row, "category" if "category" in row else "tags")
        words = " ".join(map(str, said)) if isinstance(said, list) else str(said)
        for category in CATEGORIES:
            if category in words:
                return category
        raise bad(self.source, item, f"neither 'category' nor 'tags' names one of {', '.join(CATEGORIES)}")

    def prompt(self, sample: Sample) -> Prompt:
        files = ", ".join(f"`{name}`" for name in sample.fields["files"])
        uploaded = f"{'Files' if ', ' in files else 'File'} {files}. " if files else ""
        return Chat((("system", SYSTEM), ("user", REACT.format(uploaded + sample.fields["query"]))))

    async def judge(self, sample: Sample, model: Model, sandbox: Sandbox) -> Verdict:
        assert self.decoding is not None
        executions = EXECUTIONS[str(sample.group)]
        async with sandbox.interpreter(sample.fields["files"]) as interpreter:
            held = await converse(self.prompt(sample), model, self.decoding, interpreter, executions)
        return self.verdict(sample, held)

    def verdict(self, sample: Sample, held: Conversation) -> Verdict:
        """All executions count for math, the first one for the other categories."""
        counted = held.cells if sample.group == "math" else held.cells[:1]
        if not counted:
            return Verdict(answer=None, outcome="no_code", detail=held.detail())
        outcome = next((cell.outcome for _, cell in counted if cell.outcome != "ok"), "correct")
        return Verdict(answer="\n".join(code for code, _ in counted), outcome=outcome, detail=held.detail())


class CodeInterpreterAnswers(CodeInterpreter):
    """Correctness on items that say what is right: a number, a text, or what a plot has to show."""

    name = "code-interpreter-answers"
    version = 2
    title = "Code interpreter, right answers and plots"

    def samples(self, load: Loader) -> list[Sample]:
        found = super().samples(load)
        if unknown := [sample.id for sample in found if not sample.gold and sample.fields["figure"] is None]:
            raise bad(
                self.source, unknown[0], "has neither 'answer' nor 'figure'; use the task code-interpreter for it"
            )
        return found

    def verdict(self, sample: Sample, held: Conversation) -> Verdict:
        wanted = sample.fields["figure"]
        if wanted is not None:
            plots = [
                axes for _, cell in held.cells if cell.outcome == "ok" for figure in cell.figures for axes in figure
            ]
            if not plots:
                return Verdict(answer=None, outcome="unextracted", detail=held.detail())
            right = any(shows(axes, wanted) for axes in plots)
            return Verdict(answer=str(plots[-1]), outcome="correct" if right else "wrong", detail=held.detail())
        right = answered(held.final, sample.gold)
        return Verdict(answer=held.final.strip(), outcome="correct" if right else "wrong", detail=held.detail())


class CodeInterpreterGSM8K(GSM8KChat):
    """The last number of the whole conversation, as the released script reads it."""

    name = "code-interpreter-gsm8k"
    version = 1
    title = "GSM8K with a code interpreter"
    measures: ClassVar[Mapping[str, Kind]] = {}
    decoding = DECODING
    report = None
    runs_code: ClassVar[bool] = True

    def prompt(self, sample: Sample) -> Prompt:
        return Chat((("system", SYSTEM), ("user", REACT.format(sample.fields["question"]))))

    async def judge(self, sample: Sample, model: Model, sandbox: Sandbox) -> Verdict:
        assert self.decoding is not None
        async with sandbox.interpreter({}) as interpreter:
            held = await converse(self.prompt(sample), model, self.decoding, interpreter, GSM8K_EXECUTIONS)
        answer = self.extract(held.text)
        if answer is None:
            return Verdict(answer=None, outcome="unextracted", detail=held.detail())
        outcome = "correct" if self.equal(answer, sample.gold) else "wrong"
        return Verdict(answer=answer, outcome=outcome, detail=held.detail())


def answered(reply: str, gold: str) -> bool:
    """Whether the reply's last number is the gold one, or, where that is no number, whether it holds the gold text."""
    wanted = last_number(gold) if NUMBER.fullmatch(gold) else None
    if wanted is None:
        return re.search(rf"(?<!\w){re.escape(gold)}(?!\w)", reply, re.IGNORECASE) is not None
    found = last_number(reply)
    return found is not None and close(float(found), float(wanted))


def shows(axes: Any, wanted: Mapping[str, Any]) -> bool:
    """Whether a plot has all that is wanted of it: lists of numbers, numbers, or texts without regard to case."""
    return isinstance(axes, Mapping) and all(alike(axes.get(name), expected) for name, expected in wanted.items())


def alike(found: Any, expected: Any) -> bool:
    if isinstance(expected, str):
        return isinstance(found, str) and found.strip().casefold() == expected.casefold()
    if isinstance(expected, Sequence):
        pairs = zip(found, expected, strict=True) if isinstance(found, list) and len(found) == len(expected) else None
        return pairs is not None and all(alike(one, other) for one, other in pairs)
    return isinstance(found, int | float) and close(found, expected)


def close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-4)
