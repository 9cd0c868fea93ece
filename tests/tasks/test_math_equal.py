"""The checker of mathematical answers: labelled pairs, exact numbers, and forms read out of text."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.math_equal import PATIENCE, equal
from tasks.math_form import number, read, tidy
from tasks.math_units import clash, split_unit
from tasks.math_workers import Answer
from tests.bench.math_pairs import FILES, mistakes, pairs, robust, table

DOCS = Path(__file__).parents[2] / "docs" / "protocols.md"


def no_algebra(gold, answer):
    raise AssertionError(f"algebra was asked about {gold!r} and {answer!r}")


@pytest.mark.parametrize(("name", "size"), zip(FILES, (100, 40), strict=True))
def test_labelled_pairs(name, size):
    labels = [pair["equal"] for pair in pairs(name)]
    assert labels.count(True) == labels.count(False) == size
    assert len({(pair["a"], pair["b"]) for pair in pairs(name)}) == 2 * size
    taken_for_equal, taken_for_different = mistakes(robust, name)
    assert len(taken_for_equal) <= 0.01 * size, taken_for_equal
    assert len(taken_for_different) <= 0.06 * size, taken_for_different


def test_the_table_in_the_docs_is_what_is_measured():
    assert table() in DOCS.read_text(encoding="utf-8")


def test_equality_is_symmetric_on_the_pairs():
    for name in FILES:
        lopsided = [p for p in pairs(name) if robust(p["a"], p["b"]) != robust(p["b"], p["a"])]
        assert lopsided == []


@pytest.mark.parametrize(
    ("gold", "answer", "same", "layer"),
    [
        ("5", "$5$.", True, "text"),
        ("\\frac12", "0.5", True, "number"),
        ("10\\%", "0.1", True, "number"),
        ("10\\%", "10", True, "number"),
        ("10\\%", "1000", False, "number"),
        ("5 \\text{ cm}", "5 \\text{ m}", False, "unit"),
        ("81\\text{ teachers}", "81", True, "number"),
        ("81\\text{ teachers}", "81\\text{ pupils}", True, "number"),  # no unit that we know
        ("\\text{east}", "West", False, "word"),
        ("1011_2", "1011", False, "structure"),
        ("(1,2)", "(2,1)", False, "structure"),
        ("1,2", "2,1", True, "structure"),
        ("x>3", "(3,\\infty)", True, "structure"),
        ("x=5", "y=5", False, "structure"),
        ("x=5", "5", True, "number"),
        ("5", "x = 5", True, "number"),
        ("\\{5,\\frac12\\}", "\\{0.5,5.0\\}", True, "structure"),
        ("1" * 5000, "1" * 5000, True, "length"),
        ("1", "1" * 5000, False, "length"),
    ],
)
def test_layers_that_need_no_algebra(gold, answer, same, layer):
    decision = equal(gold, answer, no_algebra)
    assert (decision.equal, decision.layer, decision.algebra) == (same, layer, None)


@pytest.mark.parametrize("outcome", ["different", "unreadable", "timeout", "memory", "killed", "error: ValueError"])
def test_only_equal_is_equal_and_the_record_says_why(outcome):
    decision = equal("\\sqrt{12}", "2\\sqrt{3}", lambda gold, answer: Answer(outcome))
    assert (decision.equal, decision.layer, decision.algebra) == (False, "algebra", outcome)


def test_algebra_that_fails_is_not_asked_again():
    asked = []

    def slow(gold, answer):
        asked.append((gold, answer))
        return Answer("different", seconds=PATIENCE / 2.5)

    decision = equal("a+1,a+2,a+3,a+4", "b+1,b+2,b+3,b+4", slow)
    assert (decision.equal, decision.algebra, len(asked)) == (False, "timeout", 3)
    asked.clear()
    decision = equal("a+1,a+2", "b+1,b+2", lambda gold, answer: asked.append(1) or Answer("timeout"))
    assert (decision.equal, decision.algebra, len(asked)) == (False, "timeout", 1)


fractions = st.fractions(max_denominator=10**6, min_value=-(10**6), max_value=10**6)


@given(fractions)
@settings(max_examples=200, deadline=None)
def test_every_spelling_of_a_fraction_is_that_fraction(value):
    top, bottom, sign = abs(value.numerator), value.denominator, "-" if value < 0 else ""
    whole, rest = divmod(top, bottom)
    spellings = [f"{sign}\\frac{{{top}}}{{{bottom}}}", f"\\frac{{{sign}{top}}}{{{bottom}}}", f"{sign}{top}/{bottom}"]
    if whole and rest:
        spellings += [f"{sign}{whole}\\frac{{{rest}}}{{{bottom}}}", f"{sign}{whole} {rest}/{bottom}"]
    assert {number(tidy(spelling)) for spelling in spellings} == {value}


@given(st.decimals(min_value=-(10**9), max_value=10**9, places=6), st.integers(-20, 20))
@settings(max_examples=200, deadline=None)
def test_every_spelling_of_a_decimal_is_that_decimal(value, exponent):
    exact = Fraction(value)
    assert {number(tidy(text)) for text in (f"{value:f}", f"{value:,f}", f"{value:f}0", f"${value:f}$")} == {exact}
    scaled = {number(tidy(f"{value:f}{power}")) for power in (f"\\times 10^{{{exponent}}}", f"e{exponent}")}
    assert scaled == {exact * Fraction(10) ** exponent}


@pytest.mark.parametrize(
    "text", ["", "-", ".", "1,23", "1,2345", "1.2.3", "1/0", "\\frac{1}{0}", "1e99999", "x", "2^3"]
)
def test_what_is_no_number(text):
    assert number(text) is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("1,234", "number"),
        ("1,2", "collection"),
        ("\\{1,2\\}", "collection"),
        ("1 \\pm \\sqrt{2}", "collection"),
        ("(1,2]", "sequence"),
        ("2 < x \\le 3", "sequence"),
        ("(1+x)(2,3)", "expression"),
        ("(x+1)(x-1)", "expression"),
        ("[0,1]\\cup[2,3]", "union"),
        ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "matrix"),
        ("f(x)=x^2", "equation"),
        ("2x+y=3", "expression"),
        ("\\text{no solution}", "word"),
        ("\\text{(C)}", "word"),
        ("没有", "word"),
        ("x", "expression"),
        ("xy", "expression"),
        ("10101_2", "based"),
        ("x_2", "expression"),
    ],
)
def test_kinds(text, kind):
    assert read(tidy(text)).kind == kind


@pytest.mark.parametrize(
    ("text", "body", "unit"),
    [
        ("12 \\text{ square inches}", "12", "in^2"),
        ("12 \\text{in}^2", "12", "in^2"),
        ("15平方厘米", "15", "cm^2"),
        ("2\\pi \\text{ cm}", "2\\pi", "cm"),
        ("30^\\circ", "30", "°"),
        ("30 degrees", "30", "°"),
        ("7\\%", "7", "%"),
        ("2x", "2x", ""),
        ("3 m", "3 m", ""),  # a variable as well as a metre
        ("3 \\text{ m}", "3", "m"),
        ("\\text{cm}", "\\text{cm}", ""),
    ],
)
def test_units(text, body, unit):
    assert split_unit(text) == (body, unit)


def test_units_that_cannot_be_one_another():
    assert clash("cm", "m") and clash("cm", "cm^2") and clash("h", "min")
    assert not clash("cm", "") and not clash("unit", "cm") and not clash("apples", "pears") and not clash("m", "m")
