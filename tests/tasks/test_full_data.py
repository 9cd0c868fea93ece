"""Whole benchmarks: gold in, full marks out; shuffled gold, chance; lengths of prompts in tokens."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter, defaultdict

import pytest

from tasks.api import Chat, Options
from tasks.bbh import BBH, BBHChat
from tasks.ceval import CEval, CEvalChat
from tasks.cmmlu import CMMLU, CMMLUChat
from tasks.gsm8k import GSM8K, GSM8KChat
from tasks.math23k import Math23K
from tasks.math401 import Math401
from tasks.mmlu import MMLU, MMLUChat
from tests.tasks.scripted import SHARED, Ends, Says, bench, qwen_tokens

NEGATIVE = {"gsm8k/test/489", "gsm8k/test/1113"}  # the released rule reads no sign
# their options are letters or the words of the rules, which the released replacement turns into other letters
LETTER_OPTIONS = {
    "mmlu/test/college_physics/71", "mmlu/test/electrical_engineering/115", "mmlu/test/formal_logic/50"
}  # fmt: skip
SAYS = "The answer is {gold}."


def made(task):
    """The task, GSM8K with the released header."""
    header = SHARED / "gsm8k" / "qwen_gsm8k_prompt.txt"
    if task is not GSM8K:
        return task()
    if not header.exists():
        pytest.skip("the released header is not beside this checkout: shared/bench/gsm8k/qwen_gsm8k_prompt.txt")
    return task(Options(shots_file=header))


def model(task, said, gold):
    """One that finds the gold letter likeliest, or says it."""
    if task.decoding is None:
        scores = [-1.0 if letter == gold else -2.0 for letter in "ABCD"]
        return Says(scores=scores if task.space == " " else scores * 2)
    return Says(said.format(gold=gold))


def verdicts(task, samples, said, golds):
    async def judge_all():
        pairs = zip(samples, golds, strict=True)
        return [await task.judge(sample, model(task, said, gold), Ends()) for sample, gold in pairs]

    return asyncio.run(judge_all())


@pytest.mark.parametrize(
    ("task", "said", "size", "missed"),
    [
        (MMLU, "", 14042, set()),
        (MMLUChat, "{gold}", 14042, LETTER_OPTIONS),
        (CEval, "", 1346, set()),
        (CEvalChat, "{gold}", 1346, set()),
        (CEvalChat, "因此，正确答案是{gold}。", 1346, set()),
        (CMMLU, "", 11582, set()),
        (CMMLUChat, "故选{gold}。", 11582, set()),
        (GSM8K, SAYS, 1319, NEGATIVE),
        (GSM8KChat, SAYS, 1319, set()),
        (GSM8KChat, "So {gold} in all.", 1319, set()),
        (BBH, "Step by step. So the answer is {gold}.", 6511, set()),
        (BBHChat, "Step by step.\nSo the answer is {gold}.", 6511, set()),
        (Math401, "It comes to {gold}.", 401, set()),
        (Math23K, "答案是{gold}。", 1000, set()),
    ],
)
def test_gold_in_full_marks_out(task, said, size, missed):
    task = made(task)
    samples = task.samples(bench)
    found = verdicts(task, samples, said, [sample.gold for sample in samples])
    assert len(samples) == size == len({sample.id for sample in samples})
    assert {sample.id for sample, verdict in zip(samples, found, strict=True) if not verdict.correct} == missed
    for name in {"log-likelihood", "robust", "lenient"} & set(task.measures):
        assert all(verdict.scores[name] == 1 for verdict in found), "the other rules read all of them"
    if "relative error" in task.measures:
        assert all(verdict.scores["relative error"] == 0 for verdict in found)


@pytest.mark.parametrize("task", [MMLU, CEval, CEvalChat, CMMLU, GSM8K, GSM8KChat, BBH, BBHChat, Math401, Math23K])
def test_shuffled_gold_scores_at_chance(task):
    """Gold answers dealt out anew within each group. With shares p of a group's answers a deal is right with chance
    sum p^2, so of n items n sum p^2 are to be expected; the binomial's spread bounds that of dealing without
    replacement up to a factor near one, and 4.5 of them leave one failure in 150,000 for a correct rule."""
    task = made(task)
    samples = task.samples(bench)
    by_group = defaultdict(list)
    for place, sample in enumerate(samples):
        by_group[sample.group].append(place)
    golds = [sample.gold for sample in samples]
    draw = random.Random(20230928)
    expected = 0.0
    for places in by_group.values():
        dealt = [golds[place] for place in places]
        expected += sum(count * count for count in Counter(dealt).values()) / len(dealt)
        draw.shuffle(dealt)
        for place, gold in zip(places, dealt, strict=True):
            golds[place] = gold
    said = {CEvalChat: "答案是{gold}。", BBH: "So the answer is {gold}.", BBHChat: "So the answer is {gold}."}
    right = sum(verdict.correct for verdict in verdicts(task, samples, said.get(type(task), SAYS), golds))
    chance = expected / len(samples)
    spread = math.sqrt(len(samples) * chance * (1 - chance))
    # equal values written in two ways, and those within Math401's tolerance, are right as well: at most a few
    assert abs(right - expected) <= 4.5 * spread + 1
    assert chance < 0.35


@pytest.mark.parametrize(
    ("task", "first", "last"),
    [
        (MMLU, 354, 267),
        (MMLUChat, 74, 66),
        (CEval, 623, 358),
        (CEvalChat, 95, 30),
        (CMMLU, 281, 252),
        (CMMLUChat, 46, 39),
        (GSM8K, 1381, 1361),
        (GSM8KChat, 65, 44),
        (BBH, 506, 811),
        (BBHChat, 512, 817),
        (Math401, 7, 6),
        (Math23K, 38, 39),
    ],
)
def test_lengths_of_the_first_and_last_prompt(task, first, last):
    """In tokens as transformers counts them with Qwen2.5's tokenizer; of a chat, its user turn."""
    task = made(task)
    samples = task.samples(bench)
    prompts = [task.prompt(samples[index]) for index in (0, -1)]
    texts = [prompt.messages[-1][1] if isinstance(prompt, Chat) else prompt for prompt in prompts]
    assert [qwen_tokens(text) for text in texts] == [first, last]
