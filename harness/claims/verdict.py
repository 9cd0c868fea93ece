"""From effects to verdicts: holds, fails, or undecided at this scale. Nothing here is chosen after seeing a result.

A criterion holds where the whole 95 % interval keeps its bound, fails where no part of it does, and is undecided in
between. Trainings with other seeds are combined so that both what was tested on and what was trained may be chance.
Sources: Student, Biometrika 6 (1908) for few seeds; independent errors add in their squares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.claims.experiment import Criterion, Experiment
from harness.claims.findings import Effect, Finding, Outcome, Verdict

T975 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
"""Quantiles of Student's t at 0.975 for 1, 2, ... degrees of freedom; more than the last are taken as the last."""


def combined(effects: Sequence[Effect]) -> Effect:
    """One effect of several seeds.

    The half-widths over samples are averaged (the seeds share the samples, so their luck is not averaged out) and those
    over seeds, t s / sqrt(S), are added in squares. One seed is itself. Raises ValueError without effects.
    """
    if not effects:
        raise ValueError("no effects: nothing to combine")
    if len(effects) == 1:
        return effects[0]
    number = len(effects)
    value = math.fsum(effect.value for effect in effects) / number
    spread = math.sqrt(math.fsum((effect.value - value) ** 2 for effect in effects) / (number - 1))
    by_seed = T975[min(number - 1, len(T975)) - 1] * spread / math.sqrt(number)
    below = math.fsum(effect.value - effect.low for effect in effects) / number
    over = math.fsum(effect.high - effect.value for effect in effects) / number
    return Effect(
        value=value,
        low=value - math.hypot(below, by_seed),
        high=value + math.hypot(over, by_seed),
        n=min(effect.n for effect in effects),
        seeds=number,
        unit=effects[0].unit,
    )


def decided(criterion: Criterion, effect: Effect) -> Verdict:
    """By the interval alone: bounds above and below are strict, an interval that ends on one is undecided."""
    if criterion.above is not None:
        return "holds" if effect.low > criterion.above else "fails" if effect.high < criterion.above else "undecided"
    if criterion.below is not None:
        return "holds" if effect.high < criterion.below else "fails" if effect.low > criterion.below else "undecided"
    assert criterion.within is not None
    if -criterion.within <= effect.low and effect.high <= criterion.within:
        return "holds"
    return "fails" if effect.low > criterion.within or effect.high < -criterion.within else "undecided"


def judged(criterion: Criterion, effects: Sequence[Effect | str], wanted: int) -> Outcome:
    """One criterion over its trainings: an effect of each, or what is missing.

    With fewer trainings than wanted nothing is decided; without any the claim is not run.
    """
    found = [effect for effect in effects if isinstance(effect, Effect)]
    missing = [effect for effect in effects if isinstance(effect, str)]
    verdict: Verdict
    if not found:
        effect, verdict, why = None, "not run", missing[0] if missing else "no model to test it on"
    elif len(found) < wanted:
        effect, verdict = combined(found), "undecided"
        why = "; ".join([f"{len(found)} of {wanted} seeds", *missing[:1]])
    else:
        effect = combined(found)
        verdict, why = decided(criterion, effect), ""
    return Outcome(
        says=criterion.says,
        unit=criterion.unit if effect is None or effect.unit is None else effect.unit,
        bound=criterion.bound,
        bounds=criterion.bounds,
        effect=effect,
        each=tuple(found) if len(found) > 1 else (),
        verdict=verdict,
        why=why,
    )


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """Of a claim with several criteria: one that fails is enough to fail, and all must hold to hold."""
    if "fails" in verdicts:
        return "fails"
    if all(verdict == "holds" for verdict in verdicts):
        return "holds"
    return "not run" if all(verdict == "not run" for verdict in verdicts) else "undecided"


def finding(
    experiment: Experiment,
    subject: str,
    effects: Sequence[Sequence[Effect | str]],
    wanted: int,
    command: str,
    plots: Sequence[str] = (),
) -> Finding:
    """A claim on one subject; `effects` has for each criterion what `judged` takes."""
    outcomes = tuple(judged(criterion, its, wanted) for criterion, its in zip(experiment.tests, effects, strict=True))
    return Finding(
        name=experiment.name,
        claim=experiment.claim,
        question=experiment.question,
        section=experiment.source.section,
        table=experiment.source.table,
        open=experiment.open,
        subject=subject,
        seeds=min(outcome.effect.seeds if outcome.effect else 0 for outcome in outcomes),
        wanted=wanted,
        outcomes=outcomes,
        verdict=overall([outcome.verdict for outcome in outcomes]),
        command=command,
        plots=tuple(plots),
    )
