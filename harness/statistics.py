"""Intervals for fractions: every number that a run reports comes from here.

Sources: Wilson, JASA 22 (1927) for the interval; Kish, Survey Sampling (1965) for the design effect and the effective
sample size. All values are fractions in 0..1, and all intervals are 95 % unless said otherwise. Results are the same to
the last digit whatever the order of the input, since `results.json` of a resumed run must equal an unbroken run's.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from statistics import NormalDist
from typing import Any, Literal

from harness.records import Estimate, SampleRecord


def wilson(successes: int, n: int, level: float = 0.95) -> Estimate:
    """Wilson's score interval for `successes` of `n` independent items.

    Unlike value +- 1.96 standard errors it stays inside 0..1, and is not of width nought when all or none succeed.
    """
    if n <= 0:
        raise ValueError("no items: a fraction of nothing has no value")
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} items")
    return _wilson(successes, n, float(n), level)


def accuracy(correct: Sequence[bool], groups: Sequence[str | None]) -> Estimate:
    """The share of correct items with Wilson's interval, widened where items of a group succeed or fail together.

    The interval is Wilson's at the effective sample size n / max(1, design effect). Without groups, with groups of one
    item, or with all items in one group it is exactly Wilson's.
    """
    if len(correct) != len(groups):
        raise ValueError(f"{len(correct)} items with {len(groups)} groups")
    if not correct:
        raise ValueError("no items: a fraction of nothing has no value")
    n = len(correct)
    return _wilson(sum(map(bool, correct)), n, n / max(1.0, design_effect(correct, groups)), 0.95)


def design_effect(correct: Sequence[bool], groups: Sequence[str | None]) -> float:
    """Variance of the mean under sampling of whole groups over its variance under sampling of single items.

    With G groups of n_g items, c_g of them correct, and p = sum c_g / n:

        clustered = G / (G - 1) * sum over g of (c_g - n_g p)^2 / n^2        (the sandwich estimator of a mean)
        simple    = p (1 - p) / (n - 1)
        effect    = clustered / simple

    The choice is ours: the report gives no intervals. An item without a group is a group of its own. Where the ratio
    has no value (fewer than two groups, or all items alike) it is 1. Both estimators carry their small-sample factor,
    so that groups of one item give 1 exactly. With few groups the estimate is itself rough, and the interval rather
    too narrow.
    """
    sizes: list[list[int]] = []  # per group: items, correct items
    named: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for right, group in zip(correct, groups, strict=True):
        if group is None:
            sizes.append([1, int(right)])
        else:
            named[group][0] += 1
            named[group][1] += int(right)
    sizes.extend(named.values())
    n, total = len(correct), sum(map(bool, correct))
    if len(sizes) < 2 or total in (0, n):
        return 1.0
    # In whole numbers (multiplied by n^4) until the last division: no rounding, so no dependence on order.
    squares = sum((right * n - items * total) ** 2 for items, right in sizes)
    return len(sizes) * (n - 1) * squares / ((len(sizes) - 1) * n * n * total * (n - total))


def summarise(records: Iterable[SampleRecord], metric: Literal["accuracy", "pass@1"]) -> dict[str, Any]:
    """The entry of one task in `results.json`: {"n", "metrics": {metric: estimate}, "outcomes"}, and "groups" if any.

    Both metrics are the share of correct samples with the interval of `accuracy`: pass@1 of one sample per problem is
    that. A group's own interval is Wilson's. Nothing in it depends on time or order.
    """
    judged = sorted((record.id, record.group, record.correct, record.outcome) for record in _distinct(records))
    correct, groups = [row[2] for row in judged], [row[1] for row in judged]
    entry: dict[str, Any] = {
        "n": len(judged),
        "metrics": {metric: asdict(accuracy(correct, groups))},
        "outcomes": dict(sorted(Counter(row[3] for row in judged).items())),
    }
    tallies: defaultdict[str, list[bool]] = defaultdict(list)
    for _, group, right, _ in judged:
        if group is not None:
            tallies[group].append(right)
    if tallies:
        entry["groups"] = {name: asdict(wilson(sum(tallies[name]), len(tallies[name]))) for name in sorted(tallies)}
    return entry


def _distinct(records: Iterable[SampleRecord]) -> list[SampleRecord]:
    """The records, none twice: one sample counted twice would narrow the interval."""
    by_id: dict[str, SampleRecord] = {}
    for record in records:
        if by_id.setdefault(record.id, record) is not record:
            raise ValueError(f"sample {record.id} of task {record.task} is there twice")
    return list(by_id.values())


def _wilson(successes: int, n: int, effective: float, level: float) -> Estimate:
    """Wilson's interval of successes / n as if it came from `effective` items."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    p = successes / n
    centre = p + z * z / (2 * effective)
    half = z * math.sqrt(p * (1 - p) / effective + z * z / (4 * effective * effective))
    scale = 1 + z * z / effective
    # At p = 0 and 1 the ends are 0 and 1; rounding would leave 1e-17 there.
    low = 0.0 if successes == 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if successes == n else min(1.0, (centre + half) / scale)
    return Estimate(p, min(low, p), max(high, p), n)
