from __future__ import annotations

import pytest

from tasks.api import Options, TaskError
from tasks.retrieval import DEPTHS, TEXTS, Retrieval, facts
from tests.tasks.scripted import judge


def count(text: str) -> int:
    return len(text.split()) + text.count(".")


def fitted(*lengths: int) -> tuple[Retrieval, list]:
    task = Retrieval(Options(lengths=lengths))
    samples, left_out = task.fit(task.samples(None), count)
    assert left_out == []
    return task, samples


class Recalls:
    """Knows the number that stands behind the asked-for words, as a model with a perfect memory does."""

    def __init__(self, *, blind: bool = False):
        self.blind = blind

    async def score(self, prompt, continuations, *, window=None):
        asked = prompt.rsplit(". ", 1)[1]
        return [-0.5 if (asked + one in prompt and not self.blind) else -9.0 for one in continuations]


def test_a_sample_for_each_text_length_and_depth():
    task, samples = fitted(600, 2000)
    assert len(samples) == TEXTS * 2 * len(DEPTHS)
    assert samples[0].id == "retrieval/0/600/0" and samples[0].group == "600"
    assert len({sample.id for sample in samples}) == len(samples)
    again, others = fitted(2000)
    assert [again.prompt(sample) for sample in others] == [
        task.prompt(sample) for sample in samples if sample.group == "2000"
    ]


def test_prompts_are_as_long_as_they_may_be_and_no_longer():
    task, samples = fitted(600, 2000)
    for sample in samples:
        tokens, length = count(task.prompt(sample) + sample.gold), sample.fields["length"]
        assert length - 80 < tokens <= length  # one day of the log has less than 80 tokens


def test_each_fact_stands_once_at_its_depth_and_is_asked_for_at_the_end():
    task, samples = fitted(2000)
    for sample in samples:
        prompt = task.prompt(sample)
        sentence, number = facts(int(sample.fields["document"]))[sample.fields["place"]]
        assert number == sample.gold and prompt.count(sentence + number) == 1
        assert prompt.endswith(sentence) and prompt.count(number) == 1
        assert prompt.index(sentence) / len(prompt) == pytest.approx(sample.fields["depth"], abs=0.06)


def test_all_questions_share_the_text():
    task, samples = fitted(2000)
    prompts = [task.prompt(sample) for sample in samples[: len(DEPTHS)]]
    shared = prompts[0].rsplit("\n", 1)[0]
    assert all(prompt.startswith(shared) for prompt in prompts) and len(set(prompts)) == len(DEPTHS)


def test_verdicts():
    task, samples = fitted(600)
    found = judge(task, samples[3], Recalls())
    assert (found.outcome, found.answer) == ("correct", samples[3].gold)
    assert found.scores == {"needle perplexity": 0.5, "among ten": 1.0}
    assert found.detail == {"document": "0", "length": 600, "depth": DEPTHS[3]}
    # who knows nothing takes the first of ten: right one time in ten
    blind = [judge(task, sample, Recalls(blind=True)) for sample in samples]
    assert sum(one.scores["among ten"] for one in blind) == TEXTS
    assert {one.scores["needle perplexity"] for one in blind} == {9.0}


@pytest.mark.parametrize(
    ("lengths", "message"),
    [((600, 600), "--lengths: one is named twice"), ((50,), "--lengths: 50 tokens do not hold ten facts")],
)
def test_impossible_lengths(lengths, message):
    with pytest.raises(TaskError, match=message):
        fitted(*lengths)
