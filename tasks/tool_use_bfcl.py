"""`tool-use-bfcl`: the measures of `tool-use` on items that we make from the Berkeley Function Calling Leaderboard's.

Not the report's benchmark: other questions, in English, with tools that a model may know. Items are made when they are
loaded; none is kept here. The live, parallel, Java, JavaScript and multi-turn categories are left out.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tasks.api import Loader, Sample, Source, Wheel
from tasks.react import react_prompt
from tasks.rows import bad, fetch, text, value
from tasks.tool_use import NEGATIVE, POSITIVE, ToolUse

TOOLS = 5
"""Candidate tools of every item, as many as the report's items have at most."""
TYPES = {"dict": "object", "float": "number", "tuple": "array"}
"""BFCL's names of types in JSON Schema; its `any` is left out."""
SHORT = 3
"""Words of a tool's name up to this length do not count as related to a question."""
VERBS = frozenset(
    (
        *("calculate", "calc", "compute", "find", "search", "fetch", "retrieve", "generate", "create", "predict"),
        *("estimate", "determine", "analyze", "check", "list", "convert", "update", "with", "from", "data"),
        *("info", "information", "details", "value", "total"),
    )
)
"""Words of tools' names that say nothing of their subject."""


def bfcl_source(what: str, path: str) -> Source:
    return Source(
        name=f"BFCL, {what}",
        files=(f"bfcl/{path}",),
        mirror=Wheel(
            package="bfcl-eval",
            version="2026.3.23",
            sha256="3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a",
            pattern=f"bfcl_eval/data/{path}",
        ),
        licence="Apache-2.0",
    )


class ToolUseBFCL(ToolUse):
    """Questions with one right call are positive, those that no given function fits are negative."""

    name = "tool-use-bfcl"
    title = "Tool use by ReAct, our items from BFCL"
    report = None
    simple = source = bfcl_source("one function", "BFCL_v4_simple_python.json")
    simple_answers = bfcl_source("one function, answers", "possible_answer/BFCL_v4_simple_python.json")
    multiple = bfcl_source("several functions", "BFCL_v4_multiple.json")
    multiple_answers = bfcl_source("several functions, answers", "possible_answer/BFCL_v4_multiple.json")
    positive, negative = simple, bfcl_source("no function fits", "BFCL_v4_irrelevance.json")

    def samples(self, load: Loader) -> list[Sample]:
        sources = (self.simple, self.multiple, self.negative)
        rows = {source: fetch(load, source) for source in sources}
        answers = {
            source: {text(source, place, row, "id"): row for place, row in enumerate(fetch(load, source))}
            for source in (self.simple_answers, self.multiple_answers)
        }
        pool: dict[str, Mapping[str, Any]] = {}
        for source in (self.simple, self.multiple):  # irrelevant items' functions may fit another one's question
            for place, row in enumerate(rows[source]):
                pool.update({function["name"]: function for function in functions(source, place, row)})
        pairs = ((self.simple, self.simple_answers), (self.multiple, self.multiple_answers), (self.negative, None))
        return [
            self._sample(source, row, place, pool, None if wanted is None else (wanted, answers[wanted]))
            for source, wanted in pairs
            for place, row in enumerate(rows[source])
        ]

    def _sample(
        self,
        source: Source,
        row: Mapping[str, Any],
        place: int,
        pool: Mapping[str, Mapping[str, Any]],
        answers: tuple[Source, Mapping[str, Mapping[str, Any]]] | None,
    ) -> Sample:
        item, query, given = text(source, place, row, "id"), question(source, place, row), functions(source, place, row)
        tools = candidates(item, query, given, pool)
        kind, gold = NEGATIVE, ""
        if answers is not None:
            kind, gold = POSITIVE, gold_call(answers[0], item, answers[1].get(item, {}))
        prompt = react_prompt(query, [as_tool(tool) for tool in tools])
        return Sample(id=f"{self.name}/{item}", fields={"kind": kind, "prompt": prompt}, gold=gold, group=kind)


def question(source: Source, place: int, row: Mapping[str, Any]) -> str:
    """The one user turn."""
    turns = value(source, place, row, "question")
    try:
        [[turn]] = turns
        content = turn["content"]
    except (TypeError, ValueError, KeyError):
        content = None
    if not isinstance(content, str):
        raise bad(source, place, "field 'question' is not one user turn with a text as 'content'")
    return content


def functions(source: Source, place: int, row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The functions of a row, each with a name, a description and an object of parameters."""
    found = value(source, place, row, "function")
    for function in found if isinstance(found, list) and found else (None,):
        if not (
            isinstance(function, Mapping)
            and isinstance(function.get("name"), str)
            and isinstance(function.get("description"), str)
            and isinstance(function.get("parameters"), Mapping)
            and isinstance(function["parameters"].get("properties"), Mapping)
        ):
            raise bad(source, place, "field 'function' is not a list of functions with name, description, parameters")
    return list(found)


def candidates(
    item: str, query: str, given: Sequence[Mapping[str, Any]], pool: Mapping[str, Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """The item's own functions and others drawn by the hash of its id up to TOOLS, in an order drawn likewise.

    None is drawn whose name has a word that holds, or is held by, one of the question's or of an own function's name:
    it might be an answer too.
    """
    names, chosen = list(pool), {function["name"]: function for function in given}
    near = topics(" ".join([query, *chosen]))
    for draw in draws(item):
        if len(chosen) >= TOOLS:
            break
        name = names[draw % len(names)]
        if not any(word in other or other in word for word in topics(name) for other in near):
            chosen.setdefault(name, pool[name])
    return [chosen[name] for name in sorted(chosen, key=lambda name: rank(f"{item}\0{name}"))]


def draws(item: str) -> Iterator[int]:
    """Numbers that depend on the item's id alone; ends, so that a pool of few cannot hold anyone up."""
    return (rank(f"{item}\0{number}") for number in range(10_000))


def rank(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def topics(text: str) -> set[str]:
    """The words of a question or of a name in snake or camel case that tell what it is about, without a plural s."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", text)
    return {word.lower().rstrip("s") for word in words if len(word) > SHORT and word.lower() not in VERBS}


def as_tool(function: Mapping[str, Any]) -> dict[str, Any]:
    """A BFCL function in the form of the tools of Qwen's ReAct prompt."""
    schema = function["parameters"]
    return {
        "name_for_model": function["name"],
        "name_for_human": function["name"],
        "description_for_model": function["description"],
        "parameters": [
            {
                "name": name,
                "description": told.get("description", ""),
                "required": name in schema.get("required", ()),
                "schema": {key: typed(part) for key, part in typed(told).items() if key != "description"},
            }
            for name, told in schema["properties"].items()
        ],
    }


def typed(schema: Any) -> Any:
    """A schema with JSON Schema's names of types."""
    if not isinstance(schema, Mapping):
        return schema
    renamed = {key: typed(part) for key, part in schema.items() if not (key == "type" and part == "any")}
    if isinstance(renamed.get("type"), str):
        renamed["type"] = TYPES.get(renamed["type"], renamed["type"])
    return renamed


def gold_call(source: Source, item: str, row: Mapping[str, Any]) -> str:
    """The right call as a ReAct text. Of several accepted values it has the first, and of what may be left out none."""
    try:
        [call] = row["ground_truth"]
        [(name, arguments)] = call.items()
        chosen = accepted(arguments)
    except (KeyError, ValueError, AttributeError, TypeError, IndexError):
        raise bad(source, item, "field 'ground_truth' is not one call with lists of accepted values") from None
    return f"Thought: {name} answers this.\nAction: {name}\nAction Input: {json.dumps(chosen, ensure_ascii=False)}"


def accepted(arguments: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """The first accepted value of each argument; one that may be empty may be left out."""
    return {name: plain(values[0]) for name, values in arguments.items() if "" not in values}


def plain(value: Any) -> Any:
    """An accepted value, in which objects have lists of accepted values in their turn."""
    if isinstance(value, Mapping):
        return accepted(value)
    return [plain(part) for part in value] if isinstance(value, list) else value
