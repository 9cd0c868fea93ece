from __future__ import annotations

import pytest

from tasks.api import Chat, Options, TaskError
from tasks.gsm8k import GSM8K, GSM8KChat
from tests.tasks.scripted import SHARED, Says, judge, rows_of

ROW = {"question": "How much is one and one?", "answer": "It is 1+1=<<1+1=2>>2.\n#### 2"}
TEST = "gsm8k/test.jsonl"
RELEASED = SHARED / "gsm8k" / "qwen_gsm8k_prompt.txt"
SHOT = "Question: What?\nLet's think step by step\nSo 1+1=2.\nThe answer is 2\n"


def sample_of(task, answer=ROW["answer"]):
    return task.samples(lambda source: [ROW | {"answer": answer}])[0]


@pytest.fixture
def shots(tmp_path):
    path = tmp_path / "shots.txt"
    path.write_text(SHOT)
    return path


def released():
    if not RELEASED.exists():
        pytest.skip("the released header is not beside this checkout: shared/bench/gsm8k/qwen_gsm8k_prompt.txt")
    return RELEASED


def test_prompt_base(shots):
    task = GSM8K(Options(shots_file=shots))
    expected = """\
Question: What?
Let's think step by step
So 1+1=2.
The answer is 2

Question: How much is one and one?
Let's think step by step
"""
    assert task.prompt(sample_of(task)) == expected
    assert task.decoding.stop == ("\n\n\n", "\n\n", "Question:") and task.decoding.max_tokens == 512


def test_prompt_chat():
    task = GSM8KChat()
    expected = Chat((("system", "You are a helpful assistant."), ("user", "How much is one and one?")))
    assert task.prompt(sample_of(task)) == expected


@pytest.mark.parametrize("index", [0, 1318])
def test_prompts_of_the_real_first_and_last_with_the_released_header(index):
    task = GSM8K(Options(shots_file=released()))
    samples = task.samples(rows_of(TEST))
    row = rows_of(TEST)(None)[index]
    assert len(samples) == 1319 and samples[index].id == f"gsm8k/test/{index}"
    expected = RELEASED.read_text() + "\nQuestion: " + row["question"] + "\nLet's think step by step\n"
    assert task.prompt(samples[index]) == expected
    assert GSM8KChat().prompt(GSM8KChat().samples(rows_of(TEST))[index]).messages[1][1] == row["question"]


def shape(header: str) -> list[tuple[bool, bool, bool, bool, bool]]:
    """What the format fixes of each block: its lines, but for the worked steps' text and number."""
    assert header.endswith("\n") and not header.endswith("\n\n")
    found = []
    for block in header.rstrip("\n").split("\n\n"):
        first, second, *steps, last = block.split("\n")
        number = last.removeprefix("The answer is ")
        found.append(
            (
                first.startswith("Question: "),
                second == "Let's think step by step",
                bool(steps) and all(step and "The answer is" not in step for step in steps),
                last.startswith("The answer is "),
                number.isdecimal(),
            )
        )
    return found


def test_header_from_lm_eval_has_the_released_shape():
    pytest.importorskip("lm_eval")
    task = GSM8K()
    sample_of(task)
    assert shape(task.header) == [(True,) * 5] * 8
    assert shape(released().read_text()) == shape(task.header)


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("The answer is 20", "20"),
        ("The answer is 1,234", "234"),  # thousands are cut
        ("He has -3 left", "3"),  # so are signs
        ("It costs 2.50", "50"),  # and whole parts
        ("10 apples, 7 of them red.", "7"),
        ("The answer is 00", "00"),
        ("It arrives at 10:05", None),  # Python reads no number in 05, and so the script does not
        ("none at all", None),
        ("", None),
        ("٣", None),
    ],
)
def test_extraction_base(shots, reply, answer):
    task = GSM8K(Options(shots_file=shots))
    verdict = judge(task, sample_of(task), Says(reply))
    assert verdict.answer == answer and (verdict.outcome == "unextracted") == (answer is None)


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("The answer is 1,234.", "1234."),
        ("It is -3 degrees", "-3"),
        ("It is +3 degrees", "3"),
        ("$2.50", "2.50"),
        ("about .5 of it", ".5"),
        ("1,234,567.89 in all", "1234567.89"),
        ("12,34", "34"),  # no thousands; read as two numbers
        ("5-3", "-3"),
        ("x2y", "2"),
        ("agent 007", None),  # Python reads no number in it
        ("0", "0"),
        ("10:05.5", "05.5"),
        ("no number.", None),
        ("", None),
    ],
)
def test_extraction_chat(reply, answer):
    task = GSM8KChat()
    verdict = judge(task, sample_of(task), Says(reply))
    assert verdict.answer == answer and (verdict.outcome == "unextracted") == (answer is None)


@pytest.mark.parametrize(
    ("gold", "reply", "correct"),
    [
        ("1,000", "1000", True),
        ("1,000", "1,000.00", True),
        ("2", "2.00009", True),
        ("2", "2.0002", False),
        ("-2", "-2", True),
        ("-2", "2", False),
        ("2", "9" * 400, False),
    ],
)
def test_equality_chat(gold, reply, correct):
    task = GSM8KChat()
    sample = sample_of(task, f"It is so.\n#### {gold}")
    verdict = judge(task, sample, Says(reply))
    assert verdict.correct == correct and verdict.outcome == ("correct" if correct else "wrong")


@pytest.mark.parametrize(
    ("gold", "reply", "outcomes", "robust"),
    [
        ("1,234", "The answer is 1,234", "wrong correct", 1),
        ("-3", "The answer is -3.", "wrong correct", 1),
        ("20", "The answer is $20.00", "wrong correct", 1),
        ("20", "an area of 20 m^2", "wrong wrong", 1),
        ("3", "5-3 is to be taken off", "correct wrong", 1),
        ("2", "2.00005", "unextracted correct", 0),  # compared exactly
        ("7", "none", "unextracted unextracted", 0),
    ],
)
def test_robust_is_a_measure_beside_the_released_rules(shots, gold, reply, outcomes, robust):
    for task, outcome in zip((GSM8K(Options(shots_file=shots)), GSM8KChat()), outcomes.split(), strict=True):
        verdict = judge(task, sample_of(task, f"So it is.\n#### {gold}"), Says(reply))
        assert (verdict.outcome, verdict.scores) == (outcome, {"robust": robust})


def test_the_datas_own_solutions_are_full_marks():
    task = GSM8KChat()
    samples = task.samples(rows_of(TEST))
    assert all(judge(task, sample, Says(sample.fields["answer"])).correct for sample in samples)


def test_the_mirrors_requests_are_rows():
    wrapped = [
        {"doc": {**ROW, "id": 0}},
        {"doc": {**ROW, "id": 0}},
        {"doc": {"question": "b", "answer": "#### 1", "id": 1}},
    ]
    samples = GSM8KChat().samples(lambda source: wrapped)
    assert [(s.id, s.gold) for s in samples] == [("gsm8k/test/0", "2"), ("gsm8k/test/1", "1")]
    twice = GSM8KChat().samples(lambda source: [ROW, ROW])  # plain rows all count
    assert len(twice) == 2


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "GSM8K test: the data set has no rows"),
        ([ROW, {"question": "?"}], "GSM8K test, item 1: field 'answer' is missing"),
        ([{"question": None, "answer": "#### 1"}], "item 0: field 'question' is missing"),
        ([{"question": "?", "answer": "none"}], "item 0: field 'answer' ends in no number"),
        ([7], "item 0: expected an object"),
        ([{"doc": 7}], "item 0: expected an object"),
    ],
)
def test_bad_data(rows, said):
    for task in (GSM8KChat(), GSM8K()):
        with pytest.raises(TaskError) as caught:
            task.samples(lambda source: rows)
        assert said in str(caught.value) and "--data-dir" in str(caught.value) and "\n" not in str(caught.value)


def test_a_byte_order_mark_is_no_part_of_a_header(tmp_path):
    (tmp_path / "header.txt").write_text("\ufeffQuestion: 1\n", encoding="utf-8")
    task = GSM8K(Options(shots_file=tmp_path / "header.txt"))
    assert task.prompt(sample_of(task, "#### 2")).startswith("Question: 1\n")


def test_bad_shots_file(tmp_path):
    with pytest.raises(TaskError, match=r"--shots-file .*none\.txt"):
        GSM8K(Options(shots_file=tmp_path / "none.txt")).samples(lambda source: [ROW])
    with pytest.raises(TaskError, match="gsm8k-chat takes none"):
        GSM8KChat(Options(shots_file=tmp_path / "none.txt"))
