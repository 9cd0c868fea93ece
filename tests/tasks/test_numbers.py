from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.numbers import last_number, last_value


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 1,234.", "1234"),
        ("12,34", "34"),
        ("1,2345", "2345"),
        ("-3 left", "-3"),
        ("−3 left", "-3"),
        ("(-3)", "-3"),
        ("it is +3", "3"),
        ("5-3", "3"),  # an operator
        ("x-3", "3"),
        ("100 - 98 = 2", "2"),
        ("$-2.50", "-2.50"),
        ("-$1,200.50 a day", "-1200.50"),
        (".5", "0.5"),
        ("it was 18.", "18"),
        ("3.14.15", "3.14"),
        ("20 m^2", "20"),
        ("20 $m^{2}$", "20"),
        ("20 t of CO2", "20"),
        ("20%", "20"),
        (r"\boxed{1{,}234}", "1234"),
        (r"10\,000 men", "10000"),
        ("0.1928 (rounded to 4 decimal places)", "0.1928"),
        ("0.1928, to 4 significant figures", "0.1928"),
        ("2.5×10^{11}", "2.5e11"),
        (r"2.5 \times 10^{-3}", "0.0025"),
        ("1.5e-3", "0.0015"),
        ("about 1.5e-3.", "0.0015"),
        ("1e1234", "1"),  # no number of this size is meant
        ("共5个", "5"),
        ("9" * 5000, "9" * 5000),
        ("none at all", None),
        ("CO2", None),
        ("٣", None),
        ("", None),
    ],
)
def test_last_number(text, number):
    assert last_number(text) == (None if number is None else Decimal(number))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("((2)/(3))", "2/3"),
        ("5((7)/(10))", "57/10"),
        (r"\frac{2}{3}", "2/3"),
        (r"$5\dfrac{7}{10}$", "57/10"),
        ("5又7/10千米", "57/10"),
        ("2 / 3 米", "2/3"),
        ("-2/3", "-2/3"),
        ("-5又1/2", "-11/2"),
        ("3分之2", "2/3"),
        ("20%", "1/5"),
        (r"15\%", "3/20"),
        ("12.5％", "1/8"),
        ("百分之15", "3/20"),
        ("3/4=0.75", "3/4"),
        ("14.4元", "72/5"),
        ("1/0", "0"),  # no fraction, so its last number
        ("没有", None),
    ],
)
def test_last_value(text, value):
    assert last_value(text) == (None if value is None else Fraction(value))


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**15), max_value=10**15))
def test_any_decimal_is_read_back_exactly_however_it_is_written(number):
    for written in (f"{number:f}", f"{number:,}"):
        assert last_number(f"Of 7 men: ${written} in all.") == number
        assert last_value(f"答案是{written}元。") == Fraction(number)


@given(st.text(alphabet="1,.-+eE/^{}\\%x× 又", max_size=200))
def test_no_text_breaks_it(text):
    number, value = last_number(text), last_value(text)
    assert number is None or number == number  # a number, and no NaN
    assert value is None or isinstance(value, Fraction)
