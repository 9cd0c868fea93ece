"""Effects by hand, and the verdicts that follow from them."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
from scipy.stats import t as student

from harness.claims.experiment import Runs, Same, Wins
from harness.claims.findings import Effect, Finding, Outcome
from harness.claims.verdict import T975, combined, decided, judged, overall
from reports.ledger import markdown


def effect(value: float, low: float, high: float, **more) -> Effect:
    return Effect(value=value, low=low, high=high, n=50, **more)


def above(bound: float) -> Wins:
    return Wins(measure="wins", says="wins", folder="f", above=bound)


def below(bound: float) -> Runs:
    return Runs(measure="runs", says="loss", first="a", second="b", task="t", below=bound)


def within(bound: float) -> Same:
    return Same(measure="same", says="apart", first="a", second="b", task="t", within=bound)


@pytest.mark.parametrize(
    ("criterion", "low", "high", "verdict"),
    [
        (above(0.1), 0.11, 0.3, "holds"),
        (above(0.1), 0.05, 0.3, "undecided"),
        (above(0.1), -0.2, 0.09, "fails"),
        # an interval that ends on the bound has not passed it
        (above(0.1), 0.1, 0.3, "undecided"),
        (above(0.1), -0.2, 0.1, "undecided"),
        (below(0), -0.3, -0.01, "holds"),
        (below(0), -0.3, 0.0, "undecided"),
        (below(0), 0.0, 0.2, "undecided"),
        (below(0), 0.01, 0.2, "fails"),
        (within(0.1), -0.1, 0.1, "holds"),
        (within(0.1), -0.11, 0.1, "undecided"),
        (within(0.1), 0.11, 0.2, "fails"),
        (within(0.1), -0.2, -0.11, "fails"),
        (within(0), 0.0, 0.0, "holds"),
        (within(0), 1e-9, 1e-9, "fails"),
    ],
)
def test_the_interval_decides(criterion, low, high, verdict):
    assert decided(criterion, effect((low + high) / 2, low, high)) == verdict


def test_students_quantiles():
    for freedom, quantile in enumerate(T975, start=1):
        assert quantile == pytest.approx(student.ppf(0.975, freedom), abs=5e-5)
    assert list(T975) == sorted(T975, reverse=True) and T975[-1] > NormalDist().inv_cdf(0.975)


def test_seeds_are_combined_by_hand():
    three = [effect(0.1, 0.0, 0.3), effect(0.2, 0.1, 0.3), effect(0.3, 0.2, 0.5)]
    found = combined(three)
    # s = 0.1, t = 4.3027 over sqrt(3); mean half-widths 0.1 below and (0.2 + 0.1 + 0.2) / 3 above
    by_seed = 4.3027 * 0.1 / math.sqrt(3)
    assert found.value == pytest.approx(0.2)
    assert found.low == pytest.approx(0.2 - math.hypot(0.1, by_seed))
    assert found.high == pytest.approx(0.2 + math.hypot(0.5 / 3, by_seed))
    assert (found.n, found.seeds) == (50, 3)


def test_seeds_that_agree_leave_the_samples_interval():
    same = [effect(0.2, 0.1, 0.4)] * 3
    found = combined(same)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.1, 0.4))
    assert combined(same[:1]) is same[0]


def test_seeds_that_disagree_decide_nothing():
    sure_each = [effect(0.30, 0.29, 0.31), effect(0.02, 0.01, 0.03), effect(0.16, 0.15, 0.17)]
    assert all(decided(above(0), one) == "holds" for one in sure_each)
    assert judged(above(0), sure_each, 3).verdict == "undecided"


def test_fewer_seeds_than_wanted_decide_nothing():
    found = judged(above(0), [effect(0.3, 0.2, 0.4), "not run yet: seed-2", "not run yet: seed-3"], 3)
    assert found.verdict == "undecided" and found.why == "1 of 3 seeds; not run yet: seed-2"
    assert judged(above(0), [effect(0.3, 0.2, 0.4)], 1).verdict == "holds"


def test_missing_evidence_is_not_run():
    found = judged(above(0), ["no model", "no model"], 1)
    assert (found.verdict, found.effect, found.why) == ("not run", None, "no model")
    assert judged(above(0), [], 1).verdict == "not run"


@pytest.mark.parametrize(
    ("verdicts", "verdict"),
    [
        (["holds", "holds"], "holds"),
        (["holds", "fails"], "fails"),
        (["not run", "fails"], "fails"),
        (["holds", "undecided"], "undecided"),
        (["holds", "not run"], "undecided"),
        (["not run", "not run"], "not run"),
    ],
)
def test_several_tests_make_one_verdict(verdicts, verdict):
    assert overall(verdicts) == verdict


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """Seeds and documents are both drawn; the interval may be too wide, never too narrow."""
    import numpy as np

    draw = np.random.default_rng(5)
    held, repeats = 0, 400
    for _ in range(repeats):
        documents = draw.normal(0, 0.3, 50)  # shared by the seeds
        effects = []
        for _seed in range(3):
            losses = 0.1 + draw.normal(0, 0.02) + documents + draw.normal(0, 0.1, 50)
            half = 1.96 * losses.std(ddof=1) / math.sqrt(50)
            effects.append(effect(losses.mean(), losses.mean() - half, losses.mean() + half))
        found = combined(effects)
        held += found.low <= 0.1 <= found.high
    assert held / repeats > 0.94


def test_reasons_in_markdown_are_no_markup():
    outcome = Outcome(
        says="a_b", unit="", bound="", bounds=(), effect=None, each=(), verdict="not run", why="no <b>run</b>_x_"
    )
    finding = Finding(
        name="n", claim="c", question="q", section="2.3", table=None, open=False, subject="my_model", seeds=0, wanted=3,
        outcomes=(outcome,), verdict="not run", command="harness claims",
    )  # fmt: skip
    text = markdown("own", [finding])
    assert r"- a\_b: no \<b\>run\</b\>\_x\_" in text and r"### n on my\_model: not run" in text
