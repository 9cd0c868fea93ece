"""Rouge-L (Lin 2004) of two token lists."""

from __future__ import annotations

from collections.abc import Sequence


def rouge_l(reference: Sequence[str], candidate: Sequence[str]) -> float:
    """F1 of the longest common subsequence, 0..1; 0 where either is empty. Equals rouge-score's `rougeL`."""
    if not reference or not candidate:
        return 0.0
    row = [0] * (len(candidate) + 1)
    for token in reference:
        diagonal = 0
        for place, other in enumerate(candidate, start=1):
            above = row[place]
            row[place] = diagonal + 1 if token == other else max(above, row[place - 1])
            diagonal = above
    return 2 * row[-1] / (len(reference) + len(candidate))
