"""The work of `engine_speed`: requests in lm-evaluation-harness's three kinds, made of the project's own tasks."""

from __future__ import annotations

import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.data import Data
from harness.registry import task_class
from harness.selection import select
from tasks.api import Options, Task

SUBJECTS = ("abstract_algebra", "anatomy", "business_ethics")
MODULES = ("argparse", "ast", "calendar", "csv", "difflib", "dis", "doctest", "enum")
"""Of Python's standard library: long texts that every machine has."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Requests of one kind, `per_item` of them for an item."""

    name: str
    kind: Literal["loglikelihood", "generate_until", "loglikelihood_rolling"]
    arguments: list[tuple[Any, ...]]
    per_item: int = 1

    def part(self, share: float, least: int = 2) -> Work:
        """Items spread evenly over all."""
        items = len(self.arguments) // self.per_item
        wanted = min(items, max(least, round(items * share)))
        chosen = [number * items // wanted for number in range(wanted)]
        size = self.per_item
        kept = [one for item in chosen for one in self.arguments[item * size : (item + 1) * size]]
        return Work(name=self.name, kind=self.kind, arguments=kept, per_item=size)


def works() -> list[Work]:
    """MMLU 5-shot (3 x 100), HellaSwag (200), GSM8K 8-shot (50), HumanEval (50), and eight whole texts."""
    data = Data()
    mmlu, hellaswag, gsm8k, humaneval = (
        task_class(name)(Options()) for name in ("mmlu", "lm-eval/hellaswag", "gsm8k", "humaneval")
    )
    questions = mmlu.samples(data)
    asked = [one for name in SUBJECTS for one in select("mmlu", questions, {"subject": [name]}, 100)]
    letters = [(mmlu.prompt(sample), f" {letter}") for sample in asked for letter in "ABCD"]
    begun = select("hellaswag", hellaswag.samples(data), {}, 200)
    requests = hellaswag.requests  # type: ignore[attr-defined]
    endings = [tuple(request.args) for sample in begun for request in requests[sample.fields["doc_id"]]]
    library = Path(sysconfig.get_path("stdlib"))
    texts = [((library / f"{name}.py").read_text(encoding="utf-8")[:8000],) for name in MODULES]
    return [
        Work(name="MMLU 5-shot, letters", kind="loglikelihood", arguments=letters, per_item=4),
        Work(name="HellaSwag, endings", kind="loglikelihood", arguments=endings, per_item=4),
        Work(name="GSM8K 8-shot, written", kind="generate_until", arguments=_written(gsm8k, data)),
        Work(name="HumanEval, written", kind="generate_until", arguments=_written(humaneval, data)),
        Work(name="whole texts, rolling", kind="loglikelihood_rolling", arguments=texts),
    ]


def _written(task: Task, data: Data) -> list[tuple[Any, ...]]:
    assert task.decoding is not None
    options = {"until": list(task.decoding.stop), "max_gen_toks": task.decoding.max_tokens, "do_sample": False}
    return [(task.prompt(sample), options) for sample in select(task.name, task.samples(data), {}, 50)]
