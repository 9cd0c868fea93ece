"""A tiny task whose items are texts; found as `tests/harness/worded.py:Worded`."""

from __future__ import annotations

import random

from tasks.api import Sample, Source, Task, Verdict

WORDS = [f"word{number}" for number in range(500)]


class Worded(Task):
    """Six questions of 30 words each, and one of 5."""

    name = "worded"
    version = 1
    title = "words"
    protocol = "base"
    shots = 0
    metric = "accuracy"
    source = Source(name="worded", files=("worded.jsonl",))

    def samples(self, load):
        questions = [" ".join(random.Random(seed).choices(WORDS, k=30)) for seed in range(6)]
        return [
            Sample(
                id=f"worded/{i}",
                fields={"question": question, "choices": ["first of these", "second"], "kind": f"kind {i % 2}"},
                gold="A",
                group=f"kind {i % 2}",
            )
            for i, question in enumerate([*questions, "one two three four five"])
        ]

    def prompt(self, sample):
        return sample.fields["question"]

    async def judge(self, sample, model, sandbox):
        scores = await model.score(self.prompt(sample), [" A", " B"])
        return Verdict(answer="AB"[scores[1] > scores[0]], outcome="correct" if scores[0] >= scores[1] else "wrong")
