from __future__ import annotations

import subprocess
import sys

import pytest

from tasks.api import Chat, TaskError
from tasks.mmlu import CATEGORIES, MMLU, MMLUChat
from tests.tasks.scripted import Says, judge, rows_of

CATEGORY = {subject: category for category, subjects in CATEGORIES.items() for subject in subjects}
TEST, DEV = "mmlu/mmlu_test.jsonl", "mmlu/mmlu_dev.jsonl"
ROW = {
    "subject": "college_biology",
    "question": "Which is red?",
    "choices": ["Sky", "Grass", "Rose", "Sea"],
    "answer": 2,
}
SHOTS = [
    {"subject": "college_biology", "question": f"Q{i}?", "choices": ["a", "b", "c", "d"], "answer": "ABCDA"[i]}
    for i in range(5)
]


def load(rows=(ROW,), shots=SHOTS):
    return lambda source: list(rows) if source.split == "test" else list(shots)


def extract(reply, choices):
    return MMLUChat().extract(reply.strip(), {"choices": choices})


def test_prompt_base():
    task = MMLU()
    expected = "The following are multiple choice questions (with answers) about college biology.\n\n"
    for i, letter in enumerate("ABCDA"):
        expected += f"Question: Q{i}?\nA. a\nB. b\nC. c\nD. d\nAnswer: {letter}\n\n"
    expected += "Question: Which is red?\nA. Sky\nB. Grass\nC. Rose\nD. Sea\nAnswer:"
    assert task.prompt(task.samples(load())[0]) == expected


def test_prompt_chat():
    task = MMLUChat()
    expected = """\
The following is a multiple-choice question. Please choose the most suitable one among A, B, C and D as the answer to \
this question.

Which is red?
A. Sky
B. Grass
C. Rose
D. Sea
"""
    sample = task.samples(load(shots=[]))[0]
    assert task.prompt(sample) == Chat((("system", "You are a helpful assistant."), ("user", expected)))


@pytest.mark.parametrize("index", [0, 14041])
def test_prompts_of_the_real_first_and_last(index):
    task = MMLU()
    samples = task.samples(rows_of(DEV, TEST))
    row, dev = rows_of(TEST)(None)[index], rows_of(DEV)(None)
    expected = "The following are multiple choice questions (with answers) about "
    expected += {0: "abstract algebra", 14041: "world religions"}[index] + ".\n\n"
    for shot in [*(r for r in dev if r["subject"] == row["subject"]), row]:
        expected += "Question: " + shot["question"]
        expected += "\nA. {}\nB. {}\nC. {}\nD. {}\nAnswer:".format(*shot["choices"])
        expected += "" if shot is row else " " + shot["answer"] + "\n\n"
    assert len(samples) == 14042 and task.prompt(samples[index]) == expected
    assert samples[index].gold == row["answer"] and samples[index].group == row["subject"]
    assert samples[index].id == f"mmlu/test/{row['subject']}/{row['index']}"


def test_real_subjects_and_gold():
    samples = MMLUChat().samples(rows_of(TEST))
    assert list(dict.fromkeys(s.group for s in samples)) == sorted(CATEGORY) and len(CATEGORY) == 57
    sizes = {c: sum(s.fields["category"] == c for s in samples) for c in dict.fromkeys(CATEGORY.values())}
    assert sizes == {"stem": 3153, "humanities": 4705, "social sciences": 3077, "other": 3107}
    assert len({s.id for s in samples}) == len(samples)


@pytest.mark.parametrize(
    ("scores", "answer"),
    [([-4.0, -3.0, -1.0, -2.0], "C"), ([-1.0, -1.0, -2.0, -2.0], "A"), ([-2.0, -1.0, -1.0, -1.0], "B")],
)
def test_scoring(scores, answer):
    task, model = MMLU(), Says(scores=scores)
    sample = task.samples(load())[0]
    verdict = judge(task, sample, model)
    assert verdict.answer == answer and verdict.correct == (answer == "C")
    assert verdict.choice_logprobs == dict(zip("ABCD", scores, strict=True))
    assert verdict.scores == {"log-likelihood": float(verdict.correct)}, "lm-eval's rule is the report's here"
    assert model.asked == [(task.prompt(sample), [" A", " B", " C", " D"], 2048)]


@pytest.mark.parametrize(
    ("reply", "letter", "rule"),
    [
        ("The answer is C.", "C", "answer is X"),
        ("The answer is Rose.", "C", "answer is X"),
        ("I choose B, not C", "B", "answer is X"),
        ("My choice: D", "D", "answer is X"),
        ("The answer is not A. B is correct.", "B", "X is correct"),
        ("A is not right, but D would be right", "D", "X is correct"),
        ("B. Grass", "B", "begins with X"),
        ("  B", "B", "begins with X"),  # stripped
        ("rose", "C", "begins with X"),  # the option's text, in any case of letters
        ("It must be (D)", "D", "first lone letter"),
        ("Surely sea or sky", "D", "first lone letter"),
        ("A=1, so D", "D", "first lone letter"),
        ("it has to be the rse", "C", "nearest option"),
        ("", None, ""),
        (" \n", None, ""),
    ],
)
def test_extraction(reply, letter, rule):
    assert extract(reply, ROW["choices"]) == (letter, rule)


def test_extraction_replaces_the_longest_option_first():
    choices = ["red", "red rose.", "rose", "red rose bed"]
    assert extract("It is the red rose.", choices) == ("B", "first lone letter")
    assert extract("It is the Red Rose Bed", choices) == ("D", "first lone letter")


def test_chat_verdicts():
    task = MMLUChat()
    sample = task.samples(load())[0]
    verdict = judge(task, sample, Says("The answer is C"))
    assert verdict.correct and verdict.detail == {"extracted_by": "answer is X"}
    assert judge(task, sample, Says("A")).outcome == "wrong"
    assert judge(task, sample, Says("")).outcome == "unextracted"


def test_order_and_letters_are_those_of_any_source():
    anatomy = [ROW | {"subject": "anatomy", "question": q} for q in "xy"]
    mixed = MMLUChat().samples(load([anatomy[0], ROW, anatomy[1] | {"answer": "C"}]))
    assert [s.id for s in mixed] == ["mmlu/test/anatomy/0", "mmlu/test/anatomy/1", "mmlu/test/college_biology/0"]
    assert [s.gold for s in mixed] == ["C"] * 3 and mixed[1].fields["question"] == "y"


@pytest.mark.parametrize(
    ("rows", "shots", "said"),
    [
        ([], SHOTS, "MMLU test: the data set has no rows"),
        ([ROW | {"answer": "E"}], SHOTS, "MMLU test, item 0: field 'answer' is 'E'"),
        ([ROW, ROW | {"answer": 4}], SHOTS, "item 1: field 'answer' is 4"),
        ([ROW | {"answer": None}], SHOTS, "item 0: field 'answer' is missing"),
        ([ROW | {"choices": ["a", "b", "c"]}], SHOTS, "item 0: field 'choices' is not four texts"),
        ([ROW | {"choices": "abcd"}], SHOTS, "item 0: field 'choices' is not four texts"),
        ([ROW | {"choices": 4}], SHOTS, "item 0: field 'choices' is not four texts"),
        ([ROW | {"subject": "magic"}], SHOTS, "item 0: field 'subject' is 'magic'"),
        ([ROW | {"subject": "anatomy"}], SHOTS, "MMLU dev: subject anatomy has no questions"),
        ([ROW], SHOTS[:4], "MMLU dev: subject college_biology has 4 questions, 5 are needed"),
        ([ROW], [], "MMLU dev: the data set has no rows"),
    ],
)
def test_bad_data(rows, shots, said):
    with pytest.raises(TaskError) as caught:
        MMLU().samples(load(rows, shots))
    assert said in str(caught.value) and "--data-dir" in str(caught.value) and "\n" not in str(caught.value)


def test_importing_tasks_is_cheap():
    """None of what takes long to import is imported before it is used."""
    code = (
        "import sys, tasks.humaneval, tasks.gsm8k, tasks.mmlu\n"
        "print(sorted({'torch', 'datasets', 'pandas', 'numpy', 'yaml', 'thefuzz', 'lm_eval'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_sets_are_the_categories():
    assert {name: len(subjects) for name, subjects in MMLU.sets.items()} == {
        "stem": 19, "humanities": 13, "social sciences": 12, "other": 13
    }  # fmt: skip
    assert MMLU.mean == "items" and MMLUChat.sets == MMLU.sets and not MMLUChat.measures


def test_sources():
    assert [s.split for s in MMLUChat.sources()] == ["test"]
    assert sorted(s.split for s in MMLU.sources()) == ["dev", "test"]
