"""Numbers with their intervals: every number that a run reports comes from here.

Sources: Wilson, JASA 22 (1927) for the interval; Kish, Survey Sampling (1965) for the design effect and the effective
sample size; Agresti and Coull, American Statistician 52 (1998) for the z^2 items by which small groups are smoothed;
Efron, Annals of Statistics 7 (1979) for the bootstrap; Chen et al., arXiv 2107.03374 (2021), section 2.1 for pass@k.
All intervals are 95 %. Results are the same to the last digit whatever the order of the input,
since `results.json` of a resumed run must equal an unbroken run's.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import NormalDist

from harness.records import Estimate


def wilson(successes: int, n: int) -> Estimate:
    """Wilson's score interval for `successes` of `n` independent items.

    Unlike value +- 1.96 standard errors it stays inside 0..1, and is not of width nought when all or none succeed.
    """
    if n <= 0:
        raise ValueError("no items: a fraction of nothing has no value")
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} items")
    return _wilson(successes / n, n, float(n))


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
    return _wilson(sum(map(bool, correct)) / n, n, n / max(1.0, design_effect(correct, groups)))


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


def accuracy_by_group(correct: Sequence[bool], groups: Sequence[str]) -> Estimate:
    """The mean of the groups' shares of correct items, every group counting alike, with a stratified interval.

    With G groups of n_g items, shares p_g and their mean p, the variance is the sum of the groups' binomial ones:

        s_g = (n_g p_g + z^2 p) / (n_g + z^2)                 (a share of few items is drawn towards the mean)
        variance = sum over g of s_g (1 - s_g) / n_g / G^2

    and the interval is Wilson's at the effective sample size p (1 - p) / variance: inside 0..1, and not of width nought
    where all or none succeed (there s_g = p, and the size is G^2 / sum 1 / n_g). Of one group it is Wilson's. The
    choice is ours; docs/decisions/0011-means-over-groups.md says why.
    """
    tallies = [(len(values), sum(map(bool, values))) for values in _grouped(correct, groups)]
    share = math.fsum(right / size for size, right in tallies) / len(tallies)
    pull = NormalDist().inv_cdf(0.975) ** 2
    spread = 0.0
    if 0 < share < 1:
        smoothed = [(size, (right + pull * share) / (size + pull)) for size, right in tallies]
        spread = math.fsum(s * (1 - s) / size for size, s in smoothed) / (share * (1 - share))
    else:
        spread = math.fsum(1 / size for size, _ in tallies)
    return _wilson(share, len(correct), len(tallies) ** 2 / spread)


def mean_of(values: Sequence[float]) -> Estimate:
    """The mean, with a percentile bootstrap over the values.

    The bootstrap draws BOOTSTRAPS times with a fixed seed; the values are sorted first, so order changes nothing.
    """
    if not values:
        raise ValueError("no items: a mean of nothing has no value")
    ordered = sorted(values)
    draw = random.Random(BOOTSTRAP_SEED)
    means = [math.fsum(draw.choices(ordered, k=len(ordered))) / len(ordered) for _ in range(BOOTSTRAPS)]
    value = math.fsum(ordered) / len(ordered)
    return Estimate(value, *percentiles(value, means), len(ordered))


def mean_of_groups(values: Sequence[float], groups: Sequence[str]) -> Estimate:
    """The mean of the groups' means, every group counting alike, with a percentile bootstrap over all values.

    A value of a group of n_g has the weight 1 / n_g; values are drawn with their weights and averaged by them. Drawing
    within groups instead would leave groups of one value without any spread.
    """
    found = _grouped(values, groups)
    pairs = sorted((value / len(members), 1 / len(members)) for members in found for value in members)
    draw = random.Random(BOOTSTRAP_SEED)
    means = []
    for _ in range(BOOTSTRAPS):
        drawn = draw.choices(pairs, k=len(pairs))
        means.append(math.fsum(pair[0] for pair in drawn) / math.fsum(pair[1] for pair in drawn))
    value = math.fsum(math.fsum(members) / len(members) for members in found) / len(found)
    return Estimate(value, *percentiles(value, means), len(values))


def percentiles(value: float, draws: Iterable[float]) -> tuple[float, float]:
    """The ends of a bootstrap's 95 % interval: the outer 2.5 % of the draws on either side, widened to hold the value.

    There has to be a draw.
    """
    ordered = sorted(draws)
    tail = round(0.025 * len(ordered))
    return min(ordered[tail], value), max(ordered[-1 - tail], value)


def exponential(losses: Estimate) -> Estimate:
    """A perplexity from a mean loss in nats."""
    return Estimate(math.exp(losses.value), math.exp(losses.low), math.exp(losses.high), losses.n)


BOOTSTRAPS, BOOTSTRAP_SEED = 2000, 20230928


def _grouped(values: Sequence[float], groups: Sequence[str]) -> list[list[float]]:
    """The values of each group, groups in the order of their names."""
    if len(values) != len(groups):
        raise ValueError(f"{len(values)} items with {len(groups)} groups")
    if not values:
        raise ValueError("no items: a mean of nothing has no value")
    found: defaultdict[str, list[float]] = defaultdict(list)
    for value, group in zip(values, groups, strict=True):
        found[group].append(value)
    return [found[group] for group in sorted(found)]


def _wilson(p: float, n: int, effective: float) -> Estimate:
    """Wilson's interval of the share p of n items as if it came from `effective` items."""
    z = NormalDist().inv_cdf(0.975)
    centre = p + z * z / (2 * effective)
    half = z * math.sqrt(p * (1 - p) / effective + z * z / (4 * effective * effective))
    scale = 1 + z * z / effective
    # At p = 0 and 1 the ends are 0 and 1; rounding would leave 1e-17 there.
    low = 0.0 if p == 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if p == 1 else min(1.0, (centre + half) / scale)
    return Estimate(p, min(low, p), max(high, p), n)
