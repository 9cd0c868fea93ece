"""The published string rules, on hand-worked cases and against lm-eval's own functions on all of MATH."""

from __future__ import annotations

import pytest

from tasks.math_extract import final_answer
from tasks.math_strings import hendrycks, hendrycks_equal, last_boxed, minerva, minerva_answer, report_answer
from tests.tasks.scripted import rows_of

SENTENCE = "Final Answer: The final answer is ${}$. I hope it is correct."


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("\\boxed{1} and \\boxed{\\frac{1}{\\sqrt{2}}}.", "\\frac{1}{\\sqrt{2}}"),
        ("\\fbox{a}", "a"),
        ("\\boxed {a}", "a"),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
        ("\\boxed{1", None),
        ("\\boxed 9", None),
        ("\\boxed", None),
        ("{1}", None),
    ],
)
def test_last_box(text, inside):
    assert last_boxed(text) == inside


@pytest.mark.parametrize(
    ("text", "string"),
    [
        ("\\frac12", "\\frac{1}{2}"),
        ("\\dfrac{1}{2}", "\\frac{1}{2}"),
        ("\\frac1{72}", "\\frac{1}{72}"),
        ("1/2", "\\frac{1}{2}"),
        ("0.5", "\\frac{1}{2}"),
        (".25", "0.25"),
        ("\\sqrt3", "\\sqrt{3}"),
        ("x=5", "5"),
        ("xyz=5", "xyz=5"),
        ("50\\%", "50"),
        ("30^\\circ", "30"),
        ("\\$5", "5"),
        ("5\\text{ cm}", "5"),
        ("\\left(1, 2\\right)", "(1,2)"),
        ("", ""),
    ],
)
def test_hendrycks(text, string):
    assert hendrycks(text) == string


def test_where_hendrycks_fails_texts_are_compared_as_they_are():
    assert hendrycks_equal("x/2", "x/2") and not hendrycks_equal("x/2 ", "x/2")
    assert hendrycks_equal("\\sqrt", "\\sqrt") and not hendrycks_equal("\\frac", "1")


@pytest.mark.parametrize(
    ("answer", "string"),
    [
        ("x=5", "5"),
        ("10 dollars", "10"),
        ("\\$1{,}000", "1000"),
        ("the answer is $7$ apples", "7"),
        ("\\frac12", "\\frac{1}{2}"),
        ("\\text{east}", "east"),
        ("1,000", "1000"),
        ("0,1", "01"),  # as published
    ],
)
def test_minerva(answer, string):
    assert minerva(answer) == string


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("So it is. " + SENTENCE.format("24"), "24"),
        ("The final answer is $\\frac12$. No.", "\\frac{1}{2}"),
        ("The answer is 5. Then more.", "Theansweris5"),
        ("No sentence\nhere", "Nosentencehere"),
        ("So. The final answer is $0.35$. I hope", "0"),  # cut at the point: no decimal is ever right
        ("So. The final answer is $\\left(1,2\\right)$. I hope", "<(1,2\\right)"),
        ("So. The final answer is $1,2$. I hope", "12"),
        ("The final answer: \\boxed{7}", "Thefinalanswer:7"),
        ("", ""),
    ],
)
def test_the_reports_rule(reply, answer):
    assert report_answer(reply) == answer


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("So. " + SENTENCE.format("[2,5)"), "[2,5)"),
        ("Final Answer: The final answer is $x=5$ and $y=0.5$. I hope it is correct.", "x=5 and y=0.5"),
        ("Thus $\\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"),
        ("**Final Answer:** $\\boxed{7}$", "7"),
        ("The final answer is $\\boxed{7}$. I hope it is correct.", "7"),
        ("The final answer is $6$.\n\nWait: it is \\boxed{7}.", "7"),
        ("\\boxed{6}. The final answer is 7", "7"),
        ("The answer is 3.5.", "3.5"),
        ("The answer is: .5", ".5"),
        ("The answer is 5 apples. There are 7 pears.", "5 apples"),
        ("Answer: 12\nBecause 3 + 9 = 12", "12"),
        ("所以答案是$12$。", "12"),
        ("最终答案为：\\(3\\)", "3"),
        ("I do not know.", None),
        ("\\boxed{}", None),
        ("", None),
        ("The final answer is", None),
    ],
)
def test_final_answer(reply, answer):
    assert final_answer(reply) == answer


def test_minerva_against_lm_eval_on_all_of_math():
    theirs = pytest.importorskip("lm_eval.tasks.minerva_math.utils")
    solutions = [row["solution"] for name in ("math/test.jsonl", "math/train.jsonl") for row in rows_of(name)(None)]
    boxes = [(last_boxed(solution), theirs.last_boxed_only_string(solution)) for solution in solutions]
    golds = [box for box, _ in boxes if box is not None]
    assert len(golds) == 12_498  # the two others have no braces
    assert all(theirs.remove_boxed(other) == box for box, other in boxes if box is not None and "\\boxed " not in other)
    differ = {gold for gold in golds if minerva(gold) != theirs.normalize_final_answer(gold)}
    # lm-eval has mended appendix D: commas only between thousands, no unit's name inside a command, indexed roots
    reasons = (",", "\\left", "\\sqrt[", "\\pounds", "\\text")
    assert [gold for gold in differ if not any(reason in gold for reason in reasons)] == []
    assert all(minerva_answer(SENTENCE.format(gold)) == minerva(f"${gold}$") for gold in golds if "\n" not in gold)
