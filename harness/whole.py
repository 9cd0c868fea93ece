"""Numbers of a whole run that are no mean over its samples, such as F1 or a perplexity weighted by words."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from harness.records import Estimate, SampleRecord
from harness.statistics import percentiles

BOOTSTRAPS, SEED = 200, 20230928
"""Fewer than for means: the functions are other people's, and some take a second."""


def with_whole(
    entry: Mapping[str, Any],
    records: Sequence[SampleRecord],
    metric: str,
    functions: Mapping[str, Callable[[Sequence[Any]], float]],
) -> dict[str, Any]:
    """A task's entry in `results.json` with these numbers among its metrics, `metric` in front.

    `records` are in the data set's order. Where the metric itself is one of them, what stood in its place goes.
    """
    found = {}
    for name, function in functions.items():
        values = [record.detail["whole"][name] for record in records if name in record.detail.get("whole", {})]
        found[name] = asdict(estimate(values, function))
    if metric not in found:
        return {**entry, "metrics": {**entry["metrics"], **found}}
    others = list(entry["metrics"].items())[1:]
    return {**entry, "metrics": {metric: found.pop(metric), **dict(others), **found}}


def estimate(values: Sequence[Any], function: Callable[[Sequence[Any]], float]) -> Estimate:
    """The function of the values, and a percentile bootstrap over them with a fixed seed.

    Draws of which the function makes nothing (NaN) are left out. Raises ValueError where there are no values, or where
    it makes nothing of them.
    """
    if not values:
        raise ValueError("no items: a number of nothing has no value")
    value = float(function(values))
    if not math.isfinite(value):
        raise ValueError(f"it is {value}, which is no number")
    draw = random.Random(SEED)
    drawn = (float(function(draw.choices(values, k=len(values)))) for _ in range(BOOTSTRAPS))
    found = [number for number in drawn if math.isfinite(number)]
    return Estimate(value, *percentiles(value, found or [value]), len(values))
