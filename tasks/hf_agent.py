"""The Hugging Face Agent benchmark of the Qwen report's Table 9, by the rules of transformers 4.32's `evaluate_agent`.

A model names tools, then writes Python that calls them. The tools are stand-ins that return texts; the code runs in the
sandbox, with the statements, expressions and calls that transformers' own interpreter allowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Literal

from tasks.api import (
    SYSTEM,
    Chat,
    Check,
    Decoding,
    Kind,
    Loader,
    Model,
    Prompt,
    ReportCell,
    Row,
    Sample,
    Sandbox,
    Source,
    Task,
    TaskError,
    Verdict,
)
from tasks.documents import text_of
from tasks.hf_agent_prompts import CHAT, MESSAGE, RUN, TOOLS
from tasks.rows import bad, fetch, value

SELECTION, USED, CODE = "tool selection", "tool used", "code correctness"
"""All three from 0 to 100, as in the report's table."""
PENALTY = 25.0
"""For each tool that is missing, and each that is too many."""
RIGHT, AMONG, FLOOR = 100.0, 75.0, 30.0
"""For the right result, for one among the values of a dict, and for anything else, code that fails included."""
CPU_SECONDS = 5.0


class HFAgentRun(Task):
    """One request, one piece of code; every wording of a problem is an item."""

    name: ClassVar[str] = "hf-agent-run"
    version: ClassVar[int] = 2
    title: ClassVar[str] = "Hugging Face Agent, run mode"
    protocol: ClassVar[Literal["base", "chat"]] = "chat"
    shots: ClassVar[int] = 0
    metric: ClassVar[str] = SELECTION
    measures: ClassVar[Mapping[str, Kind]] = {SELECTION: "mean", USED: "mean", CODE: "mean"}
    source: ClassVar[Source] = Source(
        name="Hugging Face Agent tasks",
        files=("hf_agent/evaluation_tasks.jsonl", "evaluation_tasks.jsonl"),
        licence="Apache-2.0",
    )
    decoding: ClassVar[Decoding | None] = Decoding(max_tokens=512)
    report: ClassVar[ReportCell | None] = ReportCell("table_9", "Tool Selection, run mode")
    runs_code: ClassVar[bool] = True
    takes: ClassVar[frozenset[str]] = frozenset({"shots_file"})

    default: ClassVar[str] = RUN
    places: ClassVar[tuple[str, ...]] = ("<<prompt>>",)
    """What a template of the user's has to hold."""
    stop: ClassVar[tuple[str, ...]] = ("Task:",)
    """Taken off the end of a reply, as in Qwen's script; nothing stops on them."""

    template = ""

    def samples(self, load: Loader) -> list[Sample]:
        file = self.options.shots_file
        self.template = self.default if file is None else template(file, self.places)
        return [
            sample
            for place, row in enumerate(fetch(load, self.source))
            for sample in self._wordings(f"{self.name}/{place}", self.steps(place, row))
        ]

    def steps(self, place: int, row: Row) -> Sequence[Row]:
        """The requests of a row that build on each other."""
        return [row]

    def _wordings(self, item: str, steps: Sequence[Row]) -> list[Sample]:
        """One sample for each step in each wording; a step is given with those before it."""
        turns = [turn(self.source, f"{item}, step {place}", row) for place, row in enumerate(steps)]
        if len({len(one["task"]) for one in turns}) != 1:
            raise bad(self.source, item, "field 'task' has another number of wordings in one step than in another")
        return [
            Sample(
                id=f"{item}/{wording}" + (f"/{step}" if len(turns) > 1 else ""),
                fields={"turns": [{**one, "task": one["task"][wording]} for one in turns[: step + 1]]},
                gold=" | ".join(turns[step]["answer"]),
            )
            for wording in range(len(turns[0]["task"]))
            for step in range(len(turns))
        ]

    def prompt(self, sample: Sample) -> Prompt:
        return asked(self.first(sample.fields["turns"][0]["task"]))

    def first(self, task: str) -> str:
        """The text that asks for a task with nothing said before."""
        return self.template.replace("<<all_tools>>", DESCRIPTIONS).replace("<<prompt>>", task)

    def parts(self, reply: str) -> tuple[str, str]:
        """(Explanation, code) of a reply. The official function fails unless "Answer:" is there exactly once."""
        explanation, _, code = f"I will use the following {reply}".partition("Answer:")
        lines = code.partition("Answer:")[0].strip().split("\n")
        if lines[0] in ("```", "```py", "```python"):
            lines = lines[1:]
        if lines and lines[-1] == "```":
            lines = lines[:-1]
        return explanation.strip(), "\n".join(lines)

    async def judge(self, sample: Sample, model: Model, sandbox: Sandbox) -> Verdict:
        turns = sample.fields["turns"]
        text, codes = self.first(turns[0]["task"]), []
        explanation = ""
        assert self.decoding is not None
        for place, one in enumerate(turns):
            if place:
                text += MESSAGE.replace("<<task>>", one["task"])
            reply = (await model.generate(asked(text), self.decoding)).text.strip()
            for ending in self.stop:
                reply = reply.removesuffix(respelt(ending))
            said = respelt(reply, back=True)
            explanation, code = self.parts(said)
            codes.append(code)
            text += said + "\n"
        matched, points = await self.points(turns, codes, sandbox)
        wanted = tools(turns[-1]["answer"][matched])
        named = {name for name in TOOLS if f"`{name}`" in explanation}
        scores = {SELECTION: agreement(named, wanted), USED: agreement(tools(codes[-1]), wanted), CODE: points}
        outcome = "no_code" if not codes[-1] else "correct" if points == RIGHT else "wrong"
        return Verdict(
            answer=codes[-1] or None,
            outcome=outcome,
            scores=scores,
            detail={"explanation": explanation, "tools named": sorted(named), "tools wanted": sorted(wanted)},
        )

    async def points(
        self, turns: Sequence[Mapping[str, Any]], codes: Sequence[str], sandbox: Sandbox
    ) -> tuple[int, float]:
        """(Which of the accepted answers was matched, else the first; the points of the code)."""
        accepted = range(len(turns[-1]["answer"]))
        if codes[-1]:
            for points, condition in ((RIGHT, "equal"), (AMONG, "among")):
                for answer in accepted:
                    result = await sandbox.check(check(turns, codes, answer, condition), cpu_seconds=CPU_SECONDS)
                    if result.outcome == "passed":
                        return answer, points
        return 0, FLOOR


class HFAgentChat(HFAgentRun):
    """Requests that build on each other. Each step is an item, for which the steps before it are asked again."""

    name = "hf-agent-chat"
    title = "Hugging Face Agent, chat mode"
    source = Source(
        name="Hugging Face Agent chats",
        files=("hf_agent/evaluation_chats.jsonl", "evaluation_chats.jsonl"),
        licence="Apache-2.0",
    )
    report = ReportCell("table_9", "Tool Selection, chat mode")
    default = CHAT
    places = ()
    stop = ("Human:", "=====")

    def steps(self, place: int, row: Row) -> Sequence[Row]:
        found = value(self.source, place, row, "turns")
        if not isinstance(found, list) or not found:
            raise bad(self.source, place, "field 'turns' is not a list of steps")
        return found

    def first(self, task: str) -> str:
        return self.template.replace("<<all_tools>>", DESCRIPTIONS) + MESSAGE.replace("<<task>>", task)

    def parts(self, reply: str) -> tuple[str, str]:
        """(Text before the first fence, what is in it, up to its end or the reply's)."""
        lines = reply.split("\n")
        fences = [place for place, line in enumerate(lines) if line.lstrip().startswith("```")]
        if not fences:
            return reply.strip(), ""
        end = fences[1] if len(fences) > 1 else len(lines)
        return "\n".join(lines[: fences[0]]).strip(), "\n".join(lines[fences[0] + 1 : end]).strip()


INTERPRETER = (files("tasks") / "hf_agent_interpreter.py").read_text(encoding="utf-8")
DESCRIPTIONS = "\n".join(f"- {name}: {told}" for name, told in TOOLS.items())


def turn(source: Source, item: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A step with lists of wordings and of accepted answers, and its inputs' values."""
    found: dict[str, Any] = {}
    for key in ("task", "answer"):
        told = value(source, item, row, key)
        found[key] = [told] if isinstance(told, str) else told
        if not (isinstance(found[key], list) and found[key] and all(isinstance(one, str) for one in found[key])):
            raise bad(source, item, f"field {key!r} is neither a text nor a list of texts")
    inputs = value(source, item, row, "inputs")
    if isinstance(inputs, list):
        inputs = {name: f"<<{name}>>" for name in inputs}
    if not (isinstance(inputs, Mapping) and all(isinstance(one, str) for pair in inputs.items() for one in pair)):
        raise bad(source, item, "field 'inputs' is neither a list of names nor an object of texts")
    return {**found, "inputs": dict(inputs)}


def check(turns: Sequence[Mapping[str, Any]], codes: Sequence[str], answer: int, condition: str) -> Check:
    """Compares what came of the last code with what comes of an accepted answer, each after the steps before it."""
    inputs = [one["inputs"] for one in turns]
    right = [one["answer"][min(answer, len(one["answer"]) - 1)] for one in turns]
    return Check(
        solution=f"{INTERPRETER}\ndef attempt():\n    return interpret({list(codes)!r}, {inputs!r})\n",
        setup=INTERPRETER,
        tests=f"assert {condition}(attempt(), interpret({right!r}, {inputs!r}))",
        names=("attempt",),
    )


def tools(code: str) -> set[str]:
    """The tools whose name is in a piece of code, in whatever sense."""
    return {name for name in TOOLS if name in code}


def agreement(found: set[str], wanted: set[str]) -> float:
    """100 for the same tools, less for each that is missing or too many, never below 0."""
    return max(0.0, 100.0 - PENALTY * len(found ^ wanted))


def asked(text: str) -> Chat:
    """A text as Qwen's script asks it: one user turn, in which the agent's own names of the speakers are respelt."""
    return Chat((("system", SYSTEM), ("user", respelt(text))))


def respelt(text: str, *, back: bool = False) -> str:
    for plain, marked in (("Human:", "_HUMAN_:"), ("Assistant:", "_ASSISTANT_:")):
        text = text.replace(*((marked, plain) if back else (plain, marked)))
    return text


def template(file: Path, places: Sequence[str]) -> str:
    """A template of the user's, such as the released run_prompt_template.txt."""
    text = text_of(file, "--shots-file")
    for place in ("<<all_tools>>", *places):
        if place not in text:
            raise TaskError(f"--shots-file {file}: has no {place}; mark with it where that goes")
    return text
