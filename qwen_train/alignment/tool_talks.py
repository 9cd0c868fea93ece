"""Conversations in which an assistant works with tools by ReAct, and the rules that a written one has to keep.

A row is a question with its tools, in the form of Qwen's ReAct prompt, and what the assistant writes:

    {"question": "...", "tools": [{"name_for_model": "weather", "name_for_human": "Weather",
      "description_for_model": "...", "parameters": [{"name": "city", "description": "...", "required": true,
      "schema": {"type": "string"}}]}],
     "answer": "Thought: ...\\nAction: weather\\nAction Input: {\\"city\\": \\"Oslo\\"}\\nObservation: ...
      \\nThought: ...\\nFinal Answer: ..."}
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator, SchemaError

from qwen_train.alignment.conversations import RowError
from tasks.react import react_prompt

Tool = Mapping[str, Any]

_LABEL = re.compile(r"^(Thought|Action|Action Input|Observation|Final Answer):[ \t]*", re.MULTILINE)
_CALL = ("Thought", "Action", "Action Input", "Observation")
_END = ("Thought", "Final Answer")


class Rejected(Exception):
    """A rule that a written conversation breaks, by its name, and how."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"{rule}: {detail}")
        self.rule, self.detail = rule, detail


@dataclass(frozen=True)
class Step:
    """A call with the thought before it and what the tool answered."""

    thought: str
    action: str
    arguments: str
    observation: str


@dataclass(frozen=True)
class Talk:
    """A question, the tools at hand, and how it is answered."""

    question: str
    tools: tuple[Tool, ...]
    steps: tuple[Step, ...]
    thought: str
    final: str

    @property
    def answer(self) -> str:
        """What the assistant and the tools write, as one text."""
        calls = (
            f"Thought: {s.thought}\nAction: {s.action}\nAction Input: {s.arguments}\nObservation: {s.observation}\n"
            for s in self.steps
        )
        return "".join(calls) + f"Thought: {self.thought}\nFinal Answer: {self.final}"

    def row(self) -> dict[str, Any]:
        """For `qwen-train sft`, which reads `messages`; the rest makes it a seed of further ones.

        A tool's answer ends in "Thought:" when it is rendered (`qwen_model.chatml`), so later turns begin behind that.
        """
        messages, begin = [("user", react_prompt(self.question, self.tools))], "Thought: "
        for step in self.steps:
            call = f"{begin}{step.thought}\nAction: {step.action}\nAction Input: {step.arguments}"
            messages += [("assistant", call), ("observation", step.observation)]
            begin = " "
        messages.append(("assistant", f"{begin}{self.thought}\nFinal Answer: {self.final}"))
        return {
            "question": self.question,
            "tools": list(self.tools),
            "answer": self.answer,
            "messages": [{"role": role, "content": content} for role, content in messages],
        }


def written(text: str, tools: Sequence[Tool]) -> Talk:
    """The conversation of a text that goes on behind "Question:". Raises Rejected for one that is not in the format."""
    question, *labelled = (part.strip() for part in _LABEL.split(text))
    names, parts = tuple(labelled[::2]), labelled[1::2]
    calls, left = divmod(len(names) - len(_END), len(_CALL))
    if left or calls < 0 or names != _CALL * calls + _END:
        raise Rejected("format", f"{' > '.join(names) or 'no step'} is not calls and then Thought > Final Answer")
    for name, part in zip(("Question", *names), (question, *parts), strict=True):
        if not part:
            raise Rejected("format", f"{name} is empty")
    steps = tuple(Step(*parts[4 * place : 4 * place + 4]) for place in range(calls))
    return Talk(question, tuple(tools), steps, *parts[-2:])


def check_calls(talk: Talk) -> None:
    """Raises Rejected where no tool is called, an unknown one, one with wrong arguments, or the same call twice."""
    if not talk.steps:
        raise Rejected("no call", "it is answered without a tool")
    tools = {tool["name_for_model"]: tool for tool in talk.tools}
    made = []
    for step in talk.steps:
        if step.action not in tools:
            raise Rejected("unknown tool", f"{step.action!r} is none of {', '.join(tools)}")
        try:
            arguments = json.loads(step.arguments)
        except (ValueError, RecursionError) as error:
            raise Rejected("arguments", f"not JSON: {error}") from error
        if not isinstance(arguments, dict):
            raise Rejected("arguments", "not a JSON object")
        for breach in Draft202012Validator(schema_of(tools[step.action])).iter_errors(arguments):
            raise Rejected("arguments", " ".join(breach.message.split())[:200])
        call = (step.action, json.dumps(arguments, sort_keys=True))
        if call in made:
            raise Rejected("repeated call", f"{step.action} with the same arguments")
        made.append(call)


def schema_of(tool: Tool) -> dict[str, Any]:
    """The JSON Schema of a tool's arguments; others than its own are none."""
    parameters = tool["parameters"]
    return {
        "type": "object",
        "properties": {each["name"]: each["schema"] for each in parameters},
        "required": [each["name"] for each in parameters if each["required"]],
        "additionalProperties": False,
    }


def read_tool(row: Any) -> Tool:
    """A tool as it stands in a file. Raises RowError."""
    if not isinstance(row, Mapping):
        raise RowError("a tool is not a JSON object")
    for name in ("name_for_model", "name_for_human", "description_for_model"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise RowError(f"a tool's field {name!r} is no text")
    parameters = row.get("parameters")
    for each in parameters if isinstance(parameters, list) else [None]:
        told = each if isinstance(each, Mapping) else {}
        kinds = (str, bool, Mapping)
        names = ("name", "required", "schema")
        if not all(isinstance(told.get(name), kind) for name, kind in zip(names, kinds, strict=True)):
            raise RowError(f"tool {row['name_for_model']}: parameters are not objects with name, required, schema")
    try:
        Draft202012Validator.check_schema(schema_of(row))
    except SchemaError as error:
        raise RowError(f"tool {row['name_for_model']}: no JSON Schema ({' '.join(error.message.split())})") from error
    return row


def read_talk(row: Any) -> Talk:
    """A seed as it stands in a file, under the same rules as what is written. Raises RowError."""
    if not isinstance(row, Mapping) or not isinstance(row.get("tools"), list) or not row["tools"]:
        raise RowError("not a JSON object with a list of tools")
    for name in ("question", "answer"):
        if not isinstance(row.get(name), str):
            raise RowError(f"field {name!r} is no text")
    try:
        talk = written(f"{row['question']}\n{row['answer']}", [read_tool(tool) for tool in row["tools"]])
        check_calls(talk)
    except Rejected as error:
        raise RowError(str(error)) from error
    return talk
