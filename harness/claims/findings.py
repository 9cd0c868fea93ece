"""What was found of claims: effects, outcomes of tests, findings. Reports read these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["holds", "fails", "undecided", "not run"]
VERDICTS: tuple[Verdict, ...] = ("holds", "fails", "undecided", "not run")

NOT_YET = "not run yet"
"""Begins the reason of what nothing is in the way of."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A number with its 95 % interval, low <= value <= high, of `n` samples or documents and so many seeds."""

    value: float
    low: float
    high: float
    n: int
    seeds: int = 1
    unit: str | None = None
    """Where the runs tell it and not the criterion."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was found of one criterion."""

    says: str
    unit: str
    bound: str
    bounds: tuple[float, ...]
    """The bound, or both ends of it."""
    effect: Effect | None
    each: tuple[Effect, ...]
    """By seed, where there are several."""
    verdict: Verdict
    why: str
    """What is missing; empty where nothing is."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found of a claim on one size of a family, or on all its sizes together."""

    name: str
    claim: str
    question: str
    section: str
    """Of the report, or where else its authors say it."""
    table: str | None
    """Of `reports/data`."""
    open: bool
    subject: str
    seeds: int
    """Trainings with evidence for every criterion."""
    wanted: int
    outcomes: tuple[Outcome, ...]
    verdict: Verdict
    command: str
    """Makes the evidence that is missing, or shows how it was made."""
    plots: tuple[str, ...] = ()
    """Sweeps whose curves show it, by folder."""
