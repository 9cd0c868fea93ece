"""Intervals for fractions: every number that a run reports comes from here.

Sources: Wilson, JASA 22 (1927) for the interval; Kish, Survey Sampling (1965) for the design effect and the effective
sample size; Chen et al., arXiv 2107.03374 (2021), section 2.1 for pass@k. All values are fractions in 0..1, and all
intervals are 95 % unless said otherwise. Results are the same to the last digit whatever the order of the input, since
`results.json` of a resumed run must equal an unbroken run's.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from harness.records import SampleRecord

RESAMPLES = 10_000
"""Bootstrap resamples: the ends of a 95 % interval then move by about 2 % of its width from seed to seed."""


@dataclass(frozen=True)
class Estimate:
    """A fraction and its interval, 0 <= low <= value <= high <= 1, from `n` items."""

    value: float
    low: float
    high: float
    n: int


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


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that at least one of `k` samples, drawn from `n` of which `c` pass, passes: 1 - C(n-c,k) / C(n,k)."""
    if not (1 <= k <= n and 0 <= c <= n):
        raise ValueError(f"pass@{k} of {n} samples, {c} passing: needs 1 <= k <= n and 0 <= c <= n")
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def pass_at_k_interval(counts: Sequence[tuple[int, int]], k: int, seed: int = 0) -> Estimate:
    """Mean pass@k over problems, `counts` holding (samples, passing samples) of each.

    One sample per problem makes it a plain fraction: Wilson's interval, as `accuracy` without groups. Otherwise a
    percentile bootstrap over problems, because samples of one problem are not independent. Where every problem passes
    surely or none can, resampling shows no spread, and Wilson's interval over problems is given instead.
    """
    if not counts:
        raise ValueError("no problems: pass@k of nothing has no value")
    values = sorted(pass_at_k(n, c, k) for n, c in counts)  # sorted: the bootstrap draws by index
    if all(n == 1 for n, _ in counts) or values[0] == values[-1] in (0.0, 1.0):
        return wilson(round(sum(values)), len(values))
    import numpy

    generator = numpy.random.default_rng(seed)
    array = numpy.array(values)
    means = [float(array[generator.integers(len(values), size=len(values))].mean()) for _ in range(RESAMPLES)]
    value = math.fsum(values) / len(values)
    low, high = map(float, numpy.quantile(means, (0.025, 0.975)))
    return Estimate(value, min(low, value), max(high, value), len(values))


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
