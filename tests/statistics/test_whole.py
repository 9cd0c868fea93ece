from __future__ import annotations

import math

import pytest

from harness.whole import estimate, with_whole


class Record:
    def __init__(self, value):
        self.detail = {} if value is None else {"whole": {"f": value}}


def weighted(pairs):
    return math.exp(-sum(a for a, _ in pairs) / sum(b for _, b in pairs))


def test_the_function_of_all_values_within_its_bootstrap():
    values = [[-3.0 * n, n] for n in range(1, 30)] + [[-50.0, 10]]
    found = estimate(values, weighted)
    assert found.value == weighted(values)
    assert found.n == 30
    assert found.low < found.value < found.high
    assert found == estimate(values, weighted)


def test_the_interval_covers_what_is_true():
    import random

    rng, covered = random.Random(3), 0
    for _ in range(100):
        values = [rng.gauss(5, 2) for _ in range(60)]
        found = estimate(values, lambda drawn: sum(drawn) / len(drawn))
        covered += found.low <= 5 <= found.high
    assert 86 <= covered <= 100  # 95 expected; the bootstrap of 60 is a little narrow


def test_draws_of_which_nothing_comes_are_left_out():
    found = estimate([0.0, 1.0, 2.0], lambda drawn: math.nan if len(set(drawn)) == 1 else max(drawn))
    assert (found.value, found.high) == (2.0, 2.0)


def test_nothing_is_an_error():
    with pytest.raises(ValueError, match="no items"):
        estimate([], sum)
    with pytest.raises(ValueError, match="it is nan"):
        estimate([1.0], lambda _: math.nan)


@pytest.mark.parametrize(("metric", "order"), [("f", ["f", "b"]), ("a", ["a", "b", "f"])])
def test_where_it_stands_among_the_metrics(metric, order):
    entry = {"n": 2, "metrics": {"a": 1, "b": 2}, "outcomes": {}}
    found = with_whole(entry, [Record(1.0), Record(None), Record(3.0)], metric, {"f": sum})
    assert list(found["metrics"]) == order
    assert found["metrics"]["f"]["value"] == 4.0
    assert found["metrics"]["f"]["n"] == 2
