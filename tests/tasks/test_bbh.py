from __future__ import annotations

import pytest

from tasks import bbh, installed
from tasks.api import Chat, TaskError
from tasks.bbh import BBH, FREE, LETTERED, SUBJECTS, BBHChat
from tests.tasks.scripted import SHARED, Says, bench, judge

ROW = {"input": "not True is", "target": "False"}


def load(**rows):
    """One row for every task but those given."""
    return lambda source: rows.get(source.config, [ROW])


def published(subject: str) -> str:
    """The task's chain-of-thought prompt as its authors published it, below the canary."""
    path = SHARED / "bbh" / "cot-prompts" / f"{subject}.txt"
    if not path.exists():
        pytest.skip("the real data is not beside this checkout: shared/bench/bbh/cot-prompts")
    return path.read_text(encoding="utf-8").partition("-----\n")[2]


@pytest.mark.parametrize("subject", SUBJECTS)
def test_examples_from_lm_eval_equal_the_published_prompt(subject):
    assert bbh.header(subject) == published(subject)


@pytest.mark.parametrize(("index", "subject"), [(0, "boolean_expressions"), (6510, "word_sorting")])
def test_prompts_of_the_first_and_last(index, subject):
    base, chat = BBH(), BBHChat()
    row = bench(base.sources()[SUBJECTS.index(subject)])[0 if index == 0 else -1]
    expected = f"Follow the given examples and answer the question.\n{published(subject)}\n\nQ: {row['input']}\nA: "
    samples = base.samples(bench)
    assert len(samples) == 6511 and samples[index].gold == row["target"]
    assert base.prompt(samples[index]) == expected
    same = chat.samples(bench)[index]
    assert chat.prompt(same) == Chat((("user", expected + "Let's think step by step."),))


def test_what_is_declared():
    assert len(SUBJECTS) == 27 == len(set(SUBJECTS)) and len(LETTERED) == 17 and len(FREE) == 10
    assert BBH.mean == "groups" and [source.config for source in BBH.sources()] == list(SUBJECTS)
    assert BBH.decoding.stop == ("\n\nQ:",) and BBH.decoding.max_tokens == 512 == BBHChat.decoding.max_tokens
    assert BBHChat.decoding.stop == () and all(source.licence == "MIT" for source in BBH.sources())
    samples = BBH().samples(load())
    assert [(s.id, s.group, s.fields["task"]) for s in samples] == [(f"bbh/{x}/0", x, x) for x in SUBJECTS]


@pytest.mark.parametrize(
    ("subject", "gold", "reply", "outcome", "lenient"),
    [
        ("navigate", "No", "We went north. So the answer is No.", "correct", 1),
        ("navigate", "No", "So the answer is No.\nMore text.", "correct", 1),
        ("navigate", "No", "So the answer is no.", "wrong", 0),
        ("navigate", "No", "So the answer is **No**.", "wrong", 1),
        ("navigate", "No", "No.", "unextracted", 1),
        ("navigate", "No", "the answer is No. Once more, the answer is Yes", "wrong", 0),  # "No. Once more, the"
        ("navigate", "No", "the answer is No.\nOnce more, the answer is Yes", "correct", 1),
        ("navigate", "No", "so the answer is ", "unextracted", 0),
        ("navigate", "No", "", "unextracted", 0),
        ("dyck_languages", "] ]", "So the answer is ] ].", "correct", 1),
        ("word_sorting", "a b", "So the answer is a  b.", "wrong", 0),
        ("snarks", "(B)", "So the answer is (B).", "correct", 1),
        ("snarks", "(B)", "So the answer is B", "correct", 1),
        ("snarks", "(B)", "So the answer is Option (B), as (A) is none.", "correct", 1),
        ("snarks", "(B)", "The answer is: (B)", "unextracted", 1),
        ("snarks", "(B)", "(A) is none, so the answer is (B)", "correct", 1),
    ],
)
@pytest.mark.parametrize("task", [BBH, BBHChat])
def test_rule(task, subject, gold, reply, outcome, lenient):
    made = task()
    sample = next(s for s in made.samples(load(**{subject: [ROW | {"target": gold}]})) if s.group == subject)
    verdict = judge(made, sample, Says(reply))
    assert (verdict.outcome, verdict.scores) == (outcome, {"lenient": lenient})
    assert (verdict.answer is None) == (outcome == "unextracted")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "BBH snarks: the data set has no rows"),
        ([ROW, {"input": "?"}], "BBH snarks, item 1: field 'target' is missing"),
        ([ROW | {"target": " "}], "BBH snarks, item 0: field 'target' is empty"),
        ([ROW | {"input": 3}], "item 0: field 'input' is int, not text"),
        ([7], "item 0: expected an object"),
    ],
)
def test_bad_data(rows, said):
    with pytest.raises(TaskError) as caught:
        BBH().samples(load(snarks=rows))
    assert said in str(caught.value) and "--data-dir" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["a: [", "description: 1", "x: 1", "description: x\nfewshot_config: {samples: []}"])
def test_another_lm_eval(monkeypatch, tmp_path, content):
    monkeypatch.setattr(bbh, "lm_eval_file", lambda task, name: (tmp_path / name, content))
    with pytest.raises(TaskError, match=r"bbh: .*boolean_expressions\.yaml .*reinstall lm-eval") as caught:
        BBH().samples(load())
    assert "\n" not in str(caught.value)


def test_no_lm_eval(monkeypatch):
    monkeypatch.setattr(installed, "PACKAGE", "no_such_package")
    with pytest.raises(TaskError, match=r"bbh: .* lm-eval, which is not installed"):
        BBH().samples(load())
    monkeypatch.undo()
    with pytest.raises(TaskError, match=r"x: .*nowhere\.yaml is not as expected \(FileNotFoundError"):
        installed.lm_eval_file("x", "nowhere.yaml")
