"""C-Eval and CMMLU: prompts, sets, the letter in a Chinese reply."""

from __future__ import annotations

import pytest

from tasks.api import Chat, TaskError
from tasks.ceval import CEval, CEvalChat, chinese_letter
from tasks.cmmlu import CMMLU, CMMLUChat
from tests.tasks.scripted import SHARED, Says, bench, judge

ROW = {"subject": "law", "question": "下列何者是红的？", "A": "天", "B": "草", "C": "玫瑰", "D": "海", "answer": "C"}
SHOTS = [ROW | {"question": f"问{i}", "answer": "ABCDA"[i]} for i in range(5)]
FIELDS = {"question": ROW["question"], "choices": ["天空的颜色", "草地", "玫瑰", "大海。"]}
BLANK = {
    "question": "网络有许多层。传输层的面向连接服务的特性是____，这一点没有疑问。",
    "choices": ["不保证可靠", "不保证可靠，但保证按序交付", "保证可靠，但不保证按序交付", "既保证可靠，也保证按序交付"],
}


def load(rows=(ROW,), shots=SHOTS):
    return lambda source: list(shots) if source.split == "dev" else list(rows)


def rendered(row, question, answer):
    """One question as the script's format_example writes it, put down anew."""
    lines = ["问题：" + row[question], *(f"{letter}. {row[letter]}" for letter in "ABCD")]
    return "\n".join([*lines, "答案：" + answer])


@pytest.mark.parametrize(
    ("task", "question", "answer", "size", "index"),
    [
        (CEval, "question", "answer", 1346, 0),
        (CEval, "question", "answer", 1346, 1345),
        (CMMLU, "Question", "Answer", 11582, 0),
        (CMMLU, "Question", "Answer", 11582, 11581),
    ],
)
def test_prompts_of_the_real_first_and_last(task, question, answer, size, index):
    made = task()
    samples = made.samples(bench)
    row = bench(task.source)[index]
    shots = [shot for shot in bench(task.shots_source) if shot["subject"] == row["subject"]]
    assert len(samples) == size and len(shots) == 5
    header = "".join(rendered(shot, question, shot[answer]) + "\n\n" for shot in shots)
    assert made.prompt(samples[index]) == header + rendered(row, question, "")
    assert (samples[index].gold, samples[index].group) == (row[answer], row["subject"])
    assert samples[index].id == f"{task.name}/{task.source.split}/{row['subject']}/{row.get('id', row.get('index'))}"


@pytest.mark.parametrize("index", [0, -1])
@pytest.mark.parametrize(("task", "question"), [(CEvalChat, "question"), (CMMLUChat, "Question")])
def test_chat_prompts_of_the_real_first_and_last(task, question, index):
    made = task()
    row = bench(task.source)[index]
    asked = row[question] + "\n\n" + "".join(f"{letter}. {row[letter]}\n" for letter in "ABCD")
    sample = made.samples(bench)[index]
    assert made.prompt(sample) == Chat((("system", "You are a helpful assistant."), ("user", asked)))


def test_subjects_and_sets():
    mapping = SHARED / "ceval" / "subject_mapping.json"
    if not mapping.exists():
        pytest.skip("the real data is not beside this checkout: shared/bench/ceval/subject_mapping.json")
    import json

    published = {"STEM": "stem", "Social Science": "social sciences", "Humanities": "humanities", "Other": "other"}
    for subject, (_, _, category) in json.loads(mapping.read_text(encoding="utf-8")).items():
        assert subject in CEval.sets[published[category]]
    assert {name: len(subjects) for name, subjects in CEval.sets.items()} == {
        "stem": 20, "social sciences": 10, "humanities": 11, "other": 11, "hard": 8
    }  # fmt: skip
    assert set(CEval.sets["hard"]) <= set(CEval.sets["stem"])
    assert {name: len(subjects) for name, subjects in CMMLU.sets.items()} == {
        "stem": 17, "humanities": 13, "social sciences": 22, "other": 15, "china specific": 15
    }  # fmt: skip
    for task in (CEval, CMMLU):
        found = {sample.group for sample in task().samples(bench)}
        assert found == {subject for subjects in task.categories.values() for subject in subjects}
        assert set(task.source.configs) == found and task.mean == "groups"
        assert "not for commercial use" in task.source.licence


def test_letters_are_scored_without_and_with_a_space():
    """The report's rule takes the first, the measure `log-likelihood` the second four."""
    task, model = CEval(), Says(scores=[-4, -3, -1, -2, -1, -9, -9, -9])
    sample = task.samples(load())[0]
    verdict = judge(task, sample, model)
    assert model.asked == [(task.prompt(sample), ["A", "B", "C", "D", " A", " B", " C", " D"], None)]
    assert verdict.correct and verdict.scores == {"log-likelihood": 0}
    assert verdict.choice_logprobs == {"A": -4, "B": -3, "C": -1, "D": -2}
    verdict = judge(task, sample, Says(scores=[-1, -1, -1, -2, -3, -2, -1, -2]))
    assert verdict.answer == "A" and verdict.outcome == "wrong" and verdict.scores == {"log-likelihood": 1}


def test_a_letter_behind_the_full_width_colon_is_a_token_of_its_own():
    """So that scoring it alone is what the solved questions show, and what lm-eval's joint encoding would do."""
    from tests.tasks.scripted import qwen_tokens

    for letter in "ABCD":
        for space in ("", " "):
            assert qwen_tokens(f"答案：{space}{letter}\n\n") == qwen_tokens("答案：") + 2
            assert qwen_tokens(space + letter) == 1


@pytest.mark.parametrize(
    ("reply", "letter", "rule"),
    [
        ("答案是C。", "C", "answer is X"),
        ("正确答案为：C", "C", "answer is X"),
        ("答案：C", "C", "answer is X"),
        ("答案 C", "C", "answer is X"),
        ("【答案】C", "C", "answer is X"),
        ("答案是 **C**", "C", "answer is X"),
        ("答案是玫瑰。", "C", "answer is X"),
        ("故选B、不选A", "B", "answer is X"),
        ("应该选择D选项。", "D", "answer is X"),
        ("不能选A，选B。", "B", "answer is X"),
        ("不选A。应选B。", "B", "answer is X"),
        ("答案不是A，答案是B", "B", "answer is X"),
        ("正确的选项是D", "D", "answer is X"),
        ("A选项不正确，B选项正确", "B", "X is correct"),
        ("选项A不正确，选项B正确。", "B", "X is correct"),
        ("D项符合题意", "D", "X is correct"),
        ("A错误。D对。", "D", "X is correct"),
        ("B. 草地", "B", "begins with X"),
        ("B", "B", "begins with X"),
        ("玫瑰", "C", "begins with X"),
        ("天空的颜色", "A", "begins with X"),
        ("大海", "D", "begins with X"),  # the option's full stop is left off
        ("我想（B）", "B", "first lone letter"),
        ("DNA和B", "B", "first lone letter"),
        ("是草坪地吧", "B", "nearest option"),
        ("", None, ""),
    ],
)
def test_extraction(reply, letter, rule):
    assert chinese_letter(reply, FIELDS) == (letter, rule)


def test_a_repeated_question_is_an_answer():
    reply = "传输层的面向连接服务的特性是既保证可靠，也保证按序交付，这一点没有疑问。"
    assert chinese_letter(reply, BLANK) == ("D", "answer is X")
    assert chinese_letter("不保证可靠，但保证按序交付", BLANK) == ("B", "begins with X"), "the longest option first"


def test_chat_verdicts():
    task = CEvalChat()
    sample = task.samples(load())[0]
    verdict = judge(task, sample, Says("\n答案是C。"))
    assert verdict.correct and verdict.detail == {"extracted_by": "answer is X"} and not verdict.scores
    assert judge(task, sample, Says("A")).outcome == "wrong"
    assert judge(task, sample, Says(" \n")).outcome == "unextracted"
    assert [source.split for source in CEvalChat.sources()] == ["val"]


@pytest.mark.parametrize(
    ("rows", "shots", "said"),
    [
        ([], SHOTS, "C-Eval val: the data set has no rows"),
        ([ROW, ROW | {"answer": "E"}], SHOTS, "C-Eval val, item 1: field 'answer' is 'E', not a letter from A to D"),
        ([ROW | {"answer": "AB"}], SHOTS, "item 0: field 'answer' is 'AB'"),
        ([ROW | {"answer": None}], SHOTS, "item 0: field 'answer' is missing"),
        ([ROW | {"B": 3}], SHOTS, "item 0: field 'B' is int, not text"),
        ([{k: v for k, v in ROW.items() if k != "D"}], SHOTS, "item 0: field 'D' is missing"),
        ([ROW | {"subject": "magic"}], SHOTS, "item 0: field 'subject' is 'magic', none of the 52 subjects"),
        ([ROW | {"subject": "logic"}], SHOTS, "C-Eval dev: subject logic has no questions"),
        ([ROW], SHOTS[:4], "C-Eval dev: subject law has 4 questions, 5 are needed"),
        ([7], SHOTS, "item 0: expected an object"),
    ],
)
def test_bad_data(rows, shots, said):
    with pytest.raises(TaskError) as caught:
        CEval().samples(load(rows, shots))
    assert said in str(caught.value) and "--data-dir" in str(caught.value) and "\n" not in str(caught.value)


def test_bad_cmmlu_data_names_its_own_columns():
    with pytest.raises(TaskError, match="CMMLU test, item 0: field 'Answer' is missing"):
        CMMLUChat().samples(lambda source: [ROW | {"subject": "arts", "Question": "?"}])
