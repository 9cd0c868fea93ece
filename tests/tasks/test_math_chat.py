from __future__ import annotations

import ast
import math
import operator
import re

import pytest

from tasks.api import Chat, TaskError
from tasks.math23k import Math23K
from tasks.math401 import GROUPS, Math401
from tests.tasks.scripted import Says, bench, judge

ROWS401 = [{"query": "1+1=", "response": "2"}] * 401
ROW23 = {"id": "7", "original_text": "一加一等于几？", "equation": "x=1+1", "ans": "2"}


def asked(task, sample):
    prompt = task.prompt(sample)
    assert prompt == Chat((("system", "You are a helpful assistant."), prompt.messages[1]))
    return prompt.messages[1]


@pytest.mark.parametrize("index", [0, 400])
def test_math401_prompts(index):
    task = Math401()
    sample = task.samples(bench)[index]
    assert asked(task, sample) == ("user", bench(task.source)[index]["query"])


@pytest.mark.parametrize("index", [0, 999])
def test_math23k_prompts(index):
    task = Math23K()
    sample = task.samples(bench)[index]
    assert asked(task, sample) == ("user", bench(task.source)[index]["original_text"])


@pytest.mark.parametrize(
    ("gold", "reply", "outcome", "error"),
    [
        ("1.2381", "52÷42 = 1.2381", "correct", 0),
        ("1.2381", "about 1.2390", "correct", 0.0009 / 1.2381),
        ("1.2381", "about 1.2391", "wrong", 0.001 / 1.2381),  # less than 0.001, not equal to it
        ("0.1", "0.3", "wrong", 0.2),
        ("-23", "23", "wrong", 2),
        ("400", "399.5", "wrong", 0.5 / 400),
        ("405952501224", "405,952,501,224", "correct", 0),
        ("2", "200", "wrong", 10),
        ("2", "two", "unextracted", 10),
    ],
)
def test_math401_rule(gold, reply, outcome, error):
    task = Math401()
    sample = task.samples(lambda source: [{"query": "?", "response": gold}] * 401)[0]
    verdict = judge(task, sample, Says(reply))
    assert verdict.outcome == outcome and verdict.scores == {"relative error": pytest.approx(error)}


WORTH = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


def worth(node):
    """What a sum of numbers comes to."""
    if isinstance(node, ast.BinOp):
        return WORTH[type(node.op)](worth(node.left), worth(node.right))
    if isinstance(node, ast.UnaryOp):
        return -worth(node.operand)
    return {"e": math.e, "pi": math.pi}[node.id] if isinstance(node, ast.Name) else node.value


def test_math401_groups_are_the_published_ones_and_its_gold_is_true():
    samples = Math401().samples(bench)
    sizes = {group: sum(sample.group == group for sample in samples) for group in ("euler", *GROUPS)}
    assert list(sizes.values()) == [1] + [25] * 16
    marks = {
        "euler": "iπ", "divide within 100": "[÷/]", "integer power": r"\*\*|\^", "decimal power": r"\..*(\*\*|\^)",
        "irrational": ".", "trigonometry": "sin|cos|tan", "logarithm": "log|ln", "long expression": "^ ",
        "multiply within 100": "[*×]", "multiply decimals": r"[*×]", "multiply within 100,000": "[*×]",
        "add decimals": r"\.",
    }  # fmt: skip
    for sample in samples:
        assert re.search(marks.get(sample.group, "[+-]"), sample.fields["query"]), sample
        if sample.group in GROUPS[:14]:
            plain = sample.fields["query"].strip(" =").translate({0xD7: "*", 0xF7: "/", 0x3C0: "pi"})
            value = worth(ast.parse(plain.replace("^", "**"), mode="eval").body)
            assert math.isclose(value, float(sample.gold), abs_tol=1e-3, rel_tol=1e-6), sample


@pytest.mark.parametrize(
    ("gold", "reply", "outcome"),
    [
        ("880", "周长是880米。", "correct"),
        ("((2)/(3))", "答：占总数的2/3。", "correct"),
        ("((2)/(3))", r"$\frac{2}{3}$", "correct"),
        ("((2)/(3))", "约0.67", "wrong"),
        ("5((7)/(10))", "5.7千米", "correct"),
        ("20%", "20%", "correct"),
        ("20%", "0.2", "correct"),
        ("20%", "20", "wrong"),
        ("4.375", "4.3750", "correct"),
        ("4.375", "4.3752", "wrong"),
        ("2", "不知道", "unextracted"),
    ],
)
def test_math23k_rule(gold, reply, outcome):
    task = Math23K()
    assert judge(task, task.samples(lambda source: [ROW23 | {"ans": gold}])[0], Says(reply)).outcome == outcome


@pytest.mark.parametrize(
    ("task", "rows", "said"),
    [
        (Math401, [], "Math401: the data set has no rows"),
        (Math401, ROWS401[:400], "Math401: 400 rows, not 401"),
        (Math401, [*ROWS401[:400], {"query": "1"}], "Math401, item 400: field 'response' is missing"),
        (
            Math401,
            [*ROWS401[:400], {"query": "1", "response": "two"}],
            "item 400: field 'response' is 'two', no number",
        ),
        (Math401, [*ROWS401[:400], {"query": "1", "response": 2}], "item 400: field 'response' is int, not text"),
        (Math23K, [ROW23, ROW23 | {"ans": None}], "Math23K test, item 1: field 'ans' is missing"),
        (Math23K, [ROW23 | {"ans": "x"}], "item 0: field 'ans' is 'x', no number"),
        (Math23K, [7], "item 0: expected an object"),
    ],
)
def test_bad_data(task, rows, said):
    with pytest.raises(TaskError) as caught:
        task().samples(lambda source: rows)
    assert said in str(caught.value) and "--data-dir" in str(caught.value) and "\n" not in str(caught.value)
