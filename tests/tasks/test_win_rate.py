from __future__ import annotations

import asyncio
import json
from collections import Counter
from importlib.resources import files

import pytest

from tasks.api import Reply, TaskError
from tasks.win_rate import LOSS, TIE, WIN, WinRate, WinRateJudge, read, turned
from tests.tasks.scripted import Ends, Says, judge

PAIR = {"id": "p", "category": "math", "prompt": "1 + {1}?", "answer": "OURS {2}", "opponent": "THEIRS"}
ROWS = [json.loads(line) for line in (files("tasks") / "data/win_rate.jsonl").read_text(encoding="utf-8").splitlines()]


class Judge:
    """Says of the two answers whatever `says` gives for (first answer is ours)."""

    def __init__(self, says):
        self.says, self.asked = says, []

    async def generate(self, prompt, decoding):
        text = prompt.messages[1][1]
        self.asked.append(text)
        return Reply(text=self.says(text.index("OURS") < text.index("THEIRS")), finish="eos", logprobs=())


def judged(says):
    task, model = WinRateJudge(), Judge(says)
    sample = task.samples(lambda source: [PAIR])[0]
    return asyncio.run(task.judge(sample, model, Ends())), model


@pytest.mark.parametrize(
    ("says", "verdict"),
    [
        (lambda ours_first: f"Verdict: {1 if ours_first else 2}", WIN),
        (lambda ours_first: f"Verdict: {2 if ours_first else 1}", LOSS),
        (lambda ours_first: "Verdict: tie", TIE),
        (lambda ours_first: "Verdict: 1", TIE),  # always the first: its verdicts contradict each other
        (lambda ours_first: "Verdict: 1" if ours_first else "Verdict: tie", TIE),
    ],
)
def test_both_orders(says, verdict):
    found, model = judged(says)
    assert found.answer == verdict and found.correct is (verdict == WIN)
    assert found.scores == {name: float(name == verdict) for name in (WIN, TIE, LOSS)}
    assert model.asked[0] != model.asked[1] and all("1 + {1}?" in text and "OURS {2}" in text for text in model.asked)


def test_a_verdict_that_cannot_be_read_counts_nowhere():
    found, _ = judged(lambda ours_first: "Verdict: 1" if ours_first else "Both are fine.")
    assert found.outcome == "unextracted" and found.scores == {} and found.answer is None


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("**Verdict:** 2", LOSS),
        ("verdict: TIE.", TIE),
        ("Verdict: 1 at first sight.\nVerdict: 2", LOSS),
        ("Verdict: 12", None),
        ("Answer 1 is better", None),
    ],
)
def test_reading(reply, verdict):
    assert read(reply) == verdict


def test_turned():
    assert [turned(verdict) for verdict in (WIN, TIE, LOSS, None)] == [LOSS, TIE, WIN, None]


def test_answers_wait_for_a_judge():
    task = WinRate()
    sample = task.samples(lambda source: ROWS)[0]
    assert judge(task, sample, Says(" An answer. ")).scores == {"answered": 1.0}
    assert judge(task, sample, Says(" ")).outcome == "unextracted"


def test_our_own_questions():
    samples = WinRate().samples(lambda source: ROWS)
    assert Counter(sample.group for sample in samples) == dict.fromkeys(
        ("knowledge", "language understanding", "creative writing", "math", "coding"), 8
    )
    chinese = [
        sample for sample in samples if any("\u4e00" <= letter <= "\u9fff" for letter in sample.fields["prompt"])
    ]
    assert len(chinese) == 20 and len({sample.fields["prompt"] for sample in samples}) == 40


@pytest.mark.parametrize("task", [WinRate, WinRateJudge])
def test_bad_rows(task):
    with pytest.raises(TaskError, match="field 'category' is missing"):
        task().samples(lambda source: [PAIR | {"category": None}])
