"""How often a reward model is right where it says so: its odds against what people preferred."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

BINS = 10


def calibration(gaps: Sequence[float]) -> list[tuple[float, float, int]]:
    """(Mean odds, share of pairs that it got right, pairs) of tenths of the pairs, by rising certainty.

    A pair's odds are sigmoid(|gap|), at least a half; `gaps` are chosen less rejected.
    """
    ordered = sorted(gaps, key=abs)
    found = []
    for number in range(BINS):
        part = ordered[number * len(ordered) // BINS : (number + 1) * len(ordered) // BINS]
        if part:
            odds = sum(1 / (1 + math.exp(-abs(gap))) for gap in part) / len(part)
            found.append((odds, sum(gap > 0 for gap in part) / len(part), len(part)))
    return found


def expected_error(gaps: Sequence[float]) -> float:
    """Expected calibration error over those bins."""
    return sum(abs(odds - right) * count for odds, right, count in calibration(gaps)) / len(gaps)


def write_calibration(gaps: Sequence[float], folder: Path) -> Path:
    """calibration.png: the bins with 95 % intervals beside the diagonal of perfect calibration."""
    from matplotlib.figure import Figure

    bins = calibration(gaps)
    odds, right = [one for one, _, _ in bins], [one for _, one, _ in bins]
    bars = [1.96 * math.sqrt(max(share * (1 - share), 1e-9) / count) for _, share, count in bins]
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0.5, 1], [0.5, 1], color="grey", linestyle="--", label="perfect")
    axes.errorbar(odds, right, yerr=bars, marker="o", capsize=3, label="tenths of the pairs, 95 % intervals")
    axes.set_xlabel("the reward model's odds that its preferred answer is better")
    axes.set_ylabel("how often people agree")
    axes.set_title(f"{len(gaps)} held-out pairs, expected calibration error {100 * expected_error(gaps):.1f} %")
    axes.legend()
    path = folder / "calibration.png"
    figure.savefig(path, dpi=120)
    return path
