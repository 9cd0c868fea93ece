"""Values cross from a solution to its tests as exactly themselves, and nothing else crosses."""

from __future__ import annotations

import collections
import json
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.sandbox.inside.wire import Held, decode, encode

scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary())
hashables = st.one_of(scalars, st.tuples(scalars, scalars), st.frozensets(scalars, max_size=3))
values = st.recursive(
    st.one_of(hashables, st.complex_numbers(allow_nan=False), st.sets(scalars, max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.tuples(inner), st.dictionaries(hashables, inner, max_size=3)
    ),
    max_leaves=12,
)


def sent(value):
    return decode(json.loads(json.dumps(encode(value))))


def same(one, other) -> bool:
    if type(one) is not type(other) or one != other:
        return False
    if isinstance(one, list | tuple):
        return all(map(same, one, other))
    return not isinstance(one, dict) or all(same(one[key], other[key]) for key in one)


@given(values)
def test_a_value_arrives_as_itself(value):
    assert same(sent(value), value)


@pytest.mark.parametrize(
    "value", [Decimal("1.10"), Fraction(1, 3), date(2020, 2, 29), timedelta(1, 2), range(1, 9, 2), int, 10**400]
)
def test_other_types_arrive_too(value):
    assert sent(value) == value and type(sent(value)) is type(value)


def test_what_derives_from_a_type_arrives_as_that_type():
    class Liar(int):
        def __eq__(self, other):
            return True

        __hash__ = int.__hash__

    class Liars(list):
        def __iter__(self):
            return iter([1, 2, 3])

    Point = collections.namedtuple("Point", "x y")
    for value, plain in [
        (Liar(3), 3),
        (Liars([9]), [9]),
        (Point(1, 2), (1, 2)),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.OrderedDict(a=1), {"a": 1}),
    ]:
        assert same(sent(value), plain)


def test_an_object_is_a_token_that_equals_nothing():
    class Everything:
        def __eq__(self, other):
            return True

    token = sent(Everything())
    assert type(token) is Held and token != 1 and token != Everything.__name__
    assert "Everything" in repr(token)


def test_iterators_arrive_as_iterators_and_endless_ones_do_not():
    assert sent(x for x in (1, 2)) != [1, 2]
    assert list(sent(map(str, [1, 2]))) == ["1", "2"]
    with pytest.raises(OverflowError):
        encode(iter(int, 1))
