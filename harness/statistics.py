"""Intervals for fractions: every number that a run reports comes from here.

Sources: Wilson, JASA 22 (1927) for the interval; Kish, Survey Sampling (1965) for the design effect and the effective
sample size; Chen et al., arXiv 2107.03374 (2021), section 2.1 for pass@k. All values are fractions in 0..1, and all
intervals are 95 % unless said otherwise. Results are the same to the last digit whatever the order of the input, since
`results.json` of a resumed run must equal an unbroken run's.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from statistics import NormalDist
from typing import Any

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


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The chance that at least one of k answers, drawn from n of which `correct` are right, is right: unbiased for
    pass@k. 1 - C(n - correct, k) / C(n, k), in whole numbers up to the last division."""
    if not 0 <= correct <= n:
        raise ValueError(f"{correct} correct of {n} answers")
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {n} answers; k lies between 1 and their number")
    return 1 - math.comb(n - correct, k) / math.comb(n, k)


def pass_at(tallies: Sequence[tuple[int, int]], k: int) -> Estimate:
    """The mean of pass@k over problems, each (answers, right answers), with a percentile bootstrap over problems.

    The bootstrap draws BOOTSTRAPS times with a fixed seed; the problems are sorted first, so order changes nothing.
    """
    values = sorted(pass_at_k(n, right, k) for n, right in tallies)
    if not values:
        raise ValueError("no items: a fraction of nothing has no value")
    draw = random.Random(BOOTSTRAP_SEED)
    means = sorted(math.fsum(draw.choices(values, k=len(values))) / len(values) for _ in range(BOOTSTRAPS))
    tail = round(0.025 * BOOTSTRAPS)
    value = math.fsum(values) / len(values)
    return Estimate(value, min(means[tail], value), max(means[-1 - tail], value), len(values))


BOOTSTRAPS, BOOTSTRAP_SEED = 2000, 20230928
LADDER = (1, 10, 100)
"""Values of k that are reported, as far as there are answers."""
DRAW_MARK = "#"
"""Between a problem's id and the number of the answer, where a problem is answered more than once."""
UNCOUNTED = "not_installed"
"""The outcome that is neither right nor wrong."""


def summarise(records: Iterable[SampleRecord], metric: str, draws: int = 1) -> dict[str, Any]:
    """The entry of one task in `results.json`: {"n", "metrics": {metric: estimate}, "outcomes"}, and "groups" if any.

    The metric is the share of correct samples with the interval of `accuracy`: pass@1 of one answer per problem is
    that. With several `draws` a problem, ids end in DRAW_MARK and a number, n counts problems and the metrics are
    pass@k. A group's own interval is Wilson's, of all its answers. Samples that could not be judged here count in
    "outcomes" only. Nothing in it depends on time or order. Raises ValueError where no sample counts.
    """
    rows = sorted((record.id, record.group, record.correct, record.outcome) for record in _distinct(records))
    judged = [row for row in rows if row[3] != UNCOUNTED]
    correct, groups = [row[2] for row in judged], [row[1] for row in judged]
    if draws == 1:
        n, metrics = len(judged), {metric: asdict(accuracy(correct, groups))}
    else:
        by_problem: defaultdict[str, list[bool]] = defaultdict(list)
        for item, _, right, _ in judged:
            by_problem[item.rpartition(DRAW_MARK)[0]].append(right)
        tallies = [(len(answers), sum(answers)) for answers in by_problem.values()]
        ladder = [k for k in LADDER if k <= min(size for size, _ in tallies)] if tallies else [1]
        n, metrics = len(tallies), {f"pass@{k}": asdict(pass_at(tallies, k)) for k in ladder}
    entry: dict[str, Any] = {
        "n": n,
        "metrics": metrics,
        "outcomes": dict(sorted(Counter(row[3] for row in rows).items())),
    }
    by_group: defaultdict[str, list[bool]] = defaultdict(list)
    for _, group, right, _ in judged:
        if group is not None:
            by_group[group].append(right)
    if by_group:
        entry["groups"] = {name: asdict(wilson(sum(by_group[name]), len(by_group[name]))) for name in sorted(by_group)}
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
