"""Why samples were not right. Not covered: refusals that begin otherwise than the listed ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reports import causes
from tests.reports.conftest import records_of

BASE = replace(records_of("gsm8k-chat")[1], response="The answer is 4.", outcome="wrong", finish="eos", correct=False)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"correct": True, "outcome": "correct", "finish": "length"}, "right"),
        ({}, "wrong"),
        ({"outcome": "error"}, "wrong"),
        ({"outcome": "timeout", "finish": "length"}, "time-out"),
        ({"outcome": "memory"}, "stopped"),
        ({"outcome": "killed"}, "stopped"),
        ({"outcome": "unextracted"}, "not extracted"),
        ({"outcome": "unextracted", "finish": "length"}, "cut off by length"),
        ({"outcome": "unextracted", "response": "I'm sorry, but I cannot help."}, "refused"),
        ({"outcome": "wrong", "response": "很抱歉，我无法回答。"}, "refused"),
        ({"outcome": "wrong", "response": "As an AI language model, I do not add."}, "refused"),
        ({"outcome": "syntax"}, "format"),
        ({"outcome": "no_code"}, "format"),
        ({"outcome": "not_installed"}, "not judged"),
        ({"response": "So we add. " + "Then 2 + 2 = 4.\n" * 20, "finish": "length"}, "repeats itself"),
        ({"response": "0" * 500, "outcome": "unextracted"}, "repeats itself"),
    ],
)
def test_cause(changes: dict[str, object], expected: str) -> None:
    assert causes.cause(replace(BASE, **changes)) == expected  # type: ignore[arg-type]


def test_ordinary_endings_do_not_repeat_themselves() -> None:
    for text in ("", "x", "A table:\n|---|---|---|---|\n", "no no no no!", "1\n2\n3\n4\n5\n" * 3, "a b c d " * 7):
        assert not causes.repeats(text), text
    assert causes.repeats("begin " + "the end of the story " * 4)
    assert not causes.repeats("begin " + "the end of the story " * 3)


def test_every_sample_has_one_cause_and_counts_add_up() -> None:
    records = [*records_of("gsm8k-chat"), *records_of("humaneval-chat"), *records_of("mmlu")]
    samples = causes.frame(map(causes.row, records))
    whole = causes.counts(samples)
    assert whole.loc["all", "right"] == sum(record.correct for record in records)
    assert whole.to_numpy().sum() == len(records) and whole.columns[0] == "right"
    grouped = causes.counts(samples, samples["group"])
    assert grouped.to_numpy().sum() == 40 and len(grouped) == 15, "samples without a group are in no group"


def test_shares_have_wilsons_interval() -> None:
    samples = causes.frame(causes.row(replace(BASE, id=str(i), correct=i < 17)) for i in range(40))
    (right, n, share), (wrong, *_) = causes.shares(causes.counts(samples).loc["all"])
    assert (right, n, wrong) == ("right", 17, "wrong")
    # scipy.stats.binomtest(17, 40).proportion_ci(method="wilson")
    assert (share.value, share.low, share.high) == pytest.approx((0.425, 0.285094, 0.578049), abs=1e-6)


def test_prompts_fall_into_parts_of_about_as_many() -> None:
    made = [replace(BASE, id=str(i), prompt="x" * (i * i)) for i in range(1, 101)]
    samples = causes.frame(map(causes.row, made))
    parts = causes.counts(samples, causes.lengths(samples))
    assert parts.sum(axis=1).tolist() == [25] * 4
    assert parts.index[0] == "1 – 625" and parts.index[-1] == "5,776 – 10,000"
    same = causes.frame(causes.row(replace(BASE, id=str(i))) for i in range(5))
    assert len(causes.counts(same, causes.lengths(same))) == 1
