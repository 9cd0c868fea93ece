"""What a task's entry in `results.json` holds: the metric, measures, sets and groups, from records in any order."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.records import SampleRecord
from harness.statistics import accuracy, accuracy_by_group, mean_of, wilson
from harness.summary import summarise

items = st.lists(st.tuples(st.booleans(), st.sampled_from([None, "a", "b", "c"])), min_size=1, max_size=60)


def record(
    id: str,
    correct: bool,
    group: str | None = None,
    outcome: str | None = None,
    seconds: float = 1.0,
    **scores: float,
) -> SampleRecord:
    return SampleRecord(
        task="t", id=id, position=0, group=group, prompt="", response="", answer=None, gold="", correct=correct,
        outcome=outcome or ("correct" if correct else "wrong"), finish=None, choice_logprobs=None, token_logprobs=None,
        detail={}, seconds=seconds, scores=scores,
    )  # fmt: skip


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


def test_without_its_metric_a_task_still_has_its_other_measures() -> None:
    rows = [record("a", True, "x", rouge=0.5), record("b", True, "x", rouge=0.25)]
    entry = summarise(rows, "hit", measures=MEASURES, mean="groups")
    assert list(entry["metrics"]) == ["rouge"] and entry["metrics"]["rouge"]["value"] == 0.375
    assert entry["n"] == 2 and not {"groups", "sets"} & set(entry)
    with pytest.raises(ValueError, match="no items"):
        summarise(rows, "hit", measures={"hit": "share"})


MEASURES: dict[str, Any] = {"hit": "share", "rouge": "mean", "nll": "perplexity"}


def test_measures_are_over_the_samples_that_have_them() -> None:
    rows = [
        record("a", True, hit=1, rouge=0.5, nll=1.0),
        record("b", False, rouge=0.25, nll=3.0),
        record("c", False, hit=0, rouge=0.75),
        record("d", False, hit=1),
    ]
    entry = summarise(rows, "accuracy", measures=MEASURES | {"never": "mean"})
    assert list(entry["metrics"]) == ["accuracy", "hit", "rouge", "nll"]  # what no sample has is left out
    assert {name: estimate["n"] for name, estimate in entry["metrics"].items()} == {
        "accuracy": 4, "hit": 3, "rouge": 3, "nll": 2,
    }  # fmt: skip
    assert entry["metrics"]["hit"]["low"] == wilson(2, 3).low
    assert entry["metrics"]["rouge"]["value"] == pytest.approx(0.5)
    assert entry["metrics"]["nll"]["value"] == pytest.approx(math.exp(2.0))
    assert entry["metrics"]["nll"]["low"] >= math.e - 1e-9
    assert entry == summarise(rows[::-1], "accuracy", measures=MEASURES)


def test_shares_among_measures_widen_with_their_groups() -> None:
    rows = [record(str(i), True, str(i // 10), hit=i < 50) for i in range(100)]
    entry = summarise(rows, "accuracy", measures={"hit": "share"})
    assert (
        entry["metrics"]["hit"]["low"] == accuracy([i < 50 for i in range(100)], [str(i // 10) for i in range(100)]).low
    )


@pytest.mark.parametrize(("metric", "value"), [("hit", 2 / 3), ("rouge", 0.5), ("nll", math.exp(2.0))])
def test_the_metric_may_be_any_measure(metric: str, value: float) -> None:
    rows = [
        record("a", True, "x", hit=1, rouge=0.5, nll=1.0),
        record("b", True, "x", hit=1, rouge=0.25, nll=3.0),
        record("c", True, "y", hit=0, rouge=0.75, nll=2.0),
    ]
    entry = summarise(rows, metric, measures=MEASURES)
    assert next(iter(entry["metrics"])) == metric and set(entry["metrics"]) == set(MEASURES)
    assert entry["metrics"][metric]["value"] == pytest.approx(value)
    assert entry["groups"]["y"]["value"] == pytest.approx({"hit": 0, "rouge": 0.75, "nll": math.exp(2.0)}[metric])
    with pytest.raises(ValueError, match="nothing"):
        summarise([record("a", True)], metric, measures=MEASURES)


def test_mean_over_groups_with_sets() -> None:
    right = {"a": (1, 4), "b": (3, 3), "c": (0, 1)}
    rows = [record(f"{name}{i}", i < hits, name) for name, (hits, size) in right.items() for i in range(size)]
    sets = {"first": ("a", "b"), "last": ("c",), "none here": ("d",)}
    entry = summarise(rows, "accuracy", mean="groups", sets=sets)
    assert entry["metrics"]["accuracy"]["value"] == pytest.approx((1 / 4 + 1 + 0) / 3)
    assert entry["metrics"]["accuracy (micro)"]["value"] == pytest.approx(4 / 8)
    assert list(entry["metrics"]) == ["accuracy", "accuracy (micro)"]
    assert {name: estimate["value"] for name, estimate in entry["sets"].items()} == {"first": 0.625, "last": 0.0}
    first = accuracy_by_group([True, False, False, False, True, True, True], ["a"] * 4 + ["b"] * 3)
    assert (entry["sets"]["first"]["low"], entry["sets"]["first"]["high"]) == (first.low, first.high)
    items = summarise(rows, "accuracy", sets=sets)  # the same sets, all items alike
    assert items["sets"]["first"]["value"] == pytest.approx(4 / 7) and "accuracy (micro)" not in items["metrics"]
    generator = random.Random(1)
    assert json.dumps(summarise(generator.sample(rows, 8), "accuracy", mean="groups", sets=sets)) == json.dumps(entry)


def test_a_mean_over_groups_wants_groups() -> None:
    with pytest.raises(ValueError, match="1 items have no group"):
        summarise([record("a", True, "x"), record("b", True)], "accuracy", mean="groups")


def test_a_metric_that_is_a_mean_over_groups() -> None:
    rows = [record("a", True, "x", rouge=0.0), record("b", True, "x", rouge=1.0), record("c", True, "y", rouge=0.1)]
    entry = summarise(rows, "rouge", measures={"rouge": "mean"}, mean="groups")
    assert entry["metrics"]["rouge"]["value"] == pytest.approx(0.3)
    assert entry["metrics"]["rouge (micro)"]["value"] == pytest.approx(1.1 / 3)


def test_other_numbers_of_several_answers_are_averaged_by_problem() -> None:
    rows = [record(f"p/{p}#{draw}", draw < p, rouge=p + draw / 10) for p in range(3) for draw in range(2 + p)]
    entry = summarise(rows, "accuracy", draws=4, measures={"rouge": "mean"})
    assert entry["n"] == 3 and entry["metrics"]["accuracy"]["n"] == 3
    assert entry["metrics"]["accuracy"]["value"] == pytest.approx((0 + 1 / 3 + 2 / 4) / 3)
    assert entry["metrics"]["rouge"]["value"] == mean_of([0.05, 1.1, 2.15]).value
    assert list(entry["metrics"]) == ["accuracy", "rouge"]  # no pass@k where the task has none
