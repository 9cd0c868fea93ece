"""HumanEvalPack's "synthesize" task: HumanEval's 164 problems in six languages, 0-shot completion, one group each.

Its "fix" and "explain" tasks are not here. A problem whose compiler or library is not installed counts neither way.
"""

from __future__ import annotations

import re
import secrets
from typing import ClassVar, Literal

from tasks.api import Check, Decoding, Loader, Model, Prompt, ReportCell, Sample, Sandbox, Source, Task, Verdict
from tasks.humaneval import verdict
from tasks.humanevalpack_programs import program
from tasks.rows import fetch, text

LANGUAGES = ("python", "js", "java", "go", "cpp", "rust")
FIELDS = ("prompt", "test", "entry_point", "buggy_solution")
CPU_SECONDS = 10.0
"""For the program alone; building it is not counted. The data set's own harness gives 10 s by the clock as well."""


def _source(language: str) -> Source:
    return Source(
        name=f"HumanEvalPack {language}",
        files=(f"humanevalpack/{language}_humanevalpack.jsonl",),
        hub="bigcode/humanevalpack",
        config=language,
        split="test",
        licence="MIT",
    )


class HumanEvalPack(Task):
    """The model continues the declaration and its comment to the end of the function."""

    name: ClassVar[str] = "humanevalpack"
    version: ClassVar[int] = 2
    title: ClassVar[str] = "HumanEvalPack synthesize, six languages, 0-shot completion"
    protocol: ClassVar[Literal["base", "chat"]] = "base"
    shots: ClassVar[int] = 0
    metric: ClassVar[str] = "pass@1"
    source: ClassVar[Source] = _source("python")
    others: ClassVar[tuple[Source, ...]] = tuple(_source(language) for language in LANGUAGES[1:])
    decoding: ClassVar[Decoding | None] = Decoding(max_tokens=512)
    report: ClassVar[ReportCell | None] = None
    runs_code: ClassVar[bool] = True

    @classmethod
    def sources(cls) -> tuple[Source, ...]:
        return (cls.source, *cls.others)

    def samples(self, load: Loader) -> list[Sample]:
        found = []
        for language, source in zip(LANGUAGES, self.sources(), strict=True):
            wanted = (*FIELDS, "test_setup", "import") if language == "go" else FIELDS
            for index, row in enumerate(fetch(load, source)):
                item = text(source, index, row, "task_id")
                fields = {key: text(source, item, row, key) for key in wanted}
                gold = text(source, item, row, "canonical_solution")
                found.append(Sample(id=item, fields=fields | {"language": language}, gold=gold, group=language))
        return found

    def prompt(self, sample: Sample) -> Prompt:
        return str(sample.fields["prompt"])

    def extract(self, sample: Sample, reply: str) -> str:
        """The function's body: up to the line that closes it, or in Python to the next line that is not indented."""
        if sample.fields["language"] == "python":
            return re.split(r"\n(?=[^\s#)\]}])", reply, maxsplit=1)[0]
        closing = re.search(r"^\}", reply, re.MULTILINE)
        body = reply[: closing.end()] if closing else reply
        # A class around the function is closed for the model where it stops before that.
        return body + "\n" if closing or sample.fields["language"] != "java" else body + "\n}\n"

    def check(self, sample: Sample, code: str) -> Check:
        """What is run for Python."""
        prompt, test, entry_point = (str(sample.fields[key]) for key in ("prompt", "test", "entry_point"))
        return Check(solution=prompt + code, tests=test, names=(entry_point,), setup=prompt)

    async def judge(self, sample: Sample, model: Model, sandbox: Sandbox) -> Verdict:
        assert self.decoding is not None
        reply = await model.generate(self.prompt(sample), self.decoding)
        return await self.judge_code(sample, self.extract(sample, reply.text), sandbox)

    async def judge_code(self, sample: Sample, code: str, sandbox: Sandbox) -> Verdict:
        """The verdict on a body. Outside Python a pass has to be confirmed: see tasks/humanevalpack_programs.py."""
        language = str(sample.fields["language"])
        if language == "python":
            check = self.check(sample, code)
            return verdict(code, check.solution, await sandbox.check(check, cpu_seconds=CPU_SECONDS))
        row, word = dict(sample.fields), secrets.token_hex(12)
        source = program(language, row, code, word, control=False)
        # a library that the problem needs may stand in its solution alone
        needs = f"{row['prompt']}\n{row['test']}\n{sample.gold}"
        result = await sandbox.build(language, source, needs, cpu_seconds=CPU_SECONDS)
        found = verdict(code, source, result)
        if result.outcome != "ok":
            return found
        if not result.stdout.endswith(word + "\n"):
            return Verdict(answer=code, outcome="killed", detail={**found.detail, "why": "ended before its tests did"})
        control = program(language, row, code, word, control=True)
        confirmed = await sandbox.build(language, control, needs, cpu_seconds=CPU_SECONDS)
        if confirmed.outcome == "ok" or word in confirmed.stdout:
            return Verdict(answer=code, outcome="killed", detail={**found.detail, "why": "a false assertion held too"})
        return Verdict(answer=code, outcome="correct", detail=found.detail)
