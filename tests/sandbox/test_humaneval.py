"""On HumanEval's own solutions: right ones pass their tests, empty ones do not, in every tier."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.sandbox import Policy, Sandbox
from tasks.humaneval import HumanEval
from tests.sandbox.places import TIERS, need
from tests.tasks.scripted import humaneval_rows


@pytest.mark.slow
@pytest.mark.parametrize("tier", TIERS)
def test_canonical_solutions_pass_and_empty_ones_do_not(tier):
    need("self", tier)
    task = HumanEval()
    samples = task.samples(humaneval_rows)
    assert len(samples) == 164

    def outcome(check):
        return box.check(check.solution, check.tests, check.names, check.setup).outcome

    with Sandbox(Policy(cpu_seconds=20), _tier=tier) as box, ThreadPoolExecutor(2) as pool:
        right = list(pool.map(outcome, [task.check(sample, sample.gold) for sample in samples]))
        empty = list(pool.map(outcome, [task.check(sample, "    pass\n") for sample in samples]))
    assert [sample.id for sample, found in zip(samples, right, strict=True) if found != "passed"] == []
    assert [sample.id for sample, found in zip(samples, empty, strict=True) if found == "passed"] == []
