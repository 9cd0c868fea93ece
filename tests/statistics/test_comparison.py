"""Paired differences against scipy, hand-worked cases and properties."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import comparison
from harness.comparison import Pair, mcnemar, paired


def pairs_of(both: int, lost: int, gained: int, neither: int) -> list[Pair]:
    values = [(1.0, 1.0)] * both + [(1.0, 0.0)] * lost + [(0.0, 1.0)] * gained + [(0.0, 0.0)] * neither
    return [Pair(str(i), None, *value) for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (1, 0, 1.0),
        # 2 * (1 + 10) / 2^10
        (1, 9, 22 / 1024),
        (0, 6, 2 / 64),
        # 2 * (1 + 12 + 66) / 2^12
        (10, 2, 158 / 4096),
    ],
)
def test_mcnemar_by_hand(gained, lost, p):
    assert mcnemar(gained, lost) == mcnemar(lost, gained) == p


@pytest.mark.parametrize(
    ("gained", "lost"), [(0, 0), (0, 1), (3, 9), (59, 121), (30, 30), (500, 620), (3000, 3300), (9000, 5000)]
)
def test_mcnemar_is_scipys(gained, lost):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(expected, rel=1e-9, abs=1e-300)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_a_p(gained, lost):
    total = gained + lost
    exact = sum(math.comb(total, k) for k in range(total + 1) if abs(2 * k - total) >= abs(gained - lost)) / 2**total
    assert mcnemar(gained, lost) == pytest.approx(exact, abs=1e-12)


def test_a_difference_by_hand():
    found = paired(pairs_of(both=30, lost=5, gained=15, neither=50))
    assert (found.n, found.first, found.second, found.gained, found.lost) == (100, 0.35, 0.45, 15, 5)
    assert found.value == pytest.approx(0.1)
    assert found.p == mcnemar(15, 5)
    # the variance of the mean of differences: (p10 + p01 - (p10 - p01)^2) / n
    half = 1.959964 * math.sqrt((0.2 - 0.01) / 100)
    assert (found.low, found.high) == pytest.approx((0.1 - half, 0.1 + half), abs=0.01)


def test_the_interval_is_scipys_bootstrap():
    """The same kind of interval on other draws: both ends within three standard errors of such an end."""
    stats = pytest.importorskip("scipy.stats")
    draw = random.Random(0)
    pairs = [Pair(str(i), None, draw.gauss(1, 1), draw.gauss(1.3, 1)) for i in range(80)]
    found = paired(pairs, "mean")
    differences = [pair.second - pair.first for pair in pairs]
    theirs = stats.bootstrap(
        (differences,), lambda values, axis: values.mean(axis=axis), n_resamples=10_000, method="percentile", rng=1
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)
    assert found.p is None


def test_the_interval_covers():
    """95 of 100 intervals hold the true difference, within chance: 200 data sets of 100 pairs, 0.95 +- 0.05."""
    draw = random.Random(7)
    inside = 0
    for _ in range(200):
        kinds = draw.choices([(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)], weights=[30, 10, 20, 40], k=100)
        found = paired([Pair(str(i), None, *kind) for i, kind in enumerate(kinds)])
        inside += found.low <= 0.1 <= found.high
    assert 0.90 <= inside / 200 <= 0.995


binary = st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from("ab")), min_size=1, max_size=30)


@settings(deadline=None, max_examples=40)
@given(binary, st.randoms(use_true_random=False), st.sampled_from(["items", "groups"]))
def test_order_changes_nothing_and_turning_round_turns_the_sign(values, draw, mean):
    pairs = [Pair(str(i), group, float(a), float(b)) for i, (a, b, group) in enumerate(values)]
    found = paired(pairs, mean=mean)
    assert found.low <= found.value <= found.high
    assert paired(draw.sample(pairs, len(pairs)), mean=mean) == found
    turned = paired([Pair(pair.id, pair.group, pair.second, pair.first) for pair in pairs], mean=mean)
    assert (turned.value, turned.gained, turned.lost, turned.p) == (-found.value, found.lost, found.gained, found.p)


def test_means_over_groups_count_groups_alike():
    pairs = [Pair(f"a{i}", "a", 0.0, float(i < 5)) for i in range(10)] + [
        Pair(f"b{i}", "b", 1.0, 1.0) for i in range(2)
    ]
    found = paired(pairs, mean="groups")
    assert (found.first, found.second, found.p) == (0.5, 0.75, None)


def test_perplexities_are_exponentials_of_mean_losses():
    pairs = [Pair("a", None, math.log(4), math.log(2)), Pair("b", None, math.log(16), math.log(8))]
    found = paired(pairs, "perplexity")
    assert (found.first, found.second) == pytest.approx((8, 4))
    # the drawn pairs are a twice, b twice, or one of each
    assert (found.low, found.high) == pytest.approx((-8, -2))


def test_many_distinct_values_are_drawn_in_parts(monkeypatch):
    draw = random.Random(3)
    pairs = [Pair(str(i), None, draw.random(), draw.random()) for i in range(50)]
    whole = paired(pairs, "mean")
    monkeypatch.setattr(comparison, "_AT_ONCE", 5000)
    assert paired(pairs, "mean") == whole


def test_equal_runs_have_no_difference():
    found = paired(pairs_of(both=3, lost=0, gained=0, neither=4))
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)
    with pytest.raises(ValueError, match="no pairs"):
        paired([])
