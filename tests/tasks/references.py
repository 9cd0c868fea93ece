"""HumanEvalPack's own solutions, judged: the reference and buggy ones that it ships, and bodies with nothing in them.

    python -m tests.tasks.references [LANGUAGE ...]

prints the counts of docs/protocols.md, all 164 problems of each language: half an hour on two idle cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from harness.sandbox import Policy, Result, Sandbox
from harness.sandbox.languages import Workshop
from tasks.api import Check, Sample
from tasks.humanevalpack import CPU_SECONDS, LANGUAGES, HumanEvalPack
from tests.tasks.scripted import SHARED

KINDS = ("reference", "buggy", "empty")
EMPTY = {"python": "    pass\n", "java": "    }\n}\n"}
"""The rest of a function that does nothing; "}" where nothing else is said."""
_NO_RETURN = (
    "a C++ function that ends without a return gives back what a register holds: a bool that is neither 0 nor 1, "
    "which is true, and so is its negation"
)
EXPLAINED: dict[tuple[str, str], str] = {
    ("Go/95", "reference"): "depends on the order of a map, which Go draws anew for each run",
    ("Go/95", "buggy"): "the same",
    ("CPP/52", "empty"): _NO_RETURN,
    ("CPP/56", "empty"): _NO_RETURN,
    ("CPP/61", "empty"): _NO_RETURN,
}
"""(item, kind) whose outcome is not the expected one, or not always, and why."""


class Built:
    """The engine's sandbox handle for one language, without the engine. Raises FileNotFoundError for one that is not
    installed, SandboxUnavailable."""

    def __init__(self, language: str) -> None:
        self.shop = None if language == "python" else Workshop(language, CPU_SECONDS)
        self.box = Sandbox(Policy(cpu_seconds=CPU_SECONDS))

    async def build(self, language: str, source: str, needs: str, *, cpu_seconds: float) -> Result:
        assert self.shop is not None
        return self.shop.run(source, needs)

    async def check(self, check: Check, *, cpu_seconds: float) -> Result:
        return self.box.check(check.solution, check.tests, check.names, check.setup)


def samples_of(language: str) -> list[Sample]:
    """All problems of a language, out of the real data. Raises FileNotFoundError."""

    def load(source):
        with (SHARED / source.files[0]).open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    return [sample for sample in HumanEvalPack().samples(load) if sample.group == language]


def code_of(sample: Sample, kind: str) -> str:
    if kind == "empty":
        return EMPTY.get(str(sample.group), "}\n")
    return str(sample.gold if kind == "reference" else sample.fields["buggy_solution"])


def outcomes(samples: Sequence[Sample], kind: str, built: Built) -> dict[str, str]:
    """The outcome of each sample's solution of a kind."""
    task = HumanEvalPack()

    def one(sample: Sample) -> str:
        return asyncio.run(task.judge_code(sample, code_of(sample, kind), built)).outcome

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return dict(zip((sample.id for sample in samples), pool.map(one, samples), strict=True))


def unexpected(found: dict[str, str], kind: str) -> dict[str, str]:
    """What is neither as it should be, nor explained, nor not installed."""
    return {
        item: outcome
        for item, outcome in found.items()
        if (outcome == "correct") != (kind == "reference")
        and (kind != "reference" or outcome != "not_installed")
        and (item, kind) not in EXPLAINED
    }


def main(languages: Iterable[str]) -> None:
    print("| language | solutions | correct | not correct | not installed | explained |\n|---|---|---|---|---|---|")
    for language in languages:
        try:
            built, samples = Built(language), samples_of(language)
        except FileNotFoundError as error:
            print(f"| {language} | {error} | | | | |", flush=True)
            continue
        for kind in KINDS:
            began = time.monotonic()
            found = outcomes(samples, kind, built)
            counts = Counter(found.values())
            right, missing = counts.pop("correct", 0), counts.pop("not_installed", 0)
            wrong = f"{sum(counts.values())} ({', '.join(f'{n} {name}' for name, n in counts.most_common())})"
            explained = [item for item in found if (item, kind) in EXPLAINED]
            cells = [language, kind, right, wrong if counts else 0, missing, ", ".join(explained)]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)
            absent = [item for item, outcome in found.items() if outcome == "not_installed"]
            seconds = time.monotonic() - began
            print(f"not installed {absent}; unexpected {unexpected(found, kind)}; {seconds:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("language", nargs="*", choices=[*LANGUAGES, "all"], default="all")
    chosen = parser.parse_args().language
    main(LANGUAGES if "all" in chosen else chosen)
