"""Two runs on the same samples: differences with 95 % intervals, and the exact McNemar test.

Sources: McNemar, Psychometrika 12 (1947), in its exact form, the two-sided binomial test of the discordant pairs at
one half; Efron, Annals of Statistics 7 (1979) for the bootstrap, here over pairs, percentiles. The same whatever the
order of the pairs. Pairs are made from run folders in `harness.pairing`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.statistics import percentiles

BOOTSTRAPS, SEED = 10_000, 20230928
_AT_ONCE = 10_000_000
"""Numbers of the bootstrap that are in memory together."""


@dataclass(frozen=True)
class Pair:
    """One sample in both runs: 0 or 1, or any number, or the mean over several answers."""

    id: str
    group: str | None
    first: float
    second: float


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The second run's number less the first's, over `n` common samples, with its 95 % interval."""

    n: int
    first: float
    second: float
    low: float
    high: float
    p: float | None
    """Of the exact McNemar test; None where values are other than 0 and 1, or weighted by group."""
    gained: int
    """Samples with a higher value in the second run, and with a lower one."""
    lost: int

    @property
    def value(self) -> float:
        return self.second - self.first


@dataclass(frozen=True, kw_only=True)
class Flip:
    """A sample that is right in one run only."""

    id: str
    group: str | None
    gold: str
    gained: bool
    """Right in the second run."""
    first: str | None
    """The runs' extracted answers; None where there was none."""
    second: str | None


@dataclass(frozen=True, kw_only=True)
class TaskComparison:
    """One task in two runs."""

    task: str
    other: str
    """The second run's task, another protocol of the same benchmark if it has not this one."""
    metric: str
    kind: str
    """`share`, `mean` or `perplexity`, as in a task's `measures`."""
    whole: Difference
    sets: Mapping[str, Difference]
    groups: Mapping[str, Difference]
    flips: tuple[Flip, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """Two runs, by their names in print."""

    first: str
    second: str
    tasks: tuple[TaskComparison, ...]
    notes: tuple[str, ...]


def mcnemar(gained: int, lost: int) -> float:
    """The two-sided p of `gained` and `lost` discordant pairs, were both as likely. In whole numbers to the last."""
    n = gained + lost
    tail = term = 1
    for k in range(min(gained, lost)):
        term = term * (n - k) // (k + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << n))


def paired(pairs: Sequence[Pair], kind: str = "share", mean: Literal["items", "groups"] = "items") -> Difference:
    """The difference over pairs; `kind` and `mean` as in a task: perplexities are exponentials of mean losses.

    With a mean over groups a pair of a group of n has the weight 1 / n. Raises ValueError where there is no pair.
    """
    if not pairs:
        raise ValueError("no pairs: there is no difference")
    sizes = Counter(pair.group for pair in pairs)
    rows = Counter((pair.first, pair.second, sizes[pair.group] if mean == "groups" else 1) for pair in pairs)
    gained, lost = (sum(sign * (pair.second - pair.first) > 0 for pair in pairs) for sign in (1, -1))
    binary = kind == "share" and all({pair.first, pair.second} <= {0, 1} for pair in pairs)
    first, second = (_mean(rows, side, kind) for side in (0, 1))
    low, high = percentiles(second - first, _bootstrap(rows, kind))
    return Difference(
        n=len(pairs),
        first=first,
        second=second,
        low=low,
        high=high,
        p=mcnemar(gained, lost) if binary and mean == "items" else None,
        gained=gained,
        lost=lost,
    )


def _mean(rows: Mapping[tuple[float, float, int], int], side: int, kind: str) -> float:
    total = math.fsum(count / row[2] for row, count in rows.items())
    mean = math.fsum(count * row[side] / row[2] for row, count in rows.items()) / total
    return math.exp(mean) if kind == "perplexity" else mean


def _bootstrap(rows: Mapping[tuple[float, float, int], int], kind: str) -> list[float]:
    """The differences of BOOTSTRAPS draws of as many pairs, with replacement.

    Drawn are the counts of the distinct pairs, which is the same and makes 0 and 1 four numbers per draw.
    """
    import numpy as np

    distinct = sorted(rows)
    first, second, weight = (np.array(column, dtype=float) for column in zip(*distinct, strict=True))
    counts = np.array([rows[row] for row in distinct])
    draw = np.random.default_rng(SEED)
    differences: list[float] = []
    while len(differences) < BOOTSTRAPS:
        size = min(BOOTSTRAPS - len(differences), max(1, _AT_ONCE // len(distinct)))
        drawn = draw.multinomial(counts.sum(), counts / counts.sum(), size=size) / weight
        means = [drawn @ values / drawn.sum(axis=1) for values in (first, second)]
        if kind == "perplexity":
            means = [np.exp(values) for values in means]
        differences += (means[1] - means[0]).tolist()
    return differences
