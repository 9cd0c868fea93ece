"""ReAct's prompt as released with Qwen (`examples/react_prompt.md`), and how its replies are read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TOOL = (
    "{name_for_model}: Call this tool to interact with the {name_for_human} API. What is the {name_for_human} API "
    "useful for? {description_for_model} Parameters: {parameters} Format the arguments as a JSON object."
)
PROMPT = """\
Answer the following questions as best you can. You have access to the following tools:

{tools}

Use the following format:

Question: the input question you must answer
Thought: you should always think about what to do
Action: the action to take, should be one of [{names}]
Action Input: the input to the action
Observation: the result of the action
... (this Thought/Action/Action Input/Observation can be repeated zero or more times)
Thought: I now know the final answer
Final Answer: the final answer to the original input question

Begin!

Question: {query}"""


def react_prompt(query: str, tools: Sequence[Mapping[str, Any]]) -> str:
    """The question with its tools, each with `name_for_model`, `name_for_human`, `description_for_model` and
    `parameters` (JSON)."""
    described = [
        TOOL.format_map({**tool, "parameters": json.dumps(tool["parameters"], ensure_ascii=False)}) for tool in tools
    ]
    names = ",".join(tool["name_for_model"] for tool in tools)
    return PROMPT.format(tools="\n\n".join(described), names=names, query=query)


@dataclass(frozen=True)
class Call:
    """The first call of a ReAct text; `arguments` are normalised JSON, empty where they are none."""

    action: str
    arguments: str


def calls(reply: str) -> bool:
    """Whether a reply calls a tool, in the released script's reading: an action on a line after the first."""
    return "\nAction: " in reply


def first_call(text: str) -> Call:
    """The first action and its input up to the first observation, as the script of the tool-use benchmark reads it."""
    action, _, rest = text.partition("Action:")[2].partition("Action Input:")
    return Call(action.strip(), normalised(rest.partition("Observation:")[0].strip()))


def normalised(arguments: str) -> str:
    """JSON5 as JSON with sorted keys, so that quotes and order of keys do not count; empty where it is not JSON5."""
    import json5

    try:
        return json.dumps(json5.loads(arguments), ensure_ascii=False, sort_keys=True)
    except (ValueError, RecursionError):
        return ""
